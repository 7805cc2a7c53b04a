//! The canonical request.

use std::borrow::Cow;

use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri, Version};
use thiserror::Error;

use crate::{
    Authority, AuthorityError, AuthorityRef, Head, HeaderError, PathError, QueryError, authority, headers,
    path, query,
};

/// A request that can be read in exactly one way.
#[derive(Clone, Debug)]
pub struct CanonicalRequest {
    method: Method,
    authority: Authority,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

/// Why a request cannot be read in exactly one way.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Not one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS. No tunnels, no echo.
    #[error("method is not accepted: use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS")]
    Method,
    /// Not HTTP/1.0, 1.1 or 2.
    #[error("version of HTTP is not accepted: use 1.1 or 2")]
    Version,
    /// A target in absolute form of anything but HTTP.
    #[error("target is not of http or https: send one that is")]
    Scheme,
    /// See [`AuthorityError`].
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// See [`PathError`].
    #[error(transparent)]
    Path(#[from] PathError),
    /// See [`QueryError`].
    #[error(transparent)]
    Query(#[from] QueryError),
    /// See [`HeaderError`].
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl CanonicalRequest {
    /// Reads the head of a request. Nothing is repaired: except for the case of the host, of
    /// percent encodings and for delimiters that were encoded without need, what is accepted is
    /// what was sent.
    ///
    /// # Errors
    /// Everything that another reader could understand differently, and every limit of this crate.
    pub fn parse(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        version: Version,
    ) -> Result<Self, RequestError> {
        check_version(version)?;
        check_method(method)?;
        uri.scheme_str().map_or(Ok(()), check_scheme)?;
        headers::check(headers::lines(headers))?;
        let hosts = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
        let authority = authority::of_request(uri.authority().map(|a| a.as_str()), hosts)?.into_owned();
        // A URI in absolute form without a path means "/" (RFC 9112 section 3.2.2), and http::Uri
        // says so; everything else begins with a slash or is refused.
        let path = path::canonical(uri.path())?.into_owned();
        let query = uri.query().map(query::canonical).transpose()?.map(Cow::into_owned);
        Ok(Self { method: method.clone(), authority, path, query, headers: headers.clone() })
    }

    /// The method, one of seven.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// Whom the request was addressed to.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The canonical path; begins with `/`, has no dot segment and no empty one but the last.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The segments of the path, still percent encoded: `/` has one, which is empty.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        path::segments(&self.path)
    }

    /// The query without its `?`, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Path and query as they are sent upstream.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// The headers as they came, identity headers included: read evidence here, then pass on what
    /// [`crate::strip_identity_headers`] leaves.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl Head for CanonicalRequest {
    fn method(&self) -> &Method {
        &self.method
    }

    fn authority(&self) -> AuthorityRef<'_> {
        self.authority.as_ref()
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn header_values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

pub(crate) fn check_version(version: Version) -> Result<(), RequestError> {
    match version {
        Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2 => Ok(()),
        _ => Err(RequestError::Version),
    }
}

pub(crate) fn check_scheme(scheme: &str) -> Result<(), RequestError> {
    let known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    known.then_some(()).ok_or(RequestError::Scheme)
}

fn check_method(method: &Method) -> Result<(), RequestError> {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => Ok(()),
        _ => Err(RequestError::Method),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(method: Method, target: &str, version: Version) -> Result<CanonicalRequest, RequestError> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("Flea.test."));
        CanonicalRequest::parse(&method, &target.parse().unwrap(), &headers, version)
    }

    #[test]
    fn accepts_a_request_and_gives_its_parts() {
        let request = parse(Method::GET, "/ads/7?near=48.37,14.51", Version::HTTP_11).unwrap();
        assert_eq!(request.method(), Method::GET);
        assert_eq!(request.authority().to_string(), "flea.test");
        assert_eq!(request.path(), "/ads/7");
        assert_eq!(request.segments().collect::<Vec<_>>(), ["ads", "7"]);
        assert_eq!(request.query(), Some("near=48.37,14.51"));
        assert_eq!(request.path_and_query(), "/ads/7?near=48.37,14.51");
        assert_eq!(request.headers().len(), 1);
    }

    #[test]
    fn rejects_methods_that_tunnel_echo_or_are_unknown() {
        for method in [Method::CONNECT, Method::TRACE, "BREW".parse().unwrap()] {
            let refused = parse(method, "/ads", Version::HTTP_11).unwrap_err();
            assert_eq!(refused, RequestError::Method);
        }
    }

    #[test]
    fn rejects_versions_without_a_head_that_we_read() {
        for version in [Version::HTTP_09, Version::HTTP_3] {
            let refused = parse(Method::GET, "/ads", version).unwrap_err();
            assert_eq!(refused, RequestError::Version);
        }
    }

    #[test]
    fn rejects_a_path_that_two_readers_could_understand_differently() {
        let refused = parse(Method::GET, "/info/../private", Version::HTTP_2).unwrap_err();
        assert_eq!(refused, RequestError::Path(PathError::DotSegment));
    }

    #[test]
    fn a_fragment_reaches_neither_policy_nor_upstream() {
        // The http crate cuts it off before anybody sees it; what is left is the same for everybody.
        let request = parse(Method::GET, "/ads#/../admin", Version::HTTP_11).unwrap();
        assert_eq!((request.path(), request.path_and_query().as_str()), ("/ads", "/ads"));
    }

    #[test]
    fn rejects_the_target_of_options_for_the_whole_server() {
        let refused = parse(Method::OPTIONS, "*", Version::HTTP_11).unwrap_err();
        assert_eq!(refused, RequestError::Path(PathError::NoLeadingSlash));
    }

    #[test]
    fn rejects_headers_that_two_readers_could_understand_differently() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("flea.test"));
        headers.insert("x_forwarded_user", HeaderValue::from_static("mallory"));
        let parsed = CanonicalRequest::parse(&Method::GET, &Uri::from_static("/"), &headers, Version::HTTP_2);
        let alias = HeaderError::Alias("x_forwarded_user".to_owned());
        assert_eq!(parsed.unwrap_err(), RequestError::Header(alias));
    }

    #[test]
    fn rejects_a_token_in_the_url() {
        let refused = parse(Method::GET, "/ads?access_token=x", Version::HTTP_11).unwrap_err();
        assert_eq!(refused, RequestError::Query(QueryError::Token));
    }
}
