//! A sidecar and callers in HTTP/1.1 that prove themselves by their certificate alone: the quick carrier takes their calls, and
//! what holds for the full one holds for it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_gateway::sidecar::{Settings, Sidecar};
use countersign_identity::SpiffeId;
use countersign_ledger::{CheckResult, Verdict};
use countersign_sdk::tls::{Connector, Expected, HTTP_1_1};
use countersign_sdk::workload::Workload;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};
use tokio::time::timeout;

use crate::rig::Rig;
use crate::rig::client::{Answer, head_and_body, read_answer};

/// The service `users` behind a sidecar.
struct Behind {
    rig: Rig,
    app: PathBuf,
    address: SocketAddr,
}

impl Behind {
    async fn new() -> Self {
        let rig = Rig::new();
        rig.policy("users", "@id(\"all\") permit (principal, action, resource);");
        let app = rig.dir.path().join("app.sock");
        serve_app(&app, "old");
        let workload = rig.workload(SpiffeId::service(&rig.td, "users").unwrap()).await;
        // One worker, so that its connections are the only ones that are kept.
        let text = format!(
            "service = \"users\"\ninbound = \"127.0.0.1:0\"\nworkers = 1\napp = \"unix:{}\"\n",
            app.display()
        );
        let settings: Settings = toml::from_str(&text).unwrap();
        let sidecar = Sidecar::bind(settings, workload, Arc::new(String::new)).await.unwrap();
        let address = sidecar.address().unwrap();
        tokio::spawn(sidecar.run(rig.shutdown.clone()));
        Self { rig, app, address }
    }
}

/// The service `name`, and its connection in HTTP/1.1 to the one at `address`, which is `users`.
pub(crate) async fn caller(
    rig: &Rig,
    name: &str,
    address: SocketAddr,
) -> (Workload, impl AsyncRead + AsyncWrite + Unpin + use<>) {
    let workload = rig.workload(SpiffeId::service(&rig.td, name).unwrap()).await;
    let users = Expected::exactly(SpiffeId::service(&rig.td, "users").unwrap());
    let connector = Connector::new(Arc::clone(workload.trust()), users).speaking(&[HTTP_1_1]);
    let tcp = TcpStream::connect(address).await.unwrap();
    let (stream, _) = connector.connect(tcp).await.unwrap();
    (workload, stream)
}

/// Answers each request with its name, the number of the connection, and the head that came.
fn serve_app(socket: &Path, name: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    let said = format!("{name} {number}\n{}", String::from_utf8_lossy(&bytes[..read]));
                    let forged = "countersign-user: forged\r\nx-user: forged\r\nx-own: kept\r\n";
                    let length = said.len();
                    let head = format!("HTTP/1.1 200 OK\r\n{forged}content-length: {length}\r\n\r\n");
                    stream.write_all(format!("{head}{said}").as_bytes()).await.unwrap();
                }
            });
        }
    });
}

pub(crate) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    headers: &[(&str, &str)],
) -> Answer {
    stream.write_all(head_and_body("GET", "/users/7", "users", headers, "").as_bytes()).await.unwrap();
    read_answer(stream).await
}

/// Who answered, and on which connection; or that nobody was asked.
async fn answerer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let answer = ask(stream, &[]).await;
    if answer.status == 200 {
        return answer.body.lines().next().unwrap().to_owned();
    }
    assert_eq!(answer.status, 502, "{answer:?}");
    "refused".to_owned()
}

async fn comes_to_answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), with: &str) {
    let asking = async { while !answerer(stream).await.starts_with(with) {} };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("it never says {with}"));
}

#[tokio::test]
async fn a_connection_that_is_kept_is_used_only_while_its_socket_is_there_and_the_services_alone() {
    let behind = Behind::new().await;
    let (_ads, mut stream) = caller(&behind.rig, "ads", behind.address).await;
    assert_eq!([answerer(&mut stream).await, answerer(&mut stream).await], ["old 0", "old 0"]);
    let mode = |mode| std::fs::set_permissions(&behind.app, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o606);
    comes_to_answer(&mut stream, "refused").await;
    mode(0o600);
    comes_to_answer(&mut stream, "old ").await;
    // Another takes the place of the one that is connected to, which goes on answering whoever asks it.
    let new = behind.rig.dir.path().join("new.sock");
    serve_app(&new, "new");
    std::fs::rename(&new, &behind.app).unwrap();
    comes_to_answer(&mut stream, "new ").await;
}

#[tokio::test]
async fn a_call_that_the_service_did_not_answer_is_recorded_as_refused_with_its_check_and_its_code() {
    let behind = Behind::new().await;
    let (_ads, mut stream) = caller(&behind.rig, "ads", behind.address).await;
    assert_eq!(ask(&mut stream, &[]).await.status, 200);
    // It hangs up on whoever asks, so the carrier has nobody to fall back on.
    let mute = behind.rig.dir.path().join("mute.sock");
    let listener = UnixListener::bind(&mute).unwrap();
    std::fs::set_permissions(&mute, std::fs::Permissions::from_mode(0o600)).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    std::fs::rename(&mute, &behind.app).unwrap();
    let refused = loop {
        let answer = ask(&mut stream, &[]).await;
        if answer.status != 200 {
            break answer;
        }
    };
    let problem: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
    let id = problem["decision"].as_str().unwrap().to_owned();
    let record = behind.rig.decision(|decision| decision.id.to_string() == id).await;
    assert_eq!((record.verdict, record.status), (Verdict::Deny, refused.status), "{record:?}");
    assert!(record.code.as_deref().is_some_and(|code| code.starts_with("CS5")), "{record:?}");
    assert!(record.source.as_deref().is_some_and(|source| source.ends_with("/svc/ads")), "{record:?}");
    let last = record.checks.last().unwrap();
    assert_eq!((last.name.as_str(), last.result), ("upstream", CheckResult::Fail), "{record:?}");
}

#[tokio::test]
async fn two_callers_never_share_a_connection_to_the_service() {
    let behind = Behind::new().await;
    let (_ads, mut ads) = caller(&behind.rig, "ads", behind.address).await;
    let (_chat, mut chat) = caller(&behind.rig, "chat", behind.address).await;
    for _ in 0..3 {
        assert_eq!([answerer(&mut ads).await, answerer(&mut chat).await], ["old 0", "old 1"]);
    }
}

#[tokio::test]
async fn nobody_but_the_sidecar_says_who_is_calling_in_either_direction() {
    let behind = Behind::new().await;
    let (_ads, mut stream) = caller(&behind.rig, "ads", behind.address).await;
    let forged =
        ["countersign-user", "Countersign-Caller", "countersign-context", "x-user", "X-Countersign-User"];
    let headers: Vec<_> = forged.iter().map(|name| (*name, "admin")).collect();
    for _ in 0..2 {
        let answer = ask(&mut stream, &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.contains("admin"), "{}", answer.body);
        let caller = format!("\r\ncountersign-caller: spiffe://{}/svc/ads\r\n", behind.rig.td);
        assert_eq!(answer.body.matches(&caller).count(), 1, "{}", answer.body);
        assert_eq!((answer.header("countersign-user"), answer.header("x-user")), (None, None), "{answer:?}");
        assert_eq!(answer.header("x-own"), Some("kept"));
    }
}

/// What a test waits at most for what has to happen.
const PATIENCE: Duration = Duration::from_secs(10);
