//! Keys: the one crate that names a crypto library.
//!
//! Everything in Countersign that signs, verifies, seals or hashes comes through here, so that three
//! promises have one home each:
//!
//! - **Secrets are wiped and never printed.** [`Secret`] and [`KeyPair`] have a `Debug` that shows
//!   nothing, and no `Serialize`.
//! - **No signature means two things.** Whatever is not a standard format (X.509, JWS) is signed over
//!   [`domain`]`(purpose, message)`, so a signature of one purpose never verifies as another.
//! - **Sealed data opens in one place only.** A [`Sealed`] blob is bound to the trust domain, purpose,
//!   row and key version it was made for; see [`envelope`].
//!
//! Randomness is an argument ([`SecureRandom`]) and so is time; the system's generator is created at
//! the edge of the program alone.
//!
//! ```
//! use countersign_keys::{KeyPair, SystemRandom};
//!
//! let key = KeyPair::generate(&SystemRandom::new())?;
//! let signature = key.sign_fixed("ledger-head", b"size=7")?;
//! assert!(key.public_key().verify_fixed("ledger-head", b"size=7", &signature).is_ok());
//! assert!(key.public_key().verify_fixed("snapshot", b"size=7", &signature).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod agreement;
pub mod algorithm;
mod der;
pub mod domain;
pub mod envelope;
pub mod hash;
mod jwk;
pub mod jwk_set;
pub mod key_pair;
pub mod master;
pub mod process_seal;
pub mod public_key;
pub mod random;
pub mod ring;
pub mod secret;

pub use agreement::{AgreementError, AgreementJwkError, AgreementKey, AgreementPublicKey};
pub use algorithm::{Algorithm, WeakKey};
pub use domain::domain;
pub use envelope::{OpenError, SealContext, SealError, Sealed};
pub use hash::{MacKey, Sha256, constant_time_eq, hmac_sha256, sha256, sha256_hex};
pub use jwk_set::{JwkSet, JwkSetError};
pub use key_pair::{KeyError, KeyPair, SignError};
pub use master::{MasterKey, MasterKeyError};
pub use process_seal::{ProcessSeal, ProcessSealError};
pub use public_key::{JwkError, PublicKey, PublicKeyError, SignatureInvalid, TokenKeyError};
pub use random::{RandomError, SecureRandom, SystemRandom, random_bytes};
pub use ring::{Ring, RingError};
pub use secret::Secret;
