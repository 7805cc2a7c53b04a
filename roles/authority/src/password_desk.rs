//! Where passwords are hashed: as many at once as there are cores, a short queue before them, and no more.
//!
//! Argon2id takes a core some 15 ms and 19 MiB a time, so an unbounded queue would let strangers choose how much
//! memory we use and how long everybody waits.

use std::{num::NonZeroUsize, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many callers may wait for a core.
pub(crate) const PASSWORD_QUEUE_CALLERS_MAX: usize = 64;

/// The queue is full, or the process is ending: nothing was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked; try again in a few seconds")]
pub(crate) struct Busy;

/// Hands out cores for password hashing.
#[derive(Clone)]
pub(crate) struct PasswordDesk {
    places: Arc<Semaphore>,
    cores: Arc<Semaphore>,
}

/// A core, until it is used or dropped.
pub(crate) struct Turn {
    _place: OwnedSemaphorePermit,
    _core: OwnedSemaphorePermit,
}

impl PasswordDesk {
    /// A desk with one place per core, and [`PASSWORD_QUEUE_CALLERS_MAX`] to wait in.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::with(cores, PASSWORD_QUEUE_CALLERS_MAX)
    }

    fn with(cores: usize, waiting: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(cores + waiting)), cores: Arc::new(Semaphore::new(cores)) }
    }

    /// Waits for a core. Whatever must happen once per password that is looked at (counting an attempt) happens
    /// after this and before [`Turn::work`], so that those who are sent away cost nothing and count nothing.
    ///
    /// # Errors
    /// [`Busy`] at once if the queue is full.
    pub(crate) async fn turn(&self) -> Result<Turn, Busy> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Busy)?;
        let core = Arc::clone(&self.cores).acquire_owned().await.map_err(|_| Busy)?;
        Ok(Turn { _place: place, _core: core })
    }
}

impl Turn {
    /// Runs `work` on a thread for blocking work. Work that has begun is finished even if its caller goes away,
    /// and keeps its place until then.
    ///
    /// # Errors
    /// [`Busy`] if the process is ending.
    pub(crate) async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let task = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(self);
            done
        });
        task.await.map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn refuses_at_once_when_the_queue_is_full_and_recovers() {
        let desk = PasswordDesk::with(1, 1);
        let (release, hold) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let desk = desk.clone();
            async move { desk.turn().await?.work(move || hold.recv().is_ok()).await }
        });
        let second = tokio::spawn({
            let desk = desk.clone();
            async move { desk.turn().await?.work(|| 2).await }
        });
        while desk.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(desk.turn().await.err(), Some(Busy));
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
        assert_eq!(second.await.unwrap(), Ok(2));
        assert_eq!(desk.turn().await.unwrap().work(|| 4).await, Ok(4));
    }

    #[tokio::test]
    async fn never_runs_more_at_once_than_there_are_cores() {
        let desk = PasswordDesk::with(2, 64);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..32)
            .map(|_| {
                let (desk, now, most) = (desk.clone(), Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    desk.turn()
                        .await?
                        .work(move || {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::sleep(std::time::Duration::from_millis(1));
                            now.fetch_sub(1, Ordering::SeqCst);
                        })
                        .await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
