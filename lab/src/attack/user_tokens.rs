//! Who has an account, or a copy of somebody's token, and would like to be somebody else.

use countersign_keys::PublicKey;
use countersign_wire::codes::Code;
use serde_json::{Value, json};

use super::{
    Attack, AttackError, Doing, Guard, Kind, Observation, Position, Sign, Target,
    forge::{self, Draft, Signing, jws, part, set, signature},
    target::PATH,
    wire::{Connection, Request},
};
use crate::weak::{Weakness, public_key_pem};

const JWS: &str = "rules/token/src/jws.rs";
const ACCESS: &str = "rules/token/src/access_token.rs";
const EDGE: &str = "roles/gateway/src/pipeline.rs";
const TXN: &str = "rules/token/src/txn_token.rs";

/// An access token with one thing wrong, at the edge.
macro_rules! edge {
    ($name:literal, $title:literal, $from:expr, $position:ident, $home:ident, $what:literal, $weakness:ident, $signs:expr, $forge:expr) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::$position,
            guard: Guard { what: $what, home: $home, signs: $signs, weakness: Weakness::$weakness },
            waits: false,
            run: |target| at_the_edge(target, $title, $forge),
        }
    };
}

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "no-user-token",
        title: "ask the edge for what is for users, without being one",
        from: &["T22", "lesson 16"],
        position: Position::Stranger,
        guard: Guard {
            what: "a route says whether it needs a user, and nobody is invented",
            home: EDGE,
            signs: &[Sign::Code(Code::TokenMissing)],
            weakness: Weakness::TokenOptional,
        },
        waits: false,
        run: |target| Box::pin(asked(target, "GET /ads without a token", Request::get(PATH))),
    },
    Attack {
        name: "token-in-url",
        title: "put the token into the URL, from where it goes into every log",
        from: &["D11", "BCP-1"],
        position: Position::User,
        guard: Guard {
            what: "a query that carries a token is refused, not ignored",
            home: "rules/request/src/query.rs",
            signs: &[Sign::Said(Code::PathAmbiguous, "carries a token")],
            weakness: Weakness::TokenInQuery,
        },
        waits: false,
        run: |target| Box::pin(token_in_url(target)),
    },
    edge!(
        "user-alg-none",
        "send an access token without a signature",
        &["JB-1", "lesson 45"],
        User,
        JWS,
        "the algorithms are a closed list, and none is not on it",
        AlgNone,
        &[Sign::Said(Code::TokenMalformed, "algorithm")],
        |token, _| {
            let mut header = part(token, 0)?;
            set(&mut header, "alg", "none");
            sealed(&header, &part(token, 1)?, &Signing::Bytes(Vec::new()))
        }
    ),
    edge!(
        "user-alg-confusion",
        "sign an access token with the published key as the secret of HS256",
        &["JB-1", "lesson 40", "CVE-2026-39999"],
        User,
        JWS,
        "the algorithms are a closed list, and no MAC is on it",
        PublicKeyAsSecret,
        &[Sign::Said(Code::TokenMalformed, "algorithm")],
        |token, published| {
            let mut header = part(token, 0)?;
            set(&mut header, "alg", "HS256");
            let key = PublicKey::from_jwk(&published.to_string());
            let key = key.map_err(|error| AttackError::equipment("the published key", error))?;
            sealed(&header, &part(token, 1)?, &Signing::Mac(public_key_pem(&key).into_bytes()))
        }
    ),
    edge!(
        "role-escalation",
        "write another role into one's own access token",
        &["JB-1", "D14"],
        User,
        JWS,
        "the signature covers header and claims",
        UnverifiedSignature,
        &[Sign::Code(Code::TokenSignature)],
        |token, _| {
            let mut claims = part(token, 1)?;
            set(&mut claims, "roles", json!(["moderator", "administrator"]));
            sealed(&part(token, 0)?, &claims, &Signing::Bytes(signature(token)))
        }
    ),
    edge!(
        "forged-user-token",
        "sign an access token for somebody else with a key of one's own",
        &["JB-1", "lesson 46"],
        Stranger,
        ACCESS,
        "only keys that sign access tokens are looked up, by their thumbprint",
        UnverifiedSignature,
        &[Sign::Code(Code::TokenKeyUnknown)],
        |token, _| {
            let (key, mut header) = (forge::key()?, part(token, 0)?);
            set(&mut header, "kid", key.public_key().thumbprint());
            sealed(&header, &part(token, 1)?, &Signing::By(key))
        }
    ),
    edge!(
        "user-key-in-header",
        "bring along in the header the key with which the access token is to be verified",
        &["JB-1", "lesson 47"],
        Stranger,
        JWS,
        "a header has alg, kid and typ, and nothing else",
        KeyFromHeader,
        &[Sign::Said(Code::TokenMalformed, "jwk")],
        |token, _| {
            let (key, mut header) = (forge::key()?, part(token, 0)?);
            let jwk: Value = serde_json::from_str(&key.public_key().to_jwk()).unwrap_or_default();
            set(&mut header, "jwk", jwk);
            sealed(&header, &part(token, 1)?, &Signing::By(key))
        }
    ),
    Attack {
        name: "service-token-as-user",
        title: "present at the edge a token that a service signed for itself",
        from: &["JB-1", "AT-1"],
        position: Position::Service,
        guard: Guard {
            what: "typ: only an access token is a user's",
            home: ACCESS,
            signs: &[Sign::Code(Code::TokenKind), Sign::Said(Code::TokenMalformed, "type")],
            weakness: Weakness::AnyKind,
        },
        waits: false,
        run: |target| Box::pin(service_token_as_user(target)),
    },
    Attack {
        name: "forged-user-context",
        title: "send along, as a service, an internal token for a user who never came by",
        from: &["T61", "TX-2", "D14"],
        position: Position::Service,
        guard: Guard {
            what: "internal tokens are signed by gateways, whose keys are published; a service speaks for nobody",
            home: TXN,
            signs: &[Sign::Code(Code::TokenKeyUnknown)],
            weakness: Weakness::UserContextBelieved,
        },
        waits: false,
        run: |target| Box::pin(forged_context(target)),
    },
    Attack {
        name: "access-token-as-context",
        title: "send along, as a service, the access token of a user in place of the internal one",
        from: &["T61", "JB-1", "D14"],
        position: Position::Service,
        guard: Guard {
            what: "typ: the token of the edge ends at the edge",
            home: TXN,
            signs: &[Sign::Code(Code::TokenKind), Sign::Said(Code::TokenMalformed, "type")],
            weakness: Weakness::UserContextBelieved,
        },
        waits: false,
        run: |target| Box::pin(access_token_as_context(target)),
    },
];

