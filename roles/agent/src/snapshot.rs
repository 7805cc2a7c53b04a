//! What is true now: numbered, signed snapshots from the authority, judged here before any workload sees them.
//!
//! The agent passes on the exact bytes and their signature, so workloads judge again for themselves; it keeps
//! the last good one on disk, so that a restart without the authority changes nothing. The ledger's head
//! travels in it, and the agent is its witness.

use std::sync::Arc;

use countersign_identity::TrustDomain;
use countersign_ledger::Event;
use countersign_sdk::live::{CompileError, Live};
use countersign_sdk::snapshot::{Progress, SnapshotKeys, SnapshotRefusal};
use countersign_wire::Base64;
use countersign_wire::agent::{SignedSnapshot, SnapshotsRequest};
use countersign_wire::codes::Code;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::agent::Core;
use crate::error::AgentError;
use crate::heads::{Finding, Witness};
use crate::renew::Backoff;
use crate::state::StateDir;

const FILE: &str = "snapshot.json";

/// A snapshot that passed every check, with the bytes that prove it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) signed: SignedSnapshot,
    pub(crate) live: Live,
}

/// Why a snapshot is refused. The one that is held stays.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Rejected {
    /// Signature, form or order.
    #[error(transparent)]
    Refused(#[from] SnapshotRefusal),
    /// Its keys or bundles cannot be used.
    #[error(transparent)]
    Unusable(#[from] CompileError),
    /// It would leave us without anybody to believe.
    #[error("it has no bundle for our own trust domain")]
    NoOwnBundle,
}

/// Reads snapshots one after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    trust_domain: TrustDomain,
    progress: Progress,
    witness: Witness,
}

impl Reader {
    /// Goes on where the last start ended. A saved snapshot is believed no more than one from a connection.
    pub(crate) fn restore(
        state: &StateDir,
        keys: &SnapshotKeys,
        trust_domain: &TrustDomain,
    ) -> Result<(Self, Option<Arc<Held>>), AgentError> {
        let mut reader = Self {
            trust_domain: trust_domain.clone(),
            progress: Progress::default(),
            witness: Witness::restore(state)?,
        };
        let Some(Saved { payload, kid, signature }) = state.load(FILE)? else { return Ok((reader, None)) };
        let signed = SignedSnapshot { payload: payload.0, kid, signature: signature.0 };
        match reader.judge(signed, keys) {
            Ok(held) => Ok((reader, Some(Arc::new(held)))),
            Err(rejected) => {
                tracing::warn!(%rejected, "the saved snapshot is not used");
                Ok((reader, None))
            }
        }
    }

    /// Signature, form, usability, and last the order, so that a snapshot which cannot be used moves nothing.
    fn judge(&mut self, signed: SignedSnapshot, keys: &SnapshotKeys) -> Result<Held, Rejected> {
        let snapshot = keys.verify(&signed, &self.trust_domain)?;
        let live = Live::compile(snapshot, None)?;
        if live.bundles().of(&self.trust_domain).is_none() {
            return Err(Rejected::NoOwnBundle);
        }
        self.progress.advance(live.snapshot())?;
        Ok(Held { signed, live })
    }

    /// Takes snapshots from the authority for as long as the agent runs.
    pub(crate) async fn follow(mut self, core: &Core) {
        let mut renewed = core.credential.subscribe();
        let mut backoff = Backoff::default();
        loop {
            let (epoch, sequence) = self.progress.at();
            let request = SnapshotsRequest { epoch: epoch.to_owned(), sequence };
            let opened = core.node.settle(core.node.client().snapshots(request).await);
            if let Ok(mut stream) = opened {
                loop {
                    tokio::select! {
                        // A new credential means a new connection; the stream moves over before the old one ends.
                        _ = renewed.changed() => break,
                        message = stream.message() => match message {
                            Ok(Some(signed)) => {
                                backoff.reset();
                                self.take(core, signed);
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

    fn take(&mut self, core: &Core, signed: SignedSnapshot) {
        match self.judge(signed, &core.snapshot_keys.load()) {
            Ok(held) => self.publish(core, Arc::new(held)),
            // What we have already, offered again after a reconnect.
            Err(Rejected::Refused(SnapshotRefusal::Backwards { held, got })) if held == got => {}
            Err(rejected) => {
                tracing::error!(%rejected, "a snapshot is refused: the last good one stays");
                metrics::counter!("countersign_agent_snapshots_total", "result" => "refused").increment(1);
                match &rejected {
                    // The authority may have a new key; it tells which with the next credential.
                    Rejected::Refused(SnapshotRefusal::UnknownKey) => core.renew_now.notify_one(),
                    Rejected::Refused(refusal) if refusal.code() == Code::SnapshotCritical => {
                        core.health().snapshot_not_understood = Some(rejected.to_string());
                    }
                    _ => {}
                }
            }
        }
    }

    fn publish(&mut self, core: &Core, held: Arc<Held>) {
        let snapshot = held.live.snapshot();
        tracing::debug!(sequence = snapshot.sequence, "a new snapshot");
        // Revocations first: everything else can wait.
        core.take_snapshot(Arc::clone(&held));
        core.health().snapshot_not_understood = None;
        metrics::counter!("countersign_agent_snapshots_total", "result" => "taken").increment(1);
        if let Err(error) = save(&core.state, &held.signed) {
            tracing::error!(%error, "the snapshot would not survive a restart of the agent");
        }
        let Some(head) = &snapshot.ledger_head else { return };
        match self.witness.look_at(head, &core.state) {
            Ok(Finding::Alarm(mismatch)) => {
                tracing::error!(%mismatch, "LEDGER ALARM: the authority's ledger contradicts what this agent saw");
                metrics::counter!("countersign_ledger_alarms_total").increment(1);
                core.record(Event::LedgerAlarm { finding: mismatch.to_string() });
            }
            Ok(Finding::Unreadable) => tracing::error!("the ledger's head in the snapshot cannot be read"),
            Ok(Finding::Continues | Finding::StillWrong) => {}
            Err(error) => {
                tracing::error!(%error, "the ledger's head would not survive a restart of the agent")
            }
        }
        core.health().ledger_alarm = self.witness.alarm().map(ToString::to_string);
    }
}

#[derive(Serialize, Deserialize)]
struct Saved {
    payload: Base64,
    kid: String,
    signature: Base64,
}

fn save(state: &StateDir, signed: &SignedSnapshot) -> Result<(), AgentError> {
    let SignedSnapshot { payload, kid, signature } = signed;
    let (payload, signature) = (payload.as_slice().into(), signature.as_slice().into());
    state.save(FILE, &Saved { payload, kid: kid.clone(), signature })
}
