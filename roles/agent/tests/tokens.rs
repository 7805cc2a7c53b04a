//! Tokens over the agent's socket: our own calls, and the profiles JWT-SVID and WIT-SVID of the SPIFFE Workload API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Agent, Authority, PATIENCE, TRUST_DOMAIN, entry, eventually, trust_domain, uid};
use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, PublicKey, SystemRandom};
use countersign_pki::{csr, inspect};
use countersign_sdk::clock;
use countersign_sdk::outbound::{CallLimits, Channel, Target};
use countersign_token::{Wit, WitIssuer};
use countersign_wire::agent::agent_client::AgentClient;
use countersign_wire::agent::{
    AppliedRequest, BearerEntry, CertificatePurpose, IssueRequest, IssueTokenRequest, SecretsRequest,
    SecretsResponse, TokenKind,
};
use countersign_wire::snapshot::{RevokedToken, TokenAuthority};
use countersign_wire::workload as wl;
use countersign_wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use spiffe::{JwtSource, WorkloadApiClient};
use tonic::{Code, Request};

const ADS: &str = "spiffe://fleamarket.test/svc/ads";
const USERS: &str = "spiffe://fleamarket.test/svc/users";

fn socket(agent: &Agent) -> Channel {
    Channel::new(Target::Unix(agent.socket.clone()), CallLimits::default())
}

fn own(agent: &Agent) -> AgentClient<Channel> {
    AgentClient::new(socket(agent))
}

fn workload_api(agent: &Agent) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(socket(agent))
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn ads() -> (Authority, Agent) {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("ads").await.unwrap();
    (authority, agent)
}

async fn next<T>(stream: &mut tonic::Streaming<T>) -> Result<T, tonic::Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap();
    message.map(|message| message.expect("the stream goes on"))
}

fn jwt_svid(audience: &[&str]) -> wl::JwtsvidRequest {
    let audience = audience.iter().map(|name| (*name).to_owned()).collect();
    wl::JwtsvidRequest { audience, spiffe_id: String::new() }
}

