//! Which process is which service.
//!
//! A registration belongs to one process of this boot (pid and start time), is made by that process itself,
//! and ends when the process does or when its entry is withdrawn. It survives a restart of the agent: the
//! processes did not restart, so they need not know.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_wire::agent::AppliedRequest;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::attest::{self, Process, ProcessKey};
use crate::entries::{Entries, Entry};
use crate::error::AgentError;
use crate::jwt_svid::JwtSvids;
use crate::state::StateDir;
use crate::svid::SvidSource;

/// Processes that are registered at one time.
pub(crate) const REGISTERED_MAX: usize = 4096;
const FILE: &str = "registrations.json";
/// A process that said nothing for so long is not waited for: it tells at least once a minute.
const SILENT_AFTER: Duration = Duration::from_secs(150);

/// A process that is a service.
#[derive(Debug)]
pub(crate) struct Registered {
    /// As the entry was when it registered.
    pub(crate) entry: Entry,
    /// Cancelled when the process has exited or its entry was withdrawn.
    pub(crate) gone: CancellationToken,
    /// Its certificate, for clients of the SPIFFE Workload API; made when first asked for.
    pub(crate) svid: SvidSource,
    uid: u32,
    /// Milliseconds since 1970; `i64::MIN` before the first certificate.
    not_after: AtomicI64,
    /// By which generations it said that it works, and when.
    applied: Mutex<Option<(AppliedRequest, UnixTime)>>,
    /// Its JWT-SVIDs that are still fresh, for clients of the SPIFFE Workload API.
    pub(crate) jwt_svids: JwtSvids,
}

/// Why a process did not become the service that it named.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum RegisterError {
    /// The authority has not told the entries of this node yet.
    #[error("the agent does not know the entries of this node yet: try again in a moment")]
    Starting,
    /// No such entry, here.
    #[error("no entry {0:?} may run on this node: see `countersign service list`")]
    NoEntry(String),
    /// Launching is a right.
    #[error("entry {name:?} may not be launched by uid {uid}: add the uid to its launch_by")]
    NotALauncher {
        /// Short name of the entry.
        name: String,
        /// Who tried.
        uid: u32,
    },
    /// One process is one service, for as long as it lives.
    #[error("this process is {0} already: start another process")]
    AlreadyAnother(String),
    /// The table is full.
    #[error("{REGISTERED_MAX} processes are registered on this node already")]
    Full,
    /// The process ended meanwhile.
    #[error("the process has exited")]
    Exited,
}

/// The table of processes and entries.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// `None` until the authority has told them.
    entries: Option<Entries>,
    registered: HashMap<ProcessKey, Arc<Registered>>,
}

impl Registry {
    /// Makes the calling process the service `wanted`. Asking again for the same is fine.
    pub(crate) fn register(
        self: &Arc<Self>,
        process: &Arc<Process>,
        wanted: &str,
    ) -> Result<Arc<Registered>, RegisterError> {
        let made = {
            let mut table = self.lock();
            let entry = table.entry_for(process.uid(), wanted)?;
            let full = table.registered.len() >= REGISTERED_MAX;
            let free = match table.registered.entry(process.key()) {
                Place::Occupied(held) if held.get().entry.id == entry.id => {
                    return Ok(Arc::clone(held.get()));
                }
                Place::Occupied(held) => {
                    return Err(RegisterError::AlreadyAnother(held.get().entry.spiffe_id.to_string()));
                }
                Place::Vacant(_) if full => return Err(RegisterError::Full),
                Place::Vacant(free) => free,
            };
            if !process.is_alive() {
                return Err(RegisterError::Exited);
            }
            Arc::clone(free.insert(Arc::new(Registered::new(entry, process.uid()))))
        };
        self.watch(Arc::clone(process), Arc::clone(&made));
        self.changed.notify_one();
        tracing::info!(spiffe_id = %made.entry.spiffe_id, pid = process.key().pid, uid = process.uid(), "a process was registered");
        Ok(made)
    }

    /// What the process is; `None` for a stranger. Its children, and others of its uid, are strangers.
    pub(crate) fn who(&self, process: &Process) -> Option<Arc<Registered>> {
        let found = self.lock().registered.get(&process.key()).cloned()?;
        (process.is_alive() && !found.gone.is_cancelled()).then_some(found)
    }

