//! The running agent: what its parts share, and what happens from start to end.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_ledger::Event;
use countersign_pki::{BundleSet, CrlPolicy, csr};
use countersign_sdk::clock;
use countersign_sdk::snapshot::SnapshotKeys;
use countersign_sdk::spool::{Ship, Spool, SpoolLimits};
use countersign_sdk::tls::TrustState;
use countersign_wire::agent::ReportRequest;
use countersign_wire::node::{EntriesRequest, RenewRequest};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::admin::{self, AdminListener};
use crate::attestation::Attestor;
use crate::credential::Credential;
use crate::enroll::{self, JoinToken};
use crate::entries::Entries;
use crate::error::AgentError;
use crate::limits::Limits;
use crate::node::{Contact, Node, VERSIONS, reason};
use crate::registry::Registry;
use crate::renew::{Backoff, renew_after};
use crate::serve;
use crate::settings::{Deployment, Settings};
use crate::snapshot::{Held, Reader};
use crate::socket::Socket;
use crate::state::StateDir;

/// Reports that are on their way to the authority at one time; each holds one message in memory.
const REPORTS_MAX: usize = 16;
/// Earliest repetition of a renewal that was asked for out of turn.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// How often the log says for how long workloads can do without the authority.
const COUNTDOWN: Duration = Duration::from_secs(60);

/// What all parts of the agent share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) state: StateDir,
    /// Our own identity and what we believe, for TLS to the authority.
    pub(crate) trust: Arc<TrustState>,
    pub(crate) node: Node,
    pub(crate) registry: Arc<Registry>,
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) limits: Limits,
    pub(crate) reports: Semaphore,
    /// `None` while the agent is starting.
    pub(crate) credential: watch::Sender<Option<Arc<Credential>>>,
    pub(crate) snapshot_keys: ArcSwap<SnapshotKeys>,
    pub(crate) snapshots: watch::Sender<Option<Arc<Held>>>,
    pub(crate) renew_now: Notify,
    spool: OnceLock<Arc<Spool>>,
    spool_dir: PathBuf,
    health: Mutex<Health>,
}

/// What is wrong, for the probes.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// A snapshot needs a newer agent.
    pub(crate) snapshot_not_understood: Option<String>,
    /// The ledger contradicts what was seen of it.
    pub(crate) ledger_alarm: Option<String>,
}

/// Joins the authority if need be, serves the socket until `shutdown` is cancelled, and removes it.
///
/// # Errors
/// See [`AgentError`]. An authority out of reach is no error: what is known is served, the rest retried.
pub async fn run(
    settings: Settings,
    deployment: Deployment,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let admin = settings.admin.map(AdminListener::bind).transpose()?;
    let core = Arc::new(Core::new(&settings, &deployment)?);
    let socket = Socket::bind(&settings.socket, settings.socket_mode)?;
    tracing::info!(socket = %settings.socket.display(), "the agent listens");

    let ending = shutdown.child_token();
    let serving = tokio::spawn(serve::serve(Arc::clone(&core), socket, ending.clone()));
    let probing = admin.map(|listener| {
        tokio::spawn(admin::serve(listener, Arc::clone(&core), deployment.metrics, ending.clone()))
    });
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        stopped = live(&core, &settings, ending.clone()) => stopped,
    };
    // Whatever happened, connections are ended and the socket is removed before this returns.
    ending.cancel();
    let _ = serving.await;
    if let Some(probing) = probing {
        let _ = probing.await;
    }
    core.close().await;
    outcome
}

impl Core {
    fn new(settings: &Settings, deployment: &Deployment) -> Result<Self, AgentError> {
        let trust_domain = deployment.trust_domain.clone();
        // The CRL comes with the snapshot, and the snapshot from the authority: the first handshake has none.
        let trust = TrustState::new(BundleSet::new(), CrlPolicy::AcceptMissing);
        Ok(Self {
            state: StateDir::open(deployment.state_dir.join("agent"))?,
            node: Node::new(&settings.authority_node, &trust_domain, Arc::clone(&trust)),
            spool_dir: deployment.state_dir.join("spool").join("agent"),
            trust_domain,
            trust,
            registry: Arc::default(),
            attestor: Arc::default(),
            limits: Limits::default(),
            reports: Semaphore::new(REPORTS_MAX),
            credential: watch::Sender::new(None),
            snapshot_keys: ArcSwap::default(),
            snapshots: watch::Sender::new(None),
            renew_now: Notify::new(),
            spool: OnceLock::new(),
            health: Mutex::default(),
        })
    }

