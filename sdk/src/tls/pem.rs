//! Certificates and keys as they lie in files: PEM (RFC 7468), read within a limit.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use countersign_keys::{KeyPair, Secret};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _};
use thiserror::Error;

/// The most bytes of a file with certificates or a key.
pub const PEM_BYTES_MAX: u64 = 256 * 1024;

/// Why a PEM file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PemFileError {
    /// It could not be read, or is too long.
    #[error("cannot read {path}: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// No certificate in it, or something that is none under its label.
    #[error("{path} holds no PEM certificate", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No private key in it of the one kind that is used here.
    #[error(
        "{path} holds no PEM private key for ECDSA P-256 in PKCS#8: `openssl pkcs8 -topk8 -nocrypt` makes one of \"EC PRIVATE KEY\"",
        path = path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// No revocation list in it.
    #[error("{path} holds no PEM revocation list (X509 CRL)", path = path.display())]
    NoCrl {
        /// The file.
        path: PathBuf,
    },
}

/// The bytes of a file, of which there are at most `bytes_max`.
///
/// # Errors
/// [`PemFileError::Unreadable`].
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PemFileError> {
    let unreadable = |why: String| PemFileError::Unreadable { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    let read = file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(error.to_string()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        return Err(unreadable(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Every certificate among `pem`, in order, at least one; `path` is for the error.
///
/// # Errors
/// [`PemFileError::NoCertificate`].
pub fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| PemFileError::NoCertificate { path: path.to_owned() })
}

/// Every revocation list among `pem`, at least one; `path` is for the error.
///
/// # Errors
/// [`PemFileError::NoCrl`].
pub fn revocation_lists(
    pem: &[u8],
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemFileError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| PemFileError::NoCrl { path: path.to_owned() })
}

/// The one private key among `pem`; `path` is for the error.
///
/// # Errors
/// [`PemFileError::NoKey`], of two keys as well: nobody can say which is meant.
pub fn private_key(pem: &Secret<Vec<u8>>, path: &Path) -> Result<KeyPair, PemFileError> {
    let no_key = || PemFileError::NoKey { path: path.to_owned() };
    let mut keys = PrivateKeyDer::pem_slice_iter(pem.expose());
    let (Some(Ok(PrivateKeyDer::Pkcs8(pkcs8))), None) = (keys.next(), keys.next()) else {
        return Err(no_key());
    };
    KeyPair::from_pkcs8(pkcs8.secret_pkcs8_der()).map_err(|_| no_key())
}
