//! The borrowed head and the owned request are one rule, and the tree of routes is the definition of "most exact".
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use countersign_request::{
    CanonicalHead, CanonicalRequest, Field, Head, RequestError, RouteTable, RouteTemplate,
    is_identity_header, strip_hop_by_hop, strip_identity_headers,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use proptest::prelude::*;

type Line = (String, Vec<u8>);

fn fields(lines: &[Line]) -> Vec<Field<'_>> {
    lines.iter().map(|(name, value)| Field { name, value }).collect()
}

/// The same head by way of the types of `http`, or `None` where those cannot carry it.
fn owned(
    method: &str,
    target: &str,
    version: Version,
    lines: &[Line],
) -> Option<Result<CanonicalRequest, RequestError>> {
    let method: Method = method.parse().ok()?;
    let uri: Uri = target.parse().ok()?;
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(CanonicalRequest::parse(&method, &uri, &headers, version))
}

fn method() -> impl Strategy<Value = String> {
    one_of("GET GET GET GET GET GET GET GET GET GET GET GET GET GET GET GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT get BREW")
        .prop_map(str::to_owned)
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![12 => Just(Version::HTTP_11), 3 => Just(Version::HTTP_10), 1 => Just(Version::HTTP_09)]
}

fn target() -> impl Strategy<Value = String> {
    let start = one_of(
        r"/ / / / / / / / / / / / / / / / * http://flea.test HTTP://Flea.Test.:80/ https://[::1]:8443 ftp://flea.test/ flea.test:80
        http:/flea.test http:// http://user@flea.test/ ://flea.test/ http://flea.test:0/ a/http://b
        http://a_b.test/ http://a,b/ http://flea.test? http://[::g]/",
    );
    let piece = one_of(
        r#"/ / // . .. ... %2e %2F %5c \ ; %3b %00 %25 %41 %c3%a9 %ff % %4 @ %40 + %20 ? ? & = a a a b b B admin
        ~ * é access_token eyJh.a.b csb_x %3D : [ ] | { " ^ `"#,
    );
    (start, prop::collection::vec(piece, 0..10))
        .prop_map(|(start, pieces)| format!("{start}{}", pieces.concat()))
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let known = one_of(
        "Host host Connection Txn-Token txn_token X-Forwarded-User x_forwarded_user Content-Length Content_Length
        Transfer-Encoding transfer_encoding Authorization X-Identity accept X-Mine Expect TE Keep-Alive Upgrade",
    );
    let name = prop_oneof![
        8 => known.prop_map(str::to_owned),
        2 => "[a-zA-Z0-9_.-]{1,24}",
        1 => "[ -~]{0,2}",
    ];
    let text = one_of(
        "flea.test FLEA.test. flea.test:80 [::1]:8443 user@flea.test 5 5 5 +5 5,5 chunked close,X-Mine
        keep-alive,txn-token,authorization,x_mine Bearer\u{a0}abc é",
    );
    let value = prop_oneof![
        6 => text.prop_map(|text| text.as_bytes().to_vec()),
        1 => Just(b"a\tb, X-Mine ,accept".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ];
    let plain = one_of("accept x-mine connection te upgrade x-user x-forwarded-for").prop_map(str::to_owned);
    let plain =
        (plain, one_of("a b,c x-mine,close websocket Flea.test").prop_map(|text| text.as_bytes().to_vec()));
    let hostile = (name, value);
    let line = prop_oneof![1 => hostile, 9 => plain];
    prop::collection::vec(line, 0..7)
}

/// One of the words of a text.
fn one_of(words: &'static str) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words.split_ascii_whitespace().collect::<Vec<_>>())
}

/// One good `Host` first, more often than not.
fn with_host(host: bool, mut lines: Vec<Line>) -> Vec<Line> {
    if host {
        lines.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
        lines.insert(0, ("Host".to_owned(), b"flea.test".to_vec()));
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn the_borrowed_head_accepts_what_the_owned_request_accepts_and_gives_the_same_parts(
        method in method(), target in target(), version in version(), host in prop::bool::weighted(0.9), lines in lines(),
    ) {
        let lines = with_host(host, lines);
        let fields = fields(&lines);
        let head = CanonicalHead::read(&method, &target, version, &fields);
        let Some(Ok(request)) = owned(&method, &target, version, &lines) else {
            prop_assert!(head.is_err(), "{} {} {:?}", method, target, lines);
            return Ok(());
        };
        let head = head.unwrap();
        prop_assert_eq!(Head::method(&head), request.method());
        prop_assert_eq!(head.authority().into_owned(), request.authority().clone());
        prop_assert_eq!(head.path(), request.path());
        prop_assert_eq!(head.query(), request.query());
        for name in request.headers().keys() {
            prop_assert!(head.header_values(name).eq(request.header_values(name)), "{}", name);
            prop_assert_eq!(head.header(name), request.header(name));
        }
    }

    #[test]
    fn what_goes_on_is_what_stripping_the_owned_headers_leaves(host in prop::bool::weighted(0.9), lines in lines()) {
        let lines = with_host(host, lines);
        let fields = fields(&lines);
        let Ok(head) = CanonicalHead::read("GET", "/", Version::HTTP_11, &fields) else { return Ok(()) };
        let request = owned("GET", "/", Version::HTTP_11, &lines).unwrap().unwrap();
        let mut expected = request.headers().clone();
        strip_hop_by_hop(&mut expected);
        strip_identity_headers(&mut expected);
        for rewritten in ["host", "content-length", "expect"] {
            expected.remove(rewritten);
        }
        let onward: HeaderMap = head
            .onward()
            .map(|field| (field.name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(field.value).unwrap()))
            .fold(HeaderMap::new(), |mut map, (name, value)| { map.append(name, value); map });
        prop_assert_eq!(&onward, &expected);
        prop_assert!(!onward.keys().any(is_identity_header));
    }

    #[test]
    fn the_tree_finds_what_trying_every_template_finds(
        templates in prop::collection::vec(template(), 0..14), paths in prop::collection::vec(path(), 1..8),
    ) {
        let entries = templates.iter().enumerate().map(|(place, text)| (RouteTemplate::parse(text).unwrap(), place));
        let Ok(table) = RouteTable::new(entries) else { return Ok(()) };
        for path in paths {
            let lines = [("Host".to_owned(), b"flea.test".to_vec())];
            let fields = fields(&lines);
            let Ok(head) = CanonicalHead::read("GET", &path, Version::HTTP_11, &fields) else { continue };
            let linear = table.iter().find(|(template, _)| template.matches(&head));
            prop_assert_eq!(table.find(&head), linear, "{} in {:?}", path, templates);
        }
    }
}

fn template() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "c", "{x}", "{y}"]);
    let end = prop::sample::select(vec!["", "/", "/*", "/{*rest}"]);
    (prop::collection::vec(segment, 0..5), end).prop_map(|(segments, end)| match segments.is_empty() {
        true if end.is_empty() => "/".to_owned(),
        true => end.to_owned(),
        false => format!("/{}{end}", segments.join("/")),
    })
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "c", "d"]);
    (prop::collection::vec(segment, 0..6), any::<bool>()).prop_map(|(segments, slash)| {
        format!("/{}{}", segments.join("/"), if slash && !segments.is_empty() { "/" } else { "" })
    })
}

