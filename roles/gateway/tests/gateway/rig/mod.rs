//! A deployment in one process: a stub agent with a real CA behind it, services over real mTLS, a real gateway.
//!
//! Only the agent's socket is a stand-in: it knows a workload by the socket that it calls. Certificates, snapshots,
//! tokens, handshakes and HTTP are the real ones.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test file uses its part")]

mod agent;
pub mod backend;
pub mod client;
pub mod dns;
pub mod echo;
pub mod frames;
pub mod grpc;
pub mod observer;
pub mod pair;
pub mod tape;

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_gateway::{Gateway, Settings};
use countersign_identity::{Mode, ServiceName, SpiffeId, TrustDomain, UserContext};
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_ledger::Decision;
use countersign_pki::RevocationReason;
use countersign_pki::issue::{Issuer, Root, issue_edge_server, make_issuing, make_root};
use countersign_pki::profile::EdgeNames;
use countersign_pki::revocation::{RevokedEntry, make_crl};
use countersign_sdk::clock;
use countersign_sdk::live::Staleness;
use countersign_sdk::workload::Workload;
use countersign_testkit::TempDir;
use countersign_token::{AccessToken, Confirmation};
use countersign_wire::Base64;
use countersign_wire::snapshot::{PolicyFile, ServiceAddress};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use agent::World;

pub const ISSUER: &str = "https://localhost:7443";
pub const AUDIENCE: &str = "https://fleamarket.test";

/// Everything that one test needs; all of it ends with the test.
pub struct Rig {
    pub dir: TempDir,
    pub world: Arc<World>,
    pub td: TrustDomain,
    pub shutdown: CancellationToken,
}

/// A running gateway.
pub struct Running {
    pub plain: SocketAddr,
    pub tls: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub shutdown: CancellationToken,
    pub workload: Workload,
    pub task: JoinHandle<()>,
}

impl Rig {
    pub fn new() -> Self {
        countersign_sdk::tls::install_provider();
        let td = TrustDomain::parse("fleamarket.test").unwrap();
        Rig {
            dir: countersign_testkit::temp_dir(),
            world: World::new(&td),
            td,
            shutdown: CancellationToken::new(),
        }
    }

    /// A workload of this name with its own socket.
    pub async fn workload(&self, id: SpiffeId) -> Workload {
        self.workload_growing_old(id, Staleness::default()).await
    }

    pub async fn workload_growing_old(&self, id: SpiffeId, staleness: Staleness) -> Workload {
        let name = id.path().replace('/', "-");
        let socket = self.dir.path().join(format!("agent{name}.sock"));
        agent::serve(Arc::clone(&self.world), id, &socket, self.shutdown.clone());
        let spool = self.dir.path().join(format!("spool{name}"));
        let builder = Workload::builder(socket).spool(spool).staleness(staleness);
        builder.wait(Duration::from_secs(5)).connect().await.unwrap()
    }

    /// A service behind its own door, listening over mTLS.
    pub async fn service(&self, name: &str, policy: &str, router: axum::Router) -> Workload {
        let id = SpiffeId::service(&self.td, name).unwrap();
        self.policy(name, policy);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.register(name, listener.local_addr().unwrap());
        let workload = self.workload(id).await;
        let router = router.layer(workload.require());
        let serving = workload.serve(listener, router);
        tokio::spawn(serving.with_graceful_shutdown(self.shutdown.clone().cancelled_owned()).into_future());
        workload
    }

    /// A service without a door of its own: it shows what the gateway sends, tokens and all.
    pub async fn open_service(&self, name: &str, router: axum::Router) -> Workload {
        let id = SpiffeId::service(&self.td, name).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.register(name, listener.local_addr().unwrap());
        let workload = self.workload(id).await;
        let serving = workload.serve(listener, router);
        tokio::spawn(serving.with_graceful_shutdown(self.shutdown.clone().cancelled_owned()).into_future());
        workload
    }

