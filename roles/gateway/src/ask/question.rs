//! A request of another proxy's client, as that proxy tells it.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri};
use rustls::pki_types::CertificateDer;

/// What is asked about.
#[derive(Debug)]
pub(crate) struct Question {
    /// The head of the request, as if it had come here.
    pub(crate) head: Parts,
    pub(crate) scheme: &'static str,
    pub(crate) client: IpAddr,
    /// The certificate that the client showed the proxy, leaf first. Not verified yet.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// What the proxy says of a request, before anything of it was looked at.
pub(crate) struct Told<'a> {
    pub(crate) method: &'a str,
    pub(crate) scheme: &'a str,
    pub(crate) host: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
    pub(crate) client: &'a str,
    /// Without `Host`.
    pub(crate) headers: HeaderMap,
}

/// Why it cannot be said what is asked about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("the asking proxy does not say the {what}; see docs/beside-other-proxies.md for its settings")]
    Missing { what: &'static str },
    #[error("the asking proxy says the {what} twice; let it replace what its client sends")]
    Twice { what: &'static str },
    #[error("the asking proxy says two things of the {what}")]
    Disagrees { what: &'static str },
    #[error("the {what} that the asking proxy tells is none")]
    Unreadable { what: &'static str },
    #[error("the certificate that the asking proxy forwards cannot be read: {why}")]
    Certificate { why: &'static str },
}

impl Question {
    /// The rules about requests come later, and are those of every request: this is only about what the proxy says.
    pub(crate) fn of(told: Told<'_>) -> Result<Self, QuestionError> {
        let unreadable = |what| QuestionError::Unreadable { what };
        for (what, text) in [("method", told.method), ("host", told.host), ("path", told.target)] {
            if text.is_empty() {
                return Err(QuestionError::Missing { what });
            }
        }
        // In origin form alone: what else there is names no path, or a host of its own.
        if !told.target.starts_with('/') || told.target.contains('#') {
            return Err(unreadable("path"));
        }
        let scheme = scheme(told.scheme)?;
        let mut request = Request::new(());
        *request.method_mut() =
            Method::from_bytes(told.method.as_bytes()).map_err(|_| unreadable("method"))?;
        *request.uri_mut() = told.target.parse::<Uri>().map_err(|_| unreadable("path"))?;
        *request.headers_mut() = told.headers;
        let host = HeaderValue::from_str(told.host).map_err(|_| unreadable("host"))?;
        request.headers_mut().insert(header::HOST, host);
        let client = told.client.parse().map_err(|_| unreadable("address of the client"))?;
        Ok(Question { head: request.into_parts().0, scheme, client, chain: Vec::new() })
    }
}

/// `http` or `https`.
pub(super) fn scheme(text: &str) -> Result<&'static str, QuestionError> {
    match text {
        "http" => Ok("http"),
        "https" => Ok("https"),
        _ => Err(QuestionError::Unreadable { what: "scheme" }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told<'a>(scheme: &'a str, target: &'a str, client: &'a str) -> Result<Question, QuestionError> {
        Question::of(Told {
            method: "GET",
            scheme,
            host: "flea.test",
            target,
            client,
            headers: HeaderMap::new(),
        })
    }

    #[test]
    fn a_question_becomes_the_head_of_a_request() {
        let question = told("https", "/ads/1?near=here", "2001:db8::7").unwrap();
        assert_eq!((question.head.uri.path(), question.head.uri.query()), ("/ads/1", Some("near=here")));
        assert_eq!(question.head.headers[header::HOST], "flea.test");
        assert_eq!((question.scheme, question.client), ("https", "2001:db8::7".parse().unwrap()));
    }

    #[test]
    fn what_is_not_said_plainly_is_no_question() {
        let refused = |scheme, target, client| told(scheme, target, client).unwrap_err();
        assert_eq!(refused("http", "", "::1"), QuestionError::Missing { what: "path" });
        for target in ["ads", "*", "http://other.test/", "/ads#x", "/a b"] {
            assert_eq!(
                refused("http", target, "::1"),
                QuestionError::Unreadable { what: "path" },
                "{target}"
            );
        }
        assert_eq!(refused("wss", "/", "::1"), QuestionError::Unreadable { what: "scheme" });
        let what = "address of the client";
        assert_eq!(refused("http", "/", "unknown"), QuestionError::Unreadable { what });
        for error in [QuestionError::Twice { what }, QuestionError::Disagrees { what }] {
            assert!(error.to_string().contains(what));
        }
    }
}
