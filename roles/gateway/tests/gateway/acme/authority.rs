//! An ACME authority for one test, written from RFC 8555 and RFC 8737: it believes no signature, nonce, order or host
//! that it did not check itself, and it validates by really connecting to the gateway.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_identity::TrustDomain;
use countersign_keys::{KeyPair, PublicKey, SystemRandom, random_bytes, sha256};
use countersign_pki::issue::{Issuer, Root, issue_edge_server, make_root};
use countersign_pki::pem::encode_certificates;
use countersign_pki::profile::EdgeNames;
use countersign_sdk::accept::{Limits, Transport, serve};
use countersign_sdk::clock;
use countersign_sdk::tls::{Acceptor, ClientAuth, Identity, TrustState};
use http::{Method, Request, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::validation::validate;
use crate::rig::{Rig, pem};

/// What it does otherwise than it should, for a test.
#[derive(Default)]
pub(super) struct Play {
    /// So many good nonces are refused.
    pub(super) nonces_refused: usize,
    /// New orders are answered so: problem type, detail, seconds of `Retry-After`.
    pub(super) orders_refused: Option<(&'static str, &'static str, u64)>,
    /// Everything is answered by 503.
    pub(super) down: bool,
    /// Certificates come in the last third of their life.
    pub(super) old: bool,
    /// Orders stay in `processing`.
    pub(super) held: bool,
    /// Challenges other than tls-alpn-01 alone are offered.
    pub(super) without_tls_alpn: bool,
    /// Certificates are made for this host instead.
    pub(super) other_host: Option<&'static str>,
}

/// A running authority; it ends with the rig.
#[derive(Clone)]
pub(super) struct Authority {
    /// URL of its directory.
    pub(super) directory: String,
    /// PEM of the root of its own HTTPS certificate.
    pub(super) ca: PathBuf,
    base: String,
    root: Arc<Issuer>,
    books: Arc<Mutex<Books>>,
    /// Where port 443 of every host leads.
    gateway: watch::Sender<Option<SocketAddr>>,
}

#[derive(Default)]
struct Books {
    play: Play,
    nonces: HashSet<String>,
    accounts: Vec<PublicKey>,
    contacts: Vec<Value>,
    orders: Vec<OrderRecord>,
    requests: usize,
    nonces_refused: usize,
}

#[derive(Clone)]
struct OrderRecord {
    account: usize,
    host: String,
    token: String,
    status: &'static str,
    authorization: &'static str,
    problem: Option<Value>,
    chain: Option<String>,
}

/// A refusal: status, problem type, detail.
type Refused = (StatusCode, &'static str, String);

/// A verified request.
struct Asked {
    payload: Option<Value>,
    /// The account that signed, or the key that wants to be one.
    account: Option<usize>,
    key: PublicKey,
}

impl Authority {
    pub(super) async fn open(rig: &Rig) -> Self {
        let (certificate, key, root) = rig.edge_certificate(&["localhost"], "directory");
        let ca = rig.dir.path().join("directory-ca.pem");
        std::fs::write(&ca, pem("CERTIFICATE", &root)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let authority = Authority {
            directory: format!("{base}/dir"),
            ca,
            base,
            root: Arc::new(issuing_root()),
            books: Arc::default(),
            gateway: watch::Sender::new(None),
        };
        let shown =
            TrustState::new(countersign_pki::BundleSet::new(), countersign_pki::verify::CrlPolicy::Require);
        shown.set_identity(identity(&certificate, &key));
        let (acceptor, serving) = (Acceptor::new(shown, ClientAuth::Never), authority.clone());
        let router = Router::new().fallback(move |request: Request<Body>| {
            let authority = serving.clone();
            async move { authority.answer(request).await }
        });
        let shutdown = rig.shutdown.clone();
        tokio::spawn(async move {
            serve(listener, Transport::Tls(acceptor), router, Limits::default(), shutdown).await;
        });
        authority
    }

    /// From now on hosts lead there. Until then validations wait.
    pub(super) fn lead_to(&self, gateway: SocketAddr) {
        self.gateway.send_replace(Some(gateway));
    }

    pub(super) fn play(&self, change: impl FnOnce(&mut Play)) {
        change(&mut self.books().play);
    }

    /// The root of the certificates that it issues.
    pub(super) fn root(&self) -> &CertificateDer<'static> {
        self.root.certificate()
    }

    /// Hosts that certificates were ordered for, in order.
    pub(super) fn ordered(&self) -> Vec<String> {
        self.books().orders.iter().map(|order| order.host.clone()).collect()
    }

    pub(super) fn accounts(&self) -> usize {
        self.books().accounts.len()
    }

    pub(super) fn contacts(&self) -> Vec<Value> {
        self.books().contacts.clone()
    }

    /// How often anybody asked for anything.
    pub(super) fn requests(&self) -> usize {
        self.books().requests
    }

    pub(super) fn nonces_refused(&self) -> usize {
        self.books().nonces_refused
    }

    /// As if it had been set up anew.
    pub(super) fn forget_accounts(&self) {
        self.books().accounts.clear();
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let down = {
            let mut books = self.books();
            books.requests += 1;
            books.play.down
        };
        if down {
            return Response::builder()
                .status(503)
                .header("retry-after", "1")
                .body(Body::from("busy"))
                .unwrap();
        }
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if head.method == Method::GET && path == "/dir" {
            return self.reply(StatusCode::OK, None, &self.directory_object());
        }
        if head.method == Method::HEAD && path == "/nonce" {
            return self.reply(StatusCode::OK, None, &Value::Null);
        }
        if head.headers.get("content-type").is_none_or(|kind| kind != "application/jose+json") {
            return self.refuse((StatusCode::UNSUPPORTED_MEDIA_TYPE, "malformed", "content-type".into()));
        }
        let body = to_bytes(body, 64 * 1024).await.unwrap();
        let asked = self.verify(&path, &body);
        match asked {
            Ok(asked) => match self.route(&path, asked).await {
                Ok(response) => response,
                Err(refused) => self.refuse(refused),
            },
            Err(refused) => self.refuse(refused),
        }
    }

    fn directory_object(&self) -> Value {
        let at = |path: &str| format!("{}/{path}", self.base);
        json!({ "newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order"),
                "revokeCert": at("revoke"), "keyChange": at("key"), "meta": { "termsOfService": at("terms") } })
    }

    async fn route(&self, path: &str, asked: Asked) -> Result<Response<Body>, Refused> {
        let mut parts = path.trim_start_matches('/').split('/');
        let (what, number) = (parts.next().unwrap_or_default(), parts.next());
        let number = number.and_then(|number| number.parse::<usize>().ok());
        match (what, number) {
            ("account", None) => self.new_account(asked),
            ("order", None) => self.new_order(&asked),
            ("order", Some(n)) => {
                self.own(n, &asked)?;
                self.progress(n);
                Ok(self.order(StatusCode::OK, n))
            }
            ("authz", Some(n)) => {
                self.own(n, &asked)?;
                Ok(self.reply(StatusCode::OK, None, &self.authorization(n)))
            }
            ("challenge", Some(n)) => self.begin_validation(n, &asked),
            ("finalize", Some(n)) => self.finalize(n, &asked),
            ("cert", Some(n)) => {
                let chain = self.own(n, &asked)?.chain.ok_or_else(|| not_found("cert"))?;
                let mut reply = self.reply(StatusCode::OK, None, &Value::Null);
                reply
                    .headers_mut()
                    .insert("content-type", "application/pem-certificate-chain".parse().unwrap());
                *reply.body_mut() = Body::from(chain);
                Ok(reply)
            }
            _ => Err(not_found(path)),
        }
    }

    /// RFC 8555 section 6.2 to 6.5: a flattened JWS of ES256, over this very URL, with a nonce that counts once.
    fn verify(&self, path: &str, body: &[u8]) -> Result<Asked, Refused> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Jws {
            protected: String,
            payload: String,
            signature: String,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Protected {
            alg: String,
            nonce: String,
            url: String,
            jwk: Option<Value>,
            kid: Option<String>,
        }
        let malformed = |what: &str| (StatusCode::BAD_REQUEST, "malformed", what.to_owned());
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed("base64url"));
        let jws: Jws = serde_json::from_slice(body).map_err(|_| malformed("jws"))?;
        let protected: Protected =
            serde_json::from_slice(&decode(&jws.protected)?).map_err(|_| malformed("protected header"))?;
        if protected.alg != "ES256" {
            return Err((StatusCode::BAD_REQUEST, "badSignatureAlgorithm", protected.alg));
        }
        let (account, key) = match (protected.jwk, protected.kid) {
            (Some(jwk), None) if path == "/account" => {
                (None, PublicKey::from_jwk(&jwk.to_string()).map_err(|_| malformed("jwk"))?)
            }
            (None, Some(kid)) if path != "/account" => {
                let number = kid.strip_prefix(&format!("{}/acct/", self.base)).and_then(|n| n.parse().ok());
                let number: usize = number.ok_or_else(|| malformed("kid"))?;
                let unknown = || (StatusCode::BAD_REQUEST, "accountDoesNotExist", kid.clone());
                (Some(number), self.books().accounts.get(number).cloned().ok_or_else(unknown)?)
            }
            _ => return Err(malformed("exactly one of jwk and kid, jwk for new accounts alone")),
        };
        let signed = format!("{}.{}", jws.protected, jws.payload);
        key.verify_raw(signed.as_bytes(), &decode(&jws.signature)?)
            .map_err(|_| (StatusCode::FORBIDDEN, "unauthorized", "signature".to_owned()))?;
        {
            let mut books = self.books();
            let is_ours = books.nonces.remove(&protected.nonce);
            if !is_ours || books.play.nonces_refused > 0 {
                books.play.nonces_refused = books.play.nonces_refused.saturating_sub(1);
                books.nonces_refused += 1;
                return Err((StatusCode::BAD_REQUEST, "badNonce", protected.nonce));
            }
        }
        if protected.url != format!("{}{path}", self.base) {
            return Err((StatusCode::FORBIDDEN, "unauthorized", "url".to_owned()));
        }
        let payload = match jws.payload.is_empty() {
            true => None,
            false => Some(serde_json::from_slice(&decode(&jws.payload)?).map_err(|_| malformed("payload"))?),
        };
        Ok(Asked { payload, account, key })
    }

    fn new_account(&self, asked: Asked) -> Result<Response<Body>, Refused> {
        let payload = asked.payload.ok_or_else(|| not_found("payload"))?;
        if payload["termsOfServiceAgreed"] != true {
            return Err((StatusCode::FORBIDDEN, "userActionRequired", "terms".into()));
        }
        let number = {
            let mut books = self.books();
            books.accounts.push(asked.key);
            books.contacts.push(payload["contact"].clone());
            books.accounts.len() - 1
        };
        let place = format!("{}/acct/{number}", self.base);
        Ok(self.reply(StatusCode::CREATED, Some(&place), &json!({ "status": "valid" })))
    }

    fn new_order(&self, asked: &Asked) -> Result<Response<Body>, Refused> {
        let play = self.books().play.orders_refused;
        if let Some((kind, detail, retry_after)) = play {
            let mut refused = self.refuse((StatusCode::TOO_MANY_REQUESTS, kind, detail.to_owned()));
            refused.headers_mut().insert("retry-after", retry_after.into());
            return Ok(refused);
        }
        let identifiers = asked.payload.as_ref().map(|payload| &payload["identifiers"]);
        let host = match identifiers.and_then(Value::as_array).map(Vec::as_slice) {
            Some([one]) if one["type"] == "dns" => one["value"].as_str().unwrap().to_owned(),
            _ => return Err((StatusCode::BAD_REQUEST, "rejectedIdentifier", "one dns name".into())),
        };
        let number = {
            let mut books = self.books();
            books.orders.push(OrderRecord {
                account: asked.account.unwrap(),
                host,
                token: fresh(),
                status: "pending",
                authorization: "pending",
                problem: None,
                chain: None,
            });
            books.orders.len() - 1
        };
        Ok(self.order(StatusCode::CREATED, number))
    }

    fn begin_validation(&self, n: usize, asked: &Asked) -> Result<Response<Body>, Refused> {
        let record = self.own(n, asked)?;
        if record.authorization != "pending" || asked.payload != Some(json!({})) {
            return Err((StatusCode::BAD_REQUEST, "malformed", "challenge".into()));
        }
        let authorization = format!("{}.{}", record.token, asked.key.thumbprint());
        let (digest, authority) = (sha256(authorization.as_bytes()), self.clone());
        let mut gateway = self.gateway.subscribe();
        tokio::spawn(async move {
            let address = gateway.wait_for(Option::is_some).await.unwrap().unwrap();
            let seen = validate(address, &record.host, digest).await;
            let mut books = authority.books();
            let order = &mut books.orders[n];
            match seen {
                Ok(()) => (order.authorization, order.status) = ("valid", "ready"),
                Err(why) => {
                    (order.authorization, order.status) = ("invalid", "invalid");
                    order.problem = Some(problem("tls", &why));
                }
            }
        });
        Ok(self.reply(StatusCode::OK, None, &self.challenge(n, "tls-alpn-01")))
    }

    fn finalize(&self, n: usize, asked: &Asked) -> Result<Response<Body>, Refused> {
        let record = self.own(n, asked)?;
        if record.status != "ready" {
            return Err((StatusCode::FORBIDDEN, "orderNotReady", record.status.to_owned()));
        }
        let bad_csr = |why: &str| (StatusCode::BAD_REQUEST, "badCSR", why.to_owned());
        let csr = asked.payload.as_ref().and_then(|payload| payload["csr"].as_str());
        let csr = csr.and_then(|csr| URL_SAFE_NO_PAD.decode(csr).ok()).ok_or_else(|| bad_csr("base64url"))?;
        let key = requested(&csr, &record.host).map_err(bad_csr)?;
        let play_host = self.books().play.other_host;
        let chain = self.issue(&key, play_host.unwrap_or(&record.host));
        let mut books = self.books();
        (books.orders[n].status, books.orders[n].chain) = ("processing", Some(chain));
        drop(books);
        Ok(self.order(StatusCode::OK, n))
    }

    fn issue(&self, key: &PublicKey, host: &str) -> String {
        let names = EdgeNames { dns: vec![host.to_owned()], ips: Vec::new() };
        let (hour, now) = (Duration::from_secs(3600), clock::now());
        // Ten hours of life, of which eight or none are over.
        let begin = if self.books().play.old { now.saturating_sub(hour * 8) } else { now };
        let serial = random_bytes(&SystemRandom::new()).unwrap();
        let leaf = issue_edge_server(&self.root, key, &names, hour * 10, begin, serial).unwrap();
        encode_certificates([&*leaf.der, self.root.certificate()])
    }

    /// The account's own order.
    fn own(&self, n: usize, asked: &Asked) -> Result<OrderRecord, Refused> {
        let record = self.books().orders.get(n).cloned().ok_or_else(|| not_found("order"))?;
        if asked.account != Some(record.account) {
            return Err((StatusCode::FORBIDDEN, "unauthorized", "another account's".into()));
        }
        Ok(record)
    }

    /// What was in `processing` is done the next time that somebody looks.
    fn progress(&self, n: usize) {
        let mut books = self.books();
        if books.orders[n].status == "processing" && !books.play.held {
            books.orders[n].status = "valid";
        }
    }

    fn order(&self, status: StatusCode, n: usize) -> Response<Body> {
        let (at, record) = (|path: &str| format!("{}/{path}/{n}", self.base), self.books().orders[n].clone());
        let mut object = json!({
            "status": record.status, "identifiers": [{ "type": "dns", "value": record.host }],
            "authorizations": [at("authz")], "finalize": at("finalize"),
        });
        if record.status == "valid" {
            object["certificate"] = at("cert").into();
        }
        self.reply(status, Some(&at("order")), &object)
    }

    fn authorization(&self, n: usize) -> Value {
        let (record, others) = {
            let books = self.books();
            (books.orders[n].clone(), books.play.without_tls_alpn)
        };
        let kinds: &[&str] = if others { &["http-01", "dns-01"] } else { &["http-01", "tls-alpn-01"] };
        let challenges: Vec<Value> = kinds.iter().map(|kind| self.challenge(n, kind)).collect();
        json!({ "status": record.authorization, "identifier": { "type": "dns", "value": record.host },
                "challenges": challenges })
    }

    fn challenge(&self, n: usize, kind: &str) -> Value {
        let record = self.books().orders[n].clone();
        let mut object = json!({ "type": kind, "url": format!("{}/challenge/{n}", self.base),
                                 "status": record.authorization, "token": record.token });
        if let Some(problem) = record.problem {
            object["error"] = problem;
        }
        object
    }

    fn refuse(&self, (status, kind, detail): Refused) -> Response<Body> {
        let mut reply = self.reply(status, None, &problem(kind, &detail));
        reply.headers_mut().insert("content-type", "application/problem+json".parse().unwrap());
        reply
    }

    /// Every answer brings a new nonce.
    fn reply(&self, status: StatusCode, location: Option<&str>, object: &Value) -> Response<Body> {
        let nonce = fresh();
        self.books().nonces.insert(nonce.clone());
        let mut reply = Response::builder().status(status).header("replay-nonce", nonce);
        if let Some(location) = location {
            reply = reply.header("location", location);
        }
        let body = if object.is_null() { String::new() } else { object.to_string() };
        reply.header("content-type", "application/json").body(Body::from(body)).unwrap()
    }
}

