//! The signed, numbered snapshot: who signs it, and when a new one may replace the old one.
//!
//! Never back within an epoch, never back to an earlier epoch, never unsigned. Whatever is refused here
//! leaves the old snapshot in force.

use countersign_identity::{CLOCK_SKEW, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey, SignError};
use countersign_wire::{
    agent::SignedSnapshot,
    codes::Code,
    snapshot::{SNAPSHOT_BYTES_MAX, Snapshot, SnapshotError},
};
use thiserror::Error;

/// Purpose in the domain separation of the signature.
const PURPOSE: &str = "snapshot";
/// Earlier epochs that are remembered: a restore is rare.
const EPOCHS_MAX: usize = 64;

/// Signs a snapshot.
///
/// # Errors
/// The crypto library failed.
pub fn sign(snapshot: &Snapshot, key: &KeyPair) -> Result<SignedSnapshot, SignError> {
    let payload = snapshot.to_payload();
    let signature = key.sign_fixed(PURPOSE, &payload)?.to_vec();
    Ok(SignedSnapshot { payload, kid: key.public_key().thumbprint().to_string(), signature })
}

/// The keys that may sign snapshots.
#[derive(Clone, Debug, Default)]
pub struct SnapshotKeys(Vec<PublicKey>);

/// Why a snapshot is not taken. In every case the old one stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotRefusal {
    /// Too large even to be hashed.
    #[error("snapshot has {bytes} bytes: at most {SNAPSHOT_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A key that may sign snapshots is not a JWK of ours.
    #[error("key for snapshots cannot be read")]
    BadKey,
    /// Signed by somebody else.
    #[error("snapshot is signed by a key that we do not know: was the authority replaced?")]
    UnknownKey,
    /// The bytes were changed.
    #[error("signature of the snapshot does not verify")]
    BadSignature,
    /// The signed bytes are not a snapshot that we may use.
    #[error(transparent)]
    Unusable(#[from] SnapshotError),
    /// A snapshot of somebody else.
    #[error("snapshot is of trust domain {got}, ours is {want}")]
    ForeignTrustDomain {
        /// Ours.
        want: TrustDomain,
        /// What it says.
        got: TrustDomain,
    },
    /// Not newer than the one at hand.
    #[error("snapshot {got} does not follow {held}")]
    Backwards {
        /// The sequence at hand.
        held: u64,
        /// The sequence that was offered.
        got: u64,
    },
    /// An epoch that was left.
    #[error("snapshot goes back to an epoch that was left")]
    EpochLeft,
    /// A new epoch that began before the snapshot at hand was made.
    #[error("snapshot of a new epoch is older than the one at hand")]
    EpochTooOld,
}

impl SnapshotRefusal {
    /// The code under which it is reported.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Backwards { .. } | Self::EpochLeft | Self::EpochTooOld => Code::SnapshotBackwards,
            Self::Unusable(_) => Code::SnapshotCritical,
            _ => Code::SnapshotSignature,
        }
    }
}

impl SnapshotKeys {
    /// Reads public JWKs.
    ///
    /// # Errors
    /// One of them is not the public key of an algorithm that we use.
    pub fn from_jwks<'a>(jwks: impl IntoIterator<Item = &'a str>) -> Result<Self, SnapshotRefusal> {
        let keys = jwks.into_iter().map(|jwk| PublicKey::from_jwk(jwk).map_err(|_| SnapshotRefusal::BadKey));
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// Takes keys that were read already.
    #[must_use]
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// Verifies the signature, then reads the snapshot.
    ///
    /// # Errors
    /// See [`SnapshotRefusal`].
    pub fn verify(
        &self,
        signed: &SignedSnapshot,
        trust_domain: &TrustDomain,
    ) -> Result<Snapshot, SnapshotRefusal> {
        if signed.payload.len() > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotRefusal::TooLarge { bytes: signed.payload.len() });
        }
        let key = self.0.iter().find(|key| key.thumbprint() == signed.kid);
        let key = key.ok_or(SnapshotRefusal::UnknownKey)?;
        key.verify_fixed(PURPOSE, &signed.payload, &signed.signature)
            .map_err(|_| SnapshotRefusal::BadSignature)?;
        let snapshot = Snapshot::parse(&signed.payload)?;
        if snapshot.trust_domain != *trust_domain {
            let got = snapshot.trust_domain;
            return Err(SnapshotRefusal::ForeignTrustDomain { want: trust_domain.clone(), got });
        }
        Ok(snapshot)
    }
}

/// How far a reader has come. Judges order alone; the signature was verified before.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    current: Option<Place>,
    left: Vec<String>,
}

#[derive(Clone, Debug)]
struct Place {
    epoch: String,
    sequence: u64,
    issued_at: UnixTime,
}

impl Progress {
    /// Epoch and sequence at hand; empty and zero before the first snapshot.
    #[must_use]
    pub fn at(&self) -> (&str, u64) {
        self.current.as_ref().map_or(("", 0), |place| (place.epoch.as_str(), place.sequence))
    }

