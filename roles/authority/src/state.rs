//! What all parts of the running authority share.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use countersign_accounts::lockout::{ADDRESSES_MAX, LOGIN_LIMIT, Throttle};
use countersign_identity::{IdKind, SpiffeId, TrustDomain, UnixTime};
use countersign_keys::MasterKey;
use countersign_pki::profile::LeafTtl;
use countersign_policy::Quota;
use countersign_sdk::tls::TrustState;
use countersign_store::Db;
use countersign_wire::agent::SignedSnapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Settings, admin_table::AdminTable, api::sts::Sts, applied::Applied, journal::Journal, keys::Keys,
    password_desk::PasswordDesk,
};

/// The running authority. Shared as `Arc`; nothing in it is locked across a wait but `publishing`.
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    /// Our own name in the ledger and in TLS.
    pub(crate) id: SpiffeId,
    pub(crate) settings: Settings,
    pub(crate) svid_ttl: LeafTtl,
    pub(crate) policy_dir: Option<PathBuf>,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) epoch: String,
    pub(crate) started_at: UnixTime,
    /// Uids that may use the admin socket.
    pub(crate) admins: Vec<u32>,
    pub(crate) db: Db,
    pub(crate) journal: Journal,
    pub(crate) master: MasterKey,
    pub(crate) keys: ArcSwap<Keys>,
    /// Our SVID, and by what agents and other callers are judged.
    pub(crate) trust: Arc<TrustState>,
    /// What the API shows to browsers and command lines.
    pub(crate) edge: Arc<TrustState>,
    pub(crate) table: AdminTable,
    /// The token service.
    pub(crate) sts: Sts,
    pub(crate) desk: PasswordDesk,
    pub(crate) throttle: Mutex<Throttle>,
    /// What an address may ask at all before it proved anything.
    pub(crate) quota: Quota<IpAddr>,
    /// The newest snapshot; `None` until the first one.
    pub(crate) snapshots: watch::Sender<Option<Arc<SignedSnapshot>>>,
    /// What each workload works by.
    pub(crate) applied: Applied,
    /// Grows with every change of what callees verify tokens with.
    pub(crate) secrets: watch::Sender<u64>,
    /// Grows with every change of a registration entry.
    pub(crate) entries: watch::Sender<u64>,
    /// Cancelled when the process ends: streams that would never end by themselves end with it.
    pub(crate) shutdown: CancellationToken,
    /// One change of modes at a time.
    pub(crate) switching: Arc<tokio::sync::Mutex<()>>,
    /// One CRL and one snapshot at a time.
    pub(crate) publishing: tokio::sync::Mutex<()>,
}

impl Authority {
    /// The agent behind an identity, if it is one of ours.
    pub(crate) fn agent_name<'a>(&self, id: &'a SpiffeId) -> Option<&'a str> {
        match id.kind() {
            IdKind::Agent(name) if *id.trust_domain() == self.trust_domain => Some(name),
            _ => None,
        }
    }

    /// A pseudonym for the ledger.
    pub(crate) fn pseudonym(&self, user_id: &str) -> String {
        countersign_ledger::pseudonym(&self.keys.load().pseudonym, user_id)
    }
}

/// A login throttle without history.
pub(crate) fn login_throttle() -> Mutex<Throttle> {
    Mutex::new(Throttle::new(LOGIN_LIMIT, ADDRESSES_MAX))
}
