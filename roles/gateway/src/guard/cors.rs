//! Which pages of other origins may read answers (the Fetch standard, section 3.2). The gateway alone says so: what a
//! service behind says of it is dropped where a rule stands here.
//!
//! It protects users from pages, not the service from clients: a program that is no browser never asks. So it neither
//! replaces nor weakens authentication, and a preflight is answered before it.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::forward::EdgeBody;

/// `[gateway.cors]`, and `cors` of a route, which then counts alone.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsSettings {
    /// Origins as browsers write them, `https://shop.example`; or `*` alone, without credentials.
    pub origins: Vec<String>,
    /// Methods besides GET, HEAD and POST.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Request headers that pages may set.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Response headers that pages may read.
    #[serde(default)]
    pub expose: Vec<String>,
    /// Whether the browser may send cookies and the like.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember a preflight, in seconds.
    #[serde(default = "ten_minutes")]
    pub max_age_s: u32,
}

/// Why a rule does not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorsError {
    /// Not an origin.
    #[error("`{origin}` is no origin; write scheme and host as browsers do, https://shop.example")]
    Origin {
        /// As configured.
        origin: String,
    },
    /// Every page of the world, with its visitor's cookies.
    #[error("origins = [\"*\"] does not go with credentials, nor with other origins; list the origins")]
    Anybody,
    /// No origin at all.
    #[error("origins is empty; list the origins, or leave cors out")]
    Nobody,
    /// Not a method or header name.
    #[error("`{name}` is no method or header name")]
    Name {
        /// As configured.
        name: String,
    },
}

/// Why a preflight is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error("origin {origin} is not listed")]
    Origin { origin: String },
    #[error("method {method} is not listed for other origins")]
    Method { method: String },
    #[error("header {name} is not listed for other origins")]
    Header { name: String },
}

/// A compiled rule.
#[derive(Debug, PartialEq)]
pub(crate) struct Cors {
    /// None is any.
    origins: Option<Vec<String>>,
    methods: Vec<Method>,
    headers: Vec<HeaderName>,
    credentials: bool,
    allow_methods: HeaderValue,
    allow_headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// What a browser asks before it sends the request itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Preflight<'a> {
    origin: &'a HeaderValue,
    method: &'a str,
    headers: &'a HeaderMap,
}

impl<'a> Preflight<'a> {
    /// Nothing, if it is a request like others.
    pub(crate) fn of(method: &Method, headers: &'a HeaderMap) -> Option<Self> {
        let origin = headers.get(header::ORIGIN).filter(|_| method == Method::OPTIONS)?;
        let method = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()?;
        Some(Preflight { origin, method, headers })
    }

    /// Of the request that would follow.
    pub(crate) fn method(&self) -> Option<Method> {
        Method::from_bytes(self.method.as_bytes()).ok()
    }
}