    /// From now on, this is who we are.
    fn adopt(&self, credential: Credential) -> Result<(), AgentError> {
        if self.snapshots.borrow().is_none() {
            self.trust.set_bundles(credential.bundles(&self.trust_domain)?);
        }
        self.trust.set_identity(credential.identity()?);
        self.snapshot_keys.store(Arc::new(SnapshotKeys::new(credential.snapshot_keys.clone())));
        #[expect(clippy::cast_precision_loss, reason = "a gauge; seconds since 1970 are exact in f64")]
        let expiry = credential.not_after.secs() as f64;
        metrics::gauge!("countersign_svid_expiry_timestamp_seconds").set(expiry);
        self.credential.send_replace(Some(Arc::new(credential)));
        Ok(())
    }

    /// From now on, this is what is true.
    pub(crate) fn take_snapshot(&self, held: Arc<Held>) {
        self.trust.set_bundles(held.live.bundles().clone());
        self.snapshots.send_replace(Some(held));
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event of the agent's own to the ledger.
    pub(crate) fn record(&self, event: Event) {
        match self.spool.get() {
            Some(spool) => spool.record_soon(event),
            None => tracing::error!("a ledger event came before the agent had a name"),
        }
    }

    fn open_spool(&self) -> Result<Arc<Spool>, AgentError> {
        let id = self.credential.borrow().as_ref().map(|c| c.id.clone());
        self.open_spool_of(id.ok_or(AgentError::NoJoinToken)?)
    }

    fn open_spool_of(&self, id: SpiffeId) -> Result<Arc<Spool>, AgentError> {
        let spool = Spool::open(self.spool_dir.clone(), id, SpoolLimits::default())
            .map_err(|e| AgentError::Spool(e.to_string()))?;
        Ok(Arc::clone(self.spool.get_or_init(|| spool)))
    }

    async fn close(&self) {
        if let Some(spool) = self.spool.get().cloned() {
            let _ = tokio::task::spawn_blocking(move || spool.close()).await;
        }
    }

    /// When the first and the last of the certificates that this agent handed out expire, its own included.
    pub(crate) fn keeps_until(&self) -> Option<(UnixTime, UnixTime)> {
        let own = self.credential.borrow().as_ref().map(|c| c.not_after);
        let all: Vec<UnixTime> = self.registry.certificates_end().into_iter().chain(own).collect();
        all.iter().min().copied().zip(all.iter().max().copied())
    }
}

/// Everything that goes on besides answering on the socket; returns only with an error.
async fn live(core: &Arc<Core>, settings: &Settings, ending: CancellationToken) -> Result<(), AgentError> {
    let credential = first_credential(core, settings).await?;
    core.adopt(credential)?;
    let (reader, held) = Reader::restore(&core.state, &core.snapshot_keys.load(), &core.trust_domain)?;
    if let Some(held) = held {
        core.take_snapshot(held);
    }
    core.registry.restore(&core.state)?;
    let spool = core.open_spool()?;
    core.record(Event::WriterStarted { version: env!("CARGO_PKG_VERSION").to_owned() });
    let (renewed, ..) = tokio::join!(
        keep_renewed(core, settings),
        reader.follow(core),
        follow_entries(core),
        spool.ship(OwnRecords(Arc::clone(core)), ending),
        core.registry.keep_saved(&core.state),
        count_down(core),
    );
    renewed
}

/// The credential of the last start while it is good, else the join token.
async fn first_credential(core: &Core, settings: &Settings) -> Result<Credential, AgentError> {
    match Credential::load(&core.state, &core.trust_domain) {
        Ok(Some(credential)) => return Ok(credential),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the saved credential is not used"),
    }
    enroll(core, settings).await
}

async fn enroll(core: &Core, settings: &Settings) -> Result<Credential, AgentError> {
    let file =
        settings.join_token_file.as_deref().filter(|file| file.exists()).ok_or(AgentError::NoJoinToken)?;
    let token = JoinToken::read(file)?;
    let credential = enroll::join(&settings.authority_node, &core.trust_domain, &token, &core.state).await?;
    credential.save(&core.state)?;
    enroll::joined(&core.state, file)?;
    tracing::info!(id = %credential.id, "the agent joined the authority");
    Ok(credential)
}

/// Renews our own credential at half its life; with a new join token if it expired meanwhile.
async fn keep_renewed(core: &Core, settings: &Settings) -> Result<(), AgentError> {
    let mut backoff = Backoff::default();
    let mut pause = core.own_life().map_or(RENEWAL_PAUSE, renew_after);
    loop {
        let asked_for = async {
            tokio::time::sleep(RENEWAL_PAUSE).await;
            core.renew_now.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = asked_for => {}
        }
        let expired = core.own_life().is_none();
        let renewed = if expired { enroll(core, settings).await } else { renew(core).await };
        let result =
            match renewed.and_then(|credential| credential.save(&core.state).and(core.adopt(credential))) {
                Ok(()) => {
                    backoff.reset();
                    pause = core.own_life().map_or(RENEWAL_PAUSE, renew_after);
                    "ok"
                }
                Err(error) => {
                    pause = backoff.next();
                    tracing::warn!(%error, expired, "the agent's own credential could not be renewed");
                    "failed"
                }
            };
        metrics::counter!("countersign_svid_renewals_total", "for" => "agent", "result" => result)
            .increment(1);
    }
}

impl Core {
    /// What is left of our own certificate's life; `None` if nothing.
    fn own_life(&self) -> Option<Duration> {
        let not_after = self.credential.borrow().as_ref().map(|c| c.not_after)?;
        Some(clock::until(not_after)).filter(|left| !left.is_zero())
    }
}

async fn renew(core: &Core) -> Result<Credential, AgentError> {
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|e| AgentError::Key(e.to_string()))?;
    let csr = csr::make(&key, None).map_err(|e| AgentError::Key(e.to_string()))?;
    let request = RenewRequest { versions: Some(VERSIONS), csr };
    let answer = core.node.client().renew(request).await;
    let why = answer.as_ref().err().map(reason);
    let answer = core.node.settle(answer).map_err(|_| AgentError::NotRenewed(why.unwrap_or_default()))?;
    let trust = core.trust.load();
    Credential::accept(answer, key, &core.trust_domain, Some(trust.bundles()))
}

