//! Tokens with which workloads prove themselves: who gets which, who can verify it, and how it is taken back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Place, Running, call, entry, home, new_key};
use countersign_authority::LOCAL_NODE;
use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{KeyPair, PublicKey};
use countersign_pki::{CertificateDer, CrlPolicy, Expectation, Usage, csr, verify_peer, verify_signer};
use countersign_sdk::{clock, outbound::Channel};
use countersign_token::{
    BearerEntry, BearerHash, BearerId, BearerKey, JwtSvid, Wit, WitIssuer, bearer,
    macaroon::{HeldMacaroon, Narrowing, RequestFacts, RootKey, service},
    wit::WIT_LIFETIME_MAX,
};
use countersign_wire::{
    agent::{
        AppliedRequest, CertificatePurpose, IssueTokenRequest, IssueTokenResponse, SecretsResponse,
        SnapshotsRequest, TokenKind,
    },
    node::{
        NodeAppliedRequest, NodeIssueRequest, NodeIssueTokenRequest, NodeSecretsRequest,
        node_client::NodeClient,
    },
    snapshot::Snapshot,
};
use http::{HeaderMap, Method};
use serde_json::json;
use tonic::{Code, Status};

const SOON: Duration = Duration::from_secs(2);

fn id(name: &str) -> SpiffeId {
    SpiffeId::service(&home(), name).unwrap()
}

/// As [`Place::new`], with `users` on the local node too.
fn place() -> Place {
    let mut place = Place::new();
    place.deployment.services[1] = entry("users", LOCAL_NODE);
    place.deployment.services.push(entry("media", "elsewhere"));
    place
}

struct Agent(NodeClient<Channel>);

impl Agent {
    async fn of(authority: &Running) -> Self {
        Self(authority.agent("local").await)
    }

    async fn ask(&mut self, who: &str, request: IssueTokenRequest) -> Result<IssueTokenResponse, Status> {
        let request = NodeIssueTokenRequest { spiffe_id: id(who).to_string(), request: Some(request) };
        self.0.issue_token(request).await.map(tonic::Response::into_inner)
    }

    async fn snapshot(&mut self) -> Snapshot {
        let mut stream = self.0.snapshots(SnapshotsRequest::default()).await.unwrap().into_inner();
        Snapshot::parse(&stream.message().await.unwrap().unwrap().payload).unwrap()
    }

    async fn secrets(&mut self, who: &str) -> tonic::Streaming<SecretsResponse> {
        let request = NodeSecretsRequest { spiffe_id: id(who).to_string() };
        self.0.secrets(request).await.unwrap().into_inner()
    }

    async fn applied(&mut self, who: &str, secrets_generation: u64) {
        let applied = AppliedRequest { epoch: "e".to_owned(), sequence: 1, secrets_generation };
        let spiffe_id = id(who).to_string();
        self.0.applied(NodeAppliedRequest { spiffe_id, applied: Some(applied) }).await.unwrap();
    }
}

fn for_callee(kind: TokenKind, callee: &str) -> IssueTokenRequest {
    IssueTokenRequest { kind: kind.into(), audience: id(callee).to_string(), ..IssueTokenRequest::default() }
}

fn wit_for(key: &KeyPair, who: &SpiffeId) -> IssueTokenRequest {
    IssueTokenRequest {
        kind: TokenKind::Wit.into(),
        jwk: key.public_key().to_jwk(),
        possession: key.sign_fixed("wit-key", who.as_str().as_bytes()).unwrap().to_vec(),
        ..IssueTokenRequest::default()
    }
}

async fn next<T>(stream: &mut tonic::Streaming<T>) -> T {
    tokio::time::timeout(SOON, stream.message()).await.expect("within two seconds").unwrap().unwrap()
}

