//! One request, read in one way: the upstream sees exactly one identical request, or the client gets a refusal.
//!
//! Each test sends exact bytes over a socket of its own; the upstream records everything that arrives.
use crate::rig::client::{bearer, head_and_body, raw};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, Running};

const ROUTES: &str = r#"
[[route]]
path = "/open/*"
to = "ads"
user = "optional"
[[route]]
path = "/admin"
methods = ["DELETE"]
to = "ads"
"#;

const RULES: &str = r#"
@id("open")
permit (principal, action, resource == Route::"gateway /open/*");
"#;

/// A gateway before an upstream without a door, which shows everything that the gateway lets out.
async fn deployment() -> (Rig, Running, Seen) {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}", "/admin", "/{*rest}"], &seen)).await;
    let edge = rig.gateway(ROUTES).await;
    (rig, edge, seen)
}

fn line_and_headers(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: flea.test\r\n{headers}\r\n")
}

#[tokio::test]
async fn accepts_plain_requests_and_passes_them_on_unchanged() {
    let (_rig, edge, seen) = deployment().await;
    for (target, path, query) in [
        ("/open/a", "/open/a", None),
        ("/open/a/", "/open/a/", None),
        ("/open/a%20b", "/open/a%20b", None),
        ("/open/caf%C3%A9", "/open/caf%C3%A9", None),
        ("/open/a?near=48.37,14.51&q=%2F", "/open/a", Some("near=48.37,14.51&q=%2F")),
        ("http://flea.test/open/absolute", "/open/absolute", None),
    ] {
        let before = seen.count();
        let answer = raw(edge.plain, line_and_headers(target, "")).await;
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(seen.count(), before + 1, "{target}");
        assert_eq!(seen.last()["path"], path);
        assert_eq!(seen.last()["query"].as_str(), query);
    }
}

#[tokio::test]
async fn rejects_every_path_that_two_readers_could_understand_differently() {
    let (_rig, edge, seen) = deployment().await;
    for target in [
        "/open/../admin",
        "/open/..",
        "/open/.",
        "/open/./a",
        "/open//admin",
        "//admin",
        "//open/a",
        "/open/%2e%2e/admin",
        "/open/.%2E/admin",
        "/open/a%2Fb",
        "/open/a%2fb",
        "/open/a%5Cb",
        "/open/a\\b",
        "/open/..\\admin",
        "/open/a%00",
        "/open/a%00.png",
        "/open/a;b=c",
        "/open/..;/admin",
        "/open;/a",
        "/open/a%3Bb",
        "/open/%61",
        "/open/a%",
        "/open/a%2",
        "/open/a%zz",
        "/open/%C0%AF",
        "/open/%FF",
        "/open/a%0d%0aX: y",
        "/open/a%23b",
        "/open/a%3Fb",
        "/open/a%252e",
        "*",
        "open/a",
        "/open/a?access_token=eyJ",
        "/open/a?q=%00",
    ] {
        let answer = raw(edge.plain, line_and_headers(target, "")).await;
        assert!(answer.status == 400, "{target}: {answer:?}");
    }
    assert_eq!(seen.count(), 0, "{:?}", seen.all());
}

#[tokio::test]
async fn a_fragment_never_reaches_the_decided_path() {
    let (_rig, edge, seen) = deployment().await;
    for target in ["/open/a#/../admin", "/open/a#b", "/admin#/open/a"] {
        let answer = raw(edge.plain, line_and_headers(target, "")).await;
        // The HTTP library cuts a fragment off before anybody reads the path: all readers see the same rest.
        assert!(answer.status != 200 || seen.last()["path"] == "/open/a", "{target}: {answer:?}");
    }
    assert!(seen.all().iter().all(|saw| saw["path"] == "/open/a"));
}

#[tokio::test]
async fn rejects_control_bytes_in_the_head() {
    let (_rig, edge, seen) = deployment().await;
    for bytes in [
        b"GET /open/a\0 HTTP/1.1\r\nHost: flea.test\r\n\r\n".as_slice(),
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\nX-Name: a\0b\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\nX-Name: a\x07b\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\nX-\0Name: a\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\n: empty\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\nX-Name : space\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\nX-Name: one\r\n folded\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\nX-Name: caf\xe9\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost: flea.test\r\nno colon\r\n\r\n",
        b"GET /open/caf\xc3\xa9 HTTP/1.1\r\nHost: flea.test\r\n\r\n",
        b"GET  /open/a HTTP/1.1\r\nHost: flea.test\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\n\r\n",
        b"GET /open/a HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /open/a HTTP/2.0\r\nHost: flea.test\r\n\r\n",
    ] {
        let answer = raw(edge.plain, bytes).await;
        assert_eq!(answer.status, 400, "{}: {answer:?}", String::from_utf8_lossy(bytes));
        // Also where the HTTP library itself refuses (RFC 9457 on every error).
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
        assert_eq!(answer.json()["code"], "malformed_request");
    }
    assert_eq!(seen.count(), 0, "{:?}", seen.all());
}