    pub fn register(&self, name: &str, address: SocketAddr) {
        let entry = ServiceAddress {
            name: ServiceName::parse(name).unwrap(),
            spiffe_id: SpiffeId::service(&self.td, name).unwrap(),
            address: address.to_string(),
            accepts: vec![Mode::Mtls],
            sends: Mode::Mtls,
            user_context: Default::default(),
            wimse: Default::default(),
        };
        self.world.change(|snapshot| {
            snapshot.services.retain(|service| service.name != entry.name);
            snapshot.services.push(entry);
        });
    }

    /// From the next snapshot on, the gateway calls like this: it has an entry, and no address.
    pub fn gateway_sends(&self, mode: Mode, user_context: UserContext) {
        let entry = ServiceAddress {
            name: ServiceName::parse("gateway").unwrap(),
            spiffe_id: SpiffeId::gateway(&self.td, "edge").unwrap(),
            address: String::new(),
            accepts: Vec::new(),
            sends: mode,
            user_context,
            wimse: Default::default(),
        };
        self.world.change(|snapshot| {
            snapshot.services.retain(|service| service.name != entry.name);
            snapshot.services.push(entry);
        });
    }

    /// From the next snapshot on, `name` accepts these modes.
    pub fn accepts(&self, name: &str, modes: &[Mode]) {
        self.world.change(|snapshot| {
            let service = snapshot.services.iter_mut().find(|service| service.name.as_str() == name);
            service.unwrap().accepts = modes.to_vec();
        });
    }

    /// From the next snapshot on, the certificate with this serial number is revoked.
    pub fn revoke(&self, serial_hex: &str) {
        let serial = u128::from_str_radix(serial_hex, 16).unwrap().to_be_bytes().to_vec();
        let (at, number) = (clock::now(), self.world.sequence() + 1);
        let not_after = at.saturating_add(Duration::from_secs(3600));
        let entry = RevokedEntry { serial, at, reason: RevocationReason::KeyCompromise, not_after };
        let list = make_crl(&self.world.issuing, number, &[entry], at, not_after).unwrap();
        self.world.change(|snapshot| snapshot.bundles[0].crls = vec![Base64::from(list)]);
    }

    pub fn policy(&self, target: &str, text: &str) {
        let file = PolicyFile { name: target.to_owned(), text: text.to_owned() };
        self.world.change(|snapshot| {
            snapshot.policies.generation += 1;
            snapshot.policies.files.retain(|file| file.name != target);
            snapshot.policies.files.push(file);
        });
    }

    /// A gateway on free ports with these routes and further settings, ready to serve.
    pub async fn gateway(&self, toml: &str) -> Running {
        let workload = self.workload(SpiffeId::gateway(&self.td, "edge").unwrap()).await;
        self.gateway_of(workload, toml).await
    }

    pub async fn gateway_of(&self, workload: Workload, toml: &str) -> Running {
        let settings = settings(&format!("listen = \"127.0.0.1:0\"\n{toml}"));
        let gateway = Gateway::bind(settings, workload.clone(), Arc::new(String::new)).await.unwrap();
        let (plain, tls, admin) =
            (gateway.address().unwrap(), gateway.tls_address(), gateway.admin_address());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(gateway.run(shutdown.clone()));
        eventually(|| !workload.live().tokens().internal.is_empty()).await;
        Running { plain, tls, admin, shutdown, workload, task }
    }

    /// An access token as the authority would give it to this user.
    pub fn access_token(&self, user: &str, roles: &[&str]) -> String {
        self.access_token_for(user, roles, Duration::from_secs(600))
    }

    pub fn access_token_for(&self, user: &str, roles: &[&str], life: Duration) -> String {
        let now = clock::now();
        self.token_of(user, roles).mint_at(&self.world.access_key, now, now.saturating_add(life))
    }

