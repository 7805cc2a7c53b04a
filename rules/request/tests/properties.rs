//! Properties of the canonical request.
#![allow(clippy::unwrap_used, missing_docs)]

use countersign_request::{
    Authority, CanonicalRequest, RouteTemplate, strip_hop_by_hop, strip_identity_headers,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header::HOST};
use proptest::prelude::*;

/// Request targets made of what gateways have been fooled with.
fn target() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2F",
        "%5c",
        "\\",
        ";",
        "%3b",
        "%00",
        "%25",
        "%41",
        "%c3%a9",
        "%C3%A9",
        "%ff",
        "%",
        "%4",
        "@",
        "%40",
        "+",
        "%2B",
        "%20",
        "?",
        "#",
        "&",
        "=",
        "a",
        "B",
        "admin",
        "~",
        "*",
        "é",
        "access_token",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn parse(target: &str) -> Option<CanonicalRequest> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("flea.test"));
    let uri: Uri = target.parse().ok()?;
    CanonicalRequest::parse(&Method::GET, &uri, &headers, Version::HTTP_11).ok()
}

/// How the most lenient reader understands a path: decoded again and again, every separator a
/// slash, parameters dropped, dots resolved.
fn lenient(path: &str) -> Vec<String> {
    let mut text = path.to_owned();
    for _ in 0..4 {
        text = decode(&text);
    }
    let mut resolved: Vec<String> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(resolved.pop()),
            plain => resolved.push(plain.to_owned()),
        }
    }
    resolved
}

/// How a strict reader understands it: split first, then decoded once.
fn strict(path: &str) -> Vec<String> {
    path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    let odd = "[a-zA-Z0-9_.-]{1,24}";
    let known = prop::sample::select(vec![
        "host",
        "connection",
        "txn-token",
        "txn_token",
        "x-forwarded-user",
        "x_forwarded_user",
        "content-length",
        "transfer-encoding",
        "authorization",
        "x-identity",
    ]);
    prop_oneof![odd, known.prop_map(str::to_owned)].prop_map(|name| name.parse().unwrap())
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let text = prop_oneof![
        Just(b"flea.test".to_vec()),
        Just(b"txn-token, x-identity, close".to_vec()),
        prop::collection::vec(any::<u8>(), 0..24),
    ];
    let value = text.prop_filter_map("not a header value", |bytes| HeaderValue::from_bytes(&bytes).ok());
    prop::collection::vec((header_name(), value), 0..12).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_target_and_no_headers_make_it_panic(target in any::<String>(), headers in headers()) {
        if let Ok(uri) = target.parse::<Uri>() {
            let _ = CanonicalRequest::parse(&Method::GET, &uri, &headers, Version::HTTP_11);
        }
        let _ = Authority::parse(&target);
        let _ = RouteTemplate::parse(&target);
    }

    #[test]
    fn what_is_accepted_is_read_in_exactly_one_way(target in target()) {
        if let Some(request) = parse(&target) {
            prop_assert_eq!(lenient(request.path()), strict(request.path()), "{}", target);
            let sent = target.split(['?', '#']).next().unwrap_or_default();
            prop_assert_eq!(strict(sent), strict(request.path()), "canonical means the same as sent");
        }
    }

    #[test]
    fn the_canonical_form_is_its_own_canonical_form(target in target()) {
        if let Some(request) = parse(&target) {
            let again = parse(&request.path_and_query()).unwrap();
            prop_assert_eq!(again.path_and_query(), request.path_and_query());
        }
    }

    #[test]
    fn after_stripping_nothing_is_left_that_a_reader_could_take_for_an_identity(headers in headers()) {
        let mut headers = headers;
        strip_identity_headers(&mut headers);
        for name in headers.keys() {
            let read_as = name.as_str().replace(['_', '.'], "-");
            prop_assert!(!matches!(read_as.as_str(), "txn-token" | "x-identity"), "{}", name);
            prop_assert!(!read_as.starts_with("x-forwarded-"), "{}", name);
        }
    }

    #[test]
    fn no_connection_header_deletes_what_we_set(headers in headers()) {
        let mut headers = headers;
        headers.insert("txn-token", HeaderValue::from_static("ours"));
        headers.insert("x-identity", HeaderValue::from_static("ours"));
        strip_hop_by_hop(&mut headers);
        prop_assert_eq!(headers.get("txn-token").unwrap(), "ours");
        prop_assert_eq!(headers.get("x-identity").unwrap(), "ours");
        prop_assert!(!headers.contains_key("connection"));
        prop_assert!(!headers.contains_key("transfer-encoding"));
    }

    #[test]
    fn a_host_that_is_accepted_reads_back(host in "[a-zA-Z0-9._:\\[\\]-]{0,40}") {
        if let Ok(authority) = Authority::parse(&host) {
            prop_assert_eq!(Authority::parse(&authority.to_string()).unwrap(), authority);
        }
    }
}
