//! Algorithm 5.1 of the thesis under attack: three services of its closed PKI, and somebody else's PKI with the same
//! names.

use std::{
    convert::Infallible,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use countersign_identity::{TrustDomain, UnixTime};
use countersign_keys::KeyPair;
use countersign_pki::{Bundle, BundleSet, Crl, truststore::CertificateAuthorityService};
use countersign_sdk::clock;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tower_layer::Layer as _;
use x509_parser::parse_x509_certificate;

use super::Tried;
use crate::{
    attack::{AttackError, wire::Broken},
    thesis::{
        Clock, ClosedPki, Connection, DanglingElse, JwtAuthentication, JwtCreatorService,
        JwtValidationService, Listener, ServiceIdentity, TokenCreatorService as _,
    },
};

/// Everybody who calls, and `service2`, whom they call.
struct Play {
    pki: ClosedPki,
    service1: ServiceIdentity,
    service3: ServiceIdentity,
    /// The name of `service1`, by a PKI that nobody trusts.
    impostor: ServiceIdentity,
    authorities: Arc<RwLock<BundleSet>>,
    ahead: Arc<AtomicI64>,
    listener: Listener,
}

pub(super) async fn examine() -> Result<Vec<Tried>, AttackError> {
    let keys = Keys::new()?;
    let mut tried = as_meant(&keys).await?;
    tried.push(as_typeset(&keys).await?);
    tried.extend(after_its_end(&keys).await?);
    Ok(tried)
}

/// In the kindest reading of its `else`.
async fn as_meant(keys: &Keys) -> Result<Vec<Tried>, AttackError> {
    let play = Play::begin(keys, DanglingElse::Meant).await?;
    let captured = play.token(&play.service1)?;
    play.must_serve(Some(&play.service1), &captured).await?;
    let sends = async |token: &str, method: Method, path: &str, body: &'static str| {
        play.send(None, token, method, path, body).await
    };
    let get = Method::GET;
    Ok(vec![
        Tried::answered(
            "stolen-token",
            "D2",
            "the token of service1 over the mutual TLS of service3",
            play.send(Some(&play.service3), &captured, get.clone(), PATH, "").await,
        ),
        Tried::answered(
            "replay",
            "D5",
            "the same token again, over a connection without a certificate",
            sends(&captured, get.clone(), PATH, "").await,
        ),
        Tried::answered(
            "other-method",
            "D5",
            "the token of a GET with a DELETE",
            sends(&captured, Method::DELETE, PATH, "").await,
        ),
        Tried::answered(
            "other-path",
            "D5",
            "the token of one path with another",
            sends(&captured, get.clone(), "/users/8?all=true", "").await,
        ),
        Tried::answered(
            "body-swap",
            "D5",
            "the token of an empty request with a body",
            sends(&captured, Method::POST, PATH, r#"{"password":"mine"}"#).await,
        ),
        Tried::answered(
            "alg-none",
            "JB-1",
            "a token without a signature",
            sends(&without_signature(&captured), get.clone(), PATH, "").await,
        ),
        Tried::answered(
            "edited-token",
            "JB-1",
            "a token that says another issuer than was signed",
            sends(&edited(&captured), get, PATH, "").await,
        ),
    ])
}

/// In the printed reading, a worthless certificate opens what none at all does not.
async fn as_typeset(keys: &Keys) -> Result<Tried, AttackError> {
    let play = Play::begin(keys, DanglingElse::Typeset).await?;
    let captured = play.token(&play.service1)?;
    play.must_serve(Some(&play.service1), &captured).await?;
    let seen = play.send(Some(&play.impostor), &captured, Method::GET, PATH, "").await;
    Ok(Tried::answered(
        "foreign-ca-same-name",
        "D1",
        "the token of service1, and a certificate by a foreign ca",
        seen,
    ))
}

/// What was put into the trust store stays there.
async fn after_its_end(keys: &Keys) -> Result<Vec<Tried>, AttackError> {
    let play = Play::begin(keys, DanglingElse::Meant).await?;
    let early = play.token(&play.service1)?;
    play.must_serve(Some(&play.service1), &early).await?;
    play.revoke(&play.service1)?;
    let late = play.token(&play.service1)?;
    let revoked = play.send(None, &late, Method::GET, PATH, "").await;
    play.ahead.fetch_add(2 * LIFE.as_secs().cast_signed(), Ordering::SeqCst);
    let later = play.token(&play.service1)?;
    let expired = play.send(None, &later, Method::GET, PATH, "").await;
    Ok(vec![
        Tried::answered("revoked-signer", "D3", "a token by a key whose certificate was revoked", revoked),
        Tried::answered(
            "expired-certificate",
            "D3",
            "a token by a key whose certificate has expired",
            expired,
        ),
    ])
}

/// RSA keys take their time, so they are made once.
struct Keys([KeyPair; 4]);

impl Keys {
    fn new() -> Result<Self, AttackError> {
        let key = || KeyPair::generate_rsa().map_err(|error| unbuilt(&error));
        Ok(Self([key()?, key()?, key()?, key()?]))
    }
}

impl Play {
    async fn begin(Keys(keys): &Keys, reading: DanglingElse) -> Result<Self, AttackError> {
        let td = TrustDomain::parse(DOMAIN).map_err(|error| unbuilt(&error))?;
        let begin = clock::now().saturating_sub(Duration::from_secs(60));
        let pki = ClosedPki::new(td.clone(), begin).map_err(|error| unbuilt(&error))?;
        let strangers = ClosedPki::new(td.clone(), begin).map_err(|error| unbuilt(&error))?;
        let certify = |pki: &ClosedPki, label: &str, key: &KeyPair| {
            pki.certify(label, key.clone(), begin, LIFE).map_err(|error| unbuilt(&error))
        };
        let [key1, key2, key3, other] = keys;
        let service2 = certify(&pki, "service2", key2)?;
        let mut authorities = BundleSet::new();
        authorities.append_certificate(&td, pki.root().clone()).map_err(|error| unbuilt(&error))?;
        let authorities = Arc::new(RwLock::new(authorities));
        let ahead = Arc::new(AtomicI64::new(0));
        let clock = clock_of(&ahead);
        let tokens = Arc::new(JwtValidationService::new(service2.name.clone(), Arc::clone(&clock)));
        let authentication = JwtAuthentication::new(authorities.clone(), tokens, reading, clock);
        let controller = tower::service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::from(Bytes::from_static(b"at your service"))))
        });
        let listener = Listener::start(&service2, authentication.layer(controller)).await;
        Ok(Self {
            service1: certify(&pki, "service1", key1)?,
            service3: certify(&pki, "service3", key3)?,
            impostor: certify(&strangers, "service1", other)?,
            listener: listener.map_err(|error| unbuilt(&error))?,
            pki,
            authorities,
            ahead,
        })
    }

    fn token(&self, who: &ServiceIdentity) -> Result<String, AttackError> {
        let leaf = who.chain.first().ok_or_else(|| unbuilt(&"no certificate"))?;
        let creator = JwtCreatorService::new(who.name.clone(), leaf, who.key.clone(), clock_of(&self.ahead));
        creator.create_token(CALLEE).map_err(|error| unbuilt(&error))
    }

    /// One request over one connection, with this certificate or none.
    async fn send(
        &self,
        shown: Option<&ServiceIdentity>,
        token: &str,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> Result<u16, Broken> {
        let broken = |how: String| Broken { alert: None, how, local: None };
        let connection = Connection::open(self.listener.address(), CALLEE, self.pki.root(), shown).await;
        let mut connection = connection.map_err(|error| broken(error.to_string()))?;
        let body = Bytes::from_static(body.as_bytes());
        let reply = connection.send(method, path, Some(&format!("Bearer {token}")), body).await;
        reply.map(|reply| reply.status.as_u16()).map_err(|error| broken(error.to_string()))
    }

    async fn must_serve(&self, who: Option<&ServiceIdentity>, token: &str) -> Result<(), AttackError> {
        match self.send(who, token, Method::GET, PATH, "").await {
            Ok(200) => Ok(()),
            Ok(status) => Err(AttackError::HonestRefused { answer: status.to_string() }),
            Err(broken) => Err(AttackError::HonestRefused { answer: broken.how }),
        }
    }

    /// Everybody who asks is told from now on; the algorithm asks nobody about what it has once put into its store.
    fn revoke(&self, who: &ServiceIdentity) -> Result<(), AttackError> {
        let leaf = who.chain.first().ok_or_else(|| unbuilt(&"no certificate"))?;
        let (_, leaf) = parse_x509_certificate(leaf).map_err(|error| unbuilt(&error))?;
        let now = clock::now();
        let list = self.pki.revoke(&[leaf.raw_serial()], now).map_err(|error| unbuilt(&error))?;
        let list = Crl::parse(&list, self.pki.root(), now).map_err(|error| unbuilt(&error))?;
        let bundle = Bundle::new(self.pki.trust_domain().clone(), vec![self.pki.root().clone()], vec![list]);
        let bundle = bundle.map_err(|error| unbuilt(&error))?;
        self.authorities.write().unwrap_or_else(PoisonError::into_inner).insert(bundle);
        Ok(())
    }
}

fn clock_of(ahead: &Arc<AtomicI64>) -> Clock {
    let ahead = Arc::clone(ahead);
    Arc::new(move || UnixTime::from_secs(clock::now().secs() + ahead.load(Ordering::SeqCst)))
}

fn without_signature(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap_or_default();
    format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"","typ":"JWT"}"#))
}

fn edited(token: &str) -> String {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims = String::from_utf8(claims.unwrap_or_default()).unwrap_or_default();
    let changed = URL_SAFE_NO_PAD.encode(claims.replace("service1", "service3"));
    let parts: Vec<&str> = token.split('.').collect();
    match parts.as_slice() {
        [header, _, signature] => format!("{header}.{changed}.{signature}"),
        _ => String::new(),
    }
}

fn unbuilt(why: &dyn std::fmt::Display) -> AttackError {
    AttackError::equipment("the thesis's services", why)
}

const DOMAIN: &str = "swapindo.com";
const CALLEE: &str = "service2.swapindo.com";
const PATH: &str = "/users/7";
const LIFE: Duration = Duration::from_secs(3600);
