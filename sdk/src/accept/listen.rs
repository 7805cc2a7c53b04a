//! Where connections come from.

use std::{future::Future, io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// A source of connections.
pub trait Listen: Send + 'static {
    /// What is accepted.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and where it came from. Cancel safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Origin)>> + Send;
}

/// Where a connection came from, as the operating system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixPeer),
}

/// The process at the other end of a Unix socket when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixPeer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number. Numbers are reused: pin the process before trusting this.
    pub pid: Option<i32>,
}

impl Listen for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Origin)> {
        let (stream, address) = Self::accept(self).await?;
        // Requests are small and wait for answers: Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        Ok((stream, Origin::Tcp(address)))
    }
}

impl Listen for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Origin)> {
        let (stream, _) = Self::accept(self).await?;
        let peer = stream.peer_cred()?;
        let origin = Origin::Unix(UnixPeer { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() });
        Ok((stream, origin))
    }
}

/// Listens on a Unix socket at `path` with permission bits `mode`, for example `0o600`.
///
/// A socket file that a dead process left behind is replaced; one that somebody still answers on is not.
///
/// # Errors
/// The path is in use or cannot be written.
pub async fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        let why = format!("{} is in use by another process", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
