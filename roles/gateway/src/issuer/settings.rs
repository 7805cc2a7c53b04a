//! One `[[gateway.issuer]]`: an OpenID provider whose people may come in.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use countersign_token::{ForeignIssuer, ForeignTyp};
use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;

use super::IssuerError;
use super::fetch::is_loopback;

/// An issuer of access tokens beside our own authority. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// Exact `iss` of its tokens: an `https` URL without query and fragment.
    pub issuer: String,
    /// What `aud` of a token for us has to be, or to have among others.
    pub audience: String,
    /// Its keys, as a JWK set in a file. Read again when the file changes. Without one they are found by discovery.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// PEM of the roots that its certificate must descend from; without it, those that this machine trusts.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How long until its keys are asked for again, in seconds; at least 30.
    #[serde(default = "refresh")]
    pub refresh_s: u64,
    /// How long after one question for its keys there may be another, because a token names a key that is not known.
    #[serde(default = "pause")]
    pub unknown_key_pause_s: NonZeroU32,
    /// How long keys count that could not be asked for again, in seconds; at most a week.
    #[serde(default = "age_max")]
    pub keys_age_max_s: u64,
    /// Lets a provider on this machine speak plain HTTP, for trying things out.
    #[serde(default)]
    pub insecure_http_issuer_on_loopback: bool,
    /// The `typ` of its access tokens: one or several of `at+jwt`, `JWT`, `absent`.
    #[serde(default = "at_jwt")]
    #[schemars(with = "OneOrMany<String>")]
    pub typ: OneOrMany<ForeignTyp>,
    /// How long a token may live, in seconds from its issue; at most 31 days.
    #[serde(default = "hour")]
    pub lifetime_max_s: u64,
    /// The claim with a name for people: its name, or members to follow. Without one it is `sub`.
    #[serde(default)]
    pub name_claim: Option<OneOrMany<String>>,
    /// The claim with the roles: an array of texts, or words with spaces between as in `scope`.
    #[serde(default)]
    pub roles_claim: Option<OneOrMany<String>>,
    /// From what that claim says to roles of ours. What is not named here is nothing.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
}

/// `"a"` or `["a", "b"]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several, in their order.
    Many(Vec<T>),
}

impl<T: Clone> OneOrMany<T> {
    pub(crate) fn to_vec(&self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

impl IssuerSettings {
    /// By which rules its tokens are judged.
    pub(super) fn rules(&self) -> Result<ForeignIssuer, IssuerError> {
        let issuer = self.issuer.clone();
        if !is_issuer_name(&issuer, self.insecure_http_issuer_on_loopback) {
            return Err(IssuerError::Name { issuer });
        }
        let typs = self.typ.to_vec();
        if self.audience.is_empty() || typs.is_empty() {
            return Err(IssuerError::Empty { issuer });
        }
        if !(1..=LIFETIME_MAX_S).contains(&self.lifetime_max_s) {
            return Err(IssuerError::Lifetime { issuer, seconds: self.lifetime_max_s });
        }
        Ok(ForeignIssuer {
            issuer,
            audience: self.audience.clone(),
            typs,
            lifetime_max: Duration::from_secs(self.lifetime_max_s),
            name_claim: self.name_claim.as_ref().map(OneOrMany::to_vec),
            roles_claim: self.roles_claim.as_ref().map(OneOrMany::to_vec),
            roles: self.roles.clone(),
        })
    }
}

/// OpenID Connect Discovery section 3. The mark between issuer and subject in a guest's id stands in no issuer, so that
/// no two guests have one id.
fn is_issuer_name(issuer: &str, insecure_on_loopback: bool) -> bool {
    let is_plain = issuer.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'?'));
    let uri: Option<Uri> = issuer.parse().ok();
    let names_a_server =
        uri.as_ref().and_then(Uri::scheme_str).zip(uri.as_ref().and_then(Uri::host)).is_some_and(
            |(scheme, host)| match scheme {
                "https" => true,
                "http" => insecure_on_loopback && is_loopback(host.trim_matches(['[', ']'])),
                _ => false,
            },
        );
    is_plain && names_a_server && issuer.len() <= ISSUER_BYTES_MAX
}

fn at_jwt() -> OneOrMany<ForeignTyp> {
    OneOrMany::One(ForeignTyp::AtJwt)
}

fn hour() -> u64 {
    3600
}

fn refresh() -> u64 {
    300
}

fn pause() -> NonZeroU32 {
    NonZeroU32::new(30).unwrap_or(NonZeroU32::MIN)
}

fn age_max() -> u64 {
    24 * 3600
}

/// Bytes of an issuer's name.
const ISSUER_BYTES_MAX: usize = 255;
/// What lives for a month has long been copied.
const LIFETIME_MAX_S: u64 = 31 * 24 * 3600;
