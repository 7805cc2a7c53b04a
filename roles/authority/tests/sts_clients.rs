//! How clients of the token service prove themselves without a certificate, to what their tokens are bound, and what
//! other implementations make of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::time::Duration;

use common::{
    base64,
    curl::{Curl, Reply},
    market::{ACCESS, Market, TOKEN, claims, form, issued},
    new_key,
};
use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, SystemRandom, hash::hex, random_bytes};
use countersign_sdk::clock;
use countersign_testkit::Python;
use countersign_token::{ClientAssertion, DpopTarget, DpopUri, dpop};
use http::Method;
use serde_json::{Value, json};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn new_id() -> String {
    hex(&random_bytes::<16>(&SystemRandom::new()).unwrap())
}

/// An assertion of a client about itself, made just now for `audience`.
fn assertion(key: &KeyPair, client: &str, audience: &str) -> String {
    let now = clock::now();
    let (client, jti) = (client.parse::<SpiffeId>().unwrap(), new_id());
    ClientAssertion { client, jti, issued_at: now, expires: now.saturating_add(Duration::from_secs(30)) }
        .mint(key, audience)
        .unwrap()
}

/// Proofs without a channel count from a few seconds after the start on; see `countersign_token::replay`.
async fn until_proofs_count() {
    tokio::time::sleep(countersign_token::replay::UNBOUND_AHEAD_MAX + Duration::from_secs(1)).await;
}

async fn register(market: &Market, key: &KeyPair) {
    let jwk: Value = serde_json::from_str(&key.public_key().to_jwk()).unwrap();
    market.authority.post("/api/v1/services/ads/keys", json!({ "purpose": "signing", "jwk": jwk })).await;
}

async fn exchange_with(curl: &Curl, subject: &str, assertion: &str, more: &[&str]) -> Reply {
    let form = form(
        subject,
        ACCESS,
        &[("audience", "users"), ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)],
    );
    curl.post_with(TOKEN, &form, more).await
}

const ADS: &str = "spiffe://fleamarket.test/svc/ads";

#[tokio::test]
async fn a_client_proves_itself_once_by_an_assertion_of_a_registered_key_and_its_token_is_bound_to_it() {
    let market = Market::open().await;
    let gateway = market.client("gateway").await;
    let subject = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let (stranger, key) = (Curl::stranger(&market.authority).await, new_key());
    let issuer = format!("https://localhost:{}", market.authority.api.port());
    register(&market, &key).await;
    until_proofs_count().await;

    let proof = assertion(&key, ADS, &issuer);
    let reply = exchange_with(&stranger, &subject, &proof, &[]).await;
    let said = claims(&issued(&reply));
    assert_eq!(
        (&said["act"]["sub"], &said["cnf"]["jkt"]),
        (&json!(ADS), &json!(key.public_key().thumbprint()))
    );
    assert_eq!(reply.json()["token_type"], "N_A", "it proves nothing without a request that the key signed");

    let invalid = (401, "invalid_client".to_owned());
    let replayed = exchange_with(&stranger, &subject, &proof, &[]).await;
    assert_eq!(replayed.error(), invalid, "once");
    for (why, proof) in [
        ("an unknown key", assertion(&new_key(), ADS, &issuer)),
        ("another client", assertion(&key, "spiffe://fleamarket.test/svc/users", &issuer)),
        ("another recipient", assertion(&key, ADS, "https://elsewhere.test")),
        ("nonsense", "a.b.c".to_owned()),
        ("the subject token", subject.clone()),
    ] {
        assert_eq!(exchange_with(&stranger, &subject, &proof, &[]).await.error(), invalid, "{why}");
    }
    let half = form(&subject, ACCESS, &[("audience", "users"), ("client_assertion", &proof)]);
    assert_eq!(stranger.post(TOKEN, &half).await.error(), (400, "invalid_request".to_owned()));
    let both = exchange_with(&gateway, &subject, &assertion(&key, ADS, &issuer), &[]).await;
    assert_eq!(both.error(), (400, "invalid_request".to_owned()), "one way of proving itself");
    let revoked = json!({ "kind": "key", "id": key.public_key().thumbprint() });
    market.authority.post("/api/v1/revocations", revoked).await;
    let late = exchange_with(&stranger, &subject, &assertion(&key, ADS, &issuer), &[]).await;
    assert_eq!(late.error(), invalid, "a key that was taken back");
    market.authority.stop().await;
}

#[tokio::test]
async fn a_client_proves_itself_by_a_certified_signing_key_whose_chain_comes_along() {
    let market = Market::open().await;
    let gateway = market.client("gateway").await;
    let subject = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let stranger = Curl::stranger(&market.authority).await;
    let issuer = format!("https://localhost:{}", market.authority.api.port());
    let (key, certified) = market.authority.issue(json!({ "service": "ads", "profile": "signing" })).await;
    let (tls_key, tls) = market.svid("ads").await;
    let header = |issued: &_| {
        let chain: Vec<String> =
            common::chain(issued).iter().map(|der| format!(":{}:", base64(der))).collect();
        format!("Countersign-Signing-Chain: {}", chain.join(", "))
    };
    until_proofs_count().await;
    let with = async |key: &KeyPair, header: &str| {
        exchange_with(&stranger, &subject, &assertion(key, ADS, &issuer), &["-H", header]).await
    };
    issued(&with(&key, &header(&certified)).await);
    let invalid = (401, "invalid_client".to_owned());
    assert_eq!(with(&tls_key, &header(&tls)).await.error(), invalid, "a key for connections signs nothing");
    assert_eq!(with(&new_key(), &header(&certified)).await.error(), invalid, "another key");
    assert_eq!(with(&key, "Countersign-Signing-Chain: :AAAA:").await.error(), invalid, "no certificate");
    let other = market.authority.issue(json!({ "service": "users", "profile": "signing" })).await;
    assert_eq!(with(&other.0, &header(&other.1)).await.error(), invalid, "whose certificate names another");
    market.authority.post("/api/v1/certificates/revoke", json!({ "service": "ads" })).await;
    assert_eq!(with(&key, &header(&certified)).await.error(), invalid, "revoked");
    market.authority.stop().await;
}

