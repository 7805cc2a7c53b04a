//! The thread that owns the disk: chains events, writes them, and tells who waited.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Instant,
};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{SystemRandom, random_bytes};
use countersign_ledger::{BootId, CallBatch, CallBatcher, Event, Writer};

use super::{BATCH_INTERVAL, Dropped, Errand, Scribing, Shared, SpoolError, Urgent, files, lock};
use crate::clock;

pub(super) fn spawn(
    shared: Arc<Shared>,
    writer: SpiffeId,
    inbox: Receiver<Errand>,
) -> Result<Scribing, SpoolError> {
    let boot =
        random_bytes(&SystemRandom::new()).map_err(|error| SpoolError::Event { why: error.to_string() })?;
    let boot = BootId::from_random(boot);
    let own = lock(&shared.files).began(boot)?;
    let mut scribe = Scribe {
        shared,
        calls: CallBatcher::new(&writer),
        batches: Vec::new(),
        writer: Writer::start(writer, boot),
        own,
        gaps: Vec::new(),
        dropped: Dropped::default(),
        clock_reported: false,
    };
    let (ending, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || {
            let _ending = ending;
            scribe.run(&inbox);
        })
        .map_err(|error| SpoolError::Event { why: error.to_string() })?;
    Ok(Scribing { thread, ended })
}

/// Has the rings emptied. Where the thread is too busy to be told, it will look at them soon.
pub(super) fn wake(shared: &Shared) {
    if let Some(inbox) = lock(&shared.urgent).as_ref() {
        let _ = inbox.try_send(Errand::EmptyRings);
    }
}

struct Scribe {
    shared: Arc<Shared>,
    writer: Writer,
    /// Allowed calls from the rings.
    calls: CallBatcher,
    /// Those that filled a record and are not on disk.
    batches: Vec<CallBatch>,
    /// What the spool itself has to say, until it is on disk.
    own: Vec<Event>,
    /// Records that made room for newer ones since [`Scribe::own`] was last written.
    gaps: Vec<Event>,
    dropped: Dropped,
    clock_reported: bool,
}

