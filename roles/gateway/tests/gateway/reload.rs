//! Another configuration takes the place of the one in force, and nobody who is being served notices.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use countersign_gateway::{Gateway, GatewayError, RouteError};
use countersign_identity::SpiffeId;
use countersign_sdk::clock;
use countersign_token::TxnToken;
use tokio_util::sync::CancellationToken;

use crate::issuers::{ISSUER, Provider};
use crate::rig::backend::Backend;
use crate::rig::client::{bearer, get, request};
use crate::rig::dns::{Dns, Record};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, eventually, settings};

const EVERYBODY: &str = "@id(\"all\") permit (principal, action, resource);";

fn to(path: &str) -> String {
    format!("listen = \"127.0.0.1:0\"\n[[route]]\npath = \"{path}\"\nto = \"ads\"\nuser = \"required\"\n")
}

#[tokio::test]
async fn a_reload_changes_routes_and_keeps_keys_sessions_and_connections() {
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let seen = Seen::default();
    let _ads = rig.open_service("ads", echo::router(&["/ads", "/new"], &seen)).await;
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let gateway =
        Gateway::bind(settings(&to("/ads")), workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(gateway.run(shutdown.clone()));
    eventually(|| !workload.live().tokens().internal.is_empty()).await;
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    let status = async |path: &str| get(address, path, &[("authorization", &alice)]).await.status;
    assert_eq!((status("/ads").await, status("/new").await), (200, 404));
    let token = echo::header(&seen.last(), "txn-token");
    assert_eq!(token.len(), 1);

    reloader.apply(settings(&to("/new"))).await.unwrap();
    assert_eq!((status("/ads").await, status("/new").await), (404, 200));
    assert_eq!(echo::header(&seen.last(), "txn-token"), token, "the session went over");

    // What is wrong, or needs a restart, changes nothing.
    let twice = format!("{}[[route]]\npath = \"/new\"\nto = \"ads\"\n", to("/new"));
    let refused = reloader.apply(settings(&twice)).await.unwrap_err();
    assert!(matches!(refused, GatewayError::Route(RouteError::Ambiguous { .. })), "{refused}");
    let elsewhere = settings(&to("/ads").replace("127.0.0.1:0", "127.0.0.1:1"));
    let refused = reloader.apply(elsewhere).await.unwrap_err();
    assert!(matches!(refused, GatewayError::NeedsRestart { setting: "listen" }), "{refused}");
    assert_eq!((status("/ads").await, status("/new").await), (404, 200));

    shutdown.cancel();
    running.await.unwrap();
    let refused = reloader.apply(settings(&to("/ads"))).await.unwrap_err();
    assert!(matches!(refused, GatewayError::Stopped), "{refused}");
}

#[tokio::test]
async fn what_stands_as_long_as_the_process_is_changed_by_no_reload() {
    let rig = Rig::new();
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let gateway = Gateway::bind(settings(&to("/ads")), workload, Arc::new(String::new)).await.unwrap();
    let reloader = gateway.reloader();
    tokio::spawn(gateway.run(rig.shutdown.clone()));
    // Dotted keys before the tables, and tables before those of the routes.
    let and = |text: &str| to("/ads").replacen("[[route]]", &format!("{text}[[route]]"), 1);
    let asker = "listen = \"127.0.0.1:1\"\n{} = [\"spiffe://fleamarket.test/svc/proxy\"]\n";
    for (changed, text) in [
        ("listen_tls", "listen_tls = \"127.0.0.1:1\"\n".to_owned()),
        ("tls_cert and tls_key", "tls_cert = \"/cert.pem\"\n".to_owned()),
        ("tls_cert and tls_key", "tls_key = \"/key.pem\"\n".to_owned()),
        ("tls", "tls.allow_tls_1_2_at_this_edge = true\n".to_owned()),
        ("workers", "workers = 61\n".to_owned()),
        ("admin", "admin = \"127.0.0.1:1\"\n".to_owned()),
        ("revocation", "revocation.when_stale = \"refuse\"\n".to_owned()),
        ("ask", format!("[[ask]]\n{}", asker.replace("{}", "askers"))),
        ("front", format!("[[front]]\n{}", asker.replace("{}", "proxies"))),
        ("limits of connections", "limits.connections_max = 7\n".to_owned()),
        ("limits of connections", "limits.connections_per_address_max = 7\n".to_owned()),
        ("limits of connections", "limits.sessions_max = 7\n".to_owned()),
    ] {
        let refused = reloader.apply(settings(&and(&text))).await.unwrap_err();
        assert!(
            matches!(refused, GatewayError::NeedsRestart { setting } if setting == changed),
            "{text}: {refused}"
        );
    }
    // Other limits are those of each request.
    reloader.apply(settings(&and("limits.body_bytes_max = 7\n"))).await.unwrap();
}

#[tokio::test]
async fn a_reload_throttles_as_the_new_settings_say() {
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let gateway =
        Gateway::bind(settings(&to("/ads")), workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    tokio::spawn(gateway.run(rig.shutdown.clone()));
    eventually(|| !workload.live().tokens().internal.is_empty()).await;
    // At the same time, so that they are far more than one in a second.
    let asked = async || futures::future::join_all((0..50).map(|_| get(address, "/no", &[]))).await;
    assert!(asked().await.iter().all(|answer| answer.status == 404));
    let throttle = "throttle = { requests_per_second = 1, requests_burst = 1 }\n";
    reloader.apply(settings(&format!("{throttle}{}", to("/ads")))).await.unwrap();
    assert!(asked().await.iter().any(|answer| answer.status == 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_no_request_by_either_carrier() {
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let seen = Seen::default();
    let _ads = rig.service("ads", EVERYBODY, echo::router(&["/ads"], &seen)).await;
    // A plain upstream is reached by the quick carrier, a service by the full one.
    let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = backend.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(backend, echo::router(&["/plain"], &Seen::default())).await });
    let configured = |more: &str| {
        let plain = "[[route]]\npath = \"/plain\"\nto = \"backend\"\nuser = \"none\"\n";
        settings(&format!(
            "{}{plain}{more}[[upstream]]\nname = \"backend\"\nendpoints = [\"{upstream}\"]\n",
            to("/ads")
        ))
    };
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let gateway = Gateway::bind(configured(""), workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(gateway.run(shutdown.clone()));
    eventually(|| !workload.live().tokens().internal.is_empty()).await;
    let alice = bearer(&rig.access_token("alice", &["buyer"]));
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = ["/ads", "/plain", "/ads", "/plain"]
        .into_iter()
        .map(|path| {
            let (over, served, alice) = (Arc::clone(&over), Arc::clone(&served), alice.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let answer = get(address, path, &[("authorization", &alice)]).await;
                    assert_eq!(answer.status, 200, "{path}: {answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for number in 0..20 {
        // Every other time the upstreams are made anew as well.
        let more = format!("[[route]]\npath = \"/r{number}\"\nto = \"ads\"\n");
        let mut new = configured(&more);
        if number % 2 == 0 {
            new.upstreams[0].name = "backend".to_owned();
            new.upstreams.push(new.upstreams[0].clone());
            new.upstreams[1].name = format!("b{number}");
        }
        reloader.apply(new).await.unwrap();
        let before = served.load(Ordering::Relaxed);
        eventually(|| served.load(Ordering::Relaxed) >= before + 8).await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reload_keeps_what_limits_have_counted_that_stay_the_same() {
    let rig = Rig::new();
    rig.policy("gateway", EVERYBODY);
    let backend = Backend::named("one").await;
    let upstream = format!("[[upstream]]\nname = \"backend\"\nendpoints = [\"{}\"]\n", backend.address);
    let configured = |rate: &str, more: &str| {
        let route = |path: &str, methods: &str| {
            format!(
                "[[route]]\npath = \"{path}\"\nto = \"backend\"\nuser = \"none\"\nmethods = [\"{methods}\"]\n\
                 limit = {{ per = \"address\", rate = \"{rate}\" }}\n"
            )
        };
        let routes = route("/open", "GET") + &route("/open", "POST");
        settings(&format!(
            "listen = \"127.0.0.1:0\"\nlimit = [{{ per = \"address\", rate = \"5/h\" }}]\n{more}{routes}{upstream}"
        ))
    };
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let gateway =
        Gateway::bind(configured("2/h", ""), workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    let running = tokio::spawn(gateway.run(rig.shutdown.clone()));
    eventually(|| !workload.live().tokens().internal.is_empty()).await;
    let status = async |method: &str| request(address, method, "/open", &[], "").await.status;
    assert_eq!((status("GET").await, status("POST").await), (200, 200));

    // Everything that guards is made anew.
    let more = "access.deny = [\"192.0.2.0/24\"]\n";
    reloader.apply(configured("2/h", more)).await.unwrap();
    assert_eq!((status("GET").await, status("GET").await), (200, 429), "one was taken before");
    assert_eq!(status("POST").await, 200, "the other route has a bucket of its own");
    // Those two of the route's, and one more than the four that were let in at the gateway's.
    reloader.apply(configured("9/h", "")).await.unwrap();
    assert_eq!((status("GET").await, status("POST").await), (200, 429), "five went before, by the gateway's");
    rig.shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn after_a_reload_users_of_another_issuer_have_what_the_new_settings_give_them() {
    let (rig, provider) = (Rig::new(), Provider::new("k1"));
    rig.policy("gateway", EVERYBODY);
    let seen = Seen::default();
    let _ads = rig.open_service("ads", echo::router(&["/ads"], &seen)).await;
    let file = rig.dir.path().join("jwks.json");
    std::fs::write(&file, provider.jwks()).unwrap();
    let giving = |roles: &str| {
        settings(&format!(
            "{}[[issuer]]\nissuer = \"{ISSUER}\"\naudience = \"backend\"\njwks_file = {file:?}\ntyp = \"JWT\"\n\
             roles_claim = \"scope\"\nroles = {{ {roles} }}\n",
            to("/ads")
        ))
    };
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let first = giving("write = \"shop-seller\"");
    let gateway = Gateway::bind(first, workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    let running = tokio::spawn(gateway.run(rig.shutdown.clone()));
    eventually(|| !workload.live().tokens().internal.is_empty()).await;
    let guest = bearer(&provider.token(ISSUER, |_| {}));
    let status = async || get(address, "/ads", &[("authorization", &guest)]).await.status;
    let roles = || {
        let internal = echo::header(&seen.last(), "txn-token").remove(0);
        let live = workload.live();
        let user = TxnToken::verify(&internal, &rig.td, clock::now(), |kid| {
            live.tokens().internal.get(kid).cloned()
        });
        user.unwrap().into_inner().roles
    };
    assert_eq!((status().await, roles()), (200, vec!["shop-seller".to_owned()]));

    reloader.apply(giving("write = \"shop-buyer\"")).await.unwrap();
    assert_eq!(
        (status().await, roles()),
        (200, vec!["shop-buyer".to_owned()]),
        "and its internal token is another"
    );

    reloader.apply(settings(&to("/ads"))).await.unwrap();
    assert_eq!(status().await, 401, "the issuer is gone");
    rig.shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_upstreams_that_stay_and_waits_for_those_that_are_new() {
    let (rig, dns) = (Rig::new(), Dns::new().await);
    rig.policy("gateway", EVERYBODY);
    let backend = Backend::named("one").await;
    let port = backend.address.port();
    let upstream = |name: &str| {
        dns.set(&format!("{name}.test"), &[Record::A(Ipv4Addr::LOCALHOST)]);
        format!(
            "[[upstream]]\nname = \"{name}\"\ndns = \"{name}.test:{port}\"\n\
             resolver = {{ nameservers = [\"{}\"], timeout_ms = 200 }}\n\
             [[route]]\npath = \"/{name}\"\nto = \"{name}\"\nuser = \"none\"\n",
            dns.address
        )
    };
    let configured = |names: &[&str]| {
        let upstreams: String = names.iter().map(|name| upstream(name)).collect();
        settings(&format!("listen = \"127.0.0.1:0\"\n{upstreams}"))
    };
    let workload = rig.workload(SpiffeId::gateway(&rig.td, "edge").unwrap()).await;
    let gateway =
        Gateway::bind(configured(&["first"]), workload.clone(), Arc::new(String::new)).await.unwrap();
    let (address, reloader) = (gateway.address().unwrap(), gateway.reloader());
    let running = tokio::spawn(gateway.run(rig.shutdown.clone()));
    eventually(|| !workload.live().tokens().internal.is_empty()).await;
    let status = async |path: &str| get(address, path, &[]).await.status;

    reloader.apply(configured(&["first", "second"])).await.unwrap();
    assert_eq!(status("/second").await, 200, "the first request finds it");

    dns.break_down(true);
    reloader.apply(configured(&["first", "second", "third"])).await.unwrap();
    assert_eq!((status("/first").await, status("/second").await), (200, 200), "their endpoints are known");
    assert_ne!(status("/third").await, 200);
    rig.shutdown.cancel();
    running.await.unwrap();
}