    /// Takes in all entries of this node; whoever is no longer entitled loses its registration.
    pub(crate) fn set_entries(&self, entries: Entries) {
        let mut table = self.lock();
        table.registered.retain(|_, held| {
            let kept = entries.still_grant(&held.entry, held.uid);
            if !kept {
                tracing::warn!(spiffe_id = %held.entry.spiffe_id, "an entry was withdrawn: its process is nobody now");
                held.gone.cancel();
            }
            kept
        });
        table.entries = Some(entries);
        drop(table);
        self.changed.notify_one();
    }

    /// Whether the authority has told the entries since the agent started.
    pub(crate) fn knows_entries(&self) -> bool {
        self.lock().entries.is_some()
    }

    /// When the newest certificate of each registered process expires.
    pub(crate) fn certificates_end(&self) -> Vec<UnixTime> {
        self.lock().registered.values().filter_map(|held| held.certificate_ends()).collect()
    }

    /// What the processes that are `spiffe_id` said last of what they work by, but for those that fell silent.
    pub(crate) fn applied_by(&self, spiffe_id: &SpiffeId, now: UnixTime) -> Vec<AppliedRequest> {
        let table = self.lock();
        let same = table.registered.values().filter(|held| held.entry.spiffe_id == *spiffe_id);
        same.filter_map(|held| held.applied(now)).collect()
    }

    /// How many processes are registered now.
    pub(crate) fn len(&self) -> usize {
        self.lock().registered.len()
    }

    /// Drops the registration when its process exits, without being asked.
    fn watch(self: &Arc<Self>, process: Arc<Process>, held: Arc<Registered>) {
        let registry = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = process.exited() => {}
                () = held.gone.cancelled() => {}
            }
            held.gone.cancel();
            let mut table = registry.lock();
            if table.registered.get(&process.key()).is_some_and(|now| Arc::ptr_eq(now, &held)) {
                table.registered.remove(&process.key());
            }
            drop(table);
            registry.changed.notify_one();
            tracing::info!(spiffe_id = %held.entry.spiffe_id, pid = process.key().pid, "a registration ended");
        });
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn entry_for(&self, uid: u32, wanted: &str) -> Result<Entry, RegisterError> {
        let entries = self.entries.as_ref().ok_or(RegisterError::Starting)?;
        let entry = entries.find(wanted).ok_or_else(|| RegisterError::NoEntry(wanted.to_owned()))?;
        if !entry.launch_by.contains(&uid) {
            return Err(RegisterError::NotALauncher { name: entry.name.to_string(), uid });
        }
        Ok(entry.clone())
    }
}

impl Registered {
    fn new(entry: Entry, uid: u32) -> Self {
        let not_after = AtomicI64::new(i64::MIN);
        Self {
            entry,
            gone: CancellationToken::new(),
            svid: SvidSource::default(),
            uid,
            not_after,
            applied: Mutex::default(),
            jwt_svids: JwtSvids::default(),
        }
    }

    /// Remembers by which generations the process works.
    pub(crate) fn note_applied(&self, told: AppliedRequest, now: UnixTime) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some((told, now));
    }

    fn applied(&self, now: UnixTime) -> Option<AppliedRequest> {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.as_ref().filter(|(_, at)| now.since(*at) < SILENT_AFTER).map(|(told, _)| told.clone())
    }

    /// Remembers until when the process can do without the authority.
    pub(crate) fn note_certificate(&self, not_after: UnixTime) {
        self.not_after.fetch_max(not_after.millis(), Ordering::Relaxed);
    }

    fn certificate_ends(&self) -> Option<UnixTime> {
        let millis = self.not_after.load(Ordering::Relaxed);
        (millis != i64::MIN).then(|| UnixTime::from_millis(millis))
    }

    /// For tests of what a registered process may do.
    #[cfg(test)]
    pub(crate) fn of(entry: Entry) -> Self {
        Self::new(entry, 0)
    }
}

/// What is kept of the table on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    boot_id: Option<String>,
    registered: Vec<SavedProcess>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedProcess {
    pid: i32,
    start_time: u64,
    uid: u32,
    entry: Entry,
}