/// What `callee` thinks of a bearer token, by its secrets alone.
fn judge_bearer(secrets: &SecretsResponse, token: &str) -> Result<SpiffeId, bearer::BearerError> {
    let key = BearerKey::new(secrets.bearer_key.clone().try_into().unwrap());
    let find = |wanted: BearerId| {
        let entry = secrets.bearer.iter().find(|entry| entry.id == wanted.to_string())?;
        Some(BearerEntry {
            owner: entry.owner.parse().unwrap(),
            hash: BearerHash(entry.hash.clone().try_into().unwrap()),
            expires: UnixTime::from_millis(entry.expires_at_ms),
        })
    };
    bearer::verify(token, &key, clock::now(), find).map(|holder| holder.owner.clone())
}

/// What `callee` thinks of a macaroon for `GET /users/7`, by its secrets alone.
fn judge_macaroon(
    secrets: &SecretsResponse,
    callee: &SpiffeId,
    credential: &str,
) -> Result<SpiffeId, String> {
    let facts = RequestFacts {
        callee,
        method: "GET",
        path: "/users/7",
        query: None,
        body: None,
        caller: None,
        user: None,
        now: clock::now(),
    };
    let keys: Vec<(String, RootKey)> =
        secrets.macaroon_keys.iter().map(|key| (key.id.clone(), RootKey::derive(&key.key))).collect();
    let find = |wanted: &str| keys.iter().find(|(id, _)| id == wanted).map(|(_, key)| key);
    service::verify(credential, &facts, find)
        .map(|holder| holder.owner.clone())
        .map_err(|error| error.to_string())
}

fn narrowing(callee: &SpiffeId) -> Narrowing<'_> {
    let before = clock::now().saturating_add(Duration::from_secs(30));
    Narrowing { callee, method: "GET", path: "/users/7", query: None, body: None, before }
}

#[tokio::test]
async fn a_workload_gets_a_signing_certificate_that_no_connection_accepts() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let ask = |purpose| NodeIssueRequest {
        spiffe_id: id("ads").to_string(),
        csr: csr::make(&new_key(), None).unwrap(),
        attestation: String::new(),
        purpose,
    };
    let issued = agent.0.issue(ask(CertificatePurpose::Signing.into())).await.unwrap().into_inner();
    let chain: Vec<CertificateDer<'static>> = issued.chain.into_iter().map(CertificateDer::from).collect();
    let trust = authority.trust().await;
    let (bundles, now, any) = (trust.load(), clock::now(), Expectation::AnyInBundle);
    let (_, signer) = verify_signer(&chain, bundles.bundles(), now, any, CrlPolicy::Require);
    assert_eq!(*signer.unwrap().id(), id("ads"));
    for usage in [Usage::Client, Usage::Server] {
        assert!(verify_peer(&chain, bundles.bundles(), now, usage, any, CrlPolicy::Require).outcome.is_err());
    }
    let signed = authority.events("certificate_signed").await;
    assert!(signed.iter().any(|event| event["profile"] == "signing"));
    assert_eq!(agent.0.issue(ask(7)).await.unwrap_err().code(), Code::InvalidArgument);
    authority.stop().await;
}

#[tokio::test]
async fn a_wit_names_the_key_that_was_shown_and_verifies_by_the_snapshot_alone() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let key = new_key();
    let answer = agent.ask("ads", wit_for(&key, &id("ads"))).await.unwrap();
    let life = UnixTime::from_millis(answer.expires_at_ms).since(UnixTime::from_millis(answer.issued_at_ms));
    assert!(life <= Duration::from_secs(3600) && life < WIT_LIFETIME_MAX, "{life:?}");

    let snapshot = agent.snapshot().await;
    let authority_keys = &snapshot.token_authorities[0];
    assert_eq!(authority_keys.trust_domain, home());
    let issuer = |kid: &str| {
        let key = authority_keys.wit.iter().map(|jwk| PublicKey::from_jwk(jwk.as_str()).unwrap());
        let key = key.into_iter().find(|key| key.thumbprint() == kid)?;
        let kid = kid.to_owned();
        Some(WitIssuer { key, kid, trust_domain: home(), issuer: Some(authority_keys.issuer.clone()) })
    };
    let unproven = Wit::<SpiffeId>::verify(&answer.token, clock::now(), issuer).unwrap();
    assert_eq!(*unproven.claimed_subject(), id("ads"));
    assert_eq!(unproven.key_ids()[1], key.public_key().thumbprint());
    // Every kind has a key of its own.
    let mut kids: Vec<String> = [&authority_keys.wit, &authority_keys.jwt_svid, &authority_keys.exchange]
        .into_iter()
        .chain([&snapshot.access_token.keys])
        .flatten()
        .map(|jwk| PublicKey::from_jwk(jwk.as_str()).unwrap().thumbprint())
        .collect();
    kids.sort();
    kids.dedup();
    assert_eq!(kids.len(), 4);
    let issued = authority.events("workload_token_issued").await;
    assert_eq!((issued[0]["what"].as_str(), issued[0]["id"].as_str()), (Some("wit"), unproven.token_id()));
    assert!(!issued[0].to_string().contains(&answer.token), "the ledger names tokens, and holds none");
    authority.stop().await;
}

