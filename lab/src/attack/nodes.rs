//! Who would like to be a node, or to get from one what is not for it.

use countersign_keys::KeyPair;
use countersign_pki::{CertificateDer, csr};
use countersign_wire::{
    codes::Code,
    node::{EntriesRequest, JoinRequest, JoinResponse, NodeIssueRequest, RenewRequest, Versions},
};
use prost::Message;

use super::{
    Attack, AttackError, Guard, Held, Kind, Observation, Position, Sign, Target, forge,
    grpc::{self, Answered},
    target::OTHER,
    wire::Dial,
};
use crate::weak::Weakness;

const NODE: &str = "roles/authority/src/node.rs";

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "join-token-twice",
        title: "join with a token with which another node has joined",
        from: &["T46", "lesson 55"],
        position: Position::Thief,
        guard: Guard {
            what: "a join token is good for one key, once",
            home: NODE,
            signs: &[Sign::Code(Code::JoinTokenSpent)],
            weakness: Weakness::JoinsForEver,
        },
        waits: false,
        run: |target| Box::pin(twice(target)),
    },
    Attack {
        name: "service-as-agent",
        title: "ask what only agents may ask, with the certificate of a service",
        from: &["lesson 20", "CVE-2021-27098"],
        position: Position::Service,
        guard: Guard {
            what: "every call but joining demands the certificate of an agent",
            home: NODE,
            signs: &[Sign::Said(Code::AdminNotPermitted, "not an agent")],
            weakness: Weakness::AnyServiceIsAnAgent,
        },
        waits: false,
        run: |target| Box::pin(as_agent(target)),
    },
    Attack {
        name: "agent-for-another-node",
        title: "get, as one node, the certificate of a service that runs on another one",
        from: &["lesson 20", "CVE-2021-27098", "SPF-13"],
        position: Position::Insider,
        guard: Guard {
            what: "an agent gets only what the entries give to its node, whatever it asks for",
            home: "roles/authority/src/entries.rs",
            signs: &[Sign::Said(Code::EntryUnknown, "not for")],
            weakness: Weakness::AgentNamesAnybody,
        },
        waits: false,
        run: |target| Box::pin(for_another(target)),
    },
    Attack {
        name: "foreign-name-in-request",
        title: "put the name of a service into the certificate request of a node",
        from: &["SPF-2", "lesson 20", "X5-2"],
        position: Position::Insider,
        guard: Guard {
            what: "the profile decides what is in a certificate; a request that names somebody else is refused",
            home: "rules/pki/src/issue.rs",
            signs: &[Sign::Code(Code::CsrAsksForMore)],
            weakness: Weakness::RequestNamesItself,
        },
        waits: false,
        run: |target| Box::pin(foreign_name(target)),
    },
];

async fn twice(target: &Target) -> Result<Observation, AttackError> {
    let token = target.join_token(NODE_NAME).await?;
    join(target, &token, &forge::key()?).await?;
    let again = call(target, None, "Join", &request_to_join(&token, &forge::key()?)?).await?;
    Ok(again.observed("Join with the same token and another key"))
}

async fn as_agent(target: &Target) -> Result<Observation, AttackError> {
    let agent = joined(target).await?;
    let honest = call(target, Some(&agent), "Entries", &EntriesRequest {}).await?;
    believed(&honest)?;
    let own = target.own(Kind::Workload).await?;
    let seen = call(target, Some(&own), "Entries", &EntriesRequest {}).await?;
    Ok(seen.observed("Entries with the certificate of a service"))
}

async fn for_another(target: &Target) -> Result<Observation, AttackError> {
    let agent = joined(target).await?;
    believed(&call(target, Some(&agent), "Entries", &EntriesRequest {}).await?)?;
    let order = NodeIssueRequest {
        spiffe_id: target.id(OTHER)?.to_string(),
        csr: request_for(&forge::key()?, None)?,
        attestation: "pid 1".to_owned(),
        purpose: 0,
    };
    let seen = call(target, Some(&agent), "Issue", &order).await?;
    Ok(seen.observed(format!("Issue for {}, as a node on which it does not run", order.spiffe_id)))
}

async fn foreign_name(target: &Target) -> Result<Observation, AttackError> {
    let agent = joined(target).await?;
    let renew = |csr: Vec<u8>| RenewRequest { versions: Some(VERSIONS), csr };
    let honest = call(target, Some(&agent), "Renew", &renew(request_for(&forge::key()?, None)?)).await?;
    believed(&honest)?;
    let wanted = target.id(OTHER)?;
    let asking = renew(request_for(&forge::key()?, Some(&wanted))?);
    let seen = call(target, Some(&agent), "Renew", &asking).await?;
    Ok(seen.observed(format!("Renew with a request that names {wanted}")))
}

/// A node of the attacker's own: it was let in for something else.
async fn joined(target: &Target) -> Result<Held, AttackError> {
    let token = target.join_token(NODE_NAME).await?;
    let key = forge::key()?;
    let JoinResponse { spiffe_id, chain, .. } = join(target, &token, &key).await?;
    let id = spiffe_id.parse().map_err(|error| AttackError::equipment("the certificate of a node", error))?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    Ok(Held { id, chain, key, serial: String::new() })
}

async fn join(target: &Target, token: &str, key: &KeyPair) -> Result<JoinResponse, AttackError> {
    let answered = call(target, None, "Join", &request_to_join(token, key)?).await?;
    believed(&answered)?;
    JoinResponse::decode(answered.body).map_err(|error| AttackError::equipment("an answer to Join", error))
}

fn request_to_join(token: &str, key: &KeyPair) -> Result<JoinRequest, AttackError> {
    let csr = request_for(key, None)?;
    Ok(JoinRequest { versions: Some(VERSIONS), token: token.to_owned(), csr })
}

fn request_for(key: &KeyPair, name: Option<&countersign_identity::SpiffeId>) -> Result<Vec<u8>, AttackError> {
    csr::make(key, name).map_err(|error| AttackError::equipment("a certificate request", error))
}

async fn call(
    target: &Target,
    shown: Option<&Held>,
    rpc: &str,
    message: &impl Message,
) -> Result<Answered, AttackError> {
    let lost = |why: String| AttackError::NoConnection { what: "the api for nodes".to_owned(), why };
    let mut dial = Dial { speaks: b"h2", ..Dial::to(target.nodes()?) };
    dial.shows = shown.map(Held::shown).transpose()?;
    let connection = dial.connect().await.map_err(|broken| lost(broken.how))?;
    let path = format!("/countersign.node.v1.Node/{rpc}");
    grpc::call(connection, &path, &[], message).await.map_err(|broken| lost(broken.how))
}

fn believed(answered: &Answered) -> Result<(), AttackError> {
    match answered.status {
        0 => Ok(()),
        _ => Err(AttackError::HonestRefused { answer: answered.message.clone() }),
    }
}

const VERSIONS: Versions = Versions { minimum: 1, maximum: 1 };
const NODE_NAME: &str = "attack-node";
