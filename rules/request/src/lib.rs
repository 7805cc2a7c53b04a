//! One request, read once: the same method, authority, path and headers for routing, policy, token
//! binding, upstream and ledger.
//!
//! Nearly every gateway CVE of the last years is one mistake: policy and upstream saw different
//! requests. So what cannot be read in exactly one way is refused here, before anybody decides, and
//! nothing is repaired: `/info/../private` is not `/private`, it is an error.
//!
//! ```
//! use countersign_request::{CanonicalRequest, RouteTemplate};
//! use http::{HeaderMap, HeaderValue, Method, Uri, Version, header::HOST};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(HOST, HeaderValue::from_static("Flea.test:8443"));
//! let uri = Uri::from_static("/ads/7/buy?quantity=1");
//! let request = CanonicalRequest::parse(&Method::POST, &uri, &headers, Version::HTTP_11)?;
//!
//! assert_eq!(request.authority().host(), "flea.test");
//! assert!(RouteTemplate::parse("/ads/{id}/buy").is_ok_and(|route| route.matches(&request)));
//! # Ok::<(), countersign_request::RequestError>(())
//! ```

mod authority;
mod bytes;
mod canonical;
mod head;
mod headers;
mod names;
mod path;
mod query;
mod route;
mod route_tree;

pub use authority::{AUTHORITY_BYTES_MAX, Authority, AuthorityError, AuthorityRef};
pub use canonical::{CanonicalRequest, RequestError};
pub use head::{CanonicalHead, Field, Head};
pub use headers::{
    CONNECTION_NAMES_MAX, DPOP, HEADER_COUNT_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX,
    HEADERS_BYTES_MAX, HeaderError, IDENTITY_HEADER_PREFIXES, IDENTITY_HEADERS, SIGNING_CHAIN, TXN_TOKEN,
    USER_TOKEN, WORKLOAD_IDENTITY_TOKEN, WORKLOAD_PROOF_TOKEN, content_length, counts_once, is_hop_by_hop,
    is_identity_header, strip_hop_by_hop, strip_identity_headers,
};
pub use path::{PATH_BYTES_MAX, PATH_SEGMENTS_MAX, PathError};
pub use query::{QUERY_BYTES_MAX, QueryError};
pub use route::{
    ROUTE_BYTES_MAX, ROUTE_SEGMENTS_MAX, RouteError, RouteTable, RouteTableError, RouteTemplate,
};