    /// One that is bound to a key or certificate.
    pub fn bound_access_token(&self, user: &str, confirmation: Confirmation) -> String {
        let now = clock::now();
        let token = AccessToken { confirmation: Some(confirmation), ..self.token_of(user, &["buyer"]) };
        token.mint_at(&self.world.access_key, now, now.saturating_add(Duration::from_secs(600)))
    }

    /// A token that was good until `ago` before now.
    pub fn expired_access_token(&self, user: &str, ago: Duration) -> String {
        let then = clock::now().saturating_sub(ago);
        self.token_of(user, &["buyer"]).mint_at(
            &self.world.access_key,
            then.saturating_sub(Duration::from_secs(60)),
            then,
        )
    }

    fn token_of(&self, user: &str, roles: &[&str]) -> AccessToken {
        AccessToken {
            issuer: ISSUER.into(),
            audience: AUDIENCE.into(),
            user_id: format!("u_{user}"),
            name: user.into(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            client_id: "countersign-cli".into(),
            jti: hex(&random_bytes::<16>(&SystemRandom::new()).unwrap()),
            expires: clock::now(),
            confirmation: None,
        }
    }

    /// PEM files of an edge certificate for these names, below a root of its own; and that root.
    pub fn edge_certificate(&self, dns: &[&str], stem: &str) -> (PathBuf, PathBuf, Vec<u8>) {
        let names = EdgeNames {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ips: vec![[127, 0, 0, 1].into()],
        };
        let (rng, now) = (SystemRandom::new(), clock::now());
        let root_key = KeyPair::generate(&rng).unwrap();
        let root =
            make_root(Root::Edge(&names), &self.td, root_key, now, random_bytes(&rng).unwrap()).unwrap();
        let key = KeyPair::generate(&rng).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let leaf = issue_edge_server(&root, key.public_key(), &names, day, now, random_bytes(&rng).unwrap())
            .unwrap();
        let certificate = self.dir.path().join(format!("{stem}.pem"));
        let key_file = self.dir.path().join(format!("{stem}.key"));
        std::fs::write(&certificate, pem("CERTIFICATE", &leaf.der)).unwrap();
        std::fs::write(&key_file, pem("PRIVATE KEY", key.to_pkcs8().unwrap().expose())).unwrap();
        (certificate, key_file, root.certificate().to_vec())
    }

    /// Decisions that the agent was told of, waiting until one fits.
    pub async fn decision(&self, fits: impl Fn(&Decision) -> bool) -> Decision {
        for _ in 0..1_200 {
            let found = self.world.decisions().into_iter().find(&fits);
            if let Some(decision) = found {
                return decision;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no such decision was recorded");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

trait MintAt {
    fn mint_at(
        self,
        key: &KeyPair,
        now: countersign_identity::UnixTime,
        expires: countersign_identity::UnixTime,
    ) -> String;
}

impl MintAt for AccessToken {
    fn mint_at(
        mut self,
        key: &KeyPair,
        now: countersign_identity::UnixTime,
        expires: countersign_identity::UnixTime,
    ) -> String {
        self.expires = expires;
        self.mint(key, now).unwrap()
    }
}

/// The CA of the rig: a workload root and an issuing CA below it.
pub fn make_ca(td: &TrustDomain) -> (Issuer, Issuer) {
    let (rng, now) = (SystemRandom::new(), clock::now());
    let key = || KeyPair::generate(&rng).unwrap();
    let root = make_root(Root::Workload, td, key(), now, random_bytes(&rng).unwrap()).unwrap();
    let issuing = make_issuing(&root, td, key(), now, random_bytes(&rng).unwrap()).unwrap();
    (root, issuing)
}

pub fn settings(toml: &str) -> Settings {
    toml::from_str(toml).unwrap()
}

/// Waits until something holds, at most half a minute: the machine may have much else to do.
pub async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to hold");
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn hex(bytes: &[u8]) -> String {
    countersign_keys::hash::hex(bytes)
}