#[tokio::test]
async fn rejects_a_wit_for_a_key_that_was_not_shown_to_be_held() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let (own, stolen) = (new_key(), new_key());
    let good = || wit_for(&own, &id("ads"));
    for (why, bad) in [
        ("a key of somebody else", IssueTokenRequest { jwk: stolen.public_key().to_jwk(), ..good() }),
        ("a proof made for another workload", wit_for(&own, &id("users"))),
        ("no proof", IssueTokenRequest { possession: Vec::new(), ..good() }),
        ("an audience", IssueTokenRequest { audience: id("users").to_string(), ..good() }),
        ("more audiences", IssueTokenRequest { more_audiences: vec!["a".to_owned()], ..good() }),
        ("no key", IssueTokenRequest { jwk: String::new(), ..good() }),
        ("a secret key", IssueTokenRequest { jwk: r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), ..good() }),
    ] {
        assert_eq!(agent.ask("ads", bad).await.unwrap_err().code(), Code::InvalidArgument, "{why}");
    }
    assert!(authority.events("workload_token_issued").await.is_empty());
    authority.stop().await;
}

#[tokio::test]
async fn rejects_tokens_for_whom_the_node_may_not_hold_for_callees_that_do_not_exist_and_of_no_kind() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let foreign = agent.ask("media", for_callee(TokenKind::Bearer, "users")).await.unwrap_err();
    assert_eq!(foreign.code(), Code::PermissionDenied, "{foreign}");
    for kind in [TokenKind::Bearer, TokenKind::Macaroon] {
        for callee in ["spiffe://fleamarket.test/svc/nobody", "spiffe://other.test/svc/users", "users", ""] {
            let request = IssueTokenRequest { audience: callee.to_owned(), ..for_callee(kind, "users") };
            let refused = agent.ask("ads", request).await.unwrap_err();
            assert!(refused.message().contains("CS3105"), "{callee}: {refused}");
        }
        let gateway = "spiffe://fleamarket.test/countersign/gateway/edge".to_owned();
        let request = IssueTokenRequest { audience: gateway, ..for_callee(kind, "users") };
        assert!(agent.ask("ads", request).await.is_err(), "a gateway is no callee");
        let keyed = IssueTokenRequest { jwk: "{}".to_owned(), ..for_callee(kind, "users") };
        assert_eq!(agent.ask("ads", keyed).await.unwrap_err().code(), Code::InvalidArgument);
        let many =
            IssueTokenRequest { more_audiences: vec![id("ads").to_string()], ..for_callee(kind, "users") };
        assert_eq!(agent.ask("ads", many).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for kind in [0, 99] {
        let request = IssueTokenRequest { kind, ..IssueTokenRequest::default() };
        assert_eq!(agent.ask("ads", request).await.unwrap_err().code(), Code::InvalidArgument, "{kind}");
    }
    authority.stop().await;
}

#[tokio::test]
async fn a_jwt_svid_counts_for_its_audiences_and_for_five_minutes() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let request = IssueTokenRequest {
        more_audiences: vec!["https://other.test".to_owned()],
        ..for_callee(TokenKind::JwtSvid, "users")
    };
    let answer = agent.ask("ads", request.clone()).await.unwrap();
    assert_eq!(answer.expires_at_ms - answer.issued_at_ms, 300_000);
    let keys = agent.snapshot().await.token_authorities.remove(0).jwt_svid;
    let key_of = |trust_domain: &countersign_identity::TrustDomain, kid: &str| {
        let mut keys = keys.iter().map(|jwk| PublicKey::from_jwk(jwk.as_str()).unwrap());
        keys.find(|key| *trust_domain == home() && key.thumbprint() == kid)
    };
    for audience in [id("users").as_str(), "https://other.test"] {
        let svid = JwtSvid::verify(&answer.token, audience, clock::now(), key_of).unwrap();
        assert_eq!(svid.subject, id("ads"));
    }
    assert!(JwtSvid::verify(&answer.token, id("media").as_str(), clock::now(), key_of).is_err());
    for bad in [
        IssueTokenRequest { audience: String::new(), ..request.clone() },
        IssueTokenRequest { more_audiences: vec![String::new()], ..request.clone() },
        IssueTokenRequest { more_audiences: vec!["a".to_owned(); 16], ..request.clone() },
        IssueTokenRequest { jwk: "{}".to_owned(), ..request },
    ] {
        assert_eq!(agent.ask("ads", bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    authority.stop().await;
}

#[tokio::test]
async fn a_bearer_token_is_known_to_its_callee_alone_before_its_owner_has_it() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let (mut of_users, mut of_ads) = (agent.secrets("users").await, agent.secrets("ads").await);
    let (first, ads) = (next(&mut of_users).await, next(&mut of_ads).await);
    assert!(first.generation > 0 && first.bearer.is_empty());
    assert_ne!(first.bearer_key, ads.bearer_key, "each callee has a key of its own");
    agent.applied("users", first.generation).await;

    let mut other = Agent(agent.0.clone());
    let asking =
        tokio::spawn(async move { other.ask("ads", for_callee(TokenKind::Bearer, "users")).await.unwrap() });
    let second = next(&mut of_users).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asking.is_finished(), "the answer waits until the callee says that it knows the token");
    agent.applied("users", second.generation).await;
    let answer = tokio::time::timeout(SOON, asking).await.unwrap().unwrap();
    assert!(answer.token.starts_with("csb_"));
    assert_eq!(answer.expires_at_ms - answer.issued_at_ms, 3_600_000);
    assert_eq!(judge_bearer(&second, &answer.token), Ok(id("ads")));
    assert!(judge_bearer(&first, &answer.token).is_err());
    let nothing = tokio::time::timeout(Duration::from_millis(300), of_ads.message()).await;
    assert!(nothing.is_err(), "nobody else hears of it");
    authority.stop().await;
}

#[tokio::test]
async fn a_callee_that_never_answers_delays_a_token_for_two_seconds_and_no_longer() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    agent.applied("users", 1).await;
    let begun = std::time::Instant::now();
    agent.ask("ads", for_callee(TokenKind::Bearer, "users")).await.unwrap();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&begun.elapsed()), "{begun:?}");
    let begun = std::time::Instant::now();
    agent.ask("users", for_callee(TokenKind::Bearer, "ads")).await.unwrap();
    assert!(begun.elapsed() < SOON, "nobody waits for a callee that does not run");
    authority.stop().await;
}

