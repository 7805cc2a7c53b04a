//! What an edge does besides the decision: who may knock at all, whose request it is behind another proxy, which pages
//! may read answers, how many requests there may be, and what guessing costs. None of it lets anybody past the door.

pub(crate) mod access;
pub(crate) mod behind;
pub(crate) mod cors;
pub(crate) mod countries;
pub(crate) mod limits;
pub(crate) mod networks;
pub(crate) mod proxy_header;
pub(crate) mod puzzle;
pub(crate) mod shared;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use countersign_identity::UnixTime;
use countersign_keys::{RandomError, SecureRandom, SystemRandom};
use http::{HeaderMap, HeaderValue, Response, header};
use tokio_util::sync::CancellationToken;

pub use self::cors::CorsError;
pub use self::countries::CountriesError;
pub use self::puzzle::PuzzleSettingsError;
pub use self::shared::SharedLimitsError;

use self::access::{AccessError, AccessSettings};
use self::behind::BehindSettings;
use self::cors::Cors;
use self::countries::Countries;
use self::limits::{Counted, Known, Limit, LimitError, LimitSettings, Standing};
use self::networks::Networks;
use self::puzzle::{PUZZLE, PUZZLE_ANSWER, PuzzleError, Puzzles};
use self::shared::SharedLimits;
use crate::forward::EdgeBody;
use crate::listener::Arrival;
use crate::settings::{OneOrMany, RouteSettings, Settings};

