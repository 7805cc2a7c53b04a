//! Whether an exchange moves: who waits for an answer does not count the time in which its request still comes in.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use crate::authenticate::{UserTerm, UserTermError};

/// When something of one exchange last moved. Cheap to clone; in the extensions of every request whose body is not there
/// yet.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Moved>);

#[derive(Debug)]
struct Moved {
    began: Instant,
    last_ms: AtomicU64,
    /// Somebody asked for more of the request than was there.
    awaits_sender: AtomicBool,
    /// In whose name it goes on.
    term: OnceLock<UserTerm>,
}

/// Nothing moved for as long as was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing moved for too long")]
pub struct Stalled;

impl Progress {
    /// Of an exchange that begins now.
    #[must_use]
    pub fn begin() -> Self {
        let (began, last_ms) = (Instant::now(), AtomicU64::new(0));
        Self(Arc::new(Moved { began, last_ms, awaits_sender: AtomicBool::new(false), term: OnceLock::new() }))
    }

    /// Something moved, in either direction.
    pub fn moved(&self) {
        let elapsed = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ms.fetch_max(elapsed, Ordering::Relaxed);
    }

    /// In whose name the request goes on: when that is over, no more of it is handed out.
    pub(crate) fn is_for(&self, term: UserTerm) {
        // Behind an outer layer it is so already, by the same evidence.
        let _ = self.0.term.set(term);
    }

    pub(super) fn may_go_on(&self) -> Result<(), UserTermError> {
        self.0.term.get().map_or(Ok(()), UserTerm::judge)
    }

    /// The body of the request was asked for its next piece, which was there or was not.
    pub(super) fn asked(&self, was_there: bool) {
        self.0.awaits_sender.store(!was_there, Ordering::Relaxed);
        if was_there {
            self.moved();
        }
    }

    /// Is it the request that is waited for? Then it is its sender who was late, and not whoever is to answer.
    #[must_use]
    pub fn awaits_sender(&self) -> bool {
        self.0.awaits_sender.load(Ordering::Relaxed)
    }

    /// When something last moved; at first, when it began.
    #[must_use]
    pub fn last(&self) -> Instant {
        self.0.began + Duration::from_millis(self.0.last_ms.load(Ordering::Relaxed))
    }

    /// Does `work`, unless nothing moves for `limit` before it is done.
    ///
    /// # Errors
    /// Nothing moved.
    pub async fn within<F: Future>(&self, limit: Duration, work: F) -> Result<F::Output, Stalled> {
        let mut work = pin!(work);
        loop {
            let Some(end) = self.last().checked_add(limit) else { return Ok(work.await) };
            if let Ok(done) = timeout_at(end, work.as_mut()).await {
                return Ok(done);
            }
            if self.last() + limit <= Instant::now() {
                return Err(Stalled);
            }
        }
    }

    /// As [`Progress::within`] where something can move; where nothing is left to come, `limit` is all the time that there
    /// is.
    ///
    /// # Errors
    /// Nothing moved.
    pub async fn of<F: Future>(known: Option<&Self>, limit: Duration, work: F) -> Result<F::Output, Stalled> {
        match known {
            Some(progress) => progress.within(limit, work).await,
            None => tokio::time::timeout(limit, work).await.map_err(|_| Stalled),
        }
    }
}

/// A body that tells when it moves.
pub(crate) struct Moving<B> {
    inner: B,
    progress: Progress,
}

impl<B> Moving<B> {
    pub(crate) const fn new(inner: B, progress: Progress) -> Self {
        Self { inner, progress }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Moving<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if frame.is_ready() {
            self.progress.moved();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// Long, because the machine may pause too.
    const LIMIT: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn what_moves_is_waited_for_longer_than_the_limit_and_what_stops_is_not() {
        let progress = Progress::begin();
        let moving = async {
            for _ in 0..8 {
                tokio::time::sleep(LIMIT / 4).await;
                progress.moved();
            }
        };
        let began = Instant::now();
        assert_eq!(progress.within(LIMIT, moving).await, Ok(()));
        assert!(began.elapsed() >= LIMIT * 2, "it took longer than the limit as a whole");
        assert_eq!(progress.within(LIMIT, pending::<()>()).await, Err(Stalled));
    }

    #[tokio::test]
    async fn without_a_body_the_limit_is_all_the_time_that_there_is() {
        assert_eq!(Progress::of(None, LIMIT, pending::<()>()).await, Err(Stalled));
        assert_eq!(Progress::of(None, LIMIT, async { 7 }).await, Ok(7));
    }
}
