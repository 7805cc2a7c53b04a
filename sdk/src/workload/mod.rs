//! My credentials and my snapshot, kept fresh.
//!
//! [`Workload::connect`] makes a key that never leaves the process, has the agent certify it, and takes the
//! first snapshot. From then on two tasks run: one renews the certificate at half its life, one takes every
//! newer snapshot. Both swap what handshakes and requests read, so nothing is interrupted.
//!
//! [`Workload::from_files`] does without agent and authority: certificate, roots and policies come from files, which
//! are watched. Everything else is the same.

mod applied;
mod connect;
mod files;
mod renew;
mod secrets;
mod serve;
mod watch;

use std::{fmt, path::Path, path::PathBuf, sync::Arc, time::Duration};

use countersign_identity::{IdKind, SpiffeId};
use countersign_keys::PublicKey;
use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use connect::Builder;
pub use files::{FileIdentity, FileService, FilesError};
pub use serve::Serve;

use crate::{
    agent::{AgentApi, AgentError, socket_of_environment},
    authenticate::Authenticator,
    clock,
    credentials::Credentials,
    inbound::Inbound,
    live::{CompileError, Freshness, Live, LiveCell},
    outbound::{Pool, ServiceClient},
    secrets::SecretsCell,
    snapshot::SnapshotRefusal,
    spool::{Spool, SpoolError},
    tls::{Identity, IdentityError, TrustState},
};

/// A process with an identity. Cheap to clone; all clones are the same workload.
#[derive(Clone)]
pub struct Workload(Arc<Inner>);

struct Inner {
    id: SpiffeId,
    target: String,
    trust: Arc<TrustState>,
    live: Arc<LiveCell>,
    agent: AgentApi,
    spool: Arc<Spool>,
    secrets: Arc<SecretsCell>,
    authenticator: Arc<Authenticator>,
    pool: Pool,
    credentials: Credentials,
    health: Arc<Health>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// What keeps a workload from being ready, besides the age of its snapshot.
#[derive(Debug, Default)]
struct Health {
    refused_snapshot: std::sync::Mutex<Option<String>>,
}

/// Why there is no identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The agent refused, or is not configured.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// It took too long; the last attempt ended so.
    #[error("no identity after {waited:?}: {last}")]
    TimedOut {
        /// How long we tried.
        waited: Duration,
        /// How the last attempt ended.
        last: String,
    },
    /// What the agent gave is not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The agent gave one name in words and another in the certificate.
    #[error("agent speaks of {said} and certified {certified}")]
    OtherId {
        /// In words.
        said: String,
        /// In the certificate.
        certified: String,
    },
    /// A snapshot that we must not take.
    #[error(transparent)]
    Snapshot(#[from] SnapshotRefusal),
    /// A snapshot that we cannot use.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// No place for ledger records.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The machine gave no randomness, or the crypto library failed.
    #[error("no key could be made")]
    NoKey,
}

/// Why a workload should not be sent requests now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotReady {
    /// The certificate has expired and was not renewed.
    #[error("certificate has expired: neither the agent nor whoever keeps its files has renewed it")]
    CertificateExpired,
    /// Our own certificate is on a revocation list: nobody believes us any more.
    #[error("certificate was revoked: restart this process for a new key and a new certificate")]
    CertificateRevoked,
    /// The snapshot is past its `valid_until`.
    #[error("snapshot is stale: the agent has not heard from the authority")]
    SnapshotStale,
    /// Our policies cannot be loaded, so everybody is refused.
    #[error("policies cannot be loaded, everybody is refused: {why}")]
    PoliciesRefused {
        /// What is wrong with them.
        why: String,
    },
    /// A newer snapshot was offered that we must not or cannot use.
    #[error("newest snapshot was refused: {why}")]
    SnapshotRefused {
        /// Why.
        why: String,
    },
}

impl Workload {
    /// Gets an identity from the agent that `SPIFFE_ENDPOINT_SOCKET` names.
    ///
    /// # Errors
    /// Not known to the agent, or no agent for 30 seconds; see [`ConnectError`].
    pub async fn connect() -> Result<Self, ConnectError> {
        Self::connect_to(&socket_of_environment()?).await
    }

    /// Gets an identity from the agent at `socket`.
    ///
    /// # Errors
    /// As [`Workload::connect`].
    pub async fn connect_to(socket: &Path) -> Result<Self, ConnectError> {
        Self::builder(socket.to_owned()).connect().await
    }

