//! How many requests a user, an address, a route or a service may have, and how a client learns of it: the fields
//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-08 and later; structured fields, RFC 9651).
//!
//! The buckets are those of `policy/quota`, in this process, or one for all gateways where they share them. Who has not
//! proven to be a user is counted by address, never by a name that anybody could write.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_policy::{Quota, QuotaError, address_key};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use sfv::{Integer, KeyRef, ListSerializer, StringRef, key_ref};

use super::shared::{OnFailure, SharedLimits, Verdict};

/// One `[[gateway.limit]]`, and one of `limit` of a route.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Whose requests are counted together.
    pub per: LimitPer,
    /// How fast a used up bucket fills again: `20/s`, `100/m`, `5000/h`.
    #[schemars(with = "String")]
    pub rate: Rate,
    /// How many at once; without it, as many as the rate counts.
    #[serde(default)]
    pub burst: Option<NonZeroU32>,
    /// What clients read in `RateLimit-Policy`; without it, what it counts by.
    #[serde(default)]
    pub name: Option<String>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitPer {
    /// Those of a user who is proven.
    User,
    /// Those of an address (IPv6: of one /64).
    Address,
    /// All that take a route.
    Route,
    /// All that go to a service.
    Service,
}

impl LimitPer {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Address => "address",
            Self::Route => "route",
            Self::Service => "service",
        }
    }
}

/// So many in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    period: Duration,
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom(format!("`{text}` is no rate; write a number and s, m or h: 20/s"));
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        let count = count.parse().map_err(|_| wrong())?;
        Ok(Rate { count, period: Duration::from_secs(seconds) })
    }
}

/// A compiled limit.
pub(crate) struct Limit {
    per: LimitPer,
    name: String,
    /// Unlike that of any other limit of a deployment with the same settings.
    id: String,
    burst: NonZeroU32,
    /// One more after this long.
    every: Duration,
    quota: Arc<Quota<Key>>,
}

/// What was counted by the limits of one configuration, for those of the next that are the same.
#[derive(Default)]
pub(crate) struct Counted(HashMap<Sameness, Arc<Quota<Key>>>);

/// What two limits have in common that count the same.
type Sameness = (String, LimitPer, NonZeroU32, Duration);

/// Whose bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Address(IpAddr),
    /// A user's id, a route's template, a service's name.
    Named(String),
}

/// What is known of a request when it is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known<'a> {
    /// Before authentication.
    Place { address: IpAddr, route: &'a str },
    /// After it.
    Caller { user: Option<&'a str>, service: &'a str },
}

/// How much is left of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    name: String,
    burst: u32,
    window_s: u64,
    left: u32,
    reset_s: u64,
}

/// Why a request is one too many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("limit {name}: {source}")]
    Exceeded { name: String, source: QuotaError },
    #[error("limit {name}: the store of shared limits does not answer, and the settings say to refuse then")]
    Unshared { name: String },
}

impl Limit {
    /// `place`: where it stands, the gateway or a route. It goes on with what the same one has `counted` before.
    pub(crate) fn new(
        settings: &LimitSettings,
        place: &str,
        name: String,
        counted: &mut Counted,
    ) -> Option<Self> {
        let burst = settings.burst.unwrap_or(settings.rate.count);
        let every =
            settings.rate.period.checked_div(settings.rate.count.get()).filter(|every| !every.is_zero())?;
        let name = settings.name.clone().unwrap_or(name);
        StringRef::from_str(&name).ok()?;
        let (per, id) = (settings.per, format!("{place} {name}"));
        // Taken out: two that say the same count each for itself.
        let quota = match counted.0.remove(&(id.clone(), per, burst, every)) {
            Some(quota) => quota,
            None => Arc::new(Quota::one_every(every, burst, KEYS_MAX)?),
        };
        Some(Limit { per, id, name, burst, every, quota })
    }

    /// Whose bucket a request takes from, if it is counted now.
    pub(crate) fn key(&self, known: &Known<'_>) -> Option<Key> {
        match (self.per, *known) {
            (LimitPer::Address, Known::Place { address, .. }) => Some(Key::Address(address_key(address))),
            (LimitPer::Route, Known::Place { route, .. }) => Some(Key::Named(route.to_owned())),
            (LimitPer::User, Known::Caller { user, .. }) => Some(Key::Named(user?.to_owned())),
            (LimitPer::Service, Known::Caller { service, .. }) => Some(Key::Named(service.to_owned())),
            _ => None,
        }
    }

    /// Takes one, and says what is left.
    pub(crate) async fn take(
        &self,
        key: &Key,
        shared: Option<&SharedLimits>,
        now: UnixTime,
    ) -> (Standing, Result<(), LimitError>) {
        let taken = match shared {
            None => self.quota.take(key, now),
            Some(shared) => {
                match shared.take(&format!("{} {key}", self.id), self.every, self.burst, now).await {
                    Verdict::Taken { left } => Ok(left),
                    Verdict::Exceeded { retry_after } => Err(QuotaError::Exceeded { retry_after }),
                    Verdict::Unknown(OnFailure::Local) => self.quota.take(key, now),
                    Verdict::Unknown(OnFailure::Refuse) => {
                        let name = self.name.clone();
                        return (self.standing(0, 1), Err(LimitError::Unshared { name }));
                    }
                }
            }
        };
        match taken {
            Ok(left) => {
                let missing = self.burst.get().saturating_sub(left);
                (self.standing(left, whole_s(self.every.saturating_mul(missing))), Ok(()))
            }
            Err(source) => {
                let reset_s = whole_s(source.retry_after()).max(1);
                (self.standing(0, reset_s), Err(LimitError::Exceeded { name: self.name.clone(), source }))
            }
        }
    }

