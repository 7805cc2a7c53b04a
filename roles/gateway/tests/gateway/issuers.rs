//! End users of other issuers: their keys from a file or by discovery, their people as guests.
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::{Json, Router};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_sdk::accept::{Limits, Transport, serve};
use countersign_sdk::clock;
use countersign_sdk::tls::{Acceptor, ClientAuth, Identity, TrustState};
use countersign_token::TxnToken;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::rig::client::{Answer, bearer, get};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running};

pub(crate) const ISSUER: &str = "https://sts.mesh.test";

const ROUTES: &str = r#"
[[route]]
path = "/ads"
to = "ads"
[[route]]
path = "/sell"
to = "ads"
"#;

const EDGE_RULES: &str = r#"
@id("signed-in")
permit (principal is User, action, resource == Route::"gateway /ads");
@id("sellers")
permit (principal is User, action, resource == Route::"gateway /sell")
when { context has user && context.user.roles.contains("shop-seller") };
"#;

/// A provider of another house.
pub(crate) struct Provider {
    pub(crate) key: KeyPair,
    pub(crate) kid: String,
}

impl Provider {
    pub(crate) fn new(kid: &str) -> Self {
        Provider { key: KeyPair::generate(&SystemRandom::new()).unwrap(), kid: kid.to_owned() }
    }

    pub(crate) fn jwks(&self) -> String {
        let own = self.key.public_key();
        format!(r#"{{"keys":[{}]}}"#, own.to_jwk().replace(&own.thumbprint(), &self.kid))
    }

    /// As the harness that measures us against other proxies writes them, after `change`.
    pub(crate) fn token(&self, issuer: &str, change: impl FnOnce(&mut Value)) -> String {
        let now = clock::now().secs();
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid });
        let mut claims = json!({
            "iss": issuer, "sub": "spiffe://mesh.test/client", "aud": "backend", "iat": now, "nbf": now - 60,
            "exp": now + 600, "jti": "one", "scope": "read write",
        });
        change(&mut claims);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let input =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        format!("{input}.{}", encode(&self.key.sign_raw(input.as_bytes()).unwrap()))
    }
}

async fn edge(rig: &Rig, seen: &Seen, provider: &Provider) -> (Running, PathBuf) {
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(&["/ads", "/sell"], seen)).await;
    let file = rig.dir.path().join("jwks.json");
    std::fs::write(&file, provider.jwks()).unwrap();
    let issuer = format!(
        r#"[[issuer]]
        issuer = "{ISSUER}"
        audience = "backend"
        jwks_file = {file:?}
        typ = "JWT"
        roles_claim = "scope"
        roles = {{ write = "shop-seller" }}
        {ROUTES}"#
    );
    (rig.gateway(&issuer).await, file)
}

async fn ask(edge: &Running, path: &str, token: &str) -> Answer {
    get(edge.plain, path, &[("Authorization", &bearer(token))]).await
}

#[tokio::test]
async fn a_user_of_another_issuer_goes_on_as_a_guest_with_mapped_roles_alone() {
    let (rig, seen, provider) = (Rig::new(), Seen::default(), Provider::new("k1"));
    let (edge, _file) = edge(&rig, &seen, &provider).await;
    let token = provider.token(ISSUER, |_| {});
    assert_eq!(ask(&edge, "/ads", &token).await.status, 200);
    assert_eq!(ask(&edge, "/sell", &token).await.status, 200);
    let live = edge.workload.live();
    let internal = echo::header(&seen.last(), "txn-token").remove(0);
    assert!(!seen.last().to_string().contains(&token), "the access token went on");
    let user =
        TxnToken::verify(&internal, &rig.td, clock::now(), |kid| live.tokens().internal.get(kid).cloned());
    let user = user.unwrap().into_inner();
    assert_eq!(user.id, "https://sts.mesh.test#spiffe://mesh.test/client");
    assert_eq!(user.roles, ["shop-seller"]);
    // Without the word that is mapped there is no role.
    let reader = provider.token(ISSUER, |claims| claims["scope"] = json!("read shop-seller"));
    assert_eq!(ask(&edge, "/ads", &reader).await.status, 200);
    assert_eq!(ask(&edge, "/sell", &reader).await.problem(403), "access_denied");
    // People of our own come in as ever.
    let own = rig.access_token("alice", &[]);
    assert_eq!(ask(&edge, "/ads", &own).await.status, 200);
}

