//! Over gRPC: Envoy's external authorisation, version 3.

use std::sync::Arc;

use axum::Router;
use countersign_request::is_hop_by_hop;
use countersign_sdk::accept::Connection;
use countersign_wire::ext_authz::attribute_context::HttpRequest;
use countersign_wire::ext_authz::authorization_server::{Authorization, AuthorizationServer};
use countersign_wire::ext_authz::check_response::HttpResponse;
use countersign_wire::ext_authz::header_value_option::HeaderAppendAction;
use countersign_wire::ext_authz::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue as WireValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, Status as RpcStatus,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tonic::{Code, Request, Status};

use super::certificate;
use super::edits::Edits;
use super::question::{Question, QuestionError, Told};
use super::verdict::Verdict;
use crate::forward::EdgeBody;
use crate::reload::Current;

/// The one call.
pub(super) fn router(current: Arc<Current>) -> Router {
    let service = AuthorizationServer::new(Asked { current }).max_decoding_message_size(QUESTION_BYTES_MAX);
    Router::new().route_service("/envoy.service.auth.v3.Authorization/Check", service)
}

struct Asked {
    current: Arc<Current>,
}

#[tonic::async_trait]
impl Authorization for Asked {
    async fn check(&self, request: Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let connection = request.extensions().get::<Connection>().cloned();
        let connection = connection.ok_or_else(|| Status::internal("the connection is not known"))?;
        let verdict = self.current.pipeline().ask(question(request.into_inner()), &connection).await;
        Ok(tonic::Response::new(match verdict {
            Verdict::Go(edits) => go(edits),
            Verdict::Stop(answer) => stop(*answer).await,
        }))
    }
}

fn question(asked: CheckRequest) -> Result<Question, QuestionError> {
    let missing = |what| QuestionError::Missing { what };
    let attributes = asked.attributes.ok_or(missing("attributes"))?;
    let http = attributes.request.and_then(|request| request.http).ok_or(missing("HTTP request"))?;
    let source = attributes.source.ok_or(missing("address of the client"))?;
    let address = source.address.and_then(|address| address.socket_address);
    let address = address.ok_or(missing("address of the client"))?.address;
    let headers = headers(&http)?;
    let xfcc = headers.get(XFCC).map(|value| value.as_bytes().to_owned());
    let mut question = Question::of(Told {
        method: &http.method,
        scheme: &http.scheme,
        host: &http.host,
        target: &http.path,
        client: &address,
        headers,
    })?;
    if !source.certificate.is_empty() {
        question.chain = certificate::chain(&source.certificate, xfcc.as_deref())?;
    }
    Ok(question)
}

/// The client's headers. Pseudo-headers have to say what the fields say; `Host` is one of these.
fn headers(http: &HttpRequest) -> Result<HeaderMap, QuestionError> {
    let raw = http.header_map.as_ref().map(|map| map.headers.as_slice()).unwrap_or_default();
    if !raw.is_empty() && !http.headers.is_empty() {
        return Err(QuestionError::Disagrees { what: "headers" });
    }
    let plain = http.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let exact = raw.iter().map(|header| match header.raw_value.as_slice() {
        [] => (header.key.as_str(), header.value.as_bytes()),
        bytes => (header.key.as_str(), bytes),
    });
    let mut headers = HeaderMap::new();
    for (name, value) in plain.chain(exact) {
        let (what, field) = match name {
            ":method" => ("method", &http.method),
            ":path" => ("path", &http.path),
            ":authority" | "host" => ("host", &http.host),
            ":scheme" => ("scheme", &http.scheme),
            _ => {
                let unreadable = |_| QuestionError::Unreadable { what: "headers" };
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| QuestionError::Unreadable { what: "headers" })?;
                headers.append(name, HeaderValue::from_bytes(value).map_err(unreadable)?);
                continue;
            }
        };
        if value != field.as_bytes() {
            return Err(QuestionError::Disagrees { what });
        }
    }
    Ok(headers)
}

fn go(edits: Edits) -> CheckResponse {
    // Envoy ends hop-by-hop headers itself, and it alone knows its own.
    let remove = edits.remove.iter().filter(|name| !is_hop_by_hop(name));
    let ok = OkHttpResponse {
        headers: options(&edits.set),
        headers_to_remove: remove.map(ToString::to_string).collect(),
    };
    response(Code::Ok, HttpResponse::OkResponse(ok))
}

/// What the client is to get, in a form of its own where the failure is ours.
async fn stop(answer: Response<EdgeBody>) -> CheckResponse {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map(|body| body.to_bytes());
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(head.status.as_u16()) }),
        headers: options(&head.headers),
        body: body.map(|body| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default(),
    };
    let code = match head.status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        status if status.is_server_error() => {
            return response(Code::Unavailable, HttpResponse::ErrorResponse(denied));
        }
        _ => Code::PermissionDenied,
    };
    response(code, HttpResponse::DeniedResponse(denied))
}

fn response(code: Code, http: HttpResponse) -> CheckResponse {
    let status = RpcStatus { code: i32::from(code), message: String::new() };
    CheckResponse { status: Some(status), http_response: Some(http) }
}

/// The first value of a name replaces what is there, further ones follow it.
fn options(headers: &HeaderMap) -> Vec<HeaderValueOption> {
    let option = |name: &HeaderName, value: &HeaderValue, action: HeaderAppendAction| {
        // Envoy reads text alone here. What is none is for no header that we set.
        let value = value.to_str().ok()?.to_owned();
        let header = Some(WireValue { key: name.to_string(), value, raw_value: Vec::new() });
        Some(HeaderValueOption { header, append_action: i32::from(action) })
    };
    let mut options = Vec::with_capacity(headers.len());
    for name in headers.keys() {
        let mut action = HeaderAppendAction::OverwriteIfExistsOrAdd;
        for value in headers.get_all(name) {
            options.extend(option(name, value, action));
            action = HeaderAppendAction::AppendIfExistsOrAdd;
        }
    }
    options
}

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// A head of the greatest length that is read, and room for certificates.
const QUESTION_BYTES_MAX: usize = 256 * 1024;
const ANSWER_BYTES_MAX: usize = 64 * 1024;