    fn standing(&self, left: u32, reset_s: u64) -> Standing {
        let window_s = whole_s(self.every.saturating_mul(self.burst.get())).max(1);
        Standing { name: self.name.clone(), burst: self.burst.get(), window_s, left, reset_s }
    }
}

impl Counted {
    /// By these limits.
    pub(crate) fn by<'l>(limits: impl Iterator<Item = &'l Limit>) -> Self {
        let same = |limit: &Limit| (limit.id.clone(), limit.per, limit.burst, limit.every);
        Self(limits.map(|limit| (same(limit), Arc::clone(&limit.quota))).collect())
    }
}

impl LimitError {
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Exceeded { source, .. } => source.retry_after(),
            Self::Unshared { .. } => Duration::from_secs(1),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Address(address) => write!(f, "{address}"),
            Key::Named(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limit({})", self.id)
    }
}

/// Tells a client where it stands.
pub(crate) fn tell(standings: &[Standing], headers: &mut HeaderMap) {
    let policy =
        |standing: &Standing| [(key_ref("q"), u64::from(standing.burst)), (key_ref("w"), standing.window_s)];
    let left =
        |standing: &Standing| [(key_ref("r"), u64::from(standing.left)), (key_ref("t"), standing.reset_s)];
    for (name, value) in [(RATELIMIT_POLICY, list(standings, policy)), (RATELIMIT, list(standings, left))] {
        // What a service behind says of its own limits would be taken for ours.
        headers.remove(&name);
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

fn list(
    standings: &[Standing],
    parameters: impl Fn(&Standing) -> [(&'static KeyRef, u64); 2],
) -> Option<HeaderValue> {
    let mut list = ListSerializer::new();
    for standing in standings {
        let mut item = list.bare_item(StringRef::from_str(&standing.name).ok()?);
        for (key, value) in parameters(standing) {
            item = item.parameter(key, Integer::try_from(value).ok()?);
        }
        let _ = item.finish();
    }
    HeaderValue::from_str(&list.finish()?).ok()
}

fn whole_s(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Buckets of one limit; when all of them count, newcomers wait.
const KEYS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sfv::{Dictionary, FieldType as _, List, Parser};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

    fn limit(toml: &str) -> Limit {
        let settings = toml::from_str(toml).unwrap();
        Limit::new(&settings, "gateway", "default".into(), &mut Counted::default()).unwrap()
    }

    fn headers(standings: &[Standing]) -> (String, String) {
        let mut headers = HeaderMap::new();
        headers.insert(RATELIMIT, HeaderValue::from_static("\"theirs\";r=1"));
        tell(standings, &mut headers);
        let text =
            |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (text(RATELIMIT_POLICY), text(RATELIMIT))
    }

    #[tokio::test]
    async fn the_fields_are_structured_fields_that_say_what_is_left() {
        let limit = limit("per = \"address\"\nrate = \"2/s\"\nburst = 3\nname = \"a \\\"b\\\"\"");
        let key = limit.key(&Known::Place { address: [192, 0, 2, 1].into(), route: "/" }).unwrap();
        for (left, reset_s) in [(2, 1), (1, 1), (0, 2)] {
            let (standing, taken) = limit.take(&key, None, NOW).await;
            assert_eq!((standing.left, standing.reset_s, taken), (left, reset_s, Ok(())));
        }
        let (standing, refused) = limit.take(&key, None, NOW).await;
        assert!(matches!(refused, Err(LimitError::Exceeded { .. })), "{refused:?}");
        let (policy, left) = headers(&[standing.clone(), standing]);
        assert_eq!(policy, r#""a \"b\"";q=3;w=2, "a \"b\"";q=3;w=2"#);
        assert_eq!(left, r#""a \"b\"";r=0;t=1, "a \"b\"";r=0;t=1"#);
        for field in [&policy, &left] {
            let parsed: List = Parser::new(field).parse().unwrap();
            assert_eq!(parsed.serialize().as_deref(), Some(field.as_str()), "RFC 9651 both ways");
            assert!(Parser::new(field).parse::<Dictionary>().is_err());
        }
        assert_eq!(headers(&[]), (String::new(), String::new()), "a service's own word is not ours");
    }

    #[test]
    fn each_limit_counts_by_what_it_says_once_it_is_known() {
        let place = Known::Place { address: "2001:db8::7".parse().unwrap(), route: "/ads" };
        let caller = Known::Caller { user: Some("u_1"), service: "ads" };
        let stranger = Known::Caller { user: None, service: "ads" };
        let keys = |per: &str| {
            let limit = limit(&format!("per = {per:?}\nrate = \"1/m\""));
            [place, caller, stranger]
                .map(|known| limit.key(&known).map(|key| key.to_string()).unwrap_or_default())
        };
        assert_eq!(keys("address"), ["2001:db8::", "", ""]);
        assert_eq!(keys("route"), ["/ads", "", ""]);
        assert_eq!(keys("user"), ["", "u_1", ""]);
        assert_eq!(keys("service"), ["", "ads", "ads"]);
    }

    #[test]
    fn rejects_rates_that_are_none() {
        for bad in ["", "20", "0/s", "20/d", "-1/s", "1.5/s", "20 /s", "/s"] {
            assert!(
                toml::from_str::<LimitSettings>(&format!("per = \"user\"\nrate = {bad:?}")).is_err(),
                "{bad}"
            );
        }
        let unreadable = toml::from_str("per = \"user\"\nrate = \"1/s\"\nname = \"ü\"").unwrap();
        assert!(Limit::new(&unreadable, "gateway", String::new(), &mut Counted::default()).is_none());
    }
}
