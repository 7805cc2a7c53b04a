//! Header rules: what is added, removed and renamed per route, what a client may never set, and what an upstream may
//! never show.
//!
//! Identity headers are stripped by `rules/request`, before anything here runs; the rules of a route cannot bring them
//! back, because a rule that names one does not load.

use std::net::IpAddr;

use countersign_request as request;
use countersign_sdk::inbound::is_grpc;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::settings::{HeaderEdits, HeaderRules};

/// Why a header rule does not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRuleError {
    /// Not a header name.
    #[error("`{name}` is not a header name")]
    Name {
        /// As configured.
        name: String,
    },
    /// Not a header value.
    #[error("the value of header `{name}` has characters that a header cannot carry")]
    Value {
        /// Name of the header.
        name: String,
    },
    /// A header that frames the message or names a caller: rules cannot touch it.
    #[error("header `{name}` is set by the gateway alone; remove the rule")]
    Reserved {
        /// As configured.
        name: String,
    },
}

/// Compiled rules of both directions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) request: Edits,
    pub(crate) response: Edits,
}

impl Rules {
    /// Is there nothing to do?
    pub(crate) fn is_empty(&self) -> bool {
        let nothing =
            |edits: &Edits| edits.remove.is_empty() && edits.rename.is_empty() && edits.add.is_empty();
        nothing(&self.request) && nothing(&self.response)
    }

    pub(crate) fn compile(rules: &HeaderRules) -> Result<Self, HeaderRuleError> {
        Ok(Rules { request: Edits::compile(&rules.request)?, response: Edits::compile(&rules.response)? })
    }
}

/// Compiled edits of one direction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edits {
    remove: Vec<NamePattern>,
    rename: Vec<(HeaderName, HeaderName)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// Names of headers, as settings write them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamePattern {
    Exactly(HeaderName),
    /// Lower-case prefix of a pattern such as `x-user-*`.
    StartsWith(String),
}

impl NamePattern {
    /// A name that a rule may touch, or the beginning of names and a `*`.
    pub(crate) fn parse(text: &str) -> Result<Self, HeaderRuleError> {
        match text.strip_suffix('*') {
            Some(prefix) if !prefix.is_empty() && HeaderName::from_bytes(prefix.as_bytes()).is_ok() => {
                Ok(Self::StartsWith(prefix.to_ascii_lowercase()))
            }
            Some(_) => Err(HeaderRuleError::Name { name: text.to_owned() }),
            None => settable(text).map(Self::Exactly),
        }
    }

    /// Is it one of them?
    pub(crate) fn takes(&self, name: &HeaderName) -> bool {
        match self {
            Self::Exactly(exactly) => exactly == name,
            Self::StartsWith(prefix) => name.as_str().starts_with(prefix),
        }
    }
}

impl Edits {
    fn compile(edits: &HeaderEdits) -> Result<Self, HeaderRuleError> {
        let remove = edits.remove.iter().map(|text| NamePattern::parse(text)).collect::<Result<_, _>>()?;
        let rename = edits
            .rename
            .iter()
            .map(|(old, new)| Ok((settable(old)?, settable(new)?)))
            .collect::<Result<_, HeaderRuleError>>()?;
        let add = edits
            .add
            .iter()
            .map(|(name, text)| {
                let value =
                    HeaderValue::from_str(text).map_err(|_| HeaderRuleError::Value { name: name.clone() })?;
                Ok((settable(name)?, value))
            })
            .collect::<Result<_, HeaderRuleError>>()?;
        Ok(Edits { remove, rename, add })
    }

