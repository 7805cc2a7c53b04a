//! Evidence of each kind that does not hold, and handshakes of each kind that fail.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use countersign_identity::{Freshness, Mode, UserProof};
use countersign_pki::{Bundle, BundleSet, Crl, CrlPolicy, PeerError, revocation::make_crl};
use countersign_request::CanonicalRequest;
use countersign_sdk::{
    accept::{Connection, Origin},
    authenticate::{Authenticator, Evidence, EvidenceError, Judged, Rules, authenticate},
    clock,
    live::{Live, TokenKeys},
    secrets::SecretsCell,
    tls::{
        Acceptor, ClientAuth, Connector, Expected, HandshakeError, HandshakeObserver, HandshakeOutcome,
        HandshakeRefusal, HandshakeReport, Peer, TrustState, new_connection_id,
    },
};
use countersign_token::{AccessToken, AccessTokenError, TxnTokenError};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header::HOST};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use crate::deployment::{Deployment, key};

#[derive(Default)]
struct Watcher(Mutex<Vec<HandshakeReport>>);

impl HandshakeObserver for Watcher {
    fn handshake(&self, report: &HandshakeReport) {
        self.0.lock().unwrap().push(report.clone());
    }
}

/// One handshake with a listener of `users`, whose client does `act`; its result and its report.
async fn handshake<F: Future<Output = ()>>(
    deployment: &Deployment,
    auth: ClientAuth,
    act: impl FnOnce(SocketAddr) -> F,
) -> (Result<Option<Arc<Peer>>, HandshakeError>, Option<HandshakeReport>) {
    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    trust.set_identity(deployment.leaf("users").identity());
    let watcher = Arc::new(Watcher::default());
    let acceptor = Acceptor::new(trust, auth).observed_by(Arc::clone(&watcher) as Arc<dyn HandshakeObserver>);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, from) = listener.accept().await.unwrap();
        acceptor.accept(stream, new_connection_id(), Some(from)).await.map(|(_, peer)| peer)
    };
    let (result, ()) = tokio::join!(server, act(address));
    let report = watcher.0.lock().unwrap().pop();
    (result, report)
}

async fn connect(deployment: &Deployment, service: Option<&str>, address: SocketAddr) {
    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    if let Some(service) = service {
        trust.set_identity(deployment.leaf(service).identity());
    }
    let connector = Connector::new(trust, Expected::exactly(deployment.id("users")));
    let tcp = TcpStream::connect(address).await.unwrap();
    let _ = connector.connect(tcp).await;
}

#[tokio::test]
async fn every_handshake_is_reported_with_its_connection_and_its_checks() {
    let deployment = Deployment::new();
    let (result, report) =
        handshake(&deployment, ClientAuth::Required, |at| connect(&deployment, Some("ads"), at)).await;
    assert!(result.unwrap().is_some());
    let report = report.unwrap();
    assert_eq!(report.outcome, HandshakeOutcome::Admitted);
    assert_eq!((report.claimed, report.checks.len()), (Some(deployment.id("ads")), 5));
    assert!(report.address.is_some());

    let (result, report) =
        handshake(&deployment, ClientAuth::Optional, |at| connect(&deployment, None, at)).await;
    assert!(result.unwrap().is_none());
    assert_eq!(report.unwrap().outcome, HandshakeOutcome::Anonymous);
}

