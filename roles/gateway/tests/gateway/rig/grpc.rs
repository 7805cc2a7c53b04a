//! A real gRPC service and its client (tonic), without generated code.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// All that is said, in both directions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Word {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(uint32, tag = "2")]
    pub count: u32,
    #[prost(uint64, tag = "3")]
    pub pause_ms: u64,
}

pub fn word(text: &str, count: u32, pause_ms: u64) -> Word {
    Word { text: text.to_owned(), count, pause_ms }
}

type Words = Pin<Box<dyn Stream<Item = Result<Word, Status>> + Send>>;

/// The service `test.Echo`.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Word, Word>::default());
        let path = request.uri().path().to_owned();
        Box::pin(async move {
            Ok(match path.rsplit('/').next().unwrap() {
                "Once" => grpc.unary(tower::service_fn(once), request).await,
                "Count" => grpc.server_streaming(tower::service_fn(count), request).await,
                "Sum" => grpc.client_streaming(tower::service_fn(sum), request).await,
                _ => grpc.streaming(tower::service_fn(talk), request).await,
            })
        })
    }
}

/// Says it back, with what came as `x-asked` as `x-answered`.
async fn once(request: Request<Word>) -> Result<Response<Word>, Status> {
    let asked = request.metadata().get("x-asked").cloned();
    let caller = request.metadata().get("countersign-caller").cloned();
    tokio::time::sleep(Duration::from_millis(request.get_ref().pause_ms)).await;
    if request.get_ref().text == "fail" {
        return Err(Status::failed_precondition("at once"));
    }
    let mut answer = Response::new(request.into_inner());
    for (name, value) in [("x-answered", asked), ("x-caller", caller)] {
        value.and_then(|value| answer.metadata_mut().insert(name, value));
    }
    Ok(answer)
}

/// `count` words, a pause before each; then an error if the word is `fail`.
async fn count(request: Request<Word>) -> Result<Response<Words>, Status> {
    let Word { text, count, pause_ms } = request.into_inner();
    let words = futures::stream::unfold(0, move |said| {
        let text = text.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            if said < count {
                return Some((Ok(word(&text, said, 0)), said + 1));
            }
            let mut error = Status::not_found("after all of them, 100 % sure");
            error.metadata_mut().insert("x-why", MetadataValue::from_static("trailers"));
            (said == count && text == "fail").then_some((Err(error), said + 1))
        }
    });
    Ok(Response::new(Box::pin(words)))
}

/// How many words came.
async fn sum(request: Request<Streaming<Word>>) -> Result<Response<Word>, Status> {
    let (mut words, mut count) = (request.into_inner(), 0);
    while let Some(word) = words.message().await? {
        assert!(!word.text.is_empty());
        count += 1;
    }
    Ok(Response::new(word("sum", count, 0)))
}

/// Says each word back as it comes.
async fn talk(request: Request<Streaming<Word>>) -> Result<Response<Words>, Status> {
    Ok(Response::new(Box::pin(request.into_inner())))
}

/// Serves it, in HTTP/2 with prior knowledge.
pub fn serve(listener: UnixListener) {
    let incoming = UnixListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(Echo).serve_with_incoming(incoming));
}

/// The same over TCP.
pub async fn serve_tcp() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(Echo).serve_with_incoming(incoming));
    address
}

/// A client that reaches `host` through a Unix socket.
pub fn through(socket: &Path, host: &str) -> Client {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{host}")).unwrap();
    Client::new(endpoint.connect_with_connector_lazy(connector))
}

/// A client of whoever listens there.
pub fn at(address: std::net::SocketAddr) -> Client {
    Client::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

/// A client of `test.Echo`.
pub struct Client {
    grpc: Grpc<Channel>,
    metadata: Vec<(&'static str, String)>,
}

impl Client {
    fn new(channel: Channel) -> Self {
        Self { grpc: Grpc::new(channel), metadata: Vec::new() }
    }

    /// Says this with every call.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.metadata.push((name, value.to_owned()));
        self
    }

    pub async fn once(&mut self, word: Word) -> Result<Response<Word>, Status> {
        let request = self.request(word).await;
        self.grpc.unary(request, path("Once"), ProstCodec::default()).await
    }

    pub async fn count(&mut self, word: Word) -> Result<Response<Streaming<Word>>, Status> {
        let request = self.request(word).await;
        self.grpc.server_streaming(request, path("Count"), ProstCodec::default()).await
    }

    pub async fn sum(
        &mut self,
        words: impl Stream<Item = Word> + Send + 'static,
    ) -> Result<Response<Word>, Status> {
        let request = self.request(words).await;
        self.grpc.client_streaming(request, path("Sum"), ProstCodec::default()).await
    }

    pub async fn talk(
        &mut self,
        words: impl Stream<Item = Word> + Send + 'static,
    ) -> Result<Response<Streaming<Word>>, Status> {
        let request = self.request(words).await;
        self.grpc.streaming(request, path("Talk"), ProstCodec::default()).await
    }

    async fn request<T>(&mut self, said: T) -> Request<T> {
        self.grpc.ready().await.unwrap();
        let mut request = Request::new(said);
        for (name, value) in &self.metadata {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        request
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/test.Echo/{method}").parse().unwrap()
}

/// So many words, a pause before each.
pub fn words(count: u32, pause: Duration) -> impl Stream<Item = Word> + Send + 'static {
    tokio_stream::iter(0..count).then(move |number| async move {
        tokio::time::sleep(pause).await;
        word("said", number, 0)
    })
}
