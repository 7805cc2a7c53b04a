//! Asks a process's admin listener whether it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Status and text of `GET http://address/path`, or `None` where nobody answers in time.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    tokio::time::timeout(ANSWER_TIMEOUT, exchange(address, path)).await.ok().flatten()
}

async fn exchange(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driver = tokio::spawn(connection);
    let request =
        Request::get(path).header(header::HOST, address.to_string()).body(Empty::<Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes();
    driver.abort();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}
