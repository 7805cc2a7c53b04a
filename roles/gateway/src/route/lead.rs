//! Where a route leads: to one target, or to several in shares.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use countersign_identity::ServiceName;
use countersign_keys::sha256;
use countersign_request::{Head, is_identity_header};
use http::{HeaderName, header};

use super::error::RouteError;
use crate::settings::{RouteSettings, Sticky};
use crate::upstream::{Cluster, Upstreams};

/// Who answers.
#[derive(Clone)]
pub(crate) enum Target {
    /// A service of the snapshot, called as every service is.
    Service(ServiceName),
    /// An upstream of the configuration.
    Upstream(Arc<Cluster>),
}

/// Where a route leads.
#[derive(Debug)]
pub(crate) enum Lead {
    /// Always there.
    One(Target),
    /// To one of several.
    Split(Split),
}

/// Several targets, each with its share of the requests.
#[derive(Debug)]
pub(crate) struct Split {
    /// With the sum of the weights up to each.
    shares: Vec<(u64, Target)>,
    total: u64,
    sticky: Option<Key>,
    /// Path of the route: two splits do not put the same people into the same part.
    salt: String,
}

/// By what one and the same share is found again.
#[derive(Debug)]
enum Key {
    User,
    Header(HeaderName),
}

impl Target {
    /// An upstream over a protocol that nothing can leave.
    pub(super) fn speaks_http2(&self) -> bool {
        matches!(self, Target::Upstream(cluster) if cluster.dialer().speaks_http2())
    }
}

impl Lead {
    pub(super) fn compile(settings: &RouteSettings, upstreams: &Upstreams) -> Result<Self, RouteError> {
        let refused = |why| RouteError::Lead { path: settings.path.clone(), why };
        match (&settings.to, settings.split.as_slice(), &settings.sticky) {
            (Some(to), [], None) => Target::parse(to, &settings.path, upstreams).map(Self::One),
            (Some(_), [], Some(_)) => Err(refused("sticky is for split")),
            (Some(_), ..) => Err(refused("to and split are both there")),
            (None, [] | [_], _) => Err(refused("neither to nor a split between two or more is there")),
            (None, ..) => Split::compile(settings, upstreams).map(Self::Split),
        }
    }

    /// The only target, if chance has no part in it.
    pub(crate) const fn only(&self) -> Option<&Target> {
        match self {
            Self::One(target) => Some(target),
            Self::Split(_) => None,
        }
    }

    /// The target of this request; `user` is the id of the end user, if one is proven.
    pub(crate) fn choose(&self, request: &impl Head, user: Option<&str>) -> Option<&Target> {
        match self {
            Self::One(target) => Some(target),
            Self::Split(split) => split.choose(request, user),
        }
    }

    /// Every target that it can lead to.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        let (one, split) = match self {
            Self::One(target) => (Some(target), None),
            Self::Split(split) => (None, Some(split.shares.iter().map(|(_, target)| target))),
        };
        one.into_iter().chain(split.into_iter().flatten())
    }
}

impl Split {
    fn compile(settings: &RouteSettings, upstreams: &Upstreams) -> Result<Self, RouteError> {
        let refused = |why| RouteError::Lead { path: settings.path.clone(), why };
        let (mut shares, mut total): (Vec<(u64, Target)>, u64) = (Vec::new(), 0);
        for share in &settings.split {
            if shares.iter().any(|(_, target)| target.as_str() == share.to) {
                return Err(refused("the same target stands twice in split"));
            }
            total += u64::from(share.weight.map_or(1, NonZeroU32::get));
            shares.push((total, Target::parse(&share.to, &settings.path, upstreams)?));
        }
        let sticky = settings.sticky.as_ref().map(|sticky| key(sticky, settings)).transpose()?;
        Ok(Split { shares, total, sticky, salt: settings.path.clone() })
    }

    /// By the key where the request has one, else by chance.
    fn choose(&self, request: &impl Head, user: Option<&str>) -> Option<&Target> {
        let found = match &self.sticky {
            None => None,
            Some(Key::User) => user.map(|user| self.point(user.as_bytes())),
            Some(Key::Header(name)) => request.header(name).map(|value| self.point(value)),
        };
        let point = found.unwrap_or_else(rand::random::<u64>) % self.total;
        self.shares.iter().find(|(sum, _)| point < *sum).map(|(_, target)| target)
    }

    /// The same number for the same key, in every process that has this route.
    fn point(&self, key: &[u8]) -> u64 {
        let text = [SPLIT_PURPOSE, self.salt.as_bytes(), &[0], key].concat();
        let mut first = [0; 8];
        first.iter_mut().zip(sha256(&text)).for_each(|(into, byte)| *into = byte);
        u64::from_be_bytes(first)
    }
}

impl Target {
    fn parse(to: &str, path: &str, upstreams: &Upstreams) -> Result<Self, RouteError> {
        match upstreams.find(to) {
            Some(cluster) => Ok(Self::Upstream(Arc::clone(cluster))),
            None => ServiceName::parse(to).map(Self::Service).map_err(|source| RouteError::Target {
                path: path.to_owned(),
                to: to.to_owned(),
                source,
            }),
        }
    }

    /// Does it speak HTTP/2? Services always do.
    pub(crate) fn takes_streams(&self) -> bool {
        match self {
            Self::Service(_) => true,
            Self::Upstream(cluster) => cluster.dialer().speaks_http2(),
        }
    }

    /// The name that the route says, and metrics and records after it.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Service(name) => name.as_str(),
            Self::Upstream(cluster) => cluster.name(),
        }
    }
}

fn key(sticky: &Sticky, settings: &RouteSettings) -> Result<Key, RouteError> {
    let Sticky::Header(name) = sticky else { return Ok(Key::User) };
    let refused = |why| RouteError::MatchHeader { path: settings.path.clone(), name: name.clone(), why };
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused("it is not a header name"))?;
    if is_identity_header(parsed.as_str()) || parsed == header::AUTHORIZATION || parsed == header::COOKIE {
        return Err(refused("what claims an identity is no key; write sticky = \"user\""));
    }
    Ok(Key::Header(parsed))
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, target) in self.targets().enumerate() {
            write!(f, "{}{target}", if position == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

const SPLIT_PURPOSE: &[u8] = b"countersign/v1/split\0";
