//! Why the agent stopped, or did not start.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why [`run`](crate::run) returned. What is merely out of reach is retried and never ends up here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentError {
    /// `sun_path` of unix(7) holds 107 bytes and a NUL.
    #[error(
        "the socket path {} has {bytes} bytes and the system allows {max}: choose a shorter state directory or set agent.socket",
        path.display()
    )]
    SocketPathTooLong {
        /// The path that was asked for.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// Something other than a socket lies where the socket should be.
    #[error("{} exists and is not a socket: move it away or set agent.socket", .0.display())]
    NotASocket(PathBuf),
    /// Another process answers on the socket.
    #[error("another process listens on {}: stop it, or use another state directory", .0.display())]
    SocketInUse(PathBuf),
    /// Another agent holds the state directory.
    #[error("another agent uses {}: stop it, or use another state directory", .0.display())]
    StateInUse(PathBuf),
    /// A file or socket could not be made, read or written.
    #[error("cannot {doing} {}: {kind}", path.display())]
    File {
        /// A verb.
        doing: &'static str,
        /// The object.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// Probes and metrics are for this machine only.
    #[error("the admin address {0} is not a loopback address: use 127.0.0.1")]
    AdminNotLoopback(SocketAddr),
    /// The admin address is taken or not ours.
    #[error("cannot listen on the admin address {address}: {kind}")]
    AdminListen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// No credential and no token: the agent cannot prove that it belongs here.
    #[error(
        "no usable credential and no join token: make one with `countersign join-token` and set agent.join_token_file"
    )]
    NoJoinToken,
    /// The token file holds something else.
    #[error("{} does not hold a join token: it is one line, csj_<secret>.<hash of the root's key>", .0.display())]
    NotAJoinToken(PathBuf),
    /// Whoever answers does not hold the key whose hash the token carries. The token was not sent.
    #[error(
        "the authority at {address} is not the one that made the join token: the token was not sent; check agent.authority_node"
    )]
    WrongAuthority {
        /// Where the agent connected.
        address: String,
    },
    /// The authority refused the token: used, expired, or unknown.
    #[error("the authority refused the join token ({reason}): make a new one with `countersign join-token`")]
    JoinRefused {
        /// The authority's words.
        reason: String,
    },
    /// A key of the agent's own cannot be made, read or used.
    #[error("the agent's own key cannot be used: {0}")]
    Key(String),
    /// The spool of the agent's own ledger records cannot be used.
    #[error("the agent's ledger records cannot be kept: {0}")]
    Spool(String),
    /// The authority did not renew the agent's own credential.
    #[error("the authority did not renew the agent's credential: {0}")]
    NotRenewed(String),
    /// The authority's answer, or what was saved of one, cannot be used.
    #[error("the authority's answer cannot be used: {0}")]
    BadAnswer(String),
}

impl AgentError {
    /// For `map_err` on file work.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |e| Self::File { doing, path, kind: e.kind() }
    }
}
