//! Validations of our hosts (tls-alpn-01, RFC 8737): answered while an answer is due, and carrying nothing.

use std::sync::Arc;

use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::{BundleSet, CrlPolicy, acme::challenge_certificate};
use countersign_sdk::{
    clock,
    tls::{
        Acceptor, Challenge, ClientAuth, HandshakeError, HandshakeRefusal, TrustState, UnknownName,
        new_connection_id,
    },
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::{deployment::Deployment, handshake::bare_config};

const HOST: &str = "users.test";

fn challenge(host: &str) -> Challenge {
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let certificate = challenge_certificate(&key, host, [7; 32], clock::now(), [1; 16]).unwrap();
    Challenge::new(host, certificate, &key).unwrap()
}

/// How a handshake goes of a client that asks for [`HOST`] and offers these protocols.
async fn shaken(acceptor: &Acceptor, protocols: &[&[u8]]) -> Result<(), HandshakeError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = bare_config(None);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let client = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let _ = TlsConnector::from(Arc::new(config)).connect(HOST.try_into().unwrap(), tcp).await;
    };
    let server = async {
        let (stream, from) = listener.accept().await.unwrap();
        acceptor.accept(stream, new_connection_id(), Some(from)).await.map(|_| ())
    };
    tokio::join!(server, client).0
}

fn is_protocol(result: &Result<(), HandshakeError>) -> bool {
    matches!(result, Err(HandshakeError::Refused(HandshakeRefusal::Protocol { .. })))
}

#[tokio::test]
async fn a_validation_is_answered_while_it_is_due_and_never_becomes_a_connection() {
    let trust = TrustState::new(BundleSet::new(), CrlPolicy::Require);
    let acceptor = Acceptor::new(Arc::clone(&trust), ClientAuth::Never).by_name(UnknownName::First);
    let (validation, client): (&[&[u8]], &[&[u8]]) = (&[b"acme-tls/1"], &[b"http/1.1"]);
    assert!(is_protocol(&shaken(&acceptor, client).await), "there is no certificate at all");
    assert!(is_protocol(&shaken(&acceptor, validation).await));
    trust.set_challenges([challenge("other.test")]);
    assert!(is_protocol(&shaken(&acceptor, validation).await), "another host's");
    trust.set_challenges([challenge(HOST)]);
    assert_eq!(shaken(&acceptor, validation).await, Err(HandshakeError::Validation));
    assert!(is_protocol(&shaken(&acceptor, &[b"acme-tls/1", b"h2"]).await));
    assert!(is_protocol(&shaken(&acceptor, client).await), "its certificate is for nobody else");
    trust.set_challenges([]);
    assert!(is_protocol(&shaken(&acceptor, validation).await));
}

#[tokio::test]
async fn a_client_of_an_awaited_host_is_not_shown_the_first_certificate() {
    let trust = TrustState::new(BundleSet::new(), CrlPolicy::Require);
    trust.set_identity(Deployment::new().leaf("ads").identity());
    let acceptor = Acceptor::new(trust, ClientAuth::Never).by_name(UnknownName::First);
    assert_eq!(shaken(&acceptor, &[b"h2"]).await, Ok(()));
    let awaiting = acceptor.awaiting([HOST.to_owned()]);
    assert!(is_protocol(&shaken(&awaiting, &[b"h2"]).await));
}
