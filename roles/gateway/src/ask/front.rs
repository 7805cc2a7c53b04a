//! Behind another proxy: a listener for those that pass requests on, such as a web application firewall.
//!
//! It speaks over mTLS to listed proxies alone, so that nobody comes past them. What they say of their client counts:
//! its address (the last one in `X-Forwarded-For`) and its scheme. All else is as at the edge.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use countersign_identity::SpiffeId;
use countersign_sdk::accept::{Connection, RequestBody};
use http::{HeaderMap, Request, Response};
use schemars::JsonSchema;
use serde::Deserialize;

use super::forward_auth::{FORWARDED_FOR, FORWARDED_PROTO, once};
use super::question::{QuestionError, scheme};
use crate::edge_tls::CertificateSettings;
use crate::forward::EdgeBody;
use crate::listener::{Arrival, Through};
use crate::refusal::Refusal;
use crate::reload::Current;

/// One `[[gateway.front]]`: a listener for proxies that pass requests on. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FrontSettings {
    /// Where it listens, over mTLS alone.
    pub listen: SocketAddr,
    /// Whose requests are taken, each by its full SPIFFE ID; nobody else gets through the handshake.
    #[schemars(with = "Vec<String>")]
    pub proxies: Vec<SpiffeId>,
    /// A certificate with a DNS name, for proxies that know no SPIFFE ID. Without one it is the gateway's own SVID.
    #[serde(default)]
    pub tls: Option<CertificateSettings>,
}

/// Hands what a listed proxy passes on to the pipeline.
#[derive(Clone)]
pub(super) struct Front(pub(super) Arc<Current>);

impl tower::Service<Request<RequestBody>> for Front {
    type Response = Response<EdgeBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<EdgeBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let pipeline = self.0.pipeline();
        Box::pin(async move {
            let mut arrival = Arrival::of(&request, "https");
            Ok(match through(request.headers(), arrival.connection.as_ref()) {
                Ok((through, client, scheme)) => {
                    (arrival.client, arrival.scheme, arrival.through) = (Some(client), scheme, Some(through));
                    pipeline.handle(request, &arrival).await
                }
                Err(refusal) => pipeline.refuse(&refusal, &arrival).await,
            })
        })
    }
}

fn through(
    headers: &HeaderMap,
    connection: Option<&Connection>,
) -> Result<(Through, IpAddr, &'static str), Refusal> {
    let proxy = connection.and_then(Connection::spiffe_id).ok_or(Refusal::NoAsker)?;
    let what = "address of the client";
    let client = once(headers, &FORWARDED_FOR, what)?.rsplit(',').next().unwrap_or_default().trim();
    let client = client.parse().map_err(|_| QuestionError::Unreadable { what })?;
    let scheme = scheme(once(headers, &FORWARDED_PROTO, "scheme")?)?;
    Ok((Through { proxy, workload: None }, client, scheme))
}