#[tokio::test]
async fn rejects_headers_that_count_once_and_come_twice() {
    let (rig, edge, seen) = deployment().await;
    let token = rig.access_token("alice", &["buyer"]);
    for headers in [
        "Host: other.test\r\n".to_owned(),
        "Host: flea.test\r\n".to_owned(),
        format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"),
        format!("Authorization: Bearer {token}\r\nauthorization: Basic x\r\n"),
        "Content-Type: text/plain\r\nContent-Type: application/json\r\n".to_owned(),
        "Txn-Token: a\r\nTxn-Token: b\r\n".to_owned(),
        "Content-Length: 0\r\nContent-Length: 1\r\n".to_owned(),
        "Content-Length: +0\r\n".to_owned(),
        "Content-Length: 0,0\r\n".to_owned(),
        "Content-Length:\r\n".to_owned(),
        "Transfer-Encoding: gzip\r\n".to_owned(),
        "Transfer-Encoding: chunked, gzip\r\n".to_owned(),
    ] {
        let answer = raw(edge.plain, line_and_headers("/open/a", &headers)).await;
        assert_eq!(answer.status, 400, "{headers}: {answer:?}");
    }
    assert_eq!(seen.count(), 0, "{:?}", seen.all());
}

#[tokio::test]
async fn what_follows_a_request_of_doubtful_length_is_never_a_second_request() {
    let (_rig, edge, seen) = deployment().await;
    let smuggled = "GET /open/smuggled HTTP/1.1\r\nHost: flea.test\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    ] {
        let bytes = format!("POST /open/a HTTP/1.1\r\nHost: flea.test\r\n{head}\r\n0\r\n\r\n{smuggled}");
        raw(edge.plain, bytes).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let after: Vec<_> = seen.all().iter().map(|saw| saw["path"].clone()).collect();
        // At most the outer request, framed by its chunks, and what the client pipelined behind it: never bytes of a
        // body taken for a request.
        assert!(after.iter().all(|path| path == "/open/a" || path == "/open/smuggled"), "{head}: {after:?}");
        assert!(seen.all().iter().all(|saw| saw["body_bytes"] == 0), "{head}: {:?}", seen.all());
    }
}

#[tokio::test]
async fn identical_lengths_stated_twice_are_one_request() {
    let (_rig, edge, seen) = deployment().await;
    let bytes =
        "POST /open/a HTTP/1.1\r\nHost: flea.test\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi";
    let answer = raw(edge.plain, bytes).await;
    // Refused, or exactly one request with exactly these two bytes.
    assert!(answer.status == 400 || answer.status == 200, "{answer:?}");
    assert!(seen.count() <= 1);
    assert!(seen.all().iter().all(|saw| saw["body"] == "hi" && echo::header(saw, "content-length") == ["2"]));
}

#[tokio::test]
async fn rejects_other_spellings_of_protected_headers() {
    let (_rig, edge, seen) = deployment().await;
    for name in
        ["X_Forwarded_User", "X_FORWARDED_FOR", "txn_token", "X.Real.IP", "content_length", "X_User_Id"]
    {
        let answer = raw(edge.plain, line_and_headers("/open/a", &format!("{name}: evil\r\n"))).await;
        assert_eq!(answer.problem(400), "malformed_request", "{name}");
    }
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn identity_headers_from_outside_never_arrive() {
    let (_rig, edge, seen) = deployment().await;
    let spoofed = [
        "X-User",
        "X-User-Id",
        "X-Forwarded-User",
        "X-Remote-User",
        "X-Roles",
        "Txn-Token",
        "Client-Cert",
        "X-Forwarded-Client-Cert",
        "X-Countersign-User",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Envoy-Original-Path",
        "X-Spiffe-Id",
        "Forwarded",
        "X-Real-IP",
    ];
    for name in spoofed {
        for spelling in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
            let answer = raw(edge.plain, line_and_headers("/open/a", &format!("{spelling}: evil\r\n"))).await;
            assert_eq!(answer.status, 200, "{spelling}: {answer:?}");
            assert!(!seen.last().to_string().contains("evil"), "{spelling}: {}", seen.last());
        }
    }
}