/// An access token made from a good one, at the edge where the good one is believed.
fn at_the_edge<'a>(
    target: &'a Target,
    what: &'static str,
    forge: fn(&str, &Value) -> Result<String, AttackError>,
) -> Doing<'a> {
    Box::pin(async move {
        let (mut connection, token) = at_edge(target).await?;
        let forged = forge(&token, &target.published_key().await?)?;
        let exchanged = connection.send(&bearing(&forged)).await;
        Ok(target.observed(format!("GET /ads at the edge: {what}"), exchanged).await)
    })
}

/// A connection to the edge on which a good token was believed.
pub(super) async fn at_edge(target: &Target) -> Result<(Connection, String), AttackError> {
    let (mut connection, token) = (target.connect_to_edge().await?, target.user_token("alice").await?);
    let honest = connection.send(&bearing(&token)).await;
    let honest = target.observed("", honest).await;
    if honest.is_believed() {
        Ok((connection, token))
    } else {
        Err(AttackError::HonestRefused { answer: honest.told() })
    }
}

pub(super) fn bearing(token: &str) -> Request {
    Request::get(PATH).with("Authorization", format!("Bearer {token}"))
}

fn sealed(header: &Value, claims: &Value, signing: &Signing) -> Result<String, AttackError> {
    jws(&header.to_string(), &claims.to_string(), signing)
}

async fn asked(target: &Target, what: &str, request: Request) -> Result<Observation, AttackError> {
    let (mut connection, _) = at_edge(target).await?;
    let exchanged = connection.send(&request).await;
    Ok(target.observed(what, exchanged).await)
}

async fn token_in_url(target: &Target) -> Result<Observation, AttackError> {
    let (mut connection, token) = at_edge(target).await?;
    let exchanged = connection.send(&Request::get(&format!("{PATH}?access_token={token}"))).await;
    Ok(target.observed("GET /ads?access_token=… with a good token", exchanged).await)
}

async fn service_token_as_user(target: &Target) -> Result<Observation, AttackError> {
    let (mut connection, _) = at_edge(target).await?;
    let signer = target.own(Kind::Signing).await?;
    let draft = Draft::honest(&signer, &target.id("ads")?, Request::get(PATH), None)?;
    let exchanged = connection.send(&draft.sealed()?).await;
    Ok(target.observed("GET /ads at the edge with a token that a service signed", exchanged).await)
}

async fn forged_context(target: &Target) -> Result<Observation, AttackError> {
    let signer = target.own(Kind::Signing).await?;
    let now = countersign_sdk::clock::now().secs();
    let header = json!({
        "alg": "ES256", "kid": signer.key.public_key().thumbprint(), "typ": "txntoken+jwt",
    });
    let claims = json!({
        "iat": now, "exp": now + 60, "aud": target.trust_domain().as_str(), "txn": "01JZ", "sub": "u_alice",
        "scope": "fleamarket", "req_wl": signer.id.as_str(), "tctx": {"name": "alice", "roles": ["buyer"]},
    });
    let token = sealed(&header, &claims, &Signing::By(signer.key))?;
    context(target, "GET /ads over mutual TLS with a Txn-Token that the caller signed itself", token).await
}

async fn access_token_as_context(target: &Target) -> Result<Observation, AttackError> {
    let token = target.user_token("alice").await?;
    context(target, "GET /ads over mutual TLS with an access token as Txn-Token", token).await
}

/// As a service, with this as the token of a user; without it, the service is believed.
async fn context(target: &Target, what: &str, token: String) -> Result<Observation, AttackError> {
    let own = target.own(Kind::Workload).await?;
    let mut connection = target.connect(Some(&own)).await?;
    let honest = target.observed("", connection.send(&Request::get(PATH)).await).await;
    if !honest.is_believed() {
        return Err(AttackError::HonestRefused { answer: honest.told() });
    }
    let exchanged = connection.send(&Request::get(PATH).with("Txn-Token", token)).await;
    Ok(target.observed(what, exchanged).await)
}
