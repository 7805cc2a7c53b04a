//! Who sits between the authority and its services: keeps from them what is new, tells them what is old, or sets their
//! clock. What is taken back is taken back only where it is known.
//!
//! No authority is stopped for this, and no clock is set. What the agent passes on is taken as it is, and judged by what
//! judges it in every service, at the time at which it would be.

use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_pki::{
    CrlPolicy, Expectation, PeerError, Usage,
    profile::{LEAF_TTL_MAX, LEAF_TTL_MIN},
    verify_peer,
};
use countersign_sdk::{
    clock,
    inbound::new_decision_id,
    live::{Freshness, Live, STALE_GRACE, Staleness, WhenStale},
    snapshot::{Progress, SnapshotRefusal},
};
use countersign_wire::snapshot::Snapshot;
use serde_json::{Value, json};

use super::{Attack, AttackError, Guard, Held, Kind, News, Observation, Position, Sign, Target, target::OWN};
use crate::weak::Weakness;

const SNAPSHOT: &str = "sdk/src/snapshot.rs";

macro_rules! between {
    ($name:literal, $title:literal, $from:expr, $home:expr, $what:literal, $weakness:ident, $run:expr) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::Insider,
            guard: Guard { what: $what, home: $home, signs: &[Sign::Fact], weakness: Weakness::$weakness },
            // Some wait for the next snapshot, and none is in the way of another.
            waits: true,
            run: |target| Box::pin($run(target)),
        }
    };
}

pub(super) static ATTACKS: &[Attack] = &[
    between!(
        "edited-snapshot",
        "take out of a snapshot what was taken back, and pass it on as the newest",
        &["REV-1", "V7"],
        SNAPSHOT,
        "a snapshot is signed by its authority, over exactly these bytes",
        UnsignedSnapshot,
        edited
    ),
    between!(
        "older-snapshot",
        "tell services the snapshot of yesterday again, in which nothing was taken back yet",
        &["REV-1", "V7"],
        SNAPSHOT,
        "snapshots are numbered, and none leads back",
        AnySnapshot,
        older
    ),
    between!(
        "snapshot-kept-back",
        "cut services off from the authority, so that they never hear what was taken back",
        &["REV-1", "M14"],
        "sdk/src/live/staleness.rs",
        "a snapshot says until when it counts; ten minutes after that nobody is let in by it",
        SnapshotForEver,
        kept_back
    ),
    between!(
        "list-kept-back",
        "keep newer revocation lists away, and show a certificate that outlives the last one",
        &["REV-1", "M14"],
        "rules/pki/src/verify.rs",
        "without a current revocation list no certificate is believed",
        ListForEver,
        list_kept_back
    ),
    between!(
        "clock-set-back",
        "set the clock of a machine back, so that a certificate that has ended is good again",
        &["M14", "V7"],
        "sdk/src/clock.rs",
        "the time is never less than what has passed since the process started",
        ClockBelieved,
        clock_set_back
    ),
];

async fn edited(target: &Target) -> Result<Observation, AttackError> {
    let mut news = target.news().await?;
    read(target, &news).map_err(|error| AttackError::HonestRefused { answer: error.to_string() })?;
    let unreadable = |error| AttackError::equipment("a snapshot", error);
    let mut payload: Value = serde_json::from_slice(&news.signed.payload).map_err(unreadable)?;
    let sequence = payload.get("sequence").and_then(Value::as_u64).unwrap_or_default();
    if let Some(members) = payload.as_object_mut() {
        members.insert("revoked".to_owned(), json!({"tokens": [], "users": [], "keys": []}));
        members.insert("sequence".to_owned(), json!(sequence + 1));
    }
    news.signed.payload = payload.to_string().into_bytes();
    let sent = "the newest snapshot without its revocations, under the next number";
    seen(sent, read(target, &news), |error| *error == SnapshotRefusal::BadSignature)
}

async fn older(target: &Target) -> Result<Observation, AttackError> {
    let old = of(target, &target.news().await?)?;
    target.take_back(&format!("attack-{}", new_decision_id())).await?;
    let new = newer(target, &old).await?;
    let mut progress = Progress::default();
    for honest in [&old, &new] {
        progress.advance(honest).map_err(|error| AttackError::HonestRefused { answer: error.to_string() })?;
    }
    let sent = format!("snapshot {} after snapshot {}", old.sequence, new.sequence);
    let taken = match makes(target, Weakness::AnySnapshot) {
        true => Ok(()),
        false => progress.advance(&old),
    };
    seen(&sent, taken, |error| matches!(error, SnapshotRefusal::Backwards { .. }))
}

