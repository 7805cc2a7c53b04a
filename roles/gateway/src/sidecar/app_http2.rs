//! HTTP/2 with the service behind, with prior knowledge: what gRPC servers speak. One connection for each caller.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use countersign_sdk::accept::RequestBody;
use http::{Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex as Turn;
use tokio::time::Instant;

use super::app::{App, SendError};
use crate::body::BoundedBody;

/// Connections to the service, by who is calling.
pub(super) struct Http2Lines {
    lines: Mutex<HashMap<String, Line>>,
    made: AtomicU64,
    head_bytes_max: u32,
    /// Held while one is made for a caller, so that a crowd of its first requests makes one, and nobody else waits.
    connecting: Mutex<HashMap<String, Weak<Turn<()>>>>,
}

struct Line {
    number: u64,
    send: SendRequest<BoundedBody<RequestBody>>,
    used: Instant,
}

impl App {
    /// Sends a request of the caller that `pool` stands for.
    pub(super) async fn send_http2(
        &self,
        lines: &Arc<Http2Lines>,
        mut request: Request<BoundedBody<RequestBody>>,
        pool: &str,
    ) -> Result<Response<Incoming>, SendError> {
        let host = request.headers_mut().remove(header::HOST);
        let host = host.as_ref().map(|host| host.as_bytes()).unwrap_or_default();
        let uri = Uri::builder().scheme("http").authority(host);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = uri.path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|error| SendError::Request(error.to_string()))?;
        *request.version_mut() = Version::HTTP_2;
        // It frames the body in HTTP/1.1, and is an error here.
        request.headers_mut().remove(header::TRANSFER_ENCODING);
        let mut send = self.http2_line(lines, pool).await?;
        match send.try_send_request(request).await {
            Ok(answer) => Ok(answer),
            // It was closed while it waited, and nothing was sent: once more, over a new one.
            Err(mut failed) => {
                lines.forget(pool, None);
                let Some(unsent) = failed.take_message() else { return Err(failed.into_error().into()) };
                Ok(self.http2_line(lines, pool).await?.send_request(unsent).await?)
            }
        }
    }

    async fn http2_line(
        &self,
        lines: &Arc<Http2Lines>,
        pool: &str,
    ) -> Result<SendRequest<BoundedBody<RequestBody>>, SendError> {
        if let Some(open) = lines.find(pool) {
            return Ok(open);
        }
        let turn = lines.turn(pool);
        let _turn = turn.lock().await;
        if let Some(open) = lines.find(pool) {
            return Ok(open);
        }
        let wire = self.dial().await.map_err(|error| SendError::Request(error.to_string()))?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_header_list_size(lines.head_bytes_max);
        let (send, connection) = builder.handshake(TokioIo::new(wire)).await?;
        let number = lines.keep(pool, send.clone());
        let (kept, pool) = (Arc::downgrade(lines), pool.to_owned());
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                // Nobody takes it for a request any more; those that run on it go to their ends.
                () = unused(&kept, &pool, number) => connection.await,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the service behind ended with an error");
            }
            if let Some(lines) = kept.upgrade() {
                lines.forget(&pool, Some(number));
            }
        });
        Ok(send)
    }
}

impl Http2Lines {
    /// `head_bytes_max`: of an answer.
    pub(super) fn new(head_bytes_max: usize) -> Self {
        let head_bytes_max = u32::try_from(head_bytes_max).unwrap_or(u32::MAX);
        Self {
            lines: Mutex::default(),
            made: AtomicU64::new(0),
            connecting: Mutex::default(),
            head_bytes_max,
        }
    }

    /// The turn of this caller. There are as many as requests that connect now.
    fn turn(&self, pool: &str) -> Arc<Turn<()>> {
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = connecting.get(pool).and_then(Weak::upgrade) {
            return turn;
        }
        connecting.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        connecting.insert(pool.to_owned(), Arc::downgrade(&turn));
        turn
    }

    fn find(&self, pool: &str) -> Option<SendRequest<BoundedBody<RequestBody>>> {
        let mut lines = self.lock();
        let line = lines.get_mut(pool).filter(|line| !line.send.is_closed())?;
        line.used = Instant::now();
        Some(line.send.clone())
    }

    /// With too many callers, the one that was silent for longest has to connect again.
    fn keep(&self, pool: &str, send: SendRequest<BoundedBody<RequestBody>>) -> u64 {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut lines = self.lock();
        if lines.len() >= CALLERS_MAX {
            let oldest = lines.iter().min_by_key(|(_, line)| line.used).map(|(pool, _)| pool.clone());
            oldest.and_then(|oldest| lines.remove(&oldest));
        }
        lines.insert(pool.to_owned(), Line { number, send, used: Instant::now() });
        number
    }

    /// The line of this caller, if it is this one, or whichever it is.
    fn forget(&self, pool: &str, number: Option<u64>) {
        let mut lines = self.lock();
        if number.is_none_or(|number| lines.get(pool).is_some_and(|line| line.number == number)) {
            lines.remove(pool);
        }
    }

    /// Takes the line away if no request came for it lately. Says whether it is gone.
    fn retire(&self, pool: &str, number: u64) -> bool {
        let mut lines = self.lock();
        let Some(line) = lines.get(pool).filter(|line| line.number == number) else { return true };
        let is_idle = line.used.elapsed() >= App::IDLE_TIMEOUT;
        if is_idle {
            lines.remove(pool);
        }
        is_idle
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns once nobody uses the line any more.
async fn unused(lines: &Weak<Http2Lines>, pool: &str, number: u64) {
    loop {
        tokio::time::sleep(App::IDLE_TIMEOUT).await;
        if lines.upgrade().is_none_or(|lines| lines.retire(pool, number)) {
            return;
        }
    }
}

/// Connections that are kept for further requests.
const CALLERS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_connect_without_waiting_for_each_other_and_each_in_turn() {
        let lines = Http2Lines::new(8192);
        let (one, same, other) = (lines.turn("one"), lines.turn("one"), lines.turn("other"));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        let held = one.try_lock();
        assert!(held.is_ok() && same.try_lock().is_err() && other.try_lock().is_ok());
        drop(held);
        drop((one, same, other));
        let _next = lines.turn("next");
        assert_eq!(lines.connecting.lock().map(|turns| turns.len()).unwrap_or_default(), 1, "none is kept");
    }
}
