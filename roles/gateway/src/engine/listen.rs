//! The listening sockets: for TCP one for each worker on the same address, for a Unix socket one that all accept from.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use countersign_sdk::accept::{Origin, UnixPeer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::throttle::Seat;

/// The sockets of one port, not yet in any runtime.
pub(crate) enum Sockets {
    /// One for each worker.
    Tcp(Vec<std::net::TcpListener>),
    /// One for all.
    Unix(std::os::unix::net::UnixListener),
}

impl Sockets {
    /// Where they listen; a Unix socket has no address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Sockets::Tcp(sockets) => sockets.first()?.local_addr().ok(),
            Sockets::Unix(_) => None,
        }
    }

    /// A share for each worker.
    pub(super) fn split(self, workers: usize) -> io::Result<Vec<Socket>> {
        match self {
            Sockets::Tcp(sockets) => Ok(sockets.into_iter().map(Socket::Tcp).collect()),
            Sockets::Unix(socket) => (0..workers).map(|_| socket.try_clone().map(Socket::Unix)).collect(),
        }
    }
}

/// Listens on `address` once for each of `workers`. Port 0 becomes the same free port for all.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Sockets> {
    if address.port() != 0 {
        // Whoever sets SO_REUSEPORT shares the port with every process of its user that does so too, a second gateway
        // for example: nobody may be there yet.
        drop(std::net::TcpListener::bind(address)?);
    }
    let first = listen(address)?;
    let bound = first.local_addr()?;
    let rest = (1..workers).map(|_| listen(bound));
    Ok(Sockets::Tcp(std::iter::once(Ok(first)).chain(rest).collect::<io::Result<_>>()?))
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// One worker's share of a port.
pub(super) enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The same in the worker's runtime.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    pub(super) fn into_listener(self) -> io::Result<Listener> {
        match self {
            Socket::Tcp(socket) => TcpListener::from_std(socket).map(Listener::Tcp),
            Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Listener::Unix)
            }
        }
    }
}

impl Listener {
    /// The next connection, and where it came from. Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<(Bytes, Origin)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Requests are small and wait for answers: Nagle's algorithm would only delay them.
                stream.set_nodelay(true)?;
                Ok((Bytes::Tcp(stream), Origin::Tcp(peer)))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                let peer = UnixPeer { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
                Ok((Bytes::Unix(stream), Origin::Unix(peer)))
            }
        }
    }
}

/// The bytes of a connection, over whatever they come.
#[derive(Debug)]
pub(crate) enum Bytes {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that gives its seat back when it is dropped. One of a Unix socket needs none.
pub(crate) struct Seated {
    pub(super) bytes: Bytes,
    pub(super) _seat: Option<Seat>,
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Bytes::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Bytes::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets hold nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Bytes::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Bytes::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

const BACKLOG: u32 = 1024;
