//! How long the head of a request may take in HTTP/1.1.
//!
//! The time of a head begins with its first byte, that of the first head with the connection. hyper begins to count when
//! the answer before has ended, so a kept connection would have to ask again as soon as a slow head must end.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::life::Activity;

/// A byte stream that fails once a head takes too long.
pub(super) struct HeadGuard<IO> {
    io: IO,
    limit: Duration,
    activity: Arc<Activity>,
    /// When the head must have ended that is being read, and how many requests had begun before it.
    due: Option<(Instant, u64)>,
    /// Made when a head is waited for, which most never are.
    alarm: Option<Pin<Box<Sleep>>>,
    spoken: Spoken,
}

/// What the first bytes say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// So many of them are those of HTTP/2.
    Perhaps2(usize),
    Http1,
    Http2,
}

impl<IO> HeadGuard<IO> {
    /// `http2`: what is known of the protocol before its first byte.
    pub(super) fn new(io: IO, limit: Duration, activity: Arc<Activity>, http2: Option<bool>) -> Self {
        let spoken = match http2 {
            Some(true) => Spoken::Http2,
            Some(false) => Spoken::Http1,
            None => Spoken::Perhaps2(0),
        };
        let due = Some((Instant::now() + limit, 0));
        Self { io, limit, activity, due, alarm: None, spoken }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((end, _)) = self.due else { return false };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if alarm.deadline() != end {
            alarm.as_mut().reset(end);
        }
        alarm.as_mut().poll(cx).is_ready()
    }

    fn heard(&mut self, bytes: &[u8]) {
        if let Spoken::Perhaps2(known) = self.spoken {
            let new = bytes.len().min(PREFACE.len() - known);
            self.spoken = match bytes.get(..new) == PREFACE.get(known..known + new) {
                true if known + new == PREFACE.len() => Spoken::Http2,
                true => Spoken::Perhaps2(known + new),
                false => Spoken::Http1,
            };
        }
        // While a request is answered, it is its body that comes in.
        if self.due.is_none() && !bytes.is_empty() && !self.activity.is_running() {
            self.due = Some((Instant::now() + self.limit, self.activity.begun()));
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for HeadGuard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.spoken == Spoken::Http2 {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        if self.due.is_some_and(|(_, begun)| begun != self.activity.begun()) {
            self.due = None;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        match read {
            Poll::Pending if self.is_late(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Ready(Ok(())) => {
                self.heard(buf.filled().get(before..).unwrap_or_default());
                read
            }
            _ => read,
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for HeadGuard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// No request of HTTP/1.1 begins like the preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn guarded(
        http2: Option<bool>,
    ) -> (tokio::io::DuplexStream, HeadGuard<tokio::io::DuplexStream>, Arc<Activity>) {
        let (far, near) = tokio::io::duplex(64);
        let activity = Arc::new(Activity::new());
        let guard = HeadGuard::new(near, LIMIT, Arc::clone(&activity), http2);
        (far, guard, activity)
    }

    /// Whoever is cut is waited for as long as it takes; whoever is not, well beyond the limit.
    async fn is_cut(guard: &mut HeadGuard<tokio::io::DuplexStream>, expected: bool) -> bool {
        let patience = if expected { Duration::from_secs(60) } else { LIMIT * 5 };
        tokio::time::timeout(patience, guard.read_u8()).await.is_ok()
    }

    #[tokio::test]
    async fn a_connection_without_a_first_head_is_cut_unless_it_speaks_http2() {
        for (http2, said, cut) in [
            (None, &b""[..], true),
            (None, b"PRI * HTTP/2.0\r\n", false),
            (None, b"PRINT /", true),
            (Some(false), b"PRI * HTTP/2.0\r\n", true),
            (Some(true), b"", false),
        ] {
            let (mut far, mut guard, _) = guarded(http2);
            far.write_all(said).await.unwrap();
            for byte in said {
                assert_eq!(guard.read_u8().await.unwrap(), *byte);
            }
            assert_eq!(is_cut(&mut guard, cut).await, cut, "{http2:?} {said:?}");
        }
    }

    #[tokio::test]
    async fn between_two_requests_no_head_is_waited_for_and_no_body_is_taken_for_one() {
        let (mut far, mut guard, activity) = guarded(Some(false));
        far.write_all(b"head+body").await.unwrap();
        guard.read_exact(&mut [0; 5]).await.unwrap();
        let running = activity.begin();
        guard.read_exact(&mut [0; 4]).await.unwrap();
        assert!(!is_cut(&mut guard, false).await, "cut while a body comes in");
        drop(running);
        assert!(!is_cut(&mut guard, false).await, "cut while nothing is asked");
        far.write_all(b"h").await.unwrap();
        assert_eq!(guard.read_u8().await.unwrap(), b'h');
        assert!(is_cut(&mut guard, true).await, "the second head may take for ever");
    }
}