#[tokio::test]
async fn a_macaroon_counts_at_its_callee_and_a_callee_can_forge_only_towards_itself() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let answer = agent.ask("ads", for_callee(TokenKind::Macaroon, "users")).await.unwrap();
    let life = answer.expires_at_ms - answer.issued_at_ms;
    assert!((3_599_000..=3_600_000).contains(&life), "{life}");
    let of_users = next(&mut agent.secrets("users").await).await;
    let of_ads = next(&mut agent.secrets("ads").await).await;
    assert_ne!(of_users.macaroon_keys[0].key, of_ads.macaroon_keys[0].key);
    let (users, ads) = (id("users"), id("ads"));
    let held = HeldMacaroon::parse(&answer.token).unwrap();
    let shown = held.present(&narrowing(&users)).unwrap();
    assert_eq!(judge_macaroon(&of_users, &users, &shown), Ok(ads.clone()));
    assert!(judge_macaroon(&of_ads, &ads, &shown).is_err());
    // With all that ads holds, it can speak to itself in any name, and to nobody else.
    let stolen = RootKey::derive(&of_ads.macaroon_keys[0].key);
    let name = countersign_token::macaroon::MacaroonName::new("k1", users.clone(), [7; 16]).unwrap();
    let end = clock::now().saturating_add(SOON);
    let forged = HeldMacaroon::new(service::mint(&stolen, &name, &users, end).unwrap());
    assert!(judge_macaroon(&of_users, &users, &forged.present(&narrowing(&users)).unwrap()).is_err());
    authority.stop().await;
}