impl Cors {
    pub(crate) fn compile(settings: &CorsSettings) -> Result<Self, CorsError> {
        let origins = match settings.origins.as_slice() {
            [] => return Err(CorsError::Nobody),
            [any] if any == "*" && !settings.credentials => None,
            listed if listed.iter().any(|origin| origin == "*") => return Err(CorsError::Anybody),
            listed => Some(listed.iter().map(|text| origin(text)).collect::<Result<_, _>>()?),
        };
        let wrong = |name: &String| CorsError::Name { name: name.clone() };
        let mut methods = vec![Method::GET, Method::HEAD, Method::POST];
        for name in &settings.methods {
            let method =
                Method::from_bytes(name.as_bytes()).ok().filter(|_| name == &name.to_ascii_uppercase());
            methods.push(method.ok_or_else(|| wrong(name))?);
        }
        methods.dedup();
        let names = |names: &[String]| -> Result<Vec<HeaderName>, CorsError> {
            names
                .iter()
                .map(|name| HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name)))
                .collect()
        };
        let (headers, expose) = (names(&settings.headers)?, names(&settings.expose)?);
        Ok(Cors {
            allow_methods: joined(methods.iter().map(Method::as_str))
                .unwrap_or(HeaderValue::from_static("GET")),
            allow_headers: joined(headers.iter().map(HeaderName::as_str)),
            expose: joined(expose.iter().map(HeaderName::as_str)),
            max_age: HeaderValue::from(settings.max_age_s),
            credentials: settings.credentials,
            origins,
            methods,
            headers,
        })
    }

    /// Answers a preflight.
    pub(crate) fn preflight(&self, asked: &Preflight<'_>) -> Result<Response<EdgeBody>, PreflightError> {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().chars().take(128).collect();
        if !self.knows(asked.origin) {
            return Err(PreflightError::Origin { origin: text(asked.origin) });
        }
        if !self.methods.iter().any(|method| method.as_str() == asked.method) {
            return Err(PreflightError::Method { method: asked.method.chars().take(32).collect() });
        }
        for line in asked.headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            let names =
                line.to_str().unwrap_or("?").split(',').map(str::trim).filter(|name| !name.is_empty());
            for name in names {
                if !self.headers.iter().any(|known| known.as_str().eq_ignore_ascii_case(name)) {
                    return Err(PreflightError::Header { name: name.chars().take(128).collect() });
                }
            }
        }
        let mut answer = Response::new(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.allow_methods.clone());
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        if let Some(names) = &self.allow_headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers.append(
            header::VARY,
            HeaderValue::from_static("access-control-request-method, access-control-request-headers"),
        );
        Ok(answer)
    }

    /// Says on an answer of whatever status whether the page that asked may read it.
    pub(crate) fn tell(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        for name in SAID_HERE_ALONE {
            headers.remove(name);
        }
        if self.origins.is_some() {
            // A cache must not give one origin's answer to another, nor to a request of none.
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = origin.filter(|origin| self.knows(origin)) else { return };
        let allowed = if self.origins.is_some() { origin.clone() } else { HeaderValue::from_static("*") };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(names) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
    }

    /// Byte for byte: an origin is never a pattern.
    fn knows(&self, origin: &HeaderValue) -> bool {
        let listed =
            |origins: &Vec<String>| origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
        self.origins.as_ref().is_none_or(listed)
    }
}

/// As browsers serialise it (RFC 6454 section 6.2): lower case, no path, no default port. `null` is nobody's.
fn origin(text: &str) -> Result<String, CorsError> {
    let wrong = || CorsError::Origin { origin: text.to_owned() };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("https" | "http")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    let default_port = if scheme == "https" { 443 } else { 80 };
    let is_serialised = text == format!("{scheme}://{authority}") && text == text.to_ascii_lowercase();
    match is_serialised && !text.contains('@') && authority.port_u16() != Some(default_port) {
        true => Ok(text.to_owned()),
        false => Err(wrong()),
    }
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let text = names.collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&text).ok().filter(|text| !text.is_empty())
}

fn ten_minutes() -> u32 {
    600
}

const SAID_HERE_ALONE: [HeaderName; 3] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn compile(toml: &str) -> Result<Cors, CorsError> {
        Cors::compile(&toml::from_str(toml).unwrap())
    }

    #[test]
    fn rejects_every_page_of_the_world_with_its_visitors_cookies() {
        assert_eq!(compile("origins = [\"*\"]\ncredentials = true"), Err(CorsError::Anybody));
        assert_eq!(compile("origins = [\"*\", \"https://a.test\"]"), Err(CorsError::Anybody));
        assert_eq!(compile("origins = []"), Err(CorsError::Nobody));
        assert!(compile("origins = [\"*\"]").is_ok());
    }

    #[test]
    fn rejects_what_no_browser_would_send_as_an_origin() {
        for bad in [
            "null",
            "shop.test",
            "https://shop.test/",
            "https://Shop.test",
            "https://*.shop.test/x",
            "https://shop.test:443",
            "http://shop.test:80",
            "ftp://a",
            "https://u@shop.test",
        ] {
            let refused = compile(&format!("origins = [{bad:?}]"));
            assert_eq!(refused, Err(CorsError::Origin { origin: bad.into() }));
        }
        assert!(compile("origins = [\"https://shop.test\", \"http://localhost:3000\"]").is_ok());
    }

    #[test]
    fn rejects_names_that_are_none() {
        for list in ["methods = [\"put\"]", "headers = [\"a b\"]", "expose = [\"\"]"] {
            let refused = compile(&format!("origins = [\"https://a.test\"]\n{list}"));
            assert!(matches!(refused, Err(CorsError::Name { .. })), "{list}");
        }
    }
}
