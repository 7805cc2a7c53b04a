//! Sealed data: AES-256-GCM under the master key, bound to the one place it was made for.
//!
//! A blob is `version ‖ master mark ‖ context mark ‖ nonce ‖ ciphertext ‖ tag`. The two marks let a failure
//! say *why*: under another master key, or moved here from another row, or damaged. They do not replace
//! the authentication tag, which covers the context as associated data and alone decides.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use countersign_identity::TrustDomain;

use crate::{
    MasterKey, RandomError, Secret, SecureRandom, constant_time_eq, domain, hmac_sha256, random_bytes,
};

/// An opaque sealed blob, safe to store anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

/// What a blob is bound to. Opening it anywhere else fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealContext<'a> {
    /// Whose secret it is.
    pub trust_domain: &'a TrustDomain,
    /// What it is for, such as `issuing-ca`.
    pub purpose: &'a str,
    /// The row that holds it.
    pub row_id: &'a str,
    /// Which version of the key it is.
    pub key_version: u32,
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The generator failed.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// More plaintext than a blob may hold.
    #[error("the secret has {bytes} bytes, more than {SEALED_BYTES_MAX}; nothing was sealed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The crypto library gave no reason.
    #[error("the crypto library could not seal")]
    Failed,
}

/// Why a blob does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short or too long for any blob.
    #[error("the sealed data has {bytes} bytes, which is no length of sealed data; restore it from a backup")]
    WrongLength {
        /// Its length.
        bytes: usize,
    },
    /// Made by a version of the format that is not known here.
    #[error("the sealed data has format version {version}; use the release that wrote it")]
    UnknownVersion {
        /// The version it states.
        version: u8,
    },
    /// Sealed under another master key.
    #[error(
        "the data is sealed under another master key; point `master_key` at the file that belongs to this state directory"
    )]
    WrongMasterKey,
    /// Sealed for another trust domain, purpose, row or key version.
    #[error(
        "the sealed data belongs to another trust domain, purpose, row or key version; rows were swapped"
    )]
    WrongContext,
    /// A byte was changed.
    #[error("the sealed data is damaged; restore it from a backup")]
    Damaged,
}

impl Sealed {
    /// Seals `plaintext` (at most [`SEALED_BYTES_MAX`]) for `context`.
    pub fn seal(
        master: &MasterKey,
        context: SealContext<'_>,
        plaintext: &[u8],
        rng: &dyn SecureRandom,
    ) -> Result<Self, SealError> {
        if plaintext.len() > SEALED_BYTES_MAX {
            return Err(SealError::TooLong { bytes: plaintext.len() });
        }
        let nonce: [u8; NONCE_LEN] = random_bytes(rng)?;
        let mut sealed = plaintext.to_vec();
        cipher(master)
            .ok_or(SealError::Failed)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.to_bytes()),
                &mut sealed,
            )
            .map_err(|_| SealError::Failed)?;
        let marks = Marks::of(master, context);
        Ok(Self([&[VERSION], &marks.master[..], &marks.context[..], &nonce[..], &sealed[..]].concat()))
    }

    /// Opens the blob if it was sealed by this master key for exactly this context.
    pub fn open(&self, master: &MasterKey, context: SealContext<'_>) -> Result<Secret<Vec<u8>>, OpenError> {
        let parts = Parts::of(&self.0)?;
        let marks = Marks::of(master, context);
        let same_master = constant_time_eq(parts.master_mark, &marks.master);
        let same_context = constant_time_eq(parts.context_mark, &marks.context);
        match decrypt(master, context, &parts) {
            // The tag does not cover the marks: a blob whose marks alone are wrong was tampered with.
            Some(secret) if same_master && same_context => Ok(secret),
            Some(_) => Err(OpenError::Damaged),
            None if !same_master => Err(OpenError::WrongMasterKey),
            None if !same_context => Err(OpenError::WrongContext),
            None => Err(OpenError::Damaged),
        }
    }

    /// Takes stored bytes. They are judged when opened.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl SealContext<'_> {
    /// Each part with its length before it, so that no two contexts share their bytes.
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [self.trust_domain.as_str(), self.purpose, self.row_id] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&self.key_version.to_be_bytes());
        domain("sealed-context", &bytes)
    }
}

/// A canary: sealed when a state directory is made, and opened before anything else is read or written, so
/// that a wrong master key is noticed while nothing has changed yet.
pub fn canary(
    master: &MasterKey,
    trust_domain: &TrustDomain,
    rng: &dyn SecureRandom,
) -> Result<Sealed, SealError> {
    Sealed::seal(master, canary_context(trust_domain), CANARY, rng)
}

/// Opens the canary. `Ok` means: this master key belongs to this state directory and trust domain.
pub fn check_canary(
    master: &MasterKey,
    trust_domain: &TrustDomain,
    sealed: &Sealed,
) -> Result<(), OpenError> {
    let plaintext = sealed.open(master, canary_context(trust_domain))?;
    if constant_time_eq(plaintext.expose(), CANARY) { Ok(()) } else { Err(OpenError::Damaged) }
}

