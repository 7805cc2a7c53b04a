//! Runs attacks, each with its control, and tells how it went.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::{Attack, AttackError, Position, Target, Verdict, doc};
use crate::weak::Weakness;

/// How a run went.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One for each attack, in their order.
    pub attacks: Vec<Finding>,
    /// How many were blocked by their guard, with a control that held.
    pub blocked: usize,
    /// How many succeeded.
    pub succeeded: usize,
    /// How many showed nothing, or had a control that failed.
    pub unclear: usize,
}

/// How one attack went.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its name.
    pub name: &'static str,
    /// What it tried.
    pub title: &'static str,
    /// What the attacker held.
    pub position: Position,
    /// What was sent, in one line.
    pub sent: String,
    /// What came back, in one line.
    pub received: String,
    /// What that means.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was to stop it.
    pub guard: GuardSeen,
    /// Whether the attack could have succeeded at all.
    pub control: Control,
    /// Where it is told.
    pub doc: String,
    /// Where it comes from.
    pub from: &'static [&'static str],
}

/// A guard, for readers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GuardSeen {
    /// In a few words.
    pub what: &'static str,
    /// The file whose type or function it is.
    pub home: &'static str,
}

/// The control of an attack: it must succeed where its guard is missing, and be blocked where that alone is put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Control {
    /// Both.
    Passed {
        /// How the attack succeeded where its guard was missing.
        without_guard: String,
    },
    /// One of them not.
    Failed {
        /// Which, and what happened instead.
        why: String,
    },
}

/// Runs these attacks against `target`, telling of each when it is done. Those that have to wait for something run
/// beside the others.
pub async fn run(attacks: &[&'static Attack], target: &Target, told: impl Fn(&Finding) + Sync) -> Report {
    let (waiting, quick): (Vec<_>, Vec<_>) = attacks.iter().copied().partition(|attack| attack.waits);
    let one = async |attack: &'static Attack| {
        let finding = find(attack, target).await;
        told(&finding);
        finding
    };
    let together = futures::future::join_all(waiting.into_iter().map(&one));
    let in_order = async {
        let mut findings = Vec::new();
        for attack in quick {
            findings.push(one(attack).await);
        }
        findings
    };
    let (mut findings, others) = tokio::join!(together, in_order);
    findings.extend(others);
    let place = |name: &str| attacks.iter().position(|attack| attack.name == name);
    findings.sort_by_key(|finding| place(finding.name));
    Report::of(findings)
}

impl Report {
    /// Counts.
    #[must_use]
    pub fn of(attacks: Vec<Finding>) -> Self {
        let count = |wanted: fn(&Finding) -> bool| attacks.iter().filter(|finding| wanted(finding)).count();
        let blocked = count(Finding::is_blocked);
        let succeeded = count(|finding| matches!(finding.verdict, Verdict::Succeeded { .. }));
        let unclear = attacks.len() - blocked - succeeded;
        Self { blocked, succeeded, unclear, attacks }
    }

    /// Was every attack blocked, by its guard, with a control that held?
    #[must_use]
    pub fn all_blocked(&self) -> bool {
        self.blocked == self.attacks.len() && !self.attacks.is_empty()
    }
}

impl Finding {
    /// Blocked, and known to be.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        matches!(self.verdict, Verdict::Blocked { .. }) && matches!(self.control, Control::Passed { .. })
    }
}

async fn find(attack: &'static Attack, target: &Target) -> Finding {
    let (seen, control) = tokio::join!(attempt(attack, target), control(attack));
    let (sent, received, verdict) = match seen {
        Ok((sent, received, verdict)) => (sent, received, verdict),
        Err(error) => (String::new(), String::new(), Verdict::Inconclusive { why: error.to_string() }),
    };
    Finding {
        name: attack.name,
        title: attack.title,
        position: attack.position,
        sent,
        received,
        verdict,
        guard: GuardSeen { what: attack.guard.what, home: attack.guard.home },
        control,
        doc: doc(attack.name),
        from: attack.from,
    }
}

async fn attempt(attack: &'static Attack, target: &Target) -> Result<(String, String, Verdict), AttackError> {
    let observation = timeout(ATTACK_MAX, (attack.run)(target)).await;
    let observation = observation.unwrap_or_else(|_| {
        let why = format!("it was not over within {} seconds", ATTACK_MAX.as_secs());
        Err(AttackError::equipment("an end", why))
    })?;
    Ok((observation.sent.clone(), observation.told(), observation.judged(&attack.guard)))
}

async fn control(attack: &'static Attack) -> Control {
    let without = against(attack, &[attack.guard.weakness]).await;
    let with = against(attack, &[]).await;
    match (without, with) {
        (Ok(Verdict::Succeeded { evidence }), Ok(Verdict::Blocked { .. })) => {
            Control::Passed { without_guard: evidence }
        }
        (Ok(Verdict::Succeeded { .. }), with) => {
            Control::Failed { why: format!("with its guard it should be blocked: {}", said(with)) }
        }
        (without, _) => {
            Control::Failed { why: format!("without its guard it should succeed: {}", said(without)) }
        }
    }
}

async fn against(attack: &'static Attack, weaknesses: &[Weakness]) -> Result<Verdict, AttackError> {
    let target = Target::weak(weaknesses).await?;
    attempt(attack, &target).await.map(|(_, _, verdict)| verdict)
}

fn said(verdict: Result<Verdict, AttackError>) -> String {
    match verdict {
        Ok(verdict) => format!("{}: {}", verdict.as_str(), verdict.because()),
        Err(error) => error.to_string(),
    }
}

/// The longest waits for the end of the shortest certificate.
const ATTACK_MAX: Duration = Duration::from_secs(180);
