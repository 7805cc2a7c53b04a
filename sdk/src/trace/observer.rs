//! Who wants to know of each request when it has ended: an access log, an exporter of spans. One for the process, and
//! none by default; then nothing is made for it.

use std::{fmt, sync::OnceLock, time::Duration};

use countersign_identity::{DecisionId, UnixTime};

use super::{Hop, TraceId};

/// Hears of requests that have ended. Its methods are called on the path of requests: they must not wait.
pub trait Observer: Send + Sync {
    /// Does it make spans of what it hears? Then each hop of a sampled trace is a span of its own.
    fn records_spans(&self) -> bool;

    /// Shall a trace that begins here be recorded?
    fn samples(&self, trace: TraceId) -> bool;

    /// Does it want to hear of a request that was answered so (0: not at all), in a trace that is sampled or not?
    fn wants(&self, status: u16, is_sampled: bool) -> bool;

    /// It has ended.
    fn ended(&self, exchange: Exchange);
}

/// A request that was decided about. There is no token, path, query or user's name in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// When it began.
    pub began: UnixTime,
    /// Until the head of its answer.
    pub took: Duration,
    /// Its place in a trace.
    pub hop: Hop,
    /// Under which id it is recorded.
    pub decision: DecisionId,
    /// Short name of whose door it was.
    pub service: String,
    /// To which service or upstream it was handed on; empty where it was served.
    pub to: String,
    /// As in the request line.
    pub method: String,
    /// The template of its route; empty where none was found.
    pub route: String,
    /// 0: it was not answered.
    pub status: u16,
    /// SPIFFE ID of the caller, if one was proven.
    pub caller: Option<String>,
    /// Pseudonym of the user, if there was one.
    pub user: Option<String>,
    /// How the caller was proven.
    pub mode: String,
    /// The code of a refusal, such as `CS2107`.
    pub code: Option<String>,
    /// Address and port that it came from.
    pub peer: Option<String>,
    /// Of the answer's body, as far as it is known.
    pub bytes: Option<u64>,
}

impl Exchange {
    /// It has ended, after so many bytes of its answer's body.
    pub fn ended(mut self, bytes: Option<u64>) {
        self.bytes = bytes;
        if let Some(observer) = OBSERVER.get() {
            observer.0.ended(self);
        }
    }
}

/// Lets `observer` hear of every request of this process. Says whether it does: the first one stays.
pub fn observe(observer: Box<dyn Observer>) -> bool {
    OBSERVER.set(Installed(observer)).is_ok()
}

/// Does anybody want to hear of such a request? See [`Observer::wants`].
#[must_use]
pub fn wants(status: u16, is_sampled: bool) -> bool {
    OBSERVER.get().is_some_and(|observer| observer.0.wants(status, is_sampled))
}

/// Shall a trace that begins here be recorded? Where nobody says, those behind us decide: they see it as sampled.
#[must_use]
pub fn samples(trace: TraceId) -> bool {
    OBSERVER.get().is_none_or(|observer| observer.0.samples(trace))
}

pub(super) fn records_spans() -> bool {
    OBSERVER.get().is_some_and(|observer| observer.0.records_spans())
}

struct Installed(Box<dyn Observer>);

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

static OBSERVER: OnceLock<Installed> = OnceLock::new();
