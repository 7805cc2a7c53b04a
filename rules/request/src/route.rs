//! Route templates: what policies, metrics and the ledger say instead of a path.

use std::fmt;

use thiserror::Error;

use crate::route_tree::RouteTree;
use crate::{Head, path};

/// Longest template, in bytes.
pub const ROUTE_BYTES_MAX: usize = 256;
/// Most segments of a template.
pub const ROUTE_SEGMENTS_MAX: usize = 32;

/// A path with holes: `/ads/{id}/buy`, or `/media/*` for everything below `/media/`.
///
/// A hole is one segment that is not empty. Case counts, and so does a trailing slash. `/*` is every path, `/` among them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTemplate {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Segment {
    Literal(String),
    Hole,
    Rest,
}

/// Why something is not a route template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Over [`ROUTE_BYTES_MAX`].
    #[error("route has {bytes} bytes: at most {ROUTE_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Over [`ROUTE_SEGMENTS_MAX`].
    #[error("route has {segments} segments: at most {ROUTE_SEGMENTS_MAX} are allowed")]
    TooManySegments {
        /// How many there are.
        segments: usize,
    },
    /// Begins with anything but `/`.
    #[error("route does not begin with '/'")]
    NoLeadingSlash,
    /// An empty, `.` or `..` segment: no canonical path would match.
    #[error("route has the segment {0:?}, which no request can have")]
    Unreachable(String),
    /// Neither plain text, nor a hole such as `{id}`, nor `*`.
    #[error("route has the segment {0:?}: write plain text, a hole such as {{id}}, or * at the end")]
    BadSegment(String),
    /// `*` before the end.
    #[error("route has a '*' before its end: only the last segment may be one")]
    RestNotLast,
}

impl RouteTemplate {
    /// Reads a template; `/{*rest}` is accepted for `/*`.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        if text.len() > ROUTE_BYTES_MAX {
            return Err(RouteError::TooLong { bytes: text.len() });
        }
        if !text.starts_with('/') {
            return Err(RouteError::NoLeadingSlash);
        }
        let count = path::segments(text).count();
        if count > ROUTE_SEGMENTS_MAX {
            return Err(RouteError::TooManySegments { segments: count });
        }
        let mut segments = Vec::with_capacity(count);
        for (position, segment) in path::segments(text).enumerate() {
            let is_last = position.saturating_add(1) == count;
            segments.push(parse_segment(segment, is_last)?);
        }
        Ok(Self { text: text.to_owned(), segments })
    }

    /// The template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the path of this request has this form.
    #[must_use]
    pub fn matches(&self, request: &impl Head) -> bool {
        self.matches_segments(path::segments(request.path()))
    }

    fn matches_segments<'a>(&self, mut path: impl Iterator<Item = &'a str>) -> bool {
        for (position, segment) in self.segments.iter().enumerate() {
            let matched = match (segment, path.next()) {
                (Segment::Rest, rest) => return position == 0 || rest.is_some_and(|first| !first.is_empty()),
                (Segment::Hole, Some(part)) => !part.is_empty(),
                (Segment::Literal(text), Some(part)) => text == part,
                (_, None) => false,
            };
            if !matched {
                return false;
            }
        }
        path.next().is_none()
    }

    /// Whether some path could match both and neither is the more exact one.
    fn same_shape(&self, other: &Self) -> bool {
        self.segments == other.segments
    }
}

fn parse_segment(segment: &str, is_last: bool) -> Result<Segment, RouteError> {
    let is_hole =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let inside = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let is_rest = segment == "*" || inside.and_then(|inside| inside.strip_prefix('*')).is_some_and(is_hole);
    if is_rest {
        return if is_last { Ok(Segment::Rest) } else { Err(RouteError::RestNotLast) };
    }
    if inside.is_some_and(is_hole) {
        return Ok(Segment::Hole);
    }
    if matches!(segment, "." | "..") || (segment.is_empty() && !is_last) {
        return Err(RouteError::Unreachable(segment.to_owned()));
    }
    if !segment.chars().all(path::is_plain) {
        return Err(RouteError::BadSegment(segment.to_owned()));
    }
    Ok(Segment::Literal(segment.to_owned()))
}

impl fmt::Display for RouteTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Templates, each with what is known about it. The most exact template wins whatever the order
/// they were written in: text before a hole, a hole before `*`, read from the left.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    entries: Vec<(RouteTemplate, T)>,
    tree: RouteTree,
}

/// Why templates do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteTableError {
    /// Two templates that match the same paths.
    #[error("routes {first} and {second} match the same paths: keep one")]
    Ambiguous {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
}

impl<T> Default for RouteTable<T> {
    /// An empty table.
    fn default() -> Self {
        Self { entries: Vec::new(), tree: RouteTree::default() }
    }
}

