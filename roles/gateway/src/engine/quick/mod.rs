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
mod throttle;

use std::rc::Rc;
use std::sync::Arc;

use countersign_http1::RequestHead;
use countersign_policy::Permit;

pub(crate) use edge::EdgeQuick;
pub(crate) use entropy::Entropy;
pub(crate) use journal::{Call, Journal, Scribe, Standing};
pub(crate) use pool::{Line, Pools};

use crate::engine::Answering;
use crate::listener::Arrival;
use crate::upstream::{Cluster, Lease, UpstreamError};

/// Who judges for the quick carrier, on one worker.
pub(crate) trait Quick {
    /// The errand that a request is, if it is permitted and this carrier is sure of it. Its head for the upstream is
    /// written to `out`.
    fn judge(
        &self,
        head: &RequestHead<'_>,
        arrival: &Arrival,
        entropy: &Entropy,
        journal: &Journal,
        out: &mut Vec<u8>,
    ) -> Option<Errand>;

    /// Answers, and records, that the upstream gave no answer to an errand.
    fn failed(&self, standing: &Standing, call: Call, error: UpstreamError, arrival: &Arrival) -> Answering;
}

/// A permitted request on its way.
pub(crate) struct Errand {
    pub(crate) permit: Permit,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) lease: Lease,
    pub(crate) standing: Rc<Standing>,
    pub(crate) call: Call,
}
