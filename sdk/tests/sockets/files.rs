//! Workloads whose identity comes from PEM files: no agent, no authority.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use countersign_identity::{Mode, ServiceName, SpiffeId};
use countersign_keys::KeyPair;
use countersign_pki::{CertificateDer, pem};
use countersign_sdk::{
    CallError, Workload,
    agent::AgentError,
    clock,
    live::{CompileError, Freshness},
    spool::{SpoolError, SpoolLimits},
    tls::{HandshakeError, HandshakeRefusal, IdentityError, pem::PemFileError},
    workload::{FileIdentity, FileService, FilesError, NotReady},
};
use tokio::net::TcpListener;

use crate::deployment::{Deployment, HOUR, Leaf, LeafProfile, counting, key, text};

/// One directory with everything that one workload is made of.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn of(deployment: &Deployment, leaf: &Leaf) -> Self {
        let files = Self { directory: countersign_testkit::temp_dir() };
        files.write("ca.pem", &pem::encode("CERTIFICATE", deployment.root.certificate()));
        fs::create_dir(files.path("policies")).unwrap();
        files.become_(leaf);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn become_(&self, leaf: &Leaf) {
        self.write("key.pem", &key_pem(&leaf.key));
        self.write("cert.pem", &chain_pem(&leaf.chain));
    }

    /// Lets `callers` of the trust domain do everything to `target`.
    fn permit(&self, target: &str, callers: &[&str]) {
        let rules = callers.iter().enumerate().map(|(n, caller)| {
            format!("@id(\"r{n}\") permit (principal == Workload::\"{caller}\", action, resource in Service::\"{target}\");")
        });
        self.write(&format!("policies/{target}.cedar"), &rules.collect::<Vec<_>>().join("\n"));
    }

    fn identity(&self) -> FileIdentity {
        let mut files = FileIdentity::new(
            self.path("cert.pem"),
            self.path("key.pem"),
            self.path("ca.pem"),
            self.path("state"),
        );
        files.policy_dir = Some(self.path("policies"));
        files
    }
}

fn key_pem(key: &KeyPair) -> String {
    pem::encode("PRIVATE KEY", key.to_pkcs8().unwrap().expose())
}

fn chain_pem(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|certificate| pem::encode("CERTIFICATE", certificate)).collect()
}

/// A leaf of any path.
fn leaf(deployment: &Deployment, path: &str) -> Leaf {
    let id: SpiffeId = format!("spiffe://{}{path}", deployment.td).parse().unwrap();
    deployment.leaf_of(&id, LeafProfile::Workload, HOUR, clock::now())
}

fn knowing(
    mut files: FileIdentity,
    path: &str,
    address: SocketAddr,
    deployment: &Deployment,
) -> FileIdentity {
    let spiffe_id = format!("spiffe://{}{path}", deployment.td).parse().unwrap();
    let name = ServiceName::parse("server").unwrap();
    files.services.push(FileService { name, spiffe_id, address: address.to_string() });
    files
}

/// Serves behind the door of `workload`.
async fn serve(workload: &Workload) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = counting().0.layer(workload.require());
    tokio::spawn(workload.serve(listener, router).into_future());
    address
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// A server and a client of the same trust domain, each from its own files.
async fn pair(deployment: &Deployment) -> (Files, Workload, Files, Workload) {
    let server_files = Files::of(deployment, &leaf(deployment, "/server"));
    server_files.permit("server", &[&format!("spiffe://{}/client", deployment.td)]);
    let server = Workload::from_files(server_files.identity()).await.unwrap();
    let address = serve(&server).await;
    let client_files = Files::of(deployment, &leaf(deployment, "/client"));
    let client = knowing(client_files.identity(), "/server", address, deployment);
    (server_files, server, client_files, Workload::from_files(client).await.unwrap())
}