impl<T> RouteTable<T> {
    /// Orders the templates.
    ///
    /// # Errors
    /// Two templates differ in nothing but the names of their holes.
    pub fn new(entries: impl IntoIterator<Item = (RouteTemplate, T)>) -> Result<Self, RouteTableError> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.segments.cmp(&b.segments));
        for ((a, _), (b, _)) in entries.iter().zip(entries.iter().skip(1)) {
            if a.same_shape(b) {
                let (first, second) = (a.text.clone(), b.text.clone());
                return Err(RouteTableError::Ambiguous { first, second });
            }
        }
        let mut tree = RouteTree::default();
        for (place, (template, _)) in entries.iter().enumerate() {
            tree.insert(&template.segments, place);
        }
        Ok(Self { entries, tree })
    }

    /// The most exact template that matches, and what is known about it. How many others there are makes no difference.
    #[must_use]
    pub fn find(&self, request: &impl Head) -> Option<(&RouteTemplate, &T)> {
        let (template, known) = self.entries.get(self.tree.find(request.path())?)?;
        Some((template, known))
    }

    /// Every template with what is known about it, the most exact first.
    pub fn iter(&self) -> impl Iterator<Item = (&RouteTemplate, &T)> {
        self.entries.iter().map(|(template, known)| (template, known))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn template(text: &str) -> RouteTemplate {
        RouteTemplate::parse(text).unwrap()
    }

    fn matches(text: &str, path: &str) -> bool {
        template(text).matches_segments(path::segments(path))
    }

    #[test]
    fn a_template_matches_whole_paths_only() {
        assert!(matches("/", "/"));
        assert!(matches("/ads/{id}/buy", "/ads/7/buy"));
        assert!(!matches("/ads/{id}/buy", "/ads/7/buy/now"));
        assert!(!matches("/ads/{id}/buy", "/ads/7"));
        assert!(!matches("/ads/{id}/buy", "/ads//buy"));
        assert!(!matches("/ads", "/ads/"));
        assert!(!matches("/ads", "/Ads"));
        assert!(!matches("/ads", "/adsx"));
    }

    #[test]
    fn a_star_matches_everything_below_and_not_the_parent() {
        for text in ["/media/*", "/media/{*rest}"] {
            assert!(matches(text, "/media/a"));
            assert!(matches(text, "/media/a/b/c"));
            assert!(!matches(text, "/media"));
            assert!(!matches(text, "/media/"));
        }
    }

    #[test]
    fn a_star_alone_matches_every_path_and_a_more_exact_template_still_wins() {
        for text in ["/*", "/{*rest}"] {
            assert!(matches(text, "/") && matches(text, "/a") && matches(text, "/a/b/"), "{text}");
        }
        let find = |texts: &[&str], path: &str| {
            let table = RouteTable::new(texts.iter().map(|text| (template(text), ()))).unwrap();
            table.tree.find(path).map(|place| table.entries[place].0.to_string())
        };
        assert_eq!(find(&["/*"], "/").unwrap(), "/*");
        assert_eq!(find(&["/*", "/"], "/").unwrap(), "/");
        assert_eq!(find(&["/a/*"], "/"), None);
        assert_eq!(find(&["/a/*"], "/a/"), None);
    }

    #[test]
    fn rejects_each_way_to_be_wrong_with_its_own_error() {
        let error = |text: &str| RouteTemplate::parse(text).unwrap_err();
        assert_eq!(error("ads"), RouteError::NoLeadingSlash);
        assert_eq!(error("/a//b"), RouteError::Unreachable(String::new()));
        assert_eq!(error("/a/../b"), RouteError::Unreachable("..".into()));
        for bad in ["{", "{}", "{a-b}", "a{b}", "a b", "%41", "{*}", "**", ":id"] {
            assert_eq!(error(&format!("/{bad}")), RouteError::BadSegment(bad.into()));
        }
        assert_eq!(error("/*/buy"), RouteError::RestNotLast);
        assert_eq!(error("/{*rest}/buy"), RouteError::RestNotLast);
    }

    #[test]
    fn accepts_limits_and_rejects_one_past_them() {
        assert!(RouteTemplate::parse(&format!("/{}", "a".repeat(255))).is_ok());
        let refused = RouteTemplate::parse(&format!("/{}", "a".repeat(256)));
        assert_eq!(refused, Err(RouteError::TooLong { bytes: 257 }));
        assert!(RouteTemplate::parse(&"/a".repeat(ROUTE_SEGMENTS_MAX)).is_ok());
        let refused = RouteTemplate::parse(&"/a".repeat(ROUTE_SEGMENTS_MAX + 1));
        assert_eq!(refused, Err(RouteError::TooManySegments { segments: 33 }));
    }

    #[test]
    fn the_most_exact_template_wins_in_whatever_order_they_are_written() {
        let find = |texts: [&str; 3], path: &str| {
            let table = RouteTable::new(texts.map(|text| (template(text), ()))).unwrap();
            let place = table.tree.find(path);
            place.map(|place| table.entries[place].0.to_string())
        };
        for texts in [["/ads/*", "/ads/{id}", "/ads/new"], ["/ads/new", "/ads/{id}", "/ads/*"]] {
            assert_eq!(find(texts, "/ads/new").unwrap(), "/ads/new");
            assert_eq!(find(texts, "/ads/7").unwrap(), "/ads/{id}");
            assert_eq!(find(texts, "/ads/7/buy").unwrap(), "/ads/*");
            assert_eq!(find(texts, "/users"), None);
        }
    }

    #[test]
    fn rejects_two_templates_that_match_the_same_paths() {
        let twice = [(template("/ads/{id}"), 1), (template("/ads/{ad}"), 2)];
        let refused = RouteTable::new(twice).unwrap_err();
        let expected = RouteTableError::Ambiguous { first: "/ads/{id}".into(), second: "/ads/{ad}".into() };
        assert_eq!(refused, expected);
    }
}
