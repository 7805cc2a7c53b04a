//! The request as the service behind sees it, and its answer as the client sees it.
//!
//! What goes on is made from the canonical request alone: the very method, path and query that routing and policy decided
//! about. Everything that could claim an identity or an address was stripped before ours is set, and nothing that the
//! client sends can take ours away.

use bytes::Bytes;
use countersign_request::{Authority, CanonicalRequest, TXN_TOKEN, strip_hop_by_hop, strip_identity_headers};
use countersign_sdk::accept::RequestBody;
use countersign_sdk::outbound::{CallError, InternalToken, Outgoing};
use countersign_sdk::trace::TraceContext;
use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

use crate::body::{BodyError, BodyFault, BodyLimits, BoundedBody, Pace};
use crate::filter::Changes;
use crate::headers::{Rules, clean_response, forwarded_headers, take_trailers};
use crate::listener::Arrival;
use crate::refusal::Refusal;
use crate::upstream::Cluster;

/// A body on its way to the client.
pub(crate) type EdgeBody = UnsyncBoxBody<Bytes, BodyError>;

/// The client's body, bounded; a declared length past the limit is refused before anything is sent.
pub(crate) fn inbound_body(
    headers: &HeaderMap,
    body: RequestBody,
    limits: BodyLimits,
    fault: &BodyFault,
) -> Result<BoundedBody<RequestBody>, BodyError> {
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.unwrap_or_default().max(body.size_hint().lower()) > limits.bytes_max {
        return Err(BodyError::TooLong { bytes_max: limits.bytes_max });
    }
    Ok(BoundedBody::new(body, limits, fault.clone()))
}

/// The request that goes upstream to `path` (and query), without what the SDK's client adds: the token, the trace, the
/// client's address.
pub(crate) fn outbound_request(
    request: &CanonicalRequest,
    path: &str,
    changes: &Changes,
    rules: [&Rules; 2],
    body: BoundedBody<RequestBody>,
) -> Result<Request<Outgoing>, Refusal> {
    // A canonical path is always a URI: should it ever not be, nothing is sent.
    let uri: Uri = path.parse().map_err(|_| Refusal::Upstream(CallError::BadRequest))?;
    let mut headers = request.headers().clone();
    // Connection is honoured and removed before anything of ours is set: it can only name the client's own headers.
    strip_hop_by_hop(&mut headers);
    strip_identity_headers(&mut headers);
    for name in [header::AUTHORIZATION, header::HOST, header::EXPECT] {
        headers.remove(name);
    }
    changes.apply(&mut headers);
    for rules in rules {
        rules.request.apply(&mut headers);
    }
    take_trailers(&mut headers);
    let mut outbound = Request::new(body.map_err(Into::into).boxed_unsync());
    *outbound.method_mut() = request.method().clone();
    *outbound.uri_mut() = uri;
    *outbound.version_mut() = Version::HTTP_2;
    *outbound.headers_mut() = headers;
    Ok(outbound)
}

/// What the service may know of the client's connection: from the connection itself, never from the client.
pub(crate) fn forwarded(request: &CanonicalRequest, arrival: &Arrival) -> HeaderMap {
    forwarded_headers(arrival.address(), arrival.scheme, &request.authority().to_string())
}

/// What the gateway adds of its own to a request for an upstream; to services, the SDK's client adds it.
pub(crate) struct Added {
    pub(crate) token: Option<InternalToken>,
    pub(crate) trace: TraceContext,
    pub(crate) forwarded: HeaderMap,
}

/// The request as an upstream of the configuration gets it: with the host that the client asked for, and with the user
/// only where the upstream is to know.
pub(crate) fn for_upstream(
    mut outbound: Request<Outgoing>,
    request: &CanonicalRequest,
    cluster: &Cluster,
    added: Added,
) -> Result<Request<Outgoing>, Refusal> {
    let unfit = |_| Refusal::Upstream(CallError::BadRequest);
    let uri = Uri::builder().scheme("http").authority(request.authority().to_string());
    let path = outbound.uri().path_and_query().cloned().ok_or(Refusal::Upstream(CallError::BadRequest))?;
    *outbound.uri_mut() = uri.path_and_query(path).build().map_err(unfit)?;
    let headers = outbound.headers_mut();
    headers.extend(added.forwarded);
    added.trace.set(headers);
    if let Some(token) = added.token.as_ref().filter(|_| cluster.takes_user_token()) {
        let token = token.txn_token().ok_or(Refusal::Upstream(CallError::BadRequest))?;
        headers.insert(TXN_TOKEN, token);
    }
    Ok(outbound)
}

/// The answer that goes to the client: no hop, no product, no internal name or token.
pub(crate) fn outbound_answer<B>(
    answer: Response<B>,
    rules: [&Rules; 2],
    target: &str,
    (limits, pace): (BodyLimits, &Pace),
) -> Response<EdgeBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (mut head, body) = answer.into_parts();
    head.version = Version::HTTP_11;
    head.extensions.clear();
    clean_response(&mut head.headers, |host| is_internal(host, target));
    for rules in rules {
        rules.response.apply(&mut head.headers);
    }
    let pace = pace.of_answer(&body);
    let body = BoundedBody::new(body, limits, BodyFault::default()).paced(pace);
    Response::from_parts(head, body.boxed_unsync())
}

/// Does the service demand evidence from the gateway, rather than answer the user?
pub(crate) fn is_internal_challenge<B>(answer: &Response<B>) -> bool {
    let mut challenges = answer.headers().get_all(header::WWW_AUTHENTICATE).iter();
    answer.status() == StatusCode::UNAUTHORIZED
        && challenges.any(|value| is_internal_scheme(value.as_bytes()))
}

/// Is it a challenge of ours?
pub(crate) fn is_internal_scheme(challenge: &[u8]) -> bool {
    challenge.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
}

/// Names that mean something only inside: the callee's short name (which is its `:authority`), loopback and private
/// addresses, and what is no name at all.
pub(crate) fn is_internal(host_and_port: &str, target: &str) -> bool {
    let Ok(authority) = Authority::parse(host_and_port) else { return true };
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let private = match bare.parse::<std::net::IpAddr>().map(|address| address.to_canonical()) {
        Ok(std::net::IpAddr::V4(v4)) => {
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified()
        }
        Ok(std::net::IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unique_local() || v6.is_unspecified(),
        Err(_) => false,
    };
    private || host == target || host == "localhost"
}

/// Authentication scheme of our own challenges (DESIGN section 4).
const SCHEME: &[u8] = b"Countersign";
