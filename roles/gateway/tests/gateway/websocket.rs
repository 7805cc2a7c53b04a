//! WebSockets (RFC 6455): decided at the handshake like any request, carried as bytes, and ended when the same request
//! would be refused.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_gateway::{Gateway, Reloader};
use countersign_identity::{Mode, ServiceName, SpiffeId};
use countersign_ledger::{CheckResult, Decision, Verdict};
use countersign_sdk::clock;
use countersign_wire::snapshot::{RevokedUser, Snapshot};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};

use crate::filter::{Filter, sets, yes};
use crate::rig::backend::{Backend, Reply};
use crate::rig::client::{Answer, bearer, get, head_and_body, read_answer, request};
use crate::rig::pair::{EVERYBODY, Pair};
use crate::rig::{Rig, Running, settings};

const WEBSOCKET: &str = "upgrade = [\"websocket\"]\n";
const ROUTE: &str =
    "[[route]]\npath = \"/chat\"\nto = \"users\"\nuser = \"optional\"\nupgrade = [\"websocket\"]\n";
const HANDSHAKE: &[(&str, &str)] = &[
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
/// A text frame, masked as a client must, and the same as a server sends it.
const HELLO: &[u8] = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
const WITHIN: Duration = Duration::from_secs(20);

/// Accepts every handshake and sends back what comes, byte for byte; the heads that came.
fn serve_echo(listener: UnixListener) -> Arc<Mutex<Vec<String>>> {
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let came = Arc::clone(&heads);
    tokio::spawn(async move {
        loop {
            let ((mut stream, _), came) = (listener.accept().await.unwrap(), Arc::clone(&came));
            tokio::spawn(async move {
                let head = head(&mut stream).await;
                came.lock().unwrap().push(head.clone());
                assert!(head.to_lowercase().contains("\r\nupgrade: websocket\r\n"), "{head}");
                stream.write_all(SWITCHED.as_bytes()).await.unwrap();
                let (mut reading, mut writing) = stream.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
            });
        }
    });
    heads
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends a handshake, and gives the head of the answer.
async fn shake(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    host: &str,
    more: &[(&str, &str)],
) -> String {
    let headers = [HANDSHAKE, more].concat();
    let request = head_and_body("GET", "/chat", host, &headers, "");
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::timeout(WITHIN, head(stream)).await.unwrap()
}

async fn echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    stream.write_all(HELLO).await.unwrap();
    let mut back = [0; HELLO.len()];
    tokio::time::timeout(WITHIN, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, HELLO);
}

/// Waits until the other end is gone.
async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(WITHIN, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it did not end");
}

/// The record of the end that `callee` made.
async fn end_of(rig: &Rig, callee: &str) -> Decision {
    rig.decision(|decision| {
        let is_end = decision.checks.iter().any(|check| check.name == "upgrade");
        is_end && decision.target.ends_with(callee)
    })
    .await
}

/// `users` behind its sidecar, and an edge in front.
async fn deployment(more: &str) -> (Pair, Running) {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    let edge = pair.rig.gateway(&format!("{ROUTE}{more}")).await;
    (pair, edge)
}

async fn connect(edge: SocketAddr, more: &[(&str, &str)]) -> TcpStream {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    let head = shake(&mut stream, "flea.test", more).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

#[tokio::test]
async fn bytes_flow_both_ways_through_edge_and_sidecar_and_both_ends_are_recorded() {
    let (pair, edge) = deployment("").await;
    let token = bearer(&pair.rig.access_token("alice", &["buyer"]));
    let mut stream = TcpStream::connect(edge.plain).await.unwrap();
    let head = shake(&mut stream, "flea.test", &[("Authorization", &token), ("X-User", "admin")]).await;
    let head = head.to_lowercase();
    for line in ["upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: chat"] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    echoes(&mut stream).await;
    echoes(&mut stream).await;
    stream.shutdown().await.unwrap();
    ends(&mut stream).await;
    for callee in ["gateway", "users"] {
        let began = |decision: &Decision| decision.target.ends_with(callee) && decision.status == 101;
        let began = pair.rig.decision(|decision| {
            began(decision) && decision.checks.iter().all(|check| check.name != "upgrade")
        });
        let (began, ended) = (began.await, end_of(&pair.rig, callee).await);
        assert_eq!((began.verdict, ended.verdict), (Verdict::Allow, Verdict::Allow));
        assert!(began.user.is_some() && began.user == ended.user, "{callee}");
        assert_eq!((began.trace, began.connection), (ended.trace, ended.connection));
        let check = ended.checks.iter().find(|check| check.name == "upgrade").unwrap();
        assert!(
            check.detail.contains(&began.id.to_string()) && check.result == CheckResult::Pass,
            "{check:?}"
        );
    }
}

#[tokio::test]
async fn what_no_setting_names_is_refused_and_nothing_but_a_websocket_can_be_named() {
    let (pair, listener) = Pair::new("", "").await;
    serve_echo(listener);
    let open = "[[route]]\npath = \"/chat\"\nto = \"users\"\nuser = \"none\"\n";
    let edge = pair.rig.gateway(open).await;
    let refused = |answer: Answer| answer.problem(400);
    assert_eq!(refused(get(edge.plain, "/chat", HANDSHAKE).await), "malformed_request");
    // The service's own calls, and those to a service whose sidecar was not told.
    let mut call = pair.call().await;
    assert!(shake(&mut call, "users", &[]).await.starts_with("HTTP/1.1 400 "));
    let edge = pair
        .rig
        .gateway_of(edge.workload.clone(), &open.replace("[[route]]", &format!("[[route]]\n{WEBSOCKET}")))
        .await;
    assert_eq!(refused(get(edge.plain, "/chat", HANDSHAKE).await), "malformed_request");
    // Named, and no handshake of one.
    for (name, value) in [("Upgrade", "h2c"), ("Sec-WebSocket-Version", "8"), ("Sec-WebSocket-Key", "short")]
    {
        let headers: Vec<_> =
            HANDSHAKE.iter().copied().filter(|(known, _)| *known != name).chain([(name, value)]).collect();
        assert_eq!(get(edge.plain, "/chat", &headers).await.status, 400, "{name}: {value}");
    }
    // The sidecars pass it on, and the route does not name it.
    let (told, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    let edge_of_told = told.rig.gateway(open).await;
    assert_eq!(refused(get(edge_of_told.plain, "/chat", HANDSHAKE).await), "malformed_request");
    let mut call = told.call().await;
    let headers = [&HANDSHAKE[..2], &[("Sec-WebSocket-Version", "8"), HANDSHAKE[3]]].concat();
    call.write_all(head_and_body("GET", "/chat", "users", &headers, "").as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut call).await.status, 400);
    // Its length is stated, and it is five bytes long.
    assert_eq!(request(edge.plain, "GET", "/chat", HANDSHAKE, "hello").await.status, 400);
    let bad = |text: &str| toml::from_str::<countersign_gateway::Settings>(text).unwrap_err().to_string();
    let said = bad("[[route]]\npath = \"/\"\nto = \"a\"\nupgrade = [\"h2c\"]");
    assert!(said.contains("websocket"), "{said}");
    assert_eq!(settings("[limits]\nupgrade_idle_timeout_ms = 7").limits.upgrade_idle_timeout_ms, 7);
}

#[tokio::test]
async fn a_stranger_and_whom_the_policy_forbids_leave_http_nowhere() {
    let (pair, edge) = deployment("").await;
    pair.rig.policy("gateway", "@id(\"users\") permit (principal is User, action, resource);");
    crate::rig::eventually(|| edge.workload.live().snapshot().sequence == pair.rig.world.sequence()).await;
    let answer = get(edge.plain, "/chat", HANDSHAKE).await;
    assert_eq!(answer.problem(401), "authentication_required");
    let bad = bearer("not.a.token");
    assert_eq!(get(edge.plain, "/chat", &[HANDSHAKE, &[("Authorization", &bad)]].concat()).await.status, 401);
    let good = bearer(&pair.rig.access_token("alice", &["buyer"]));
    echoes(&mut connect(edge.plain, &[("Authorization", &good)]).await).await;
}

#[tokio::test]
async fn it_ends_with_the_token_of_its_user() {
    let (pair, edge) = deployment("").await;
    let token = pair.rig.access_token_for("alice", &["buyer"], Duration::from_secs(3));
    let expires = clock::now().saturating_add(Duration::from_secs(2));
    let mut short = connect(edge.plain, &[("Authorization", &bearer(&token))]).await;
    let token = bearer(&pair.rig.access_token("bob", &["buyer"]));
    let mut long = connect(edge.plain, &[("Authorization", &token)]).await;
    echoes(&mut short).await;
    ends(&mut short).await;
    assert!(clock::now() >= expires, "it was good until then");
    let end = end_of(&pair.rig, "gateway").await;
    assert_eq!((end.verdict, end.code.as_deref()), (Verdict::Deny, Some("CS3005")), "{end:?}");
    echoes(&mut long).await;
}

/// Opens one, changes the world, and waits for its end.
async fn cut_by(change: impl FnOnce(&mut Snapshot), callee: &str) -> Decision {
    let (pair, edge) = deployment("").await;
    let token = bearer(&pair.rig.access_token("alice", &["buyer"]));
    let mut stream = connect(edge.plain, &[("Authorization", &token)]).await;
    echoes(&mut stream).await;
    pair.rig.world.change(change);
    ends(&mut stream).await;
    let end = end_of(&pair.rig, callee).await;
    assert_eq!(end.verdict, Verdict::Deny, "{end:?}");
    end
}

fn replace(snapshot: &mut Snapshot, target: &str, text: &str) {
    snapshot.policies.generation += 1;
    for file in snapshot.policies.files.iter_mut().filter(|file| file.name == target) {
        text.clone_into(&mut file.text);
    }
}

/// An edge that reads its settings again.
async fn reloadable(pair: &Pair, more: &str) -> (SocketAddr, Reloader) {
    let workload = pair.rig.workload(SpiffeId::gateway(&pair.rig.td, "edge").unwrap()).await;
    let gateway = Gateway::bind(reloaded(more), workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    tokio::spawn(gateway.run(pair.rig.shutdown.clone()));
    crate::rig::eventually(|| !workload.live().tokens().internal.is_empty()).await;
    (address, reloader)
}

fn reloaded(more: &str) -> countersign_gateway::Settings {
    settings(&format!("listen = \"127.0.0.1:0\"\n{more}"))
}

#[tokio::test]
async fn it_ends_when_a_reload_denies_its_network_and_not_when_one_changes_nothing() {
    for denied in ["access.deny = [\"127.0.0.0/8\"]\n", ""] {
        let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
        serve_echo(listener);
        let (address, reloader) = reloadable(&pair, ROUTE).await;
        let mut stream = connect(address, &[]).await;
        reloader.apply(reloaded(ROUTE)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        echoes(&mut stream).await;
        // Of the gateway, and of the route.
        let of_route = if denied.is_empty() { "access.deny = [\"127.0.0.0/8\"]\n" } else { "" };
        reloader.apply(reloaded(&format!("{denied}{ROUTE}{of_route}"))).await.unwrap();
        ends(&mut stream).await;
        assert_eq!(end_of(&pair.rig, "gateway").await.verdict, Verdict::Deny);
    }
}

#[tokio::test]
async fn it_ends_when_a_reload_takes_the_upgrade_or_the_target_from_its_route() {
    let (of_upgrade, of_target) = ("upgrade = [\"websocket\"]\n", "to = \"users\"");
    for changed in [ROUTE.replace(of_upgrade, ""), ROUTE.replace(of_target, "to = \"elsewhere\"")] {
        let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
        serve_echo(listener);
        let (address, reloader) = reloadable(&pair, ROUTE).await;
        let mut stream = connect(address, &[]).await;
        echoes(&mut stream).await;
        reloader.apply(reloaded(&changed)).await.unwrap();
        ends(&mut stream).await;
        assert_eq!(end_of(&pair.rig, "gateway").await.verdict, Verdict::Deny);
    }
}

#[tokio::test]
async fn a_filter_is_told_of_a_handshake_and_it_ends_when_others_are_to_be_asked() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    let filter = Filter::new(yes);
    let socket = filter.on_socket(&pair.rig, 0o600).await;
    let asking = |name: &str| {
        format!("{ROUTE}[[filter]]\nname = \"{name}\"\naddress = \"unix:{}\"\n", socket.display())
    };
    let (address, reloader) = reloadable(&pair, &asking("opa")).await;
    let mut stream = connect(address, &[]).await;
    let context = filter.asked().remove(0).attributes.unwrap().context_extensions;
    assert_eq!(context["countersign.upgrade"], "websocket");
    reloader.apply(reloaded(&asking("opa"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    echoes(&mut stream).await;
    reloader.apply(reloaded(&asking("other"))).await.unwrap();
    ends(&mut stream).await;
    let end = end_of(&pair.rig, "gateway").await;
    assert_eq!((end.verdict, end.code.as_deref()), (Verdict::Deny, Some("CS4007")), "{end:?}");
}

#[tokio::test]
async fn what_a_filter_sets_holds_where_a_websocket_is_accepted_at_the_edge_and_at_a_sidecar() {
    const MAY: &str = "headers = [\"x-opa\"]\ntimeout_ms = 20000\n";
    for at_edge in [true, false] {
        let socket_of = |socket: PathBuf| {
            format!("[[filter]]\nname = \"opa\"\naddress = \"unix:{}\"\n{MAY}", socket.display())
        };
        let filter = Filter::new(sets(&[("x-opa", "judged"), ("x-other", "1"), ("upgrade", "h2c")]));
        // Where the filter of a sidecar listens has to be known before the sidecar is.
        let elsewhere = Rig::new();
        let told = socket_of(filter.on_socket(&elsewhere, 0o600).await);
        let (of_edge, of_sidecar) = if at_edge { (told.as_str(), "") } else { ("", told.as_str()) };
        let (pair, listener) = Pair::new(&format!("{WEBSOCKET}{of_sidecar}"), "").await;
        let heads = serve_echo(listener);
        let edge = pair.rig.gateway(&format!("{ROUTE}{of_edge}")).await;
        let mut stream = connect(edge.plain, &[("X-Opa", "mine")]).await;
        echoes(&mut stream).await;
        let head = heads.lock().unwrap().remove(0).to_lowercase();
        assert!(head.contains("\r\nx-opa: judged\r\n"), "at the edge {at_edge}: {head}");
        assert!(!head.contains("mine") && !head.contains("x-other") && !head.contains("h2c"), "{head}");
        let whose = if at_edge { "gateway" } else { "users" };
        let asked = filter.asked().remove(0).attributes.unwrap().context_extensions;
        let record =
            pair.rig.decision(|decision| decision.id.to_string() == asked["countersign.decision"]).await;
        let said = record.checks.iter().find(|check| check.name == "filter").unwrap();
        assert!(record.target.ends_with(whose) && record.status == 101, "{record:?}");
        assert_eq!(
            (said.result, said.detail.as_str()),
            (CheckResult::Pass, "opa lets it go on, 1 headers changed")
        );
    }
}

#[tokio::test]
async fn a_token_that_ends_while_a_filter_is_asked_leads_nowhere() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    let socket = Filter::new(yes).after(Duration::from_secs(3)).on_socket(&pair.rig, 0o600).await;
    let filter =
        format!("[[filter]]\nname = \"opa\"\naddress = \"unix:{}\"\ntimeout_ms = 20000\n", socket.display());
    let edge = pair.rig.gateway(&format!("{ROUTE}{filter}")).await;
    let token = bearer(&pair.rig.access_token_for("alice", &["buyer"], Duration::from_secs(2)));
    let answer = get(edge.plain, "/chat", &[HANDSHAKE, &[("Authorization", &token)]].concat()).await;
    assert_eq!(answer.status, 401, "{answer:?}");
}

#[tokio::test]
async fn it_ends_when_the_user_is_revoked() {
    let revoke = |snapshot: &mut Snapshot| {
        let (issued_before, until) = (
            clock::now().saturating_add(Duration::from_secs(1)),
            clock::now().saturating_add(Duration::from_secs(3600)),
        );
        snapshot.revoked.users.push(RevokedUser { id: "u_alice".into(), issued_before, until });
    };
    let end = cut_by(revoke, "gateway").await;
    assert_eq!(end.code.as_deref(), Some("CS3027"), "{end:?}");
}

#[tokio::test]
async fn it_ends_when_the_policy_of_the_edge_or_of_the_service_permits_it_no_longer() {
    let nobody = "@id(\"else\") permit (principal, action == Action::\"POST\", resource);";
    for callee in ["gateway", "users"] {
        let end = cut_by(|snapshot| replace(snapshot, callee, nobody), callee).await;
        assert_eq!(end.code.as_deref(), Some("CS4001"), "{end:?}");
    }
}

#[tokio::test]
async fn it_ends_when_the_floor_of_the_service_rises_above_it() {
    let raise = |snapshot: &mut Snapshot| {
        let users = snapshot.services.iter_mut().find(|service| service.name.as_str() == "users");
        users.unwrap().accepts = vec![countersign_identity::Mode::MtlsJwt];
    };
    cut_by(raise, "users").await;
}

#[tokio::test]
async fn through_a_pair_of_sidecars_it_ends_when_the_certificate_of_the_caller_is_revoked() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    let mut stream = pair.call().await;
    let head = shake(&mut stream, "users", &[]).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    echoes(&mut stream).await;
    pair.rig.world.revoke(&SpiffeId::service(&pair.rig.td, "ads").unwrap());
    ends(&mut stream).await;
    let end = end_of(&pair.rig, "users").await;
    assert_eq!((end.verdict, end.code.as_deref()), (Verdict::Deny, Some("CS2006")), "{end:?}");
}

#[tokio::test]
async fn a_caller_whose_proof_counts_once_cannot_leave_http_at_a_sidecar() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    for (mode, status) in [(Mode::Mtls, 101), (Mode::MtlsJwt, 400), (Mode::Jwt, 400)] {
        pair.rig.world.change(|snapshot| {
            let users =
                snapshot.services.iter_mut().find(|service| service.name.as_str() == "users").unwrap();
            users.accepts = vec![mode];
            let mut ads = users.clone();
            (ads.name, ads.address, ads.sends) = (ServiceName::parse("ads").unwrap(), String::new(), mode);
            ads.spiffe_id = SpiffeId::service(&pair.rig.td, "ads").unwrap();
            snapshot.services.retain(|service| service.name != ads.name);
            snapshot.services.push(ads);
        });
        let sequence = pair.rig.world.sequence();
        for workload in [&pair.users, &pair.ads] {
            crate::rig::eventually(|| workload.live().snapshot().sequence == sequence).await;
        }
        let head = shake(&mut pair.call().await, "users", &[]).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{mode}: {head}");
        let decided = pair.rig.decision(|decision| {
            decision.mode == mode.as_str() && decision.target.ends_with("users") && decision.status == status
        });
        decided.await;
    }
}

#[tokio::test]
async fn it_ends_when_the_certificate_of_the_callee_is_revoked() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    let mut stream = pair.call().await;
    assert!(shake(&mut stream, "users", &[]).await.starts_with("HTTP/1.1 101 "));
    pair.rig.world.revoke(&SpiffeId::service(&pair.rig.td, "users").unwrap());
    ends(&mut stream).await;
}

#[tokio::test]
async fn it_ends_when_nothing_moves_and_not_while_something_does() {
    let (pair, edge) = deployment("[limits]\nupgrade_idle_timeout_ms = 1500\n").await;
    let mut stream = connect(edge.plain, &[]).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        echoes(&mut stream).await;
    }
    ends(&mut stream).await;
    let end = end_of(&pair.rig, "gateway").await;
    assert!(end.checks.last().unwrap().detail.contains("nothing moved"), "{end:?}");
}

#[tokio::test]
async fn it_ends_with_the_sidecar() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    serve_echo(listener);
    let mut stream = pair.call().await;
    assert!(shake(&mut stream, "users", &[]).await.starts_with("HTTP/1.1 101 "));
    echoes(&mut stream).await;
    pair.stop.cancel();
    ends(&mut stream).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_whoever_writes() {
    let (pair, edge) = deployment("").await;
    let stream = connect(edge.plain, &[]).await;
    let (mut reading, mut writing) = stream.into_split();
    let (piece, mut sent) = (vec![7; 64 * 1024], 0);
    // It echoes, and nobody reads: sockets and buffers on the way fill up, and that is all.
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), writing.write(&piece)).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "nobody stops whoever writes");
    }
    let reader = tokio::spawn(async move {
        let mut read = Vec::new();
        reading.read_to_end(&mut read).await.unwrap();
        read.len()
    });
    writing.shutdown().await.unwrap();
    let read = tokio::time::timeout(WITHIN, reader).await.unwrap().unwrap();
    assert_eq!(read, sent, "all of it came back");
    drop(pair);
}