impl Registry {
    /// Takes back the registrations of processes that still run, provisionally: the next word of the
    /// authority about its entries decides.
    pub(crate) fn restore(self: &Arc<Self>, state: &StateDir) -> Result<(), AgentError> {
        let Some(saved) = state.load::<Saved>(FILE)? else { return Ok(()) };
        if saved.boot_id.is_none() || saved.boot_id != boot_id() {
            return Ok(());
        }
        for saved in saved.registered.into_iter().take(REGISTERED_MAX) {
            let key = ProcessKey { pid: saved.pid, start_time: saved.start_time };
            let Some(process) = attest::restore(key, saved.uid) else { continue };
            let held = Arc::new(Registered::new(saved.entry, saved.uid));
            self.lock().registered.insert(key, Arc::clone(&held));
            self.watch(Arc::new(process), held);
        }
        Ok(())
    }

    /// Keeps the file up with the table, until it is dropped.
    pub(crate) async fn keep_saved(&self, state: &StateDir) {
        loop {
            self.changed.notified().await;
            if let Err(error) = state.save(FILE, &self.saved()) {
                tracing::error!(%error, "registrations would not survive a restart of the agent");
            }
        }
    }

    fn saved(&self) -> Saved {
        let table = self.lock();
        let registered = table.registered.iter().map(|(key, held)| SavedProcess {
            pid: key.pid,
            start_time: key.start_time,
            uid: held.uid,
            entry: held.entry.clone(),
        });
        Saved { boot_id: boot_id(), registered: registered.collect() }
    }
}

