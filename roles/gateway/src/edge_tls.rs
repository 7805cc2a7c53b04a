//! The edge certificate: PEM files, read again when they change, so that a renewal drops no connection.
//!
//! This is the server certificate that browsers and `curl` see. It has nothing to do with the gateway's workload
//! identity, which comes from the agent and is used upstream only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_keys::{KeyPair, Secret, sha256};
use countersign_pki::bundle::BundleSet;
use countersign_pki::verify::CrlPolicy;
use countersign_sdk::tls::{Identity, TrustState};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a PEM file that are read at most.
const PEM_BYTES_MAX: u64 = 256 * 1024;

/// Why an edge certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeCertificateError {
    /// A file could not be read.
    #[error("cannot read {path}: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The certificate file holds no certificate.
    #[error("{path} holds no PEM certificate", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The key file holds no private key of the one kind that is used here.
    #[error("{path} holds no PEM private key for ECDSA P-256 in PKCS#8", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not make an identity.
    #[error("{certificate} and {key} cannot be served: {why}", certificate = certificate.display(), key = key.display())]
    Unfit {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What is wrong with them.
        why: String,
    },
}

/// The edge certificate now in use, and where it comes from.
pub(crate) struct EdgeTls {
    certificate: PathBuf,
    key: PathBuf,
    shown: Arc<TrustState>,
    digest: Mutex<Digest>,
}

impl EdgeTls {
    /// Reads both files and checks that they fit together.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, EdgeCertificateError> {
        let tls = EdgeTls {
            certificate: certificate.to_path_buf(),
            key: key.to_path_buf(),
            shown: TrustState::new(BundleSet::default(), CrlPolicy::Require),
            digest: Mutex::default(),
        };
        tls.reload()?;
        Ok(tls)
    }

    /// What the TLS acceptor shows; always the newest.
    pub(crate) fn shown(&self) -> Arc<TrustState> {
        Arc::clone(&self.shown)
    }

    /// Looks at the files again; true when a new certificate is in use. A bad file keeps the old one.
    pub(crate) fn reload(&self) -> Result<bool, EdgeCertificateError> {
        let certificate = read_bounded(&self.certificate)?;
        let key = Secret::new(read_bounded(&self.key)?);
        // By content: a file may be replaced within one tick of its time stamp.
        let digest = (sha256(&certificate), sha256(key.expose()));
        let mut last = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == digest {
            return Ok(false);
        }
        self.shown.set_identity(self.parse(&certificate, &key)?);
        *last = digest;
        Ok(true)
    }

    /// Reloads until `shutdown`; says each new state once.
    pub(crate) async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut last_error = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
            let tls = Arc::clone(&self);
            let Ok(result) = tokio::task::spawn_blocking(move || tls.reload()).await else { continue };
            metrics::gauge!("countersign_config_reload_success").set(if result.is_ok() { 1.0 } else { 0.0 });
            let error = match result {
                Ok(true) => {
                    tracing::info!(certificate = %self.certificate.display(), "edge certificate reloaded");
                    None
                }
                Ok(false) => None,
                Err(error) => Some(error),
            };
            if error.is_some() && error != last_error {
                let why = error.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::error!(why, "edge certificate not reloaded, the old one stays in use");
            }
            last_error = error;
        }
    }

    fn parse(&self, certificate: &[u8], key: &Secret<Vec<u8>>) -> Result<Identity, EdgeCertificateError> {
        let no_certificate = || EdgeCertificateError::NoCertificate { path: self.certificate.clone() };
        let no_key = || EdgeCertificateError::NoKey { path: self.key.clone() };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| no_certificate())?;
        if chain.is_empty() {
            return Err(no_certificate());
        }
        let PrivateKeyDer::Pkcs8(pkcs8) =
            PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| no_key())?
        else {
            return Err(no_key());
        };
        let key = KeyPair::from_pkcs8(pkcs8.secret_pkcs8_der()).map_err(|_| no_key())?;
        Identity::edge(chain, &key).map_err(|error| EdgeCertificateError::Unfit {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            why: error.to_string(),
        })
    }
}

/// SHA-256 of both files.
type Digest = ([u8; 32], [u8; 32]);

fn read_bounded(path: &Path) -> Result<Vec<u8>, EdgeCertificateError> {
    use std::io::Read as _;
    let unreadable = |why: String| EdgeCertificateError::Unreadable { path: path.to_path_buf(), why };
    let file = std::fs::File::open(path).map_err(|e| unreadable(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| unreadable(e.to_string()))?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(unreadable(format!("more than {PEM_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
