//! What stands beside service and edge: a login, an authority, its API for nodes, and a socket for workloads.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak as WeakRef, atomic::AtomicU64},
};

use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::{
    NoListener, Weak, accounts,
    listener::{self, Role},
    nodes, workloads,
};

/// Its parts.
pub(super) struct House {
    pub(super) desk: accounts::Desk,
    pub(super) joining: Mutex<Vec<nodes::JoinToken>>,
    /// How many snapshots there were.
    pub(super) snapshots: AtomicU64,
    /// Ids of access tokens that count no longer.
    pub(super) taken_back: Mutex<Vec<String>>,
    authority: SocketAddr,
    nodes: SocketAddr,
    socket: PathBuf,
    _dir: TempDir,
}

/// What it listens on, before it does.
pub(super) struct Doors {
    authority: TcpListener,
    nodes: TcpListener,
    socket: UnixListener,
}

impl House {
    pub(super) async fn open() -> Result<(Self, Doors), NoListener> {
        let failed = |error: std::io::Error| NoListener::new("a port", error);
        let (authority, nodes) = (listener::bind().await?, listener::bind().await?);
        let dir = tempfile::Builder::new().prefix("weak").tempdir();
        let dir = dir.map_err(|error| NoListener::new("a directory", error))?;
        let path = dir.path().join("agent.sock");
        let socket = UnixListener::bind(&path).map_err(|error| NoListener::new("a socket", error))?;
        let house = Self {
            desk: accounts::Desk::default(),
            joining: Mutex::default(),
            snapshots: AtomicU64::default(),
            taken_back: Mutex::default(),
            authority: authority.local_addr().map_err(failed)?,
            nodes: nodes.local_addr().map_err(failed)?,
            socket: path,
            _dir: dir,
        };
        Ok((house, Doors { authority, nodes, socket }))
    }
}

impl Doors {
    pub(super) fn serve(self, weak: &Arc<Weak>, stop: &CancellationToken) {
        let whose = || -> WeakRef<Weak> { Arc::downgrade(weak) };
        tokio::spawn(listener::serve(self.authority, Role::Authority, whose(), stop.clone()));
        tokio::spawn(listener::serve(self.nodes, Role::Nodes, whose(), stop.clone()));
        tokio::spawn(workloads::serve(self.socket, whose(), stop.clone()));
    }
}

impl Weak {
    /// Where the authority is.
    #[must_use]
    pub const fn authority(&self) -> SocketAddr {
        self.house.authority
    }

    /// Where nodes ask it.
    #[must_use]
    pub const fn nodes(&self) -> SocketAddr {
        self.house.nodes
    }

    /// Where workloads ask.
    #[must_use]
    pub fn agent_socket(&self) -> &Path {
        &self.house.socket
    }
}