/// The longest plaintext of a blob.
pub const SEALED_BYTES_MAX: usize = 64 * 1024;

const VERSION: u8 = 1;
const MASTER_MARK_BYTES: usize = 8;
const CONTEXT_MARK_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const OVERHEAD_BYTES: usize = 1 + MASTER_MARK_BYTES + CONTEXT_MARK_BYTES + NONCE_LEN + TAG_BYTES;
const CANARY: &[u8] = b"this state directory belongs to this master key";

fn canary_context(trust_domain: &TrustDomain) -> SealContext<'_> {
    SealContext { trust_domain, purpose: "canary", row_id: "canary", key_version: 1 }
}

/// Short keyed marks: without the master key they tell nothing about it or the context.
struct Marks {
    master: Vec<u8>,
    context: Vec<u8>,
}

impl Marks {
    fn of(master: &MasterKey, context: SealContext<'_>) -> Self {
        let key = master.derive("sealed-marks");
        let mark =
            |message: &[u8], length| hmac_sha256(key.expose(), message).into_iter().take(length).collect();
        Self {
            master: mark(&domain("sealed-master", b""), MASTER_MARK_BYTES),
            context: mark(&context.to_bytes(), CONTEXT_MARK_BYTES),
        }
    }
}

struct Parts<'a> {
    master_mark: &'a [u8],
    context_mark: &'a [u8],
    nonce: [u8; NONCE_LEN],
    ciphertext: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let wrong_length = OpenError::WrongLength { bytes: bytes.len() };
        if !(OVERHEAD_BYTES..=OVERHEAD_BYTES + SEALED_BYTES_MAX).contains(&bytes.len()) {
            return Err(wrong_length);
        }
        let (version, rest) = bytes.split_first().ok_or(wrong_length)?;
        if *version != VERSION {
            return Err(OpenError::UnknownVersion { version: *version });
        }
        let (master_mark, rest) = rest.split_at_checked(MASTER_MARK_BYTES).ok_or(wrong_length)?;
        let (context_mark, rest) = rest.split_at_checked(CONTEXT_MARK_BYTES).ok_or(wrong_length)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(wrong_length)?;
        Ok(Self { master_mark, context_mark, nonce: *nonce, ciphertext })
    }
}

fn decrypt(master: &MasterKey, context: SealContext<'_>, parts: &Parts<'_>) -> Option<Secret<Vec<u8>>> {
    let mut buffer = Secret::new(parts.ciphertext.to_vec());
    let aad = Aad::from(context.to_bytes());
    let nonce = Nonce::assume_unique_for_key(parts.nonce);
    let plaintext = cipher(master)?.open_in_place(nonce, aad, buffer.expose_mut()).ok()?.to_vec();
    Some(Secret::new(plaintext))
}

/// One key for all blobs: nonces are random, and an authority seals far fewer than 2^32 of them.
fn cipher(master: &MasterKey) -> Option<LessSafeKey> {
    aes_256_gcm(master.derive("sealed-encryption").expose())
}

