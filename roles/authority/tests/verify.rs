//! `POST /api/v1/tokens/verify`: of every kind a token that holds, and tokens that fail at one check each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{
    Place, Running, entry, home,
    market::{ACCESS, Market, TOKEN, TXN, form, issued},
    new_key,
};
use countersign_authority::LOCAL_NODE;
use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{KeyPair, sha256};
use countersign_pki::{CertificateDer, csr};
use countersign_sdk::{clock, outbound::Channel, signing_chains::write_chain};
use countersign_token::{
    ServiceToken,
    macaroon::{HeldMacaroon, Predicate},
    service_token::{BodyBinding, UserBinding},
};
use countersign_wire::{
    agent::{CertificatePurpose, IssueTokenRequest, TokenKind},
    node::{NodeIssueRequest, NodeIssueTokenRequest, node_client::NodeClient},
};
use http::Method;
use serde_json::{Value, json};

const VERIFY: &str = "/api/v1/tokens/verify";

fn id(name: &str) -> SpiffeId {
    SpiffeId::service(&home(), name).unwrap()
}

/// `ads` and `users` on the local node, of this trust domain or another.
fn place(trust_domain: &str) -> Place {
    let mut place = Place::of(trust_domain);
    place.deployment.services[1] = entry("users", LOCAL_NODE);
    place
}

/// The verdict over a token, which is never repeated.
async fn verdict(authority: &Running, token: &str, more: Value) -> Value {
    let mut body = json!({ "token": token });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let verdict = authority.post(VERIFY, body).await;
    let told = verdict.to_string();
    let secret = token.rsplit(['.', ',']).next().unwrap();
    assert!(!told.contains(secret) && !told.contains(token), "{told}");
    let fails = verdict["checks"].as_array().unwrap().iter().any(|check| check["result"] == "fail");
    assert_eq!(verdict["holds"], !fails, "{verdict}");
    verdict
}

async fn plain(authority: &Running, token: &str) -> Value {
    verdict(authority, token, json!({})).await
}

fn check<'a>(verdict: &'a Value, name: &str) -> &'a Value {
    let mut checks = verdict["checks"].as_array().unwrap().iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {verdict}"))
}

#[track_caller]
fn holds(verdict: &Value, kind: &str) {
    assert_eq!((&verdict["kind"], &verdict["holds"]), (&json!(kind), &json!(true)), "{verdict}");
    assert_eq!(verdict["revoked"], false);
    assert!(verdict["expires_at"].as_i64().unwrap() > clock::now().millis(), "{verdict}");
}

/// It fails at exactly this check, and nothing after it was reached.
#[track_caller]
fn fails(verdict: &Value, kind: &str, name: &str) {
    assert_eq!((&verdict["kind"], &verdict["holds"]), (&json!(kind), &json!(false)), "{verdict}");
    let checks = verdict["checks"].as_array().unwrap();
    let failed: Vec<&Value> = checks.iter().filter(|check| check["result"] == "fail").collect();
    assert_eq!((failed.len(), &failed[0]["name"]), (1, &json!(name)), "{verdict}");
    assert!(!failed[0]["detail"].as_str().unwrap().is_empty());
    let after = checks.iter().skip_while(|check| check["name"] != name).skip(1);
    // Each caveat is told, and then whether the macaroon was taken back: that needs no request.
    assert!(name == "caveat" || after.clone().all(|check| check["result"] == "not_reached"), "{verdict}");
    assert_eq!(verdict["revoked"], name == "revocation", "{verdict}");
}

/// Not judged, and the answer says so.
#[track_caller]
fn is_open(verdict: &Value, name: &str) {
    let check = check(verdict, name);
    assert_eq!(check["result"], "not_reached", "{verdict}");
    assert!(check["detail"].as_str().unwrap().starts_with("not judged: "), "{verdict}");
}

/// The same token with another last signature byte.
fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed}.{first}{}", &signature[1..])
}

async fn take_back(authority: &Running, kind: &str, id: &str) {
    authority.post("/api/v1/revocations", json!({ "kind": kind, "id": id })).await;
}

async fn ask(agent: &mut NodeClient<Channel>, who: &SpiffeId, request: IssueTokenRequest) -> String {
    let request = NodeIssueTokenRequest { spiffe_id: who.to_string(), request: Some(request) };
    agent.issue_token(request).await.unwrap().into_inner().token
}

