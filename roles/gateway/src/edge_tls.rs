//! Edge certificates: PEM files, read again when they change, so that a renewal drops no connection.
//!
//! These are the server certificates that browsers and `curl` see. They have nothing to do with the gateway's workload
//! identity, which is used upstream only.
//!
//! ```toml
//! [gateway]
//! listen_tls = "0.0.0.0:8443"
//! tls_cert   = "flea.pem"                    # the first one
//! tls_key    = "flea.key"
//! [gateway.tls]
//! unknown_name = "refuse"                    # or "first", for clients that ask for no name that we have
//! groups = ["X25519MLKEM768", "X25519"]      # of the edge and of our own identity
//! [[gateway.tls.certificate]]                # shown to clients that ask for one of its names
//! cert = "shop.pem"
//! key  = "shop.key"
//! [gateway.tls.acme]                         # or ordered from an authority, see `acme`
//! hosts = ["www.flea.example"]
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_keys::{Secret, sha256};
use countersign_pki::bundle::BundleSet;
use countersign_pki::verify::CrlPolicy;
use countersign_sdk::tls::pem::{self, PEM_BYTES_MAX, PemFileError};
use countersign_sdk::tls::{Acceptor, Challenge, ClientAuth, Groups, Identity, TrustState, UnknownName};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::acme::settings::AcmeSettings;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Certificates of one edge.
pub(crate) const CERTIFICATES_MAX: usize = 256;

/// The table `[gateway.tls]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Groups in which keys are agreed on, the preferred one first: at the edge, and wherever we show our own identity.
    #[schemars(with = "Vec<String>")]
    pub groups: Groups,
    /// What becomes of a client that asks for a name that no certificate has, or for none: `first` or `refuse`.
    #[schemars(with = "String", extend("enum" = ["first", "refuse"]))]
    pub unknown_name: UnknownName,
    /// Speak TLS 1.2 as well, to clients that are too old for 1.3. At this listener alone: inside, 1.3 it is.
    pub allow_tls_1_2_at_this_edge: bool,
    /// Certificates besides `tls_cert`, each shown to clients that ask for one of its names.
    #[serde(rename = "certificate")]
    pub certificates: Vec<CertificateSettings>,
    /// Certificates that are ordered from an authority (ACME, RFC 8555), and renewed.
    pub acme: Option<AcmeSettings>,
}

/// One `[[gateway.tls.certificate]]`. Both files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateSettings {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key of the leaf.
    pub key: PathBuf,
}

