//! Who speaks to the edge in ways that two programs read differently: headers, lengths, paths and hosts.

use countersign_wire::codes::Code;

use super::{
    Attack, AttackError, Guard, Observation, Position, Sign, Target, Verdict, named,
    target::PATH,
    user_tokens::{at_edge, bearing},
    wire::{Connection, Dial, Request},
};
use crate::weak::Weakness;

const HEADERS: &str = "rules/request/src/headers.rs";
const HOSTS: &str = "rules/request/src/authority.rs";
const PATHS: &str = "rules/request/src/path.rs";

/// Requests of one user, written in every way that somebody reads otherwise: each of them has to be refused.
macro_rules! written {
    ($name:literal, $title:literal, $from:expr, $home:expr, $what:literal, $weakness:ident, $signs:expr, $variants:expr) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::User,
            guard: Guard { what: $what, home: $home, signs: $signs, weakness: Weakness::$weakness },
            waits: false,
            run: |target| Box::pin(each(target, $name, $variants)),
        }
    };
}

/// What the attack itself has to look at, because the answer is one of success either way.
macro_rules! looked {
    ($name:literal, $title:literal, $from:expr, $position:ident, $home:expr, $what:literal, $weakness:ident, $run:expr) => {
        Attack {
            name: $name,
            title: $title,
            from: $from,
            position: Position::$position,
            guard: Guard { what: $what, home: $home, signs: &[Sign::Fact], weakness: Weakness::$weakness },
            waits: false,
            run: |target| Box::pin($run(target)),
        }
    };
}

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "identity-header",
        title: "say who one is in every header that some program somewhere believes",
        from: &["ENV-3", "lesson 15", "lesson 27", "lesson 30"],
        position: Position::Stranger,
        guard: Guard {
            what: "no header names a user; only a token that verifies does",
            home: HEADERS,
            signs: &[Sign::Code(Code::TokenMissing)],
            weakness: Weakness::UserByHeader,
        },
        waits: false,
        run: |target| Box::pin(each(target, "identity-header", by_header)),
    },
    looked!(
        "identity-header-beside-token",
        "send a good token, and in headers beside it the name of somebody else",
        &["D14", "TX-2", "lesson 15"],
        User,
        HEADERS,
        "headers that carry an identity never pass inwards",
        UserByHeader,
        beside_token
    ),
    written!(
        "header-alias",
        "spell an identity header so that a filter overlooks it and a service behind believes it",
        &["lesson 30", "CVE-2025-64484"],
        HEADERS,
        "another spelling of a protected header is refused, not passed on",
        AliasesCount,
        &[Sign::Said(Code::HeaderAmbiguous, "another spelling")],
        aliases
    ),
    looked!(
        "connection-deletes-identity",
        "name in `Connection` the headers in which the edge tells services who the user is",
        &["lesson 34", "CVE-2024-45410"],
        User,
        HEADERS,
        "`Connection` deletes only what may be deleted, and the edge sets its own headers afterwards",
        ConnectionDeletes,
        connection_deletes
    ),
    looked!(
        "method-override",
        "ask with GET, which one may, and say in a header that DELETE is meant",
        &["lesson 15", "HP-3"],
        User,
        HEADERS,
        "headers that change the method never pass inwards",
        MethodByHeader,
        method_override
    ),
    written!(
        "two-kinds-of-length",
        "say twice how long a body is, by Content-Length and by chunks, and hide a second request in the difference",
        &["HP-3", "lesson 10"],
        HEADERS,
        "a request states its length once, or it is refused and the connection ends",
        EitherLength,
        &[Sign::Said(Code::HeaderAmbiguous, "both content-length and transfer-encoding")],
        two_kinds
    ),
    written!(
        "two-lengths",
        "write Content-Length twice, with a sign, as a list, or empty",
        &["HP-3", "lesson 42", "CVE-2023-40225"],
        HEADERS,
        "Content-Length is one plain number",
        EitherLength,
        &[
            Sign::Said(Code::HeaderAmbiguous, "content-length is not a plain number"),
            Sign::Said(Code::HeaderAmbiguous, "content-length occurs more than once"),
        ],
        two_lengths
    ),
    written!(
        "odd-coding",
        "use a Transfer-Encoding that one program decodes and another one does not",
        &["HP-3", "lesson 10", "CVE-2026-2835"],
        "http1/src/framing.rs",
        "Transfer-Encoding is `chunked` and nothing else, and only where HTTP/1.1 is spoken",
        EitherLength,
        &[Sign::Said(Code::HeaderAmbiguous, "transfer-encoding")],
        odd_codings
    ),
    written!(
        "header-lines",
        "end, fold and pad header lines so that the next program sees other ones",
        &["HP-3", "lesson 1", "lesson 41"],
        "http1/src/head_end.rs",
        "a line is a name, a colon and a value, ends with CR LF, and has no control bytes",
        KindLines,
        &[
            Sign::Said(Code::HeaderAmbiguous, "header line is not"),
            Sign::Said(Code::HeaderAmbiguous, "line feed alone"),
        ],
        odd_lines
    ),
    written!(
        "huge-head",
        "send a header name of 64 KiB",
        &["lesson 43", "CVE-2021-40346", "HP-2"],
        "http1/src/limits.rs",
        "a head has a limit, and is not read beyond it",
        AnyHead,
        &[Sign::Code(Code::HeadersTooLarge)],
        |token| vec![raw(token, "GET /ads HTTP/1.1", &format!("X{}: 1\r\n", "a".repeat(70_000)), "")]
    ),
    written!(
        "path-dots",
        "reach one path by the way of another one that has other rules",
        &["lesson 2", "lesson 26", "CVE-2019-9901"],
        PATHS,
        "a path with dot segments, encoded or not, is refused and never repaired",
        PathRepaired,
        &[Sign::Said(Code::PathAmbiguous, "dot segment"), Sign::Said(Code::PathAmbiguous, "encodes '.'")],
        |token| targets(token, &["/users/../reports", "/users/%2e%2e/reports", "/./reports", "/ads/.."])
    ),
    written!(
        "path-slashes",
        "write slashes twice, encoded, or the other way round",
        &["lesson 3", "lesson 24", "CVE-2021-29492"],
        PATHS,
        "each slash once and as itself; encoded slashes and backslashes are refused",
        PathRepaired,
        &[
            Sign::Said(Code::PathAmbiguous, "empty segment"),
            Sign::Said(Code::PathAmbiguous, "path encodes"),
            Sign::Said(Code::PathAmbiguous, "path holds"),
        ],
        |token| targets(token, &["//reports", "/users%2Freports", "/users\\reports", "/users%5Creports"])
    ),
    written!(
        "path-parameters",
        "append what some programs cut off before they look at a rule, and others do not",
        &["lesson 8", "lesson 19", "CVE-2021-39156"],
        PATHS,
        "`;` and `#` are refused in a path",
        PathRepaired,
        &[Sign::Said(Code::PathAmbiguous, "path holds")],
        |token| targets(token, &["/ads;x=/reports", "/users/..;/reports", "/ads#/reports"])
    ),
    written!(
        "two-hosts",
        "name two hosts, so that the rules of one apply and the service of the other answers",
        &["lesson 19", "lesson 33", "CVE-2021-39155"],
        HOSTS,
        "exactly one host, without user information, equal to that of the target",
        EitherHost,
        &[Sign::Code(Code::AuthorityAmbiguous), Sign::Said(Code::HeaderAmbiguous, "no Host header")],
        hosts
    ),
    Attack {
        name: "other-host",
        title: "name one host in the handshake and another one in the request",
        from: &["lesson 35", "CVE-2022-23632"],
        position: Position::User,
        guard: Guard {
            what: "a connection serves the host that its handshake named",
            home: "roles/gateway/src/pipeline.rs",
            signs: &[Sign::Code(Code::Misdirected)],
            weakness: Weakness::AnyHost,
        },
        waits: false,
        run: |target| Box::pin(other_host(target)),
    },
    written!(
        "tunnel",
        "turn the connection into a tunnel, in which nobody judges requests any more",
        &["lesson 9", "lesson 12", "CVE-2026-73548"],
        "rules/request/src/canonical.rs",
        "no upgrade, no CONNECT, no TRACE",
        Tunnels,
        &[Sign::Code(Code::UpgradeRefused), Sign::Said(Code::MethodNotAllowed, "method is not accepted")],
        tunnels
    ),
    looked!(
        "cross-origin-reading",
        "let the browser of a user who is logged in read answers for a page of the attacker",
        &["BCP-1", "V3"],
        Stranger,
        "roles/gateway/src/guard/cors.rs",
        "no origin may read anything unless the configuration names it",
        AnyOrigin,
        cross_origin
    ),
];