#[tokio::test]
async fn a_token_of_another_issuer_is_refused_for_each_thing_that_is_wrong_with_it() {
    let (rig, seen, provider) = (Rig::new(), Seen::default(), Provider::new("k1"));
    let (edge, _file) = edge(&rig, &seen, &provider).await;
    let now = clock::now().secs();
    type Change = Box<dyn FnOnce(&mut Value)>;
    let cases: [(&str, Change); 5] = [
        ("CS3009", Box::new(|claims| claims["iss"] = json!("https://other.test"))),
        ("CS3007", Box::new(|claims| claims["aud"] = json!("frontend"))),
        ("CS3005", Box::new(move |claims| (claims["iat"], claims["exp"]) = (json!(now - 9), json!(now - 1)))),
        ("CS3006", Box::new(move |claims| claims["nbf"] = json!(now + 300))),
        ("CS3010", Box::new(move |claims| claims["exp"] = json!(now + 7200))),
    ];
    for (code, change) in cases {
        let answer = ask(&edge, "/ads", &provider.token(ISSUER, change)).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        let id = answer.json()["decision"].as_str().unwrap().to_owned();
        let decision = rig.decision(|decision| decision.id.to_string() == id).await;
        assert_eq!(decision.code.as_deref(), Some(code), "{:?}", decision.reason);
    }
    // Another key under the same name; and one of our own users under the name of that issuer.
    let forger = Provider::new("k1");
    assert_eq!(ask(&edge, "/ads", &forger.token(ISSUER, |_| {})).await.status, 401);
    assert_eq!(ask(&edge, "/ads", &provider.token(crate::rig::ISSUER, |_| {})).await.status, 401);
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn new_keys_in_the_file_count_and_old_ones_no_longer_even_for_tokens_seen_before() {
    let (rig, seen, old) = (Rig::new(), Seen::default(), Provider::new("k1"));
    let (edge, file) = edge(&rig, &seen, &old).await;
    let token = old.token(ISSUER, |_| {});
    assert_eq!(ask(&edge, "/ads", &token).await.status, 200);
    // A bad file keeps the old keys.
    std::fs::write(&file, "{").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ask(&edge, "/ads", &token).await.status, 200);
    let new = Provider::new("k2");
    std::fs::write(&file, new.jwks()).unwrap();
    let fresh = new.token(ISSUER, |_| {});
    let mut status = 0;
    for _ in 0..100 {
        status = ask(&edge, "/ads", &fresh).await.status;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 200);
    assert_eq!(ask(&edge, "/ads", &token).await.status, 401);
}

/// The provider's own server: its metadata names `issuer`, and its keys are whatever `jwks` holds now.
#[derive(Clone)]
struct Site {
    issuer: Arc<Mutex<String>>,
    jwks: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    place: String,
}

impl Site {
    fn router(&self) -> Router {
        let (metadata, keys) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/.well-known/openid-configuration",
                axum::routing::get(move || async move {
                    let jwks_uri = format!("{}/keys", metadata.place);
                    Json(
                        json!({ "issuer": *metadata.issuer.lock().unwrap(), "jwks_uri": jwks_uri, "x": [1] }),
                    )
                }),
            )
            .route(
                "/keys",
                axum::routing::get(move || async move {
                    keys.asked.fetch_add(1, Ordering::SeqCst);
                    keys.jwks.lock().unwrap().clone()
                }),
            )
    }

    fn new(place: String, provider: &Provider) -> Self {
        let issuer = Arc::new(Mutex::new(place.clone()));
        Site { issuer, jwks: Arc::new(Mutex::new(provider.jwks())), asked: Arc::default(), place }
    }

    /// Over plain HTTP.
    async fn open(provider: &Provider) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Site::new(format!("http://{}", listener.local_addr().unwrap()), provider);
        let router = site.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        site
    }
}

async fn discovering(rig: &Rig, seen: &Seen, issuer: &str, further: &str) -> Running {
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(&["/ads", "/sell"], seen)).await;
    rig.gateway(&format!(
        "[[issuer]]\nissuer = \"{issuer}\"\naudience = \"backend\"\ntyp = \"JWT\"\n{further}\n{ROUTES}"
    ))
    .await
}

const PLAIN: &str = "insecure_http_issuer_on_loopback = true";