#[tokio::test]
async fn it_counts_as_a_connection_of_its_address_for_as_long_as_it_lasts() {
    let (_pair, edge) = deployment("[limits]\nconnections_per_address_max = 1\n").await;
    let mut stream = connect(edge.plain, &[]).await;
    let mut second = TcpStream::connect(edge.plain).await.unwrap();
    ends(&mut second).await;
    stream.shutdown().await.unwrap();
    ends(&mut stream).await;
    drop(stream);
    for _ in 0..200 {
        let mut next = TcpStream::connect(edge.plain).await.unwrap();
        if shake(&mut next, "flea.test", &[]).await.starts_with("HTTP/1.1 101 ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("its seat was never given back");
}

/// In HTTP/2 there is no such answer: what the service behind says of one must not go there.
#[tokio::test]
async fn a_service_that_leaves_http_unasked_has_no_answer() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            stream.write_all(SWITCHED.as_bytes()).await.unwrap();
        }
    });
    let mut stream = pair.call().await;
    stream.write_all(b"GET /chat HTTP/1.1\r\nHost: users\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 502);
    let record = pair.rig.decision(|decision| decision.target == "users").await;
    assert_eq!((record.status, record.verdict), (502, Verdict::Deny));
    let said = &record.checks.last().unwrap().detail;
    assert!(said.contains("leaves HTTP, and nobody asked"), "{record:?}");
}

