//! The way to the other end of a connection that leaves HTTP, from whoever made it to whoever holds the client's end.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_sdk::inbound::Denial;
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Tenure;

/// The way to the other end, with everything that ends it.
pub(crate) struct Tunnel {
    pub(crate) way: Way,
    /// By what it was permitted.
    pub(crate) tenure: Tenure,
    /// How long nothing may move.
    pub(crate) idle: Duration,
}

/// The other end.
pub(crate) struct Way {
    /// Its bytes.
    pub(crate) far: Box<dyn Far>,
    /// Counts as long as the bytes flow.
    _held: Box<dyn Any + Send>,
    /// Done when the other end is no longer believed.
    pub(crate) lost: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A stream of bytes.
pub(crate) trait Far: AsyncRead + AsyncWrite + Send + Unpin {}
impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Far for IO {}

impl Way {
    /// `held` is given back with the last byte; `lost` is done when the other end is no longer believed.
    pub(crate) fn new(
        far: impl Far + 'static,
        held: impl Send + 'static,
        lost: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { far: Box::new(far), _held: Box::new(held), lost: Box::pin(lost) }
    }
}

/// In the extensions of a 101: the way that its client's connection goes from now on. It can be taken once.
#[derive(Clone)]
pub(crate) struct Leaving(Arc<Mutex<Option<Tunnel>>>);

impl Leaving {
    pub(crate) fn by(tunnel: Tunnel) -> Self {
        Self(Arc::new(Mutex::new(Some(tunnel))))
    }

    /// Where `answer` leads, if it leaves HTTP.
    pub(crate) fn of<B>(answer: &mut Response<B>) -> Option<Tunnel> {
        let leaving = answer.extensions_mut().remove::<Self>()?;
        leaving.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why the bytes no longer flow.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Both ends had nothing more to say.
    Closed,
    /// One of them broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// Its connection is old, or the process ends.
    Cut,
    /// The callee is no longer believed.
    CalleeLost,
    /// It would not be permitted any more.
    Denied(Denial),
}

impl Ending {
    /// For metrics.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Ending::Closed => "closed",
            Ending::Broken => "broken",
            Ending::Idle => "idle",
            Ending::Cut => "cut",
            Ending::CalleeLost => "callee_lost",
            Ending::Denied(_) => "denied",
        }
    }

    pub(crate) const fn denial(&self) -> Option<&Denial> {
        match self {
            Ending::Denied(denial) => Some(denial),
            _ => None,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Closed => "both ends closed it",
            Ending::Broken => "one end broke off",
            Ending::Idle => "nothing moved for too long",
            Ending::Cut => "its connection was closed",
            Ending::CalleeLost => "the callee is no longer believed",
            Ending::Denied(denial) => return write!(f, "it is no longer permitted: {}", denial.reason),
        })
    }
}
