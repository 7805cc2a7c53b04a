//! The authority's own hand in the ledger: its chain, and what it counts instead of writing.
//!
//! Whatever the authority changes is committed together with the records that tell of it ([`Journal::with`]).
//! Its chain has one pen: records get their numbers in the order in which they are committed.

use std::{
    future::Future,
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{SystemRandom, random_bytes};
use countersign_ledger::{
    BootId, Event, Record, Writer,
    event::Stage,
    refusals::{KINDS_MAX, Refusals},
};
use countersign_sdk::clock;
use countersign_store::{Db, StoreError, nodes::JoinError};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Events that may wait to be written without anybody waiting for them.
const NOTES_MAX: usize = 4096;
/// Changes that may wait for the pen: whoever comes later is told to come again.
const WAITING_MAX: usize = 512;
/// Events that one transaction takes at most.
const BATCH_EVENTS_MAX: usize = 128;
/// How often a minute of counted refusals is looked at.
const TICK: Duration = Duration::from_secs(5);

/// The pen, and a tray for notes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Inner>);

struct Inner {
    db: Db,
    me: SpiffeId,
    pen: Mutex<Writer>,
    waiting: Arc<Semaphore>,
    tray: mpsc::Sender<Event>,
    refusals: std::sync::Mutex<Refusals>,
    lost: std::sync::Mutex<Option<Lost>>,
}

/// What became of the records that a change was given.
pub(crate) enum Change<T> {
    /// They are durable.
    Recorded(T),
    /// Nothing changed, and nothing was recorded.
    Nothing(T),
}

/// An error that knows whether the records could have been committed in spite of it.
pub(crate) trait Failure: From<StoreError> + Send + 'static {
    /// The database certainly holds nothing of the change.
    fn surely_rolled_back(&self) -> bool;
}

impl Failure for StoreError {
    fn surely_rolled_back(&self) -> bool {
        matches!(
            self,
            Self::Conflict { .. }
                | Self::Missing { .. }
                | Self::NotFounded
                | Self::NotNewer { .. }
                | Self::Unstorable { .. }
        )
    }
}

impl Failure for JoinError {
    fn surely_rolled_back(&self) -> bool {
        match self {
            Self::Unknown | Self::Expired | Self::Spent => true,
            Self::Store(error) => error.surely_rolled_back(),
        }
    }
}

impl Inner {
    async fn write<T, E, F, Fut>(&self, events: &[Event], change: F) -> Result<T, E>
    where
        E: Failure,
        F: FnOnce(Db, Vec<Record>) -> Fut,
        Fut: Future<Output = Result<Change<T>, E>>,
    {
        let mut pen = self.pen.lock().await;
        let mut next = pen.clone();
        let now = clock::now();
        let mut records = Vec::with_capacity(events.len());
        for event in events {
            records.push(next.append(event, now).map_err(|error| {
                tracing::error!(%error, "an event cannot be recorded");
                StoreError::Unstorable { what: "an event", why: "it is too long" }
            })?);
        }
        match change(self.db.clone(), records).await {
            Ok(Change::Recorded(done)) => {
                *pen = next;
                Ok(done)
            }
            Ok(Change::Nothing(done)) => Ok(done),
            Err(error) => {
                if !error.surely_rolled_back() {
                    // It may be committed or not: a chain that begins anew contradicts neither.
                    *pen = fresh_chain(&self.me);
                }
                Err(error)
            }
        }
    }
}

/// Notes for which the tray had no room.
#[derive(Clone, Copy)]
struct Lost {
    count: u64,
    since: UnixTime,
    until: UnixTime,
}

/// Takes notes out of the tray; see [`Scribe::run`].
pub(crate) struct Scribe {
    journal: Journal,
    tray: mpsc::Receiver<Event>,
}

/// Whether a refusal is to be told in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// The first of its kind in this minute.
    InFull,
    /// Counted only.
    Counted,
}

