//! The node API through real sockets: joining, issuing, and everything that an agent must not get.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Place, VERSIONS, home, identity, new_key};
use countersign_identity::SpiffeId;
use countersign_pki::{CertificateDer, CrlPolicy, Expectation, Usage, csr, verify_peer};
use countersign_sdk::snapshot::SnapshotKeys;
use countersign_wire::{
    agent::{ReportRequest, SnapshotsRequest},
    node::{
        EntriesRequest, JoinRequest, NodeIssueRequest, NodePublishTokenKeyRequest, RenewRequest, Versions,
    },
};
use tonic::Code;

fn issue(service: &str, csr: Vec<u8>) -> NodeIssueRequest {
    let spiffe_id = SpiffeId::service(&home(), service).unwrap().to_string();
    NodeIssueRequest { spiffe_id, csr, attestation: "pid 1 uid 0".to_owned(), purpose: 0 }
}

#[tokio::test]
async fn an_agent_joins_and_gets_certificates_for_what_its_node_may_hold() {
    let place = Place::new();
    let authority = place.start().await;
    let (key, joined) = authority.join("local").await;
    assert_eq!(joined.spiffe_id, "spiffe://fleamarket.test/countersign/agent/local");
    assert_eq!(joined.version, 1);
    let mut agent = authority.node_client(Some(identity(&joined.chain, &key))).await;

    let workload = new_key();
    let issued = agent.issue(issue("ads", csr::make(&workload, None).unwrap())).await.unwrap().into_inner();
    let chain: Vec<CertificateDer<'static>> =
        issued.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let trust = authority.trust().await;
    let ads = SpiffeId::service(&home(), "ads").unwrap();
    let now = countersign_sdk::clock::now();
    for usage in [Usage::Client, Usage::Server] {
        let expected = Expectation::Exactly(&ads);
        let verdict = verify_peer(&chain, trust.load().bundles(), now, usage, expected, CrlPolicy::Require);
        assert_eq!(verdict.outcome.unwrap().id, ads);
    }

    let mut entries = agent.entries(EntriesRequest {}).await.unwrap().into_inner();
    let held = entries.message().await.unwrap().unwrap();
    let names: Vec<&str> = held.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["ads", "gateway"]);
    authority.stop().await;
}

#[tokio::test]
async fn the_five_steps_of_figure_3_1_are_five_events() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    agent.issue(issue("ads", csr::make(&new_key(), None).unwrap())).await.unwrap();
    let of_ads = |events: Vec<serde_json::Value>| {
        events.iter().filter(|event| event["spiffe_id"] == "spiffe://fleamarket.test/svc/ads").count()
    };
    assert_eq!(authority.events("bootstrap_credential_issued").await.len(), 1);
    assert_eq!(of_ads(authority.events("enrolment_requested").await), 1);
    assert_eq!(of_ads(authority.events("csr_built").await), 1);
    assert_eq!(of_ads(authority.events("certificate_signed").await), 1);
    let mut delivered = 0;
    for _ in 0..200 {
        delivered = of_ads(authority.events("certificate_delivered").await);
        if delivered > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(delivered, 1);
    authority.stop().await;
}

#[tokio::test]
async fn a_join_token_buys_one_identity_and_a_retry_with_the_same_key_the_same_answer() {
    let place = Place::new();
    let authority = place.start().await;
    let token = authority.join_token("local").await;
    let key = new_key();
    let request = |key| JoinRequest {
        versions: Some(VERSIONS),
        token: token.clone(),
        csr: csr::make(key, None).unwrap(),
    };
    let mut stranger = authority.node_client(None).await;
    let first = stranger.join(request(&key)).await.unwrap().into_inner();
    let again = stranger.join(request(&key)).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(authority.events("node_joined").await.len(), 1);

    let thief = stranger.join(request(&new_key())).await.unwrap_err();
    assert_eq!(thief.code(), Code::Unauthenticated);
    assert!(thief.message().contains("CS3019"), "{thief}");
    authority.stop().await;
}

