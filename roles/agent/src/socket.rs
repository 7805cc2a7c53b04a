//! The agent's Unix socket: where it lies, who may connect, and how many.
//!
//! Every connection that leaves this module carries a pinned [`Process`]; one that cannot be pinned is closed.

use std::collections::HashMap;
use std::future::Future as _;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::attest::{self, Process, ProcessKey};
use crate::error::AgentError;
use crate::settings::SocketMode;

/// `sun_path` of unix(7) without its final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Connections at one time, of all processes together.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Connections at one time of one process.
pub(crate) const CONNECTIONS_PER_PROCESS_MAX: usize = 16;
/// A connection that says nothing for so long after it was accepted is closed.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    /// [`FIRST_BYTE_TIMEOUT`].
    patience: Duration,
}

impl Socket {
    /// Binds `path`. A socket that nobody listens on any more is replaced in one step, anything else is left alone.
    pub(crate) fn bind(path: &Path, mode: SocketMode) -> Result<Self, AgentError> {
        check_length(path)?;
        check_free(path)?;
        let fresh = beside(path);
        remove_if_there(&fresh)?;
        let listener = UnixListener::bind(&fresh).map_err(AgentError::file("bind", path))?;
        // Nobody finds the socket under its name before its permissions are right.
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode.bits()))
            .and_then(|()| std::fs::rename(&fresh, path))
            .map_err(AgentError::file("set up", path))?;
        let inode = std::fs::metadata(path).map_err(AgentError::file("look at", path))?.ino();
        Ok(Self { listener, path: path.to_owned(), inode, patience: FIRST_BYTE_TIMEOUT })
    }

    /// Connections, each with the process that made it. Ends never.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        let open = Arc::new(Open::default());
        stream::unfold((self, open), |(socket, open)| async move {
            let connection = socket.next_connection(&open).await;
            Some((Ok(connection), (socket, open)))
        })
    }

    async fn next_connection(&self, open: &Arc<Open>) -> Connection {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let refused = match attest::pin(&stream) {
                Ok(process) => match Slot::take(open, process.key()) {
                    Some(slot) => return Connection::new(stream, process, slot, self.patience),
                    None => "too_many",
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection was refused");
                    "not_pinned"
                }
            };
            metrics::counter!("countersign_agent_connections_refused_total", "reason" => refused)
                .increment(1);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A successor may have put its own socket here already.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn check_length(path: &Path) -> Result<(), AgentError> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(AgentError::SocketPathTooLong {
            path: path.to_owned(),
            bytes,
            max: SOCKET_PATH_BYTES_MAX,
        });
    }
    Ok(())
}

fn check_free(path: &Path) -> Result<(), AgentError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(AgentError::file("look at", path)(e)),
        Ok(found) if !found.file_type().is_socket() => Err(AgentError::NotASocket(path.to_owned())),
        Ok(_) => match BlockingStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            _ => Err(AgentError::SocketInUse(path.to_owned())),
        },
    }
}

/// A name of the same length in the same directory, so that it fits where `path` fits.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let rest: String = name.chars().skip(1).collect();
    path.with_file_name(format!("~{rest}"))
}

fn remove_if_there(path: &Path) -> Result<(), AgentError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(AgentError::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// How many connections each process has open.
#[derive(Debug, Default)]
struct Open(Mutex<HashMap<ProcessKey, usize>>);

/// One connection's place among the open ones.
#[derive(Debug)]
struct Slot {
    open: Arc<Open>,
    key: ProcessKey,
}

impl Slot {
    fn take(open: &Arc<Open>, key: ProcessKey) -> Option<Self> {
        let mut counts = open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.values().sum();
        let mine = counts.get(&key).copied().unwrap_or(0);
        if all >= CONNECTIONS_MAX || mine >= CONNECTIONS_PER_PROCESS_MAX {
            return None;
        }
        counts.insert(key, mine + 1);
        Some(Self { open: Arc::clone(open), key })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = counts.get(&self.key).map_or(0, |n| n.saturating_sub(1));
        if left == 0 {
            counts.remove(&self.key);
        } else {
            counts.insert(self.key, left);
        }
    }
}

/// A connection and the process at its other end.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    process: Arc<Process>,
    /// Runs until the first byte arrives.
    silence: Option<Pin<Box<Sleep>>>,
    _slot: Slot,
}

impl Connection {
    fn new(stream: UnixStream, process: Process, slot: Slot, patience: Duration) -> Self {
        let silence = Some(Box::pin(tokio::time::sleep(patience)));
        Self { stream, process: Arc::new(process), silence, _slot: slot }
    }
}

/// What each request of a connection knows about its caller.
#[derive(Debug, Clone)]
pub(crate) struct Peer(pub(crate) Arc<Process>);

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(Arc::clone(&self.process))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.silence = None;
        } else if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use futures::StreamExt as _;

    use super::*;

    fn bind(path: &Path) -> Result<Socket, AgentError> {
        Socket::bind(path, SocketMode::default())
    }

    #[tokio::test]
    async fn a_socket_path_of_107_bytes_is_accepted_and_one_more_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let room = SOCKET_PATH_BYTES_MAX - dir.path().as_os_str().len() - 1;
        let longest = dir.path().join("s".repeat(room));
        drop(bind(&longest).unwrap());
        let path = dir.path().join("s".repeat(room + 1));
        let error = bind(&path).unwrap_err();
        assert_eq!(error, AgentError::SocketPathTooLong { path, bytes: 108, max: 107 });
        assert!(error.to_string().contains("shorter state directory"));
    }

    #[tokio::test]
    async fn the_socket_is_readable_by_its_owner_alone_and_goes_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let socket = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "what a killed agent leaves behind");
        let _socket = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err(), AgentError::SocketInUse(path));
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(bind(&path).unwrap_err(), AgentError::NotASocket(path.clone()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/a.sock");
        let kind = io::ErrorKind::NotFound;
        assert_eq!(bind(&path).unwrap_err(), AgentError::File { doing: "bind", path, kind });
    }

    #[tokio::test]
    async fn one_process_cannot_take_all_connections() {
        let open = Arc::new(Open::default());
        let key = |pid| ProcessKey { pid, start_time: 1 };
        let mut slots: Vec<Slot> =
            (0..CONNECTIONS_PER_PROCESS_MAX).map(|_| Slot::take(&open, key(1)).unwrap()).collect();
        assert!(Slot::take(&open, key(1)).is_none());
        assert!(Slot::take(&open, key(2)).is_some());
        slots.pop();
        assert!(Slot::take(&open, key(1)).is_some());
    }

    #[tokio::test]
    async fn all_processes_together_have_a_limit_too() {
        let open = Arc::new(Open::default());
        let key = |n: usize| ProcessKey { pid: i32::try_from(n).unwrap(), start_time: 1 };
        let slots: Vec<Slot> = (0..CONNECTIONS_MAX).map(|n| Slot::take(&open, key(n)).unwrap()).collect();
        assert!(Slot::take(&open, key(CONNECTIONS_MAX)).is_none());
        drop(slots);
        assert!(open.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed() {
        use tokio::io::AsyncReadExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let mut socket = bind(&path).unwrap();
        socket.patience = Duration::from_millis(50);
        let mut incoming = Box::pin(socket.incoming());
        let _silent = UnixStream::connect(&path).await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        assert_eq!(connection.connect_info().0.key().pid, i32::try_from(std::process::id()).unwrap());
        let error = connection.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
