//! # One flea market, seven ways to prove who calls
//!
//! The table says beforehand what becomes of each request in each mode. Nothing else differs: the same processes, the
//! same policies, switched while they run.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{KeyPair, SystemRandom, sha256};
use countersign_sdk::clock;
use countersign_token::replay::UNBOUND_AHEAD_MAX;
use countersign_token::service_token::{self, BodyBinding, ServiceToken, UserBinding};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::deployment::{Deployment, curl, text};

const MODES: [&str; 7] = ["none", "bearer", "macaroon", "jwt", "wimse", "mtls", "mtls+jwt"];

/// The stage of the refusal behind the status, or where the connection ended.
const OK: &str = "200";
const MADE: &str = "201";
/// The gateway's or the service's rules say no.
const POLICY: &str = "403 policy";
/// The token is there and does not hold.
const TOKEN: &str = "401 token";
/// Proven, but not in a way that this callee accepts; or not at all.
const FLOOR: &str = "401 identity";
const REQUEST: &str = "400 request";
/// TLS refuses the caller before any request is read.
const SHAKE: &str = "handshake";
/// No TLS, so no answer.
const CLOSED: &str = "closed";

/// What a request is, and what must become of it in each of [`MODES`].
type Row = (&'static str, fn(&World) -> Seen, [&'static str; 7]);