#[tokio::test]
async fn every_call_about_tokens_demands_an_agents_certificate() {
    let place = place();
    let authority = place.start().await;
    let service = authority.svid("ads").await;
    for (identity, code) in [(None, Code::Unauthenticated), (Some(service), Code::PermissionDenied)] {
        let mut client = authority.node_client(identity).await;
        let spiffe_id = id("ads").to_string();
        let refusals = [
            client.issue_token(NodeIssueTokenRequest::default()).await.unwrap_err(),
            client.secrets(NodeSecretsRequest { spiffe_id: spiffe_id.clone() }).await.unwrap_err(),
            client.applied(NodeAppliedRequest { spiffe_id, applied: None }).await.unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), code, "{refusal}");
        }
    }
    let mut agent = Agent::of(&authority).await;
    let foreign = NodeSecretsRequest { spiffe_id: id("media").to_string() };
    assert_eq!(agent.0.secrets(foreign).await.unwrap_err().code(), Code::PermissionDenied);
    authority.stop().await;
}

#[tokio::test]
async fn an_administrators_bearer_token_is_shown_once_rotated_with_overlap_and_revoked() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let mut of_users = agent.secrets("users").await;
    next(&mut of_users).await;
    let order = json!({ "service": "ads", "scope": ["users", "users", "media"], "ttl_s": 600 });
    let first = authority.post("/api/v1/tokens/bearer", order).await;
    let secrets = next(&mut of_users).await;
    let (token, first_id) = (first["token"].as_str().unwrap(), first["id"].as_str().unwrap());
    assert_eq!(judge_bearer(&secrets, token), Ok(id("ads")));
    let listed = authority.get("/api/v1/tokens/bearer").await;
    assert_eq!(listed[0]["scope"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(&token[20..]), "a listing holds no token");

    let rotate = format!("/api/v1/tokens/bearer/{first_id}/rotate");
    let second = authority.post(&rotate, json!({ "overlap_s": 60 })).await;
    let both = next(&mut of_users).await;
    assert_eq!(judge_bearer(&both, token), Ok(id("ads")), "the old one counts for a minute");
    assert_eq!(judge_bearer(&both, second["token"].as_str().unwrap()), Ok(id("ads")));
    let again = authority.admin(Method::POST, &rotate, Some(json!({}))).await;
    assert_eq!(again.status, 404, "once");
    let old = both.bearer.iter().find(|entry| entry.id == first_id).unwrap();
    assert!(UnixTime::from_millis(old.expires_at_ms).since(clock::now()) <= Duration::from_secs(60));

    let revoke = format!("/api/v1/tokens/bearer/{}/revoke", second["id"].as_str().unwrap());
    authority.post(&revoke, json!({})).await;
    let after = next(&mut of_users).await;
    assert!(judge_bearer(&after, second["token"].as_str().unwrap()).is_err());
    let named = agent.snapshot().await.revoked.tokens;
    assert_eq!(named[0].id, second["id"].as_str().unwrap(), "whoever cached a verdict learns it too");
    assert_eq!(authority.admin(Method::POST, &revoke, Some(json!({}))).await.status, 404);

    // By the general way too.
    authority.post("/api/v1/revocations", json!({ "kind": "token", "id": first_id })).await;
    assert!(next(&mut of_users).await.bearer.is_empty());
    authority.stop().await;
}

