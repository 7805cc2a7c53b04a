//! Other proxies ask: straight at the socket, and from the real ones.

mod envoy_questions;
mod http_questions;
mod proxies;
mod waf;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_pki::csr::{self, Csr};
use countersign_pki::issue::{Issuer, issue_workload};
use countersign_pki::profile::LeafTtl;
use countersign_sdk::clock;
use countersign_sdk::tls::{Connector, Expected};
use countersign_sdk::workload::Workload;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::rig::client::{Answer, read_answer};
use crate::rig::{Rig, Running, pem};

const RULES: &str = "@id(\"signed-in\")\npermit (principal is User, action, resource);\n\
    @id(\"no-guests-buy\")\nforbid (principal is User, action == Action::\"POST\", resource)\n\
    when { context has user && context.user.roles.contains(\"guest\") };\n\
    @id(\"robots\")\npermit (principal == Workload::\"spiffe://fleamarket.test/svc/robot\", action, resource);";

const ROUTES: &str = r#"
[[route]]
path = "/ads/*"
to = "ads"
user = "required"

[[route]]
path = "/machines"
to = "ads"
user = "none"

[headers.request]
remove = ["x-debug"]
add = { x-edge = "countersign" }
"#;

/// A gateway that `asker` may ask.
struct Asked {
    rig: Rig,
    gateway: Running,
    /// Where it shows its SVID.
    by_svid: SocketAddr,
    /// Where it shows a certificate for `countersign.internal`.
    by_name: SocketAddr,
    /// Where the proxy passes requests on.
    front: SocketAddr,
    edge_root: PathBuf,
    workload_root: PathBuf,
}

impl Asked {
    async fn new() -> Self {
        Self::with("").await
    }

    async fn with(more: &str) -> Self {
        let rig = Rig::new();
        rig.policy("gateway", RULES);
        let (certificate, key, root) = rig.edge_certificate(&["countersign.internal"], "ask");
        let edge_root = rig.dir.path().join("edge-root.pem");
        std::fs::write(&edge_root, pem("CERTIFICATE", &root)).unwrap();
        let workload_root = rig.dir.path().join("workload-root.pem");
        std::fs::write(&workload_root, pem("CERTIFICATE", rig.world.root.certificate())).unwrap();
        let (by_svid, by_name, front) = (free(), free(), free());
        let gateway = rig
            .gateway(&format!(
                "{more}\n{ROUTES}\n[[ask]]\nlisten = \"{by_svid}\"\naskers = [\"{ASKER}\"]\n\
                 [[ask]]\nlisten = \"{by_name}\"\naskers = [\"{ASKER}\"]\ntls = {{ cert = \"{certificate}\", key = \"{key}\" }}\n\
                 [[front]]\nlisten = \"{front}\"\nproxies = [\"{ASKER}\"]\n\
                 tls = {{ cert = \"{certificate}\", key = \"{key}\" }}\n",
                certificate = certificate.display(),
                key = key.display()
            ))
            .await;
        Asked { rig, gateway, by_svid, by_name, front, edge_root, workload_root }
    }

    /// The proxy that is listed.
    async fn asker(&self) -> Workload {
        self.rig.workload(ASKER.parse().unwrap()).await
    }
}

const ASKER: &str = "spiffe://fleamarket.test/svc/proxy";

fn free() -> SocketAddr {
    ([127, 0, 0, 1], countersign_testkit::free_port()).into()
}

/// A TLS connection to whom `who` asks.
async fn connect(
    who: &Workload,
    address: SocketAddr,
    alpn: &'static [&'static [u8]],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let gateway = SpiffeId::parse("spiffe://fleamarket.test/countersign/gateway/edge").unwrap();
    let connector =
        Connector::new(std::sync::Arc::clone(who.trust()), Expected::exactly(gateway)).speaking(alpn);
    connector.connect(TcpStream::connect(address).await.unwrap()).await.unwrap().0
}

/// One question over HTTP/1.1; status 0 where the connection ends without an answer.
async fn ask(who: &Workload, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = connect(who, address, &[b"http/1.1"]).await;
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let _ = stream.write_all(text.as_bytes()).await;
    read_answer(&mut stream).await
}

/// An SVID as files, for who cannot ask an agent: chain and key.
fn svid(issuer: &Issuer, id: &str, dir: &Path) -> (PathBuf, PathBuf) {
    let (chain, key) = issued(issuer, id);
    let name = id.rsplit('/').next().unwrap();
    let (certificate, key_file) =
        (dir.join(format!("{name}-svid.pem")), dir.join(format!("{name}-svid.key")));
    let text: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    std::fs::write(&certificate, text).unwrap();
    std::fs::write(&key_file, pem("PRIVATE KEY", key.to_pkcs8().unwrap().expose())).unwrap();
    (certificate, key_file)
}

/// Leaf and issuing certificate, DER.
fn issued(issuer: &Issuer, id: &str) -> (Vec<Vec<u8>>, KeyPair) {
    let rng = SystemRandom::new();
    let key = KeyPair::generate(&rng).unwrap();
    let id = SpiffeId::parse(id).unwrap();
    let csr = Csr::parse(&csr::make(&key, Some(&id)).unwrap()).unwrap();
    let ttl = LeafTtl::new(Duration::from_secs(3600)).unwrap();
    let leaf = issue_workload(issuer, &csr, &id, ttl, clock::now(), random_bytes(&rng).unwrap()).unwrap();
    (vec![leaf.der.to_vec(), issuer.certificate().to_vec()], key)
}