#[tokio::test]
async fn each_way_to_fail_a_handshake_has_its_own_name() {
    let deployment = Deployment::new();
    let refused = |report: Option<HandshakeReport>| match report.unwrap().outcome {
        HandshakeOutcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let (result, report) =
        handshake(&deployment, ClientAuth::Required, |at| connect(&deployment, None, at)).await;
    assert_eq!(result.unwrap_err(), HandshakeError::Refused(HandshakeRefusal::NoCertificate));
    assert_eq!(refused(report), HandshakeRefusal::NoCertificate);

    let nonsense = |at| async move {
        TcpStream::connect(at).await.unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap()
    };
    let (_, report) = handshake(&deployment, ClientAuth::Required, nonsense).await;
    assert!(matches!(refused(report), HandshakeRefusal::Protocol { .. }));

    let stolen = deployment.leaf("ads");
    let thief = |at| crate::handshake::tls_with_other_key(at, stolen.chain.clone());
    let (_, report) = handshake(&deployment, ClientAuth::Required, thief).await;
    assert_eq!(refused(report), HandshakeRefusal::NoPossession);

    let watcher = Arc::new(Watcher::default());
    let trust = TrustState::new(BundleSet::new(), CrlPolicy::Require);
    let acceptor = Acceptor::new(trust, ClientAuth::Required)
        .observed_by(Arc::clone(&watcher) as Arc<dyn HandshakeObserver>);
    acceptor.timed_out(new_connection_id(), None, Duration::from_secs(10));
    assert_eq!(refused(watcher.0.lock().unwrap().pop()), HandshakeRefusal::TimedOut);
    let (ours, _theirs) = tokio::io::duplex(1024);
    let refused = acceptor.accept(ours, new_connection_id(), None).await.unwrap_err();
    assert_eq!(refused, HandshakeError::NoIdentity);
}

/// The keys of a deployment, with one more for access tokens.
fn keys(deployment: &Deployment, access: &countersign_keys::KeyPair) -> TokenKeys {
    let mut keys = Live::compile(deployment.snapshot(), None).unwrap().tokens().clone();
    keys.access.insert(access.public_key().thumbprint().to_string(), access.public_key().clone());
    keys
}

/// A connection whose peer is proven, and the trust by which it was.
async fn proven(deployment: &Deployment) -> (Connection, Arc<TrustState>) {
    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    trust.set_identity(deployment.leaf("ads").identity());
    let connector = Connector::new(Arc::clone(&trust), Expected::exactly(deployment.id("users")));
    let peer = Mutex::new(None);
    let seen = &peer;
    let act = |at: SocketAddr| async move {
        let tcp = TcpStream::connect(at).await.unwrap();
        *seen.lock().unwrap() = Some(connector.connect(tcp).await.unwrap().1);
    };
    handshake(deployment, ClientAuth::Required, act).await.0.unwrap();
    let origin = Origin::Tcp(([127, 0, 0, 1], 1).into());
    let peer = peer.into_inner().unwrap();
    let connection = Connection {
        id: new_connection_id(),
        origin,
        peer,
        server_name: None,
        asks_for_certificate: true,
        exporter: None,
    };
    (connection, trust)
}

/// The door of `users`, in front of which somebody stands with these headers.
fn at_the_door(
    deployment: &Deployment,
    connection: Option<&Connection>,
    keys: &TokenKeys,
    headers: &[(&'static str, &str)],
) -> Judged {
    let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
    let door = Authenticator::new(deployment.id("users"), trust, SecretsCell::new());
    let mut map = HeaderMap::new();
    map.insert(HOST, HeaderValue::from_static("users"));
    for (name, value) in headers {
        map.insert(*name, value.parse().unwrap());
    }
    let uri = Uri::from_static("/users/7");
    let request = CanonicalRequest::parse(&Method::GET, &uri, &map, Version::HTTP_2).unwrap();
    let rules = Rules { keys, accepts: &[Mode::Mtls], required: &[], now: clock::now() };
    door.judge(&request, connection, &rules)
}

#[tokio::test]
async fn each_kind_of_evidence_that_does_not_hold_has_its_own_error() {
    let deployment = Deployment::new();
    let access = key();
    let keys = keys(&deployment, &access);
    let (connection, trust) = proven(&deployment).await;
    let judge = |connection, headers: &[(&'static str, &str)]| {
        let claimed = at_the_door(&deployment, connection, &keys, headers).claimed;
        claimed.and_then(|claimed| claimed.confirm(b"any body at all"))
    };
    let known = Some(&connection);
    assert_eq!(judge(known, &[]).unwrap().workload().unwrap().id, deployment.id("users"));

    let error = judge(known, &[("txn-token", "nonsense")]).unwrap_err();
    assert!(matches!(error, EvidenceError::TxnToken(TxnTokenError::Jws(_))), "{error}");
    let nonsense = Evidence { access_token: Some("nonsense"), ..Evidence::default() };
    let error = authenticate(&nonsense, &keys, clock::now()).caller.unwrap_err();
    assert!(matches!(error, EvidenceError::AccessToken(AccessTokenError::Jws(_))), "{error}");
    let token = deployment.txn_token("alice", &deployment.gateway_key, Duration::from_mins(1));
    let error = judge(None, &[("txn-token", &token)]).unwrap_err();
    assert_eq!(error, EvidenceError::TokenFromStranger);

    trust.set_bundles(BundleSet::new());
    let error = judge(known, &[]).unwrap_err();
    assert!(matches!(&error, EvidenceError::Peer(PeerError::Chain(_))), "{error}");
    // What was lost does not come back on this connection.
    trust.set_bundles(deployment.bundles());
    assert!(judge(known, &[]).is_err());
}

#[tokio::test]
async fn a_revocation_list_that_expires_is_missed_on_open_connections_too() {
    let deployment = Deployment::new();
    let (connection, trust) = proven(&deployment).await;
    let peer = connection.peer.unwrap();
    let now = clock::now();
    let end = now.saturating_add(Duration::from_mins(10));
    let crl = Crl::read(&make_crl(&deployment.issuing, 9, &[], now, end).unwrap()).unwrap();
    let roots = vec![deployment.root.certificate().clone()];
    trust.set_bundles(BundleSet::from_iter([Bundle::new(deployment.td.clone(), roots, vec![crl]).unwrap()]));
    assert!(peer.workload(now).is_ok());
    assert!(peer.good_until().unwrap() <= end);
    let error = peer.workload(end.saturating_add(Duration::from_secs(1))).unwrap_err();
    assert!(matches!(error, PeerError::Revocation(_)), "{error}");
}

#[tokio::test]
async fn the_edge_user_is_proven_by_an_access_token_alone_and_no_kind_passes_as_another() {
    let deployment = Deployment::new();
    let access = key();
    let keys = keys(&deployment, &access);
    let now = clock::now();
    let token = AccessToken {
        issuer: "i".into(),
        audience: "a".into(),
        user_id: "u_alice".into(),
        name: "alice".into(),
        roles: vec!["buyer".into()],
        client_id: "countersign-cli".into(),
        jti: "1".into(),
        expires: now.saturating_add(Duration::from_mins(10)),
        confirmation: None,
    };
    let token = token.mint(&access, now).unwrap();
    let evidence = Evidence { access_token: Some(&token), ..Evidence::default() };
    let caller = authenticate(&evidence, &keys, now).caller.unwrap();
    assert!(caller.workload().is_none());
    assert_eq!(caller.user().unwrap().name, "alice");
    assert_eq!(
        (caller.proof().user, caller.proof().freshness),
        (UserProof::AccessToken, Freshness::Reusable)
    );

    let (connection, _trust) = proven(&deployment).await;
    let judged = at_the_door(&deployment, Some(&connection), &keys, &[("txn-token", &token)]);
    let error = judged.claimed.unwrap_err();
    assert!(matches!(error, EvidenceError::TxnToken(TxnTokenError::WrongKind { .. })), "{error}");
    let internal = deployment.txn_token("alice", &deployment.gateway_key, Duration::from_mins(1));
    let as_access = Evidence { access_token: Some(&internal), ..Evidence::default() };
    let error = authenticate(&as_access, &keys, now).caller.unwrap_err();
    assert!(matches!(error, EvidenceError::AccessToken(AccessTokenError::WrongKind { .. })), "{error}");
}
