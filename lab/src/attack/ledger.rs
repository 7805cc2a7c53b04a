//! Who can write where the ledger lies, and would like something not to have happened.
//!
//! What is changed is a copy of the whole ledger, as the auditor gets it; what judges it is what judges it for the
//! auditor. The owner of a database can change it without leaving a trace in the database: what shows it lies elsewhere.

use countersign_identity::{TrustDomain, Verified};
use countersign_keys::{KeyPair, PublicKey, SystemRandom, random_bytes, sha256};
use countersign_ledger::{
    chain::{BootId, Record, Writer, WriterVerifier, leaf},
    digest::Digest,
    event::{Event, LoginOutcome},
    head::{Head, SignedHead},
    log::{LogState, LogVerifier},
};
use countersign_sdk::clock;
use countersign_wire::{
    api::{Page, audit::AuditEvent},
    snapshot::LedgerHead,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Attack, AttackError, Guard, Observation, Position, Sign, Target, target::Live};
use crate::weak::Weakness;

const LOG: &str = "rules/ledger/src/log.rs";

macro_rules! tampered {
    ($name:literal, $title:literal, $from:expr, $home:expr, $what:literal, $weakness:ident, $sent:literal, $change:expr) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::Insider,
            guard: Guard { what: $what, home: $home, signs: &[Sign::Fact], weakness: Weakness::$weakness },
            waits: false,
            run: |target| Box::pin(tampered(target, $sent, $change)),
        }
    };
}

pub(super) static ATTACKS: &[Attack] = &[
    tampered!(
        "ledger-edited",
        "change one word of what the ledger says",
        &["SF-1", "T86", "V16"],
        "rules/ledger/src/chain.rs",
        "each entry carries the hash of itself and of all before it",
        LedgerIsAList,
        "one byte of an entry in the middle",
        edited
    ),
    tampered!(
        "ledger-reordered",
        "let two things have happened in the other order",
        &["SF-1", "V16"],
        LOG,
        "the hash of the whole log follows the order of its entries",
        LedgerIsAList,
        "two neighbouring entries exchanged",
        reordered
    ),
    tampered!(
        "ledger-shortened",
        "remove the newest entries, so that what they tell never happened",
        &["SF-1", "V16"],
        LOG,
        "a signed head that was kept elsewhere says how long the log was",
        HeadBesideTheLedger,
        "the last entry removed",
        shortened
    ),
    tampered!(
        "ledger-rewritten",
        "change an entry, and compute all hashes after it again",
        &["SF-1", "CT-1", "V16"],
        "rules/ledger/src/head.rs",
        "a signed head that was kept elsewhere says which hash the log had",
        HeadBesideTheLedger,
        "an entry changed, and every hash computed again",
        rewritten
    ),
];

/// A whole ledger, and what an auditor has kept of it.
pub(super) struct Ledger {
    trust_domain: TrustDomain,
    /// In their order, from index 1.
    entries: Vec<(Record, Digest)>,
    kept: Verified<Head>,
}

async fn tampered(
    target: &Target,
    sent: &str,
    change: fn(Ledger) -> Result<Ledger, AttackError>,
) -> Result<Observation, AttackError> {
    let ledger = match target.as_weak() {
        Some(_) => Ledger::small(target.trust_domain())?,
        None => Ledger::of(target.as_live()?).await?,
    };
    ledger.judged(target).map_err(|why| AttackError::HonestRefused { answer: why })?;
    let (length, changed) = (ledger.entries.len(), change(ledger)?);
    let sent = format!("a copy of the ledger of {length} entries, with {sent}");
    Ok(match changed.judged(target) {
        Ok(()) => Observation::looked(sent, false, "the auditor finds nothing"),
        Err(why) => Observation::looked(sent, true, format!("the auditor finds: {why}")),
    })
}

fn edited(mut ledger: Ledger) -> Result<Ledger, AttackError> {
    let middle = ledger.entries.len() / 2;
    let (record, _) = ledger.entries.get_mut(middle).ok_or_else(empty)?;
    record.bytes = said_otherwise(&record.bytes);
    Ok(ledger)
}

fn reordered(mut ledger: Ledger) -> Result<Ledger, AttackError> {
    let middle = ledger.entries.len() / 2;
    let pair = ledger.entries.get_mut(middle..).and_then(|rest| rest.get_mut(..2)).ok_or_else(empty)?;
    pair.reverse();
    Ok(ledger)
}

fn shortened(mut ledger: Ledger) -> Result<Ledger, AttackError> {
    ledger.entries.pop().ok_or_else(empty)?;
    Ok(ledger)
}

/// Whoever can write can compute, too: each writer's chain and the log's are made anew, and fit.
fn rewritten(ledger: Ledger) -> Result<Ledger, AttackError> {
    let mut changed = ledger.entries;
    let middle = changed.len() / 2;
    let (record, _) = changed.get_mut(middle).ok_or_else(empty)?;
    record.bytes = said_otherwise(&record.bytes);
    let mut log = LogState::empty(&ledger.trust_domain);
    let mut chains: Vec<(Record, Digest)> = Vec::new();
    for (record, stored) in &mut changed {
        let same =
            |(last, _): &&mut (Record, Digest)| last.writer == record.writer && last.boot == record.boot;
        let before = match chains.iter_mut().find(same) {
            Some((last, _)) => last.chain,
            None => WriterVerifier::start(record.writer.clone(), record.boot).hash(),
        };
        record.chain = linked(&before, &record.bytes);
        chains.retain(|(last, _)| last.writer != record.writer || last.boot != record.boot);
        log.append(record);
        *stored = log.hash();
        chains.push((record.clone(), *stored));
    }
    Ok(Ledger { entries: changed, ..ledger })
}

