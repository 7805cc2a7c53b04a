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
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// Events that may wait to be written without anybody waiting for them.
const NOTES_MAX: usize = 4096;
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
        let journal = self.clone();
        let written = tokio::spawn(async move { journal.0.write(&events, change).await });
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