impl Journal {
    /// A new chain for `me`, with the scribe that writes its notes.
    pub(crate) fn open(db: Db, me: SpiffeId) -> (Self, Scribe) {
        let (sender, tray) = mpsc::channel(NOTES_MAX);
        let journal = Self(Arc::new(Inner {
            db,
            pen: Mutex::new(fresh_chain(&me)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            me,
            tray: sender,
            refusals: std::sync::Mutex::new(Refusals::new(KINDS_MAX)),
            lost: std::sync::Mutex::new(None),
        }));
        (journal.clone(), Scribe { journal, tray })
    }

    /// Makes `change` and records `events` in one transaction: `change` gets the records and must commit them.
    ///
    /// Runs to its end even if the caller goes away, because a chain must not stop between two steps.
    ///
    /// # Errors
    /// Whatever `change` says; then nothing was recorded.
    pub(crate) async fn with<T, E, F, Fut>(&self, events: Vec<Event>, change: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure,
        F: FnOnce(Db, Vec<Record>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Change<T>, E>> + Send,
    {
        let place = Arc::clone(&self.0.waiting).try_acquire_owned().map_err(|_| StoreError::Busy)?;
        let journal = self.clone();
        let written = tokio::spawn(async move {
            let written = journal.0.write(&events, change).await;
            drop(place);
            written
        });
        written.await.unwrap_or_else(|_| Err(StoreError::Busy.into()))
    }

    /// Records `events` durably.
    pub(crate) async fn record(&self, events: Vec<Event>) -> Result<(), StoreError> {
        let append = |db: Db, records: Vec<Record>| async move {
            db.append(&records, clock::now()).await.map(|_| Change::Recorded(()))
        };
        self.with(events, append).await
    }

    /// Puts an event on the tray: it is written within a moment, and nobody waits for it. Where the tray is
    /// full, the ledger will say how many are missing.
    pub(crate) fn note(&self, event: Event) {
        if self.0.tray.try_send(event).is_err() {
            let now = clock::now();
            let mut lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner);
            let before = lost.unwrap_or(Lost { count: 0, since: now, until: now });
            *lost = Some(Lost { count: before.count.saturating_add(1), until: now, ..before });
        }
    }

    /// Counts a refusal of somebody who proved nothing; the first of each kind is told in full by `decision`.
    pub(crate) fn refuse_stranger(
        &self,
        address: IpAddr,
        stage: Stage,
        code: &'static str,
        decision: impl FnOnce() -> Event,
    ) -> Told {
        let counted = {
            let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.count(address, stage, code, clock::now())
        };
        counted.finished.into_iter().for_each(|event| self.note(event));
        if !counted.record_in_full {
            return Told::Counted;
        }
        self.note(decision());
        Told::InFull
    }

    fn take_lost(&self) -> Option<Event> {
        let lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Event::Dropped { count: lost.count, since: lost.since, until: lost.until })
    }

    fn finished_minutes(&self) -> Vec<Event> {
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).finish_minute(clock::now())
    }

    fn unfinished_minutes(&self) -> Vec<Event> {
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).take_all()
    }
}

impl Scribe {
    /// Writes notes until `shutdown`, then what is left.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => batch.extend(self.journal.finished_minutes()),
                count = self.tray.recv_many(&mut batch, BATCH_EVENTS_MAX) => if count == 0 { break },
            }
            self.write(&mut batch).await;
        }
        self.tray.close();
        while let Some(event) = self.tray.recv().await {
            batch.push(event);
        }
        batch.extend(self.journal.unfinished_minutes());
        self.write(&mut batch).await;
    }

    async fn write(&self, batch: &mut Vec<Event>) {
        batch.extend(self.journal.take_lost());
        while !batch.is_empty() {
            let part: Vec<Event> = batch.drain(..batch.len().min(BATCH_EVENTS_MAX)).collect();
            let count = part.len();
            if let Err(error) = self.journal.record(part).await {
                tracing::error!(%error, count, "events could not be recorded");
                let now = clock::now();
                self.journal.note(Event::Dropped {
                    count: u64::try_from(count).unwrap_or(u64::MAX),
                    since: now,
                    until: now,
                });
                // Once is enough: without a database every batch would fail the same way.
                return;
            }
        }
    }
}

