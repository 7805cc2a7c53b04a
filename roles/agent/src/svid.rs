//! The X.509-SVID of one registered process, for clients of the SPIFFE Workload API: these cannot make their
//! own key, so the agent makes it, keeps it in memory only, and renews it at half its life.
//!
//! Our own SDK does not come here: it keeps its key to itself and asks for [`Issue`](crate::agent_api).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_keys::{KeyPair, Secret, SystemRandom};
use countersign_pki::csr;
use countersign_sdk::clock;
use countersign_wire::agent::CertificatePurpose;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::agent::Core;
use crate::attest::Process;
use crate::registry::Registered;
use crate::renew::{Backoff, renew_after};

/// A certificate with its key, as the Workload API hands it out.
#[derive(Debug)]
pub(crate) struct Svid {
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// PKCS#8, DER.
    pub(crate) key: Secret<Vec<u8>>,
    pub(crate) not_after: UnixTime,
}

/// What is known at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) enum SvidState {
    /// The first one is being made.
    #[default]
    Pending,
    /// Valid until it says.
    Ready(Arc<Svid>),
    /// None can be had, for this reason.
    Refused(Code, String),
}

/// Makes and renews the certificate of one process while somebody watches it.
#[derive(Debug, Default)]
pub(crate) struct SvidSource {
    state: watch::Sender<SvidState>,
    /// Whether the task that renews it runs.
    running: Mutex<bool>,
}

impl SvidSource {
    /// The state now, and each later one.
    pub(crate) fn watch(
        core: &Arc<Core>,
        process: &Arc<Process>,
        held: &Arc<Registered>,
    ) -> watch::Receiver<SvidState> {
        let source = &held.svid;
        let mut running = source.running.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = source.state.subscribe();
        if !*running {
            *running = true;
            tokio::spawn(keep_fresh(Arc::clone(core), Arc::clone(process), Arc::clone(held)));
        }
        receiver
    }

    /// Until when the certificate that was handed out is good.
    pub(crate) fn not_after(&self) -> Option<UnixTime> {
        match &*self.state.borrow() {
            SvidState::Ready(svid) => Some(svid.not_after),
            SvidState::Pending | SvidState::Refused(..) => None,
        }
    }

    /// Whether the task may end because nobody watches; decided under the same lock as its start.
    fn stop_unwatched(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state.receiver_count() > 0 {
            return false;
        }
        *running = false;
        self.state.send_replace(SvidState::Pending);
        true
    }
}

async fn keep_fresh(core: Arc<Core>, process: Arc<Process>, held: Arc<Registered>) {
    let mut backoff = Backoff::default();
    loop {
        let pause = match make(&core, &process, &held).await {
            Ok(svid) => {
                backoff.reset();
                let life = clock::until(svid.not_after);
                count("ok");
                held.svid.state.send_replace(SvidState::Ready(Arc::new(svid)));
                renew_after(life)
            }
            Err(status) => {
                count("failed");
                held.svid.settle_failure(&status);
                backoff.next()
            }
        };
        tokio::select! {
            () = held.gone.cancelled() => return,
            () = held.svid.expired_or_after(pause) => {}
        }
        if held.svid.stop_unwatched() {
            return;
        }
    }
}

impl SvidSource {
    /// An old certificate is kept as long as it is valid, whatever the renewal says; except when the
    /// authority says that this process is nobody any more.
    fn settle_failure(&self, status: &Status) {
        tracing::warn!(code = ?status.code(), reason = status.message(), "a workload's certificate could not be renewed");
        let still_good = self.not_after().is_some_and(|until| until > clock::now());
        if !still_good || status.code() == Code::PermissionDenied {
            self.state.send_replace(SvidState::Refused(status.code(), status.message().to_owned()));
        }
    }

    /// Waits for `pause`, or until what was handed out has expired if that is earlier.
    async fn expired_or_after(&self, pause: Duration) {
        let left = self.not_after().map_or(pause, clock::until);
        tokio::time::sleep(pause.min(left.max(Duration::from_millis(100)))).await;
    }
}

async fn make(core: &Core, process: &Process, held: &Registered) -> Result<Svid, Status> {
    let failed = |_| Status::internal("a key could not be made");
    let key = KeyPair::generate(&SystemRandom::new()).map_err(|_| failed(()))?;
    let csr = csr::make(&key, Some(&held.entry.spiffe_id)).map_err(|_| failed(()))?;
    let issued = core.issue(process, held, csr, CertificatePurpose::Tls).await?;
    let key = key.to_pkcs8().map_err(|_| failed(()))?;
    Ok(Svid { chain: issued.response.chain, key, not_after: issued.not_after })
}

fn count(result: &'static str) {
    metrics::counter!("countersign_svid_renewals_total", "for" => "workload", "result" => result)
        .increment(1);
}
