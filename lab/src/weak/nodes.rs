//! The API for nodes: joining, renewing, and what a node may hold.

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use countersign_identity::{IdKind, SpiffeId};
use countersign_keys::sha256;
use countersign_pki::csr::Csr;
use countersign_sdk::inbound::new_decision_id;
use countersign_wire::{
    agent::IssueResponse,
    codes::Code,
    node::{EntriesResponse, JoinRequest, JoinResponse, NodeIssueRequest, RenewRequest},
};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Weak, Weakness};
use crate::attack::grpc::framed;

/// A token with which a node may join.
pub(super) struct JoinToken {
    secret: String,
    node: String,
    /// SHA-256 of the request of whoever has joined with it.
    used_by: Option<[u8; 32]>,
}

/// A refusal, as gRPC tells it.
pub(super) struct Refused {
    pub(super) status: u32,
    pub(super) message: String,
}

impl Refused {
    fn because(code: Code, why: &str) -> Self {
        Self { status: PERMISSION_DENIED, message: format!("{code}: {why}") }
    }
}

/// Answers calls over HTTP/2 until the connection ends.
pub(super) async fn requests<IO>(io: IO, peer: Option<String>, weak: Arc<Weak>)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (peer, weak) = (peer.clone(), Arc::clone(&weak));
        async move {
            let path = request.uri().path().to_owned();
            let message = message_of(request).await;
            Ok::<_, Infallible>(answered(weak.node_call(&path, &message, peer.as_deref())))
        }
    });
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
}

/// The message of a call, without its prefix.
pub(super) async fn message_of(request: Request<Incoming>) -> Bytes {
    let body = Limited::new(request.into_body(), MESSAGE_BYTES_MAX).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    body.slice(PREFIX_BYTES.min(body.len())..)
}

/// As gRPC answers: a message, or a status in the head.
pub(super) fn answered(result: Result<Bytes, Refused>) -> Response<Full<Bytes>> {
    let (status, message, body) = match result {
        Ok(body) => (0, String::new(), body),
        Err(Refused { status, message }) => (status, message, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    response
}

impl Weak {
    /// A token for one node.
    pub(crate) fn join_token(&self, node: &str) -> String {
        let secret = new_decision_id().to_string();
        let token = JoinToken { secret: secret.clone(), node: node.to_owned(), used_by: None };
        self.house.joining.lock().unwrap_or_else(PoisonError::into_inner).push(token);
        secret
    }

    fn node_call(&self, path: &str, message: &[u8], peer: Option<&str>) -> Result<Bytes, Refused> {
        let unreadable = |_| Refused::because(Code::BodyMalformed, "no message");
        let rpc = path.rsplit('/').next().unwrap_or_default();
        if rpc == "Join" {
            let JoinRequest { token, csr, .. } = JoinRequest::decode(message).map_err(unreadable)?;
            let node = self.spend(&token, sha256(&csr))?;
            return self.admission(&csr, &node);
        }
        let agent = self.agent(peer)?;
        match rpc {
            "Entries" => Ok(framed(&EntriesResponse::default())),
            "Renew" => {
                let RenewRequest { csr, .. } = RenewRequest::decode(message).map_err(unreadable)?;
                self.admission(&csr, &agent)
            }
            "Issue" => {
                let order = NodeIssueRequest::decode(message).map_err(unreadable)?;
                let id: SpiffeId = order
                    .spiffe_id
                    .parse()
                    .map_err(|_| Refused::because(Code::EntryUnknown, "no such name"))?;
                // No service of this trust domain runs on a node that joined.
                if !self.makes(Weakness::AgentNamesAnybody) {
                    let why = format!("{id} is registered, but not for {agent}");
                    return Err(Refused::because(Code::EntryUnknown, &why));
                }
                let chain = self.chain_for(&order.csr, &id)?;
                Ok(framed(&IssueResponse { chain, spiffe_id: id.to_string(), ..IssueResponse::default() }))
            }
            _ => Err(Refused::because(Code::RouteUnknown, "no such call")),
        }
    }

    /// Who asks, if it may.
    fn agent(&self, peer: Option<&str>) -> Result<SpiffeId, Refused> {
        let missing = || Refused::because(Code::CertificateMissing, "an agent must show its own SVID");
        let id: SpiffeId = peer.and_then(|peer| peer.parse().ok()).ok_or_else(missing)?;
        let is_agent = matches!(id.kind(), IdKind::Agent(_));
        if is_agent || self.makes(Weakness::AnyServiceIsAnAgent) {
            Ok(id)
        } else {
            let why = format!("{id} is not an agent of this trust domain");
            Err(Refused::because(Code::AdminNotPermitted, &why))
        }
    }

    fn spend(&self, secret: &str, by: [u8; 32]) -> Result<SpiffeId, Refused> {
        let mut tokens = self.house.joining.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.iter_mut().find(|token| token.secret == secret);
        let token = token.ok_or_else(|| Refused::because(Code::JoinTokenInvalid, "unknown"))?;
        if token.used_by.is_some_and(|before| before != by) && !self.makes(Weakness::JoinsForEver) {
            return Err(Refused::because(Code::JoinTokenSpent, "it was used with another key"));
        }
        token.used_by = Some(by);
        SpiffeId::agent(&self.trust_domain, &token.node)
            .map_err(|error| Refused::because(Code::ParameterInvalid, &error.to_string()))
    }

    fn admission(&self, csr: &[u8], agent: &SpiffeId) -> Result<Bytes, Refused> {
        let chain = self.chain_for(csr, agent)?;
        let spiffe_id = agent.to_string();
        Ok(framed(&JoinResponse { version: 1, spiffe_id, chain, ..JoinResponse::default() }))
    }

    fn chain_for(&self, csr: &[u8], id: &SpiffeId) -> Result<Vec<Vec<u8>>, Refused> {
        let malformed = |why: &dyn std::fmt::Display| Refused::because(Code::CsrMalformed, &why.to_string());
        let csr = Csr::parse(csr).map_err(|error| malformed(&error))?;
        let id = match csr.requested_id().filter(|wanted| *wanted != id) {
            Some(wanted) if self.makes(Weakness::RequestNamesItself) => wanted,
            Some(wanted) => {
                return Err(Refused::because(Code::CsrAsksForMore, &format!("it asks for {wanted}")));
            }
            None => id,
        };
        let chain = self.pki.chain_for(&csr, id).map_err(|error| malformed(&error))?;
        Ok(chain.iter().map(|der| der.to_vec()).collect())
    }
}

const PREFIX_BYTES: usize = 5;
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// gRPC's own number.
const PERMISSION_DENIED: u32 = 7;
