//! The quick carrier: HTTP/1.1 in and HTTP/1.1 out, the head borrowed from the buffer that it came in, over connections
//! that belong to this worker.
//!
//! It has no rule of its own. It asks the pipeline's own stages about the borrowed head, and carries only what they
//! permit and what it is sure of: no change of protocol, no body that is not there yet, no header rules. Everything else,
//! every refusal among it, goes to the full carrier as it came, before anything was done.

mod edge;
mod entropy;
mod journal;
mod pool;
mod tally;
mod throttle;
mod way;

use std::time::{Duration, Instant};

use countersign_http1::{Limits, RequestHead};
use countersign_policy::Permit;
use countersign_sdk::authenticate::UserTerm;
use countersign_sdk::inbound::{Caller, Recalled};

pub(crate) use edge::EdgeQuick;
pub(crate) use entropy::Entropy;
pub(crate) use journal::{Call, Journal, Made, Said, StandingKey, Unrecorded, number_of};
pub(crate) use pool::{Line, Pools};
pub(crate) use tally::Latencies;
pub(crate) use way::Way;

use crate::engine::Answering;
use crate::listener::Arrival;
use crate::upstream::UpstreamError;

/// Who judges for the quick carrier, on one worker.
pub(crate) trait Quick {
    /// The errand that a request is, if it is permitted and this carrier is sure of it. Its head for the upstream is
    /// written to `out`.
    fn judge(
        &self,
        head: &RequestHead<'_>,
        arrival: &Arrival,
        recalled: &Recalled,
        entropy: &Entropy,
        journal: &Journal,
        out: &mut Vec<u8>,
    ) -> Option<Errand>;
}

/// What was permitted: taken by whoever carries it, and good for this one request.
pub(crate) enum Permitted {
    ByEdge(#[expect(dead_code, reason = "held until the answer is there")] Permit),
    ByDoor(#[expect(dead_code, reason = "held until the answer is there")] Caller),
}

/// A permitted request on its way.
pub(crate) struct Errand {
    pub(crate) permit: Permitted,
    pub(crate) way: Way,
    pub(crate) unrecorded: Unrecorded,
    pub(crate) limits: AnswerLimits,
}

/// What an answer may take, by the settings that were in force when its request came.
#[derive(Clone, Debug)]
pub(crate) struct AnswerLimits {
    /// From the request to the head.
    pub(crate) head_within: Duration,
    /// How head and framing are read.
    pub(crate) http1: Limits,
    /// Bytes of the body.
    pub(crate) bytes_max: u64,
    /// Longest pause in the body.
    pub(crate) pause_max: Duration,
    /// When all of it has to be over.
    pub(crate) ends: Option<Instant>,
    /// In whose name it goes on.
    pub(crate) user: Option<UserTerm>,
}

impl AnswerLimits {
    /// The same for an exchange that began then, and has `total` if that is limited.
    pub(crate) fn within(self, began: Instant, total: Option<Duration>) -> Self {
        let ends = total.and_then(|total| began.checked_add(total));
        let head_within = total.map_or(self.head_within, |total| total.min(self.head_within));
        Self { head_within, ends, ..self }
    }

    /// The same for an answer of so many bytes, where that is known.
    pub(crate) fn of_answer(self, bytes: Option<u64>) -> Self {
        Self { user: self.user.and_then(|user| user.of_answer(bytes)), ..self }
    }

    /// How long the next piece of the body may take; `None` when nothing may follow.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.user.as_ref().map_or(Ok(()), UserTerm::judge).ok()?;
        let user_ends = self.user.as_ref().and_then(UserTerm::ends).map(Instant::from);
        let Some(ends) = self.ends.into_iter().chain(user_ends).min() else { return Some(self.pause_max) };
        let left = ends.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(self.pause_max))
    }
}

impl Errand {
    /// The full carrier takes the request from the beginning.
    pub(crate) fn given_over(self) {
        self.unrecorded.given_over();
    }

    /// There is no answer: what the client is told instead. Whoever was to answer is free for another request.
    pub(crate) fn failed(self, error: UpstreamError, arrival: &Arrival) -> Answering {
        self.unrecorded.failed(error, arrival)
    }
}