#[tokio::test]
async fn two_workloads_with_nothing_but_files_talk_mutual_tls_and_the_policy_file_decides() {
    let deployment = Deployment::of("mesh.test");
    let (files, server, _client_files, client) = pair(&deployment).await;
    assert_eq!((server.id().as_str(), server.target()), ("spiffe://mesh.test/server", "server"));
    assert_eq!((server.ready(), server.has_agent()), (Ok(()), false));
    assert_eq!(server.live().accepts("server"), [Mode::Mtls]);

    let answer = client.client("server").get("/users/7").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (200, "hello"));

    // Another one whom the policy does not name.
    let address = client.live().service("server").unwrap().address.parse().unwrap();
    let other_files = Files::of(&deployment, &leaf(&deployment, "/other"));
    let other = knowing(other_files.identity(), "/server", address, &deployment);
    let other = Workload::from_files(other).await.unwrap();
    assert_eq!(other.client("server").get("/users/7").send().await.unwrap().status(), 403);

    // The records are on this disk.
    server.close().await;
    let spool = files.path("state/spool/server");
    let records = fs::read_dir(spool).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let records: String = records.collect();
    assert!(records.contains("spiffe://mesh.test/client") && records.contains("\"deny\""), "{records}");
}

#[tokio::test]
async fn new_files_are_taken_while_connected_and_a_bad_one_keeps_the_old() {
    let deployment = Deployment::of("mesh.test");
    let (files, server, client_files, client) = pair(&deployment).await;
    let call = async || client.client("server").get("/users/7").send().await.unwrap().status().as_u16();
    assert_eq!(call().await, 200);
    let serial = |workload: &Workload| workload.identity().unwrap().serial_hex().to_owned();
    let (first, generation) = (serial(&server), server.trust().generation());

    // A rotation in two steps: the first of them fits nothing, and changes nothing.
    let next = leaf(&deployment, "/server");
    files.write("cert.pem", &chain_pem(&next.chain));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((serial(&server), call().await), (first.clone(), 200));
    files.write("key.pem", &key_pem(&next.key));
    until("the new certificate is shown", || serial(&server) == next.serial_hex).await;
    assert!(server.trust().generation() > generation);
    assert_eq!(call().await, 200);

    // A connection that is made now sees the new one.
    let late = knowing(client_files.identity(), "/server", address_of(&client), &deployment);
    let late = Workload::from_files(late).await.unwrap();
    assert_eq!(late.client("server").get("/users/7").send().await.unwrap().status(), 200);

    // Policies: nonsense keeps the old ones, a new rule counts for the connection that is open.
    files.write("policies/server.cedar", "permit nonsense");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((call().await, server.ready()), (200, Ok(())));
    files.permit("server", &["spiffe://mesh.test/nobody"]);
    let sequence = || server.live().snapshot().sequence;
    let before = sequence();
    until("the new policy is in force", || sequence() > before).await;
    assert_eq!(call().await, 403);
}

fn address_of(client: &Workload) -> SocketAddr {
    client.live().service("server").unwrap().address.parse().unwrap()
}

#[tokio::test]
async fn a_root_that_is_taken_away_ends_what_it_vouched_for() {
    let deployment = Deployment::of("mesh.test");
    let (files, server, _client_files, client) = pair(&deployment).await;
    let call = async || client.client("server").get("/users/7").send().await;
    assert_eq!(call().await.unwrap().status(), 200);
    let generation = server.trust().generation();
    let stranger = Deployment::of("mesh.test");
    files.write("ca.pem", &pem::encode("CERTIFICATE", stranger.root.certificate()));
    until("the root is gone", || server.trust().generation() > generation).await;
    // On the open connection the door refuses, on a new one the handshake: the client is told either way.
    let ended = call().await;
    assert!(!ended.as_ref().is_ok_and(|answer| answer.status() == 200), "{ended:?}");
}