/// Takes the registration entries from the authority for as long as the agent runs.
async fn follow_entries(core: &Core) {
    let mut renewed = core.credential.subscribe();
    let mut backoff = Backoff::default();
    'connection: loop {
        if let Ok(mut stream) = core.node.settle(core.node.client().entries(EntriesRequest {}).await) {
            loop {
                tokio::select! {
                    _ = renewed.changed() => continue 'connection,
                    message = stream.message() => match message {
                        Ok(Some(all)) => {
                            backoff.reset();
                            core.registry.set_entries(Entries::read(all.entries, &core.trust_domain));
                        }
                        Ok(None) => break,
                        Err(status) => {
                            core.node.settle_failure(&status);
                            break;
                        }
                    },
                }
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Says in the log, while the authority is out of reach, for how long workloads can do without it.
async fn count_down(core: &Core) {
    loop {
        tokio::time::sleep(COUNTDOWN).await;
        if let (Contact::Lost(_), Some((first, last))) = (core.node.contact(), core.keeps_until()) {
            let (first_s, last_s) = (clock::until(first).as_secs(), clock::until(last).as_secs());
            tracing::warn!(
                first_s,
                last_s,
                "the authority cannot be reached: certificates begin to expire in {first_s} s, the last in {last_s} s"
            );
        }
    }
}

/// Brings the agent's own ledger records to the authority.
struct OwnRecords(Arc<Core>);

impl Ship for OwnRecords {
    fn ship(&self, report: ReportRequest) -> impl Future<Output = Result<u64, Status>> + Send {
        let core = Arc::clone(&self.0);
        async move { Ok(core.node.settle(core.node.client().report(report).await)?.acknowledged) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lonely() -> (tempfile::TempDir, Core) {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            authority_node: format!("127.0.0.1:{}", countersign_testkit::free_port()),
            join_token_file: None,
            socket: dir.path().join("s"),
            socket_mode: crate::SocketMode::default(),
            admin: None,
        };
        let deployment = Deployment {
            trust_domain: TrustDomain::parse("flea.test").unwrap(),
            state_dir: dir.path().to_owned(),
            metrics: Arc::new(String::new),
        };
        let core = Core::new(&settings, &deployment).unwrap();
        (dir, core)
    }

    #[tokio::test]
    async fn a_renewal_without_the_authority_fails_and_says_why() {
        let (_dir, core) = lonely();
        let Err(AgentError::NotRenewed(why)) = renew(&core).await else { unreachable!("nobody is there") };
        assert!(why.contains("127.0.0.1"), "{why}");
        assert!(matches!(core.node.contact(), Contact::Lost(_)));
    }

    #[tokio::test]
    async fn a_spool_that_cannot_be_opened_is_named() {
        let (dir, core) = lonely();
        assert_eq!(core.open_spool().unwrap_err(), AgentError::NoJoinToken, "nobody has no records");
        std::fs::write(dir.path().join("spool"), "in the way").unwrap();
        let id = SpiffeId::parse("spiffe://flea.test/countersign/agent/n").unwrap();
        assert!(matches!(core.open_spool_of(id).unwrap_err(), AgentError::Spool(_)));
    }
}
