//! TLS or plain HTTP on the same port: the first byte tells, and nobody loses it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A byte stream whose first byte was looked at.
pub(super) struct Peeked<IO> {
    io: IO,
    first: Option<u8>,
}

impl<IO: AsyncRead + Unpin> Peeked<IO> {
    /// Waits for the first byte. The caller sets the time limit.
    pub(super) async fn new(mut io: IO) -> io::Result<Self> {
        let mut first = [0];
        let read = io.read(&mut first).await?;
        Ok(Self { io, first: first.first().copied().filter(|_| read == 1) })
    }

    /// A TLS handshake begins with a record of type 22 (RFC 8446 section 5.1), with which no request of HTTP does. A
    /// peer that said nothing is left to TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.first.is_some_and(|first| first != HANDSHAKE_RECORD)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Peeked<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Peeked<IO> {
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
            let mut peeked = Peeked::new(far).await.unwrap();
            assert_eq!(peeked.is_plain(), plain);
            let mut read = Vec::new();
            peeked.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }
}