/// Why the guard cannot stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// See [`CorsError`].
    #[error("cors: {0}")]
    Cors(#[from] CorsError),
    /// See [`CountriesError`].
    #[error("countries_file: {0}")]
    Countries(#[from] CountriesError),
    /// Countries are listed, and there is no file that says where they are.
    #[error("access lists countries; name a MaxMind file in countries_file")]
    NoCountries,
    /// A limit that cannot be counted.
    #[error(
        "limit {name:?}: its rate is more than one in a nanosecond, or its name is no printable ascii text"
    )]
    Limit {
        /// Its name.
        name: String,
    },
    /// See [`SharedLimitsError`].
    #[error("shared_limits: {0}")]
    Shared(#[from] SharedLimitsError),
    /// See [`PuzzleSettingsError`].
    #[error("puzzle: {0}")]
    Puzzle(#[from] PuzzleSettingsError),
    /// No key for puzzles.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The duties that hold for every request.
pub(crate) struct Guard {
    access: AccessSettings,
    countries: Option<Countries>,
    behind: BehindSettings,
    cors: Option<Arc<Cors>>,
    limits: Vec<Limit>,
    shared: Option<SharedLimits>,
    balancers: Networks,
    puzzles: Option<Puzzles>,
}

/// The duties of one route, beside those.
#[derive(Debug, Default)]
pub(crate) struct RouteGuard {
    access: AccessSettings,
    cors: Option<Arc<Cors>>,
    limits: Vec<Limit>,
}

/// What an answer tells the client beside what it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    cors: Option<Arc<Cors>>,
    origin: Option<HeaderValue>,
    challenge: Option<HeaderValue>,
    standings: Vec<Standing>,
}

impl Guard {
    /// Its limits go on with what the same ones have `counted` before.
    pub(crate) fn new(
        settings: &Settings,
        rng: &dyn SecureRandom,
        counted: &mut Counted,
    ) -> Result<Self, GuardError> {
        let countries = settings.countries_file.as_deref().map(Countries::load).transpose()?;
        let listed = |access: &AccessSettings| access.needs_countries();
        if countries.is_none()
            && (listed(&settings.access) || settings.routes.iter().any(|route| listed(&route.access)))
        {
            return Err(GuardError::NoCountries);
        }
        let puzzles = match &settings.puzzle {
            Some(puzzle) => Some(Puzzles::new(puzzle.clone(), rng)??),
            None => None,
        };
        Ok(Guard {
            access: settings.access.clone(),
            countries,
            behind: settings.behind.clone(),
            cors: settings.cors.as_ref().map(Cors::compile).transpose()?.map(Arc::new),
            limits: limits(&settings.request_limits, "gateway", counted)?,
            shared: settings.shared_limits.as_ref().map(SharedLimits::new).transpose()?,
            balancers: settings.proxy_protocol_from.clone(),
            puzzles,
        })
    }

    /// The limits that hold for every route.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How the request came in, by the word of a listed proxy where it came through one.
    pub(crate) fn arrival<'a>(&self, arrival: &'a Arrival, headers: &HeaderMap) -> Cow<'a, Arrival> {
        match self.behind.told(arrival.address(), headers) {
            Some(told) => Cow::Owned(Arrival {
                client: Some(told.client),
                scheme: told.scheme.unwrap_or(arrival.scheme),
                ..arrival.clone()
            }),
            None => Cow::Borrowed(arrival),
        }
    }

    /// Is there nothing to do for any request but logins?
    pub(crate) fn is_idle(&self) -> bool {
        let Guard { access, countries: _, behind, cors, limits, shared: _, balancers: _, puzzles: _ } = self;
        cors.is_none() && access.is_empty() && behind.from.is_empty() && limits.is_empty()
    }

    /// May this address knock?
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), AccessError> {
        self.access.judge(address, self.countries.as_ref())
    }

    /// May it knock at this route?
    pub(crate) fn admit_to(&self, route: &RouteGuard, address: IpAddr) -> Result<(), AccessError> {
        route.access.judge(address, self.countries.as_ref())
    }

    /// What answers tell the client before there is a route.
    pub(crate) fn told(&self, headers: &HeaderMap) -> Told {
        let origin = headers.get(header::ORIGIN).cloned();
        Told { cors: self.cors.clone(), origin, ..Told::default() }
    }

    /// The rule for other origins: a route's own, else that of the gateway.
    pub(crate) fn cors<'a>(&'a self, route: &'a RouteGuard) -> Option<&'a Arc<Cors>> {
        route.cors.as_ref().or(self.cors.as_ref())
    }

    /// Takes from every bucket that counts a request by what is known of it now.
    pub(crate) async fn take(
        &self,
        route: &RouteGuard,
        known: Known<'_>,
        told: &mut Told,
        now: UnixTime,
    ) -> Result<(), LimitError> {
        for limit in route.limits.iter().chain(&self.limits) {
            let Some(key) = limit.key(&known) else { continue };
            let (standing, taken) = limit.take(&key, self.shared.as_ref(), now).await;
            told.standings.push(standing);
            taken?;
        }
        Ok(())
    }

    /// Does whoever connects from there say first whose connection it is?
    pub(crate) fn is_balancer(&self, peer: IpAddr) -> bool {
        self.balancers.contain(peer)
    }

    /// The rule where no route has its own.
    pub(crate) fn cors_of_all(&self) -> Option<&Arc<Cors>> {
        self.cors.as_ref()
    }

    /// Lets a login try, or tells which puzzle it has to solve first.
    pub(crate) fn admit_login(
        &self,
        address: IpAddr,
        path: &str,
        headers: &HeaderMap,
        now: UnixTime,
        told: &mut Told,
    ) -> Result<(), PuzzleError> {
        let Some(puzzles) = &self.puzzles else { return Ok(()) };
        let answer = headers.get(&PUZZLE_ANSWER).map(|value| value.to_str().unwrap_or_default());
        puzzles.admit(address, path, answer, now).inspect_err(|_| {
            told.challenge = puzzles.challenge(address, path, &SystemRandom::new(), now);
        })
    }

    /// Remembers that a login failed.
    pub(crate) fn login_failed(&self, address: IpAddr, now: UnixTime) {
        if let Some(puzzles) = &self.puzzles {
            puzzles.failed(address, now);
        }
    }

    /// Keeps the files new until `shutdown`.
    pub(crate) async fn watch(&self, shutdown: CancellationToken) {
        if let Some(countries) = &self.countries {
            countries.watch(shutdown).await;
        }
    }
}

impl RouteGuard {
    /// Is there nothing to do for requests of this route?
    pub(crate) fn is_idle(&self) -> bool {
        let RouteGuard { access, cors, limits } = self;
        cors.is_none() && access.is_empty() && limits.is_empty()
    }