impl Scribe {
    fn run(&mut self, inbox: &Receiver<Errand>) {
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
                Ok(first) => self.run_errands(first, inbox),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.end();
                    return;
                }
            }
        }
    }

    /// Writes what is left. Where the disk does not take all of it, the sign of life stays: a successor tells that
    /// something is missing.
    fn end(&mut self) {
        lock(&self.shared.strangers).close();
        self.write_waiting();
        if self.dropped.count > 0 {
            self.write_waiting();
        }
        if self.own.is_empty() && self.dropped.count == 0 {
            lock(&self.shared.files).ended();
        } else {
            tracing::error!(dropped = self.dropped.count, "the last ledger records could not be written");
        }
    }

    fn run_errands(&mut self, first: Errand, inbox: &Receiver<Errand>) {
        let mut urgent = Vec::new();
        let mut rings_fill = false;
        for errand in std::iter::once(first).chain(inbox.try_iter().take(GROUP_MAX)) {
            match errand {
                Errand::Record(event) => urgent.push(event),
                Errand::EmptyRings => rings_fill = true,
            }
        }
        self.write_urgent(urgent);
        if rings_fill {
            self.empty_rings();
            if self.batches.len() >= BATCHES_MAX {
                self.write_waiting();
            }
        }
    }

    /// Packs the calls that lie in the rings, and forgets rings whose threads are gone.
    fn empty_rings(&mut self) {
        let Self { shared, calls, batches, .. } = self;
        lock(&shared.rings).retain_mut(|ring| {
            ring.drain(&shared.edges, |call| {
                if calls.push(call).is_err() {
                    batches.extend(calls.take());
                    if calls.push(call).is_err() {
                        tracing::error!("a call is not recorded: it fits no batch");
                    }
                }
            })
        });
    }

    /// Refusals that arrived while the disk was busy share one write: each is still durable before
    /// anybody is told so.
    fn write_urgent(&mut self, urgent: Vec<Urgent>) {
        let (mut lines, mut told) = (Vec::new(), Vec::new());
        // Kept for the case that the disk refuses: then nothing was appended.
        let before = self.writer.clone();
        for urgent in urgent {
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
        self.empty_rings();
        self.batches.extend(self.calls.take());
        let batches: Vec<_> = self.batches.drain(..).map(|b| (b.len(), Event::from(b))).collect();
        let mut unwritable = Dropped::default();
        for (count, batch) in &batches {
            if let Err(error) = self.append(batch, clock::now(), &mut lines) {
                tracing::error!(%error, count, "allowed calls are not recorded");
                unwritable.add_many(*count, clock::now());
            }
        }
        for (event, at) in &waiting {
            if let Err(error) = self.append(event, *at, &mut lines) {
                tracing::error!(%error, "an event is not recorded");
                unwritable.add(*at);
            }
        }
        if lines.is_empty() {
            self.dropped.merge(unwritable);
            return;
        }
        if let Err(error) = self.write(before, &lines, self.shared.limits.bytes_max) {
            let count = waiting.len() + batches.iter().map(|(count, _)| count).sum::<usize>();
            tracing::error!(%error, count, "allowed calls are counted instead of recorded");
            waiting.iter().for_each(|(_, at)| self.dropped.add(*at));
            batches.iter().for_each(|(count, _)| self.dropped.add_many(*count, clock::now()));
        } else {
            self.own.clear();
            self.dropped = unwritable;
            lock(&self.shared.files).told_of_the_dead();
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

/// Full batches of allowed calls that wait for the disk: a quarter of a megabyte.
const BATCHES_MAX: usize = 4;

/// Events of the spool's own that wait for a disk that says no; older ones are counted as dropped.
const OWN_EVENTS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        shard::Sharded,
        spool::{
            Edges, SpoolLimits,
            files::{Files, WhenFull},
        },
    };
    use countersign_ledger::Stage;
    use std::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32},
    };

    fn scribe(directory: &std::path::Path, limits: SpoolLimits, when_full: WhenFull) -> Scribe {
        Scribe {
            shared: Arc::new(Shared {
                limits,
                waiting: Sharded::default(),
                urgent: Mutex::new(None),
                closed: AtomicBool::new(false),
                rings: Mutex::default(),
                edge_numbers: AtomicU32::new(0),
                edges: Edges::default(),
                dropped: Sharded::default(),
                strangers: Mutex::default(),
                files: Mutex::new(Files::open(directory.to_owned(), limits, when_full).unwrap()),
                written: tokio::sync::watch::Sender::new(0),
            }),
            calls: CallBatcher::new(&"spiffe://td/svc/ads".parse().unwrap()),
            batches: Vec::new(),
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
            sender.send(Errand::Record(Urgent { event, at: clock::now(), done })).unwrap();
        }
        let waits: usize = shared.waiting.take_all().map(|waiting| waiting.len()).sum();
        drop(sender);
        writing.join().unwrap();
        assert_eq!(waits, 0, "an allowed call waits behind refusals");
    }

    #[test]
    fn a_spool_that_could_not_write_its_last_records_leaves_its_sign_of_life_behind() {
        for (bytes_max, is_left) in [(0, true), (SpoolLimits::default().bytes_max, false)] {
            let directory = countersign_testkit::temp_dir();
            let limits = SpoolLimits { bytes_max, ..SpoolLimits::default() };
            let mut scribe = scribe(directory.path(), limits, WhenFull::Refuse);
            let boot = scribe.writer.boot();
            lock(&scribe.shared.files).began(boot).unwrap();
            let event = (Event::ClockSteppedBack { by_ms: 7 }, clock::now());
            scribe.shared.waiting.with(|waiting| waiting.push(event));
            let (sender, inbox) = std::sync::mpsc::sync_channel(1);
            drop(sender);
            scribe.run(&inbox);
            let sign = directory.path().join(format!("{boot}.alive"));
            assert_eq!(sign.exists(), is_left, "with room for {bytes_max} bytes");
        }
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
