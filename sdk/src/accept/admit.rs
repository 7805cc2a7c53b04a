//! From an accepted byte stream to a connection whose other end is known, or refused.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Connection, Exporter, Limits, Origin, Transport, life::Belief, rewound::Rewound};
use crate::{
    live::Floor,
    tls::{Acceptor, ClientAuth, new_connection_id},
};

/// A connection past its handshake, on which no HTTP was spoken yet.
#[derive(Debug)]
pub struct Admitted<IO> {
    /// The bytes, decrypted.
    pub stream: Stream<IO>,
    /// Who is at the other end.
    pub connection: Connection,
    /// Did ALPN settle for HTTP/2? Without TLS the first bytes tell.
    pub http2: Option<bool>,
    /// By what it was admitted: to be asked as long as it lasts.
    pub belief: Belief,
}

/// The bytes of HTTP, over TLS or not.
#[derive(Debug)]
pub enum Stream<IO> {
    /// As they come.
    Plain(Rewound<IO>),
    /// Decrypted.
    Tls(Box<TlsStream<Rewound<IO>>>),
}

/// Does whatever has to be done before HTTP begins: nothing, a handshake, or a look at the first byte. Within
/// [`Limits::handshake`], and not once `draining`.
///
/// `None` is a connection that was refused or given up; the observer of the acceptor knows.
pub async fn admit<IO>(
    io: IO,
    origin: Origin,
    transport: &Transport,
    limits: &Limits,
    draining: &CancellationToken,
) -> Option<Admitted<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let ends = Instant::now() + limits.handshake;
    let connection = Connection {
        id: new_connection_id(),
        origin,
        peer: None,
        server_name: None,
        asks_for_certificate: false,
        exporter: None,
    };
    let entrance = Entrance { limits, draining, ends };
    match transport {
        Transport::Plain => Some(plain(unread(io), connection, None)),
        Transport::Tls(acceptor) => entrance.shake_hands(unread(io), acceptor, connection).await,
        Transport::ByFloor(acceptor, floor) => {
            let io = entrance.first_byte(io, acceptor, &connection).await?;
            match (io.is_plain(), floor.serves_plain()) {
                (true, true) => {
                    warn_of_plain(&connection);
                    Some(plain(io, connection, Some(floor.clone())))
                }
                (true, false) => {
                    acceptor.plain(connection.id, connection.address());
                    None
                }
                (false, _) => {
                    let acceptor = acceptor.clone().asking(floor.client_auth());
                    entrance.shake_hands(io, &acceptor, connection).await
                }
            }
        }
    }
}

fn unread<IO>(io: IO) -> Rewound<IO> {
    Rewound::new(io, bytes::Bytes::new())
}

fn plain<IO>(io: Rewound<IO>, connection: Connection, floor: Option<Floor>) -> Admitted<IO> {
    Admitted { stream: Stream::Plain(io), connection, http2: None, belief: Belief::of_plain(floor) }
}

/// Within what a connection comes in.
struct Entrance<'a> {
    limits: &'a Limits,
    draining: &'a CancellationToken,
    ends: Instant,
}

impl Entrance<'_> {
    /// Waits for the first byte no longer than for a whole handshake.
    async fn first_byte<IO: AsyncRead + Unpin>(
        &self,
        io: IO,
        acceptor: &Acceptor,
        connection: &Connection,
    ) -> Option<Rewound<IO>> {
        let looked_at = tokio::select! {
            looked_at = tokio::time::timeout_at(self.ends, Rewound::after_the_first_byte(io)) => looked_at,
            () = self.draining.cancelled() => return None,
        };
        if looked_at.is_err() {
            acceptor.timed_out(connection.id, connection.address(), self.limits.handshake);
        }
        looked_at.ok()?.ok()
    }

    async fn shake_hands<IO>(
        &self,
        io: Rewound<IO>,
        acceptor: &Acceptor,
        mut connection: Connection,
    ) -> Option<Admitted<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let address = connection.address();
        connection.asks_for_certificate = acceptor.auth() != ClientAuth::Never;
        let shaken = tokio::select! {
            shaken = tokio::time::timeout_at(self.ends, acceptor.accept(io, connection.id, address)) => shaken,
            () = self.draining.cancelled() => return None,
        };
        match shaken {
            Ok(Ok((stream, peer))) => {
                let session = stream.get_ref().1;
                let http2 = Some(session.alpn_protocol() == Some(crate::tls::H2));
                connection.server_name = session.server_name().map(|name| name.to_ascii_lowercase().into());
                connection.exporter = Exporter::of(session);
                connection.peer = peer;
                let belief = Belief::of_peer(connection.peer.clone(), Arc::clone(acceptor.trust()));
                Some(Admitted { stream: Stream::Tls(Box::new(stream)), connection, http2, belief })
            }
            Ok(Err(error)) => {
                tracing::debug!(connection = %connection.id, %error, "handshake refused");
                None
            }
            Err(_) => {
                acceptor.timed_out(connection.id, address, self.limits.handshake);
                None
            }
        }
    }
}

/// Loud, since whoever comes so proves nothing; once for each connection, since traffic of a baseline must not drown
/// everything else.
fn warn_of_plain(connection: &Connection) {
    metrics::counter!("countersign_plain_connections_total").increment(1);
    let (id, address) = (connection.id, connection.address());
    tracing::warn!(connection = %id, ?address, "plain http is served: mode none proves nobody and hides nothing");
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