fn problem(kind: &str, detail: &str) -> Value {
    json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail })
}

fn not_found(what: &str) -> Refused {
    (StatusCode::NOT_FOUND, "malformed", what.to_owned())
}

fn fresh() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<16>(&SystemRandom::new()).unwrap())
}

/// Below it may be whatever lies in `test`.
fn issuing_root() -> Issuer {
    let rng = SystemRandom::new();
    let names = EdgeNames { dns: vec!["test".to_owned()], ips: Vec::new() };
    let long_ago = clock::now().saturating_sub(Duration::from_secs(24 * 3600));
    let td = TrustDomain::parse("authority.test").unwrap();
    let key = KeyPair::generate(&rng).unwrap();
    make_root(Root::Edge(&names), &td, key, long_ago, random_bytes(&rng).unwrap()).unwrap()
}

/// The key of a CSR that is signed by it and asks for this host alone.
fn requested(csr: &[u8], host: &str) -> Result<PublicKey, &'static str> {
    let (_, csr) = X509CertificationRequest::from_der(csr).map_err(|_| "not a request")?;
    csr.verify_signature().map_err(|_| "signature")?;
    let names: Vec<_> = csr
        .requested_extensions()
        .into_iter()
        .flatten()
        .filter_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    if names != [GeneralName::DNSName(host)] {
        return Err("names");
    }
    PublicKey::from_spki_der(csr.certification_request_info.subject_pki.raw).map_err(|_| "key")
}

fn identity(certificate: &std::path::Path, key: &std::path::Path) -> Identity {
    use countersign_sdk::tls::pem;
    let chain = pem::certificates(&std::fs::read(certificate).unwrap(), certificate).unwrap();
    let key_pem = countersign_keys::Secret::new(std::fs::read(key).unwrap());
    Identity::edge(chain, &pem::private_key(&key_pem, key).unwrap()).unwrap()
}
