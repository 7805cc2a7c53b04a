//! A plain HTTP/1.1 server whose every byte the test decides.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

/// What the backend does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// 200 with this text; the connection stays open.
    Text(String),
    /// These bytes; the connection stays open.
    Raw(String),
    /// The same, a while later.
    Later(Duration, String),
    /// These bytes, then one more every few milliseconds, without an end.
    Drip(String),
    /// These bytes, then the end of the connection.
    Last(String),
    /// Nothing, and the connection stays open.
    Silence,
    /// The end of the connection.
    Close,
}

/// A running backend; it ends with the value.
pub struct Backend {
    pub address: SocketAddr,
    /// Every request as it came, head and body.
    pub seen: Arc<Mutex<Vec<String>>>,
    /// Connections that were ever accepted.
    pub connections: Arc<AtomicUsize>,
    /// Connections that are open.
    pub open: Arc<AtomicUsize>,
    stop: CancellationToken,
}

type Handler = Arc<dyn Fn(usize, &str) -> Reply + Send + Sync>;

impl Backend {
    /// Answers each request with what `handler` says of its number (from 0) and text.
    pub async fn new(handler: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", handler).await
    }

    /// One that says its name.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::new(move |_, _| Reply::Text(name.clone())).await
    }

    pub async fn at(address: &str, handler: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let backend = Self::idle(listener.local_addr().unwrap());
        let (parts, stop, handler) = (backend.parts(), backend.stop.clone(), Arc::new(handler) as Handler);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                parts.clone().spawn(stream, &handler, &stop);
            }
        }));
        backend
    }

    pub async fn on_socket(path: &std::path::Path, name: &str) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let backend = Self::idle(([127, 0, 0, 1], 0).into());
        let name = name.to_owned();
        let handler: Handler = Arc::new(move |_, _| Reply::Text(name.clone()));
        let (parts, stop) = (backend.parts(), backend.stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                parts.clone().spawn(stream, &handler, &stop);
            }
        }));
        backend
    }

    fn idle(address: SocketAddr) -> Self {
        Backend {
            address,
            seen: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Requests so far.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn last(&self) -> String {
        self.seen.lock().unwrap().last().unwrap().clone()
    }

    /// Closes everything, as a process that is killed.
    pub fn kill(&self) {
        self.stop.cancel();
    }

    fn parts(&self) -> Parts {
        Parts {
            seen: Arc::clone(&self.seen),
            connections: Arc::clone(&self.connections),
            open: Arc::clone(&self.open),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone)]
struct Parts {
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Parts {
    fn spawn<IO>(self, stream: IO, handler: &Handler, stop: &CancellationToken)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        let (handler, stop) = (Arc::clone(handler), stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(self.converse(stream, &handler)).await;
            self.open.fetch_sub(1, Ordering::SeqCst);
        });
    }

    async fn converse<IO: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: IO, handler: &Handler) {
        while let Some(request) = read_request(&mut stream).await {
            let number = {
                let mut seen = self.seen.lock().unwrap();
                seen.push(request.clone());
                seen.len() - 1
            };
            let bytes = match handler(number, &request) {
                Reply::Text(text) => ok(&text),
                Reply::Raw(bytes) => bytes,
                Reply::Later(pause, text) => {
                    tokio::time::sleep(pause).await;
                    ok(&text)
                }
                Reply::Drip(head) => {
                    let mut sent = stream.write_all(head.as_bytes()).await;
                    while sent.is_ok() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        sent = stream.write_all(b".").await;
                    }
                    return;
                }
                Reply::Last(bytes) => {
                    let _ = stream.write_all(bytes.as_bytes()).await;
                    return;
                }
                Reply::Silence => {
                    let _ = read_request(&mut stream).await;
                    return;
                }
                Reply::Close => return,
            };
            if stream.write_all(bytes.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

pub fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

pub fn status(status: u16) -> String {
    format!("HTTP/1.1 {status} As Asked\r\ncontent-length: 0\r\n\r\n")
}

/// Head and body of one request; nothing when the connection ends.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end + 4]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let done = if head.contains("transfer-encoding: chunked") {
                bytes.ends_with(b"0\r\n\r\n")
            } else {
                bytes.len() >= end + 4 + length.unwrap_or(0)
            };
            if done {
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}
