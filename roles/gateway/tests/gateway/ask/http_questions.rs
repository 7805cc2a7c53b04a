//! Questions of NGINX, Traefik and Caddy, byte by byte.

use countersign_gateway::{AskError, EdgeCertificateError, Gateway, GatewayError};
use countersign_identity::SpiffeId;
use countersign_ledger::{Event, Stage, Verdict};
use std::sync::Arc;

use super::{ASKER, Asked, ask, free};
use crate::rig::backend::Backend;
use crate::rig::client::{bearer, get};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, eventually, settings};

/// What Caddy and Traefik say, about this method and path, with these headers of their client.
fn forwarded<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![
        ("Host", "countersign.internal"),
        ("X-Forwarded-Method", method),
        ("X-Forwarded-Uri", path),
        ("X-Forwarded-Host", "flea.test"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "198.51.100.7"),
    ];
    headers.extend_from_slice(more);
    headers
}

/// What NGINX says.
fn original<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![
        ("Host", "flea.test"),
        ("X-Original-Method", method),
        ("X-Original-URI", path),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "198.51.100.7"),
    ];
    headers.extend_from_slice(more);
    headers
}

#[tokio::test]
async fn a_question_gets_the_verdict_of_the_door_and_the_policy() {
    let asked = Asked::new().await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    let eve = bearer(&asked.rig.access_token("eve", &["guest"]));
    for path in ["/auth/forward", "/auth/request"] {
        let to = async |method, token: Option<&str>| {
            let token: Vec<(&str, &str)> = token.map(|token| ("Authorization", token)).into_iter().collect();
            let question = match path {
                "/auth/forward" => forwarded(method, "/ads/1?near=here", &token),
                _ => original(method, "/ads/1?near=here", &token),
            };
            ask(&asker, asked.by_svid, path, &question).await
        };
        let answer = to("POST", Some(&alice)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("countersign-user"), Some("u_alice"));
        assert_eq!(answer.header("countersign-user-roles"), Some("buyer"));
        assert_eq!(answer.header("x-edge"), Some("countersign"), "the rules of the route hold");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.header("txn-token").unwrap().starts_with("eyJ"));
        assert!(!answer.head.contains(alice.split(' ').nth(1).unwrap()), "the access token ends here");
        let id = answer.header("countersign-decision").unwrap().to_owned();
        let decision = asked.rig.decision(|decision| decision.id.to_string() == id).await;
        assert_eq!((decision.verdict, decision.route.as_str()), (Verdict::Allow, "/ads/*"));
        assert_eq!(decision.checks[0].detail, format!("through {ASKER}"));

        let answer = to("GET", None).await;
        assert_eq!(answer.problem(401), "authentication_required");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(to("POST", Some(&eve)).await.problem(403), "access_denied");
        asked
            .rig
            .decision(|d| d.verdict == Verdict::Deny && d.policy.as_deref() == Some("no-guests-buy"))
            .await;
    }
}

#[tokio::test]
async fn the_address_of_the_question_says_which_headers_count() {
    let asked = Asked::new().await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    let token = ("Authorization", alice.as_str());
    let status =
        async |path, headers: Vec<(&str, &str)>| ask(&asker, asked.by_svid, path, &headers).await.status;
    // The client of Caddy speaks NGINX' dialect, and the other way round: nothing changes.
    let lies = [("X-Original-URI", "/ads/1"), ("X-Original-Method", "GET"), token];
    assert_eq!(status("/auth/forward", forwarded("GET", "/ads/1", &lies)).await, 200);
    assert_eq!(status("/auth/forward", forwarded("GET", "/nowhere", &lies)).await, 404);
    let lies = [("X-Forwarded-Uri", "/ads/1"), ("X-Forwarded-Method", "GET"), token];
    assert_eq!(status("/auth/request", original("GET", "/ads/1", &lies)).await, 200);
    assert_eq!(status("/auth/request", original("GET", "/nowhere", &lies)).await, 403, "NGINX knows no 404");
    // What is said twice or not at all is no question.
    for name in
        ["X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For"]
    {
        let twice = forwarded("GET", "/ads/1", &[(name, "/ads/1"), token]);
        assert_eq!(status("/auth/forward", twice).await, 400, "{name}");
        let mut without = forwarded("GET", "/ads/1", &[token]);
        without.retain(|(other, _)| *other != name);
        assert_eq!(status("/auth/forward", without).await, 400, "{name}");
    }
    for path in [
        "ads/1",
        "http://other.test/ads/1",
        "/ads/1#/../admin",
        "/ads/../admin",
        "//ads/1",
        "*",
        "/ads/%2e%2e/x",
    ] {
        assert_eq!(status("/auth/forward", forwarded("GET", path, &[token])).await, 400, "{path}");
        assert_eq!(status("/auth/request", original("GET", path, &[token])).await, 403, "{path}");
    }
    for method in ["CONNECT", "TRACE", "G ET"] {
        let refused = status("/auth/forward", forwarded(method, "/ads/1", &[token])).await;
        assert!((400..500).contains(&refused), "{method}: {refused}");
    }
}

