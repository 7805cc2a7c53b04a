//! One credential over time: at hand, or got by exactly one of those who need it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use countersign_identity::UnixTime;
use tokio::{sync::Mutex, time::timeout};

use super::{Credential, CredentialError};
use crate::{clock, renewal};

/// A place for one credential.
pub(super) struct Kept<T> {
    held: ArcSwapOption<T>,
    /// Was it asked for since it came? What nobody asks for is not renewed.
    used: AtomicBool,
    /// When renewal may be tried again after a failure, in milliseconds since 1970.
    not_before: AtomicI64,
    /// Held while asking, so that a crowd asks once. Remembers the last failure for a moment.
    asking: Mutex<Option<(Instant, CredentialError)>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            held: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            not_before: AtomicI64::new(i64::MIN),
            asking: Mutex::default(),
        }
    }
}

impl<T: Credential> Kept<T> {
    /// What is at hand and not over.
    pub(super) fn held(&self, now: UnixTime) -> Option<Arc<T>> {
        let held = self.held.load_full().filter(|held| now < held.expires())?;
        // Written only when it changes: every core reads this line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        Some(held)
    }

    /// What is at hand, or what `get` gives.
    pub(super) async fn get<F>(&self, get: impl FnOnce() -> F) -> Result<Arc<T>, CredentialError>
    where
        F: Future<Output = Result<T, CredentialError>>,
    {
        let mut last = self.asking.lock().await;
        if let Some(held) = self.held(clock::now()) {
            return Ok(held);
        }
        if let Some((at, error)) = last.as_ref()
            && at.elapsed() < FAILURE_COUNTS
        {
            return Err(error.clone());
        }
        match ask(get, ANSWER_TIMEOUT).await {
            Ok(got) => {
                *last = None;
                self.used.store(true, Ordering::Relaxed);
                Ok(self.keep(got))
            }
            Err(error) => {
                *last = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// When the keeper has to look at it; `None` if it has nothing to do.
    pub(super) fn due(&self, wanted: bool) -> Option<UnixTime> {
        let held = self.held.load();
        let held = held.as_ref()?;
        if !wanted && !self.used.load(Ordering::Relaxed) {
            return None;
        }
        let not_before = UnixTime::from_millis(self.not_before.load(Ordering::Relaxed));
        Some(held.renew_at().max(not_before))
    }

    /// Replaces what is at hand. What was at hand stays if nothing new comes.
    pub(super) async fn renew<F>(&self, get: impl FnOnce() -> F) -> Result<(), CredentialError>
    where
        F: Future<Output = Result<T, CredentialError>>,
    {
        let mut last = self.asking.lock().await;
        match ask(get, ANSWER_TIMEOUT).await {
            Ok(got) => {
                *last = None;
                self.used.store(false, Ordering::Relaxed);
                self.keep(got);
                Ok(())
            }
            Err(error) => {
                let left =
                    self.held.load().as_ref().map_or(Duration::ZERO, |held| clock::until(held.expires()));
                let again = clock::now().saturating_add(renewal::retry_in(left));
                self.not_before.store(again.millis(), Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn keep(&self, got: T) -> Arc<T> {
        let got = Arc::new(got);
        self.held.store(Some(Arc::clone(&got)));
        got
    }
}

async fn ask<T: Credential, F>(get: impl FnOnce() -> F, limit: Duration) -> Result<T, CredentialError>
where
    F: Future<Output = Result<T, CredentialError>>,
{
    let got = timeout(limit, get()).await.map_err(|_| CredentialError::TimedOut)??;
    if got.expires() <= clock::now() { Err(CredentialError::Expired) } else { Ok(got) }
}

/// How long whoever comes next is told of a failure rather than asking again.
const FAILURE_COUNTS: Duration = Duration::from_millis(500);
/// For the agent and the authority behind it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Fake(UnixTime, UnixTime);

    impl Credential for Fake {
        fn expires(&self) -> UnixTime {
            self.0
        }

        fn renew_at(&self) -> UnixTime {
            self.1
        }
    }

    fn lives(seconds: u64) -> Fake {
        let now = clock::now();
        Fake(
            now.saturating_add(Duration::from_secs(seconds)),
            now.saturating_add(Duration::from_secs(seconds / 2)),
        )
    }

    #[tokio::test]
    async fn a_crowd_asks_once() {
        let (kept, asked) = (Kept::default(), AtomicUsize::new(0));
        let get = || async {
            kept.get(|| async {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(lives(60))
            })
            .await
            .unwrap()
        };
        let (a, b, c) = tokio::join!(get(), get(), get());
        assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&b, &c));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_failure_is_told_to_whoever_comes_next_and_then_tried_again() {
        let kept = Kept::<Fake>::default();
        let failed = kept.get(|| async { Err(CredentialError::NoKey) }).await.map(|_| ());
        assert_eq!(failed, Err(CredentialError::NoKey));
        let told = kept.get(|| async { Ok(lives(60)) }).await.map(|_| ());
        assert_eq!(told, Err(CredentialError::NoKey));
        tokio::time::sleep(FAILURE_COUNTS).await;
        assert!(kept.get(|| async { Ok(lives(60)) }).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_over_when_it_comes_is_not_taken() {
        let kept = Kept::<Fake>::default();
        let refused = kept.get(|| async { Ok(lives(0)) }).await.map(|_| ());
        assert_eq!(refused, Err(CredentialError::Expired));
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_is_not_waited_for() {
        let limit = Duration::from_millis(10);
        let refused = ask::<Fake, _>(std::future::pending, limit).await.map(|_| ());
        assert_eq!(refused, Err(CredentialError::TimedOut));
    }

    #[tokio::test]
    async fn what_nobody_uses_is_not_renewed_unless_it_is_sent() {
        let kept = Kept::default();
        assert_eq!(kept.due(true), None);
        kept.get(|| async { Ok(lives(60)) }).await.unwrap();
        assert!(kept.due(false).is_some(), "it was just asked for");
        kept.renew(|| async { Ok(lives(60)) }).await.unwrap();
        assert_eq!(kept.due(false), None);
        assert!(kept.due(true).is_some());
        kept.held(clock::now()).unwrap();
        assert!(kept.due(false).is_some());
    }

    #[tokio::test]
    async fn a_renewal_that_fails_leaves_what_is_there_and_waits() {
        let kept = Kept::default();
        let first = kept.get(|| async { Ok(lives(60)) }).await.unwrap();
        let failed = kept.renew(|| async { Err(CredentialError::TimedOut) }).await;
        assert_eq!(failed, Err(CredentialError::TimedOut));
        assert!(Arc::ptr_eq(&first, &kept.held(clock::now()).unwrap()));
        assert!(kept.due(true).unwrap() > clock::now());
    }
}
