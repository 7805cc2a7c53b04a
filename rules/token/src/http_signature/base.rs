//! The signature base (RFC 9421 section 2.5) of the components that the profile knows.

use std::borrow::Cow;

use http::HeaderMap;

use super::{Answered, Request, Response, SignatureError};

/// A message, as far as a signature covers it.
pub(super) enum Message<'a> {
    Request(&'a Request<'a>),
    Response(&'a Response<'a>, &'a Answered<'a>),
}

/// A component identifier (RFC 9421 section 2): a derived component or a header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Component {
    pub(super) name: &'static str,
    /// Parameter `req`: of the request, in the signature of a response.
    pub(super) of_request: bool,
}

impl Message<'_> {
    pub(super) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Request(request) => request.headers,
            Self::Response(response, _) => response.headers,
        }
    }

    /// Exactly what a signature of this message has to cover.
    pub(super) fn components(&self) -> Result<Vec<Component>, SignatureError> {
        if !self.headers().contains_key(WIT) {
            return Err(SignatureError::NoWit);
        }
        let (first, fields, last): (&[Component], &[&'static str], &[Component]) = match self {
            Self::Request(_) => (&[METHOD, TARGET], &REQUEST_FIELDS, &[]),
            Self::Response(..) => (&[STATUS], &RESPONSE_FIELDS, &[METHOD.of_request(), TARGET.of_request()]),
        };
        let present = fields.iter().filter(|name| self.headers().contains_key(**name));
        let present = present.map(|name| Component::new(name));
        Ok(first.iter().copied().chain(present).chain(last.iter().copied()).collect())
    }

    /// Those of [`Message::components`] that carry tokens of a user.
    pub(super) fn tokens(&self) -> Vec<String> {
        let tokens = ["authorization", TXN_TOKEN, USER_TOKEN];
        let Self::Request(request) = self else { return Vec::new() };
        tokens.into_iter().filter(|name| request.headers.contains_key(*name)).map(str::to_owned).collect()
    }

    /// The value of a component (RFC 9421 sections 2.1 and 2.2).
    fn value(&self, component: Component) -> Result<Cow<'_, str>, SignatureError> {
        let (method, target) = match self {
            Self::Request(request) => (request.method, request.target),
            Self::Response(_, answered) => (answered.method, answered.target),
        };
        match (component.name, self) {
            ("@method", _) => Ok(method.into()),
            ("@request-target", _) => Ok(target.into()),
            ("@status", Self::Response(response, _)) => Ok(response.status.to_string().into()),
            (name, _) => field_value(self.headers(), name),
        }
    }
}

impl Component {
    const fn new(name: &'static str) -> Self {
        Self { name, of_request: false }
    }

    const fn of_request(self) -> Self {
        Self { of_request: true, ..self }
    }
}

/// One line for each component, and the parameters, exactly as `input` spells them, at the end.
pub(super) fn signature_base(
    message: &Message<'_>,
    components: &[Component],
    input: &str,
) -> Result<String, SignatureError> {
    let mut base = String::with_capacity(BASE_BYTES_USUAL);
    for component in components {
        let of_request = if component.of_request { ";req" } else { "" };
        let value = message.value(*component)?;
        for part in ["\"", component.name, "\"", of_request, ": ", &value, "\n"] {
            base.push_str(part);
        }
    }
    base.push_str("\"@signature-params\": ");
    base.push_str(input);
    Ok(base)
}

/// All lines of a field, each without the white space around it, joined.
pub(super) fn field_value<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Cow<'a, str>, SignatureError> {
    let mut joined: Option<Cow<'a, str>> = None;
    for line in headers.get_all(name) {
        let line = line.to_str().map_err(|_| SignatureError::NotText { name })?.trim_matches([' ', '\t']);
        joined = Some(match joined {
            None => line.into(),
            Some(before) => (before.into_owned() + ", " + line).into(),
        });
    }
    Ok(joined.unwrap_or_default())
}

/// Fields that a signed request covers when they are there. `User-Token` is ours: a token of the user must not be
/// exchanged on the way either.
const REQUEST_FIELDS: [&str; 6] =
    ["content-type", "content-digest", "authorization", TXN_TOKEN, USER_TOKEN, WIT];
const RESPONSE_FIELDS: [&str; 3] = [WIT, "content-type", "content-digest"];

/// A WIT and all the rest: of most messages.
const BASE_BYTES_USUAL: usize = 2048;

const METHOD: Component = Component::new("@method");
const TARGET: Component = Component::new("@request-target");
const STATUS: Component = Component::new("@status");
pub(super) const WIT: &str = "workload-identity-token";
const TXN_TOKEN: &str = "txn-token";
const USER_TOKEN: &str = "user-token";