#[tokio::test]
async fn a_revocation_list_among_the_files_is_obeyed_and_then_required() {
    let deployment = Deployment::of("mesh.test");
    let server_files = Files::of(&deployment, &leaf(&deployment, "/server"));
    server_files.permit("server", &["spiffe://mesh.test/client"]);
    let client_leaf = leaf(&deployment, "/client");
    let crl = || pem::encode("X509 CRL", deployment.snapshot().bundles[0].crls[0].as_slice());
    server_files.write("crl.pem", &crl());
    let mut identity = server_files.identity();
    identity.crl = Some(server_files.path("crl.pem"));
    let server = Workload::from_files(identity).await.unwrap();
    let address = serve(&server).await;
    let client_files = Files::of(&deployment, &client_leaf);
    let client = knowing(client_files.identity(), "/server", address, &deployment);
    let client = Workload::from_files(client).await.unwrap();
    assert_eq!(client.client("server").get("/users/7").send().await.unwrap().status(), 200);

    deployment.revoke(&client_leaf.serial_hex);
    let generation = server.trust().generation();
    server_files.write("crl.pem", &crl());
    until("the list is in force", || server.trust().generation() > generation).await;
    let late = Files::of(&deployment, &client_leaf);
    let late = Workload::from_files(knowing(late.identity(), "/server", address, &deployment)).await.unwrap();
    let refused = late.client("server").get("/users/7").send().await.unwrap_err();
    assert!(matches!(refused, CallError::Broken { .. }), "{refused}");
}

#[tokio::test]
async fn a_server_from_files_that_is_not_the_expected_one_is_refused() {
    let deployment = Deployment::of("mesh.test");
    let (_files, _server, client_files, client) = pair(&deployment).await;
    let wrong = knowing(client_files.identity(), "/somebody-else", address_of(&client), &deployment);
    let wrong = Workload::from_files(wrong).await.unwrap();
    let refused = wrong.client("server").get("/users/7").send().await.unwrap_err();
    let CallError::Handshake { source: HandshakeError::Refused(HandshakeRefusal::Peer(peer)), .. } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(peer.check(), countersign_pki::CheckName::Identity);
}

#[tokio::test]
async fn what_needs_an_agent_says_so() {
    let deployment = Deployment::of("mesh.test");
    let files = Files::of(&deployment, &leaf(&deployment, "/server"));
    let server = Workload::from_files(files.identity()).await.unwrap();
    let refused = server.publish_token_key(key().public_key()).await.unwrap_err();
    assert_eq!(refused, AgentError::NoAgent);
    assert!(refused.to_string().contains("identity comes from files"), "{refused}");
    assert!(server.credentials().signing().await.unwrap_err().to_string().contains("needs an agent"));
}

/// How starting ends after this change of the files.
async fn starting(change: impl FnOnce(&Files, &Deployment, &mut FileIdentity)) -> FilesError {
    let deployment = Deployment::of("mesh.test");
    let files = Files::of(&deployment, &leaf(&deployment, "/server"));
    let mut identity = files.identity();
    change(&files, &deployment, &mut identity);
    Workload::from_files(identity).await.unwrap_err()
}

#[tokio::test]
async fn rejects_each_file_that_cannot_be_used_by_its_name() {
    let refused = starting(|files, _, _| files.write("key.pem", &key_pem(&key()))).await;
    let FilesError::Identity { source: IdentityError::KeyMismatch, key, .. } = &refused else {
        panic!("{refused}")
    };
    assert!(key.ends_with("key.pem") && refused.to_string().contains("do not belong together"), "{refused}");
    let refused = starting(|files, _, _| files.write("key.pem", "no key")).await;
    assert!(matches!(&refused, FilesError::Pem(PemFileError::NoKey { .. })), "{refused}");
    let refused = starting(|files, _, _| fs::remove_file(files.path("cert.pem")).unwrap()).await;
    assert!(matches!(&refused, FilesError::Pem(PemFileError::Unreadable { .. })), "{refused}");
    let refused = starting(|files, _, _| files.write("cert.pem", &"a".repeat(300_000))).await;
    assert!(refused.to_string().contains("more than 262144 bytes"), "{refused}");
    let refused = starting(|files, _, _| files.write("ca.pem", "")).await;
    assert!(matches!(&refused, FilesError::Pem(PemFileError::NoCertificate { .. })), "{refused}");
    let refused = starting(|files, _, identity| {
        files.write("crl.pem", "");
        identity.crl = Some(files.path("crl.pem"));
    })
    .await;
    assert!(matches!(&refused, FilesError::Pem(PemFileError::NoCrl { .. })), "{refused}");
    let refused = starting(|files, deployment, _| {
        files.write("ca.pem", &chain_pem(&leaf(deployment, "/server").chain[..1]));
    })
    .await;
    assert!(matches!(&refused, FilesError::Compile(CompileError::Bundle(_))), "{refused}");
}