fn aes_256_gcm(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::SystemRandom;

    const SECRET: &[u8] = b"the issuing CA's private key";

    fn home() -> TrustDomain {
        TrustDomain::parse("fleamarket.test").unwrap()
    }

    fn context(trust_domain: &TrustDomain) -> SealContext<'_> {
        SealContext { trust_domain, purpose: "issuing-ca", row_id: "k_1", key_version: 3 }
    }

    fn master() -> MasterKey {
        MasterKey::generate(&SystemRandom::new()).unwrap()
    }

    #[test]
    fn opens_what_it_sealed_and_hides_it_meanwhile() {
        let (master, home) = (master(), home());
        let sealed = Sealed::seal(&master, context(&home), SECRET, &SystemRandom::new()).unwrap();
        assert_eq!(sealed.open(&master, context(&home)).unwrap().expose(), SECRET);
        assert!(!sealed.as_bytes().windows(SECRET.len()).any(|window| window == SECRET));
        assert_eq!(format!("{sealed:?}"), format!("Sealed({} bytes)", OVERHEAD_BYTES + SECRET.len()));
    }

    #[test]
    fn two_seals_of_one_secret_differ_everywhere_but_in_their_marks() {
        let (master, home) = (master(), home());
        let seal = || Sealed::seal(&master, context(&home), SECRET, &SystemRandom::new()).unwrap();
        let nonce_starts = 1 + MASTER_MARK_BYTES + CONTEXT_MARK_BYTES;
        let (one, two) = (seal(), seal());
        assert_eq!(one.as_bytes()[..nonce_starts], two.as_bytes()[..nonce_starts]);
        assert_ne!(one.as_bytes()[nonce_starts..], two.as_bytes()[nonce_starts..]);
    }

    #[test]
    fn rejects_a_blob_moved_to_another_trust_domain_purpose_row_or_version() {
        let (master, home) = (master(), home());
        let sealed = Sealed::seal(&master, context(&home), SECRET, &SystemRandom::new()).unwrap();
        let other = TrustDomain::parse("other.test").unwrap();
        let right = context(&home);
        for wrong in [
            SealContext { trust_domain: &other, ..right },
            SealContext { purpose: "edge-root", ..right },
            SealContext { row_id: "k_2", ..right },
            SealContext { key_version: 4, ..right },
        ] {
            assert_eq!(sealed.open(&master, wrong).unwrap_err(), OpenError::WrongContext);
        }
    }

    #[test]
    fn a_context_cannot_be_shifted_from_one_field_into_the_next() {
        let (master, home) = (master(), home());
        let one = SealContext { purpose: "a", row_id: "bc", ..context(&home) };
        let two = SealContext { purpose: "ab", row_id: "c", ..context(&home) };
        let sealed = Sealed::seal(&master, one, SECRET, &SystemRandom::new()).unwrap();
        assert_eq!(sealed.open(&master, two).unwrap_err(), OpenError::WrongContext);
    }

    #[test]
    fn rejects_another_master_key() {
        let home = home();
        let sealed = Sealed::seal(&master(), context(&home), SECRET, &SystemRandom::new()).unwrap();
        assert_eq!(sealed.open(&master(), context(&home)).unwrap_err(), OpenError::WrongMasterKey);
    }

    #[test]
    fn rejects_every_flipped_byte_as_damage_or_as_an_unknown_version() {
        let (master, home) = (master(), home());
        let sealed = Sealed::seal(&master, context(&home), SECRET, &SystemRandom::new()).unwrap();
        for at in 0..sealed.as_bytes().len() {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at] ^= 0x40;
            let expected = match at {
                0 => OpenError::UnknownVersion { version: VERSION ^ 0x40 },
                _ => OpenError::Damaged,
            };
            assert_eq!(
                Sealed::from_bytes(bytes).open(&master, context(&home)).unwrap_err(),
                expected,
                "byte {at}"
            );
        }
    }

    #[test]
    fn rejects_lengths_that_no_blob_has_and_secrets_that_are_too_long() {
        let (master, home) = (master(), home());
        for bytes in [0, OVERHEAD_BYTES - 1, OVERHEAD_BYTES + SEALED_BYTES_MAX + 1] {
            let blob = Sealed::from_bytes(vec![VERSION; bytes]);
            assert_eq!(blob.open(&master, context(&home)).unwrap_err(), OpenError::WrongLength { bytes });
        }
        let seal = |bytes| Sealed::seal(&master, context(&home), &vec![0; bytes], &SystemRandom::new());
        assert!(seal(SEALED_BYTES_MAX).unwrap().open(&master, context(&home)).is_ok());
        let bytes = SEALED_BYTES_MAX + 1;
        assert_eq!(seal(bytes).unwrap_err(), SealError::TooLong { bytes });
    }

    #[test]
    fn a_failed_generator_is_told_as_such_and_as_nothing_else() {
        let error = SealError::from(RandomError::Unavailable);
        assert_eq!(error, SealError::Random(RandomError::Unavailable));
        assert_eq!(error.to_string(), RandomError::Unavailable.to_string());
        assert_ne!(error.to_string(), SealError::Failed.to_string());
    }

    #[test]
    fn the_canary_knows_its_master_key_and_trust_domain() {
        let (master, home) = (master(), home());
        let sealed = canary(&master, &home, &SystemRandom::new()).unwrap();
        assert_eq!(check_canary(&master, &home, &sealed), Ok(()));
        assert_eq!(check_canary(&self::master(), &home, &sealed), Err(OpenError::WrongMasterKey));
        let other = TrustDomain::parse("other.test").unwrap();
        assert_eq!(check_canary(&master, &other, &sealed), Err(OpenError::WrongContext));
        let not_a_canary =
            Sealed::seal(&master, canary_context(&home), b"chirp", &SystemRandom::new()).unwrap();
        assert_eq!(check_canary(&master, &home, &not_a_canary), Err(OpenError::Damaged));
    }

    #[test]
    fn the_cipher_agrees_with_every_wycheproof_vector_of_its_size() {
        let Some(file) = countersign_testkit::vectors("wycheproof/aes_gcm_test.json") else { return };
        let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let mut tried = 0;
        for group in vectors["testGroups"].as_array().unwrap() {
            if (&group["keySize"], &group["ivSize"], &group["tagSize"])
                != (&256.into(), &96.into(), &128.into())
            {
                continue;
            }
            for test in group["tests"].as_array().unwrap() {
                let bytes = |field: &str| unhex(test[field].as_str().unwrap());
                let cipher = aes_256_gcm(&bytes("key").try_into().unwrap()).unwrap();
                let nonce = Nonce::assume_unique_for_key(bytes("iv").try_into().unwrap());
                let mut buffer = [bytes("ct"), bytes("tag")].concat();
                let opened = cipher.open_in_place(nonce, Aad::from(bytes("aad")), &mut buffer);
                match test["result"].as_str() {
                    Some("valid") => assert_eq!(opened.unwrap(), bytes("msg"), "{}", test["tcId"]),
                    _ => assert!(opened.is_err(), "{}", test["tcId"]),
                }
                tried += 1;
            }
        }
        assert!(tried > 60, "only {tried} vectors of AES-256-GCM were found");
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }
}