    /// Moves to `snapshot`, if it is newer than everything before it.
    ///
    /// # Errors
    /// It would lead back. Nothing has moved then.
    pub fn advance(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotRefusal> {
        if let Some(held) = &self.current {
            if held.epoch == snapshot.epoch {
                if snapshot.sequence <= held.sequence {
                    let (held, got) = (held.sequence, snapshot.sequence);
                    return Err(SnapshotRefusal::Backwards { held, got });
                }
            } else if self.left.contains(&snapshot.epoch) {
                return Err(SnapshotRefusal::EpochLeft);
            } else if snapshot.issued_at.saturating_add(CLOCK_SKEW) < held.issued_at {
                return Err(SnapshotRefusal::EpochTooOld);
            } else {
                self.left.push(held.epoch.clone());
                if self.left.len() > EPOCHS_MAX {
                    self.left.remove(0);
                }
            }
        }
        self.current = Some(Place {
            epoch: snapshot.epoch.clone(),
            sequence: snapshot.sequence,
            issued_at: snapshot.issued_at,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use countersign_keys::SystemRandom;
    use countersign_wire::snapshot::{AccessTokenKeys, Policies};

    fn snapshot(epoch: &str, sequence: u64) -> Snapshot {
        Snapshot {
            format: countersign_wire::snapshot::FORMAT,
            trust_domain: td("fleamarket.test"),
            epoch: epoch.into(),
            sequence,
            issued_at: UnixTime::from_secs(1_800_000_000),
            valid_until: UnixTime::from_secs(1_800_000_060),
            critical: Vec::new(),
            bundles: Vec::new(),
            access_token: AccessTokenKeys { issuer: "i".into(), audience: "a".into(), keys: Vec::new() },
            internal_token_keys: Vec::new(),
            services: Vec::new(),
            policies: Policies { generation: 1, files: Vec::new() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: Vec::new(),
            workload_keys: Vec::new(),
            revoked: Default::default(),
            sts: None,
        }
    }

    fn td(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn key() -> KeyPair {
        KeyPair::generate(&SystemRandom::new()).unwrap()
    }

    fn keys(key: &KeyPair) -> SnapshotKeys {
        SnapshotKeys::from_jwks([key.public_key().to_jwk().as_str()]).unwrap()
    }

    #[test]
    fn accepts_what_a_known_key_signed() {
        let key = key();
        let signed = sign(&snapshot("e1", 7), &key).unwrap();
        let read = keys(&key).verify(&signed, &td("fleamarket.test")).unwrap();
        assert_eq!(read, snapshot("e1", 7));
    }

    #[test]
    fn rejects_a_changed_byte_another_key_and_another_trust_domain() {
        let key = key();
        let home = td("fleamarket.test");
        let signed = sign(&snapshot("e1", 7), &key).unwrap();

        let mut changed = signed.clone();
        changed.payload[10] ^= 1;
        assert_eq!(keys(&key).verify(&changed, &home), Err(SnapshotRefusal::BadSignature));
        let stranger = keys(&self::key());
        assert_eq!(stranger.verify(&signed, &home), Err(SnapshotRefusal::UnknownKey));
        let refused = keys(&key).verify(&signed, &td("other.test")).unwrap_err();
        assert!(matches!(refused, SnapshotRefusal::ForeignTrustDomain { .. }));
        assert_eq!(refused.code(), Code::SnapshotSignature);
    }

    #[test]
    fn rejects_a_signature_that_was_made_for_another_purpose() {
        let key = key();
        let mut signed = sign(&snapshot("e1", 7), &key).unwrap();
        signed.signature = key.sign_fixed("ledger-head", &signed.payload).unwrap().to_vec();
        let refused = keys(&key).verify(&signed, &td("fleamarket.test"));
        assert_eq!(refused, Err(SnapshotRefusal::BadSignature));
    }

    #[test]
    fn rejects_what_is_too_large_or_not_a_snapshot_and_a_key_that_is_none() {
        let key = key();
        let home = td("fleamarket.test");
        let payload = vec![b' '; SNAPSHOT_BYTES_MAX + 1];
        let huge = SignedSnapshot { payload, ..SignedSnapshot::default() };
        let bytes = SNAPSHOT_BYTES_MAX + 1;
        assert_eq!(keys(&key).verify(&huge, &home), Err(SnapshotRefusal::TooLarge { bytes }));

        let payload = b"{\"format\":2}".to_vec();
        let signature = key.sign_fixed(PURPOSE, &payload).unwrap().to_vec();
        let kid = key.public_key().thumbprint().to_string();
        let refused = keys(&key).verify(&SignedSnapshot { payload, kid, signature }, &home).unwrap_err();
        assert!(matches!(&refused, SnapshotRefusal::Unusable(SnapshotError::Format { got: 2 })), "{refused}");
        assert_eq!(refused.code(), Code::SnapshotCritical);
        assert_eq!(SnapshotKeys::from_jwks(["{}"]).unwrap_err(), SnapshotRefusal::BadKey);
    }

    #[test]
    fn never_goes_back_within_an_epoch_nor_to_an_epoch_that_was_left() {
        let mut progress = Progress::default();
        progress.advance(&snapshot("e1", 7)).unwrap();
        let back = SnapshotRefusal::Backwards { held: 7, got: 7 };
        assert_eq!(progress.advance(&snapshot("e1", 7)), Err(back.clone()));
        assert_eq!(back.code(), Code::SnapshotBackwards);
        progress.advance(&snapshot("e2", 1)).unwrap();
        assert_eq!(progress.advance(&snapshot("e1", 8)), Err(SnapshotRefusal::EpochLeft));
        assert_eq!(progress.at(), ("e2", 1));
    }

    #[test]
    fn a_new_epoch_must_have_begun_after_what_we_hold() {
        let mut progress = Progress::default();
        progress.advance(&snapshot("e1", 7)).unwrap();
        let mut old = snapshot("e0", 900);
        old.issued_at = old.issued_at.saturating_sub(CLOCK_SKEW * 2);
        assert_eq!(progress.advance(&old), Err(SnapshotRefusal::EpochTooOld));
    }
}
