//! Who learns how a handshake went. A refusal inside the handshake never reaches a handler, so this
//! is the only way into the ledger for it.

use std::{net::SocketAddr, time::Duration};

use countersign_identity::SpiffeId;
use countersign_keys::{SystemRandom, random_bytes};
use countersign_ledger::CheckRecord;
pub use countersign_ledger::ConnectionId;
use countersign_pki::verify::PeerError;
use thiserror::Error;

/// A new name. Not a secret and never an argument for a decision, so a failing generator costs uniqueness only.
#[must_use]
pub fn new_connection_id() -> ConnectionId {
    ConnectionId::from_random(random_bytes(&SystemRandom::new()).map_or(0, u64::from_be_bytes))
}

/// Called once per handshake, admitted or refused. Must not block: the connection waits for it.
pub trait HandshakeObserver: Send + Sync {
    /// How it went.
    fn handshake(&self, report: &HandshakeReport);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl HandshakeObserver for Unobserved {
    fn handshake(&self, _report: &HandshakeReport) {}
}

/// One finished handshake.
#[derive(Clone, Debug)]
pub struct HandshakeReport {
    /// On which connection.
    pub connection: ConnectionId,
    /// From where.
    pub address: Option<SocketAddr>,
    /// Who the peer says it is; proven only if the outcome is [`HandshakeOutcome::Admitted`].
    pub claimed: Option<SpiffeId>,
    /// The five checks: usage, validity, chain, revocation, identity.
    pub checks: Vec<CheckRecord>,
    /// Whether the connection exists now.
    pub outcome: HandshakeOutcome,
    /// How its keys were agreed on, if it exists.
    pub negotiated: Option<Negotiated>,
    /// From the first byte to this report.
    pub took: Duration,
}

/// How the two ends came to their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Was an earlier session resumed, instead of everything being proven anew?
    pub resumed: bool,
    /// The group of the key exchange by its registered name (RFC 8446 section 4.2.7), such as `X25519MLKEM768`.
    pub group: &'static str,
}

impl Negotiated {
    /// What was negotiated in a handshake that is over.
    pub(super) fn of(session: &rustls::CommonState) -> Option<Self> {
        let resumed = session.handshake_kind()? == rustls::HandshakeKind::Resumed;
        let group = session.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
        Some(Self { resumed, group: group.unwrap_or("other") })
    }
}

/// How a handshake ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// The peer proved its name.
    Admitted,
    /// The peer proved nothing, and this listener allows that.
    Anonymous,
    /// There is no connection.
    Refused(HandshakeRefusal),
}

/// Why a peer was refused before it could send a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandshakeRefusal {
    /// An empty Certificate message (RFC 8446 section 4.4.2).
    #[error("no client certificate: connect with an x509-svid of this deployment")]
    NoCertificate,
    /// One of the five checks failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The CertificateVerify message does not verify: the peer does not hold the private key.
    #[error("peer does not hold the private key of the certificate that it shows")]
    NoPossession,
    /// TLS itself failed: wrong version, no common parameters, nonsense, or the peer went away.
    #[error("tls handshake failed: {why}")]
    Protocol {
        /// What the TLS library says.
        why: String,
    },
    /// Not TLS at all.
    #[error("plain http where only tls is served: connect with tls, or accept mode none")]
    Plain,
    /// It took too long.
    #[error("tls handshake was not finished in time")]
    TimedOut,
}
