//! Who is refused before a request can be sent.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use countersign_ledger::{CheckResult, Decision, Stage, Verdict};
use countersign_pki::{BundleSet, CrlPolicy};
use countersign_sdk::{
    clock,
    outbound::{CallError, Channel},
    tls::{
        Acceptor, ClientAuth, Connector, Expected, HandshakeError, HandshakeRefusal, Identity, IdentityError,
        TrustState, provider,
    },
};
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion,
    client::{ClientSessionMemoryCache, Resumption},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::deployment::{
    Deployment, HOUR, Leaf, LeafProfile, Served, counting, get_request, key, results, text,
};

async fn users(deployment: &Arc<Deployment>) -> (Served, Arc<std::sync::atomic::AtomicUsize>) {
    deployment.permit("users", &["ads"]);
    let (router, reached) = counting();
    (deployment.serve("users", router).await, reached)
}

#[tokio::test]
async fn accepts_a_service_that_the_policy_names_and_reports_five_passed_checks() {
    let deployment = Deployment::new();
    let (users, reached) = users(&deployment).await;
    let ads = deployment.workload("ads").await;

    let answer = ads.client("users").get("/users/7").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(text(answer).await, "hello");
    assert_eq!(reached.load(Ordering::SeqCst), 1);

    let decision = deployment.reported(|decision| decision.verdict == Verdict::Allow).await.unwrap();
    assert_eq!(decision.source.as_deref(), Some("spiffe://fleamarket.test/svc/ads"));
    assert_eq!((decision.target.as_str(), decision.method.as_str()), ("users", "GET"));
    assert_eq!((decision.route.as_str(), decision.status), ("/users/{id}", 200));
    assert_eq!((decision.mode.as_str(), decision.policy.as_deref()), ("mtls", Some("ads-may")));
    let names: Vec<_> = results(&decision).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["usage", "validity", "chain", "revocation", "identity", "policy"]);
    assert!(results(&decision).iter().all(|(_, result)| *result == CheckResult::Pass));
    drop(users);
}

/// Calls `users` with `leaf` and returns the recorded refusal; the handler is never reached.
async fn refused(deployment: &Arc<Deployment>, leaf: Option<&Leaf>) -> Decision {
    let (users, reached) = users(deployment).await;
    let client = deployment.bare_client(leaf, "users", users.address);
    let refused = client.send(get_request("/users/7")).await.unwrap_err();
    assert!(matches!(refused, CallError::Broken { .. }), "{refused}");
    let decision = deployment.reported(|decision| decision.verdict == Verdict::Deny).await.unwrap();
    assert_eq!(reached.load(Ordering::SeqCst), 0, "the handler was reached");
    assert_eq!((decision.stage == Stage::Policy, decision.status), (false, 0));
    assert!(decision.connection.as_deref().unwrap().starts_with("c_"));
    assert_eq!(decision.mode, "none");
    decision
}

fn failed(decision: &Decision) -> Vec<&str> {
    let failed = decision.checks.iter().filter(|check| check.result == CheckResult::Fail);
    failed.map(|check| check.name.as_str()).collect()
}

#[tokio::test]
async fn rejects_a_client_without_a_certificate_in_the_handshake() {
    let decision = refused(&Deployment::new(), None).await;
    assert_eq!(failed(&decision), ["usage"]);
    assert_eq!(decision.code.as_deref(), Some("CS2001"));
    assert_eq!(decision.checks.len(), 5);
    assert!(decision.checks[1..].iter().all(|check| check.result == CheckResult::NotReached));
}

#[tokio::test]
async fn rejects_an_expired_certificate_in_the_handshake() {
    let deployment = Deployment::new();
    let then = clock::now().saturating_sub(HOUR * 2);
    let leaf = deployment.leaf_of(&deployment.id("ads"), LeafProfile::Workload, HOUR, then);
    let decision = refused(&deployment, Some(&leaf)).await;
    assert_eq!(failed(&decision), ["validity"]);
    assert_eq!(decision.code.as_deref(), Some("CS2003"));
    // The chain was not reached, so the name is a stranger's word.
    assert_eq!(decision.source, None);
    assert!(decision.reason.unwrap().contains("claims spiffe://fleamarket.test/svc/ads"));
}

