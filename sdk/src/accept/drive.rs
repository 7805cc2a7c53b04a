//! HTTP on a connection that was admitted, by hyper.

use std::{
    convert::Infallible,
    error::Error as StdError,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{
    Connection, Limits, Progress,
    admit::Admitted,
    head_guard::HeadGuard,
    life::{Activity, Life, Running},
    request_body::{Aside, Linger, RequestBody},
    rewound::Rewound,
    worded::Worded,
};

/// What all connections of a listener share.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What one of them may cost.
    pub limits: Limits,
    /// Finish politely.
    pub draining: CancellationToken,
    /// End now.
    pub cut: CancellationToken,
}

/// Speaks HTTP on an admitted connection until it ends: HTTP/2, or HTTP/1.1 if that is what `admitted` says or its
/// first bytes are. `read` is what somebody read of the stream before.
pub async fn drive<IO, S, B>(admitted: Admitted<IO>, read: Bytes, service: S, serving: &Serving)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let Admitted { stream, connection, http2, belief } = admitted;
    let limits = &serving.limits;
    let activity = Arc::new(Activity::new());
    let builder = builder(limits, http2);
    let service = Attended { service, connection, activity: Arc::clone(&activity) };
    let guarded =
        HeadGuard::new(Rewound::new(stream, read), limits.header_read, Arc::clone(&activity), http2);
    let io = TokioIo::new(Worded::new(guarded, Arc::clone(&activity), http2));
    let mut http = pin!(builder.serve_connection(io, TowerToHyperService::new(service)));
    let [mut trust, mut floors] = belief.changes();
    let mut life = Life::new(limits, &activity, &belief);
    // Trust may have changed after the handshake was judged and before anybody listened for changes.
    life.judge();
    loop {
        tokio::select! {
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended with an error");
                }
                return;
            }
            () = serving.cut.cancelled() => return,
            () = serving.draining.cancelled(), if life.end.is_none() => life.end_within(limits.drain),
            () = changed(&mut trust) => life.judge(),
            () = changed(&mut floors) => life.judge(),
            () = tokio::time::sleep_until(life.wake()) => {
                if life.is_over() {
                    return;
                }
                life.judge();
            }
        }
        if life.end.is_some() && !life.told {
            life.told = true;
            http.as_mut().graceful_shutdown();
        }
    }
}

fn builder(limits: &Limits, h2: Option<bool>) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The time of a head is the HeadGuard's.
        .header_read_timeout(None)
        .max_headers(limits.headers_max)
        .max_buf_size(
            usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX).max(HTTP1_BUFFER_BYTES_MIN),
        );
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .keep_alive_interval(Some(limits.idle.min(PING_INTERVAL_MAX)))
        .keep_alive_timeout(limits.header_read);
    match h2 {
        Some(true) => builder.http2_only(),
        Some(false) => builder.http1_only(),
        None => builder,
    }
}

async fn changed(trust: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    if let Some(receiver) = trust
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
/// Puts the [`Connection`] into every request, and counts the request until its answer is sent.
#[derive(Clone)]
struct Attended<S> {
    service: S,
    connection: Connection,
    activity: Arc<Activity>,
}

impl<S, B> Service<Request<Incoming>> for Attended<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<AttendedBody<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let aside = Aside::default();
        let progress = (!request.body().is_end_stream()).then(Progress::begin);
        let mut request = request.map(|body| RequestBody::new(body, aside.clone()));
        request.extensions_mut().insert(self.connection.clone());
        if let Some(progress) = progress {
            request.extensions_mut().insert(progress.clone());
            request = request.map(|body| body.telling(progress));
        }
        let running = self.activity.begin();
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| AttendedBody { body: Box::pin(body), running, rest: Linger(aside) }))
        })
    }
}

/// A response body during which its connection is not idle.
struct AttendedBody<B> {
    body: Pin<Box<B>>,
    #[expect(dead_code, reason = "held for its drop")]
    running: Running,
    #[expect(dead_code, reason = "held for its drop, after the last frame")]
    rest: Linger,
}

impl<B: Body> Body for AttendedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What hyper demands.
const HTTP1_BUFFER_BYTES_MIN: usize = 8 * 1024;
const PING_INTERVAL_MAX: Duration = Duration::from_secs(30);
