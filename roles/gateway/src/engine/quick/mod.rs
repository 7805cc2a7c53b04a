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

use std::time::Duration;

use countersign_http1::{Limits, RequestHead};
use countersign_policy::Permit;
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerLimits {
    /// From the request to the head.
    pub(crate) head_within: Duration,
    /// How head and framing are read.
    pub(crate) http1: Limits,
    /// Bytes of the body.
    pub(crate) bytes_max: u64,
    /// Longest pause in the body.
    pub(crate) pause_max: Duration,
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
