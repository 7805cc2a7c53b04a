//! A connection that leaves HTTP: the head of the 101, then bytes both ways until something ends them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use countersign_http1::{BodyLength, encode};
use countersign_sdk::accept::Stream;
use countersign_sdk::clock;
use http::{Response, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use super::{Client, End};
use crate::engine::listen::Seated;
use crate::engine::watch::{Interrupt, Watched};
use crate::engine::wire::Wire;
use crate::forward::EdgeBody;
use crate::upgrade::{Ending, Tunnel, Way, dress_answer};

impl Client {
    /// Says that HTTP ends here, and carries bytes from then on. The connection serves nothing else afterwards.
    pub(super) async fn leave(
        &mut self,
        answer: Response<EdgeBody>,
        mut tunnel: Tunnel,
    ) -> Result<bool, End> {
        let (mut head, _) = answer.into_parts();
        dress_answer(&mut head.headers);
        // What follows is no body (RFC 9110 section 8.6, RFC 9112 section 6.1), whatever was said from behind.
        for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        let mut writer = encode::response(self.out.bytes(), head.status);
        writer.fields(&head.headers);
        if !head.headers.contains_key(header::DATE) {
            writer.field(&header::DATE, &self.watched.date());
        }
        writer.finish(BodyLength::None);
        let began = Instant::now();
        metrics::gauge!("countersign_upgrades_open").increment(1);
        let ending = match self.outgoing().flush().await {
            Ok(()) => self.carry_bytes(&mut tunnel).await,
            Err(_) => Ending::Broken,
        };
        metrics::gauge!("countersign_upgrades_open").decrement(1);
        tracing::debug!(connection = %self.connection.id, %ending, "a connection outside http ended");
        let Tunnel { tenure, way, .. } = tunnel;
        // The callee's end closes with ours, whatever the record costs.
        drop(way);
        tenure.ended(&ending, began.elapsed()).await;
        match ending {
            Ending::Closed => Ok(false),
            _ => Err(End::Broken),
        }
    }

    /// Back-pressure is that of the sockets: of each direction no more than one buffer is held.
    async fn carry_bytes(&mut self, tunnel: &mut Tunnel) -> Ending {
        let watched = &self.watched;
        watched.begin(tunnel.idle);
        let (wire, first, idle) = (&self.wire, &mut self.input, tunnel.idle);
        let mut near = Near { wire, first, watched, idle };
        let Way { far, lost, .. } = &mut tunnel.way;
        let copying = copy_bidirectional_with_sizes(&mut near, far, BUFFER_BYTES, BUFFER_BYTES);
        tokio::select! {
            copied = watched.busy(copying) => match copied {
                Ok(Ok(_)) => Ending::Closed,
                Ok(Err(_)) => Ending::Broken,
                Err(Interrupt::Late) => Ending::Idle,
                // Most likely because of who is at the other end.
                Err(Interrupt::Cut | Interrupt::Drain | Interrupt::Source) => {
                    tunnel.tenure.judge(clock::now()).map_or_else(Ending::Denied, |()| Ending::Cut)
                }
            },
            denial = tunnel.tenure.lost() => Ending::Denied(denial),
            () = lost => Ending::CalleeLost,
        }
    }
}

/// The client's end. What moves on it puts off the end of idleness.
struct Near<'c> {
    wire: &'c Wire<Stream<Seated>>,
    /// What came behind the handshake.
    first: &'c mut BytesMut,
    watched: &'c Watched,
    idle: Duration,
}

impl AsyncRead for Near<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first.is_empty() {
            let before = buf.filled().len();
            ready!(this.wire.with(|io| Pin::new(io).poll_read(cx, buf)))?;
            if buf.filled().len() > before {
                this.watched.begin(this.idle);
            }
            return Poll::Ready(Ok(()));
        }
        let now = this.first.len().min(buf.remaining());
        buf.put_slice(this.first.get(..now).unwrap_or_default());
        this.first.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Near<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.wire.with(|io| Pin::new(io).poll_write(cx, bytes)))?;
        self.watched.begin(self.idle);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.with(|io| Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.with(|io| Pin::new(io).poll_shutdown(cx))
    }
}

/// Held for each direction.
const BUFFER_BYTES: usize = 16 * 1024;
