//! Who reaches the agent's socket without being a service.

use std::time::Duration;

use countersign_wire::{WORKLOAD_METADATA, agent::RegisterRequest, workload::X509svidRequest};
use prost::Message;

use super::{
    Attack, AttackError, Guard, Observation, Position, Sign, Target,
    grpc::{self, Answered},
    wire::Connection,
};
use crate::weak::Weakness;

macro_rules! at_socket {
    ($name:literal, $title:literal, $from:expr, $home:literal, $what:literal, $weakness:ident, $run:expr) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::Neighbour,
            guard: Guard { what: $what, home: $home, signs: &[Sign::Fact], weakness: Weakness::$weakness },
            waits: false,
            run: |target| Box::pin($run(target)),
        }
    };
}

pub(super) static ATTACKS: &[Attack] = &[
    at_socket!(
        "workload-request-forgery",
        "make a program that fetches addresses for others fetch an identity from the agent's socket",
        &["SPF-8", "lesson 23"],
        "roles/agent/src/workload_api.rs",
        "every call carries metadata that nobody sends on another's behalf, exactly as it is written",
        NoWorkloadHeader,
        forged
    ),
    at_socket!(
        "unregistered-process",
        "ask the agent for an identity, as a process that nobody launched as a service",
        &["SPF-8", "SPF-13"],
        "roles/agent/src/registry.rs",
        "a process is known by its pinned pid, and its siblings of the same uid are strangers",
        AnyProcess,
        unregistered
    ),
    at_socket!(
        "foreign-launcher",
        "launch a process as a service that another uid may launch",
        &["SPF-13", "lesson 20"],
        "roles/agent/src/registry.rs",
        "each entry lists the uids that may launch it, and the kernel says which one asks",
        AnybodyLaunches,
        launched
    ),
];

async fn forged(target: &Target) -> Result<Observation, AttackError> {
    let heard = fetch(target, &[WORKLOAD_METADATA]).await?;
    if heard.status == INVALID_ARGUMENT {
        return Err(AttackError::HonestRefused { answer: heard.message });
    }
    let (name, _) = WORKLOAD_METADATA;
    let forged: [&[(&str, &str)]; 4] = [&[], &[(name, "True")], &[(name, "1")], &[WORKLOAD_METADATA; 2]];
    let sent = "FetchX509SVID without the security header, and with it in three wrong ways";
    for metadata in forged {
        let answered = fetch(target, metadata).await?;
        if answered.status != INVALID_ARGUMENT || !answered.message.contains("security header") {
            return Ok(Observation::looked(sent, false, format!("it was heard: {}", told(&answered))));
        }
    }
    Ok(Observation::looked(sent, true, "each is an invalid argument; with the header it is heard"))
}

async fn unregistered(target: &Target) -> Result<Observation, AttackError> {
    let answered = fetch(target, &[WORKLOAD_METADATA]).await?;
    let sent = "FetchX509SVID, as a process that was not launched as a service";
    let held = answered.status == PERMISSION_DENIED && answered.message.contains("not launched as a service");
    refused_or_served(sent, held, &answered)
}

async fn launched(target: &Target) -> Result<Observation, AttackError> {
    let entry = target.service_of_another_uid().await?;
    let sent = format!("Register as {entry}, which another uid may launch");
    let order = RegisterRequest { entry };
    let mut answered = call(target, REGISTER, &[], &order).await?;
    // The agent hears of a new entry a moment later.
    for _ in 0..LOOKS_MAX {
        if answered.status != NOT_FOUND {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answered = call(target, REGISTER, &[], &order).await?;
    }
    let held =
        answered.status == PERMISSION_DENIED && answered.message.contains("may not be launched by uid");
    refused_or_served(&sent, held, &answered)
}

/// Any other refusal shows nothing about the guard.
fn refused_or_served(sent: &str, held: bool, answered: &Answered) -> Result<Observation, AttackError> {
    if held || answered.status == 0 {
        return Ok(Observation::looked(sent, held, told(answered)));
    }
    Ok(answered.clone().observed(sent))
}

fn told(answered: &Answered) -> String {
    match answered.status {
        0 => format!("it was served, with {} bytes", answered.body.len()),
        status => format!("grpc status {status}: {}", answered.message),
    }
}

async fn fetch(target: &Target, metadata: &[(&str, &str)]) -> Result<Answered, AttackError> {
    call(target, "/SpiffeWorkloadAPI/FetchX509SVID", metadata, &X509svidRequest {}).await
}

async fn call(
    target: &Target,
    path: &str,
    metadata: &[(&str, &str)],
    message: &impl Message,
) -> Result<Answered, AttackError> {
    let lost = |why: String| AttackError::NoConnection { what: "the agent's socket".to_owned(), why };
    let connection = Connection::unix(target.agent_socket()).await.map_err(|broken| lost(broken.how))?;
    grpc::call(connection, path, metadata, message).await.map_err(|broken| lost(broken.how))
}

const REGISTER: &str = "/countersign.agent.v1.Agent/Register";
const LOOKS_MAX: usize = 50;
/// gRPC's own numbers.
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const PERMISSION_DENIED: u32 = 7;
