//! A deployment, and whoever wants something of it: users, services, strangers and thieves.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
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

pub const MODES: [&str; 7] = ["none", "bearer", "macaroon", "jwt", "wimse", "mtls", "mtls+jwt"];

/// The stage of the refusal behind the status, or where the connection ended.
pub const OK: &str = "200";
pub const MADE: &str = "201";
/// The gateway's or the service's rules say no.
pub const POLICY: &str = "403 policy";
/// The token is there and does not hold.
pub const TOKEN: &str = "401 token";
/// Proven, but not in a way that this callee accepts; or not at all.
pub const FLOOR: &str = "401 identity";
pub const REQUEST: &str = "400 request";
/// TLS refuses the caller before any request is read.
pub const SHAKE: &str = "handshake";
/// No TLS, so no answer.
pub const CLOSED: &str = "closed";

pub const NEW_AD: &str = r#"{"kind":"sell","title":"A lamp","description":"It shines.","category":"home","price_cents":500,
    "town":"Freistadt","place":{"latitude":48.37,"longitude":14.51}}"#;

/// What became of a request.
pub struct Seen {
    pub verdict: String,
    /// For whoever reads a failure.
    pub told: String,
}

/// A deployment, and what its enemies have in their hands.
pub struct World {
    pub d: Deployment,
    pub ads: String,
    pub chat: Signer,
    pub users: Signer,
    pub chat_tls: Vec<String>,
    pub foreign: Vec<String>,
    pub unknown_bearer: String,
    pub narrow: String,
    /// Things that nobody has bought yet.
    pub for_sale: RefCell<Vec<String>>,
}

/// A signing key with its certificate, as `cert issue --profile signing` writes them.
pub struct Signer {
    key: KeyPair,
    chain: Vec<Vec<u8>>,
}

pub struct Claims {
    pub issuer: &'static str,
    pub audience: &'static str,
    pub method: &'static str,
    pub target: &'static str,
    pub channel: Option<[u8; 32]>,
}

impl Default for Claims {
    fn default() -> Self {
        Self { issuer: "chat", audience: "ads", method: "GET", target: "/ads", channel: None }
    }
}

impl World {
    pub fn new() -> Self {
        Self::of(Deployment::start())
    }

    /// What the table needs of a deployment that has just started.
    pub fn of(d: Deployment) -> Self {
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

    pub fn buy(&self) -> Seen {
        let id = self.for_sale.borrow_mut().pop().unwrap();
        self.user("alice", &format!("/ads/{id}/buy"), &["-d", "{}"])
    }

    pub fn user(&self, user: &str, path: &str, more: &[&str]) -> Seen {
        let (status, body) =
            self.d.as_user(user, path, &[&["-H", "Content-Type: application/json"], more].concat());
        self.seen(status, body)
    }

    pub fn nobody(&self, path: &str, more: &[&str]) -> Seen {
        let url = format!("{}{path}", self.d.url("gateway_tls"));
        let (status, body) = self.d.curl(&url, &[&["--cacert", self.d.url("ca_file")], more].concat());
        self.seen(status, body)
    }

    /// Over TLS to the port of ads, past the gateway.
    pub fn ads(&self, more: &[&str], certificate: &[String]) -> Seen {
        let certificate: Vec<&str> = certificate.iter().map(String::as_str).collect();
        let arguments = [&["-k"], more, &certificate].concat();
        self.straight(&format!("https://{}/ads", self.ads), &arguments, SHAKE)
    }

    pub fn clear(&self, more: &[&str]) -> Seen {
        self.straight(&format!("http://{}/ads", self.ads), more, CLOSED)
    }

    /// From an address of its own each time: of one stranger a service records only the first refusals of a minute.
    fn straight(&self, url: &str, arguments: &[&str], no_answer: &str) -> Seen {
        static ASKED: AtomicU16 = AtomicU16::new(1);
        let [high, low] = ASKED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let from = format!("127.64.{high}.{low}");
        let (code, said) = curl(url, &[arguments, &["--interface", &from]].concat());
        if code != 0 {
            return Seen { verdict: no_answer.to_owned(), told: said };
        }
        let (body, status) = said.rsplit_once('\n').unwrap();
        self.seen(status.parse().unwrap(), body.to_owned())
    }

    pub fn signed(&self, signer: &Signer, claims: &Claims) -> Seen {
        self.presented(&signer.token(self, claims), signer)
    }

    /// A token, whoever made it, with the chain of `shown`.
    pub fn presented(&self, token: &str, shown: &Signer) -> Seen {
        self.ads(&["-H", &format!("Authorization: Bearer {token}"), "-H", &shown.chain_header()], &[])
    }

    /// To one of several ports of ads.
    pub fn over(&self, address: &str, headers: &[String], more: &[&str]) -> String {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        self.straight(&format!("https://{address}/ads"), &[&["-k"], more, &headers].concat(), SHAKE).verdict
    }

    pub fn twice(&self) -> Seen {
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
    pub fn headers(&self, world: &World, claims: &Claims) -> Vec<String> {
        let mut headers = header("Bearer", &self.token(world, claims));
        headers.extend(["-H".to_owned(), self.chain_header()]);
        headers
    }

    fn chain_header(&self) -> String {
        let chain: Vec<String> = self.chain.iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
        format!("Countersign-Signing-Chain: {}", chain.join(", "))
    }

    /// Made here and now, unless told otherwise for no connection: as through a proxy of somebody else.
    pub fn token(&self, world: &World, claims: &Claims) -> String {
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

pub fn header(scheme: &str, token: &str) -> Vec<String> {
    vec!["-H".to_owned(), format!("Authorization: {scheme} {token}")]
}

pub fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..60 {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}