    /// Its limits.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.limits
    }

    pub(crate) fn compile(settings: &RouteSettings, counted: &mut Counted) -> Result<Self, GuardError> {
        let cors = settings.cors.as_ref().map(Cors::compile).transpose()?.map(Arc::new);
        let own = settings.limit.as_ref().map(OneOrMany::to_vec).unwrap_or_default();
        let RouteSettings { host, path, methods, match_headers, .. } = settings;
        let host = host.as_deref().unwrap_or("*");
        let place = if methods.is_empty() && match_headers.is_empty() {
            format!("{host} {path}")
        } else {
            format!("{} {host} {path} {match_headers:?}", methods.join(","))
        };
        Ok(RouteGuard { access: settings.access.clone(), cors, limits: limits(&own, &place, counted)? })
    }
}

/// `place`: the gateway, or a route. Those of the gateway are called so, because both may meet in one answer.
fn limits(settings: &[LimitSettings], place: &str, counted: &mut Counted) -> Result<Vec<Limit>, GuardError> {
    let prefix = if place == "gateway" { "gateway-" } else { "" };
    let compile = |limit: &LimitSettings| {
        let name = format!("{prefix}{}", limit.per.as_str());
        let refused = || GuardError::Limit { name: limit.name.clone().unwrap_or(name.clone()) };
        Limit::new(limit, place, name.clone(), counted).ok_or_else(refused)
    };
    settings.iter().map(compile).collect()
}

impl Told {
    /// From here on a route's rule counts.
    pub(crate) fn by(&mut self, cors: Option<&Arc<Cors>>) {
        self.cors = cors.cloned();
    }

    pub(crate) fn put(&self, answer: &mut Response<EdgeBody>) {
        let headers = answer.headers_mut();
        if let Some(cors) = &self.cors {
            cors.tell(self.origin.as_ref(), headers);
        }
        if !self.standings.is_empty() {
            limits::tell(&self.standings, headers);
        }
        if let Some(challenge) = &self.challenge {
            headers.insert(PUZZLE, challenge.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn guard(toml: &str) -> Option<GuardError> {
        let settings = toml::from_str(toml).unwrap();
        Guard::new(&settings, &SystemRandom::new(), &mut Counted::default()).err()
    }

    #[test]
    fn rejects_lists_of_countries_without_a_file_that_knows_them() {
        let route = "[[route]]\npath = \"/\"\nto = \"ads\"\naccess.deny_countries = [\"AT\"]";
        for listed in ["access.allow_countries = [\"AT\"]", route] {
            assert_eq!(guard(listed), Some(GuardError::NoCountries));
        }
        assert_eq!(guard(""), None);
    }

    #[test]
    fn rejects_a_file_of_countries_that_is_missing_or_none() {
        let missing = guard("countries_file = \"/nowhere\"");
        assert!(matches!(missing, Some(GuardError::Countries(CountriesError::Unreadable { .. }))));
        let dir = countersign_testkit::temp_dir();
        let file = dir.path().join("countries.mmdb");
        std::fs::write(&file, "nonsense").unwrap();
        let none = guard(&format!("countries_file = {file:?}"));
        assert!(matches!(none, Some(GuardError::Countries(CountriesError::Malformed { .. }))));
    }

    #[test]
    fn rejects_limits_that_cannot_be_counted_and_shared_ones_without_a_server() {
        let named = "[[limit]]\nper = \"user\"\nrate = \"1/s\"\nname = \"\u{fc}\"";
        assert_eq!(guard(named), Some(GuardError::Limit { name: "\u{fc}".into() }));
        let fast = "[[limit]]\nper = \"user\"\nrate = \"4000000000/s\"";
        assert_eq!(guard(fast), Some(GuardError::Limit { name: "gateway-user".into() }));
        let missing = guard("shared_limits.url_file = \"/nowhere\"");
        assert!(matches!(missing, Some(GuardError::Shared(SharedLimitsError::Unreadable { .. }))));
        let dir = countersign_testkit::temp_dir();
        let file = dir.path().join("redis.url");
        std::fs::write(&file, "redis").unwrap();
        let refused = guard(&format!("shared_limits.url_file = {file:?}"));
        let path = file.display().to_string();
        assert_eq!(refused, Some(GuardError::Shared(SharedLimitsError::Url { path })));
    }
}