#[tokio::test]
async fn rejects_policies_names_and_times_that_cannot_be_used() {
    let refused = starting(|files, _, _| files.write("policies/other.cedar", "permit nonsense")).await;
    assert!(matches!(&refused, FilesError::Policy(_)), "{refused}");
    let refused = starting(|files, _, identity| identity.policy_dir = Some(files.path("nowhere"))).await;
    assert!(matches!(&refused, FilesError::Policies(_)), "{refused}");
    let refused = starting(|files, deployment, _| {
        let then = clock::now().saturating_sub(HOUR * 2);
        let id = "spiffe://mesh.test/server".parse().unwrap();
        files.become_(&deployment.leaf_of(&id, LeafProfile::Workload, HOUR, then));
    })
    .await;
    assert!(matches!(&refused, FilesError::Expired { .. }), "{refused}");
    let refused = starting(|files, deployment, _| files.become_(&leaf(deployment, "/Server_1"))).await;
    assert!(matches!(&refused, FilesError::NoName { .. }), "{refused}");
    let refused = starting(|files, _, identity| {
        files.write("state", "a file");
        identity.spool = SpoolLimits::default();
    })
    .await;
    assert!(matches!(&refused, FilesError::Spool(SpoolError::Disk { .. })), "{refused}");
    assert_eq!(FilesError::NoRandomness.to_string(), "there is no randomness to be had");
}

#[tokio::test]
async fn a_name_may_be_given_to_an_id_that_ends_with_none() {
    let deployment = Deployment::of("mesh.test");
    let files = Files::of(&deployment, &leaf(&deployment, "/Server_1"));
    let mut identity = files.identity();
    identity.name = Some(ServiceName::parse("ads").unwrap());
    assert_eq!(Workload::from_files(identity).await.unwrap().target(), "ads");
}

#[tokio::test]
async fn a_new_certificate_of_somebody_else_is_not_taken() {
    let deployment = Deployment::of("mesh.test");
    let files = Files::of(&deployment, &leaf(&deployment, "/server"));
    let server = Workload::from_files(files.identity()).await.unwrap();
    let (serial, logged) = (
        server.identity().unwrap().serial_hex().to_owned(),
        FilesError::OtherId {
            cert: files.path("cert.pem"),
            want: server.id().clone(),
            got: "spiffe://mesh.test/client".parse().unwrap(),
        },
    );
    files.become_(&leaf(&deployment, "/client"));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(server.identity().unwrap().serial_hex(), serial);
    assert!(logged.to_string().contains("we are spiffe://mesh.test/server"), "{logged}");
}

#[tokio::test]
async fn files_do_not_become_stale_but_the_certificate_among_them_does() {
    let deployment = Deployment::of("mesh.test");
    let id = "spiffe://mesh.test/server".parse().unwrap();
    let then = clock::now().saturating_sub(Duration::from_secs(58));
    let short = deployment.leaf_of(&id, LeafProfile::Workload, Duration::from_mins(1), then);
    let files = Files::of(&deployment, &short);
    let server = Workload::from_files(files.identity()).await.unwrap();
    assert_eq!(server.ready(), Ok(()));
    let ends = server.identity().unwrap().not_after();
    assert_eq!(server.live().freshness(ends), Freshness::Fresh);
    assert_eq!(server.live().freshness(ends.saturating_add(HOUR)), Freshness::Stale);
    until("it has expired", || server.ready() == Err(NotReady::CertificateExpired)).await;
    files.become_(&leaf(&deployment, "/server"));
    until("the new one is taken", || server.ready() == Ok(())).await;
}
