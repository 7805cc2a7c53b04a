//! A call that leaves HTTP, such as a WebSocket (RFC 6455): over a connection of its own, in HTTP/1.1, because nothing
//! else can run on it afterwards. Who we are is proven in the request as in any other.

use std::{fmt, sync::Arc};

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, UPGRADE},
};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use super::{
    Answer, AnswerError, CallError, Outgoing, ServiceClient, Target,
    channel::{Channel, Watched},
    no_longer_believed,
    pool::Call,
    proof::Proof,
    service::canonical,
};
use crate::{clock, tls::HTTP_1_1};

/// What a callee said to a request to leave HTTP.
pub enum Switched {
    /// It goes on in the other protocol. The answer has no body.
    Yes(Response<()>, SwitchedStream),
    /// It answers in HTTP, whatever it says.
    No(Response<Answer>),
}

/// The bytes of a connection that left HTTP. It counts as a request in progress until it is dropped.
pub struct SwitchedStream {
    /// The bytes.
    pub io: TokioIo<Upgraded>,
    /// Held as long as the bytes flow.
    pub held: InProgress,
    watched: Option<Watched>,
}

/// One request in progress, of those that a callee may have.
pub struct InProgress {
    #[expect(dead_code, reason = "held for its drop")]
    turn: OwnedSemaphorePermit,
}

impl SwitchedStream {
    /// The bytes, what has to be held meanwhile, and what ends when the callee is no longer believed.
    pub fn into_parts(self) -> (TokioIo<Upgraded>, InProgress, impl Future<Output = ()> + Send + 'static) {
        (self.io, self.held, no_longer_believed(self.watched))
    }
}

impl ServiceClient {
    /// Sends a request to leave HTTP for `protocol`, with the headers that the other protocol wants.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn switch(&self, protocol: &'static str, request: Request<()>) -> Result<Switched, CallError> {
        let call = self.pool().call(self.service())?;
        match timeout(self.pool().limits().answer, self.prove_and_switch(&call, protocol, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::TimedOut { place: self.service().to_owned() }),
        }
    }

    async fn prove_and_switch(
        &self,
        call: &Call,
        protocol: &'static str,
        request: Request<()>,
    ) -> Result<Switched, CallError> {
        let mut request = request.map(|()| super::empty());
        *request.uri_mut() = canonical(&request, self.service())?.into();
        self.dress(request.headers_mut());
        let (request, proof) = self.gather(call, request).await?;
        let switched = call.channel().switch(protocol, request, &proof).await?;
        if proof.wants_signed_answer() {
            // Nobody can sign what comes after the head.
            let source = AnswerError::Unsigned;
            return Err(CallError::Answer { service: self.service().to_owned(), source });
        }
        Ok(switched)
    }
}

impl Channel {
    /// As [`Channel::send_proven`], over a connection of its own that leaves HTTP if the callee agrees.
    async fn switch(
        &self,
        protocol: &'static str,
        request: Request<Outgoing>,
        proof: &Proof,
    ) -> Result<Switched, CallError> {
        let turn = self.take_turn()?;
        let mut request = self.aimed(request)?;
        let (send, exporter, watched) = match timeout(self.limits().connect, self.dial_http1()).await {
            Ok(dialed) => dialed?,
            Err(_) => return Err(CallError::TimedOut { place: self.place() }),
        };
        proof.sign(&mut request, exporter.as_ref(), clock::now())?;
        let mut answer = self.ask(send, in_http1(request, protocol)?).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Switched::No(answer.map(Answer::from)));
        }
        let io = hyper::upgrade::on(&mut answer).await.map_err(|error| self.broken(&error))?;
        let stream = SwitchedStream { io: TokioIo::new(io), held: InProgress { turn }, watched };
        Ok(Switched::Yes(answer.map(|_| ()), stream))
    }

    async fn ask(
        &self,
        mut send: http1::SendRequest<Outgoing>,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, CallError> {
        send.send_request(request).await.map_err(|error| self.broken(&error))
    }

    /// A connection in HTTP/1.1, with what proofs bind to and whom to watch.
    async fn dial_http1(
        &self,
    ) -> Result<(http1::SendRequest<Outgoing>, Option<[u8; 32]>, Option<Watched>), CallError> {
        match self.target() {
            Target::Workload { address, connector, .. } => {
                let connector = connector.clone().speaking(&[HTTP_1_1]);
                let tcp = self.tcp(address).await?;
                let (stream, peer) = connector.connect(tcp).await.map_err(|source| self.refused(source))?;
                let exporter = Self::exporter(stream.get_ref().1);
                let watched = (peer, Arc::clone(connector.trust()));
                Ok((self.http1(stream, Some(watched.clone())).await?, exporter, Some(watched)))
            }
            Target::Plain { address, .. } => {
                let tcp = self.tcp(address).await?;
                Ok((self.http1(tcp, None).await?, None, None))
            }
            Target::Edge(_) | Target::Unix(_) => Err(CallError::BadRequest),
        }
    }

    async fn http1<IO>(
        &self,
        io: IO,
        watched: Option<Watched>,
    ) -> Result<http1::SendRequest<Outgoing>, CallError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(io)).await;
        let (send, connection) = handshake.map_err(|error| self.broken(&error))?;
        tokio::spawn(async move {
            tokio::select! {
                ended = connection.with_upgrades() => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection that was to leave http ended with an error");
                },
                () = no_longer_believed(watched) => {}
            }
        });
        Ok(send)
    }
}

/// The same request in the form of HTTP/1.1, asking for `protocol`.
fn in_http1(mut request: Request<Outgoing>, protocol: &'static str) -> Result<Request<Outgoing>, CallError> {
    let unfit = CallError::BadRequest;
    let path = request.uri().path_and_query().cloned().ok_or(unfit.clone())?;
    let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let host = host.ok_or(unfit)?;
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    Ok(request)
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes(..) => f.write_str("Switched::Yes(..)"),
            Self::No(answer) => write!(f, "Switched::No({})", answer.status()),
        }
    }
}

/// What is read ahead of the other protocol, and so the longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
