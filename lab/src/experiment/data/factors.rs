//! What an arm is made of.

use std::fmt;

use countersign_identity::{Mode, UserContext, WimseProof};
use countersign_keys::Algorithm;
use serde::{Deserialize, Serialize};

/// Every factor of the experiment at one level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factors {
    /// How each caller proves itself to the next.
    pub mode: LabMode,
    /// With which algorithm requests are signed, in `jwt` and `mtls+jwt`.
    pub signing: Option<Signing>,
    /// Which proof is sent, in `wimse`. With [`WimseProof::HttpSignature`] method, query and body are bound.
    pub wimse: Option<WimseProof>,
    /// How a user goes along.
    pub user: CarriedUser,
    /// Whether connections between services are kept.
    pub connections: Connections,
    /// Authenticated edges in a row: one more service than that.
    pub edges: u8,
    /// Bytes of each answer; 0 where a service of somebody else answers as it likes.
    pub payload_bytes: u32,
    /// X25519MLKEM768 in the handshake, or X25519 alone.
    pub post_quantum: bool,
}

/// The modes of the product, and one that only the laboratory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabMode {
    /// Plain HTTP, nobody proven.
    None,
    /// The callee proven by its certificate, the caller not.
    Tls,
    /// As the product's.
    Bearer,
    /// As the product's.
    Macaroon,
    /// As the product's.
    Jwt,
    /// As the product's.
    Wimse,
    /// As the product's.
    Mtls,
    /// As the product's.
    #[serde(rename = "mtls+jwt")]
    MtlsJwt,
}

impl LabMode {
    /// All of them, the weakest first.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Tls,
        Self::Bearer,
        Self::Macaroon,
        Self::Jwt,
        Self::Wimse,
        Self::Mtls,
        Self::MtlsJwt,
    ];

    /// What the callee's registration accepts, the caller's sends, and the callee counts as verified. Of callers that
    /// prove nothing the product knows one kind, whatever carries them.
    #[must_use]
    pub const fn verified_as(self) -> Mode {
        match self {
            Self::None | Self::Tls => Mode::None,
            Self::Bearer => Mode::Bearer,
            Self::Macaroon => Mode::Macaroon,
            Self::Jwt => Mode::Jwt,
            Self::Wimse => Mode::Wimse,
            Self::Mtls => Mode::Mtls,
            Self::MtlsJwt => Mode::MtlsJwt,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            other => other.verified_as().as_str(),
        }
    }

    /// Is there a TLS handshake?
    #[must_use]
    pub const fn shakes_hands(self) -> bool {
        !matches!(self, Self::None)
    }

    /// The mode of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl fmt::Display for LabMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// With what requests are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// ECDSA on P-256, by a key that the authority certified: what the product does by itself.
    Es256,
    /// Ed25519, by a key that was registered for the service.
    Ed25519,
    /// RSA of 2048 bits, registered likewise: the form of the thesis.
    Rs256,
}

impl Signing {
    /// Its name in a JWS header.
    #[must_use]
    pub fn jose_name(self) -> &'static str {
        match self {
            Self::Es256 => Algorithm::EcdsaP256,
            Self::Ed25519 => Algorithm::Ed25519,
            Self::Rs256 => Algorithm::RsaPkcs1Sha256,
        }
        .jose_name()
    }
}

/// How a user goes along with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarriedUser {
    /// Services call for themselves.
    None,
    /// One internal token for all hops (figure 4.2).
    Same,
    /// One from the token service for each hop of each request (figure 4.3).
    PerHop,
    /// Inside the caller's own signed token (section 4.2.2).
    Nested,
}

impl CarriedUser {
    /// What registrations say of it.
    #[must_use]
    pub const fn context(self) -> UserContext {
        match self {
            Self::None | Self::Same => UserContext::Same,
            Self::PerHop => UserContext::PerHop,
            Self::Nested => UserContext::Nested,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            other => other.context().as_str(),
        }
    }
}

/// What becomes of a connection between two services after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connections {
    /// It is used for the next request: one HTTP/2 connection for each edge.
    Kept,
    /// It is closed: each request pays for its own.
    Fresh,
}

impl Connections {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Fresh => "fresh",
        }
    }
}
