//! Getting an identity for the first time.

use std::{path::PathBuf, sync::Arc, time::Duration};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::{CertificateDer, bundle::BundleSet, csr};
use countersign_wire::agent::{CertificatePurpose, IssueResponse};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ConnectError, Health, Inner, Workload, renew, secrets::WatchingSecrets, target_of, watch};
use crate::{
    agent::{AgentApi, AgentError},
    authenticate::Authenticator,
    clock,
    credentials::Credentials,
    live::{LiveCell, Staleness},
    outbound::{CallLimits, Pool},
    renewal,
    secrets::SecretsCell,
    snapshot::{Progress, SnapshotKeys},
    spool::{Spool, SpoolLimits},
    tls::{Identity, TrustState},
};

/// Settings of a workload.
#[derive(Clone, Debug)]
pub struct Builder {
    socket: PathBuf,
    spool: Option<PathBuf>,
    wait: Duration,
    calls: CallLimits,
    staleness: Staleness,
    spool_limits: SpoolLimits,
    signing_key: Option<KeyPair>,
}

/// A certificate that was just issued to us, with what came along.
pub(super) struct Issued {
    pub(super) identity: Identity,
    pub(super) snapshot_keys: SnapshotKeys,
    /// When renewal is due, judged by the life that was left at issue.
    pub(super) renew_in: Duration,
}

impl Builder {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            spool: None,
            wait: Duration::from_secs(30),
            calls: CallLimits::default(),
            staleness: Staleness::default(),
            spool_limits: SpoolLimits::default(),
            signing_key: None,
        }
    }

    /// Directory for ledger records; by default `spool/NAME` beside the agent's socket.
    #[must_use]
    pub fn spool(mut self, directory: PathBuf) -> Self {
        self.spool = Some(directory);
        self
    }

    /// How long to wait for an agent that is not there yet; 30 seconds by default.
    #[must_use]
    pub const fn wait(mut self, span: Duration) -> Self {
        self.wait = span;
        self
    }

    /// Limits of outgoing calls.
    #[must_use]
    pub const fn call_limits(mut self, limits: CallLimits) -> Self {
        self.calls = limits;
        self
    }

    /// What counts while the authority is not heard; by default, ten minutes of grace.
    #[must_use]
    pub const fn staleness(mut self, staleness: Staleness) -> Self {
        self.staleness = staleness;
        self
    }

    /// Limits of the spool.
    #[must_use]
    pub const fn spool_limits(mut self, limits: SpoolLimits) -> Self {
        self.spool_limits = limits;
        self
    }

    /// Signs requests in modes `jwt` and `mtls+jwt` with this key, of any algorithm that signs tokens, instead of one
    /// that is made and certified by itself. Callees believe it once its public half is registered for this service
    /// (`countersign service key add`), and until it is withdrawn.
    #[must_use]
    pub fn signing_key(mut self, registered: KeyPair) -> Self {
        self.signing_key = Some(registered);
        self
    }

    /// Gets the identity.
    ///
    /// # Errors
    /// See [`ConnectError`]. What may pass is tried again until [`Builder::wait`] is over.
    pub async fn connect(self) -> Result<Workload, ConnectError> {
        crate::tls::install_provider();
        let agent = AgentApi::new(self.socket.clone());
        let deadline = Instant::now() + self.wait;
        let issued = self.patiently(deadline, || issue(&agent)).await?;
        let Some(id) = issued.identity.id().cloned() else {
            return Err(ConnectError::Identity(crate::tls::IdentityError::NoSpiffeId));
        };
        let target = target_of(&id);
        let trust = TrustState::new(BundleSet::new(), self.staleness.lists());
        let keys = watch::Keys::new(issued.snapshot_keys.clone());
        let mut progress = Progress::default();
        let (trust_domain, staleness) = (id.trust_domain().clone(), self.staleness);
        let reader = watch::Reader { trust_domain, target: target.clone(), keys, staleness };
        let live = reader.first(&agent, &mut progress, deadline, self.wait).await?;
        trust.set_bundles(live.bundles().clone());
        trust.set_identity(issued.identity);
        let live = LiveCell::new(live);

        let spool = Spool::open(self.spool_directory(&target), id.clone(), self.spool_limits)?;
        let (calls, signing_key) = (self.calls, self.signing_key);
        let inner = Inner::assemble(Parts { id, target, trust, live, agent, spool, calls, signing_key });
        inner.start(reader, progress, issued.renew_in);
        Ok(Workload(Arc::new(inner)))
    }

    async fn patiently<T, F>(&self, deadline: Instant, attempt: impl Fn() -> F) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        let mut pause = Duration::from_millis(50);
        loop {
            match attempt().await {
                Err(ConnectError::Agent(error)) if error.is_temporary() => {
                    if Instant::now() + pause > deadline {
                        return Err(self.too_late(error.to_string()));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                ended => return ended,
            }
        }
    }

    fn too_late(&self, last: String) -> ConnectError {
        ConnectError::TimedOut { waited: self.wait, last }
    }

    fn spool_directory(&self, target: &str) -> PathBuf {
        let beside = || self.socket.parent().unwrap_or(std::path::Path::new("/")).join("spool").join(target);
        self.spool.clone().unwrap_or_else(beside)
    }
}

