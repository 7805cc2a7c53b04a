//! The signed head of the log: what somebody outside keeps, to prove later that nothing was taken back.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{TrustDomain, UnixTime, Verified};
use countersign_keys::{KeyPair, PublicKey, SignError};
use serde::{Deserialize, Serialize};

use crate::{digest::Digest, log::LogState};

/// How long the log was at a moment, and its hash then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Format of this head; [`HEAD_VERSION`].
    pub v: u16,
    /// Whose log.
    pub trust_domain: TrustDomain,
    /// Epoch of the authority that signed; a new one does not excuse a shorter log.
    pub epoch: String,
    /// How many entries.
    pub size: u64,
    /// Log hash after that many entries.
    pub hash: Digest,
    /// When it was signed.
    pub at: UnixTime,
}

impl Head {
    /// The head of `log` as of `at`.
    pub fn of(log: &LogState, trust_domain: TrustDomain, epoch: String, at: UnixTime) -> Self {
        Self { v: HEAD_VERSION, trust_domain, epoch, size: log.size(), hash: log.hash(), at }
    }
}

/// A head with its signature. As JSON it is the file that `audit head` writes and `audit verify --head` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// Exact JSON text of a [`Head`]; the signature covers these bytes.
    pub payload: String,
    /// RFC 7638 thumbprint of the ledger key.
    pub kid: String,
    /// ECDSA P-256 over `countersign/v1/ledger-head` 0x00 payload, r‖s, base64url.
    pub signature: String,
}

impl SignedHead {
    /// Signs with the authority's ledger key.
    pub fn sign(head: &Head, key: &KeyPair) -> Result<Self, HeadError> {
        let payload = serde_json::to_string(head).map_err(|_| HeadError::Unreadable)?;
        let signature = key.sign_fixed(PURPOSE, payload.as_bytes())?;
        let kid = key.public_key().thumbprint();
        Ok(Self { payload, kid, signature: URL_SAFE_NO_PAD.encode(signature) })
    }

    /// Checks the signature with the ledger key of that `kid`, then reads the head.
    pub fn verify(&self, key_of: impl Fn(&str) -> Option<PublicKey>) -> Result<Verified<Head>, HeadError> {
        if self.payload.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge { bytes: self.payload.len() });
        }
        let key = key_of(&self.kid).ok_or_else(|| HeadError::UnknownKey { kid: printable(&self.kid) })?;
        let signature = URL_SAFE_NO_PAD.decode(&self.signature).map_err(|_| HeadError::BadSignature)?;
        key.verify_fixed(PURPOSE, self.payload.as_bytes(), &signature)
            .map_err(|_| HeadError::BadSignature)?;
        let head: Head = serde_json::from_str(&self.payload).map_err(|_| HeadError::Unreadable)?;
        if head.v != HEAD_VERSION {
            return Err(HeadError::UnknownVersion { v: head.v });
        }
        Ok(Verified::vouch(head))
    }

    /// Reads the JSON form, as it lies in a file. Nothing is verified yet.
    pub fn parse(json: &str) -> Result<Self, HeadError> {
        if json.len() > 2 * HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge { bytes: json.len() });
        }
        serde_json::from_str(json).map_err(|_| HeadError::Unreadable)
    }
}

/// Judges `current` by a head that was kept from before, without the log between them.
///
/// Two heads alone show a roll-back and a fork at equal size. That a longer log really continues the kept
/// one is shown by walking it ([`crate::log::LogVerifier`]).
pub fn compare(saved: &Head, current: &Head) -> Result<Continuity, HeadMismatch> {
    if saved.trust_domain != current.trust_domain {
        return Err(HeadMismatch::OtherTrustDomain {
            saved: saved.trust_domain.clone(),
            current: current.trust_domain.clone(),
        });
    }
    match current.size.cmp(&saved.size) {
        std::cmp::Ordering::Less => {
            Err(HeadMismatch::RolledBack { saved: saved.size, current: current.size })
        }
        std::cmp::Ordering::Equal if saved.hash != current.hash => {
            Err(HeadMismatch::Forked { size: saved.size })
        }
        std::cmp::Ordering::Equal => Ok(Continuity::Same),
        std::cmp::Ordering::Greater => Ok(Continuity::Longer { by: current.size - saved.size }),
    }
}

/// What two heads that do not contradict each other say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// Nothing was appended.
    Same,
    /// Entries were appended.
    Longer {
        /// How many.
        by: u64,
    },
}

/// How a log contradicts a head that was kept from before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadMismatch {
    /// The heads are of different deployments.
    #[error("the saved head belongs to trust domain {saved}, this log to {current}")]
    OtherTrustDomain {
        /// Of the saved head.
        saved: TrustDomain,
        /// Of the log.
        current: TrustDomain,
    },
    /// The log was longer once: an older file was put back, or its tail was cut off.
    #[error(
        "the log has {current} entries, but a head of {saved} entries was saved: it was cut or rolled back"
    )]
    RolledBack {
        /// Entries then.
        saved: u64,
        /// Entries now.
        current: u64,
    },
    /// Two logs of the same length: somebody shows different histories to different people.
    #[error("the log was forked: two heads of {size} entries have different hashes")]
    Forked {
        /// Entries of both.
        size: u64,
    },
    /// The log is long enough, but it says something else than it did.
    #[error("the log was rewritten: its first {size} entries are not those of the saved head")]
    Rewritten {
        /// Entries of the saved head.
        size: u64,
    },
}

/// Why a signed head is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than [`HEAD_BYTES_MAX`].
    #[error("the signed head is {bytes} bytes long, more than a head can be")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not the JSON of a head.
    #[error("the signed head cannot be read; save it again with `audit head`")]
    Unreadable,
    /// A format of another release.
    #[error("the head has format {v}, this release reads {HEAD_VERSION}")]
    UnknownVersion {
        /// What it says.
        v: u16,
    },
    /// Signed by a key that is not this deployment's ledger key.
    #[error("the head is signed by key {kid}, which is not a ledger key of this deployment")]
    UnknownKey {
        /// Its thumbprint.
        kid: String,
    },
    /// The signature does not fit.
    #[error("the signature of the head does not fit its bytes")]
    BadSignature,
    /// Could not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

fn printable(kid: &str) -> String {
    kid.chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// Format of heads that this release writes and reads.
pub const HEAD_VERSION: u16 = 1;
/// Longest payload: a trust domain of 255 bytes and some numbers fit well.
pub const HEAD_BYTES_MAX: usize = 2048;
const PURPOSE: &str = "ledger-head";
