//! Section 4.1.1 beside TLS 1.3: of the thesis's twelve messages, three can be seen on the wire, and the client's
//! certificate is not among them.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use countersign_lab::thesis::{Connection, DanglingElse};
use http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::rig::{SERVICE2, Service2, cast, token};

#[tokio::test]
async fn in_tls_1_3_only_the_two_hellos_are_readable_and_certificates_are_not() {
    let service2 = Service2::start(DanglingElse::Meant).await;
    let (address, wire) = tap(service2.address()).await;
    let certificate = &cast().service1;
    let mut connection =
        Connection::open(address, SERVICE2, cast().pki.root(), Some(certificate)).await.unwrap();
    let authorization = format!("Bearer {}", token(certificate, SERVICE2, service2.clock.clock()));
    let reply = connection.send(Method::GET, "/", Some(&authorization), Bytes::new()).await.unwrap();
    assert_eq!(reply.status, 200, "the certificate arrived");

    let [from_client, from_server] = [0, 1].map(|side| wire.lock().unwrap()[side].clone());
    // No Certificate (11), ServerKeyExchange (12), CertificateRequest (13), ServerHelloDone (14),
    // CertificateVerify (15), ClientKeyExchange (16) or Finished (20) that anybody could read.
    assert_eq!(readable_messages(&from_client), [CLIENT_HELLO]);
    assert_eq!(readable_messages(&from_server), [SERVER_HELLO]);
    for (bytes, der) in [(&from_client, &certificate.chain[0]), (&from_server, &cast().service2.chain[0])] {
        let name = &der[der.len() / 2..][..32];
        assert!(!bytes.windows(name.len()).any(|window| window == name), "a certificate is readable");
    }
}

/// Types of the handshake messages in records that are not encrypted (RFC 8446 sections 4 and 5.1).
fn readable_messages(mut records: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [content_type, _, _, high, low, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *content_type == HANDSHAKE {
            types.push(rest[0]);
        }
        records = &rest[length..];
    }
    types
}

/// Relays one connection and keeps what was said: by the client, by the server.
async fn tap(to: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Mutex<[Vec<u8>; 2]>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let wire = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let kept = Arc::clone(&wire);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(to).await.unwrap();
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        tokio::join!(
            relay(client_in, server_out, 0, Arc::clone(&kept)),
            relay(server_in, client_out, 1, Arc::clone(&kept))
        );
    });
    (address, wire)
}

async fn relay(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    side: usize,
    kept: Arc<Mutex<[Vec<u8>; 2]>>,
) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        kept.lock().unwrap()[side].extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
