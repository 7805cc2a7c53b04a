//! What only somebody with the authority's own keys can bring about, and what an exchange costs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::time::Duration;

use countersign_identity::Possession;
use countersign_keys::{KeyPair, SystemRandom, hash::hex, random_bytes};
use countersign_sdk::{accept::Origin, tls::new_connection_id};
use countersign_testkit::TempDir;
use countersign_token::{AccessToken, ClientAssertion, Confirmation, JwtSvid, TokenKind, jws};
use serde_json::{Value, json};

use super::*;
use crate::{federation::Peer, serve::testing};

const RULES: &str = r#"@id("all") permit (principal, action, resource);"#;
const GATEWAY: &str = "spiffe://fleamarket.test/countersign/gateway/edge";

/// An authority with one rule and clients whose keys are registered.
struct Rig {
    _dir: TempDir,
    authority: Arc<Authority>,
    keys: Vec<(SpiffeId, KeyPair)>,
    now: UnixTime,
}

impl Rig {
    async fn new() -> Self {
        let (dir, authority) = testing::authority().await;
        let keys = [GATEWAY, "spiffe://fleamarket.test/svc/ads", "spiffe://partner.test/svc/shop"];
        let rng = SystemRandom::new();
        let keys = keys.map(|id| (id.parse().unwrap(), KeyPair::generate(&rng).unwrap())).to_vec();
        let rig =
            Self { _dir: dir, authority, keys, now: clock::now().saturating_add(Duration::from_secs(60)) };
        rig.publish(&[]);
        rig
    }

    /// A snapshot with the rule, two services, the registered keys, and trust domains that we federate with.
    fn publish(&self, peers: &[countersign_wire::snapshot::TokenAuthority]) {
        let live = self.authority.sts.live.load_full().unwrap();
        let mut snapshot = live.snapshot().clone();
        snapshot.policies.files =
            vec![countersign_wire::snapshot::PolicyFile { name: "sts".to_owned(), text: RULES.to_owned() }];
        let service = |name: &str| {
            serde_json::from_value(json!({
                "name": name, "spiffe_id": format!("spiffe://fleamarket.test/svc/{name}"),
                "address": "127.0.0.1:1", "accepts": ["mtls"], "sends": "mtls",
            }))
        };
        snapshot.services = ["ads", "users"].map(|name| service(name).unwrap()).to_vec();
        let registered = |(owner, key): &(SpiffeId, KeyPair)| countersign_wire::snapshot::WorkloadKey {
            owner: owner.clone(),
            purpose: countersign_wire::snapshot::KeyPurpose::Signing,
            jwk: countersign_wire::snapshot::Jwk::from_text(&key.public_key().to_jwk()).unwrap(),
        };
        snapshot.workload_keys = self.keys.iter().map(registered).collect();
        snapshot.token_authorities.extend_from_slice(peers);
        self.authority.sts.take(snapshot).unwrap();
    }

    /// What the client with this position gets for a form.
    fn ask(&self, client: usize, more: &[(&str, &str)]) -> Result<Value, Code> {
        let (id, key) = &self.keys[client];
        let assertion = ClientAssertion {
            client: id.clone(),
            jti: new_id(),
            issued_at: self.now,
            expires: self.now.saturating_add(Duration::from_secs(60)),
        };
        let assertion = assertion.mint(key, &self.authority.issuer).unwrap();
        let first = [
            ("grant_type", TOKEN_EXCHANGE),
            ("client_assertion_type", client::ASSERTION_TYPE),
            ("client_assertion", assertion.as_str()),
        ];
        let pairs = first.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.exchange(&Form::of(pairs.collect()).unwrap()).map(|issued| claims(&issued.answer.access_token))
    }