fn svid_for(audience: &SpiffeId) -> IssueTokenRequest {
    IssueTokenRequest {
        kind: TokenKind::JwtSvid.into(),
        audience: audience.to_string(),
        ..IssueTokenRequest::default()
    }
}

#[tokio::test]
async fn an_access_token_holds_until_its_user_is_revoked_and_a_forged_one_never_does() {
    let market = Market::open().await;
    let authority = &market.authority;
    let good = plain(authority, &market.login).await;
    holds(&good, "access_token");
    assert!(good["subject"].as_str().unwrap().starts_with("u_"));
    assert_eq!(check(&good, "possession")["result"], "pass", "bound to nothing, and it says so");
    fails(&plain(authority, &forged(&market.login)).await, "access_token", "signature");
    let foreign = KeyPair::generate(&countersign_keys::SystemRandom::new()).unwrap();
    let unknown = countersign_token::jws::sign_as(countersign_token::TokenKind::AccessToken, &foreign, b"{}");
    fails(&plain(authority, &unknown.unwrap()).await, "access_token", "key");
    take_back(authority, "user", "alice").await;
    fails(&plain(authority, &market.login).await, "access_token", "revocation");
    market.authority.stop().await;
}

#[tokio::test]
async fn an_exchanged_token_holds_for_its_callee_and_says_that_its_holder_was_not_judged() {
    let market = Market::open().await;
    let authority = &market.authority;
    let gateway = market.client("gateway").await;
    let hop = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let good = plain(authority, &hop).await;
    holds(&good, "exchanged_token");
    for open in ["audience", "presenter", "possession"] {
        is_open(&good, open);
    }
    let for_ads = verdict(authority, &hop, json!({ "callee": "ads" })).await;
    assert_eq!(check(&for_ads, "audience")["result"], "pass");
    fails(&verdict(authority, &hop, json!({ "callee": "users" })).await, "exchanged_token", "audience");
    market.authority.stop().await;
}

#[tokio::test]
async fn a_transaction_token_holds_until_it_is_revoked() {
    let market = Market::open().await;
    let authority = &market.authority;
    let gateway = market.client("gateway").await;
    let more = [("audience", "fleamarket.test"), ("requested_token_type", TXN), ("scope", "fleamarket")];
    let txn = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &more)).await);
    holds(&plain(authority, &txn).await, "txn_token");
    fails(&plain(authority, &forged(&txn)).await, "txn_token", "signature");
    let id = common::market::claims(&txn)["txn"].as_str().unwrap().to_owned();
    take_back(authority, "token", &id).await;
    fails(&plain(authority, &txn).await, "txn_token", "revocation");
    market.authority.stop().await;
}

#[tokio::test]
async fn a_jwt_svid_holds_for_its_audience_and_a_foreign_one_once_its_bundle_is_held() {
    let (here, there) = (place("fleamarket.test"), place("partner.test"));
    let (authority, partner) = (here.start().await, there.start().await);
    let svid = ask(&mut authority.agent("local").await, &id("ads"), svid_for(&id("users"))).await;
    let good = plain(&authority, &svid).await;
    holds(&good, "jwt_svid");
    assert_eq!((&good["subject"], &good["audience"]), (&json!(id("ads")), &json!([id("users")])));
    is_open(&good, "audience");
    holds(&verdict(&authority, &svid, json!({ "callee": "users" })).await, "jwt_svid");
    fails(&verdict(&authority, &svid, json!({ "callee": "ads" })).await, "jwt_svid", "audience");

    let guest: SpiffeId = "spiffe://partner.test/svc/ads".parse().unwrap();
    let foreign = ask(&mut partner.agent("local").await, &guest, svid_for(&id("users"))).await;
    fails(&plain(&authority, &foreign).await, "jwt_svid", "key");
    let bundle = partner.get("/api/v1/bundle/spiffe").await;
    authority.post("/api/v1/federation", json!({ "trust_domain": "partner.test", "bundle": bundle })).await;
    holds(&plain(&authority, &foreign).await, "jwt_svid");
    authority.stop().await;
    partner.stop().await;
}