#[rustfmt::skip]
const TABLE: [Row; 23] = [
    // Through the gateway: users, and what the services behind say of the gateway.
    //                                          none    bearer  macaroon jwt    wimse   mtls    mtls+jwt
    ("alice lists ads",        |w| w.user("alice", "/ads?near=48.37,14.51", &[]),
                                               [POLICY, OK,     OK,     OK,     OK,     OK,     OK]),
    ("alice looks at an ad",   |w| w.user("alice", "/ads/1", &[]),
                                               [POLICY, OK,     OK,     OK,     OK,     OK,     OK]),
    ("mod reads reports",      |w| w.user("mod", "/reports", &[]),
                                               [POLICY, OK,     OK,     OK,     OK,     OK,     OK]),
    ("bob offers something",   |w| w.user("bob", "/ads", &["-d", NEW_AD]),
                                               [POLICY, MADE,   MADE,   MADE,   MADE,   MADE,   MADE]),
    // Whatever changes hands is asked for by a workload that proved to hold a key.
    ("alice buys",             World::buy,     [POLICY, POLICY, POLICY, OK,     OK,     OK,     OK]),
    ("eve buys",               |w| w.user("eve", "/ads/1/buy", &["-d", "{}"]),
                                               [POLICY, POLICY, POLICY, POLICY, POLICY, POLICY, POLICY]),
    ("alice reads reports",    |w| w.user("alice", "/reports", &[]),
                                               [POLICY, POLICY, POLICY, POLICY, POLICY, POLICY, POLICY]),
    ("nobody lists ads",       |w| w.nobody("/ads", &[]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN]),
    ("a forged user lists ads", |w| w.nobody("/ads", &["-H", FORGED_USER]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN]),
    ("a path with two meanings", |w| w.user("alice", "/ads/..%2freports", &["--path-as-is"]),
                                               [REQUEST, REQUEST, REQUEST, REQUEST, REQUEST, REQUEST, REQUEST]),
    // Straight to the port of ads.
    ("a stranger over TLS",    |w| w.ads(&[], &[]),
                                               [FLOOR,  FLOOR,  FLOOR,  FLOOR,  FLOOR,  SHAKE,  SHAKE]),
    ("a header says it is ads, in the clear", |w| w.clear(&["-H", "X-Caller: ads"]),
                                               [POLICY, CLOSED, CLOSED, CLOSED, CLOSED, CLOSED, CLOSED]),
    ("a certificate of another authority", |w| w.ads(&[], &w.foreign),
                                               [SHAKE,  SHAKE,  SHAKE,  SHAKE,  SHAKE,  SHAKE,  SHAKE]),
    ("chat with its certificate", |w| w.ads(&[], &w.chat_tls),
                                               [POLICY, FLOOR,  FLOOR,  FLOOR,  FLOOR,  POLICY, FLOOR]),
    ("chat with its own token", |w| w.signed(&w.chat, &Claims::default()),
                                               [POLICY, FLOOR,  FLOOR,  POLICY, FLOOR,  SHAKE,  SHAKE]),
    ("users presents a token that chat made", |w| w.presented(&w.chat.token(w, &Claims::default()), &w.users),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("users signs in the name of chat", |w| w.signed(&w.users, &Claims { issuer: "chat", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a token for another callee", |w| w.signed(&w.chat, &Claims { audience: "media", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a token for another method", |w| w.signed(&w.chat, &Claims { method: "POST", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a token for another query", |w| w.signed(&w.chat, &Claims { target: "/ads?near=1,1", ..Claims::default() }),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("the same token twice",   World::twice,
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a bearer token that nobody issued", |w| w.ads(&["-H", &format!("Authorization: Bearer {}", w.unknown_bearer)], &[]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
    ("a macaroon of chat with a caveat for another path", |w| w.ads(&["-H", &format!("Authorization: Macaroon {}", w.narrow)], &[]),
                                               [TOKEN,  TOKEN,  TOKEN,  TOKEN,  TOKEN,  SHAKE,  SHAKE]),
];

const NEW_AD: &str = r#"{"kind":"sell","title":"A lamp","description":"It shines.","category":"home","price_cents":500,
    "town":"Freistadt","place":{"latitude":48.37,"longitude":14.51}}"#;
const FORGED_USER: &str =
    "Authorization: Bearer eyJhbGciOiJub25lIiwia2lkIjoieCIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJ1XzEifQ.AAAA";

#[test]
fn twenty_requests_have_in_every_mode_the_verdict_that_was_written_beforehand() {
    let world = World::new();
    let mut wrong = Vec::new();
    for (column, mode) in MODES.into_iter().enumerate() {
        world.d.ok(&["demo", "mode", mode]);
        for (name, send, expected) in TABLE {
            let (seen, want) = (send(&world), expected[column]);
            if seen.verdict != want {
                wrong.push(format!("{mode}: {name}: {} instead of {want}; {}", seen.verdict, seen.told));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let edges = world.d.json(&["edges"]);
    let seen: Vec<&str> = edges.as_array().unwrap().iter().filter_map(|edge| edge["mode"].as_str()).collect();
    for mode in MODES {
        assert!(seen.contains(&mode), "{mode} is missing where the callees say what they verified: {seen:?}");
    }
}

/// What became of a request.
struct Seen {
    verdict: String,
    /// For whoever reads a failure.
    told: String,
}

/// A deployment, and what its enemies have in their hands.
struct World {
    d: Deployment,
    ads: String,
    chat: Signer,
    users: Signer,
    chat_tls: Vec<String>,
    foreign: Vec<String>,
    unknown_bearer: String,
    narrow: String,
    /// Things that nobody has bought yet.
    for_sale: RefCell<Vec<String>>,
}

/// A signing key with its certificate, as `cert issue --profile signing` writes them.
struct Signer {
    key: KeyPair,
    chain: Vec<Vec<u8>>,
}

struct Claims {
    issuer: &'static str,
    audience: &'static str,
    method: &'static str,
    target: &'static str,
    channel: Option<[u8; 32]>,
}

impl Default for Claims {
    fn default() -> Self {
        Self { issuer: "chat", audience: "ads", method: "GET", target: "/ads", channel: None }
    }
}

impl World {
    fn new() -> Self {
        let d = Deployment::start();
        let started = Instant::now();
        let tls = d.scratch("chat-tls");
        d.ok(&["cert", "issue", "--service", "chat", "--out", tls.to_str().unwrap()]);
        let foreign = d.scratch("foreign");
        self_signed(&foreign);
        let narrow = d.ok(&[
            "token",
            "mint",
            "macaroon",
            "--service",
            "chat",
            "--callee",
            "ads",
            "--caveat",
            "path = /elsewhere",
        ]);
        let issued = d.ok(&["token", "mint", "bearer", "--service", "chat", "--scope", "media"]);
        let world = Self {
            ads: d.address_of("ads"),
            chat: Signer::of(&d, "chat"),
            users: Signer::of(&d, "users"),
            chat_tls: certificate(&tls),
            foreign: certificate(&foreign),
            unknown_bearer: issued.trim().to_owned(),
            narrow: narrow.trim().to_owned(),
            for_sale: RefCell::new(MODES.map(|_| offered(&d)).to_vec()),
            d,
        };
        // Of a proof without a connection, a callee cannot know in its first seconds whether it was accepted before.
        std::thread::sleep((UNBOUND_AHEAD_MAX + Duration::from_secs(1)).saturating_sub(started.elapsed()));
        world
    }

    fn buy(&self) -> Seen {
        let id = self.for_sale.borrow_mut().pop().unwrap();
        self.user("alice", &format!("/ads/{id}/buy"), &["-d", "{}"])
    }

    fn user(&self, user: &str, path: &str, more: &[&str]) -> Seen {
        let (status, body) =
            self.d.as_user(user, path, &[&["-H", "Content-Type: application/json"], more].concat());
        self.seen(status, body)
    }

    fn nobody(&self, path: &str, more: &[&str]) -> Seen {
        let url = format!("{}{path}", self.d.url("gateway_tls"));
        let (status, body) = self.d.curl(&url, &[&["--cacert", self.d.url("ca_file")], more].concat());
        self.seen(status, body)
    }

    /// Over TLS to the port of ads, past the gateway.
    fn ads(&self, more: &[&str], certificate: &[String]) -> Seen {
        let certificate: Vec<&str> = certificate.iter().map(String::as_str).collect();
        let arguments = [&["-k"], more, &certificate].concat();
        self.straight(&format!("https://{}/ads", self.ads), &arguments, SHAKE)
    }

    fn clear(&self, more: &[&str]) -> Seen {
        self.straight(&format!("http://{}/ads", self.ads), more, CLOSED)
    }

    fn straight(&self, url: &str, arguments: &[&str], no_answer: &str) -> Seen {
        let (code, said) = curl(url, arguments);
        if code != 0 {
            return Seen { verdict: no_answer.to_owned(), told: said };
        }
        let (body, status) = said.rsplit_once('\n').unwrap();
        self.seen(status.parse().unwrap(), body.to_owned())
    }

    fn signed(&self, signer: &Signer, claims: &Claims) -> Seen {
        self.presented(&signer.token(self, claims), signer)
    }

    /// A token, whoever made it, with the chain of `shown`.
    fn presented(&self, token: &str, shown: &Signer) -> Seen {
        self.ads(&["-H", &format!("Authorization: Bearer {token}"), "-H", &shown.chain_header()], &[])
    }

    /// To one of several ports of ads.
    fn over(&self, address: &str, headers: &[String], more: &[&str]) -> String {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        self.straight(&format!("https://{address}/ads"), &[&["-k"], more, &headers].concat(), SHAKE).verdict
    }

    fn twice(&self) -> Seen {
        let token = self.chat.token(self, &Claims::default());
        let _first = self.presented(&token, &self.chat);
        self.presented(&token, &self.chat)
    }

    fn service(&self, name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://{}/svc/{name}", self.d.url("trust_domain"))).unwrap()
    }

    fn seen(&self, status: u16, body: String) -> Seen {
        if status < 400 {
            return Seen { verdict: status.to_string(), told: body };
        }
        let problem: Value = serde_json::from_str(&body).unwrap_or_default();
        let Some(decision) = problem["decision"].as_str() else {
            return Seen { verdict: format!("{status} without a decision"), told: body };
        };
        let explained = self.explained(decision);
        Seen {
            verdict: format!("{status} {}", explained["stage"].as_str().unwrap_or("?")),
            told: explained.to_string(),
        }
    }

    fn explained(&self, decision: &str) -> Value {
        for _ in 0..100 {
            let out = self.d.run(&["explain", decision, "-o", "json"]);
            if let Ok(found) = serde_json::from_slice::<Value>(&out.stdout) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{decision} is not in the ledger after five seconds");
    }
}

impl Signer {
    fn of(d: &Deployment, service: &str) -> Self {
        let dir = d.scratch(&format!("{service}-signing"));
        d.ok(&[
            "cert",
            "issue",
            "--service",
            service,
            "--profile",
            "signing",
            "--out",
            dir.to_str().unwrap(),
        ]);
        let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
        let chain = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap();
        Self {
            key: KeyPair::from_pkcs8(key.secret_der()).unwrap(),
            chain: chain.map(|der| der.unwrap().to_vec()).collect(),
        }
    }

    /// A token of this signer with its own chain, as arguments of curl.
    fn headers(&self, world: &World, claims: &Claims) -> Vec<String> {
        let mut headers = header("Bearer", &self.token(world, claims));
        headers.extend(["-H".to_owned(), self.chain_header()]);
        headers
    }

    fn chain_header(&self) -> String {
        let chain: Vec<String> = self.chain.iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
        format!("Countersign-Signing-Chain: {}", chain.join(", "))
    }

    /// Made here and now, unless told otherwise for no connection: as through a proxy of somebody else.
    fn token(&self, world: &World, claims: &Claims) -> String {
        let now = UnixTime::from_secs(clock::now().secs());
        let token = ServiceToken {
            issuer: world.service(claims.issuer),
            audience: world.service(claims.audience),
            jti: service_token::new_id(&SystemRandom::new()).unwrap(),
            method: claims.method.to_owned(),
            path_and_query: claims.target.to_owned(),
            body: BodyBinding::Sha256(sha256(b"")),
            channel: claims.channel,
            user: UserBinding::None,
            private: Default::default(),
            issued_at: now,
            expires: now.saturating_add(Duration::from_secs(30)),
        };
        token.mint(&self.key, Some(&sha256(&self.chain[0]))).unwrap()
    }
}

/// Id of something that bob has just put up for sale.
fn offered(d: &Deployment) -> String {
    let (status, body) = d.as_user("bob", "/ads", &["-H", "Content-Type: application/json", "-d", NEW_AD]);
    assert_eq!(status, 201, "{body}");
    let published: Value = serde_json::from_str(&body).unwrap();
    published["ad"]["id"].as_i64().unwrap().to_string()
}

fn certificate(dir: &Path) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    vec!["--cert".to_owned(), file("cert.pem"), "--key".to_owned(), file("key.pem")]
}

/// A certificate that names ads and was signed by nobody we know.
fn self_signed(dir: &Path) {
    let out = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
        ])
        .args(["-subj", "/", "-addext", "subjectAltName=critical,URI:spiffe://fleamarket.test/svc/ads"])
        .args([
            "-addext",
            "extendedKeyUsage=clientAuth,serverAuth",
            "-addext",
            "keyUsage=critical,digitalSignature",
        ])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("cert.pem"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
}

/// Each switch under traffic, and what the callees say that they verified.
#[test]
fn under_traffic_every_live_switch_happens_with_no_failed_request() {
    let d = Deployment::start();
    // A signed HTTP message names no connection: for the first seconds of a callee none is believed.
    std::thread::sleep(UNBOUND_AHEAD_MAX + Duration::from_secs(1));
    let traffic = d
        .command(&["demo", "traffic", "--seconds", "25", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let proven = ["jwt", "bearer", "wimse", "macaroon", "mtls+jwt", "mtls"];
    for (mode, more) in proven.into_iter().zip([NESTED, &[], HTTP_SIGNATURE, &[], PER_HOP, &[]]) {
        let changed = d.json(&[&["demo", "mode", mode], more].concat());
        assert_eq!(changed["unconfirmed"].as_array().unwrap().len(), 0, "{mode}: {changed}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let out = traffic.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    assert!(out.status.success(), "{}\n{told}", text(&out.stderr));
    assert_eq!(told["unexpected"], 0, "{told}");
    assert!(told["requests"].as_u64().unwrap() > 100, "{told}");
    let edges = d.json(&["edges"]);
    for mode in proven {
        let verified = |edge: &&Value| {
            edge["source"].as_str().unwrap().ends_with("/gateway/edge") && edge["mode"] == mode
        };
        let counted: u64 = edges
            .as_array()
            .unwrap()
            .iter()
            .filter(verified)
            .map(|edge| edge["requests"].as_u64().unwrap())
            .sum();
        assert!(counted > 0, "{mode} was never verified: {edges}");
    }
}

/// Idea 6: every credential ends in the same caller, so a service may be called by one kind and call by another.
#[test]
fn each_edge_has_its_own_mode_and_a_service_translates_between_them() {
    let d = Deployment::start();
    for arguments in [
        ["ads", "--accept", "macaroon", "--lower-for", "600"].as_slice(),
        &["gateway", "--send", "macaroon"],
        &["users", "--accept", "wimse", "--lower-for", "600"],
        &["ads", "--send", "wimse"],
    ] {
        d.ok(&[&["service", "mode"], arguments].concat());
    }
    // A floor is lowered by the flag that says for how long, and by nothing else.
    assert_eq!(d.run(&["service", "mode", "chat", "--accept", "bearer"]).status.code(), Some(2));
    let (status, body) = d.as_user("alice", "/ads?near=48.37,14.51", &[]);
    assert_eq!(status, 200, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["previews"], "shown", "{body}");
    for (source, target, mode) in [("/gateway/edge", "ads", "macaroon"), ("/svc/ads", "users", "wimse")] {
        let verified = wait_for(|| {
            let edges = d.json(&["edges"]);
            let found = edges.as_array().unwrap().iter().any(|edge| {
                edge["source"].as_str().unwrap().ends_with(source)
                    && edge["target"] == target
                    && edge["mode"] == mode
            });
            found.then_some(())
        });
        assert!(verified.is_some(), "{source} to {target} by {mode}");
    }
    let told = d.run(&["check"]);
    let said = text(&told.stdout);
    assert!(said.contains("the floor of ads is lowered for another"), "{said}");
    assert!(said.contains("gateway sends macaroon, which"), "{said}");
}

const NESTED: &[&str] = &["--user-context", "nested"];
const PER_HOP: &[&str] = &["--user-context", "per-hop"];
const HTTP_SIGNATURE: &[&str] = &["--wimse", "http-signature"];

/// T61, T62, T66: the third hop (gateway, ads, users) sees the same verified user, however it is carried along.
#[test]
fn the_third_hop_sees_the_verified_user_in_every_way_of_carrying_it_along() {
    let d = Deployment::start();
    let exchanges = || {
        d.json(&["audit", "search", "--kind", "token_exchanged", "--limit", "1000"])
            .as_array()
            .map_or(0, Vec::len)
    };
    for (mode, context, proof, calls) in [
        ("mtls", "same", "internal_token", 0),
        ("jwt", "same", "internal_token", 0),
        ("jwt", "nested", "hop_token", 0),
        ("mtls+jwt", "nested", "hop_token", 0),
        ("mtls", "per-hop", "hop_token", 2),
        ("jwt", "per-hop", "hop_token", 2),
        ("bearer", "per-hop", "hop_token", 2),
    ] {
        d.ok(&["demo", "mode", mode, "--user-context", context]);
        assert_eq!(d.as_user("alice", "/ads/1", &[]).0, 200, "{mode} {context}");
        std::thread::sleep(Duration::from_millis(1500));
        let before = exchanges();
        let (status, body) = d.as_user("alice", "/ads?near=48.37,14.51", &[]);
        assert_eq!(status, 200, "{mode} {context}: {body}");
        let found: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(found["previews"], "shown", "{mode} {context}: {body}");
        let third = wait_for(|| {
            let edges = d.json(&["edges"]);
            let hop = |edge: &&Value| {
                edge["source"].as_str().unwrap().ends_with("/svc/ads")
                    && edge["target"] == "users"
                    && edge["mode"] == mode
            };
            edges.as_array().unwrap().iter().filter(hop).find(|edge| edge["user"] == proof).cloned()
        });
        assert!(third.is_some(), "{mode} {context}: users never verified a {proof} from ads");
        // Figure 4.2 asks nobody, figure 4.3 once for each hop.
        let asked =
            wait_for(|| Some(exchanges() - before).filter(|asked| *asked >= calls)).unwrap_or_default();
        assert_eq!(asked, calls, "{mode} {context}");
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..60 {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

/// What a thief gains who has a copy of one request: written beforehand for each kind of proof that can be copied.
/// `POLICY` means that the proof was believed, and that chat may do nothing at ads anyway.
#[test]
fn a_captured_proof_is_worth_at_each_place_what_was_written_beforehand() {
    let world = World::new();
    let second = Replica::of_ads(&world);
    captured_service_tokens(&world, &second);
    captured_bearer_token(&world, &second);
    captured_macaroon(&world, &second);
}

fn captured_service_tokens(world: &World, second: &Replica) {
    world.d.ok(&["demo", "mode", "jwt"]);
    // Made for a connection, as between our own SDKs: worth nothing on any other.
    let elsewhere = world.chat.headers(world, &Claims { channel: Some([7; 32]), ..Claims::default() });
    for address in [&world.ads, &second.address] {
        assert_eq!(world.over(address, &elsewhere, &[]), TOKEN, "bound to another connection");
    }
    // Made for none, as through somebody else's proxy: once at each instance, and never changed.
    for change in [["-X", "DELETE"].as_slice(), &["-G", "-d", "near=1,1"], &["-X", "GET", "-d", "{}"]] {
        let captured = world.chat.headers(world, &Claims::default());
        assert_eq!(world.over(&world.ads, &captured, change), TOKEN, "changed: {change:?}");
    }
    let unbound = world.chat.headers(world, &Claims::default());
    for address in [&world.ads, &second.address] {
        assert_eq!(world.over(address, &unbound, &[]), POLICY, "new to this instance");
        assert_eq!(world.over(address, &unbound, &[]), TOKEN, "the second time");
    }
    // Never used before the callee died, and still alive.
    let kept = world.chat.headers(world, &Claims::default());
    kill_and_wait(world);
    assert_eq!(world.over(&world.ads, &kept, &[]), TOKEN, "issued before the callee started");
}

fn captured_bearer_token(world: &World, second: &Replica) {
    let d = &world.d;
    d.ok(&["demo", "mode", "bearer"]);
    let issued = d.json(&["token", "mint", "bearer", "--service", "chat", "--scope", "ads"]);
    let shown = header("Bearer", issued["token"].as_str().unwrap());
    for address in [&world.ads, &world.ads, &second.address] {
        assert_eq!(world.over(address, &shown, &[]), POLICY, "whoever has a copy can use it");
        assert_eq!(world.over(address, &shown, &["-X", "DELETE"]), POLICY, "for whatever they like");
    }
    d.ok(&["token", "revoke", "token", issued["id"].as_str().unwrap()]);
    for address in [&world.ads, &second.address] {
        let refused = wait_for(|| (world.over(address, &shown, &[]) == TOKEN).then_some(()));
        assert!(refused.is_some(), "a revoked bearer token at {address}");
    }
}

fn captured_macaroon(world: &World, second: &Replica) {
    let d = &world.d;
    d.ok(&["demo", "mode", "macaroon"]);
    let wide = d.scratch("macaroon").join("wide");
    std::fs::write(&wide, d.ok(&["token", "mint", "macaroon", "--service", "chat", "--callee", "ads"]))
        .unwrap();
    let ends = clock::now().saturating_add(Duration::from_secs(6));
    let before = format!("before = {}", ends.secs());
    let caveats = ["--caveat", "method = GET", "--caveat", "path = /ads", "--caveat", &before];
    let narrow = d.ok(&[&["token", "attenuate", wide.to_str().unwrap()], &caveats[..]].concat());
    let shown = header("Macaroon", narrow.trim());
    for address in [&world.ads, &world.ads, &second.address] {
        assert_eq!(world.over(address, &shown, &[]), POLICY, "this one request, for seconds");
        assert_eq!(world.over(address, &shown, &["-X", "DELETE"]), TOKEN, "and no other");
    }
    std::thread::sleep(ends.since(clock::now()) + Duration::from_secs(1));
    assert_eq!(world.over(&world.ads, &shown, &[]), TOKEN, "and not afterwards");
}

fn header(scheme: &str, token: &str) -> Vec<String> {
    vec!["-H".to_owned(), format!("Authorization: {scheme} {token}")]
}

/// A second process of the service ads, as on another machine.
struct Replica {
    process: std::process::Child,
    address: String,
}

impl Replica {
    fn of_ads(world: &World) -> Self {
        let config = std::fs::read_to_string(world.d.state().join("countersign.toml")).unwrap();
        let free = || format!("127.0.0.1:{}", countersign_testkit::free_port());
        let (address, admin, dir) = (free(), free(), world.d.scratch("second"));
        let (head, rest) = config.split_at(config.find("[demo.services.ads]").unwrap());
        let (table, tail) = rest.split_at(rest[1..].find("\n[").unwrap() + 1);
        let table: Vec<String> = table
            .lines()
            .map(|line| match line.split_whitespace().next() {
                Some("listen") => format!("listen = \"{address}\""),
                Some("admin") => format!("admin = \"{admin}\""),
                Some("database") => format!("database = \"sqlite:{}\"", dir.join("ads.db").display()),
                _ => line.to_owned(),
            })
            .collect();
        let file = dir.join("countersign.toml");
        std::fs::write(&file, format!("{head}{}\n{tail}", table.join("\n"))).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = world
            .d
            .command(&["demo-service", "ads", "--config", file.to_str().unwrap()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let replica = Self { process, address };
        let up = wait_for(|| std::net::TcpStream::connect(&replica.address).ok());
        let said = std::fs::read_to_string(dir.join("log")).unwrap();
        assert!(up.is_some(), "the second ads does not start: {said}");
        // Its own first seconds, as in `World::new`.
        std::thread::sleep(UNBOUND_AHEAD_MAX + Duration::from_secs(1));
        replica
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn kill_and_wait(world: &World) {
    let pid = world.d.pid_of(&["demo-service ads", "--until-stdin-closes"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let back = wait_for(|| (world.ads(&[], &[]).verdict == FLOOR).then_some(()));
    assert!(back.is_some(), "ads was not started again");
}
