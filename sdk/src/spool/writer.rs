//! The thread that owns the disk: chains events, writes them, and tells who waited.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Instant,
};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{SystemRandom, random_bytes};
use countersign_ledger::{BootId, Event, Writer};

use super::{BATCH_INTERVAL, Dropped, Shared, SpoolError, Urgent, files, lock};
use crate::clock;

pub(super) fn spawn(
    shared: Arc<Shared>,
    writer: SpiffeId,
    inbox: Receiver<Urgent>,
) -> Result<JoinHandle<()>, SpoolError> {
    let boot =
        random_bytes(&SystemRandom::new()).map_err(|error| SpoolError::Event { why: error.to_string() })?;
    let mut scribe = Scribe {
        shared,
        writer: Writer::start(writer, BootId::from_random(boot)),
        dropped: Dropped::default(),
        clock_reported: false,
    };
    std::thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || scribe.run(&inbox))
        .map_err(|error| SpoolError::Event { why: error.to_string() })
}

struct Scribe {
    shared: Arc<Shared>,
    writer: Writer,
    dropped: Dropped,
    clock_reported: bool,
}

impl Scribe {
    fn run(&mut self, inbox: &Receiver<Urgent>) {
        let mut next_batch = Instant::now() + BATCH_INTERVAL;
        loop {
            let left = next_batch.saturating_duration_since(Instant::now());
            match inbox.recv_timeout(left) {
                Ok(first) => self.write_urgent(first, inbox),
                Err(RecvTimeoutError::Timeout) => {
                    self.write_waiting();
                    next_batch = Instant::now() + BATCH_INTERVAL;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    lock(&self.shared.strangers).close();
                    self.write_waiting();
                    return;
                }
            }
            if self.shared.closing.load(Ordering::Relaxed) {
                next_batch = Instant::now();
            }
        }
    }

    /// Refusals that arrived while the disk was busy share one write: each is still durable before
    /// anybody is told so.
    fn write_urgent(&mut self, first: Urgent, inbox: &Receiver<Urgent>) {
        let (mut lines, mut told) = (Vec::new(), Vec::new());
        // Kept for the case that the disk refuses: then nothing was appended.
        let before = self.writer.clone();
        for urgent in std::iter::once(first).chain(inbox.try_iter().take(GROUP_MAX)) {
            match self.append(&urgent.event, urgent.at, &mut lines) {
                Ok(()) => told.push(urgent.done),
                Err(error) => tell(urgent.done, Err(error)),
            }
        }
        let reserve = self.shared.limits.bytes_max / 8;
        let result = self.write(before, &lines, self.shared.limits.bytes_max + reserve);
        told.into_iter().for_each(|done| tell(done, result.clone()));
    }

    fn write_waiting(&mut self) {
        self.shared.dropped.take_all().for_each(|dropped| self.dropped.merge(dropped));
        let mut waiting: Vec<_> = self.shared.waiting.take_all().flatten().collect();
        waiting.sort_by_key(|(_, at)| *at);
        let before = self.writer.clone();
        let mut lines = Vec::new();
        self.append_own_events(&mut lines);
        for (event, at) in &waiting {
            if let Err(error) = self.append(event, *at, &mut lines) {
                tracing::error!(%error, "an event is not recorded");
            }
        }
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.write(before, &lines, self.shared.limits.bytes_max) {
            tracing::error!(%error, count = waiting.len(), "allowed calls are counted instead of recorded");
            waiting.iter().for_each(|(_, at)| self.dropped.add(*at));
        } else {
            self.dropped = Dropped::default();
        }
    }

    /// What the spool itself has to say: calls that it could not keep, a clock that went back.
    fn append_own_events(&mut self, lines: &mut Vec<u8>) {
        let mut events = lock(&self.shared.strangers).finished(clock::now());
        if let Dropped { count, since: Some(since), until: Some(until) } = self.dropped {
            events.push(Event::Dropped { count, since, until });
        }
        let behind = clock::stepped_back();
        if let (Some(behind), false) = (behind, self.clock_reported) {
            let by_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
            tracing::error!(by_ms, "the clock was set back: time goes on where it was");
            events.push(Event::ClockSteppedBack { by_ms });
        }
        self.clock_reported = behind.is_some();
        for event in events {
            if let Err(error) = self.append(&event, clock::now(), lines) {
                tracing::error!(%error, "an event is not recorded");
            }
        }
    }

    fn append(&mut self, event: &Event, at: UnixTime, lines: &mut Vec<u8>) -> Result<(), SpoolError> {
        let record = self.writer.append(event, at).map_err(|e| SpoolError::Event { why: e.to_string() })?;
        lines.extend(files::line(&record));
        Ok(())
    }

    /// On an error the chain goes back to `before`, so that the next record follows what is on disk.
    fn write(&mut self, before: Writer, lines: &[u8], bytes_max: u64) -> Result<(), SpoolError> {
        if lines.is_empty() {
            return Ok(());
        }
        let added = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let mut files = lock(&self.shared.files);
        let written = if files.bytes().saturating_add(added) > bytes_max {
            Err(SpoolError::Full)
        } else {
            files.append(self.writer.boot(), lines)
        };
        drop(files);
        match written {
            Ok(()) => {
                let sequence = self.writer.sequence();
                self.shared.written.send_replace(sequence);
            }
            Err(_) => self.writer = before,
        }
        written
    }
}

fn tell(done: tokio::sync::oneshot::Sender<Result<(), SpoolError>>, result: Result<(), SpoolError>) {
    // Whoever waited may have gone: the record is on disk all the same.
    let _ = done.send(result);
}

/// Records that share one write to the disk.
const GROUP_MAX: usize = 255;
