//! Workload identity tokens (mode `wimse`), which name a key and prove nothing without it: what somebody can do who has a
//! copy of one, or of a proof.

use std::time::Duration;

use countersign_keys::KeyPair;
use countersign_request::{WORKLOAD_IDENTITY_TOKEN, WORKLOAD_PROOF_TOKEN};
use countersign_sdk::{clock, inbound::new_decision_id};
use countersign_token::wpt::{self, ProofTarget, target_uri};
use countersign_wire::codes::Code;

use super::{
    Attack, AttackError, Guard, Observation, Position, Sign, Target, forge,
    target::{CALLEE, PATH, VICTIM},
    wire::{Connection, Dial, Request},
};
use crate::weak::Weakness;

const WPT: &str = "rules/token/src/wpt.rs";

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "wit-without-proof",
        title: "show the workload identity token of another, and no proof of its key",
        from: &["WIM-1", "WIM-2"],
        position: Position::Thief,
        guard: Guard {
            what: "a workload identity token proves nothing without a proof of its key",
            home: "sdk/src/authenticate/presented.rs",
            signs: &[Sign::Said(Code::EvidenceCombination, "without a proof")],
            weakness: Weakness::WitIsEnough,
        },
        waits: false,
        run: |target| Box::pin(without_proof(target)),
    },
    Attack {
        name: "wit-with-own-key",
        title: "show the workload identity token of another, and prove a key of one's own",
        from: &["WIM-1", "WIM-2"],
        position: Position::Thief,
        guard: Guard {
            what: "a proof is verified with the key in the workload identity token, and with no other",
            home: WPT,
            signs: &[Sign::Code(Code::TokenSignature)],
            weakness: Weakness::ProofUnverified,
        },
        waits: false,
        run: |target| Box::pin(with_own_key(target)),
    },
    Attack {
        name: "proof-of-another-wit",
        title: "show a proof beside another workload identity token than it was made for",
        from: &["WIM-2"],
        position: Position::Thief,
        guard: Guard {
            what: "a proof names the hash of its workload identity token",
            home: WPT,
            signs: &[Sign::Said(Code::EvidenceCombination, "wth")],
            weakness: Weakness::AnyWitOfProof,
        },
        waits: false,
        run: |target| Box::pin(of_another_wit(target)),
    },
    Attack {
        name: "proof-for-another-target",
        title: "show at one service the proof that was made for another, or for another path",
        from: &["WIM-2", "WIM-3"],
        position: Position::Thief,
        guard: Guard {
            what: "a proof names the target, which the callee knows without looking at the request",
            home: WPT,
            signs: &[Sign::Code(Code::ProofOfOtherRequest)],
            weakness: Weakness::AnyTargetOfProof,
        },
        waits: false,
        run: |target| Box::pin(for_another_target(target)),
    },
];

/// A connection to a callee that accepts the mode, and what its caller holds.
struct Stand {
    connection: Connection,
    key: KeyPair,
    wit: String,
}

impl Stand {
    /// The honest twin was believed on it.
    async fn honest(target: &Target) -> Result<Self, AttackError> {
        let key = forge::key()?;
        let wit = target.workload_identity(&key).await?;
        let lost = |why: String| AttackError::NoConnection { what: CALLEE.to_owned(), why };
        let connection = Dial::to(target.callee().await?).connect().await;
        let mut stand = Self { connection: connection.map_err(|broken| lost(broken.how))?, key, wit };
        let proof = stand.proof(&stand.wit, CALLEE, PATH)?;
        let seen = stand.sent(target, "", &stand.wit.clone(), Some(proof)).await;
        if !seen.is_believed() {
            return Err(AttackError::HonestRefused { answer: seen.told() });
        }
        Ok(stand)
    }

    /// A proof of its key for this connection.
    fn proof(&self, wit: &str, callee: &str, path: &str) -> Result<String, AttackError> {
        proof_with(&self.key, wit, &target_uri(callee, path), self.connection.exporter.as_ref())
    }

    async fn sent(&mut self, target: &Target, what: &str, wit: &str, proof: Option<String>) -> Observation {
        let request = Request::get(PATH).with(WORKLOAD_IDENTITY_TOKEN.as_str(), wit);
        let request = match proof {
            Some(proof) => request.with(WORKLOAD_PROOF_TOKEN.as_str(), proof),
            None => request,
        };
        let exchanged = self.connection.send(&request).await;
        target.observed(what, exchanged).await
    }
}

async fn without_proof(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::honest(target).await?;
    let wit = stand.wit.clone();
    Ok(stand.sent(target, "GET /ads with a good workload identity token alone", &wit, None).await)
}

async fn with_own_key(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::honest(target).await?;
    let wit = stand.wit.clone();
    let uri = target_uri(CALLEE, PATH);
    let proof = proof_with(&forge::key()?, &wit, &uri, stand.connection.exporter.as_ref())?;
    Ok(stand.sent(target, "GET /ads with a proof that another key has signed", &wit, Some(proof)).await)
}

async fn of_another_wit(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::honest(target).await?;
    let proof = stand.proof(&stand.wit, CALLEE, PATH)?;
    // Of the same key: nothing but the hash tells them apart.
    let mut other = target.workload_identity(&stand.key).await?;
    while other == stand.wit {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other = target.workload_identity(&stand.key).await?;
    }
    let sent =
        "GET /ads with a newer workload identity token of the same key, and the proof beside the older one";
    Ok(stand.sent(target, sent, &other, Some(proof)).await)
}

async fn for_another_target(target: &Target) -> Result<Observation, AttackError> {
    let mut stand = Stand::honest(target).await?;
    let wit = stand.wit.clone();
    let sent = "GET /ads with a proof for another service, then with one for another path";
    let elsewhere = stand.proof(&wit, VICTIM, PATH)?;
    let seen = stand.sent(target, sent, &wit, Some(elsewhere)).await;
    if seen.is_believed() {
        return Ok(seen);
    }
    let other_path = stand.proof(&wit, CALLEE, "/ads/1")?;
    Ok(stand.sent(target, sent, &wit, Some(other_path)).await)
}

fn proof_with(
    key: &KeyPair,
    wit: &str,
    audience: &str,
    exporter: Option<&[u8; 32]>,
) -> Result<String, AttackError> {
    let now = clock::now();
    let target = ProofTarget { audience, exporter, ..ProofTarget::default() };
    let expires = now.saturating_add(PROOF_LIFE);
    wpt::mint(key, wit, &target, &new_decision_id().to_string(), now, expires)
        .map_err(|error| AttackError::equipment("a proof", error))
}

const PROOF_LIFE: Duration = Duration::from_secs(20);