#[tokio::test]
async fn a_signing_certificate_is_asked_for_by_its_purpose_and_checked_for_it() {
    let (authority, agent) = ads().await;
    let ask = async |purpose: i32| {
        let csr = csr::make(&KeyPair::generate(&SystemRandom::new()).unwrap(), None).unwrap();
        own(&agent).issue(IssueRequest { csr, purpose }).await
    };
    let issued = ask(CertificatePurpose::Signing.into()).await.unwrap().into_inner();
    assert!(format!("{:?}", inspect::describe(&issued.chain[0])).contains("1.3.6.1.5.5.7.3.37"));
    assert_eq!(ask(9).await.unwrap_err().code(), Code::InvalidArgument);
    authority.core.confuses_purposes.store(true, Ordering::SeqCst);
    let refused = ask(CertificatePurpose::Signing.into()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "a certificate for TLS signs nothing: {refused}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_is_issued_in_the_name_of_the_process_that_asks_and_kept_on_no_disk() {
    let (authority, agent) = ads().await;
    let request = |audience: &str| IssueTokenRequest {
        kind: TokenKind::Bearer.into(),
        audience: audience.to_owned(),
        ..IssueTokenRequest::default()
    };
    let issued = own(&agent).issue_token(request(USERS)).await.unwrap().into_inner();
    assert_eq!(issued.token, format!("token of {ADS} for {USERS}"));
    assert_eq!(authority.core.tokens_issued.lock().unwrap()[0].spiffe_id, ADS);
    let long = own(&agent).issue_token(request(&"a".repeat(4096))).await.unwrap_err();
    assert_eq!(long.code(), Code::InvalidArgument);
    let mut left = vec![agent.dir.path().to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(bytes) = std::fs::read(&path) {
            let holds = bytes.windows(9).any(|window| window == b"token of ");
            assert!(!holds, "{}", path.display());
        }
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn strangers_get_no_token_no_secret_and_speak_for_nobody() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    let codes = [
        own(&agent).issue_token(IssueTokenRequest::default()).await.err(),
        own(&agent).secrets(SecretsRequest {}).await.err(),
        own(&agent).applied(AppliedRequest::default()).await.err(),
        workload_api(&agent).fetch_jwtsvid(with_header(jwt_svid(&["a"]))).await.err(),
        workload_api(&agent).fetch_jwt_bundles(with_header(wl::JwtBundlesRequest {})).await.err(),
        workload_api(&agent).validate_jwtsvid(with_header(wl::ValidateJwtsvidRequest::default())).await.err(),
        workload_api(&agent).fetch_witsvid(with_header(wl::WitsvidRequest::default())).await.err(),
        workload_api(&agent).fetch_wit_bundles(with_header(wl::WitBundlesRequest {})).await.err(),
    ];
    for code in codes {
        assert_eq!(code.unwrap().code(), Code::PermissionDenied);
    }
    assert!(authority.core.tokens_issued.lock().unwrap().is_empty());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_process_that_asks_for_too_many_tokens_is_refused() {
    let (_authority, agent) = ads().await;
    let mut client = own(&agent);
    let request = || IssueTokenRequest { kind: TokenKind::Bearer.into(), ..IssueTokenRequest::default() };
    let mut refused = None;
    for _ in 0..150 {
        if let Err(status) = client.issue_token(request()).await {
            refused = Some(status.code());
            break;
        }
    }
    assert_eq!(refused, Some(Code::ResourceExhausted));
    client.applied(AppliedRequest::default()).await.expect("other calls have a quota of their own");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn secrets_are_passed_on_at_each_change_and_outlive_connections_to_the_authority() {
    let (mut authority, agent) = ads().await;
    let mut secrets = own(&agent).secrets(SecretsRequest {}).await.unwrap().into_inner();
    assert_eq!(next(&mut secrets).await.unwrap().generation, 1);
    let bearer = vec![BearerEntry { id: "b".to_owned(), ..BearerEntry::default() }];
    let second = SecretsResponse { generation: 2, bearer, ..SecretsResponse::default() };
    authority.core.secrets.send_replace(second.clone());
    assert_eq!(next(&mut secrets).await.unwrap(), second);
    authority.go_away().await;
    authority.core.secrets.send_replace(SecretsResponse { generation: 3, ..second });
    authority.come_back().await;
    while next(&mut secrets).await.unwrap().generation < 3 {}

    authority.set_entries(vec![entry("users", uid())]);
    let ended = loop {
        if let Err(status) = next(&mut secrets).await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied, "a withdrawn entry ends the stream");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_authoritys_word_that_a_workload_is_nobody_ends_its_secrets() {
    let authority = Authority::start().await;
    let agent = Agent::start(&authority).await;
    agent.api().register("users").await.unwrap();
    let mut secrets = own(&agent).secrets(SecretsRequest {}).await.unwrap().into_inner();
    assert_eq!(next(&mut secrets).await.unwrap_err().code(), Code::PermissionDenied);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_workload_applied_is_told_in_its_name() {
    let (authority, agent) = ads().await;
    let told = AppliedRequest { epoch: "e1".to_owned(), sequence: 4, secrets_generation: 2 };
    own(&agent).applied(told.clone()).await.unwrap();
    let seen = authority.core.applied.lock().unwrap().clone();
    assert_eq!((seen[0].spiffe_id.as_str(), seen[0].applied.as_ref()), (ADS, Some(&told)));
    let long = AppliedRequest { epoch: "e".repeat(129), ..told };
    assert_eq!(own(&agent).applied(long).await.unwrap_err().code(), Code::InvalidArgument);
    agent.stop().await.unwrap();
}

/// SPF-4 and SPF-8, by somebody else's client.
#[tokio::test]
async fn a_foreign_client_gets_jwt_svids_and_the_bundle_that_verifies_them() {
    let (authority, agent) = ads().await;
    let client = WorkloadApiClient::connect_to(agent.endpoint()).await.unwrap();
    let svid = client.fetch_jwt_svid(["users", "https://other.test"], None).await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), ADS);
    assert_eq!(svid.audience(), ["users", "https://other.test"]);
    let own = spiffe::TrustDomain::new(TRUST_DOMAIN).unwrap();
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    let kid = authority.core.jwt_svid_key.public_key().thumbprint();
    let bundle = bundles.get(&own).unwrap();
    assert!(bundle.find_jwt_authority(&kid).is_some(), "the key is found by its kid");
    assert!(bundle.find_jwt_authority(&authority.core.wit_key.public_key().thumbprint()).is_none());

    let source = JwtSource::builder().endpoint(agent.endpoint()).build().await.unwrap();
    let again = source.fetch_jwt_svid(["users"]).await.unwrap();
    assert_eq!(again.spiffe_id().to_string(), ADS);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_jwt_svid_is_remembered_until_half_of_its_life_and_for_its_audiences_alone() {
    let (authority, agent) = ads().await;
    let fetch = async |audience: &[&str]| {
        let mut answer =
            workload_api(&agent).fetch_jwtsvid(with_header(jwt_svid(audience))).await.unwrap().into_inner();
        assert_eq!(answer.svids.len(), 1);
        let svid = answer.svids.remove(0);
        assert_eq!((svid.spiffe_id.as_str(), svid.hint.as_str()), (ADS, ""));
        svid.svid
    };
    let first = fetch(&["users"]).await;
    assert_eq!(fetch(&["users"]).await, first);
    assert_ne!(fetch(&["chat"]).await, first);
    assert_eq!(authority.core.tokens_issued.lock().unwrap().len(), 2);
    *authority.core.token_life.lock().unwrap() = Duration::from_secs(2);
    let short = fetch(&["media"]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_ne!(fetch(&["media"]).await, short, "half of its life is over");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn rejects_jwt_svids_without_audience_or_of_somebody_else() {
    let (authority, agent) = ads().await;
    let fetch = async |request: wl::JwtsvidRequest| {
        workload_api(&agent).fetch_jwtsvid(with_header(request)).await.map(|_| ()).map_err(|s| s.code())
    };
    assert_eq!(fetch(jwt_svid(&[])).await, Err(Code::InvalidArgument));
    assert_eq!(fetch(jwt_svid(&["users", ""])).await, Err(Code::InvalidArgument));
    assert_eq!(fetch(jwt_svid(&["a"; 17])).await, Err(Code::InvalidArgument));
    let of = |spiffe_id: &str| wl::JwtsvidRequest { spiffe_id: spiffe_id.to_owned(), ..jwt_svid(&["users"]) };
    assert_eq!(fetch(of(USERS)).await, Err(Code::PermissionDenied));
    assert!(authority.core.tokens_issued.lock().unwrap().is_empty());
    assert_eq!(fetch(of(ADS)).await, Ok(()));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn validates_jwt_svids_for_workloads_and_refuses_each_bad_one() {
    let (authority, agent) = ads().await;
    let request = with_header(jwt_svid(&["users"]));
    let svid = workload_api(&agent).fetch_jwtsvid(request).await.unwrap().into_inner().svids.remove(0).svid;
    let validate = async |audience: &str, svid: &str| {
        let request = wl::ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() };
        let answer = workload_api(&agent).validate_jwtsvid(with_header(request)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.code())
    };
    let valid = validate("users", &svid).await.unwrap();
    assert_eq!(valid.spiffe_id, ADS);
    let claims = valid.claims.unwrap();
    for claim in ["sub", "aud", "exp", "iat", "jti"] {
        assert!(claims.fields.contains_key(claim), "{claim}");
    }
    let (signed, signature) = svid.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    let wit = {
        let mut wits = workload_api(&agent)
            .fetch_witsvid(with_header(wl::WitsvidRequest::default()))
            .await
            .unwrap()
            .into_inner();
        next(&mut wits).await.unwrap().svids.remove(0).wit_svid
    };
    for (audience, svid) in [
        ("chat", svid.as_str()),
        ("", &svid),
        ("users", ""),
        ("users", &forged),
        ("users", "x.y.z"),
        ("users", &wit),
    ] {
        assert_eq!(validate(audience, svid).await.unwrap_err(), Code::InvalidArgument, "{audience} {svid}");
    }
    let jti = text(&claims, "jti");
    let until = clock::now().saturating_add(PATIENCE);
    authority.core.publish(|snapshot| snapshot.revoked.tokens = vec![RevokedToken { id: jti, until }]);
    eventually("it is revoked", || async { validate("users", &svid).await.is_err() }).await;
    let kid = authority.core.jwt_svid_key.public_key().thumbprint();
    authority.core.publish(|_| ());
    eventually("it counts again", || async { validate("users", &svid).await.is_ok() }).await;
    authority.core.publish(|snapshot| snapshot.revoked.keys = vec![RevokedToken { id: kid, until }]);
    eventually("its key is revoked", || async { validate("users", &svid).await.is_err() }).await;
    agent.stop().await.unwrap();
}

fn text(claims: &prost_types::Struct, name: &str) -> String {
    match &claims.fields[name].kind {
        Some(prost_types::value::Kind::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn bundles_hold_one_kind_of_keys_each_and_are_pushed_when_they_change() {
    let (authority, agent) = ads().await;
    let mut jwt = workload_api(&agent)
        .fetch_jwt_bundles(with_header(wl::JwtBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let mut wit = workload_api(&agent)
        .fetch_wit_bundles(with_header(wl::WitBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let own = format!("spiffe://{TRUST_DOMAIN}");
    let of_jwt: serde_json::Value =
        serde_json::from_slice(&next(&mut jwt).await.unwrap().bundles[&own]).unwrap();
    let of_wit: serde_json::Value =
        serde_json::from_str(&next(&mut wit).await.unwrap().bundles[&own]).unwrap();
    for (bundle, usage, key) in
        [(&of_jwt, "jwt-svid", &authority.core.jwt_svid_key), (&of_wit, "wit-svid", &authority.core.wit_key)]
    {
        let keys = bundle["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0]["use"].as_str(), keys[0]["kty"].as_str()), (Some(usage), Some("EC")));
        assert_eq!(keys[0]["kid"], key.public_key().thumbprint());
        assert!(keys[0].get("d").is_none());
    }
    // Other policies are no news here; a federated trust domain is.
    authority.core.publish(|snapshot| snapshot.policies.generation = 9);
    authority.core.publish(|snapshot| {
        snapshot.token_authorities.push(TokenAuthority {
            trust_domain: "other.test".parse().unwrap(),
            issuer: "https://other.test".to_owned(),
            jwt_svid: Vec::new(),
            wit: Vec::new(),
            exchange: Vec::new(),
        });
    });
    assert_eq!(next(&mut jwt).await.unwrap().bundles.len(), 2);
    assert_eq!(next(&mut wit).await.unwrap().bundles.len(), 2);
    agent.stop().await.unwrap();
}

/// SPF-5: the key comes with the token, and another one with each renewal.
#[tokio::test]
async fn a_wit_svid_comes_with_the_key_that_it_names_and_is_renewed_at_half_its_life() {
    let (authority, agent) = ads().await;
    *authority.core.token_life.lock().unwrap() = Duration::from_secs(4);
    let begun = tokio::time::Instant::now();
    let mut stream = workload_api(&agent)
        .fetch_witsvid(with_header(wl::WitsvidRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut message = next(&mut stream).await.unwrap();
        assert_eq!(message.svids.len(), 1);
        let svid = message.svids.remove(0);
        assert_eq!((svid.spiffe_id.as_str(), svid.hint.as_str()), (ADS, ""));
        let mut jwk: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&svid.wit_svid_key).unwrap();
        assert!(jwk.remove("d").is_some(), "a private key");
        let key = PublicKey::from_jwk(&serde_json::Value::Object(jwk).to_string()).unwrap();
        let issuer = |kid: &str| {
            Some(WitIssuer {
                kid: kid.to_owned(),
                key: authority.core.wit_key.public_key().clone(),
                trust_domain: trust_domain(),
                issuer: None,
            })
        };
        let unproven = Wit::<SpiffeId>::verify(&svid.wit_svid, clock::now(), issuer).unwrap();
        assert_eq!(unproven.key_ids()[1], key.thumbprint(), "the token names the key beside it");
        keys.push(key.thumbprint());
    }
    assert_ne!(keys[0], keys[1]);
    let pause = begun.elapsed();
    assert!((Duration::from_millis(1000)..Duration::from_millis(3500)).contains(&pause), "{pause:?}");
    let foreign = wl::WitsvidRequest { spiffe_id: USERS.to_owned() };
    let refused = workload_api(&agent).fetch_witsvid(with_header(foreign)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    authority.set_entries(vec![entry("users", uid())]);
    let ended = loop {
        if let Err(status) = next(&mut stream).await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_wit_svid_stays_good_while_the_authority_is_away_and_a_first_one_waits_for_nobody() {
    let (mut authority, agent) = ads().await;
    *authority.core.token_life.lock().unwrap() = Duration::from_secs(4);
    let mut stream = workload_api(&agent)
        .fetch_witsvid(with_header(wl::WitsvidRequest::default()))
        .await
        .unwrap()
        .into_inner();
    next(&mut stream).await.unwrap();
    authority.go_away().await;
    let mut late = workload_api(&agent)
        .fetch_witsvid(with_header(wl::WitsvidRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut late).await.unwrap_err().code(), Code::Unavailable);
    let begun = clock::now();
    let ended = next(&mut stream).await;
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
    assert!(clock::now().since(begun) >= Duration::from_secs(2), "not before it expired");
    agent.stop().await.unwrap();
}