#[tokio::test]
async fn rejects_orders_for_bearer_tokens_and_macaroons_that_nobody_should_have() {
    let place = place();
    let authority = place.start().await;
    let bearer = |change: serde_json::Value| {
        let mut order = json!({ "service": "ads", "scope": ["users"] });
        order.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        order
    };
    for (change, code) in [
        (json!({ "scope": [] }), "invalid_request"),
        (json!({ "scope": vec!["users"; 17] }), "invalid_request"),
        (json!({ "scope": ["gateway"] }), "invalid_target"),
        (json!({ "scope": ["nobody"] }), "access_denied"),
        (json!({ "service": "nobody" }), "access_denied"),
        (json!({ "ttl_s": 0 }), "invalid_request"),
        (json!({ "ttl_s": 90 * 24 * 3600 + 1 }), "invalid_request"),
        (json!({ "more": 1 }), "malformed_request"),
    ] {
        let answer =
            authority.admin(Method::POST, "/api/v1/tokens/bearer", Some(bearer(change.clone()))).await;
        assert!(answer.status.is_client_error(), "{change}");
        assert_eq!(answer.json()["code"], code, "{change}: {}", answer.json());
    }
    for change in [
        json!({ "caveats": ["colour = red"] }),
        json!({ "caveats": [""] }),
        json!({ "caveats": vec!["method = GET"; 9] }),
        json!({ "discharge_for": "colour = red" }),
        json!({ "discharge_for": "user = alice" }),
        json!({ "ttl_s": 24 * 3600 + 1 }),
        json!({ "callee": "gateway" }),
    ] {
        let mut order = json!({ "service": "ads", "callee": "users" });
        order.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = authority.admin(Method::POST, "/api/v1/tokens/macaroon", Some(order)).await;
        assert!(answer.status.is_client_error(), "{change}: {}", answer.status);
    }
    assert!(authority.events("workload_token_issued").await.is_empty());
    authority.stop().await;
}

#[tokio::test]
async fn a_macaroon_with_a_condition_needs_the_discharge_that_only_who_fulfils_it_gets() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let (users, ads) = (id("users"), id("ads"));
    let of_users = next(&mut agent.secrets("users").await).await;
    let order = json!({ "service": "ads", "callee": "users", "caveats": ["method = GET"],
        "discharge_for": format!("workload = {ads}") });
    let minted = authority.post("/api/v1/tokens/macaroon", order).await;
    let held = HeldMacaroon::parse(minted["token"].as_str().unwrap()).unwrap();
    assert!(judge_macaroon(&of_users, &users, &held.present(&narrowing(&users)).unwrap()).is_err());

    let caveat = {
        let (location, caveat) = held.undischarged().next().unwrap();
        assert_eq!(location, "spiffe://fleamarket.test/countersign/authority");
        countersign_wire::Base64(caveat.to_vec()).to_text()
    };
    let caveat = caveat.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let path = "/api/v1/tokens/discharge";
    let ask = async |channel: &Channel, caveat: &str| {
        let body = Some(json!({ "caveat": caveat }));
        call(channel, Method::POST, path, body, &HeaderMap::new()).await.unwrap()
    };
    let stranger = authority.https(None).await;
    assert_eq!(ask(&stranger, &caveat).await.status, 401);
    let other = authority.https(Some(authority.svid("users").await)).await;
    let refused = ask(&other, &caveat).await;
    assert_eq!(refused.status, 403);
    assert!(!String::from_utf8_lossy(&refused.body).contains("svc/ads"), "the condition stays sealed");
    let holder = authority.https(Some(authority.svid("ads").await)).await;
    for nonsense in ["AAAA", "!", ""] {
        assert!(ask(&holder, nonsense).await.status.is_client_error(), "{nonsense}");
    }
    for answer in [
        ask(&holder, &caveat).await,
        authority.admin(Method::POST, path, Some(json!({ "caveat": caveat }))).await,
    ] {
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let discharge = HeldMacaroon::parse(answer.json()["discharge"].as_str().unwrap()).unwrap();
        let complete = held.clone().with(discharge.root().clone());
        let shown = complete.present(&narrowing(&users)).unwrap();
        assert_eq!(judge_macaroon(&of_users, &users, &shown), Ok(ads.clone()));
    }
    authority.stop().await;
}

