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
        match ask(get).await {
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
        match ask(get).await {
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

async fn ask<T: Credential, F>(get: impl FnOnce() -> F) -> Result<T, CredentialError>
where
    F: Future<Output = Result<T, CredentialError>>,
{
    let got = timeout(ANSWER_TIMEOUT, get()).await.map_err(|_| CredentialError::TimedOut)??;
    if got.expires() <= clock::now() { Err(CredentialError::Expired) } else { Ok(got) }
}

/// How long whoever comes next is told of a failure rather than asking again.
const FAILURE_COUNTS: Duration = Duration::from_millis(500);
/// For the agent and the authority behind it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