#[tokio::test]
async fn rejects_join_tokens_that_were_never_made_or_made_under_another_root() {
    let place = Place::new();
    let authority = place.start().await;
    let token = authority.join_token("local").await;
    let (secret, pin) = token.strip_prefix("csj_").unwrap().split_once('.').unwrap();
    let mut stranger = authority.node_client(None).await;
    for forged in
        [format!("csj_{}.{pin}", "A".repeat(43)), format!("csj_{secret}.{}", "A".repeat(43)), String::new()]
    {
        let request = JoinRequest {
            versions: Some(VERSIONS),
            token: forged,
            csr: csr::make(&new_key(), None).unwrap(),
        };
        let refused = stranger.join(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    authority.stop().await;
}

#[tokio::test]
async fn rejects_every_call_but_join_without_an_agents_certificate() {
    let place = Place::new();
    let authority = place.start().await;
    let service = authority.svid("ads").await;
    for (who, identity, code) in
        [("stranger", None, Code::Unauthenticated), ("service", Some(service), Code::PermissionDenied)]
    {
        let mut client = authority.node_client(identity).await;
        let csr = || csr::make(&new_key(), None).unwrap();
        let refusals = [
            client.renew(RenewRequest { versions: Some(VERSIONS), csr: csr() }).await.unwrap_err(),
            client.entries(EntriesRequest {}).await.unwrap_err(),
            client.issue(issue("ads", csr())).await.unwrap_err(),
            client.snapshots(SnapshotsRequest::default()).await.unwrap_err(),
            client.report(ReportRequest::default()).await.unwrap_err(),
            client.publish_token_key(NodePublishTokenKeyRequest::default()).await.unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), code, "{who}: {refusal}");
        }
    }
    authority.stop().await;
}

/// Lesson 20: no agent mints an identity to which its node is not entitled.
#[tokio::test]
async fn rejects_identities_that_the_entries_do_not_give_to_the_node() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let csr = || csr::make(&new_key(), None).unwrap();
    let ask = |spiffe_id: &str, csr| NodeIssueRequest {
        purpose: 0,
        spiffe_id: spiffe_id.to_owned(),
        csr,
        attestation: String::new(),
    };
    for foreign in [
        "spiffe://fleamarket.test/svc/users",
        "spiffe://fleamarket.test/svc/never-registered",
        "spiffe://fleamarket.test/countersign/agent/local",
        "spiffe://fleamarket.test/countersign/authority",
        "spiffe://other.test/svc/ads",
        "spiffe://fleamarket.test/svc/../svc/ads",
        "spiffe://fleamarket.test",
        "",
    ] {
        let refused = agent.issue(ask(foreign, csr())).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{foreign}: {refused}");
    }
    // The right entry, and a request that names somebody else.
    let users = SpiffeId::service(&home(), "users").unwrap();
    let greedy = csr::make(&new_key(), Some(&users)).unwrap();
    let refused = agent.issue(issue("ads", greedy)).await.unwrap_err();
    assert!(refused.message().contains("CS2018"), "{refused}");
    let refused = agent.issue(issue("ads", b"not a request".to_vec())).await.unwrap_err();
    assert!(refused.message().contains("CS2014"), "{refused}");
    authority.events_at_least("decision", 10).await;
    authority.stop().await;
}