#[tokio::test]
async fn a_registered_key_reaches_every_data_plane_and_a_withdrawn_one_never_comes_back() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let path = "/api/v1/services/ads/keys";
    let key = new_key();
    let order = |key: &KeyPair| {
        let jwk: serde_json::Value = serde_json::from_str(&key.public_key().to_jwk()).unwrap();
        json!({ "purpose": "signing", "jwk": jwk })
    };
    let registered = authority.post(path, order(&key)).await;
    assert_eq!(registered["kid"], key.public_key().thumbprint());
    let known = agent.snapshot().await.workload_keys;
    assert_eq!((known.len(), &known[0].owner), (1, &id("ads")));
    assert_eq!(PublicKey::from_jwk(known[0].jwk.as_str()).unwrap(), *key.public_key());
    assert_eq!(authority.get(path).await.as_array().unwrap().len(), 1);

    for (why, path, body) in [
        ("a key of another service", "/api/v1/services/users/keys", order(&key)),
        ("a gateway", "/api/v1/services/gateway/keys", order(&new_key())),
        ("nobody", "/api/v1/services/nobody/keys", order(&new_key())),
        ("a symmetric key", path, json!({ "purpose": "signing", "jwk": { "kty": "oct", "k": "AAAA" } })),
        ("a signing key for encryption", path, {
            let mut body = order(&new_key());
            body["purpose"] = json!("encryption");
            body
        }),
    ] {
        let answer = authority.admin(Method::POST, path, Some(body)).await;
        assert!(answer.status.is_client_error(), "{why}: {}", answer.status);
    }
    let left = authority.post(&format!("{path}/withdraw"), json!({ "kid": registered["kid"] })).await;
    assert_eq!(left, json!([]));
    assert!(agent.snapshot().await.workload_keys.is_empty());
    assert_eq!(authority.admin(Method::POST, path, Some(order(&key))).await.status, 409);
    assert_eq!(authority.events("workload_key_registered").await.len(), 1);
    assert_eq!(authority.events("workload_key_withdrawn").await.len(), 1);
    authority.stop().await;
}

#[tokio::test]
async fn whoever_is_revoked_loses_keys_and_tokens_with_the_certificate() {
    let place = place();
    let authority = place.start().await;
    let mut agent = Agent::of(&authority).await;
    let jwk: serde_json::Value = serde_json::from_str(&new_key().public_key().to_jwk()).unwrap();
    authority.post("/api/v1/services/ads/keys", json!({ "purpose": "signing", "jwk": jwk })).await;
    agent.ask("ads", wit_for(&new_key(), &id("ads"))).await.unwrap();
    agent.ask("ads", for_callee(TokenKind::Macaroon, "users")).await.unwrap();
    agent.ask("ads", for_callee(TokenKind::Bearer, "users")).await.unwrap();
    agent.ask("users", for_callee(TokenKind::Macaroon, "ads")).await.unwrap();
    let ids: Vec<String> = authority
        .events("workload_token_issued")
        .await
        .iter()
        .filter(|event| event["owner"] == id("ads").as_str() && event["what"] != "bearer")
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    let mut of_users = agent.secrets("users").await;
    assert_eq!(next(&mut of_users).await.bearer.len(), 1);

    // It has no certificate at all, and is revoked all the same.
    authority.post("/api/v1/certificates/revoke", json!({ "service": "ads" })).await;
    assert!(next(&mut of_users).await.bearer.is_empty());
    let snapshot = agent.snapshot().await;
    assert!(snapshot.workload_keys.is_empty());
    let mut revoked: Vec<String> = snapshot.revoked.tokens.into_iter().map(|token| token.id).collect();
    let mut expected = ids;
    revoked.sort();
    expected.sort();
    assert_eq!((revoked, expected.len()), (expected.clone(), 2));
    authority.stop().await;
}