    fn exchange(&self, form: &Form) -> Result<exchange::Issued, Code> {
        let caller = Caller::new(None, None, Vec::new(), countersign_identity::Proof::NONE);
        let live = self.authority.sts.live.load_full().unwrap();
        let (headers, uri) = (HeaderMap::new(), Uri::from_static(TOKEN_ENDPOINT));
        let asked = Asked {
            authority: &self.authority,
            sts: &self.authority.sts,
            live: &live,
            caller: &caller,
            headers: &headers,
            uri: &uri,
            version: Version::HTTP_11,
            now: self.now,
        };
        let mut draft = DecisionDraft::begin(STS, Hop::first());
        exchange::exchange(&asked, form, &mut draft).map_err(|error| error.denial.code)
    }

    /// A user's token from login.
    fn login(&self) -> AccessToken {
        AccessToken {
            issuer: self.authority.issuer.clone(),
            audience: self.authority.audience.clone(),
            user_id: "u_1".to_owned(),
            name: "alice".to_owned(),
            roles: vec!["buyer".to_owned()],
            client_id: "test".to_owned(),
            jti: new_id(),
            expires: self.now.saturating_add(Duration::from_secs(600)),
            confirmation: None,
        }
    }

    fn signed(&self, login: &AccessToken) -> String {
        login.mint(self.authority.keys.load().access_token.current(), self.now).unwrap()
    }

    fn svid(&self, key: &KeyPair, subject: &str, life: u64) -> String {
        let svid = JwtSvid {
            subject: subject.parse().unwrap(),
            audiences: vec![self.authority.id.to_string()],
            jti: Some(new_id()),
            issued_at: Some(self.now),
            expires: self.now.saturating_add(Duration::from_secs(life)),
        };
        svid.mint(key).unwrap()
    }
}

fn new_id() -> String {
    hex(&random_bytes::<16>(&SystemRandom::new()).unwrap())
}

fn claims(token: &str) -> Value {
    Value::Object(said::Said::by(token).unwrap().claims)
}

fn access<'a>(token: &'a str, audience: &'a str) -> Vec<(&'a str, &'a str)> {
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    vec![("subject_token", token), ("subject_token_type", kind), ("audience", audience)]
}

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

#[tokio::test]
async fn only_whom_may_act_names_acts() {
    let rig = Rig::new().await;
    let with = |may_act: Value| {
        let mut said = claims(&rig.signed(&rig.login()));
        said["may_act"] = may_act;
        let keys = rig.authority.keys.load();
        jws::sign_as(TokenKind::AccessToken, keys.access_token.current(), said.to_string().as_bytes())
            .unwrap()
    };
    let named = with(json!({ "sub": GATEWAY }));
    assert_eq!(rig.ask(0, &access(&named, "ads")).unwrap()["act"]["sub"], GATEWAY);
    for other in [json!({ "sub": "spiffe://fleamarket.test/svc/ads" }), json!({ "sub": 7 }), json!(GATEWAY)] {
        let refused = rig.ask(0, &access(&with(other.clone()), "ads"));
        assert_eq!(refused, Err(Code::SubjectTokenRefused), "{other}");
    }
}

#[tokio::test]
async fn an_actor_token_must_be_the_clients_own_and_shortens_the_life_of_what_is_issued() {
    let rig = Rig::new().await;
    let (keys, login) = (rig.authority.keys.load_full(), rig.signed(&rig.login()));
    let with = |token: &str| {
        let form = access(&login, "ads");
        rig.ask(0, &[&form[..], &[("actor_token", token), ("actor_token_type", JWT)]].concat())
    };
    let issued = with(&rig.svid(keys.jwt_svid.current(), GATEWAY, 20)).unwrap();
    assert_eq!(issued["act"], json!({ "sub": GATEWAY }));
    assert_eq!(issued["exp"].as_i64().unwrap() - issued["iat"].as_i64().unwrap(), 20);
    let others = rig.svid(keys.jwt_svid.current(), "spiffe://fleamarket.test/svc/ads", 20);
    let forged = rig.svid(keys.exchange.current(), GATEWAY, 20);
    for refused in [others.as_str(), &forged, &login, "a.b.c"] {
        assert_eq!(with(refused), Err(Code::ActorTokenRefused));
    }
}

