//! Filters of the operator's own: servers that are asked about each permitted request and may refuse it, or change its
//! headers. Decision 017 says why they are asked over the network, and why last.
//!
//! A filter can only narrow. It is asked about a [`Permit`], which it cannot make; what it says of identities, of the
//! message's framing and of headers that its settings do not name counts for nothing; and while it is silent nothing
//! goes on, unless its settings say so by a long name.

mod answer;
mod question;
pub(crate) mod settings;

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_identity::{IdError, ServiceName, ServiceNameError, SpiffeId};
use countersign_policy::Permit;
use countersign_request::Authority;
use countersign_sdk::accept::{BrokenBody, RequestBody};
use countersign_sdk::outbound::{CallError, CallLimits, Channel, Target};
use countersign_sdk::tls::{Connector, Expected, H2, TrustState};
use countersign_wire::codes::Code;
use countersign_wire::ext_authz::authorization_client::AuthorizationClient;
use countersign_wire::ext_authz::{CheckRequest, CheckResponse};
use http_body::Body as _;
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use self::answer::Said;
pub(crate) use self::answer::{Changes, Stopped};
pub(crate) use self::question::Asked;
use self::settings::FilterSettings;
use crate::body::{BodyError, BodyFault, BodyLimits, BoundedBody};
use crate::headers::{HeaderRuleError, NamePattern};
use crate::sidecar::{AppError, check_socket};

/// Every filter, in the order in which they are asked.
#[derive(Default)]
pub(crate) struct Filters {
    all: Vec<Arc<Filter>>,
}

struct Filter {
    settings: FilterSettings,
    may: Vec<NamePattern>,
    /// Where it is, if it listens on a socket of the file system.
    socket: Option<PathBuf>,
    client: AuthorizationClient<Channel>,
    /// Bodies that may be held at one time: as many as questions.
    holding: Arc<Semaphore>,
}

/// The filters that were asked about a request.
#[derive(Clone, Default)]
pub(crate) struct Panel(Vec<Arc<Filter>>);

/// Why filters do not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterSettingsError {
    /// Not a name that a route could say.
    #[error("filter {name:?}: {source}")]
    Name {
        /// As configured.
        name: String,
        /// What is wrong with it.
        source: ServiceNameError,
    },
    /// Two of the same name.
    #[error("two filters are called {name}; give one of them another name")]
    Twice {
        /// The name.
        name: String,
    },
    /// More filters than are asked.
    #[error("{count} filters, at most {FILTERS_MAX}: each is asked about every request")]
    TooMany {
        /// How many were configured.
        count: usize,
    },
    /// Nobody is given so little time.
    #[error("filter {name}: timeout_ms = 0; a wait is at least 1")]
    NoTime {
        /// Name of the filter.
        name: String,
    },
    /// `expect` is no SPIFFE ID.
    #[error("filter {name}: expect: {source}")]
    Expect {
        /// Name of the filter.
        name: String,
        /// What is wrong with it.
        source: IdError,
    },
    /// Nobody would know who answers.
    #[error(
        "filter {name}: address = \"{address}\": nobody would be proven there; write unix:/path, or host:port with expect = \"spiffe://…\""
    )]
    Unproven {
        /// Name of the filter.
        name: String,
        /// As configured.
        address: String,
    },
    /// A header that no filter may touch, or none.
    #[error("filter {name}: headers: {source}")]
    Header {
        /// Name of the filter.
        name: String,
        /// What is wrong with it.
        source: HeaderRuleError,
    },
    /// A route wants to have asked whom nobody knows.
    #[error("a route names the filter {name}, and there is no [[gateway.filter]] of that name")]
    Unknown {
        /// As the route writes it.
        name: String,
    },
}