#[tokio::test]
async fn rejects_a_certificate_for_servers_only_in_the_handshake() {
    let deployment = Deployment::new();
    let leaf = deployment.leaf_of(&deployment.id("ads"), LeafProfile::ServerOnly, HOUR, clock::now());
    let decision = refused(&deployment, Some(&leaf)).await;
    assert_eq!(failed(&decision), ["usage"]);
    assert_eq!(decision.code.as_deref(), Some("CS2002"));
}

#[tokio::test]
async fn rejects_another_authority_of_the_same_trust_domain_name_in_the_handshake() {
    let (deployment, impostor) = (Deployment::new(), Deployment::new());
    let decision = refused(&deployment, Some(&impostor.leaf("ads"))).await;
    assert_eq!(failed(&decision), ["chain"]);
    assert_eq!(decision.code.as_deref(), Some("CS2005"));
    assert_eq!(decision.checks[0].result, CheckResult::Pass);
    assert_eq!(decision.checks[3].result, CheckResult::NotReached);
}

#[tokio::test]
async fn rejects_a_peer_whose_trust_domain_has_no_bundle_even_under_a_trusted_root_elsewhere() {
    let (deployment, other) = (Deployment::new(), Deployment::of("other.test"));
    let decision = refused(&deployment, Some(&other.leaf("ads"))).await;
    assert_eq!(failed(&decision), ["chain"]);
    assert_eq!(decision.code.as_deref(), Some("CS2013"));
}

#[tokio::test]
async fn rejects_a_revoked_certificate_in_the_handshake() {
    let deployment = Deployment::new();
    let leaf = deployment.leaf("ads");
    deployment.revoke(&leaf.serial_hex);
    let decision = refused(&deployment, Some(&leaf)).await;
    assert_eq!(failed(&decision), ["revocation"]);
    assert_eq!(decision.code.as_deref(), Some("CS2006"));
    assert_eq!(decision.checks[2].result, CheckResult::Pass);
}

#[tokio::test]
async fn refuses_a_valid_certificate_of_a_service_that_no_rule_names_with_403() {
    let deployment = Deployment::new();
    let (users, reached) = users(&deployment).await;
    let chat = deployment.workload("chat").await;
    let answer = chat.client("users").get("/users/7").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.headers().get("www-authenticate").is_none());
    let body = text(answer).await;
    assert!(!body.contains("chat") && !body.contains("ads-may") && !body.contains("policy"), "{body}");
    assert_eq!(reached.load(Ordering::SeqCst), 0);

    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    let id = problem["decision"].as_str().unwrap().to_owned();
    let decision = deployment.reported(|decision| decision.id.to_string() == id).await.unwrap();
    assert_eq!((decision.stage, decision.status), (Stage::Policy, 403));
    assert!(decision.checks[..5].iter().all(|check| check.result == CheckResult::Pass));
    assert_eq!(failed(&decision), ["policy"]);
    assert!(decision.fix.unwrap().len() > 10);
    drop(users);
}

