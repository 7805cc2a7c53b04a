//! Which process is which service.
//!
//! A registration belongs to one process of this boot (pid and start time), is made by that process itself,
//! and ends when the process does or when its entry is withdrawn. It survives a restart of the agent: the
//! processes did not restart, so they need not know.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_identity::UnixTime;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::attest::{self, Process, ProcessKey};
use crate::entries::{Entries, Entry};
use crate::error::AgentError;
use crate::state::StateDir;
use crate::svid::SvidSource;

/// Processes that are registered at one time.
pub(crate) const REGISTERED_MAX: usize = 4096;
const FILE: &str = "registrations.json";

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
            let kept = entries.still_grant(&held.entry);
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
        Self { entry, gone: CancellationToken::new(), svid: SvidSource::default(), uid, not_after }
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