    /// As [`Workload::connect_to`], with other settings than the usual ones.
    #[must_use]
    pub fn builder(socket: PathBuf) -> Builder {
        Builder::new(socket)
    }

    /// Who we are.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// The name under which policies speak of us: `ads`, `gateway`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.0.target
    }

    /// The newest snapshot.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        self.0.live.load()
    }

    /// The newest snapshot, and word of each newer one.
    #[must_use]
    pub fn live_cell(&self) -> &Arc<LiveCell> {
        &self.0.live
    }

    /// Our credentials and bundles, for listeners and connections of your own.
    #[must_use]
    pub fn trust(&self) -> &Arc<TrustState> {
        &self.0.trust
    }

    /// The certificate in use.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.0.trust.load().identity().cloned()
    }

    /// How often a certificate was parsed: once for each rotation, however many requests there were.
    #[must_use]
    pub fn certificates_parsed(&self) -> u64 {
        self.0.trust.rotations()
    }

    /// Where our decisions are recorded.
    #[must_use]
    pub fn spool(&self) -> &Arc<Spool> {
        &self.0.spool
    }

    /// A layer that lets nobody in whom the policy does not permit.
    #[must_use]
    pub fn require(&self) -> Inbound {
        let (authenticator, live) = (Arc::clone(&self.0.authenticator), Arc::clone(&self.0.live));
        Inbound::new(self.0.target.clone(), authenticator, live, Arc::clone(&self.0.spool))
            .signing_answers(self.0.credentials.clone())
    }

    /// Our door, for services that do not use [`Workload::require`].
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.0.authenticator
    }

    /// What we alone hold in order to verify tokens that are addressed to us.
    #[must_use]
    pub fn secrets(&self) -> &Arc<SecretsCell> {
        &self.0.secrets
    }

    /// What we prove ourselves with, besides our certificate.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// A client of a registered service: connects with the first call, expects exactly that service, and proves who we
    /// are in the mode that the newest snapshot names for us.
    #[must_use]
    pub fn client(&self, service: &str) -> ServiceClient {
        self.0.pool.client(service)
    }

    /// Is there an agent, and behind it an authority? Without one, nothing is issued to us, nobody learns our keys, and
    /// our records stay where they are.
    #[must_use]
    pub fn has_agent(&self) -> bool {
        self.0.agent.is_there()
    }

    /// Publishes the public key with which we sign internal tokens. A right of gateways.
    ///
    /// # Errors
    /// The agent or the authority refuses.
    pub async fn publish_token_key(&self, key: &PublicKey) -> Result<(), AgentError> {
        self.0.agent.publish_token_key(key.to_jwk()).await
    }

    /// Should we be sent requests?
    ///
    /// # Errors
    /// See [`NotReady`].
    pub fn ready(&self) -> Result<(), NotReady> {
        let now = clock::now();
        if self.identity().is_none_or(|identity| identity.not_after() <= now) {
            return Err(NotReady::CertificateExpired);
        }
        if self.0.trust.load().own_certificate_is_revoked() {
            return Err(NotReady::CertificateRevoked);
        }
        if self.live().freshness(now) != Freshness::Fresh {
            return Err(NotReady::SnapshotStale);
        }
        if let Err(error) = self.live().policy() {
            return Err(NotReady::PoliciesRefused { why: error.to_string() });
        }
        match self.0.health.refusal() {
            Some(why) => Err(NotReady::SnapshotRefused { why }),
            None => Ok(()),
        }
    }

    /// Ends renewal and watching, and ships what is left in the spool if somebody takes it. Call it last.
    pub async fn close(&self) {
        let spool = Arc::clone(&self.0.spool);
        // First to the disk, then from there to the authority: what nobody wrote is not shipped.
        if tokio::task::spawn_blocking(move || spool.close()).await.is_err() {
            tracing::error!("the spool could not be closed");
        }
        self.0.shutdown.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("ledger records stay in the spool: the next start ships them");
        }
    }
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workload({})", self.0.id)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Health {
    fn refusal(&self) -> Option<String> {
        self.refused_snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set_refusal(&self, why: Option<String>) {
        *self.refused_snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = why;
    }
}

/// The name under which policies speak of `id`.
fn target_of(id: &SpiffeId) -> String {
    match id.kind() {
        IdKind::Service(name) => name.to_owned(),
        IdKind::Gateway(_) => "gateway".to_owned(),
        IdKind::Authority => "authority".to_owned(),
        IdKind::Agent(_) | IdKind::TrustDomain | IdKind::Other => id.to_string(),
    }
}

const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