/// Whoever asks carries what follows by itself, and nobody here would end it.
#[tokio::test]
async fn nobody_leaves_http_through_another_proxy() {
    const ROUTE: &str = "[[route]]\npath = \"/chat\"\nto = \"ads\"\nupgrade = [\"websocket\"]\n";
    // One that shows its SVID, as the asker of this test expects it.
    let front = free();
    let listener = format!("[[front]]\nlisten = \"{front}\"\nproxies = [\"{ASKER}\"]\n");
    let asked = Asked::with(&format!("{ROUTE}{listener}")).await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    let token = ("Authorization", alice.as_str());
    let handshake = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        token,
    ];
    let question = async |more: &[(&str, &str)]| {
        ask(&asker, asked.by_svid, "/auth/forward", &forwarded("GET", "/chat", more)).await.status
    };
    assert_eq!((question(&[token]).await, question(&handshake).await), (200, 400));
    let passed_on = async |more: &[(&str, &str)]| {
        let mut headers =
            vec![("Host", "flea.test"), ("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-Proto", "https")];
        headers.extend_from_slice(more);
        ask(&asker, front, "/chat", &headers).await.status
    };
    // There is nobody behind.
    assert_eq!((passed_on(&[token]).await, passed_on(&handshake).await), (502, 400));
    // Who comes by itself gets as far as that.
    assert_eq!(get(asked.gateway.plain, "/chat", &handshake).await.status, 502);
}

#[tokio::test]
async fn an_asker_without_svid_or_not_listed_is_refused_and_recorded() {
    let asked = Asked::new().await;
    let stranger = asked.rig.workload(SpiffeId::parse("spiffe://fleamarket.test/svc/other").unwrap()).await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    let question = forwarded("GET", "/ads/1", &[("Authorization", &alice)]);
    assert_eq!(ask(&stranger, asked.by_svid, "/auth/forward", &question).await.status, 0);
    let refusals = || {
        let events = asked.rig.world.events();
        let of = |event: &&Event| matches!(event, Event::Decision(d) if matches!(d.stage, Stage::Transport | Stage::Identity));
        events.iter().filter(of).count()
    };
    eventually(|| refusals() == 1).await;
    // Nobody at all: the handshake ends before HTTP begins.
    let root = std::fs::read(&asked.edge_root).unwrap();
    let root =
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&root);
    let stream =
        crate::rig::client::tls(asked.by_name, "countersign.internal", &root.unwrap(), b"http/1.1").await;
    if let Ok(mut stream) = stream {
        use tokio::io::AsyncWriteExt as _;
        let _ = stream.write_all(b"GET /auth/forward HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(crate::rig::client::read_answer(&mut stream).await.status, 0);
    }
    eventually(|| refusals() == 2).await;
    let asker = asked.asker().await;
    assert_eq!(ask(&asker, asked.by_svid, "/auth/forward", &question).await.status, 200);
    assert_eq!(ask(&asker, asked.by_svid, "/elsewhere", &question).await.status, 404);
}

#[tokio::test]
async fn clients_of_a_proxy_are_throttled_by_their_own_address() {
    let asked = Asked::with("[throttle]\nrequests_burst = 2\nrequests_per_second = 1\n").await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    let token = ("Authorization", alice.as_str());
    let question = forwarded("GET", "/ads/1", &[token]);
    for _ in 0..2 {
        assert_eq!(ask(&asker, asked.by_svid, "/auth/forward", &question).await.status, 200);
    }
    let answer = ask(&asker, asked.by_svid, "/auth/forward", &question).await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").is_some());
    let answer = ask(&asker, asked.by_svid, "/auth/request", &original("GET", "/ads/1", &[token])).await;
    assert_eq!(answer.status, 403, "NGINX knows no 429");
    assert!(answer.header("retry-after").is_some());
    // The last address is the one that the proxy saw; what its client wrote before does not count.
    let mut other = question.clone();
    other.retain(|(name, _)| *name != "X-Forwarded-For");
    other.push(("X-Forwarded-For", "198.51.100.7, 203.0.113.9"));
    assert_eq!(ask(&asker, asked.by_svid, "/auth/forward", &other).await.status, 200);
}

