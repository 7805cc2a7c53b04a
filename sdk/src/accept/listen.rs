//! Where connections come from.

use std::{
    fs,
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use countersign_keys::{SystemRandom, random_bytes};
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

/// Listens on a Unix socket at `path` with permission bits `mode`, for example `0o600`. Nobody can connect before it has
/// them.
///
/// A socket file that a dead process left behind is replaced; one that somebody still answers on is not, and neither is
/// anything else.
///
/// # Errors
/// The path is in use, or its directory cannot be written.
pub async fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        let why = format!("{} is in use by another process", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let why = format!("{} is there and no socket: move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let aside = Aside::beside(path)?;
    let listener = UnixListener::bind(&aside.socket)?;
    fs::set_permissions(&aside.socket, fs::Permissions::from_mode(mode))?;
    fs::rename(&aside.socket, path)?;
    Ok(listener)
}

/// A directory that only we may enter, where a socket can be made in peace.
struct Aside {
    directory: PathBuf,
    socket: PathBuf,
}

impl Aside {
    fn beside(path: &Path) -> io::Result<Self> {
        // Short: the path of a socket has room for little more than a hundred bytes.
        let [a, b, c] = random_bytes(&SystemRandom::new()).map_err(io::Error::other)?;
        let directory = path.with_file_name(format!(".{a:02x}{b:02x}{c:02x}"));
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Self { socket: directory.join("s"), directory })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        if let Err(error) = fs::remove_dir(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "a directory of a socket cannot be removed");
        }
    }
}
