//! The thread that owns the disk: chains events, writes them, and tells who waited.

use std::{
    sync::{
        Arc,
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
        own: Vec::new(),
        gaps: Vec::new(),
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
    /// What the spool itself has to say, until it is on disk.
    own: Vec<Event>,
    /// Records that made room for newer ones since [`Scribe::own`] was last written.
    gaps: Vec<Event>,
    dropped: Dropped,
    clock_reported: bool,
}

impl Scribe {
    fn run(&mut self, inbox: &Receiver<Urgent>) {
        let mut next_batch = Instant::now() + BATCH_INTERVAL;
        loop {
            let left = next_batch.saturating_duration_since(Instant::now());
            // Asked before the inbox is: a flood of refusals must not keep allowed calls out of the ledger.
            if left.is_zero() {
                self.write_waiting();
                next_batch = Instant::now() + BATCH_INTERVAL;
                continue;
            }
            match inbox.recv_timeout(left) {
                Ok(first) => self.write_urgent(first, inbox),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    lock(&self.shared.strangers).close();
                    self.write_waiting();
                    return;
                }
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
                Ok(()) => told.push((urgent.done, urgent.at)),
                Err(error) => {
                    self.dropped.add(urgent.at);
                    tell(urgent.done, Err(error));
                }
            }
        }
        let reserve = self.shared.limits.bytes_max / 8;
        let result = self.write(before, &lines, self.shared.limits.bytes_max.saturating_add(reserve));
        for (done, at) in told {
            if result.is_err() {
                self.dropped.add(at);
            }
            tell(done, result.clone());
        }
    }

    fn write_waiting(&mut self) {
        self.shared.dropped.take_all().for_each(|dropped| self.dropped.merge(dropped));
        let mut waiting: Vec<_> = self.shared.waiting.take_all().flatten().collect();
        waiting.sort_by_key(|(_, at)| *at);
        let before = self.writer.clone();
        let mut lines = Vec::new();
        self.append_own_events(&mut lines);
        let mut unwritable = Dropped::default();
        for (event, at) in &waiting {
            if let Err(error) = self.append(event, *at, &mut lines) {
                tracing::error!(%error, "an event is not recorded");
                unwritable.add(*at);
            }
        }
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.write(before, &lines, self.shared.limits.bytes_max) {
            tracing::error!(%error, count = waiting.len(), "allowed calls are counted instead of recorded");
            waiting.iter().for_each(|(_, at)| self.dropped.add(*at));
        } else {
            self.own.clear();
            self.dropped = unwritable;
        }
    }

    /// What the spool itself has to say: refusals that were only counted, calls that it could not keep, a clock
    /// that went back. It is said until the disk has taken it.
    fn append_own_events(&mut self, lines: &mut Vec<u8>) {
        let counts = lock(&self.shared.strangers).finished(clock::now());
        self.own.extend(counts);
        self.own.append(&mut self.gaps);
        let behind = clock::stepped_back();
        if let (Some(behind), false) = (behind, self.clock_reported) {
            let by_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
            tracing::error!(by_ms, "the clock was set back: time goes on where it was");
            self.own.push(Event::ClockSteppedBack { by_ms });
        }
        self.clock_reported = behind.is_some();
        let excess = self.own.len().saturating_sub(OWN_EVENTS_MAX);
        self.own.drain(..excess).for_each(|_| self.dropped.add(clock::now()));

        let mut events = self.own.clone();
        if let Dropped { count, since: Some(since), until: Some(until) } = self.dropped {
            events.push(Event::Dropped { count, since, until });
        }
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
        self.gaps.extend(files.make_room(self.writer.id(), added, bytes_max));
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

/// Events of the spool's own that wait for a disk that says no; older ones are counted as dropped.
const OWN_EVENTS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        shard::Sharded,
        spool::{
            SpoolLimits,
            files::{Files, WhenFull},
        },
    };
    use countersign_ledger::Stage;
    use std::sync::Mutex;

    fn scribe(directory: &std::path::Path, limits: SpoolLimits, when_full: WhenFull) -> Scribe {
        Scribe {
            shared: Arc::new(Shared {
                limits,
                waiting: Sharded::default(),
                urgent: Mutex::new(None),
                dropped: Sharded::default(),
                strangers: Mutex::default(),
                files: Mutex::new(Files::open(directory.to_owned(), limits, when_full).unwrap()),
                written: tokio::sync::watch::Sender::new(0),
            }),
            writer: Writer::start("spiffe://td/svc/ads".parse().unwrap(), BootId::from_random([1; 16])),
            own: Vec::new(),
            gaps: Vec::new(),
            dropped: Dropped::default(),
            clock_reported: false,
        }
    }

    #[test]
    fn a_flood_of_refusals_keeps_no_allowed_call_out_of_the_ledger() {
        let directory = countersign_testkit::temp_dir();
        let mut scribe = scribe(directory.path(), SpoolLimits::default(), WhenFull::Refuse);
        let shared = Arc::clone(&scribe.shared);
        let (sender, inbox) = std::sync::mpsc::sync_channel(4);
        let writing = std::thread::spawn(move || scribe.run(&inbox));
        shared
            .waiting
            .with(|waiting| waiting.push((Event::ClockSteppedBack { by_ms: 424_242 }, clock::now())));
        let end = Instant::now() + BATCH_INTERVAL * 3;
        // The inbox is full whenever the scribe looks.
        while Instant::now() < end {
            let (done, _) = tokio::sync::oneshot::channel();
            let event = Event::ClockSteppedBack { by_ms: 1 };
            sender.send(Urgent { event, at: clock::now(), done }).unwrap();
        }
        let waits: usize = shared.waiting.take_all().map(|waiting| waiting.len()).sum();
        drop(sender);
        writing.join().unwrap();
        assert_eq!(waits, 0, "an allowed call waits behind refusals");
    }

    #[test]
    fn counts_of_strangers_outlive_a_disk_that_says_no() {
        let directory = countersign_testkit::temp_dir();
        let limits = SpoolLimits { bytes_max: 0, ..SpoolLimits::default() };
        let mut scribe = scribe(directory.path(), limits, WhenFull::Refuse);
        let long_ago = UnixTime::from_secs(1_800_000_000);
        for _ in 0..5 {
            lock(&scribe.shared.strangers).admit([127, 0, 0, 1].into(), Stage::Transport, "x", long_ago);
        }
        lock(&scribe.shared.strangers).close();
        scribe.write_waiting();
        assert!(matches!(scribe.own.as_slice(), [Event::Refusals { count: 5, .. }]), "{:?}", scribe.own);

        Arc::get_mut(&mut scribe.shared).unwrap().limits = SpoolLimits::default();
        scribe.write_waiting();
        assert_eq!((scribe.own.len(), scribe.writer.sequence()), (0, 1));
    }
    #[test]
    fn what_made_room_for_newer_records_is_a_record_itself() {
        let directory = countersign_testkit::temp_dir();
        let limits = SpoolLimits { bytes_max: 4096, file_bytes_max: 512, ..SpoolLimits::default() };
        let mut scribe = scribe(directory.path(), limits, WhenFull::ForgetOldest);
        let read = || {
            let files = std::fs::read_dir(directory.path()).unwrap();
            files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect::<String>()
        };
        let mut first = true;
        while first || !read().contains("\"kind\":\"gap\"") {
            first = false;
            assert!(scribe.writer.sequence() < 1000, "the disk never got full");
            let event = (Event::ClockSteppedBack { by_ms: 7 }, clock::now());
            scribe.shared.waiting.with(|waiting| waiting.push(event));
            scribe.write_waiting();
        }
        let left = read();
        assert!(left.len() <= 4096, "{} bytes", left.len());
        assert!(left.contains("\"missing_from\":1"), "{left}");
        assert!(!left.lines().any(|line| line.starts_with("1 ")), "the first record is still there");
        assert_eq!(scribe.dropped.count, 0);
    }
}