#[tokio::test]
async fn settings_that_nobody_could_ask_by_are_refused() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let bind = async |toml: &str| {
        let bound = Gateway::bind(settings(toml), workload.clone(), Arc::new(String::new)).await;
        match bound {
            Err(GatewayError::Ask(error)) => error,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was bound"),
        }
    };
    let listen = "[[ask]]\nlisten = \"127.0.0.1:0\"\n";
    assert!(matches!(bind(&format!("{listen}askers = []")).await, AskError::NoAskers { .. }));
    let listed = format!("{listen}askers = [\"{ASKER}\"]\n");
    let absent = bind(&format!("{listed}tls = {{ cert = \"/no/x.pem\", key = \"/no/x.key\" }}")).await;
    assert!(matches!(absent, AskError::Certificate(EdgeCertificateError::File(_))));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let refused = bind(&format!("[[ask]]\nlisten = \"{taken}\"\naskers = [\"{ASKER}\"]")).await;
    assert!(matches!(refused, AskError::Listen { listen, .. } if listen == taken));
}

/// X-Forwarded-For grows at its end: what stands before the last is the word of whoever asked the proxy.
#[tokio::test]
async fn of_the_addresses_that_a_proxy_passes_on_the_one_counts_that_it_wrote_itself() {
    let front = free();
    let asked = Asked::with(&format!("[[front]]\nlisten = \"{front}\"\nproxies = [\"{ASKER}\"]\n")).await;
    let seen = Seen::default();
    asked.rig.open_service("ads", echo::router(&["/ads/1"], &seen)).await;
    eventually(|| asked.gateway.workload.live().service("ads").is_some()).await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    let headers = [
        ("Host", "flea.test"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "203.0.113.9, 198.51.100.7"),
        ("Authorization", alice.as_str()),
    ];
    let answer = ask(&asked.asker().await, front, "/ads/1", &headers).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(echo::header(&seen.last(), "x-forwarded-for"), ["198.51.100.7"]);
}

#[tokio::test]
async fn the_token_of_the_user_goes_to_services_and_to_no_upstream_that_does_not_take_it() {
    let outside = Backend::named("outside").await;
    let upstream = |name: &str, more: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\nendpoints = [\"{}\"]\n{more}\n\
             [[route]]\npath = \"/{name}\"\nto = \"{name}\"\nuser = \"required\"\n",
            outside.address
        )
    };
    let more = [upstream("foreign", ""), upstream("trusted", "send_user_token = true")].concat();
    let asked = Asked::with(&more).await;
    let asker = asked.asker().await;
    let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
    for (path, goes) in [("/foreign", false), ("/trusted", true), ("/ads/1", true)] {
        let question = forwarded("GET", path, &[("Authorization", &alice)]);
        let answer = ask(&asker, asked.by_svid, "/auth/forward", &question).await;
        assert_eq!((answer.status, answer.header("txn-token").is_some()), (200, goes), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_filter_that_reads_bodies_is_not_left_out_because_the_proxy_keeps_them() {
    // Nobody listens there, which is what a filter that could be left out would be passed by.
    let filter = |more: &str| {
        format!(
            "[[filter]]\nname = \"reader\"\naddress = \"unix:/nowhere/filter.sock\"\n\
             fail_open_insecure_when_the_filter_is_down = true\n{more}"
        )
    };
    for (more, status) in [("", 200), ("body_bytes_max = 64\n", 503)] {
        let asked = Asked::with(&filter(more)).await;
        let alice = bearer(&asked.rig.access_token("alice", &["buyer"]));
        let question = forwarded("POST", "/ads/1", &[("Authorization", &alice)]);
        let answer = ask(&asked.asker().await, asked.by_svid, "/auth/forward", &question).await;
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 503 {
            let record = asked.rig.decision(|decision| decision.status == 503).await;
            assert!(
                record.checks.iter().any(|check| check.detail.contains("[[gateway.front]]")),
                "{record:?}"
            );
        }
    }
}

/// Nobody here would end what it does outside HTTP.
#[tokio::test]
async fn the_client_of_another_proxy_leaves_http_nowhere() {
    let chat = "[[route]]\npath = \"/chat\"\nto = \"ads\"\nuser = \"required\"\nupgrade = [\"websocket\"]\n";
    let asked = Asked::with(chat).await;
    let (asker, alice) = (asked.asker().await, bearer(&asked.rig.access_token("alice", &["buyer"])));
    let handshake = [
        ("Authorization", alice.as_str()),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (headers, status) in [(&handshake[..1], 200), (&handshake[..], 400)] {
        let question = forwarded("GET", "/chat", headers);
        assert_eq!(ask(&asker, asked.by_svid, "/auth/forward", &question).await.status, status);
    }
}