#[tokio::test]
async fn a_dpop_proof_with_our_nonce_binds_the_token_to_its_key_and_counts_once() {
    let market = Market::open().await;
    let (gateway, key) = (market.client("gateway").await, new_key());
    let uri = format!("https://localhost:{}{TOKEN}", market.authority.api.port());
    let proof = |method: &Method, uri: &str, nonce: Option<&str>| {
        let target = DpopTarget { method, uri: DpopUri::parse(uri).unwrap(), access_token: None };
        dpop::mint(&key, &target, nonce, &new_id(), clock::now()).unwrap()
    };
    let exchange = async |proof: &str| {
        let header = format!("DPoP: {proof}");
        gateway.post_with(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")]), &["-H", &header]).await
    };
    let first = exchange(&proof(&Method::POST, &uri, None)).await;
    assert_eq!(first.error(), (400, "use_dpop_nonce".to_owned()));
    let nonce = first.header("dpop-nonce").unwrap().to_owned();
    let good = proof(&Method::POST, &uri, Some(&nonce));
    let reply = exchange(&good).await;
    let said = claims(&issued(&reply));
    assert_eq!(said["cnf"], json!({ "jkt": key.public_key().thumbprint() }));
    assert_eq!(reply.json()["token_type"], "DPoP");
    assert!(reply.header("dpop-nonce").is_some(), "for the next one");

    let refused = (400, "invalid_dpop_proof".to_owned());
    assert_eq!(exchange(&good).await.error(), refused, "once");
    for (why, proof) in [
        ("another method", proof(&Method::GET, &uri, Some(&nonce))),
        ("another uri", proof(&Method::POST, &format!("{uri}s"), Some(&nonce))),
        ("nonsense", "a.b.c".to_owned()),
        ("another kind", market.login.clone()),
    ] {
        assert_eq!(exchange(&proof).await.error(), refused, "{why}");
    }
    let foreign = exchange(&proof(&Method::POST, &uri, Some("AAAAAGeJ1kAbcdef"))).await;
    assert_eq!(foreign.error(), (400, "use_dpop_nonce".to_owned()), "a nonce that we did not make");
    let again = foreign.header("dpop-nonce").unwrap().to_owned();
    issued(&exchange(&proof(&Method::POST, &uri, Some(&again))).await);
    market.authority.stop().await;
}

/// Reads a token, its audience and our key set, and says what PyJWT makes of the token and of forgeries of it.
const PYJWT: &str = r#"
import base64, json, sys, jwt
asked = json.load(sys.stdin)
keys = {key["kid"]: jwt.PyJWK(key) for key in asked["keys"]}
def judge(token, audience):
    try:
        key = keys[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(token, key.key, algorithms=["ES256"], audience=audience, issuer=asked["issuer"],
                            options={"require": ["exp", "iat", "aud", "iss", "jti"]})
        return claims["act"]["sub"]
    except Exception as error:
        return type(error).__name__
token = asked["token"]
head, body, signature = token.split(".")
unpadded = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
none = unpadded(b'{"alg":"none","kid":"' + jwt.get_unverified_header(token)["kid"].encode() + b'","typ":"at+jwt"}')
claims = json.loads(base64.urlsafe_b64decode(body + "=="))
claims["roles"] = ["moderator"]
public = keys[jwt.get_unverified_header(token)["kid"]].key
forged = [
    none + "." + body + ".",
    head + "." + unpadded(json.dumps(claims).encode()) + "." + signature,
    jwt.encode(claims, "secret", algorithm="HS256",
               headers={"kid": jwt.get_unverified_header(token)["kid"], "typ": "at+jwt"}),
]
print(json.dumps({"ours": judge(token, asked["audience"]), "elsewhere": judge(token, "spiffe://other.test/svc/ads"),
                  "forged": forged}))
"#;

#[tokio::test]
async fn pyjwt_verifies_our_token_from_our_key_set_and_none_of_its_forgeries_is_exchanged() {
    let Some(python) = Python::with(&["PyJWT==2.10.1", "cryptography==45.0.7"]) else { return };
    let market = Market::open().await;
    let (gateway, ads) = (market.client("gateway").await, market.client("ads").await);
    let token = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let stranger = Curl::stranger(&market.authority).await;
    let keys = stranger.call("/oauth2/jwks", &[]).await.unwrap().json()["keys"].clone();
    let issuer = format!("https://localhost:{}", market.authority.api.port());
    let asked = json!({ "token": token, "keys": keys, "issuer": issuer, "audience": ADS });
    let answer: Value = serde_json::from_str(&python.run(PYJWT, &asked.to_string())).unwrap();
    assert_eq!(answer["ours"], "spiffe://fleamarket.test/countersign/gateway/edge");
    assert_eq!(answer["elsewhere"], "InvalidAudienceError");
    for forged in answer["forged"].as_array().unwrap() {
        let refused =
            ads.post(TOKEN, &form(forged.as_str().unwrap(), ACCESS, &[("audience", "users")])).await;
        assert_eq!(refused.error(), (400, "invalid_request".to_owned()));
        let told = ads.post("/oauth2/introspect", &[("token", forged.as_str().unwrap())]).await;
        assert_eq!(told.json(), json!({ "active": false }));
    }
    market.authority.stop().await;
}