/// Sends each on a connection of its own, after an honest request. The first that gets past the guard is what was seen.
async fn each(
    target: &Target,
    name: &str,
    variants: fn(&str) -> Vec<Vec<u8>>,
) -> Result<Observation, AttackError> {
    let attack = named(name).ok_or(AttackError::Absent { what: "attack of this name" })?;
    let (_, token) = at_edge(target).await?;
    let variants = variants(&token);
    let mut last = Err(AttackError::Absent { what: "way to write it" });
    for bytes in &variants {
        let exchanged = target.connect_to_edge().await?.send_bytes(bytes).await;
        let seen = target.observed(shown(bytes, &token), exchanged).await;
        if !matches!(seen.judged(&attack.guard), Verdict::Blocked { .. }) {
            return Ok(seen);
        }
        last = Ok(seen);
    }
    let mut last = last?;
    last.sent = format!("{} ways to write it; the last: {}", variants.len(), last.sent);
    Ok(last)
}

/// What is sent, in one line and without the token.
fn shown(bytes: &[u8], token: &str) -> String {
    let text = String::from_utf8_lossy(bytes).replace(token, "…").replace("Host: localhost\r\n", "");
    let text = text.replace("Authorization: Bearer …\r\n", "");
    let cut: String = text.trim_end().chars().take(SHOWN_CHARS_MAX).collect();
    cut.escape_debug().to_string()
}

