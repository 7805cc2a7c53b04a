//! The canonical request without a copy of it: every part borrowed from the bytes that came.

use std::borrow::Cow;

use http::{HeaderName, Method, Version};

use crate::bytes::split_once;
use crate::canonical::{RequestError, check_scheme, check_version};
use crate::headers;
use crate::names;
use crate::{AuthorityRef, authority, path, query};

/// One header line: its name in whatever case it came, its value without the space around it.
pub use httparse::Header as Field;

/// What the stages read of a request, whether it is borrowed ([`CanonicalHead`]) or owned
/// ([`crate::CanonicalRequest`]).
pub trait Head {
    /// One of seven.
    fn method(&self) -> &Method;

    /// Whom the request was addressed to.
    fn authority(&self) -> AuthorityRef<'_>;

    /// The canonical path; begins with `/`, has no dot segment and no empty one but the last.
    fn path(&self) -> &str;

    /// The query without its `?`, if there is one.
    fn query(&self) -> Option<&str>;

    /// The value of each header of this name, in the order in which they came.
    fn header_values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// The first value of a header.
    fn header<'a>(&'a self, name: &'a HeaderName) -> Option<&'a [u8]> {
        self.header_values(name).next()
    }
}

/// A request of HTTP/1 that can be read in exactly one way, borrowed from a buffer.
///
/// It accepts what [`crate::CanonicalRequest::parse`] accepts, by the same checks, and reads the same parts. Only where
/// what came is not the canonical spelling (upper case in the host, encoded delimiters in the path) does it allocate.
#[derive(Clone, Debug)]
pub struct CanonicalHead<'a> {
    method: Method,
    authority: AuthorityRef<'a>,
    path: Cow<'a, str>,
    query: Option<Cow<'a, str>>,
    fields: &'a [Field<'a>],
    /// One bit for each field that ends here.
    ends_here: u128,
}

impl<'a> CanonicalHead<'a> {
    /// Reads the parts of a request line and the fields after it.
    ///
    /// `target` is as it was sent, in origin form or in absolute form (RFC 9112 section 3.2).
    ///
    /// # Errors
    /// Everything that another reader could understand differently, and every limit of this crate.
    pub fn read(
        method: &str,
        target: &'a str,
        version: Version,
        fields: &'a [Field<'a>],
    ) -> Result<Self, RequestError> {
        check_version(version)?;
        let method = known_method(method)?;
        let found = headers::check(fields.iter().map(|field| (field.name, field.value)))?;
        let target = split_target(target)?;
        let hosts = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
        let authority = authority::of_request(target.authority, hosts.map(|field| field.value))?;
        let path = path::canonical(target.path)?;
        let query = target.query.map(query::canonical).transpose()?;
        let ends_here =
            if found.connection { found.ends_here | listed_by_connection(fields) } else { found.ends_here };
        Ok(Self { method, authority, path, query, fields, ends_here })
    }

    /// Every header line as it came.
    #[must_use]
    pub const fn fields(&self) -> &'a [Field<'a>] {
        self.fields
    }

    /// The header lines that go on to the next hop: none that may carry an identity, none about this connection (those
    /// that `Connection` lists included), and neither `Host`, `Content-Length` nor `Expect`, which whoever writes the next
    /// request states himself.
    pub fn onward(&self) -> impl Iterator<Item = &'a Field<'a>> + use<'a> {
        let mut ends_here = self.ends_here;
        self.fields.iter().filter(move |_| {
            let goes_on = ends_here & 1 == 0;
            ends_here >>= 1;
            goes_on
        })
    }
}

impl Head for CanonicalHead<'_> {
    fn method(&self) -> &Method {
        &self.method
    }

    fn authority(&self) -> AuthorityRef<'_> {
        self.authority.reborrow()
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn header_values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let wanted = self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_str()));
        wanted.map(|field| field.value)
    }
}

/// One bit for each field that ends here because `Connection` lists its name.
fn listed_by_connection(fields: &[Field<'_>]) -> u128 {
    let mut ending = 0;
    let connections = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
    for listed in connections.flat_map(|field| headers::listed_names(field.value)) {
        for (place, field) in fields.iter().enumerate() {
            let name = field.name.as_bytes();
            if name.eq_ignore_ascii_case(listed) && headers::ends_when_listed(names::traits(name)) {
                ending |= 1 << place;
            }
        }
    }
    ending
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

/// Splits a target in origin form or absolute form; the other two forms have no path, and so are refused with it.
fn split_target(target: &str) -> Result<Target<'_>, RequestError> {
    let (authority, rest) = if target.starts_with('/') { (None, target) } else { split_absolute(target)? };
    let (path, query) = split_once(rest, b'?').map_or((rest, None), |(path, query)| (path, Some(query)));
    // Absolute form without a path means "/" (RFC 9112 section 3.2.2).
    let path = if authority.is_some() && path.is_empty() { "/" } else { path };
    Ok(Target { authority, path, query })
}

/// The authority of a target in absolute form, and what follows it.
fn split_absolute(target: &str) -> Result<(Option<&str>, &str), RequestError> {
    let Some((scheme, rest)) = target.split_once("://") else { return Ok((None, target)) };
    check_scheme(scheme)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
    Ok((Some(authority), rest))
}

fn known_method(name: &str) -> Result<Method, RequestError> {
    match name {
        "GET" => Ok(Method::GET),
        "HEAD" => Ok(Method::HEAD),
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "PATCH" => Ok(Method::PATCH),
        "DELETE" => Ok(Method::DELETE),
        "OPTIONS" => Ok(Method::OPTIONS),
        _ => Err(RequestError::Method),
    }
}