#[tokio::test]
async fn a_workloads_own_token_becomes_another_of_its_own_and_never_a_persons() {
    let rig = Rig::new().await;
    let keys = rig.authority.keys.load_full();
    let own = rig.svid(keys.jwt_svid.current(), "spiffe://fleamarket.test/svc/ads", 60);
    let form = |token, requested| {
        [
            ("subject_token", token),
            ("subject_token_type", JWT),
            ("audience", "users"),
            ("requested_token_type", requested),
        ]
    };
    let issued = rig.ask(1, &form(&own, JWT)).unwrap();
    assert_eq!(
        (&issued["sub"], &issued["aud"][0]),
        (&json!("spiffe://fleamarket.test/svc/ads"), &json!("spiffe://fleamarket.test/svc/users"))
    );
    assert!(issued.get("act").is_none(), "nobody acts for a workload");
    assert_eq!(rig.ask(0, &form(&own, JWT)), Err(Code::SubjectTokenRefused), "it is that of ads");
    let person = rig.ask(1, &form(&own, "urn:ietf:params:oauth:token-type:access_token"));
    assert_eq!(person, Err(Code::SubjectTokenRefused), "a workload never becomes a user");
}

#[tokio::test]
async fn a_federated_trust_domains_jwt_svid_proves_its_own_workloads_and_none_of_ours() {
    let rig = Rig::new().await;
    let foreign = KeyPair::generate(&SystemRandom::new()).unwrap();
    let mut jwk: Value = serde_json::from_str(&foreign.public_key().to_jwk()).unwrap();
    jwk["use"] = json!("jwt-svid");
    let document = serde_json::from_value(json!({ "keys": [jwk] })).unwrap();
    let partner = "partner.test".parse().unwrap();
    let peer = Peer::read(&rig.authority.trust_domain, &partner, &document).unwrap();
    rig.publish(&[peer.tokens]);
    let login = rig.signed(&rig.login());
    let as_actor = |client: usize, token: &str| {
        let form = access(&login, "ads");
        rig.ask(client, &[&form[..], &[("actor_token", token), ("actor_token_type", JWT)]].concat())
    };
    // The shop's actor token holds; that the subject token is not for the shop is another matter.
    let shop = rig.svid(&foreign, "spiffe://partner.test/svc/shop", 60);
    assert_eq!(as_actor(2, &shop), Err(Code::SubjectTokenRefused));
    let ours = rig.svid(&foreign, GATEWAY, 60);
    assert_eq!(as_actor(0, &ours), Err(Code::ActorTokenRefused), "a partner names none of ours");
    let form = [
        ("subject_token", shop.as_str()),
        ("subject_token_type", JWT),
        ("audience", "ads"),
        ("requested_token_type", JWT),
    ];
    assert_eq!(rig.ask(2, &form), Err(Code::ClientNotPermitted), "we name none of theirs");
}

#[tokio::test]
async fn what_a_user_proved_is_neither_lost_nor_gained_on_the_way() {
    let rig = Rig::new().await;
    let bearer = rig.ask(0, &access(&rig.signed(&rig.login()), "ads")).unwrap();
    assert_eq!(
        bearer["user_possession"],
        Possession::None.as_str(),
        "although the new token is bound to a key"
    );
    assert!(bearer["cnf"]["jkt"].is_string());
    let confirmation = Some(Confirmation::Key(rig.keys[1].1.public_key().thumbprint().to_string()));
    let bound = AccessToken { confirmation, ..rig.login() };
    let bound = rig.ask(0, &access(&rig.signed(&bound), "ads")).unwrap();
    assert_eq!(bound["user_possession"], Possession::Key.as_str());
}