#[tokio::test]
async fn a_service_that_goes_elsewhere_than_it_was_asked_to_has_no_answer() {
    let (pair, listener) = Pair::new(WEBSOCKET, WEBSOCKET).await;
    tokio::spawn(async move {
        for odd in [SWITCHED.replace("websocket", "h2c"), SWITCHED.replace("-Accept", "-Reject")] {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            stream.write_all(odd.as_bytes()).await.unwrap();
        }
    });
    for _ in 0..2 {
        assert!(shake(&mut pair.call().await, "users", &[]).await.starts_with("HTTP/1.1 502 "));
    }
}

#[tokio::test]
async fn an_upstream_may_take_it_or_answer_as_it_likes_and_never_leaves_http_unasked() {
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let backend = Backend::new(|_, request| {
        let asked = request.to_lowercase().contains("upgrade: websocket");
        match (request.starts_with("GET /no"), request.starts_with("GET /else"), asked) {
            (true, ..) => {
                Reply::Raw("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno".to_owned())
            }
            (_, true, _) => Reply::Raw(SWITCHED.replace("websocket", "h2c")),
            _ if request.starts_with("GET /long") => Reply::Raw(
                SWITCHED.replace("\r\n\r\n", &format!("\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000))),
            ),
            _ if request.starts_with("GET /silent") => Reply::Silence,
            _ if request.starts_with("GET /chat") => {
                Reply::Raw(SWITCHED.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"))
            }
            _ => Reply::Raw(SWITCHED.to_owned()),
        }
    })
    .await;
    let toml = format!(
        "[[route]]\npath = \"/*\"\nto = \"b\"\nuser = \"none\"\n{WEBSOCKET}[[upstream]]\nname = \"b\"\nendpoints = [\"{}\"]\n\
         timeouts = {{ answer_ms = 1500 }}\nanswer_head = {{ bytes_max = 8192 }}\n",
        backend.address
    );
    let edge = rig.gateway(&toml).await;
    let mut stream = TcpStream::connect(edge.plain).await.unwrap();
    let head = shake(&mut stream, "flea.test", &[]).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.to_lowercase().contains("content-length"), "{head}");
    stream.shutdown().await.unwrap();
    assert_eq!(get(edge.plain, "/long", HANDSHAKE).await.status, 502, "a head past answer_head.bytes_max");
    assert_eq!(get(edge.plain, "/silent", HANDSHAKE).await.status, 504);
    let record = rig.decision(|decision| decision.status == 504).await;
    let said = &record.checks.last().unwrap().detail;
    assert!(said.contains(&backend.address.to_string()), "{record:?}");
    let refused = get(edge.plain, "/no", HANDSHAKE).await;
    assert_eq!((refused.status, refused.body.as_str()), (426, "no"));
    assert_eq!(get(edge.plain, "/else", HANDSHAKE).await.problem(502), "bad_gateway");
    // No handshake, and it leaves HTTP all the same.
    assert_eq!(get(edge.plain, "/chat", &[]).await.problem(502), "bad_gateway");
    let mut chunked = TcpStream::connect(edge.plain).await.unwrap();
    chunked
        .write_all(b"POST /chat HTTP/1.1\r\nHost: flea.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_answer(&mut chunked).await.status, 502);
}