/// The hash of a chain after one more entry (chain.rs says how).
fn linked(before: &Digest, bytes: &[u8]) -> Digest {
    Digest::new(sha256(&[&[1], &before.as_bytes()[..], &leaf(bytes).as_bytes()[..]].concat()))
}

/// The same entry, still JSON, with one letter of it changed: the last of the last text in it.
fn said_otherwise(bytes: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let ends = |pair: &[u8]| matches!(pair, [letter, b'"'] if letter.is_ascii_alphanumeric());
    let last = changed.windows(2).rposition(ends);
    if let Some(letter) = last.and_then(|at| changed.get_mut(at)) {
        *letter = if *letter == b'x' { b'y' } else { b'x' };
    }
    changed
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Ledger {
    /// The whole ledger of a deployment.
    async fn of(live: &Live) -> Result<Self, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("the ledger", why);
        let head: LedgerHead = live.get("/api/v1/audit/head").await?;
        let KeySet { keys } = live.get("/api/v1/audit/keys").await?;
        let key_of = |kid: &str| {
            let keys = keys.iter().filter_map(|key| PublicKey::from_jwk(&key.to_string()).ok());
            keys.into_iter().find(|key| key.thumbprint() == kid)
        };
        let signed = SignedHead { payload: head.payload, kid: head.kid, signature: head.signature };
        let kept = signed.verify(key_of).map_err(|error| failed(&error))?;
        let size = kept.get().size;
        let mut entries = Vec::new();
        let mut after = 0;
        while after < size {
            let page: Page<AuditEvent> =
                live.get(&format!("/api/v1/audit/events?after={after}&limit=1000")).await?;
            let Some(last) = page.items.last() else { break };
            after = last.index;
            // What came since the head was signed is not in this copy.
            for event in page.items.iter().filter(|event| event.index <= size) {
                entries.push(read(event)?);
            }
        }
        Ok(Self { trust_domain: live.settings().trust_domain.clone(), entries, kept })
    }

    /// One of a few entries, for the control.
    fn small(trust_domain: &TrustDomain) -> Result<Self, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a ledger", why);
        let key = KeyPair::generate(&SystemRandom::new()).map_err(|error| failed(&error))?;
        let boot = random_bytes(&SystemRandom::new()).map_err(|error| failed(&error))?;
        let who =
            countersign_identity::SpiffeId::service(trust_domain, "ads").map_err(|error| failed(&error))?;
        let (mut writer, mut log) =
            (Writer::start(who, BootId::from_random(boot)), LogState::empty(trust_domain));
        let mut entries = Vec::new();
        for _ in 0..8 {
            let event = Event::Login { user: None, address: None, outcome: LoginOutcome::WrongPassword };
            let record = writer.append(&event, clock::now()).map_err(|error| failed(&error))?;
            log.append(&record);
            entries.push((record, log.hash()));
        }
        let head = Head::of(&log, trust_domain.clone(), "first".to_owned(), clock::now());
        let signed = SignedHead::sign(&head, &key).map_err(|error| failed(&error))?;
        let kept = signed.verify(|_| Some(key.public_key().clone())).map_err(|error| failed(&error))?;
        Ok(Self { trust_domain: trust_domain.clone(), entries, kept })
    }

    /// What an auditor says of it.
    fn judged(&self, target: &Target) -> Result<(), String> {
        let makes = |weakness| target.as_weak().is_some_and(|weak| weak.makes(weakness));
        if makes(Weakness::LedgerIsAList) {
            // Every line is there, and every line can be read.
            let read =
                self.entries.iter().all(|(record, _)| serde_json::from_slice::<Value>(&record.bytes).is_ok());
            return if read { Ok(()) } else { Err("a line cannot be read".to_owned()) };
        }
        let mut verifier = LogVerifier::new(&self.trust_domain);
        if !makes(Weakness::HeadBesideTheLedger) {
            verifier = verifier.expecting_outside(&self.kept);
        }
        for (index, (record, stored)) in (1..).zip(&self.entries) {
            verifier.accept(index, record, *stored).map_err(|error| error.to_string())?;
        }
        verifier.finish().map(|_| ()).map_err(|error| error.to_string())
    }
}

fn read(event: &AuditEvent) -> Result<(Record, Digest), AttackError> {
    let failed = |why: &dyn std::fmt::Display| AttackError::equipment("an entry of the ledger", why);
    let record = Record {
        writer: event.writer.parse().map_err(|error| failed(&error))?,
        boot: event.boot.parse().map_err(|error| failed(&error))?,
        sequence: event.sequence,
        bytes: event.event.as_slice().to_vec(),
        chain: Digest::try_from(event.chain.as_slice()).map_err(|error| failed(&error))?,
    };
    Ok((record, Digest::try_from(event.log.as_slice()).map_err(|error| failed(&error))?))
}

fn empty() -> AttackError {
    AttackError::equipment("a ledger", "it has too few entries")
}