/// What a workload is made of, wherever it comes from.
pub(super) struct Parts {
    pub(super) id: SpiffeId,
    pub(super) target: String,
    pub(super) trust: Arc<TrustState>,
    pub(super) live: Arc<LiveCell>,
    pub(super) agent: AgentApi,
    pub(super) spool: Arc<Spool>,
    pub(super) calls: CallLimits,
    pub(super) signing_key: Option<KeyPair>,
}

impl Inner {
    /// Nothing runs yet.
    pub(super) fn assemble(parts: Parts) -> Self {
        let Parts { id, target, trust, live, agent, spool, calls, signing_key } = parts;
        let credentials = Credentials::signing_with(signing_key, id.clone(), agent.clone());
        let pool = Pool::new(Arc::clone(&trust), Arc::clone(&live), credentials.clone(), calls);
        let secrets = SecretsCell::new();
        let authenticator = Authenticator::new(id.clone(), Arc::clone(&trust), Arc::clone(&secrets));
        Self {
            id,
            target,
            trust,
            live,
            agent,
            spool,
            secrets,
            authenticator,
            pool,
            credentials,
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    fn start(&self, reader: watch::Reader, progress: Progress, renew_in: Duration) {
        let keys = reader.keys.clone();
        let renewing =
            renew::run(self.agent.clone(), self.id.clone(), Arc::clone(&self.trust), keys, renew_in);
        let watching = watch::Watching {
            agent: self.agent.clone(),
            reader,
            progress,
            trust: Arc::clone(&self.trust),
            live: Arc::clone(&self.live),
            health: Arc::clone(&self.health),
        };
        self.until_shutdown(renewing);
        self.until_shutdown(watching.run());
        self.until_shutdown(self.credentials.clone().keep(Arc::clone(&self.live)));
        let taken = tokio::sync::watch::Sender::new(0);
        self.until_shutdown(self.acknowledging(taken.subscribe()).run());
        let (agent, secrets) = (self.agent.clone(), Arc::clone(&self.secrets));
        self.until_shutdown(WatchingSecrets { agent, secrets, taken }.run());
        let shipping = Arc::clone(&self.spool).ship(self.agent.clone(), self.shutdown.clone());
        self.tasks.spawn(shipping);
    }

    pub(super) fn until_shutdown(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// A new key and its certificate.
pub(super) async fn issue(agent: &AgentApi) -> Result<Issued, ConnectError> {
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|_| ConnectError::NoKey)?;
    let request = csr::make(&key, None).map_err(|_| ConnectError::NoKey)?;
    let answer = agent.issue(request, CertificatePurpose::Tls).await?;
    accept(answer, &key, clock::now())
}

fn accept(answer: IssueResponse, key: &KeyPair, now: UnixTime) -> Result<Issued, ConnectError> {
    let chain = answer.chain.into_iter().map(CertificateDer::from).collect();
    let identity = Identity::workload(chain, key)?;
    let certified = identity.id().map(ToString::to_string).unwrap_or_default();
    if certified != answer.spiffe_id {
        return Err(ConnectError::OtherId { said: answer.spiffe_id, certified });
    }
    if answer.snapshot_keys.is_empty() {
        let why = "it names no key for snapshots".to_owned();
        return Err(ConnectError::Agent(AgentError::Failed { why }));
    }
    let snapshot_keys = SnapshotKeys::from_jwks(answer.snapshot_keys.iter().map(String::as_str))?;
    let renew_in = renewal::half_of(identity.not_after().since(now));
    Ok(Issued { identity, snapshot_keys, renew_in })
}
