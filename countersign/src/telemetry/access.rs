//! The access log: one JSON line on standard output for each request that was decided about.
//!
//! Requests only put what is known of them into a bounded queue; a thread of its own writes. Where it does not keep up,
//! lines are lost and counted, and no request waits.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use countersign_sdk::trace::Exchange;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::rfc3339;

/// Which requests leave a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// None.
    Off,
    /// Those that were refused, failed or were not answered: status 400 and above, or none.
    #[default]
    Errors,
    /// All.
    All,
}

impl Access {
    /// Does a request with this status leave one?
    pub(super) const fn wants(self, status: u16) -> bool {
        match self {
            Self::Off => false,
            Self::Errors => status >= 400 || status == 0,
            Self::All => true,
        }
    }
}

/// The near end of the queue.
pub(super) struct AccessLog {
    pub(super) which: Access,
    queue: SyncSender<Entry>,
}

/// What is in the queue.
#[expect(clippy::large_enum_variant, reason = "all but the last are lines")]
enum Entry {
    Line(Exchange),
    /// Everything before it is to be written: then whoever waits is told.
    Flush(oneshot::Sender<()>),
}

/// Writes what waits in the queue.
#[derive(Debug)]
pub(super) struct Flusher(SyncSender<Entry>);

impl Flusher {
    /// Returns when every line that was put before is written, or nobody writes any more.
    pub(super) async fn flush(self) {
        let (done, written) = oneshot::channel();
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(back)) = self.0.try_send(entry) {
            entry = back;
            tokio::time::sleep(ROOM_WAIT).await;
        }
        let _ = written.await;
    }
}

impl AccessLog {
    /// Starts the thread that writes to standard output. `None` where nothing shall be written.
    pub(super) fn start(which: Access) -> io::Result<Option<Self>> {
        if which == Access::Off {
            return Ok(None);
        }
        let (queue, lines) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&lines, io::stdout()))?;
        Ok(Some(Self { which, queue }))
    }

    pub(super) fn flusher(&self) -> Flusher {
        Flusher(self.queue.clone())
    }

    pub(super) fn put(&self, exchange: Exchange) {
        if self.queue.try_send(Entry::Line(exchange)).is_err() {
            metrics::counter!(super::LINES_DROPPED).increment(1);
        }
    }
}

/// Until nobody can send any more, or nobody reads.
fn write_all(lines: &Receiver<Entry>, out: impl Write) {
    let mut out = io::BufWriter::new(out);
    let mut waiting = Vec::new();
    while let Ok(mut entry) = lines.recv() {
        loop {
            match entry {
                Entry::Line(exchange) if write_one(&exchange, &mut out).is_err() => return,
                Entry::Line(_) => {}
                Entry::Flush(done) => waiting.push(done),
            }
            entry = match lines.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            };
        }
        if out.flush().is_err() {
            return;
        }
        // Whoever waited for it may have gone.
        waiting.drain(..).for_each(|done: oneshot::Sender<()>| done.send(()).unwrap_or_default());
    }
}

fn write_one(exchange: &Exchange, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line::of(exchange))?;
    out.write_all(b"\n")
}

/// One line, in the order in which a person reads it.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    service: &'a str,
    method: &'a str,
    route: &'a str,
    status: u16,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    mode: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    decision: String,
    trace: String,
}

impl<'a> Line<'a> {
    fn of(exchange: &'a Exchange) -> Self {
        Self {
            time: rfc3339(exchange.began),
            service: &exchange.service,
            method: &exchange.method,
            route: &exchange.route,
            status: exchange.status,
            duration_ms: exchange.took.as_secs_f64() * 1e3,
            bytes: exchange.bytes,
            caller: exchange.caller.as_deref(),
            user: exchange.user.as_deref(),
            mode: &exchange.mode,
            to: &exchange.to,
            code: exchange.code.as_deref(),
            peer: exchange.peer.as_deref(),
            decision: exchange.decision.to_string(),
            trace: exchange.hop.trace().to_string(),
        }
    }
}

/// Lines that wait to be written.
const QUEUE_LINES: usize = 8192;
/// How soon an end looks again whether there is room in the queue.
const ROOM_WAIT: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::super::tests::exchange;
    use super::*;

    #[test]
    fn a_line_says_all_that_is_known_in_one_object() {
        let (queue, lines) = sync_channel(2);
        let mut written = Vec::new();
        queue.send(Entry::Line(exchange())).unwrap();
        let refused = Exchange { caller: None, code: Some("CS2107".to_owned()), status: 403, ..exchange() };
        queue.send(Entry::Line(refused)).unwrap();
        drop(queue);
        write_all(&lines, &mut written);
        let text = String::from_utf8(written).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["time"], "2027-01-15T08:00:00.123Z");
        assert_eq!(lines[0]["route"], "/ads/{id}");
        assert_eq!((&lines[0]["status"], &lines[0]["bytes"]), (&200.into(), &7.into()));
        assert_eq!(lines[0]["caller"], "spiffe://fleamarket.test/svc/ads");
        assert_eq!((lines[1].get("caller"), &lines[1]["code"]), (None, &"CS2107".into()));
    }

    #[test]
    fn only_what_went_wrong_is_an_error() {
        for (status, errors) in
            [(0, true), (200, false), (304, false), (399, false), (400, true), (503, true)]
        {
            assert_eq!(Access::Errors.wants(status), errors, "{status}");
            assert!(Access::All.wants(status) && !Access::Off.wants(status));
        }
    }

    /// A terminal that is slow to begin with.
    #[derive(Clone, Default)]
    struct Slow(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_secs(1));
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_end_waits_until_every_line_is_written() {
        let (queue, lines) = sync_channel(2);
        let log = AccessLog { which: Access::All, queue };
        log.put(exchange());
        log.put(exchange());
        let (out, flusher) = (Slow::default(), log.flusher());
        let written = out.clone();
        std::thread::spawn(move || write_all(&lines, out));
        flusher.flush().await;
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2);
        // Where nobody writes any more, nobody is waited for.
        let (queue, gone) = sync_channel(1);
        drop(gone);
        Flusher(queue).flush().await;
    }

    #[test]
    fn a_line_that_finds_no_room_is_dropped_and_nobody_waits() {
        let (queue, lines) = sync_channel(1);
        let log = AccessLog { which: Access::All, queue };
        log.put(exchange());
        log.put(exchange());
        assert_eq!(lines.try_iter().count(), 1);
    }
}