/// Start times count from the boot, so they mean nothing after another one.
fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixStream;

    use countersign_identity::TrustDomain;
    use countersign_wire::node;

    use super::*;

    /// This very process, pinned.
    fn us() -> Arc<Process> {
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        Arc::new(attest::pin(&here).unwrap())
    }

    fn entries(list: &[(&str, u32)]) -> Entries {
        let entries = list.iter().map(|(name, uid)| node::Entry {
            id: format!("id-of-{name}"),
            name: (*name).to_owned(),
            spiffe_id: format!("spiffe://flea.test/svc/{name}"),
            launch_by: vec![*uid],
        });
        Entries::read(entries.collect(), &TrustDomain::parse("flea.test").unwrap())
    }

    fn registry() -> Arc<Registry> {
        let registry = Arc::new(Registry::default());
        let uid = us().uid();
        registry.set_entries(entries(&[("ads", uid), ("users", uid), ("chat", uid + 1)]));
        registry
    }

    #[tokio::test]
    async fn a_process_is_what_it_registered_as_and_nothing_else() {
        let (registry, us) = (registry(), us());
        assert!(registry.who(&us).is_none());
        let held = registry.register(&us, "ads").unwrap();
        assert_eq!(registry.who(&us).unwrap().entry.spiffe_id.as_str(), "spiffe://flea.test/svc/ads");
        assert!(Arc::ptr_eq(&held, &registry.register(&us, "ads").unwrap()));
        let already = RegisterError::AlreadyAnother("spiffe://flea.test/svc/ads".into());
        assert_eq!(registry.register(&us, "users").unwrap_err(), already);
    }

    #[tokio::test]
    async fn rejects_a_launcher_that_the_entry_does_not_list() {
        let not_ours = RegisterError::NotALauncher { name: "chat".into(), uid: us().uid() };
        assert_eq!(registry().register(&us(), "chat").unwrap_err(), not_ours);
    }

    #[tokio::test]
    async fn rejects_an_entry_that_is_not_of_this_node_and_everything_before_the_entries_are_known() {
        assert_eq!(registry().register(&us(), "x").unwrap_err(), RegisterError::NoEntry("x".into()));
        let fresh = Arc::new(Registry::default());
        assert!(!fresh.knows_entries());
        assert_eq!(fresh.register(&us(), "ads").unwrap_err(), RegisterError::Starting);
    }

    #[tokio::test]
    async fn rejects_one_registration_more_than_the_limit() {
        let registry = registry();
        let entry = registry.lock().entry_for(us().uid(), "ads").unwrap();
        for pid in 1..=i32::try_from(REGISTERED_MAX).unwrap() {
            let key = ProcessKey { pid: -pid, start_time: 0 };
            registry.lock().registered.insert(key, Arc::new(Registered::of(entry.clone())));
        }
        assert_eq!(registry.register(&us(), "ads").unwrap_err(), RegisterError::Full);
        registry.lock().registered.remove(&ProcessKey { pid: -1, start_time: 0 });
        assert!(registry.register(&us(), "ads").is_ok());
    }

    #[tokio::test]
    async fn a_process_that_has_exited_registers_nothing_and_is_nobody() {
        let registry = registry();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .arg("--list")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start_time =
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        let key = ProcessKey { pid, start_time };
        let process = attest::restore(key, us().uid());
        child.wait().unwrap();
        let Some(process) = process else { return };
        assert_eq!(registry.register(&Arc::new(process), "ads").unwrap_err(), RegisterError::Exited);
        assert!(attest::restore(key, us().uid()).is_none());
    }

    #[tokio::test]
    async fn a_reused_pid_is_a_stranger() {
        let (registry, us) = (registry(), us());
        let held = registry.register(&us, "ads").unwrap();
        let mut table = registry.lock();
        table.registered.clear();
        let before = ProcessKey { start_time: us.key().start_time - 1, ..us.key() };
        table.registered.insert(before, held);
        drop(table);
        assert!(registry.who(&us).is_none());
    }

    #[tokio::test]
    async fn a_withdrawn_entry_takes_the_identity_with_it() {
        let (registry, us) = (registry(), us());
        let held = registry.register(&us, "ads").unwrap();
        registry.set_entries(entries(&[("users", us.uid())]));
        assert!(held.gone.is_cancelled());
        assert!(registry.who(&us).is_none());
        assert_eq!(registry.len(), 0);
    }

    #[tokio::test]
    async fn a_uid_that_may_launch_no_more_loses_what_it_launched() {
        let (registry, us) = (registry(), us());
        let held = registry.register(&us, "ads").unwrap();
        registry.set_entries(entries(&[("ads", us.uid()), ("users", us.uid() + 1)]));
        assert!(registry.who(&us).is_some(), "what changed is not about it");
        registry.set_entries(entries(&[("ads", us.uid() + 1)]));
        assert!(held.gone.is_cancelled());
        assert!(registry.who(&us).is_none());
    }

    #[tokio::test]
    async fn registrations_outlive_the_agent_and_not_the_boot() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("agent")).unwrap();
        let (registry, us) = (registry(), us());
        registry.register(&us, "ads").unwrap();
        let dead = Registered::of(registry.who(&us).unwrap().entry.clone());
        registry.lock().registered.insert(ProcessKey { pid: us.key().pid, start_time: 1 }, Arc::new(dead));
        state.save(FILE, &registry.saved()).unwrap();

        let restarted = Arc::new(Registry::default());
        restarted.restore(&state).unwrap();
        assert_eq!(restarted.len(), 1, "the other one is not this process");
        assert_eq!(restarted.who(&us).unwrap().entry.name.as_str(), "ads");
        restarted.set_entries(entries(&[("users", us.uid())]));
        assert!(restarted.who(&us).is_none(), "the authority has the last word");

        let other_boot = Saved { boot_id: Some("another".into()), ..registry.saved() };
        for saved in [other_boot, Saved { boot_id: None, ..registry.saved() }] {
            state.save(FILE, &saved).unwrap();
            let rebooted = Arc::new(Registry::default());
            rebooted.restore(&state).unwrap();
            assert_eq!(rebooted.len(), 0);
        }
    }

    #[tokio::test]
    async fn what_a_process_applied_is_known_until_it_falls_silent() {
        let (registry, us) = (registry(), us());
        let held = registry.register(&us, "ads").unwrap();
        let (id, now) = (held.entry.spiffe_id.clone(), UnixTime::from_secs(1_800_000_000));
        assert!(registry.applied_by(&id, now).is_empty());
        let told = AppliedRequest { epoch: "e".into(), sequence: 7, secrets_generation: 1 };
        held.note_applied(told.clone(), now);
        assert_eq!(registry.applied_by(&id, now), [told]);
        let other = SpiffeId::parse("spiffe://flea.test/svc/users").unwrap();
        assert!(registry.applied_by(&other, now).is_empty());
        assert!(registry.applied_by(&id, now.saturating_add(SILENT_AFTER)).is_empty());
    }

    #[tokio::test]
    async fn the_end_of_the_newest_certificate_is_remembered() {
        let (registry, us) = (registry(), us());
        let held = registry.register(&us, "ads").unwrap();
        assert!(registry.certificates_end().is_empty());
        held.note_certificate(UnixTime::from_secs(20));
        held.note_certificate(UnixTime::from_secs(10));
        assert_eq!(registry.certificates_end(), vec![UnixTime::from_secs(20)]);
    }
}