fn fresh_chain(me: &SpiffeId) -> Writer {
    let boot = random_bytes(&SystemRandom::new()).unwrap_or_default();
    Writer::start(me.clone(), BootId::from_random(boot))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_ledger::WriterVerifier;
    use countersign_store::ledger::LedgerQuery;
    use futures::future::join_all;

    use super::*;
    use crate::serve::testing;

    fn event(number: u64) -> Event {
        Event::ClockSteppedBack { by_ms: number }
    }

    /// Every chain of the authority, walked again.
    async fn verify_own_chains(authority: &crate::state::Authority) -> usize {
        let query = LedgerQuery { limit: 1000, ..LedgerQuery::default() };
        let mut chains: Vec<WriterVerifier> = Vec::new();
        let mut boots = Vec::new();
        for stored in authority.db.events(&query).await.unwrap() {
            let record = stored.record;
            let position = boots.iter().position(|boot| *boot == record.boot).unwrap_or_else(|| {
                boots.push(record.boot);
                chains.push(WriterVerifier::start(record.writer.clone(), record.boot));
                boots.len() - 1
            });
            chains.get_mut(position).unwrap().accept(&record).unwrap();
        }
        boots.len()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_hands_write_one_chain_without_a_gap() {
        let (_dir, authority) = testing::authority().await;
        let written = join_all((0..200).map(|number| authority.journal.record(vec![event(number)]))).await;
        assert!(written.iter().all(Result::is_ok));
        assert_eq!(verify_own_chains(&authority).await, 1);
    }

    #[tokio::test]
    async fn a_change_that_is_refused_or_that_changes_nothing_leaves_no_hole() {
        let (_dir, authority) = testing::authority().await;
        let refuse =
            |_: Db, _: Vec<Record>| async { Err::<Change<()>, _>(StoreError::Conflict { what: "x" }) };
        assert!(authority.journal.with(vec![event(1)], refuse).await.is_err());
        let nothing = |_: Db, _: Vec<Record>| async { Ok::<_, StoreError>(Change::Nothing(7)) };
        assert_eq!(authority.journal.with(vec![event(2)], nothing).await, Ok(7));
        authority.journal.record(vec![event(3)]).await.unwrap();
        assert_eq!(verify_own_chains(&authority).await, 1);
    }

    #[tokio::test]
    async fn after_a_failure_that_may_have_been_committed_a_new_chain_begins() {
        let (_dir, authority) = testing::authority().await;
        let committed_and_lost = |db: Db, records: Vec<Record>| async move {
            db.append(&records, clock::now()).await?;
            Err::<Change<()>, _>(StoreError::Unreachable { why: "the answer was lost".to_owned() })
        };
        assert!(authority.journal.with(vec![event(1)], committed_and_lost).await.is_err());
        authority.journal.record(vec![event(2)]).await.unwrap();
        assert_eq!(verify_own_chains(&authority).await, 2);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_stop_the_pen_halfway() {
        let (_dir, authority) = testing::authority().await;
        for number in 0..20 {
            let journal = authority.journal.clone();
            let caller = tokio::spawn(async move { journal.record(vec![event(number)]).await });
            tokio::task::yield_now().await;
            caller.abort();
        }
        authority.journal.record(vec![event(99)]).await.unwrap();
        assert_eq!(verify_own_chains(&authority).await, 1);
    }

    #[tokio::test]
    async fn rejects_more_writers_than_may_wait_and_strangers_fill_no_disk() {
        let (_dir, authority) = testing::authority().await;
        let pen = authority.journal.0.pen.lock().await;
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|number| {
                let journal = authority.journal.clone();
                tokio::spawn(async move { journal.record(vec![event(number as u64)]).await })
            })
            .collect();
        while authority.journal.0.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(authority.journal.record(vec![event(0)]).await, Err(StoreError::Busy));
        drop(pen);
        let mut sent_away = 0;
        for written in waiting {
            sent_away += usize::from(written.await.unwrap().is_err());
        }
        assert!(sent_away <= 1, "the scribe may have had one of the places");
        let told = |_| {
            let address = IpAddr::from([192, 0, 2, 1]);
            authority.journal.refuse_stranger(address, Stage::Policy, "access_denied", || event(0))
        };
        let in_full = (0..10_000).map(told).filter(|told| *told == Told::InFull).count();
        assert!(in_full <= 2, "at most one per minute: {in_full}");
    }
}