#[tokio::test]
async fn a_short_life_stays_short_and_an_ended_one_ends_everything() {
    let rig = Rig::new().await;
    let seconds = |seconds: u64| rig.now.saturating_add(Duration::from_secs(seconds));
    let short = AccessToken { expires: seconds(30), ..rig.login() };
    let issued = rig.ask(0, &access(&rig.signed(&short), "ads")).unwrap();
    assert_eq!(issued["exp"], seconds(30).secs());
    let long = rig.ask(0, &access(&rig.signed(&rig.login()), "ads")).unwrap();
    assert_eq!(long["exp"], seconds(300).secs(), "no kind of ours lives longer");
    let before = rig.now.saturating_sub(Duration::from_secs(120));
    let over = AccessToken { expires: rig.now.saturating_sub(Duration::from_secs(1)), ..rig.login() };
    let over = over.mint(rig.authority.keys.load().access_token.current(), before).unwrap();
    assert_eq!(rig.ask(0, &access(&over, "ads")), Err(Code::SubjectTokenRefused));
}

/// Run it alone and with optimisation: `cargo test --release -p countersign-authority --lib -- --ignored --nocapture
/// exchanges_for_each_second_of_cpu`. Exchanges through the whole handler but the socket, for a client that showed its
/// certificate in the handshake: the subject token is verified and the new one signed. Beside it the bare two, and what
/// it costs to bring the same exchanges into the ledger, which happens afterwards and in batches.
#[tokio::test]
#[ignore = "a benchmark"]
async fn exchanges_for_each_second_of_cpu() {
    const BATCH: u32 = 2_000;
    const BATCHES: u32 = 10;
    let rig = Rig::new().await;
    let now = clock::now();
    let login = AccessToken { expires: now.saturating_add(Duration::from_secs(600)), ..rig.login() };
    let login = login.mint(rig.authority.keys.load().access_token.current(), now).unwrap();
    let fields = access(&login, "ads").into_iter().map(|(name, value)| format!("{name}={value}"));
    let body = fields.chain([format!("grant_type={TOKEN_EXCHANGE}")]).collect::<Vec<_>>().join("&");
    let (caller, connection) = (Arc::new(gateway_by_certificate(now)), Extension(stranger_connection()));
    let spent = || countersign_testkit::measure::process_cpu(std::process::id());
    let (mut handler, mut ledger) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BATCHES {
        let before = spent();
        for _ in 0..BATCH {
            let request = axum::http::Request::post(TOKEN_ENDPOINT)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(axum::body::Body::from(body.clone()))
                .unwrap();
            let (state, caller) = (State(Arc::clone(&rig.authority)), Extension(Arc::clone(&caller)));
            let response = token(state, connection.clone(), caller, request).await;
            assert_eq!(response.status(), 200);
        }
        let between = spent();
        tokio::time::sleep(Duration::from_secs(2)).await;
        handler += between - before;
        ledger += spent() - between;
    }
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let message = vec![7; 600];
    let signature = key.sign_raw(&message).unwrap();
    let bare = countersign_testkit::measure::per_cpu_second(|| {
        key.public_key().verify_raw(&message, &signature).unwrap();
        key.sign_raw(&message).unwrap()
    });
    let calls = f64::from(BATCH * BATCHES);
    println!("bare verify and sign    {bare:>8.0} for each second of CPU");
    println!("exchanges               {:>8.0}", calls / handler.as_secs_f64());
    println!("with their ledger rows  {:>8.0}", calls / (handler + ledger).as_secs_f64());
}

fn gateway_by_certificate(now: UnixTime) -> Caller {
    let workload = countersign_identity::Verified::vouch(countersign_identity::Workload {
        id: GATEWAY.parse().unwrap(),
        certificate: Some(countersign_identity::CertificateFacts {
            serial_hex: "01".to_owned(),
            thumbprint_sha256_hex: "ab".repeat(32),
            not_after: now.saturating_add(Duration::from_secs(600)),
        }),
    });
    let proof = countersign_identity::Proof {
        workload: WorkloadProof::Certificate,
        binding: countersign_identity::Binding::CHANNEL,
        freshness: countersign_identity::Freshness::Connection,
        ..countersign_identity::Proof::NONE
    };
    Caller::new(Some(workload), None, Vec::new(), proof)
}

fn stranger_connection() -> Connection {
    Connection {
        id: new_connection_id(),
        origin: Origin::Tcp(([127, 0, 0, 1], 1).into()),
        peer: None,
        server_name: None,
        asks_for_certificate: true,
        exporter: None,
    }
}