#[tokio::test]
async fn rejects_a_stolen_certificate_without_its_key() {
    let deployment = Deployment::new();
    let (users, reached) = users(&deployment).await;
    let stolen = deployment.leaf("ads");
    assert_eq!(Identity::workload(stolen.chain.clone(), &key()).unwrap_err(), IdentityError::KeyMismatch);
    tls_with_other_key(users.address, stolen.chain).await;

    let decision = deployment.reported(|decision| decision.verdict == Verdict::Deny).await.unwrap();
    assert_eq!(decision.code.as_deref(), Some("CS2011"));
    assert!(decision.reason.unwrap().contains("private key"));
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_server_gives_no_tickets_and_a_second_handshake_is_a_full_one() {
    let deployment = Deployment::new();
    let (users, _) = users(&deployment).await;
    let leaf = deployment.leaf("ads");
    let config = Arc::new(bare_config(Some(certified(&leaf))));
    for _ in 0..2 {
        let mut stream = connect(users.address, Arc::clone(&config)).await;
        assert!(first_read(&mut stream).await.is_ok());
        let session: &ClientConnection = stream.get_ref().1;
        assert_eq!(session.tls13_tickets_received(), 0);
        assert_ne!(session.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = session.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
    }
}

#[tokio::test]
async fn session_keys_differ_per_session_and_there_is_no_static_key_exchange() {
    let deployment = Deployment::new();
    let (users, _) = users(&deployment).await;
    let config = Arc::new(bare_config(Some(certified(&deployment.leaf("ads")))));
    let mut exported = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(users.address, Arc::clone(&config)).await;
        assert!(first_read(&mut stream).await.is_ok());
        let session = stream.get_ref().1;
        exported.push(session.export_keying_material([0_u8; 32], b"EXPORTER-test", None).unwrap());
    }
    assert_ne!(exported[0], exported[1]);
}

#[tokio::test]
async fn optional_client_authentication_gives_no_identity_and_never_a_default() {
    let deployment = Deployment::new();
    deployment.permit("users", &["ads"]);
    let workload = deployment.workload("users").await;
    let (router, reached) = counting();
    let router = router.layer(workload.require());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(workload.serve(listener, router).client_auth(ClientAuth::Optional).into_future());

    let stranger = deployment.bare_client(None, "users", address);
    let answer = stranger.send(get_request("/users/7")).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["www-authenticate"], "Countersign need=\"certificate\"");
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    let decision = deployment.reported(|decision| decision.verdict == Verdict::Deny).await.unwrap();
    assert_eq!((decision.source, decision.mode.as_str()), (None, "none"));

    let known = deployment.bare_client(Some(&deployment.leaf("ads")), "users", address);
    assert_eq!(known.send(get_request("/users/7")).await.unwrap().status(), 200);
    // Optional means that it may be absent, not that it may be wrong.
    let impostor = deployment.bare_client(Some(&Deployment::new().leaf("ads")), "users", address);
    assert!(impostor.send(get_request("/users/7")).await.is_err());
}

