//! A byte stream of which something was read already, and nobody loses it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A byte stream that begins with bytes which were read from it before.
#[derive(Debug)]
pub struct Rewound<IO> {
    io: IO,
    first: Bytes,
}

impl<IO> Rewound<IO> {
    /// Yields `first`, then what `io` does.
    #[must_use]
    pub const fn new(io: IO, first: Bytes) -> Self {
        Self { io, first }
    }

    /// The stream below, which never sees the bytes that were read before again.
    #[must_use]
    pub const fn inner(&self) -> &IO {
        &self.io
    }

    /// A TLS handshake begins with a record of type 22 (RFC 8446 section 5.1), with which no request of HTTP does. A
    /// peer that said nothing is left to TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.first.first().is_some_and(|first| *first != HANDSHAKE_RECORD)
    }
}

impl<IO: AsyncRead + Unpin> Rewound<IO> {
    /// Waits for the first byte. The caller sets the time limit.
    pub(super) async fn after_the_first_byte(mut io: IO) -> io::Result<Self> {
        let mut first = [0];
        let read = io.read(&mut first).await?;
        Ok(Self { io, first: Bytes::copy_from_slice(first.get(..read).unwrap_or_default()) })
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() && buf.remaining() > 0 {
            let now = self.first.len().min(buf.remaining());
            buf.put_slice(self.first.get(..now).unwrap_or_default());
            self.first.advance(now);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
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

const HANDSHAKE_RECORD: u8 = 22;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn the_byte_that_was_looked_at_is_still_there() {
        for (sent, plain) in
            [(&b"PRI * HTTP/2.0"[..], true), (b"GET /", true), (b"\x16\x03\x01", false), (b"", false)]
        {
            let (mut near, far) = tokio::io::duplex(64);
            near.write_all(sent).await.unwrap();
            drop(near);
            let mut stream = Rewound::after_the_first_byte(far).await.unwrap();
            assert_eq!(stream.is_plain(), plain);
            let mut read = Vec::new();
            stream.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_once_however_small_the_reads() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"later").await.unwrap();
        drop(near);
        let mut stream = Rewound::new(far, Bytes::from_static(b"sooner "));
        let mut read = Vec::new();
        let mut piece = [0; 3];
        loop {
            match stream.read(&mut piece).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(piece.get(..count).unwrap()),
            }
        }
        assert_eq!(read, b"sooner later");
    }
}