#[tokio::test]
async fn an_agent_renews_with_its_own_certificate_and_not_after_it_was_revoked() {
    let place = Place::new();
    let authority = place.start().await;
    let (key, joined) = authority.join("local").await;
    let mut agent = authority.node_client(Some(identity(&joined.chain, &key))).await;
    let second_key = new_key();
    let renew = || RenewRequest { versions: Some(VERSIONS), csr: csr::make(&second_key, None).unwrap() };
    let renewed = agent.renew(renew()).await.unwrap().into_inner();
    assert_eq!(renewed.spiffe_id, joined.spiffe_id);
    assert_ne!(renewed.chain[0], joined.chain[0]);

    let listing = authority.get("/api/v1/certificates?limit=1000").await;
    let agents =
        listing["items"].as_array().unwrap().iter().filter(|item| item["spiffe_id"] == joined.spiffe_id);
    for certificate in agents {
        authority
            .post("/api/v1/certificates/revoke", serde_json::json!({ "serial": certificate["serial"] }))
            .await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let refused = agent.renew(renew()).await.unwrap_err();
    assert_ne!(refused.code(), Code::Ok, "{refused}");
    let mut back = authority.node_client(Some(identity(&renewed.chain, &second_key))).await;
    assert!(back.renew(renew()).await.is_err());
    authority.stop().await;
}

#[tokio::test]
async fn rejects_an_agent_of_another_version() {
    let place = Place::new();
    let authority = place.start().await;
    let token = authority.join_token("local").await;
    let request = JoinRequest {
        versions: Some(Versions { minimum: 2, maximum: 3 }),
        token,
        csr: csr::make(&new_key(), None).unwrap(),
    };
    let refused = authority.node_client(None).await.join(request).await.unwrap_err();
    assert!(refused.message().contains("CS6011"), "{refused}");
    authority.stop().await;
}

#[tokio::test]
async fn a_revocation_reaches_every_stream_as_a_new_snapshot_within_two_seconds() {
    let place = Place::new();
    let authority = place.start().await;
    let (key, joined) = authority.join("local").await;
    let keys = SnapshotKeys::from_jwks(joined.snapshot_keys.iter().map(String::as_str)).unwrap();
    let mut agent = authority.node_client(Some(identity(&joined.chain, &key))).await;
    let issued = agent.issue(issue("ads", csr::make(&new_key(), None).unwrap())).await.unwrap().into_inner();
    let mut snapshots = agent.snapshots(SnapshotsRequest::default()).await.unwrap().into_inner();
    let first = keys.verify(&snapshots.message().await.unwrap().unwrap(), &home()).unwrap();
    assert_eq!(first.policies.files[0].name, "ads");
    // A gateway has modes, and no address at which anybody could call it.
    let uncallable: Vec<&str> =
        first.services.iter().filter(|s| s.address.is_empty()).map(|s| s.name.as_str()).collect();
    assert_eq!((first.services.len(), uncallable.as_slice()), (3, &["gateway"][..]));
    let before = crl_numbers(&first);

    let started = std::time::Instant::now();
    authority
        .post(
            "/api/v1/certificates/revoke",
            serde_json::json!({ "service": "ads", "reason": "keyCompromise" }),
        )
        .await;
    let second = loop {
        let next = tokio::time::timeout(Duration::from_secs(2), snapshots.message()).await.unwrap();
        let next = keys.verify(&next.unwrap().unwrap(), &home()).unwrap();
        assert!(next.sequence > first.sequence);
        if crl_numbers(&next) > before {
            break next;
        }
    };
    assert!(started.elapsed() < Duration::from_secs(2));
    let crl = countersign_pki::Crl::read(second.bundles[0].crls[0].as_slice()).unwrap();
    assert_eq!(crl.len(), 1);
    assert!(!issued.chain.is_empty());

    // Nothing new for somebody who has it already.
    let held = SnapshotsRequest { epoch: second.epoch.clone(), sequence: second.sequence };
    let mut quiet = agent.snapshots(held).await.unwrap().into_inner();
    assert!(tokio::time::timeout(Duration::from_millis(300), quiet.message()).await.is_err());
    authority.stop().await;
}

fn crl_numbers(snapshot: &countersign_wire::snapshot::Snapshot) -> u64 {
    let crls = snapshot.bundles[0].crls.iter();
    crls.map(|crl| countersign_pki::Crl::read(crl.as_slice()).unwrap().number()).max().unwrap()
}

#[tokio::test]
async fn only_a_gateway_publishes_token_keys_and_everybody_hears_of_them() {
    let place = Place::new();
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let key = new_key();
    let ask =
        |spiffe_id: &str, jwk: String| NodePublishTokenKeyRequest { spiffe_id: spiffe_id.to_owned(), jwk };
    let edge = "spiffe://fleamarket.test/countersign/gateway/edge";
    for (who, jwk) in [
        ("spiffe://fleamarket.test/svc/ads", key.public_key().to_jwk()),
        ("spiffe://fleamarket.test/countersign/gateway/other", key.public_key().to_jwk()),
        (edge, "{\"kty\":\"oct\",\"k\":\"AAAA\"}".to_owned()),
    ] {
        assert!(agent.publish_token_key(ask(who, jwk)).await.is_err(), "{who}");
    }
    agent.publish_token_key(ask(edge, key.public_key().to_jwk())).await.unwrap();
    let mut snapshots = agent.snapshots(SnapshotsRequest::default()).await.unwrap().into_inner();
    let signed = snapshots.message().await.unwrap().unwrap();
    let snapshot = countersign_wire::snapshot::Snapshot::parse(&signed.payload).unwrap();
    assert_eq!(snapshot.internal_token_keys[0].owner.as_str(), edge);
    assert_eq!(authority.events("token_key_published").await.len(), 1);

    let revoke = serde_json::json!({ "service": "gateway", "reason": "keyCompromise" });
    let certificate = NodeIssueRequest {
        purpose: 0,
        spiffe_id: edge.to_owned(),
        csr: csr::make(&new_key(), None).unwrap(),
        attestation: String::new(),
    };
    agent.issue(certificate).await.unwrap();
    authority.post("/api/v1/certificates/revoke", revoke).await;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(2), snapshots.message()).await.unwrap();
        let signed = next.unwrap().unwrap();
        let snapshot = countersign_wire::snapshot::Snapshot::parse(&signed.payload).unwrap();
        // The token service's own keys stay.
        if snapshot.internal_token_keys.iter().all(|key| key.owner.as_str() != edge) {
            break;
        }
    }
    let again = agent.publish_token_key(ask(edge, key.public_key().to_jwk())).await;
    assert!(again.is_err(), "what a revoked gateway signed with must not come back");
    agent.publish_token_key(ask(edge, new_key().public_key().to_jwk())).await.unwrap();
    authority.stop().await;
}
