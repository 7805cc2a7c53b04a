//! A sidecar's part in a WebSocket: in front of the service, and for its own calls.

use bytes::Bytes;
use countersign_request::{CanonicalRequest, strip_hop_by_hop, strip_identity_headers};
use countersign_sdk::inbound::{Denial, Tenure as DoorTenure};
use countersign_sdk::outbound::{Answer, ServiceClient, Switched};
use countersign_wire::codes::Code;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::settings::Settings;
use crate::forward::EdgeBody;
use crate::upgrade::{Leaving, Tenure, Tunnel, Upgrade, WEBSOCKET, Way, accepts, is_handshake};

/// What requests may leave HTTP for, if they may.
#[derive(Clone, Copy)]
pub(super) struct Upgrades {
    websocket: bool,
    idle: std::time::Duration,
}

/// What was said to a handshake.
pub(super) enum Said<B> {
    Yes(Response<EdgeBody>),
    No(Response<B>),
}

impl Upgrades {
    pub(super) fn of(settings: &Settings) -> Self {
        let websocket = settings.upgrade.contains(&Upgrade::Websocket);
        Self { websocket, idle: settings.upgrade_idle_timeout() }
    }

    /// Is it a handshake that may be passed on?
    fn admit(self, head: &Parts) -> Result<(), Denial> {
        let why = match self.websocket {
            false => "the request asks to leave HTTP, and [sidecar] upgrade does not name websocket",
            true if is_handshake(&head.method, head.version, &head.headers) => return Ok(()),
            true => "the request asks to leave HTTP, and is no handshake of a websocket",
        };
        Err(Denial::new(Code::UpgradeRefused, why))
    }

    /// A caller's request: by what it may go on.
    pub(super) fn admit_caller(self, head: &Parts) -> Result<Tenure, Denial> {
        self.admit(head)?;
        let tenure = head.extensions.get::<DoorTenure>().cloned();
        let tenure =
            tenure.ok_or_else(|| Denial::new(Code::Internal, "nothing says by what it was let in"))?;
        tenure.is_lasting()?;
        Ok(Tenure::Door(tenure))
    }

    /// The answer of the service to a handshake.
    pub(super) async fn answer_of_app(
        self,
        mut answer: Response<Incoming>,
        tenure: Tenure,
    ) -> Result<Said<Incoming>, Denial> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Said::No(answer));
        }
        check(answer.headers())?;
        let io = hyper::upgrade::on(&mut answer).await;
        let io = io.map_err(|error| Denial::new(Code::UpstreamUnreachable, error.to_string()))?;
        // Its socket is the service's alone: there is nobody to doubt.
        let way = Way::new(TokioIo::new(io), (), std::future::pending());
        Ok(Said::Yes(self.leaving(answer.map(drop), way, tenure)))
    }

    /// A call of the service itself.
    pub(super) async fn call(
        self,
        client: &ServiceClient,
        head: &Parts,
        request: &CanonicalRequest,
    ) -> Result<Said<Answer>, Denial> {
        self.admit(head)?;
        let mut headers = request.headers().clone();
        strip_hop_by_hop(&mut headers);
        strip_identity_headers(&mut headers);
        for name in [header::HOST, header::EXPECT] {
            headers.remove(name);
        }
        let mut outbound = Request::new(());
        *outbound.method_mut() = request.method().clone();
        let path = request.path_and_query().parse::<Uri>();
        *outbound.uri_mut() = path.map_err(|error| Denial::new(Code::Internal, error.to_string()))?;
        *outbound.version_mut() = Version::HTTP_2;
        *outbound.headers_mut() = headers;
        match client.switch(WEBSOCKET, outbound).await.map_err(|error| Denial::from(&error))? {
            Switched::No(answer) => Ok(Said::No(answer)),
            Switched::Yes(answer, stream) => {
                check(answer.headers())?;
                let (io, held, lost) = stream.into_parts();
                Ok(Said::Yes(self.leaving(answer, Way::new(io, held, lost), Tenure::Own)))
            }
        }
    }

    fn leaving(self, answer: Response<()>, way: Way, tenure: Tenure) -> Response<EdgeBody> {
        let (mut head, ()) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        strip_identity_headers(&mut head.headers);
        head.extensions.clear();
        head.extensions.insert(Leaving::by(Tunnel { way, tenure, idle: self.idle }));
        Response::from_parts(head, Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync())
    }
}

fn check(headers: &HeaderMap) -> Result<(), Denial> {
    let why = "it left HTTP otherwise than it was asked to";
    if accepts(headers) { Ok(()) } else { Err(Denial::new(Code::UpstreamProtocol, why)) }
}
