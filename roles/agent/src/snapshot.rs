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
        'connection: loop {
            let (epoch, sequence) = self.progress.at();
            let request = SnapshotsRequest { epoch: epoch.to_owned(), sequence };
            let opened = core.node.settle(core.node.client().snapshots(request).await);
            if let Ok(mut stream) = opened {
                loop {
                    tokio::select! {
                        // A new credential means a new connection; the stream moves over before the old one ends.
                        _ = renewed.changed() => continue 'connection,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_identity::UnixTime;
    use countersign_keys::{KeyPair, SystemRandom};
    use countersign_sdk::snapshot::sign;
    use countersign_wire::snapshot::{AccessTokenKeys, FORMAT, Policies, Snapshot, TrustBundle};

    use super::*;

    fn home() -> TrustDomain {
        TrustDomain::parse("flea.test").unwrap()
    }

    fn snapshot(sequence: u64) -> Snapshot {
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        let root = countersign_pki::issue::Root::Workload;
        let root = countersign_pki::issue::make_root(root, &home(), key, now, [1; 16]).unwrap();
        Snapshot {
            format: FORMAT,
            trust_domain: home(),
            epoch: "e1".into(),
            sequence,
            issued_at: now,
            valid_until: now,
            critical: Vec::new(),
            bundles: vec![TrustBundle {
                trust_domain: home(),
                roots: vec![Base64(root.certificate().to_vec())],
                crls: Vec::new(),
            }],
            access_token: AccessTokenKeys { issuer: "i".into(), audience: "a".into(), keys: Vec::new() },
            internal_token_keys: Vec::new(),
            services: Vec::new(),
            policies: Policies { generation: 1, files: Vec::new() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: Vec::new(),
            workload_keys: Vec::new(),
            revoked: Default::default(),
            sts: None,
        }
    }

    struct Desk {
        _dir: tempfile::TempDir,
        state: StateDir,
        key: KeyPair,
        reader: Reader,
    }

    impl Desk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDir::open(dir.path().join("agent")).unwrap();
            let (reader, held) = Reader::restore(&state, &SnapshotKeys::default(), &home()).unwrap();
            assert!(held.is_none());
            Self { _dir: dir, state, key: KeyPair::generate(&SystemRandom::new()).unwrap(), reader }
        }

        fn keys(&self) -> SnapshotKeys {
            SnapshotKeys::new(vec![self.key.public_key().clone()])
        }

        fn judge(&mut self, snapshot: &Snapshot) -> Result<Held, Rejected> {
            let keys = self.keys();
            self.reader.judge(sign(snapshot, &self.key).unwrap(), &keys)
        }
    }

    #[test]
    fn accepts_what_is_signed_usable_and_newer() {
        let mut desk = Desk::new();
        assert_eq!(desk.judge(&snapshot(3)).unwrap().live.snapshot().sequence, 3);
        assert!(desk.judge(&snapshot(4)).is_ok());
        let back = Rejected::Refused(SnapshotRefusal::Backwards { held: 4, got: 4 });
        assert_eq!(desk.judge(&snapshot(4)).unwrap_err(), back);
    }

    #[test]
    fn rejects_a_snapshot_that_would_leave_nobody_to_believe() {
        let mut desk = Desk::new();
        let mut empty = snapshot(3);
        empty.bundles.clear();
        assert_eq!(desk.judge(&empty).unwrap_err(), Rejected::NoOwnBundle);
    }

    #[test]
    fn rejects_an_unusable_snapshot_without_moving_on() {
        let mut desk = Desk::new();
        let mut broken = snapshot(9);
        broken.bundles.iter_mut().for_each(|bundle| bundle.crls = vec![Base64(vec![0])]);
        assert!(matches!(desk.judge(&broken).unwrap_err(), Rejected::Unusable(CompileError::Crl { .. })));
        assert!(desk.judge(&snapshot(3)).is_ok(), "its number does not count");
    }

    #[test]
    fn a_saved_snapshot_is_judged_like_any_other() {
        let mut desk = Desk::new();
        let held = desk.judge(&snapshot(3)).unwrap();
        save(&desk.state, &held.signed).unwrap();
        let (mut reader, restored) = Reader::restore(&desk.state, &desk.keys(), &home()).unwrap();
        assert_eq!(restored.unwrap().signed, held.signed);
        let older = sign(&snapshot(2), &desk.key).unwrap();
        assert!(reader.judge(older, &desk.keys()).is_err(), "never back, across a restart too");
        let strangers =
            SnapshotKeys::new(vec![KeyPair::generate(&SystemRandom::new()).unwrap().public_key().clone()]);
        assert!(Reader::restore(&desk.state, &strangers, &home()).unwrap().1.is_none());
    }
}