#[tokio::test]
async fn a_wit_holds_and_is_said_to_prove_nobody_without_a_proof() {
    let place = place("fleamarket.test");
    let authority = place.start().await;
    let (key, ads) = (new_key(), id("ads"));
    let order = IssueTokenRequest {
        kind: TokenKind::Wit.into(),
        jwk: key.public_key().to_jwk(),
        possession: key.sign_fixed("wit-key", ads.as_str().as_bytes()).unwrap().to_vec(),
        ..IssueTokenRequest::default()
    };
    let wit = ask(&mut authority.agent("local").await, &ads, order).await;
    let good = plain(&authority, &wit).await;
    holds(&good, "wit");
    is_open(&good, "possession");
    fails(&plain(&authority, &forged(&wit)).await, "wit", "signature");
    // The key that it names, not the one that signed it.
    take_back(&authority, "key", &key.public_key().thumbprint()).await;
    fails(&plain(&authority, &wit).await, "wit", "revocation");
    authority.stop().await;
}

fn service_token(key: &KeyPair, certificate: Option<&[u8; 32]>, issued_at: UnixTime) -> String {
    let token = ServiceToken {
        issuer: id("ads"),
        audience: id("users"),
        jti: "abcdefghijklmnopqrstuv".to_owned(),
        method: "GET".to_owned(),
        path_and_query: "/users/7?full=1".to_owned(),
        body: BodyBinding::Sha256(sha256(b"")),
        channel: Some([7; 32]),
        user: UserBinding::TxnToken([8; 32]),
        private: BTreeMap::new(),
        issued_at,
        expires: issued_at.saturating_add(Duration::from_secs(30)),
    };
    token.mint(key, certificate).unwrap()
}

#[tokio::test]
async fn a_service_token_holds_by_a_registered_key_and_its_request_is_not_judged() {
    let place = place("fleamarket.test");
    let authority = place.start().await;
    let (key, now) = (new_key(), UnixTime::from_secs(clock::now().secs()));
    let token = service_token(&key, None, now);
    fails(&plain(&authority, &token).await, "service_token", "key");
    let jwk: Value = serde_json::from_str(&key.public_key().to_jwk()).unwrap();
    authority.post("/api/v1/services/ads/keys", json!({ "purpose": "signing", "jwk": jwk })).await;
    let good = plain(&authority, &token).await;
    holds(&good, "service_token");
    assert_eq!(good["subject"], json!(id("ads")));
    is_open(&good, "request");
    assert!(
        check(&good, "request")["detail"].as_str().unwrap().contains("GET /users/7?full=1 with its body")
    );
    fails(&verdict(&authority, &token, json!({ "callee": "ads" })).await, "service_token", "audience");
    let old = service_token(&key, None, now.saturating_sub(Duration::from_secs(120)));
    fails(&plain(&authority, &old).await, "service_token", "times");
    // A key of somebody else speaks for somebody else.
    let other = new_key();
    let jwk: Value = serde_json::from_str(&other.public_key().to_jwk()).unwrap();
    authority.post("/api/v1/services/users/keys", json!({ "purpose": "signing", "jwk": jwk })).await;
    fails(&plain(&authority, &service_token(&other, None, now)).await, "service_token", "issuer");
    take_back(&authority, "token", "abcdefghijklmnopqrstuv").await;
    fails(&plain(&authority, &token).await, "service_token", "revocation");
    authority.stop().await;
}

