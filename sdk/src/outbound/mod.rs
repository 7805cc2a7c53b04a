//! Calling others: one pooled HTTP/2 connection per callee, and the peer is exactly the expected one.
//!
//! [`Channel`] is a connection to one place that makes itself anew when it has to. It is a
//! [`tower_service::Service`], so gRPC clients take it as it is. [`ServiceClient`] is what services use:
//! a callee by its registered name, with the user's context carried along.

mod answer;
mod body;
mod channel;
mod exchange;
mod pool;
mod proof;
mod sending;
mod service;
mod switch;
mod target;
mod user;
mod watch;

pub use answer::{Answer, AnswerError};
pub use channel::{Channel, Outgoing, empty, full};
pub use exchange::ExchangeError;
pub use pool::Pool;
pub(crate) use sending::Sending;
pub use service::{OutboundRequest, ServiceClient};
pub use switch::{InProgress, Switched, SwitchedStream};
pub use target::{EdgeTarget, EdgeUrlError, Target};
pub use user::InternalToken;
pub(crate) use user::Reach;
pub use watch::{Cuttable, no_longer_believed};

use std::time::Duration;

use countersign_identity::Mode;
use countersign_request::RequestError;
use countersign_wire::codes::Code;
use serde::Deserialize;
use thiserror::Error;

use crate::{credentials::CredentialError, sealed::SealedError, tls::HandshakeError};

/// Limits of calls to one callee. In TOML, durations are whole milliseconds; each has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallLimits {
    /// For TCP and the TLS handshake together.
    #[serde(rename = "connect_ms", deserialize_with = "millis")]
    pub connect: Duration,
    /// From the request's head, or from the last piece of its body, to the answer's head.
    #[serde(rename = "answer_ms", deserialize_with = "millis")]
    pub answer: Duration,
    /// Requests in progress to one callee; one more is refused at once rather than queued.
    pub in_flight_max: usize,
    /// Headers of one answer, in bytes.
    pub header_bytes_max: u32,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            in_flight_max: 1024,
            header_bytes_max: 32 * 1024,
        }
    }
}

fn millis<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// The snapshot has no service of this name.
    #[error("service {name:?} is not registered: see `countersign service list`")]
    UnknownService {
        /// What was asked for.
        name: String,
    },
    /// Our own snapshot is too old to say whom to trust.
    #[error("snapshot is stale: the agent has not heard from the authority for too long")]
    Stale,
    /// Nobody listens there.
    #[error("{place} cannot be reached: {why}")]
    Unreachable {
        /// Where.
        place: String,
        /// What the operating system says.
        why: String,
    },
    /// The other end is not whom we expect, or does not accept us.
    #[error("{place} was not accepted: {source}")]
    Handshake {
        /// Where.
        place: String,
        /// Why.
        source: HandshakeError,
    },
    /// [`CallLimits::connect`] or [`CallLimits::answer`] is over.
    #[error("{place} did not answer in time")]
    TimedOut {
        /// Where.
        place: String,
    },
    /// [`CallLimits::in_flight_max`] requests are in progress.
    #[error("too many requests to {place} are in progress")]
    Overloaded {
        /// Where.
        place: String,
    },
    /// The connection broke, or its other end refused our certificate.
    #[error("connection to {place} failed: {why}")]
    Broken {
        /// Where.
        place: String,
        /// What the HTTP library says.
        why: String,
    },
    /// The request has no usable path.
    #[error("request has no usable target: give a path such as /users/7")]
    BadRequest,
    /// The callee would refuse to read it; what carries a token in its query does not leave at all.
    #[error("request was not sent, because its callee could not read it in one way: {source}")]
    Ambiguous {
        /// Why.
        source: RequestError,
    },
    /// The body that was to be sent broke off.
    #[error("body of the request broke off: {why}")]
    Body {
        /// Why.
        why: String,
    },
    /// There is nothing to prove ourselves with.
    #[error("no credential for mode {mode}: {source}")]
    Credential {
        /// What our entry says that we send.
        mode: Mode,
        /// Why there is none.
        source: CredentialError,
    },
    /// The user cannot go along, and without the user the call is another one.
    #[error("user cannot go along: {source}")]
    UserContext {
        /// Why.
        source: ExchangeError,
    },
    /// The proof of who we are could not be made.
    #[error("request could not be signed: {why}")]
    Proof {
        /// Why.
        why: String,
    },
    /// The payload could not be sealed for the callee.
    #[error("payload for {service} was not sent: {source}")]
    Sealed {
        /// Who was to get it.
        service: String,
        /// Why.
        source: SealedError,
    },
    /// The answer does not prove that the callee gave it to this request.
    #[error("answer of {service} is not used: {source}")]
    Answer {
        /// Who was asked.
        service: String,
        /// Why.
        source: AnswerError,
    },
}

impl CallError {
    /// What the caller of *our* service is told when we could not call another.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::TimedOut { .. } => Code::UpstreamTimeout,
            Self::Overloaded { .. } => Code::Overloaded,
            Self::UnknownService { .. } => Code::UpstreamUnknown,
            Self::Handshake { .. } => Code::UpstreamIdentity,
            Self::Stale => Code::SnapshotStale,
            Self::BadRequest | Self::Ambiguous { .. } | Self::Proof { .. } | Self::Sealed { .. } => {
                Code::Internal
            }
            Self::Body { .. } => Code::RequestTimeout,
            Self::Credential { .. } => Code::CredentialAbsent,
            Self::UserContext { source: ExchangeError::Refused { .. } } => Code::UserRefused,
            Self::UserContext { .. } => Code::UserNotExchanged,
            Self::Answer { .. } => Code::AnswerUnproven,
            Self::Unreachable { .. } | Self::Broken { .. } => Code::UpstreamUnreachable,
        }
    }
}
