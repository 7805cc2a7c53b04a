//! Two services of the thesis, `service1` (its AdService) and `service2` (its UserService), and a stranger's PKI
//! that uses the same names.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use countersign_identity::{TrustDomain, UnixTime};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_lab::thesis::{
    AuthenticatedRequest, Clock, ClosedPki, Connection, DanglingElse, JwtAuthentication, JwtCreatorService,
    JwtValidationService, Listener, Reply, ServiceIdentity, TokenCreatorService,
};
use countersign_pki::{Bundle, BundleSet, Crl, truststore::CertificateAuthorityService};
use countersign_sdk::clock;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tower_layer::Layer;

pub(crate) const SERVICE1: &str = "service1.swapindo.com";
pub(crate) const SERVICE2: &str = "service2.swapindo.com";
pub(crate) const SERVICE3: &str = "service3.swapindo.com";

/// Who there is. RSA keys take their time, so they are made once.
pub(crate) struct Cast {
    pub(crate) pki: ClosedPki,
    pub(crate) service1: ServiceIdentity,
    pub(crate) service2: ServiceIdentity,
    /// A third service, honest or not.
    pub(crate) service3: ServiceIdentity,
    /// The same name as `service1`, certified again for another key.
    pub(crate) service1_again: ServiceIdentity,
    /// The same name as `service1`, certified for a key that is not RSA.
    pub(crate) service1_p256: ServiceIdentity,
    /// The same name as `service1`, by somebody whom nobody trusts.
    pub(crate) impostor: ServiceIdentity,
    /// A certificate of `service1` that ends within an hour.
    pub(crate) service1_short: ServiceIdentity,
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("swapindo.com").unwrap()
}

pub(crate) fn cast() -> &'static Cast {
    static CAST: OnceLock<Cast> = OnceLock::new();
    CAST.get_or_init(|| {
        let begin = clock::now().saturating_sub(Duration::from_secs(60));
        let pki = ClosedPki::new(trust_domain(), begin).unwrap();
        let strangers = ClosedPki::new(trust_domain(), begin).unwrap();
        let rsa = || KeyPair::generate_rsa().unwrap();
        let p256 = KeyPair::generate(&SystemRandom::new()).unwrap();
        let certify = |pki: &ClosedPki, label, key, life| pki.certify(label, key, begin, life).unwrap();
        let key1 = rsa();
        Cast {
            service1: certify(&pki, "service1", key1.clone(), DAY),
            service1_short: certify(&pki, "service1", key1, Duration::from_secs(3600)),
            service2: certify(&pki, "service2", rsa(), DAY),
            service3: certify(&pki, "service3", rsa(), DAY),
            service1_again: certify(&pki, "service1", rsa(), DAY),
            service1_p256: certify(&pki, "service1", p256, DAY),
            impostor: certify(&strangers, "service1", rsa(), DAY),
            pki,
        }
    })
}

/// A clock that a test sets ahead.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn advance(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::from_millis(clock::now().millis() + self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// A token of `who` for `audience`.
pub(crate) fn token(who: &ServiceIdentity, audience: &str, clock: Clock) -> String {
    creator(who, clock).create_token(audience).unwrap()
}

pub(crate) fn creator(who: &ServiceIdentity, clock: Clock) -> JwtCreatorService {
    JwtCreatorService::new(who.name.clone(), &who.chain[0], who.key.clone(), clock)
}

/// `service2`, listening, with Algorithm 5.1 before its one controller.
pub(crate) struct Service2 {
    listener: Listener,
    pub(crate) authorities: Arc<RwLock<BundleSet>>,
    pub(crate) tokens: Arc<JwtValidationService>,
    pub(crate) clock: TestClock,
    controlled: Arc<AtomicUsize>,
}

impl Service2 {
    pub(crate) async fn start(reading: DanglingElse) -> Self {
        let clock = TestClock::default();
        let mut authorities = BundleSet::new();
        authorities.append_certificate(&trust_domain(), cast().pki.root().clone()).unwrap();
        let authorities = Arc::new(RwLock::new(authorities));
        let tokens = Arc::new(JwtValidationService::new(SERVICE2.to_owned(), clock.clock()));
        let authentication =
            JwtAuthentication::new(authorities.clone(), tokens.clone(), reading, clock.clock());
        let controlled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&controlled);
        let controller = tower::service_fn(move |request: Request<Incoming>| {
            count.fetch_add(1, Ordering::SeqCst);
            let seen = request.extensions().get::<AuthenticatedRequest>().unwrap();
            let text = format!("{} {} {}", request.method(), seen.issuer, seen.token_issuer);
            async move { Ok::<_, Infallible>(Response::new(Full::from(Bytes::from(text)))) }
        });
        let listener = Listener::start(&cast().service2, authentication.layer(controller)).await.unwrap();
        Self { listener, authorities, tokens, clock, controlled }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// How many requests reached the controller.
    pub(crate) fn controlled(&self) -> usize {
        self.controlled.load(Ordering::SeqCst)
    }

    /// One request over one connection.
    pub(crate) async fn ask(&self, certificate: Option<&ServiceIdentity>, token: Option<&str>) -> Reply {
        self.send(certificate, token, Method::GET, "/users/7", "").await
    }

    pub(crate) async fn send(
        &self,
        certificate: Option<&ServiceIdentity>,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> Reply {
        let mut connection = self.connect(certificate).await;
        let authorization = token.map(|token| format!("Bearer {token}"));
        let body = Bytes::from_static(body.as_bytes());
        connection.send(method, path, authorization.as_deref(), body).await.unwrap()
    }

    pub(crate) async fn connect(&self, certificate: Option<&ServiceIdentity>) -> Connection {
        Connection::open(self.address(), SERVICE2, cast().pki.root(), certificate).await.unwrap()
    }

    /// Tells the service of a revoked certificate.
    pub(crate) fn revoke(&self, who: &ServiceIdentity) {
        let now = clock::now();
        let (_, leaf) = x509_parser::parse_x509_certificate(&who.chain[0]).unwrap();
        let der = cast().pki.revoke(&[leaf.raw_serial()], now).unwrap();
        let crl = Crl::parse(&der, cast().pki.root(), now).unwrap();
        let roots = vec![cast().pki.root().clone()];
        let bundle = Bundle::new(trust_domain(), roots, vec![crl]).unwrap();
        self.authorities.write().unwrap().insert(bundle);
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);