async fn eventually_answers(edge: &Running, token: &str, status: u16) {
    let mut last = 0;
    for _ in 0..200 {
        last = ask(edge, "/ads", token).await.status;
        if last == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(last, status);
}

#[tokio::test]
async fn the_keys_of_an_issuer_are_found_by_discovery_over_https() {
    let (rig, seen, provider) = (Rig::new(), Seen::default(), Provider::new("k1"));
    let (certificate, key, root) = rig.edge_certificate(&["localhost"], "provider");
    let ca = rig.dir.path().join("provider-ca.pem");
    std::fs::write(&ca, crate::rig::pem("CERTIFICATE", &root)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let site = Site::new(format!("https://localhost:{port}"), &provider);
    let shown =
        TrustState::new(countersign_pki::BundleSet::new(), countersign_pki::verify::CrlPolicy::Require);
    let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
    let key = PrivatePkcs8KeyDer::from_pem_file(&key).unwrap();
    let key = KeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    shown.set_identity(Identity::edge(chain, &key).unwrap());
    let acceptor = Acceptor::new(shown, ClientAuth::Never);
    let (router, shutdown) = (site.router(), rig.shutdown.clone());
    tokio::spawn(async move {
        serve(listener, Transport::Tls(acceptor), router, Limits::default(), shutdown).await
    });
    let edge = discovering(&rig, &seen, &site.place, &format!("ca = {ca:?}")).await;
    eventually_answers(&edge, &provider.token(&site.place, |_| {}), 200).await;
    // Whoever is not below that root is not believed, whatever it publishes.
    let (rig, seen) = (Rig::new(), Seen::default());
    let other = rig.edge_certificate(&["localhost"], "other").2;
    let ca = rig.dir.path().join("other-ca.pem");
    std::fs::write(&ca, crate::rig::pem("CERTIFICATE", &other)).unwrap();
    let edge = discovering(&rig, &seen, &site.place, &format!("ca = {ca:?}")).await;
    let answer = ask(&edge, "/ads", &provider.token(&site.place, |_| {})).await;
    assert_eq!((answer.problem(503), seen.count()), ("unavailable".to_owned(), 0));
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_and_old_ones_are_forgotten() {
    let (rig, seen, old) = (Rig::new(), Seen::default(), Provider::new("k1"));
    let site = Site::open(&old).await;
    let edge = discovering(&rig, &seen, &site.place, &format!("{PLAIN}\nunknown_key_pause_s = 1")).await;
    let token = old.token(&site.place, |_| {});
    eventually_answers(&edge, &token, 200).await;
    let new = Provider::new("k2");
    *site.jwks.lock().unwrap() = new.jwks();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // The first request with the new key is the one that asks, and it is served.
    assert_eq!(ask(&edge, "/ads", &new.token(&site.place, |_| {})).await.status, 200);
    assert_eq!(ask(&edge, "/ads", &token).await.status, 401);
}

#[tokio::test]
async fn strangers_who_invent_names_of_keys_do_not_make_the_gateway_ask_again_and_again() {
    let (rig, seen, provider) = (Rig::new(), Seen::default(), Provider::new("k1"));
    let site = Site::open(&provider).await;
    let edge = discovering(&rig, &seen, &site.place, PLAIN).await;
    eventually_answers(&edge, &provider.token(&site.place, |_| {}), 200).await;
    let asked = site.asked.load(Ordering::SeqCst);
    for n in 0..20 {
        let stranger = Provider::new(&format!("x{n}"));
        assert_eq!(ask(&edge, "/ads", &stranger.token(&site.place, |_| {})).await.status, 401);
    }
    assert_eq!(site.asked.load(Ordering::SeqCst), asked);
}

#[tokio::test]
async fn metadata_of_another_issuer_and_an_issuer_that_goes_away_change_nothing() {
    let (rig, seen, provider) = (Rig::new(), Seen::default(), Provider::new("k1"));
    let site = Site::open(&provider).await;
    let edge = discovering(&rig, &seen, &site.place, &format!("{PLAIN}\nunknown_key_pause_s = 1")).await;
    let token = provider.token(&site.place, |_| {});
    eventually_answers(&edge, &token, 200).await;
    // Byte for byte: a slash more is another issuer.
    let liar = Provider::new("k2");
    *site.issuer.lock().unwrap() = format!("{}/", site.place);
    *site.jwks.lock().unwrap() = liar.jwks();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(&edge, "/ads", &liar.token(&site.place, |_| {})).await.status, 401);
    assert_eq!(ask(&edge, "/ads", &token).await.status, 200, "the last good keys stay");
}
