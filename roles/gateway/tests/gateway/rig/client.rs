//! Clients that send exactly the bytes they are told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// One HTTP/1.1 answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Asserts that this is an error as RFC 9457 wants it, with a decision id; returns the code.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["decision"].as_str().unwrap().starts_with("d_"), "{self:?}");
        assert!(problem["type"].as_str().unwrap().starts_with("https://"));
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// Sends bytes on a connection of their own and reads one answer.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    read_answer(&mut stream).await
}

/// `GET path` with these further header lines.
pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    request(address, "GET", path, headers, "").await
}

pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    raw(address, head_and_body(method, path, "flea.test", headers, body)).await
}

pub fn head_and_body(method: &str, path: &str, host: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text
}

/// The answer to a request with a body of `bytes`, which come one by one with a pause before each. `head` lacks its end.
pub async fn drip<IO>(stream: IO, head: &str, bytes: usize, pause: Duration) -> Answer
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (reading, mut writing) = tokio::io::split(stream);
    let head = format!("{head}Content-Length: {bytes}\r\n\r\n");
    writing.write_all(head.as_bytes()).await.unwrap();
    let dripping = tokio::spawn(async move {
        for _ in 0..bytes {
            tokio::time::sleep(pause).await;
            if writing.write_all(b".").await.is_err() {
                return;
            }
        }
        // Open until the answer is there.
        std::future::pending::<()>().await;
    });
    let answer = read_answer(&mut tokio::io::join(reading, tokio::io::sink())).await;
    dripping.abort();
    answer
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A TLS connection to `name` at `address`, speaking HTTP/1.1 or HTTP/2.
pub async fn tls(
    address: SocketAddr,
    name: &str,
    root: &[u8],
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let root = CertificateDer::from(root.to_vec());
    let mut config = countersign_sdk::tls::edge_client_config(&[root]).unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// One answer: head, then a body by length, by chunks or up to the end.
pub async fn read_answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Answer {
    tokio::time::timeout(Duration::from_secs(20), read(stream)).await.expect("an answer within 20 seconds")
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Answer {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if read_some(stream, &mut bytes).await == 0 {
            return Answer {
                status: 0,
                head: String::new(),
                body: String::from_utf8_lossy(&bytes).into_owned(),
            };
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: String::new() };
    let mut body = bytes[head_end..].to_vec();
    if let Some(length) = answer.header("content-length").map(|text| text.parse::<usize>().unwrap()) {
        while body.len() < length && read_some(stream, &mut body).await > 0 {}
        body.truncate(length);
    } else if answer.header("transfer-encoding") == Some("chunked") {
        while !body.ends_with(b"0\r\n\r\n") && read_some(stream, &mut body).await > 0 {}
        body = unchunk(&body);
    } else if status != 204 {
        while read_some(stream, &mut body).await > 0 {}
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    answer
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> usize {
    let mut chunk = [0; 8192];
    let count = stream.read(&mut chunk).await.unwrap_or(0);
    into.extend_from_slice(&chunk[..count]);
    count
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    body
}