#[test]
fn a_fragment_is_refused_where_http_would_cut_it_off() {
    let lines = [("Host".to_owned(), b"flea.test".to_vec())];
    for target in ["/ads#x", "/ads?a#x", "http://flea.test/#", "http://flea.test#x"] {
        assert!(CanonicalHead::read("GET", target, Version::HTTP_11, &fields(&lines)).is_err(), "{target}");
    }
}

#[test]
fn many_routes_are_found_as_one_is() {
    let template = |n: usize| RouteTemplate::parse(&format!("/svc{n}/{{id}}/edit")).unwrap();
    let table = RouteTable::new((0..10_000).map(|n| (template(n), n))).unwrap();
    let lines = [("Host".to_owned(), b"flea.test".to_vec())];
    let fields = fields(&lines);
    for n in [0, 1, 4711, 9999] {
        let target = format!("/svc{n}/7/edit");
        let head = CanonicalHead::read("GET", &target, Version::HTTP_11, &fields).unwrap();
        assert_eq!(table.find(&head).unwrap().1, &n);
    }
}

#[test]
fn an_ordinary_head_is_borrowed_whole() {
    let lines = [("Host".to_owned(), b"flea.test:80".to_vec()), ("Accept".to_owned(), b"*/*".to_vec())];
    let fields = fields(&lines);
    let target = "/ads/7?near=48.37,14.51";
    let head = CanonicalHead::read("GET", target, Version::HTTP_11, &fields).unwrap();
    assert!(target.as_bytes().as_ptr_range().contains(&head.path().as_ptr()));
    assert!(target.as_bytes().as_ptr_range().contains(&head.query().unwrap().as_ptr()));
    assert!(lines[0].1.as_ptr_range().contains(&head.authority().host().as_ptr()));
}

#[test]
fn rejects_a_name_that_is_no_token_and_a_scheme_that_is_not_http() {
    use countersign_request::HeaderError;
    let host = ("Host".to_owned(), b"flea.test".to_vec());
    let lines = [host.clone(), ("a b".to_owned(), b"c".to_vec())];
    let refused = CanonicalHead::read("GET", "/", Version::HTTP_11, &fields(&lines)).unwrap_err();
    assert_eq!(refused, RequestError::Header(HeaderError::BadName));
    let refused =
        CanonicalHead::read("GET", "ftp://flea.test/", Version::HTTP_11, &fields(&[host])).unwrap_err();
    assert_eq!(refused, RequestError::Scheme);
    let uri = Uri::from_static("ftp://flea.test/");
    let refused =
        CanonicalRequest::parse(&Method::GET, &uri, &HeaderMap::new(), Version::HTTP_2).unwrap_err();
    assert_eq!(refused, RequestError::Scheme);
}
