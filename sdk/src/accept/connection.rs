//! Who is at the other end of a connection, and how its bytes become requests.

use std::{fmt, net::SocketAddr, sync::Arc};

use countersign_identity::{SpiffeId, Verified, Workload};

use super::{Origin, UnixPeer};
use crate::{
    clock,
    live::Floor,
    tls::{Acceptor, ConnectionId, Peer},
};

/// How bytes become requests.
#[derive(Clone, Debug)]
pub enum Transport {
    /// TLS, whose handshake judges the peer.
    Tls(Acceptor),
    /// No TLS: Unix sockets, and loopback where the settings name it insecure.
    Plain,
    /// What the floor of a service says at the moment: whether a client certificate is demanded, and whether plain
    /// HTTP is served on the same port.
    ByFloor(Acceptor, Floor),
}

/// Who is at the other end: in the extensions of every request that [`super::serve`] passes on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Name of the connection in the ledger.
    pub id: ConnectionId,
    /// Where it came from.
    pub origin: Origin,
    /// The workload that proved itself in the handshake. `None` is a stranger, and stays one.
    pub peer: Option<Arc<Peer>>,
    /// The host that the client named in the TLS handshake (RFC 6066 section 3), lower case. Workloads
    /// name none, and neither does who connects to an address.
    pub server_name: Option<Arc<str>>,
    /// Could the peer have shown a certificate?
    pub asks_for_certificate: bool,
    /// What only the two ends of a TLS connection know of it (RFC 9266): a proof that names it is good on this
    /// connection and no other. `None` without TLS.
    pub exporter: Option<Exporter>,
}

/// The channel binding `tls-exporter` of one connection. A secret of its two ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Exporter([u8; EXPORTER_BYTES]);

impl Exporter {
    /// What the TLS library exported.
    #[must_use]
    pub const fn new(exported: [u8; EXPORTER_BYTES]) -> Self {
        Self(exported)
    }

    /// The exported bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; EXPORTER_BYTES] {
        &self.0
    }

    /// Of either end. Once for each connection and not with its first proof: what exports it goes into the HTTP stream,
    /// and it costs a thousandth of the handshake.
    pub(crate) fn of<End>(session: &rustls::ConnectionCommon<End>) -> Option<Self> {
        session.export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, Some(&[])).ok().map(Self)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter(..)")
    }
}

impl Connection {
    /// The proven workload, if it is still believed at this moment.
    #[must_use]
    pub fn workload(&self) -> Option<Verified<Workload>> {
        self.peer.as_ref()?.workload(clock::now()).ok()
    }

    /// The SPIFFE ID of [`Connection::workload`].
    #[must_use]
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        self.workload().map(|workload| workload.id.clone())
    }

    /// Its address; a Unix socket has none.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self.origin {
            Origin::Tcp(address) => Some(address),
            Origin::Unix(_) => None,
        }
    }

    /// The process behind a Unix socket.
    #[must_use]
    pub const fn unix(&self) -> Option<UnixPeer> {
        match self.origin {
            Origin::Unix(peer) => Some(peer),
            Origin::Tcp(_) => None,
        }
    }
}

/// Label and length of the channel binding (RFC 9266 section 2).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
const EXPORTER_BYTES: usize = 32;