/// A request as text: nothing is added to what is said here but host and token.
fn raw(token: &str, line: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("{line}\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{headers}\r\n{body}").into_bytes()
}

fn with_headers(token: &str, headers: &[&str]) -> Vec<Vec<u8>> {
    headers.iter().map(|header| raw(token, "GET /ads HTTP/1.1", &format!("{header}\r\n"), "")).collect()
}

fn targets(token: &str, targets: &[&str]) -> Vec<Vec<u8>> {
    targets.iter().map(|target| raw(token, &format!("GET {target} HTTP/1.1"), "", "")).collect()
}

fn by_header(_: &str) -> Vec<Vec<u8>> {
    let request = |name: &&str| Request::get(PATH).with(name, "alice").to_bytes();
    SPOOFED.iter().map(request).collect()
}

fn aliases(token: &str) -> Vec<Vec<u8>> {
    with_headers(token, &["X_Forwarded_User: bob", "x.user: bob", "Txn_Token: bob", "X-USER_ID: bob"])
}

fn two_kinds(token: &str) -> Vec<Vec<u8>> {
    let hidden = "0\r\n\r\nGET /reports HTTP/1.1\r\nX: ";
    let post = |headers: &str, body: &str| raw(token, "POST /ads HTTP/1.1", headers, body);
    vec![
        post(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", hidden.len()), hidden),
        post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\nGET /reports HTTP/1.1\r\n"),
    ]
}

fn two_lengths(token: &str) -> Vec<Vec<u8>> {
    let stated = |lengths: &str| raw(token, "POST /ads HTTP/1.1", lengths, "abcdef");
    [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +6\r\n",
        "Content-Length: 6, 6\r\n",
        "Content-Length: 0x6\r\n",
        "Content-Length: \r\n",
    ]
    .map(stated)
    .to_vec()
}

fn odd_codings(token: &str) -> Vec<Vec<u8>> {
    let coded =
        |line: &str, coding: &str| raw(token, line, &format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n");
    vec![
        coded("POST /ads HTTP/1.1", "chunked, identity"),
        coded("POST /ads HTTP/1.1", "xchunked"),
        coded("POST /ads HTTP/1.1", "\"chunked\""),
        coded("POST /ads HTTP/1.0", "chunked"),
    ]
}

fn odd_lines(token: &str) -> Vec<Vec<u8>> {
    with_headers(token, &["X: a\r\n folded: b", "X: a\nX-User: bob", "X-User : bob", "X: a\0b", ": bob"])
}

fn hosts(token: &str) -> Vec<Vec<u8>> {
    let named = |line: &str, hosts: &str| {
        format!("{line}\r\n{hosts}Authorization: Bearer {token}\r\n\r\n").into_bytes()
    };
    vec![
        named("GET /ads HTTP/1.1", "Host: localhost\r\nHost: inside.test\r\n"),
        named("GET http://inside.test/ads HTTP/1.1", "Host: localhost\r\n"),
        named("GET /ads HTTP/1.1", "Host: localhost@inside.test\r\n"),
        named("GET /ads HTTP/1.1", ""),
    ]
}

fn tunnels(token: &str) -> Vec<Vec<u8>> {
    let hidden = "GET /reports HTTP/1.1\r\nHost: localhost\r\n\r\n";
    vec![
        raw(token, "GET /ads HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", hidden),
        raw(
            token,
            "GET /ads HTTP/1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            hidden,
        ),
        raw(token, "CONNECT ads:443 HTTP/1.1", "", hidden),
        raw(token, "TRACE /ads HTTP/1.1", "", ""),
    ]
}

async fn other_host(target: &Target) -> Result<Observation, AttackError> {
    let (_, token) = at_edge(target).await?;
    let dial = Dial { server_name: Some("localhost".to_owned()), ..target.dial_edge() };
    let lost = |why: String| AttackError::NoConnection { what: "the edge".to_owned(), why };
    let mut connection = dial.connect().await.map_err(|broken| lost(broken.how))?;
    let asks = |host: &str| bearing(&token).with("Host", host);
    let honest = target.observed("", connection.send(&asks("localhost")).await).await;
    if !honest.is_believed() {
        return Err(AttackError::HonestRefused { answer: honest.told() });
    }
    let exchanged = connection.send(&asks("inside.test")).await;
    Ok(target.observed("a handshake with localhost, then GET /ads of inside.test", exchanged).await)
}

/// The user whom a request is made for, as the service behind the edge sees it.
async fn seen_as(
    target: &Target,
    connection: &mut Connection,
    request: &Request,
) -> Result<String, AttackError> {
    let reply = connection.send(request).await;
    let reply =
        reply.map_err(|broken| AttackError::NoConnection { what: "the edge".to_owned(), why: broken.how })?;
    if reply.status != 200 {
        let answer = target.observed("", Ok(reply)).await.told();
        return Err(AttackError::HonestRefused { answer });
    }
    Ok(String::from_utf8_lossy(&reply.body).into_owned())
}

async fn beside_token(target: &Target) -> Result<Observation, AttackError> {
    let (mut connection, token) = at_edge(target).await?;
    let request = Request { target: ME.to_owned(), ..bearing(&token) };
    let honest = seen_as(target, &mut connection, &request).await?;
    for name in SPOOFED {
        let seen = seen_as(target, &mut connection, &request.clone().with(name, "bob")).await?;
        if seen != honest {
            let sent = format!("GET {ME} with a good token and {name}: bob");
            return Ok(Observation::looked(sent, false, format!("another answer: {}", start(&seen))));
        }
    }
    let sent = format!("GET {ME} with a good token, and {} headers in turn that say bob", SPOOFED.len());
    Ok(Observation::looked(sent, true, format!("each time whose token it is: {}", start(&honest))))
}

async fn connection_deletes(target: &Target) -> Result<Observation, AttackError> {
    let (mut connection, token) = at_edge(target).await?;
    let request = Request { target: ME.to_owned(), ..bearing(&token) };
    let honest = seen_as(target, &mut connection, &request).await?;
    let listed = "keep-alive, authorization, txn-token, x-forwarded-for, traceparent";
    let deleting = request.with("Connection", listed);
    let reply = connection.send(&deleting).await;
    let sent = format!("GET {ME} with a good token and Connection: {listed}");
    Ok(match reply {
        Ok(reply) if reply.body == honest.as_bytes() => {
            Observation::looked(sent, true, format!("nothing was deleted: {}", start(&honest)))
        }
        Ok(reply) => {
            let seen = format!("{}: {}", reply.status, start(&String::from_utf8_lossy(&reply.body)));
            Observation::looked(sent, false, seen)
        }
        broken => target.observed(sent, broken).await,
    })
}

async fn method_override(target: &Target) -> Result<Observation, AttackError> {
    let (mut connection, token) = at_edge(target).await?;
    let request = Request { target: AD.to_owned(), ..bearing(&token) };
    let honest = seen_as(target, &mut connection, &request).await?;
    let names = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"];
    for name in names {
        let seen = seen_as(target, &mut connection, &request.clone().with(name, "DELETE")).await?;
        let after = seen_as(target, &mut connection, &request).await?;
        if seen != honest || after != honest {
            let sent = format!("GET {AD} with {name}: DELETE");
            return Ok(Observation::looked(sent, false, format!("another answer: {}", start(&seen))));
        }
    }
    let sent = format!("GET {AD} with DELETE in {}", names.join(", "));
    Ok(Observation::looked(sent, true, format!("it was read as GET, and is still there: {}", start(&honest))))
}

async fn cross_origin(target: &Target) -> Result<Observation, AttackError> {
    let (mut connection, token) = at_edge(target).await?;
    let preflight = Request::get(PATH).by("OPTIONS").with("Access-Control-Request-Method", "GET");
    let sent = "a preflight for GET /ads and GET /ads itself, from https://attacker.test and from null";
    for origin in ["https://attacker.test", "null"] {
        for request in [preflight.clone(), bearing(&token)] {
            let exchanged = connection.send(&request.with("Origin", origin)).await;
            let Ok(reply) = exchanged else { return Ok(target.observed(sent, exchanged).await) };
            if let Some(allowed) = reply.header("access-control-allow-origin") {
                let seen = format!("access-control-allow-origin: {allowed} for {origin}");
                return Ok(Observation::looked(sent, false, seen));
            }
        }
    }
    Ok(Observation::looked(sent, true, "no answer allows an origin to read it"))
}

fn start(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Headers in which somebody, somewhere, believes a name.
const SPOOFED: [&str; 12] = [
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "X-User-Id",
    "X-Remote-User",
    "Remote-User",
    "X-Roles",
    "X-Auth-Request-User",
    "X-Envoy-Original-Path",
    "Client-Cert",
    "Forwarded",
    "Txn-Token",
    "X-SPIFFE-ID",
];
/// Tells who asks.
const ME: &str = "/users/me";
const AD: &str = "/ads/1";
const SHOWN_CHARS_MAX: usize = 120;
