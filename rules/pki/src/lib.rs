//! The public key infrastructure: what our certificates contain, who gets one, and who is believed.
//!
//! One rule, one home: [`profile`] alone says what a certificate of ours holds; [`issue`] writes it and
//! [`verify`] judges by it. [`csr`] judges what a workload asks for (a key, never content), [`revocation`]
//! takes certificates back, [`bundle`] holds the roots of each trust domain apart, and [`verify::verify_peer`]
//! is the five checks of mutual TLS: usage, validity, chain, revocation, expected identity.
//!
//! ```
//! use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
//! use countersign_keys::{KeyPair, SystemRandom};
//! use countersign_pki::{csr, issue, profile::LeafTtl};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (rng, now) = (SystemRandom::new(), UnixTime::from_secs(1_800_000_000));
//! let home = TrustDomain::parse("fleamarket.test")?;
//! let root = issue::make_root(issue::Root::Workload, &home, KeyPair::generate(&rng)?, now, [1; 16])?;
//! let issuing = issue::make_issuing(&root, &home, KeyPair::generate(&rng)?, now, [2; 16])?;
//!
//! let workload_key = KeyPair::generate(&rng)?;
//! let request = csr::Csr::parse(&csr::make(&workload_key, None)?)?;
//! let ads = SpiffeId::service(&home, "ads")?;
//! let issued = issue::issue_workload(&issuing, &request, &ads, LeafTtl::default(), now, [3; 16])?;
//! assert_eq!(issued.not_after, now.saturating_add(std::time::Duration::from_secs(3600)));
//! # Ok(())
//! # }
//! ```

pub mod acme;
pub mod bundle;
pub mod csr;
pub mod inspect;
pub mod issue;
pub mod path;
pub mod pem;
pub mod profile;
pub mod revocation;
pub mod signer;
pub mod truststore;
pub mod verify;

mod der;
mod x509;

pub use bundle::{Bundle, BundleError, BundleSet};
pub use revocation::{Crl, CrlError, RevocationReason};
pub use rustls_pki_types::CertificateDer;
pub use signer::{Signer, verify_signer};
pub use verify::{
    Check, CheckName, CheckResult, CrlPolicy, Expectation, PeerError, Usage, Verdict, verify_peer,
};
pub use x509::{CERTIFICATE_BYTES_MAX, serial_hex};
