//! The bytes of one connection: what was read and not yet understood, what was said and not yet written.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that is read and written by one task, now from here and now from there: each borrows it for no longer
/// than one poll.
pub(crate) struct Wire<IO> {
    io: RefCell<IO>,
    scratch: Scratch,
}

/// Where a worker reads to: one for all of its connections, so that those which wait hold no buffer.
#[derive(Clone)]
pub(crate) struct Scratch(Rc<RefCell<Box<[u8]>>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice())))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    pub(crate) fn new(io: IO, scratch: Scratch) -> Self {
        Self { io: RefCell::new(io), scratch }
    }

    pub(crate) fn into_inner(self) -> IO {
        self.io.into_inner()
    }

    /// A look at the stream itself.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut IO) -> R) -> R {
        look(&mut self.io.borrow_mut())
    }

    /// Reads once; 0 is the end.
    pub(crate) async fn read(&self, input: &mut BytesMut) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx, input)).await
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut scratch = self.scratch.0.borrow_mut();
        let mut read = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, &mut read))?;
        input.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Writes what waits in `out`; done when all of it is written.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, out: &mut Outbox) -> Poll<io::Result<()>> {
        let mut io = self.io.borrow_mut();
        while !out.unwritten().is_empty() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, out.unwritten()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.wrote(written);
        }
        Pin::new(&mut *io).poll_flush(cx)
    }

    /// Says that nothing more will be written.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(cx)).await
    }
}

/// What is to be written.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// Where encoders append.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(crate) fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Is it time to write before more is added?
    pub(crate) fn is_full(&self) -> bool {
        self.unwritten().len() >= OUTBOX_BYTES
    }

    fn wrote(&mut self, count: usize) {
        self.written = self.written.saturating_add(count);
        if self.written >= self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
            // One long answer shall not be remembered by every connection that carried it.
            self.bytes.shrink_to(OUTBOX_BYTES);
        }
    }
}

/// Gives the memory of a long message back, so that not every connection that ever carried one remembers it. What was
/// understood and taken out counts too, which `capacity` does not tell.
pub(crate) fn give_back(input: &mut BytesMut, kept: usize) {
    if input.is_empty() && input.try_reclaim(kept.saturating_add(1)) {
        *input = BytesMut::new();
    }
}

/// As much as a TLS record carries.
const SCRATCH_BYTES: usize = 16 * 1024;
const OUTBOX_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_at_once_is_written_in_order() {
        let (near, mut far) = tokio::io::duplex(7);
        let wire = Wire::new(near, Scratch::default());
        let reading = tokio::spawn(async move {
            let mut text = vec![0; 30];
            far.read_exact(&mut text).await.unwrap();
            text
        });
        let mut out = Outbox::default();
        out.bytes().extend_from_slice(b"ten bytes ten bytes ");
        std::future::poll_fn(|cx| wire.poll_flush(cx, &mut out)).await.unwrap();
        assert!(out.unwritten().is_empty());
        out.bytes().extend_from_slice(b"ten bytes ");
        std::future::poll_fn(|cx| wire.poll_flush(cx, &mut out)).await.unwrap();
        assert_eq!(reading.await.unwrap(), b"ten bytes ten bytes ten bytes ");
    }

    #[test]
    fn the_memory_of_a_long_message_is_given_back_also_once_it_was_taken_out() {
        let room = |input: &mut BytesMut, bytes| input.try_reclaim(bytes);
        let mut input = BytesMut::from(vec![b'x'; 100_000].as_slice());
        give_back(&mut input, 1000);
        assert_eq!(input.len(), 100_000, "what nobody understood yet stays");
        drop(input.split_to(100_000));
        assert!(input.capacity() < 1000 && room(&mut input, 50_000), "and all of it is still there");
        give_back(&mut input, 1000);
        assert!(!room(&mut input, 1), "nothing is left of it");
        let mut short = BytesMut::from(vec![b'x'; 500].as_slice());
        short.clear();
        give_back(&mut short, 1000);
        assert!(room(&mut short, 500), "what is short is used again");
    }

    #[tokio::test]
    async fn reads_add_to_what_is_there_until_the_end() {
        let (near, mut far) = tokio::io::duplex(64);
        let wire = Wire::new(near, Scratch::default());
        let mut input = BytesMut::from(&b"GET"[..]);
        far.write_all(b" / HTTP/1.1").await.unwrap();
        assert_eq!(wire.read(&mut input).await.unwrap(), 11);
        assert_eq!(&input[..], b"GET / HTTP/1.1");
        drop(far);
        assert_eq!(wire.read(&mut input).await.unwrap(), 0);
    }
}