#[tokio::test]
async fn a_service_token_holds_by_the_signing_chain_that_its_key_was_certified_with() {
    let place = place("fleamarket.test");
    let authority = place.start().await;
    let mut agent = authority.agent("local").await;
    let mut certified = async |who: &str| {
        let key = new_key();
        let request = NodeIssueRequest {
            spiffe_id: id(who).to_string(),
            csr: csr::make(&key, None).unwrap(),
            attestation: String::new(),
            purpose: CertificatePurpose::Signing.into(),
        };
        let issued = agent.issue(request).await.unwrap().into_inner();
        (key, issued.chain.into_iter().map(CertificateDer::from).collect::<Vec<_>>())
    };
    let ((ads, chain), (users, of_users)) = (certified("ads").await, certified("users").await);
    let now = UnixTime::from_secs(clock::now().secs());
    let token = service_token(&ads, Some(&sha256(&chain[0])), now);
    let with = |chain: &[CertificateDer<'_>]| json!({ "chain": write_chain(chain) });
    holds(&verdict(&authority, &token, with(&chain)).await, "service_token");
    fails(&plain(&authority, &token).await, "service_token", "key");
    fails(&verdict(&authority, &token, with(&of_users)).await, "service_token", "key");
    fails(&verdict(&authority, &token, json!({ "chain": "nonsense" })).await, "service_token", "key");
    // `users` in the name of `ads`: the certificate names one, and the token the other.
    let stolen = service_token(&users, Some(&sha256(&of_users[0])), now);
    fails(&verdict(&authority, &stolen, with(&of_users)).await, "service_token", "issuer");
    authority.post("/api/v1/certificates/revoke", json!({ "service": "ads" })).await;
    fails(&verdict(&authority, &token, with(&chain)).await, "service_token", "key");
    authority.stop().await;
}

#[tokio::test]
async fn a_bearer_token_holds_in_its_scope_until_it_is_revoked() {
    let place = place("fleamarket.test");
    let authority = place.start().await;
    let order = json!({ "service": "ads", "scope": ["users"] });
    let minted = authority.post("/api/v1/tokens/bearer", order).await;
    let token = minted["token"].as_str().unwrap();
    let good = plain(&authority, token).await;
    holds(&good, "bearer");
    assert_eq!((&good["subject"], &good["audience"]), (&json!(id("ads")), &json!([id("users")])));
    holds(&verdict(&authority, token, json!({ "callee": "users" })).await, "bearer");
    fails(&verdict(&authority, token, json!({ "callee": "ads" })).await, "bearer", "scope");
    fails(&plain(&authority, &token[..58]).await, "bearer", "form");
    let stranger = countersign_token::BearerToken::mint(&countersign_keys::SystemRandom::new()).unwrap();
    fails(&plain(&authority, stranger.expose()).await, "bearer", "known");
    let revoke = format!("/api/v1/tokens/bearer/{}/revoke", minted["id"].as_str().unwrap());
    authority.post(&revoke, json!({})).await;
    fails(&plain(&authority, token).await, "bearer", "revocation");

    let order = json!({ "service": "ads", "scope": ["users"], "ttl_s": 1 });
    let short = authority.post("/api/v1/tokens/bearer", order).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    fails(&plain(&authority, short["token"].as_str().unwrap()).await, "bearer", "times");
    authority.stop().await;
}

#[tokio::test]
async fn a_macaroon_names_each_caveat_as_met_or_not() {
    let place = place("fleamarket.test");
    let authority = place.start().await;
    let order = json!({ "service": "ads", "callee": "users", "caveats": ["method = GET", "user = u_1"] });
    let minted = authority.post("/api/v1/tokens/macaroon", order).await;
    let token = minted["token"].as_str().unwrap();
    let results = |verdict: &Value| -> Vec<(String, String)> {
        let checks = verdict["checks"].as_array().unwrap().iter().filter(|check| check["name"] == "caveat");
        let text = |check: &Value, member: &str| check[member].as_str().unwrap().to_owned();
        checks.map(|check| (text(check, "result"), text(check, "detail"))).collect()
    };
    let good = plain(&authority, token).await;
    holds(&good, "macaroon");
    assert_eq!((&good["subject"], &good["audience"]), (&json!(id("ads")), &json!([id("users")])));
    let caveats = results(&good);
    let words: Vec<&str> = caveats.iter().map(|(result, _)| result.as_str()).collect();
    assert_eq!(words, ["pass", "pass", "not_reached", "not_reached"], "aud, before, method, user: {good}");
    assert_eq!(caveats[2].1, "method = GET: not judged: no request was named");

    let asking = |method: &str| json!({ "request": { "method": method, "path": "/users/7" } });
    assert_eq!(results(&verdict(&authority, token, asking("GET")).await)[2].1, "method = GET: met");
    let posted = verdict(&authority, token, asking("POST")).await;
    fails(&posted, "macaroon", "caveat");
    assert!(results(&posted)[2].1.starts_with("method = GET: not met: "), "{posted}");
    fails(&verdict(&authority, token, json!({ "callee": "ads" })).await, "macaroon", "audience");

    let held = HeldMacaroon::parse(token).unwrap();
    let ended = held.clone().narrowed(&Predicate::Before(UnixTime::from_secs(1))).unwrap().to_text();
    fails(&plain(&authority, &ended).await, "macaroon", "caveat");
    let strange = HeldMacaroon::new(held.root().clone().attenuate("colour = red").unwrap()).to_text();
    let strange = plain(&authority, &strange).await;
    fails(&strange, "macaroon", "caveat");
    take_back(&authority, "token", minted["id"].as_str().unwrap()).await;
    fails(&plain(&authority, token).await, "macaroon", "revocation");
    authority.stop().await;
}

#[tokio::test]
async fn a_macaroon_with_a_condition_holds_with_its_discharge_and_under_its_own_root_key_alone() {
    let place = place("fleamarket.test");
    let authority = place.start().await;
    let order =
        json!({ "service": "ads", "callee": "users", "discharge_for": format!("workload = {}", id("ads")) });
    let minted = authority.post("/api/v1/tokens/macaroon", order).await;
    let held = HeldMacaroon::parse(minted["token"].as_str().unwrap()).unwrap();
    fails(&plain(&authority, &held.to_text()).await, "macaroon", "discharges");
    let caveat = held.undischarged().next().unwrap().1;
    let caveat = countersign_wire::Base64(caveat.to_vec()).to_text();
    let caveat = caveat.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let discharge = authority.post("/api/v1/tokens/discharge", json!({ "caveat": caveat })).await;
    let discharge = HeldMacaroon::parse(discharge["discharge"].as_str().unwrap()).unwrap();
    holds(&plain(&authority, &held.with(discharge.root().clone()).to_text()).await, "macaroon");

    let of_ads = json!({ "service": "users", "callee": "ads" });
    let of_ads = authority.post("/api/v1/tokens/macaroon", of_ads).await;
    let of_ads = HeldMacaroon::parse(of_ads["token"].as_str().unwrap()).unwrap();
    // Whoever holds the key of `ads` can put any name on top, and gets nowhere with it.
    let stolen = countersign_token::macaroon::RootKey::derive(b"the key of ads");
    let name = countersign_token::macaroon::MacaroonName::parse(of_ads.root().identifier()).unwrap();
    let end = clock::now().saturating_add(Duration::from_secs(60));
    let forged = countersign_token::macaroon::service::mint(&stolen, &name, &id("users"), end).unwrap();
    fails(&plain(&authority, &HeldMacaroon::new(forged).to_text()).await, "macaroon", "signature");
    authority.stop().await;
}

#[tokio::test]
async fn rejects_what_is_no_token_and_what_proves_nothing_alone() {
    let place = place("fleamarket.test");
    let authority = place.start().await;
    let sign = |kind| countersign_token::jws::sign_as(kind, &new_key(), b"{}").unwrap();
    for token in [
        String::new(),
        "hello".to_owned(),
        "a.b.c".to_owned(),
        "....".to_owned(),
        sign(countersign_token::TokenKind::Dpop),
        sign(countersign_token::TokenKind::Wpt),
        sign(countersign_token::TokenKind::ClientAssertion),
        "A".repeat(40_000),
    ] {
        let answer = authority.admin(Method::POST, VERIFY, Some(json!({ "token": token }))).await;
        assert_eq!(answer.status, 422, "{token}");
        assert!(token.len() < 8 || !answer.json().to_string().contains(&token));
    }
    let order = json!({ "service": "ads", "callee": "users" });
    let macaroon = authority.post("/api/v1/tokens/macaroon", order).await["token"].clone();
    for request in [
        json!({ "method": "TRACE", "path": "/" }),
        json!({ "method": "GET", "path": "/a/../b" }),
        json!({ "method": "GET", "path": "" }),
        json!({ "method": "G T", "path": "/" }),
    ] {
        let body = json!({ "token": macaroon, "request": request });
        assert_eq!(authority.admin(Method::POST, VERIFY, Some(body)).await.status, 422, "{request}");
    }
    let calls = authority.events_at_least("admin_call", 3).await;
    assert!(calls.iter().any(|call| call["route"] == "POST /api/v1/tokens/verify"));
    for event in calls {
        assert!(!event.to_string().contains(macaroon.as_str().unwrap()), "the ledger knows no token");
    }
    authority.stop().await;
}
