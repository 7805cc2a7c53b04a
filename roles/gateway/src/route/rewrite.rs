//! Another path for the upstream. Routing, policy and ledger have seen the canonical path that came; what goes out in its
//! place is judged as strictly as that one was.

use countersign_request::{CanonicalRequest, RequestError, RouteTemplate};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Uri, Version};

use super::error::RouteError;

/// `rewrite_prefix`: what stands in place of the text that a template begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// The text before the first hole, without a last slash.
    from: String,
    /// The same for the upstream.
    to: String,
}

/// Why the path for the upstream cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The template matched, its text did not: routing and rewriting disagree.
    #[error("the path does not begin with {from}, which rewrite_prefix replaces")]
    Prefix {
        /// Text of the template.
        from: String,
    },
    /// What came out is not a path that could have come in.
    #[error("the path after rewrite_prefix cannot be read in one way: {source}")]
    Unreadable {
        /// Why.
        source: RequestError,
    },
    /// It is a path, but in another spelling.
    #[error("the path after rewrite_prefix is not in its canonical form")]
    NotCanonical,
}

impl Rewrite {
    pub(super) fn new(template: &RouteTemplate, prefix: &str) -> Result<Self, RouteError> {
        let path = || template.as_str().to_owned();
        let refused = || RouteError::Rewrite { path: path(), prefix: prefix.to_owned() };
        let is_plain = |prefix: &str| {
            let holes = prefix.contains(['{', '*']);
            (prefix == "/" || !prefix.ends_with('/')) && !holes && RouteTemplate::parse(prefix).is_ok()
        };
        if !is_plain(prefix) {
            return Err(refused());
        }
        let mut from = String::new();
        for segment in path().split('/').skip(1).take_while(|segment| !is_hole(segment)) {
            if !segment.is_empty() {
                from.push('/');
                from.push_str(segment);
            }
        }
        Ok(Rewrite { from, to: prefix.trim_end_matches('/').to_owned() })
    }

    /// Path and query for the upstream.
    ///
    /// # Errors
    /// What comes out could be read in two ways, or breaks a limit.
    pub(crate) fn apply(&self, request: &CanonicalRequest) -> Result<String, RewriteError> {
        let rest = request.path().strip_prefix(&self.from);
        let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let rest = rest.ok_or_else(|| RewriteError::Prefix { from: self.from.clone() })?;
        let mut path = format!("{}{rest}", self.to);
        if path.is_empty() {
            path.push('/');
        }
        let read = self.read(request, &path)?;
        if read.path() != path {
            return Err(RewriteError::NotCanonical);
        }
        Ok(match request.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        })
    }

    /// The new path, as if it had come in.
    fn read(&self, request: &CanonicalRequest, path: &str) -> Result<CanonicalRequest, RewriteError> {
        let host = HeaderValue::from_str(&request.authority().to_string());
        let (Ok(host), Ok(uri)) = (host, path.parse::<Uri>()) else { return Err(RewriteError::NotCanonical) };
        let headers = HeaderMap::from_iter([(HOST, host)]);
        CanonicalRequest::parse(request.method(), &uri, &headers, Version::HTTP_11)
            .map_err(|source| RewriteError::Unreadable { source })
    }
}

fn is_hole(segment: &str) -> bool {
    segment == "*" || segment.starts_with('{')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_request::{PATH_BYTES_MAX, PATH_SEGMENTS_MAX, PathError};
    use http::Method;

    use super::*;

    fn request(target: &str) -> CanonicalRequest {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("flea.test:8443"))]);
        CanonicalRequest::parse(&Method::GET, &target.parse().unwrap(), &headers, Version::HTTP_11).unwrap()
    }

    fn rewrite(template: &str, prefix: &str) -> Result<Rewrite, RouteError> {
        Rewrite::new(&RouteTemplate::parse(template).unwrap(), prefix)
    }

    fn applied(template: &str, prefix: &str, target: &str) -> Result<String, RewriteError> {
        rewrite(template, prefix).unwrap().apply(&request(target))
    }

    #[test]
    fn the_text_before_the_first_hole_is_replaced_and_nothing_else() {
        for (template, prefix, target, expected) in [
            ("/ads/*", "/v2", "/ads/7/ads?near=1,2", "/v2/7/ads?near=1,2"),
            ("/ads/*", "/", "/ads/7", "/7"),
            ("/ads/{id}/buy", "/v2/shop", "/ads/7/buy", "/v2/shop/7/buy"),
            ("/ads", "/v2", "/ads", "/v2"),
            ("/ads", "/", "/ads", "/"),
            ("/ads/", "/v2", "/ads/", "/v2/"),
            ("/*", "/v2", "/a/b", "/v2/a/b"),
            ("/{id}", "/v2", "/7", "/v2/7"),
            ("/", "/v2", "/", "/v2/"),
        ] {
            assert_eq!(applied(template, prefix, target).unwrap(), expected, "{template} {prefix}");
        }
    }

    #[test]
    fn rejects_a_prefix_that_is_no_plain_path() {
        for bad in ["", "v2", "/v2/", "/v2/*", "/{v}", "/a/../b", "/a//b", "/a b", "/%2e", "/a?b"] {
            assert!(matches!(rewrite("/ads/*", bad), Err(RouteError::Rewrite { .. })), "{bad}");
        }
    }

    #[test]
    fn rejects_what_breaks_a_limit_only_after_it_was_rewritten() {
        let long = format!("/a/{}", "x".repeat(PATH_BYTES_MAX - 3));
        let refused = applied("/a/*", "/longer", &long).unwrap_err();
        assert!(matches!(refused, RewriteError::Unreadable { source: RequestError::Path(_) }), "{refused:?}");
        let deep = format!("/a{}", "/b".repeat(PATH_SEGMENTS_MAX - 1));
        let refused = applied("/a/*", "/a/a", &deep).unwrap_err();
        let expected = PathError::TooManySegments { segments: PATH_SEGMENTS_MAX + 1 };
        assert_eq!(refused, RewriteError::Unreadable { source: RequestError::Path(expected) });
    }

    #[test]
    fn rejects_a_path_that_its_own_route_does_not_begin() {
        let refused = applied("/ads/*", "/v2", "/adsx/7").unwrap_err();
        assert_eq!(refused, RewriteError::Prefix { from: "/ads".into() });
        assert!(RewriteError::NotCanonical.to_string().contains("rewrite_prefix"));
    }
}