/// Why an edge certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeCertificateError {
    /// A file cannot be read, or does not hold what it should.
    #[error(transparent)]
    File(#[from] PemFileError),
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
    /// More than [`CERTIFICATES_MAX`].
    #[error("[[gateway.tls.certificate]]: {count} certificates, at most {CERTIFICATES_MAX} are served")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// The edge certificates now in use, and where they come from.
pub(crate) struct EdgeTls {
    files: Vec<CertificateSettings>,
    shown: Arc<TrustState>,
    unknown_name: UnknownName,
    tls_1_2: bool,
    /// Hosts whose certificates are ordered, and may not be there yet.
    awaited: Vec<String>,
    sources: Mutex<Sources>,
}

/// Whose certificates are shown: those of the files come first, in their order.
#[derive(Default)]
struct Sources {
    digest: Vec<Digest>,
    of_files: Vec<Arc<Identity>>,
    ordered: BTreeMap<String, Arc<Identity>>,
}

impl EdgeTls {
    /// Reads all files and checks that they fit together. `first` is shown where no name decides.
    pub(crate) fn load(
        first: Option<CertificateSettings>,
        settings: &TlsSettings,
    ) -> Result<Self, EdgeCertificateError> {
        let files: Vec<_> = first.into_iter().chain(settings.certificates.iter().cloned()).collect();
        if files.len() > CERTIFICATES_MAX {
            return Err(EdgeCertificateError::TooMany { count: files.len() });
        }
        let tls = EdgeTls {
            files,
            shown: TrustState::new(BundleSet::default(), CrlPolicy::Require),
            unknown_name: settings.unknown_name,
            tls_1_2: settings.allow_tls_1_2_at_this_edge,
            awaited: settings.acme.as_ref().map(|acme| acme.hosts.clone()).unwrap_or_default(),
            sources: Mutex::default(),
        };
        tls.shown.set_groups(&settings.groups);
        tls.reload()?;
        Ok(tls)
    }

    /// What is shown, for listeners that judge their clients as well.
    pub(crate) fn shown(&self) -> Arc<TrustState> {
        Arc::clone(&self.shown)
    }

    /// Does the handshakes of this edge; always with the newest certificates.
    pub(crate) fn acceptor(&self) -> Acceptor {
        let acceptor = Acceptor::new(Arc::clone(&self.shown), ClientAuth::Never)
            .by_name(self.unknown_name)
            .awaiting(self.awaited.iter().cloned());
        if self.tls_1_2 { acceptor.allowing_tls_1_2() } else { acceptor }
    }

    /// Looks at the files again; true when new certificates are in use. A bad file keeps all of the old ones.
    pub(crate) fn reload(&self) -> Result<bool, EdgeCertificateError> {
        let read = self.files.iter().map(Pair::read).collect::<Result<Vec<_>, _>>()?;
        let digest: Vec<_> = read.iter().map(Pair::digest).collect();
        let mut sources = self.sources();
        if sources.digest == digest {
            return Ok(false);
        }
        let pairs = self.files.iter().zip(&read);
        let identities = pairs.map(|(files, pair)| pair.identity(files).map(Arc::new));
        sources.of_files = identities.collect::<Result<_, _>>()?;
        sources.digest = digest;
        self.shown.set_identities(sources.all());
        Ok(true)
    }

    /// From the next handshake on, clients that ask for `host` are shown this one, unless a file has that name.
    pub(crate) fn show_ordered(&self, host: &str, identity: Identity) {
        let mut sources = self.sources();
        sources.ordered.insert(host.to_owned(), Arc::new(identity));
        self.shown.set_identities(sources.all());
    }

    /// Until the next call, this validation of a host is answered, and no other.
    pub(crate) fn answer_validation(&self, challenge: Option<Challenge>) {
        self.shown.set_challenges(challenge);
    }

    /// No code that could panic runs under this lock, so a poisoned one is whole.
    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
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
                    tracing::info!(certificates = self.files.len(), "edge certificates reloaded");
                    None
                }
                Ok(false) => None,
                Err(error) => Some(error),
            };
            if error.is_some() && error != last_error {
                let why = error.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::error!(why, "edge certificates not reloaded, the old ones stay in use");
            }
            last_error = error;
        }
    }
}

impl Sources {
    fn all(&self) -> Vec<Arc<Identity>> {
        self.of_files.iter().chain(self.ordered.values()).cloned().collect()
    }
}

/// The bytes of a certificate file and of its key.
struct Pair {
    certificate: Vec<u8>,
    key: Secret<Vec<u8>>,
}

/// SHA-256 of both files. By content: a file may be replaced within one tick of its time stamp.
type Digest = ([u8; 32], [u8; 32]);

impl Pair {
    fn read(files: &CertificateSettings) -> Result<Self, PemFileError> {
        let certificate = pem::read_bounded(&files.cert, PEM_BYTES_MAX)?;
        Ok(Pair { certificate, key: Secret::new(pem::read_bounded(&files.key, PEM_BYTES_MAX)?) })
    }

    fn digest(&self) -> Digest {
        (sha256(&self.certificate), sha256(self.key.expose()))
    }

    fn identity(&self, files: &CertificateSettings) -> Result<Identity, EdgeCertificateError> {
        let chain = pem::certificates(&self.certificate, &files.cert)?;
        let key = pem::private_key(&self.key, &files.key)?;
        Identity::edge(chain, &key).map_err(|error| EdgeCertificateError::Unfit {
            certificate: files.cert.clone(),
            key: files.key.clone(),
            why: error.to_string(),
        })
    }
}