async fn kept_back(target: &Target) -> Result<Observation, AttackError> {
    let staleness = growing_old(target, Weakness::SnapshotForEver);
    let snapshot = of(target, &target.news().await?)?;
    let end = snapshot.valid_until;
    let live = compiled(snapshot)?.growing_old_by(staleness);
    if live.freshness(clock::now()) != Freshness::Fresh {
        return Err(AttackError::HonestRefused { answer: "the newest snapshot is not fresh".to_owned() });
    }
    let late = end.saturating_add(STALE_GRACE).saturating_add(SECOND);
    let freshness = live.freshness(late);
    let sent = "no snapshot any more, until ten minutes and a second after the end of the last one";
    Ok(Observation::looked(sent, freshness == Freshness::Stale, format!("the last one is {freshness:?}")))
}

async fn list_kept_back(target: &Target) -> Result<Observation, AttackError> {
    let lists = growing_old(target, Weakness::ListForEver).lists();
    let live = compiled(of(target, &target.news().await?)?)?;
    // The certificate is to outlive the list.
    tokio::time::sleep(SECOND * 3).await;
    let begin = clock::now();
    let held = target.certified(OWN, Kind::Workload, LEAF_TTL_MAX).await?;
    believed(&live, &held, clock::now(), lists)
        .map_err(|error| AttackError::HonestRefused { answer: error.to_string() })?;
    let late = begin.saturating_add(LEAF_TTL_MAX).saturating_sub(SECOND);
    let sent =
        "a good certificate, a second before its end, and no newer revocation list since it was issued";
    seen(sent, believed(&live, &held, late, lists), |error| matches!(error, PeerError::Revocation(_)))
}

async fn clock_set_back(target: &Target) -> Result<Observation, AttackError> {
    let live = compiled(of(target, &target.news().await?)?)?;
    let held = target.certified(OWN, Kind::Workload, LEAF_TTL_MIN).await?;
    let lists = Staleness::default().lists();
    // So it was when the process started, and so it is again after the clock was set back.
    let system = clock::now();
    believed(&live, &held, system, lists)
        .map_err(|error| AttackError::HonestRefused { answer: error.to_string() })?;
    let steady = system.saturating_add(LEAF_TTL_MIN).saturating_add(SECOND * 5);
    let now = match makes(target, Weakness::ClockBelieved) {
        true => system,
        false => clock::believed(system, steady),
    };
    let sent = "a certificate of a minute, 65 seconds later, by a clock that was set back by 65 seconds";
    seen(sent, believed(&live, &held, now, lists), |error| matches!(error, PeerError::Validity(_)))
}

/// What was seen: it was taken, or refused by the guard that is meant; by another one, it shows nothing.
fn seen<T, E: std::fmt::Display>(
    sent: &str,
    taken: Result<T, E>,
    is_guard: impl FnOnce(&E) -> bool,
) -> Result<Observation, AttackError> {
    match taken {
        Ok(_) => Ok(Observation::looked(sent, false, "it is believed")),
        Err(error) if is_guard(&error) => Ok(Observation::looked(sent, true, error.to_string())),
        Err(error) => Err(AttackError::HonestRefused { answer: error.to_string() }),
    }
}

/// As every service reads it.
fn read(target: &Target, news: &News) -> Result<Snapshot, SnapshotRefusal> {
    if makes(target, Weakness::UnsignedSnapshot) {
        return Ok(Snapshot::parse(&news.signed.payload)?);
    }
    news.keys.verify(&news.signed, target.trust_domain())
}

fn of(target: &Target, news: &News) -> Result<Snapshot, AttackError> {
    read(target, news).map_err(|error| AttackError::HonestRefused { answer: error.to_string() })
}

/// The authority signs the next one a moment after something has changed.
async fn newer(target: &Target, old: &Snapshot) -> Result<Snapshot, AttackError> {
    for _ in 0..LOOKS_MAX {
        let snapshot = of(target, &target.news().await?)?;
        if snapshot.sequence > old.sequence {
            return Ok(snapshot);
        }
        tokio::time::sleep(SECOND).await;
    }
    Err(AttackError::equipment("a newer snapshot", "none came"))
}

fn compiled(snapshot: Snapshot) -> Result<Live, AttackError> {
    Live::compile(snapshot, None).map_err(|error| AttackError::equipment("a snapshot", error))
}

/// As the settings of a service say where nothing is said, or soft where that is the mistake.
fn growing_old(target: &Target, mistake: Weakness) -> Staleness {
    match makes(target, mistake) {
        true => Staleness { when_stale: WhenStale::AcceptInsecure, ..Staleness::default() },
        false => Staleness::default(),
    }
}

fn believed(live: &Live, held: &Held, now: UnixTime, lists: CrlPolicy) -> Result<(), PeerError> {
    let (usage, anyone) = (Usage::Client, Expectation::AnyInBundle);
    verify_peer(&held.chain, live.bundles(), now, usage, anyone, lists).outcome.map(|_| ())
}

fn makes(target: &Target, weakness: Weakness) -> bool {
    target.as_weak().is_some_and(|weak| weak.makes(weakness))
}

const SECOND: Duration = Duration::from_secs(1);
const LOOKS_MAX: usize = 20;