/// Why a request that the policy permits does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("filter {filter} refused it with {}", stopped.status().as_u16())]
    Refused { filter: String, stopped: Box<Stopped> },
    #[error("filter {filter} gave no answer: {why}")]
    Unanswered { filter: String, why: String },
    #[error("the filters of its route are others since it began: connect again, and they are asked")]
    Others,
    #[error(
        "filter {filter} reads bodies, and the asking proxy keeps them: pass requests on to [[gateway.front]]"
    )]
    BodyElsewhere { filter: String },
    #[error("header {header} is no UTF-8, and a filter has to be shown it")]
    Unsayable { header: String },
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl FilterError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Refused { .. } | Self::Others => Code::FilterRefused,
            Self::Unanswered { .. } | Self::BodyElsewhere { .. } => Code::FilterUnanswered,
            Self::Unsayable { .. } => Code::HeaderAmbiguous,
            Self::Body(error) => error.code(),
        }
    }
}

/// What came of asking every filter.
#[derive(Debug, Default)]
pub(crate) struct Consulted {
    pub(crate) changes: Changes,
    /// For the record, a clause for each filter.
    pub(crate) told: String,
}

impl Filters {
    /// Judges the settings; nothing is connected yet. A filter that is as it was in `old` keeps its connection.
    pub(crate) fn load(
        settings: &[FilterSettings],
        trust: &Arc<TrustState>,
        old: &Self,
    ) -> Result<Self, FilterSettingsError> {
        if settings.len() > FILTERS_MAX {
            return Err(FilterSettingsError::TooMany { count: settings.len() });
        }
        let mut all: Vec<Arc<Filter>> = Vec::with_capacity(settings.len());
        for filter in settings {
            if all.iter().any(|known| known.settings.name == filter.name) {
                return Err(FilterSettingsError::Twice { name: filter.name.clone() });
            }
            all.push(match old.all.iter().find(|known| known.settings == *filter) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Filter::new(filter, trust)?),
            });
        }
        Ok(Self { all })
    }

    /// Is nobody asked?
    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Are all of these known?
    pub(crate) fn know<'n>(
        &self,
        mut names: impl Iterator<Item = &'n String>,
    ) -> Result<(), FilterSettingsError> {
        match names.find(|name| !self.all.iter().any(|filter| filter.settings.name == **name)) {
            Some(name) => Err(FilterSettingsError::Unknown { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Asks those that `named` says, all without it. Only of what is permitted already: a filter narrows.
    ///
    /// `body`: of the request, put back as it was; none where another proxy keeps it.
    pub(crate) async fn consult(
        &self,
        _permit: &Permit,
        named: Option<&[String]>,
        asked: &Asked<'_>,
        body: Option<(&mut RequestBody, BodyLimits)>,
    ) -> Result<Consulted, FilterError> {
        let (Panel(meant), elsewhere) = (self.panel(named), body.is_none());
        let held =
            match meant.iter().filter(|filter| filter.reads_bodies()).min_by_key(|filter| filter.body()) {
                Some(filter) => Some(filter.hold(body).await?),
                None => None,
            };
        let mut consulted = Consulted::default();
        for filter in meant {
            let shown = held.as_ref().map(|held| &held.bytes).filter(|_| filter.reads_bodies());
            let (said, told) = filter.ask(asked.question(shown, elsewhere)?).await?;
            consulted.told =
                format!("{}{}{told}", consulted.told, if consulted.told.is_empty() { "" } else { "; " });
            consulted.changes.then(said);
        }
        Ok(consulted)
    }

    /// Those that `named` says, all without it.
    pub(crate) fn panel(&self, named: Option<&[String]>) -> Panel {
        let is_meant = |filter: &&Arc<Filter>| {
            named.is_none_or(|names| names.iter().any(|name| *name == filter.settings.name))
        };
        Panel(self.all.iter().filter(is_meant).cloned().collect())
    }
}

impl Panel {
    /// Would the same be asked now, set up as they were?
    pub(crate) fn is_still(&self, now: &Self) -> Result<(), FilterError> {
        // A filter that stays as it was is kept when the configuration is read again.
        let same = self.0.len() == now.0.len()
            && self.0.iter().zip(&now.0).all(|(then, now)| Arc::ptr_eq(then, now));
        if same { Ok(()) } else { Err(FilterError::Others) }
    }
}

impl Filter {
    fn new(settings: &FilterSettings, trust: &Arc<TrustState>) -> Result<Self, FilterSettingsError> {
        let FilterSettings { name, address, expect, timeout_ms, questions_max, .. } = settings.clone();
        ServiceName::parse(&name)
            .map_err(|source| FilterSettingsError::Name { name: name.clone(), source })?;
        if timeout_ms == 0 {
            return Err(FilterSettingsError::NoTime { name });
        }
        let refused = |source| FilterSettingsError::Header { name: name.clone(), source };
        let patterns = settings.headers.iter().map(|text| NamePattern::parse(text));
        let may = patterns.collect::<Result<_, _>>().map_err(refused)?;
        let socket = address.strip_prefix("unix:").map(PathBuf::from);
        let target = match (expect, &socket) {
            (None, Some(path)) if path.is_absolute() => Target::Unix(path.clone()),
            (Some(expect), None) if Authority::parse(&address).is_ok_and(|place| place.port().is_some()) => {
                let expected = SpiffeId::parse(&expect)
                    .map_err(|source| FilterSettingsError::Expect { name: name.clone(), source })?;
                let connector = Connector::new(Arc::clone(trust), Expected::exactly(expected));
                Target::Workload { address, authority: name.clone(), connector: connector.speaking(&[H2]) }
            }
            _ => return Err(FilterSettingsError::Unproven { name, address }),
        };
        if settings.fail_open_insecure_when_the_filter_is_down {
            tracing::warn!(filter = name, "while this filter is down, requests go on without it");
        }
        let in_flight_max = usize::try_from(questions_max.get()).unwrap_or(usize::MAX);
        let whole = Duration::from_millis(timeout_ms);
        let limits = CallLimits { connect: whole, answer: whole, in_flight_max, ..CallLimits::default() };
        let client = AuthorizationClient::new(Channel::new(target, limits))
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let holding = Arc::new(Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS)));
        Ok(Self { settings: settings.clone(), may, socket, client, holding })
    }

    const fn body(&self) -> u64 {
        self.settings.body_bytes_max
    }

    const fn reads_bodies(&self) -> bool {
        self.body() > 0
    }

    /// Takes the body into memory and puts it back, trailers and all. Where as many are held already as questions may be
    /// open, not a byte is read.
    async fn hold(&self, body: Option<(&mut RequestBody, BodyLimits)>) -> Result<Held, FilterError> {
        let Some((body, limits)) = body else {
            return Err(FilterError::BodyElsewhere { filter: self.settings.name.clone() });
        };
        let limits = BodyLimits { bytes_max: limits.bytes_max.min(self.body()), ..limits };
        if body.size_hint().lower() > limits.bytes_max {
            return Err(BodyError::TooLong { bytes_max: limits.bytes_max }.into());
        }
        if body.is_end_stream() {
            return Ok(Held { bytes: Bytes::new(), _turn: None });
        }
        let turn = Arc::clone(&self.holding).try_acquire_owned().map_err(|_| {
            let why = format!("questions_max = {} bodies are held for it", self.settings.questions_max);
            self.unanswered(why)
        })?;
        let came = std::mem::replace(body, RequestBody::from(Bytes::new()));
        let read = BoundedBody::new(came, limits, BodyFault::default()).collect().await?;
        let trailers = read.trailers().cloned();
        let bytes = read.to_bytes();
        *body = match trailers {
            None => RequestBody::from(bytes.clone()),
            Some(trailers) => {
                let whole = Full::from(bytes.clone()).map_err(|never| match never {});
                let end = std::future::ready(Some(Ok::<_, BrokenBody>(trailers)));
                // Of no stated length: with one, HTTP/1.1 has no place for what comes after.
                RequestBody::streamed(StreamBody::new(BodyStream::new(whole.with_trailers(end))))
            }
        };
        Ok(Held { bytes, _turn: Some(turn) })
    }

    /// One question, and what is told of its answer.
    async fn ask(&self, question: CheckRequest) -> Result<(Changes, String), FilterError> {
        let name = &self.settings.name;
        let answered = match self.call(question).await {
            Ok(answer) => Said::of(answer, &self.may).map_err(|why| Silence::Broken(why.to_owned())),
            Err(silence) => Err(silence),
        };
        match answered {
            Ok(Said::Go(changes)) => {
                self.count("allowed");
                if changes.ignored > 0 {
                    metrics::counter!("countersign_filter_headers_ignored_total", "filter" => name.clone())
                        .increment(changes.ignored);
                }
                let told = format!("{name} lets it go on, {} headers changed", changes.count());
                Ok((changes, told))
            }
            Ok(Said::Stop(stopped)) => {
                self.count("refused");
                Err(FilterError::Refused { filter: name.clone(), stopped: Box::new(stopped) })
            }
            Err(Silence::Down(why)) if self.settings.fail_open_insecure_when_the_filter_is_down => {
                self.count("failed_open");
                tracing::warn!(filter = name, why, "a request goes on that a filter did not see");
                Ok((Changes::default(), format!("{name} did not see it: {why}")))
            }
            Err(Silence::Down(why) | Silence::Broken(why)) => Err(self.unanswered(why)),
        }
    }

    fn unanswered(&self, why: String) -> FilterError {
        self.count("unanswered");
        let filter = self.settings.name.clone();
        tracing::warn!(filter, why, "a filter gave no answer, so a request is refused");
        FilterError::Unanswered { filter, why }
    }

    async fn call(&self, question: CheckRequest) -> Result<CheckResponse, Silence> {
        if let Some(path) = &self.socket {
            // A connection that is kept was made while the socket was ours; it must be so still.
            check_socket(path).map_err(|error| match error {
                AppError::NoSocket { .. } => Silence::Down(error.to_string()),
                _ => Silence::Broken(error.to_string()),
            })?;
        }
        let (mut client, whole) = (self.client.clone(), Duration::from_millis(self.settings.timeout_ms));
        match tokio::time::timeout(whole, client.check(question)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Silence::of(&status)),
            Err(_) => {
                Err(Silence::Broken(format!("nothing within timeout_ms = {}", self.settings.timeout_ms)))
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        metrics::counter!("countersign_filter_answers_total", "filter" => self.settings.name.clone(),
            "outcome" => outcome)
        .increment(1);
    }
}

/// A body in memory, and the turn to have it there.
struct Held {
    bytes: Bytes,
    _turn: Option<OwnedSemaphorePermit>,
}

/// Why a filter says nothing.
#[derive(Debug)]
enum Silence {
    /// Nobody is there, or whoever is there says that the filter is not.
    Down(String),
    /// It is there, and too slow, too busy, or not to be understood. Whoever sends a request may have made it so.
    Broken(String),
}

impl Silence {
    fn of(status: &Status) -> Self {
        let said = format!("{}: {}", status.code(), status.message());
        let cause = status.source().and_then(|cause| cause.downcast_ref::<CallError>());
        let is_down = match cause {
            Some(cause) => matches!(cause, CallError::Unreachable { .. }),
            None => status.code() == tonic::Code::Unavailable,
        };
        if is_down { Self::Down(said) } else { Self::Broken(said) }
    }
}

/// An answer with its headers and, of a refusal, its page.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const FILTERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use countersign_wire::ext_authz::DeniedHttpResponse;

    use super::*;

    #[test]
    fn every_refusal_has_a_code_and_names_the_filter_or_the_header() {
        let filter = || "opa".to_owned();
        let stopped = Box::new(Stopped::of(DeniedHttpResponse::default()));
        let unanswered = FilterError::Unanswered { filter: filter(), why: "nobody is there".into() };
        let each = [
            (FilterError::Refused { filter: filter(), stopped }, 403, "opa refused it with 403"),
            (unanswered, 503, "opa gave no answer: nobody is there"),
            (FilterError::Others, 403, "connect again"),
            (FilterError::BodyElsewhere { filter: filter() }, 503, "[[gateway.front]]"),
            (FilterError::Unsayable { header: "x-odd".into() }, 400, "x-odd"),
            (FilterError::Body(BodyError::TooLong { bytes_max: 8 }), 413, "8 bytes"),
        ];
        for (error, status, says) in each {
            assert_eq!(error.code().status(), status, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
