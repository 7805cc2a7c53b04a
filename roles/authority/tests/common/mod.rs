//! An authority in this process, on real sockets, in a directory of its own: for tests that want to talk to one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod curl;
pub mod market;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use countersign_authority::{
    AuthorityError, Deployment, LOCAL_NODE, ServiceEntry, Settings, make_master_key, run,
};
use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::{Bundle, BundleSet, CertificateDer, Crl, CrlPolicy, csr, pem};
use countersign_sdk::{
    outbound::{CallError, CallLimits, Channel, EdgeTarget, Target, full},
    tls::{Connector, Expected, Identity, TrustState, install_provider},
};
use countersign_testkit::{TempDir, free_port, temp_dir};
use countersign_wire::{
    api::{certificates, nodes::JoinToken},
    node::{JoinRequest, JoinResponse, Versions, node_client::NodeClient},
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const TRUST_DOMAIN: &str = "fleamarket.test";
pub const VERSIONS: Versions = Versions { minimum: 1, maximum: 1 };

pub fn home() -> TrustDomain {
    TrustDomain::parse(TRUST_DOMAIN).unwrap()
}

/// Where an authority keeps what it has, and what it is told.
pub struct Place {
    pub dir: TempDir,
    pub settings: Settings,
    pub deployment: Deployment,
}

impl Place {
    /// A new deployment on SQLite with its own master key, two services and a gateway.
    pub fn new() -> Self {
        Self::with("database = \"sqlite\"")
    }

    /// As [`Place::new`], for another trust domain.
    pub fn of(trust_domain: &str) -> Self {
        Self::made("database = \"sqlite\"", trust_domain)
    }

    /// As [`Place::new`], with more lines for `[authority]`.
    pub fn with(lines: &str) -> Self {
        Self::made(lines, TRUST_DOMAIN)
    }

    fn made(lines: &str, trust_domain: &str) -> Self {
        install_provider();
        let dir = temp_dir();
        let master = dir.path().join("config/master.key");
        make_master_key(&master).unwrap();
        let [listen, node, admin] = [(); 3].map(|()| free_port());
        let toml = format!(
            "listen = \"127.0.0.1:{listen}\"\nnode_listen = \"127.0.0.1:{node}\"\nadmin = \"127.0.0.1:{admin}\"\n\
             master_key = \"{}\"\n{lines}\n",
            master.display()
        );
        let state_dir = dir.path().join("state");
        std::fs::create_dir(&state_dir).unwrap();
        let policies = dir.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("ads.cedar"), ADS_POLICY).unwrap();
        let deployment = Deployment {
            trust_domain: TrustDomain::parse(trust_domain).unwrap(),
            state_dir,
            services: vec![entry("ads", LOCAL_NODE), entry("users", "elsewhere"), gateway(trust_domain)],
            policy_dir: Some(policies),
            metrics: Arc::new(|| "# EOF\n".to_owned()),
        };
        Self { dir, settings: toml::from_str(&toml).unwrap(), deployment }
    }

    pub fn state(&self) -> PathBuf {
        self.deployment.state_dir.clone()
    }

    /// Starts it, and waits until it answers.
    pub async fn start(&self) -> Running {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(self.settings.clone(), self.deployment.clone(), shutdown.clone()));
        let running = Running {
            api: self.settings.listen,
            node: self.settings.node_listen,
            probes: self.settings.admin,
            admin: Channel::new(Target::Unix(self.state().join("admin.sock")), CallLimits::default()),
            shutdown,
            task,
        };
        for _ in 0..600 {
            if running.try_admin(Method::GET, "/api/v1/status", None).await.is_ok() {
                return running;
            }
            if running.task.is_finished() {
                panic!("the authority ended: {:?}", running.task.await);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the authority did not start in time");
    }

    /// Starts it expecting that it does not.
    pub async fn refuse(&self) -> AuthorityError {
        let run = run(self.settings.clone(), self.deployment.clone(), CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(20), run).await.expect("it started").unwrap_err()
    }
}

pub const ADS_POLICY: &str = r#"
@id("browse")
permit (principal, action == Action::"GET", resource == Route::"ads /ads");
"#;

pub fn entry(name: &str, node: &str) -> ServiceEntry {
    let port = free_port();
    let toml =
        format!("name = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nlaunch_by = [0]\nnodes = [\"{node}\"]\n");
    toml::from_str(&toml).unwrap()
}

pub fn gateway(trust_domain: &str) -> ServiceEntry {
    let toml =
        format!("name = \"gateway\"\nspiffe_id = \"spiffe://{trust_domain}/countersign/gateway/edge\"\n");
    toml::from_str(&toml).unwrap()
}

/// An authority that serves.
pub struct Running {
    pub api: SocketAddr,
    pub node: SocketAddr,
    pub probes: SocketAddr,
    admin: Channel,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<Result<(), AuthorityError>>,
}

/// An answer: status, headers, body.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        drop(self.admin);
        self.task.await.unwrap().unwrap();
    }

    /// A call over the admin socket.
    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.try_admin(method, path, body).await.unwrap()
    }

    pub async fn try_admin(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, CallError> {
        call(&self.admin, method, path, body, &HeaderMap::new()).await
    }

    /// A form over the admin socket.
    pub async fn admin_form(&self, path: &str, form: &str) -> Answer {
        let request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        let response = self.admin.send(request.body(full(form.to_owned())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.admin(Method::GET, path, None).await;
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.admin(Method::POST, path, Some(body)).await;
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    pub async fn bundle(&self) -> certificates::Bundle {
        serde_json::from_value(self.get("/api/v1/bundle").await).unwrap()
    }

    /// By what a member of the deployment judges others.
    pub async fn trust(&self) -> Arc<TrustState> {
        TrustState::new(bundle_set(&self.bundle().await), CrlPolicy::Require)
    }

    /// HTTPS to the API, as a stranger or as a workload.
    pub async fn https(&self, identity: Option<Identity>) -> Channel {
        let roots: Vec<CertificateDer<'static>> =
            self.bundle().await.edge_roots.into_iter().map(|root| CertificateDer::from(root.0)).collect();
        let mut target = EdgeTarget::new(&format!("https://localhost:{}", self.api.port()), &roots).unwrap();
        if let Some(identity) = identity {
            let trust = self.trust().await;
            trust.set_identity(identity);
            target = target.showing(trust);
        }
        Channel::new(Target::Edge(target), CallLimits::default())
    }

    /// A key, and the SVID that an operator gets for a registered service.
    pub async fn svid(&self, service: &str) -> Identity {
        let (key, issued) = self.issue(json!({ "service": service })).await;
        Identity::workload(chain(&issued), &key).unwrap()
    }

    pub async fn issue(&self, mut order: Value) -> (KeyPair, certificates::IssuedCertificate) {
        let key = new_key();
        order["csr"] = json!(base64(&csr::make(&key, None).unwrap()));
        let issued = self.post("/api/v1/certificates", order).await;
        (key, serde_json::from_value(issued).unwrap())
    }

    pub async fn join_token(&self, node: &str) -> String {
        let token = self.post("/api/v1/join-tokens", json!({ "node": node })).await;
        let token: JoinToken = serde_json::from_value(token).unwrap();
        token.token.expose().to_owned()
    }

    /// The node API, as whoever `identity` is.
    pub async fn node_client(&self, identity: Option<Identity>) -> NodeClient<Channel> {
        let bundle = self.bundle().await;
        let trust = TrustState::new(bundle_set(&bundle), CrlPolicy::Require);
        if let Some(identity) = identity {
            trust.set_identity(identity);
        }
        let connector = Connector::new(trust, Expected::exactly(SpiffeId::authority(&bundle.trust_domain)));
        let target =
            Target::Workload { address: self.node.to_string(), authority: "authority".to_owned(), connector };
        NodeClient::new(Channel::new(target, CallLimits::default()))
    }

    /// Joins as `node`, and gives the answer with the agent's key.
    pub async fn join(&self, node: &str) -> (KeyPair, JoinResponse) {
        let key = new_key();
        let request = JoinRequest {
            versions: Some(VERSIONS),
            token: self.join_token(node).await,
            csr: csr::make(&key, None).unwrap(),
        };
        let answer = self.node_client(None).await.join(request).await.unwrap();
        (key, answer.into_inner())
    }

    /// Joins, and comes back as the agent.
    pub async fn agent(&self, node: &str) -> NodeClient<Channel> {
        let (key, answer) = self.join(node).await;
        self.node_client(Some(identity(&answer.chain, &key))).await
    }

    /// Events of one kind, oldest first, as JSON.
    pub async fn events(&self, kind: &str) -> Vec<Value> {
        let page = self.get(&format!("/api/v1/audit/events?limit=1000&kind={kind}")).await;
        let items = page["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|item| {
                let bytes = from_base64(item["event"].as_str().unwrap());
                serde_json::from_slice::<Value>(&bytes).unwrap()["event"].clone()
            })
            .collect()
    }

    /// Waits until there are at least `count` events of a kind: notes are written within a moment.
    pub async fn events_at_least(&self, kind: &str, count: usize) -> Vec<Value> {
        for _ in 0..200 {
            let events = self.events(kind).await;
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no {count} events of kind {kind}");
    }

    pub async fn add_user(&self, name: &str, password: &str) -> Value {
        self.post("/api/v1/users", json!({ "name": name, "password": password, "roles": ["buyer"] })).await
    }
}

pub async fn call(
    channel: &Channel,
    method: Method,
    path: &str,
    body: Option<Value>,
    headers: &HeaderMap,
) -> Result<Answer, CallError> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if body.is_some() {
        request = request.header(http::header::CONTENT_TYPE, "application/json");
    }
    let bytes = body.map(|body| body.to_string()).unwrap_or_default();
    let response = channel.send(request.body(full(bytes)).unwrap()).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

pub fn new_key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).unwrap()
}

pub fn chain(issued: &certificates::IssuedCertificate) -> Vec<CertificateDer<'static>> {
    issued.chain.iter().map(|der| CertificateDer::from(der.0.clone())).collect()
}

pub fn identity(chain: &[Vec<u8>], key: &KeyPair) -> Identity {
    let chain = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    Identity::workload(chain, key).unwrap()
}

pub fn bundle_set(bundle: &certificates::Bundle) -> BundleSet {
    let roots = bundle.roots.iter().map(|root| CertificateDer::from(root.0.clone())).collect();
    let crls = bundle.crls.iter().map(|crl| Crl::read(&crl.0).unwrap()).collect();
    [Bundle::new(bundle.trust_domain.clone(), roots, crls).unwrap()].into_iter().collect()
}

pub fn base64(bytes: &[u8]) -> String {
    countersign_wire::Base64(bytes.to_vec()).to_text()
}

pub fn from_base64(text: &str) -> Vec<u8> {
    let bytes: countersign_wire::Base64 = serde_json::from_value(json!(text)).unwrap();
    bytes.0
}

pub fn from_base64url(text: &str) -> Vec<u8> {
    let mut text = text.replace('-', "+").replace('_', "/");
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    from_base64(&text)
}

pub fn pem_of(der: &[u8]) -> String {
    pem::encode("CERTIFICATE", der)
}