#[tokio::test]
async fn a_client_with_two_identities_shows_the_one_that_the_server_names() {
    let (home, other) = (Deployment::new(), Deployment::of("other.test"));
    let (users, reached) = users(&home).await;
    let trust = TrustState::new(home.bundles(), CrlPolicy::Require);
    // The preferred one is of the other trust domain, whose authority the server does not name.
    trust.set_identities(vec![other.leaf("ads").identity(), home.leaf("ads").identity()]);
    let channel = workload_channel(trust, &home, users.address);
    assert_eq!(channel.send(get_request("/users/7")).await.unwrap().status(), 200);
    assert_eq!(reached.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_listener_may_pin_one_certificate_by_its_thumbprint() {
    let deployment = Deployment::new();
    let (pinned, other) = (deployment.leaf("ads"), deployment.leaf("ads"));
    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    trust.set_identity(deployment.leaf("users").identity());
    let pin = Expected::Thumbprint(countersign_keys::sha256(&pinned.chain[0]));
    let acceptor = Acceptor::new(trust, ClientAuth::Required).expecting(pin);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (router, reached) = counting();
    let stop = tokio_util::sync::CancellationToken::new();
    let transport = countersign_sdk::accept::Transport::Tls(acceptor);
    let limits = countersign_sdk::accept::Limits::default();
    tokio::spawn(countersign_sdk::accept::serve(listener, transport, router, limits, stop.clone()));
    let known = deployment.bare_client(Some(&pinned), "users", address);
    assert_eq!(known.send(get_request("/users/7")).await.unwrap().status(), 200);
    // The same name, valid, and yet not the pinned one.
    let stranger = deployment.bare_client(Some(&other), "users", address);
    assert!(stranger.send(get_request("/users/7")).await.is_err());
    assert_eq!(reached.load(Ordering::SeqCst), 1);
    stop.cancel();
}

#[tokio::test]
async fn a_client_refuses_a_valid_service_that_is_not_the_expected_one() {
    let deployment = Deployment::new();
    let (users, _) = users(&deployment).await;
    let client = deployment.bare_client(Some(&deployment.leaf("ads")), "chat", users.address);
    let refused = client.send(get_request("/users/7")).await.unwrap_err();
    let CallError::Handshake { source: HandshakeError::Refused(HandshakeRefusal::Peer(peer)), .. } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(peer.check(), countersign_pki::CheckName::Identity);
}

#[tokio::test]
async fn a_client_that_trusts_nobody_connects_to_nobody() {
    let deployment = Deployment::new();
    let (users, _) = users(&deployment).await;
    let trust = TrustState::new(BundleSet::new(), CrlPolicy::Require);
    trust.set_identity(deployment.leaf("ads").identity());
    let channel = workload_channel(trust, &deployment, users.address);
    assert!(matches!(channel.send(get_request("/users/7")).await, Err(CallError::Handshake { .. })));

    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    let nobody = Connector::new(trust, Expected::OneOf(Vec::new()));
    let tcp = TcpStream::connect(users.address).await.unwrap();
    assert!(nobody.connect(tcp).await.is_err());
}

#[tokio::test]
async fn a_neighbour_on_the_same_machine_is_nobody_without_an_identity() {
    let deployment = Deployment::new();
    let (users, reached) = users(&deployment).await;
    let mut plain = TcpStream::connect(users.address).await.unwrap();
    let request = b"GET /users/7 HTTP/1.1\r\nHost: users\r\nX-Forwarded-Client-Cert: By=ads\r\n\r\n";
    plain.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A TLS alert, or the end of the connection; never an HTTP answer.
    let _ = tokio::time::timeout(Duration::from_secs(5), plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

fn workload_channel(trust: Arc<TrustState>, deployment: &Deployment, address: SocketAddr) -> Channel {
    let connector = Connector::new(trust, Expected::exactly(deployment.id("users")));
    let target = countersign_sdk::outbound::Target::Workload {
        address: address.to_string(),
        authority: "users".into(),
        connector,
    };
    Channel::new(target, countersign_sdk::outbound::CallLimits::default())
}

fn certified(leaf: &Leaf) -> CertifiedKey {
    let pkcs8 = leaf.key.to_pkcs8().unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().as_slice()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private).unwrap();
    CertifiedKey::new(leaf.chain.clone(), signer)
}

/// A client that checks nothing and would resume a session if it could.
pub(crate) fn bare_config(shown: Option<CertifiedKey>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(credulous::Credulous));
    let mut config = match shown {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
    config
}

pub(crate) type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// The handshake of somebody who has the certificates and not the key.
pub(crate) async fn tls_with_other_key(
    address: SocketAddr,
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
) {
    let pkcs8 = key().to_pkcs8().unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.expose().as_slice()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private).unwrap();
    let mut stream = bare_tls(address, Some(CertifiedKey::new(chain, signer))).await;
    assert!(first_read(&mut stream).await.is_err());
}

pub(crate) async fn tls_as(address: SocketAddr, leaf: &Leaf) -> ClientStream {
    bare_tls(address, Some(certified(leaf))).await
}

async fn bare_tls(address: SocketAddr, shown: Option<CertifiedKey>) -> ClientStream {
    connect(address, Arc::new(bare_config(shown))).await
}

pub(crate) async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> ClientStream {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("users.test").unwrap();
    TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

/// In TLS 1.3 only the first read tells whether the server accepted us.
async fn first_read(stream: &mut ClientStream) -> std::io::Result<()> {
    stream.write_all(b"GET /users/7 HTTP/1.1\r\nHost: users\r\n\r\n").await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map(|_| ())
}

mod credulous {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct Credulous;

    impl ServerCertVerifier for Credulous {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            super::provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
