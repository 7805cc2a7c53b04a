//! A listener that counts the bytes of its connections as they cross the socket: TLS, HTTP/2 and handshakes included,
//! headers of TCP and IP not.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use countersign_sdk::accept::{Listen, Origin};
use metrics::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// Bytes that crossed the sockets of this process as a callee, by `direction`.
pub(crate) const BYTES: &str = "countersign_lab_wire_bytes_total";

/// The listener.
pub(super) struct Counted {
    listener: TcpListener,
    counters: Counters,
}

#[derive(Clone)]
struct Counters {
    read: Counter,
    written: Counter,
}

impl Counted {
    pub(super) fn new(listener: TcpListener) -> Self {
        let counter = |direction: &'static str| metrics::counter!(BYTES, "direction" => direction);
        Self { listener, counters: Counters { read: counter("in"), written: counter("out") } }
    }
}

impl Listen for Counted {
    type Io = CountedStream;

    async fn accept(&mut self) -> io::Result<(CountedStream, Origin)> {
        let (stream, origin) = Listen::accept(&mut self.listener).await?;
        Ok((CountedStream { stream, counters: self.counters.clone() }, origin))
    }
}

/// One of its connections.
pub(super) struct CountedStream {
    stream: TcpStream,
    counters: Counters,
}

impl CountedStream {
    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &result {
            self.counters.written.increment(*written as u64);
        }
        result
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.counters.read.increment(buf.filled().len().saturating_sub(before) as u64);
        result
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