#[tokio::test]
async fn the_clients_word_about_its_address_is_replaced_by_the_connections() {
    let (_rig, edge, seen) = deployment().await;
    let headers = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
                   X-Forwarded-Host: evil.test\r\n";
    assert_eq!(raw(edge.plain, line_and_headers("/open/a", headers)).await.status, 200);
    assert_eq!(echo::header(&seen.last(), "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(echo::header(&seen.last(), "x-forwarded-proto"), ["http"]);
    assert_eq!(echo::header(&seen.last(), "x-forwarded-host"), ["flea.test"]);
}

#[tokio::test]
async fn a_connection_header_cannot_take_away_what_the_gateway_sets() {
    let (rig, edge, seen) = deployment().await;
    let token = bearer(&rig.access_token("alice", &["buyer"]));
    for listed in
        ["txn-token", "Txn-Token, X-Forwarded-For", "close, TXN-TOKEN", "x-forwarded-for", "authorization"]
    {
        let headers = format!("Authorization: {token}\r\nConnection: {listed}\r\nX-Mine: kept\r\n");
        assert_eq!(raw(edge.plain, line_and_headers("/open/a", &headers)).await.status, 200, "{listed}");
        assert_eq!(echo::header(&seen.last(), "txn-token").len(), 1, "{listed}");
        assert_eq!(echo::header(&seen.last(), "x-forwarded-for"), ["127.0.0.1"], "{listed}");
        assert_eq!(echo::header(&seen.last(), "x-mine"), ["kept"], "{listed}");
    }
}

#[tokio::test]
async fn hop_by_hop_headers_end_at_the_gateway() {
    let (_rig, edge, seen) = deployment().await;
    let headers = "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
                   Proxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nX-End: 2\r\n";
    assert_eq!(raw(edge.plain, line_and_headers("/open/a", headers)).await.status, 200);
    for name in ["connection", "x-hop", "keep-alive", "te", "proxy-authorization", "proxy-connection"] {
        assert!(echo::header(&seen.last(), name).is_empty(), "{name}");
    }
    assert_eq!(echo::header(&seen.last(), "x-end"), ["2"]);
}

#[tokio::test]
async fn rejects_tunnels_echoes_and_upgrades() {
    let (_rig, edge, seen) = deployment().await;
    let answer = raw(edge.plain, line_and_headers("/open/a", "").replacen("GET", "TRACE", 1)).await;
    assert_eq!(answer.problem(405), "method_not_allowed");
    let answer = raw(edge.plain, "CONNECT flea.test:443 HTTP/1.1\r\nHost: flea.test:443\r\n\r\n").await;
    assert_eq!(answer.problem(405), "method_not_allowed");
    let answer = raw(edge.plain, line_and_headers("/open/a", "").replacen("GET", "BREW", 1)).await;
    assert_eq!(answer.problem(405), "method_not_allowed");
    for upgrade in ["websocket", "h2c", "TLS/1.0"] {
        let headers = format!("Connection: Upgrade\r\nUpgrade: {upgrade}\r\n");
        let bytes = line_and_headers("/open/a", &headers) + "GET /open/b HTTP/1.1\r\nHost: flea.test\r\n\r\n";
        let answer = raw(edge.plain, bytes).await;
        assert_eq!(answer.problem(400), "malformed_request", "{upgrade}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    let answer = raw(edge.plain, line_and_headers("/open/a", "Expect: 200-maybe\r\n")).await;
    assert_eq!(answer.problem(400), "malformed_request");
    assert_eq!(seen.count(), 0, "{:?}", seen.all());
}

#[tokio::test]
async fn a_change_of_method_never_reaches_a_laxer_route() {
    let (_rig, edge, seen) = deployment().await;
    let answer = raw(edge.plain, line_and_headers("/admin", "")).await;
    assert_eq!(answer.problem(405), "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("DELETE"));
    let override_method = "X-HTTP-Method-Override: DELETE\r\n";
    assert_eq!(raw(edge.plain, line_and_headers("/admin", override_method)).await.status, 405);
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn a_head_past_its_limits_is_refused() {
    let (_rig, edge, seen) = deployment().await;
    let long_name = format!("{}: x\r\n", "n".repeat(64 * 1024));
    let answer = raw(edge.plain, line_and_headers("/open/a", &long_name)).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (431, Some("headers_too_large")));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let long_value = format!("X-Long: {}\r\n", "v".repeat(64 * 1024));
    assert_eq!(raw(edge.plain, line_and_headers("/open/a", &long_value)).await.status, 431);
    let many: String = (0..200).map(|n| format!("X-{n}: x\r\n")).collect();
    assert_eq!(raw(edge.plain, line_and_headers("/open/a", &many)).await.status, 431);
    let answer = raw(edge.plain, line_and_headers(&format!("/open/{}", "a".repeat(3000)), "")).await;
    assert_eq!(answer.problem(414), "uri_too_long");
    assert_eq!(seen.count(), 0);
}

#[tokio::test]
async fn the_host_is_compared_without_case_and_trailing_dot() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", RULES);
    rig.open_service("ads", echo::router(&["/open/{*rest}"], &seen)).await;
    let routes = "[[route]]\npath = \"/open/*\"\nhost = \"Flea.test\"\nto = \"ads\"\nuser = \"optional\"\n";
    let edge = rig.gateway(routes).await;
    for host in ["flea.test", "FLEA.test", "flea.test.", "flea.TEST.:8080"] {
        let answer = raw(edge.plain, head_and_body("GET", "/open/a", host, &[], "")).await;
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
    }
    for host in ["other.test", "flea.test..", "flea.test@other.test", "flea..test", "xflea.test"] {
        let answer = raw(edge.plain, head_and_body("GET", "/open/a", host, &[], "")).await;
        assert!(answer.status == 400 || answer.status == 404, "{host}: {answer:?}");
    }
    assert_eq!(seen.count(), 4);
}