    /// Remove, then rename, then add.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for pattern in &self.remove {
            match pattern {
                NamePattern::Exactly(name) => {
                    headers.remove(name);
                }
                NamePattern::StartsWith(prefix) => {
                    remove_where(headers, |name| name.starts_with(prefix.as_str()))
                }
            }
        }
        for (old, new) in &self.rename {
            let values: Vec<HeaderValue> = headers.get_all(old).iter().cloned().collect();
            if values.is_empty() {
                continue;
            }
            headers.remove(old);
            headers.remove(new);
            for value in values {
                headers.append(new.clone(), value);
            }
        }
        for (name, value) in &self.add {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// What the upstream may know of the client's connection; every value is our own.
pub(crate) fn forwarded_headers(client: IpAddr, scheme: &'static str, authority: &str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    if let Ok(value) = HeaderValue::from_str(&client.to_canonical().to_string()) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if let Ok(value) = HeaderValue::from_str(authority) {
        headers.insert(X_FORWARDED_HOST, value);
    }
    headers
}

/// Says to the next hop of a gRPC request what its protocol has every client say: that trailers are understood.
pub(crate) fn take_trailers(headers: &mut HeaderMap) {
    if is_grpc(headers) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes from a response what tells of the inside: product names, hops, internal tokens, and absolute redirects to
/// internal names. `internal` says whether a host is one of ours.
pub(crate) fn clean_response(headers: &mut HeaderMap, internal: impl Fn(&str) -> bool) {
    request::strip_hop_by_hop(headers);
    request::strip_identity_headers(headers);
    remove_where(headers, is_of_the_inside);
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        if let Some(relative) = headers.get(&name).and_then(|value| relative_form(value, &internal)) {
            headers.insert(name, relative);
        }
    }
}

/// What becomes of a header of an answer.
pub(crate) enum Shown {
    AsItIs,
    Otherwise(HeaderName, HeaderValue),
    /// It tells of the inside.
    Never,
}

/// The same for one header line, where no map is made; what is about the connection was left out before.
pub(crate) fn shown_to_clients(name: &str, value: &[u8], internal: impl Fn(&str) -> bool) -> Shown {
    let lower;
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        lower = name.to_ascii_lowercase();
        lower.as_str()
    } else {
        name
    };
    if request::is_identity_header(name) || is_of_the_inside(name) {
        return Shown::Never;
    }
    let redirect =
        [header::LOCATION, header::CONTENT_LOCATION].into_iter().find(|known| known.as_str() == name);
    let Some(redirect) = redirect else { return Shown::AsItIs };
    let relative = HeaderValue::from_bytes(value).ok().and_then(|value| relative_form(&value, &internal));
    relative.map_or(Shown::AsItIs, |relative| Shown::Otherwise(redirect, relative))
}

/// The same for answers of a service to other services: only identity headers are ours to write.
pub(crate) fn shown_to_callers(name: &str) -> Shown {
    if request::is_identity_header(name) { Shown::Never } else { Shown::AsItIs }
}

fn is_of_the_inside(name: &str) -> bool {
    INTERNAL_NAMES.contains(&name) || INTERNAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A URL of an internal host without scheme and host, so that the client comes back through the gateway.
fn relative_form(value: &HeaderValue, internal: impl Fn(&str) -> bool) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let (_, rest) = text.split_once("://").or_else(|| text.strip_prefix("//").map(|rest| ("", rest)))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if !internal(host) {
        return None;
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    HeaderValue::from_str(&path).ok()
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// A header that a rule may touch.
pub(crate) fn settable(text: &str) -> Result<HeaderName, HeaderRuleError> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| HeaderRuleError::Name { name: text.to_owned() })?;
    if request::is_identity_header(&name) || FRAMING.contains(&name) {
        return Err(HeaderRuleError::Reserved { name: text.to_owned() });
    }
    Ok(name)
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What frames a message, names its target or carries evidence.
const FRAMING: &[HeaderName] = &[
    header::AUTHORIZATION,
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::CONNECTION,
    header::UPGRADE,
    header::EXPECT,
];

/// Response headers that describe the inside.
const INTERNAL_NAMES: &[&str] = &[
    "server",
    "via",
    "x-powered-by",
    "x-served-by",
    "x-backend",
    "x-runtime",
    "x-aspnet-version",
    "alt-svc",
];
const INTERNAL_PREFIXES: &[&str] = &["x-internal-"];
