//! Refusals in the words of gRPC: what its clients read is `grpc-status`, and not a problem document.

use bytes::Bytes;
use countersign_identity::DecisionId;
use countersign_wire::codes::Code;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;

use super::Denial;

/// Does a request speak gRPC? `application/grpc`, alone or with a form of its messages; gRPC-Web is something else.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let said = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = said.get(..GRPC.len()).filter(|start| start.eq_ignore_ascii_case(GRPC.as_bytes()));
    rest.is_some_and(|_| matches!(said.get(GRPC.len()), None | Some(b'+' | b';')))
}

impl Denial {
    /// The answer in the words of whoever asked.
    #[must_use]
    pub fn answer(&self, decision: DecisionId, to_grpc: bool) -> Response<Full<Bytes>> {
        if to_grpc { self.grpc_response(decision) } else { self.response(decision) }
    }

    /// The answer to a gRPC request: nothing but a head, which is what the protocol calls "Trailers-Only". It says what
    /// [`Denial::response`] says, the decision id included.
    #[must_use]
    pub fn grpc_response(&self, decision: DecisionId) -> Response<Full<Bytes>> {
        let code = if self.status().as_u16() == self.code.status() { self.code } else { Code::NotPermitted };
        let public = code.entry().public;
        let mut response = Response::new(Full::default());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(STATUS, HeaderValue::from(public.grpc() as i32));
        let message = percent_encoded(&format!("{} ({decision})", public.title()));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(MESSAGE, message);
        }
        response
    }
}

/// As `grpc-message` wants it: printable ASCII but `%` as it is.
fn percent_encoded(text: &str) -> String {
    let mut said = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => said.push(byte.into()),
            _ => said.push_str(&format!("%{byte:02X}")),
        }
    }
    said
}

const GRPC: &str = "application/grpc";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inbound::{Challenge, new_decision_id};

    #[test]
    fn grpc_is_told_from_what_only_begins_like_it() {
        let of = |said: &'static str| {
            is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(said))]))
        };
        for said in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=1"] {
            assert!(of(said), "{said}");
        }
        for said in ["", "application/grpc-web", "application/grpcx", "application/json", "application/grp"] {
            assert!(!of(said), "{said}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_refusal_has_the_status_of_its_code_and_no_body() {
        let denial = |code| Denial::new(code, "the facts");
        let helped = denial(Code::TokenMissing).with_challenge(Challenge::Bearer);
        for (denial, status) in [
            (denial(Code::NotPermitted), "7"),
            (helped, "16"),
            // Nothing could help, so it is told what a 403 would be told.
            (denial(Code::TokenMissing), "7"),
            (denial(Code::RouteUnknown), "5"),
            (denial(Code::UpstreamUnreachable), "14"),
        ] {
            let (id, code) = (new_decision_id(), denial.code);
            let (head, body) = denial.grpc_response(id).into_parts();
            assert_eq!(
                (head.status.as_u16(), &head.headers["grpc-status"]),
                (200, &HeaderValue::from_static(status)),
                "{code}"
            );
            let message = head.headers["grpc-message"].to_str().unwrap();
            assert!(message.contains(&id.to_string()) && !message.contains("the facts"), "{message}");
            assert!(http_body::Body::is_end_stream(&body));
        }
        assert_eq!(percent_encoded("50% é"), "50%25 %C3%A9");
    }
}
