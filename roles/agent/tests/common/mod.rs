//! A small authority for the agent's tests: real TLS, real certificates, state in memory, and levers to pull.
//! Roles never see each other, so the agent is tested against the contract alone.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_agent::{AgentError, Deployment, Settings, SocketMode};
use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey, SystemRandom, random_bytes, sha256};
use countersign_pki::csr::Csr;
use countersign_pki::issue::{Issuer, Root, issue_signing, issue_workload, make_issuing, make_root};
use countersign_pki::profile::LeafTtl;
use countersign_pki::revocation::{RevokedEntry, make_crl};
use countersign_pki::{Bundle, BundleSet, CertificateDer, CrlPolicy};
use countersign_sdk::accept::{self, Connection, Limits, Transport};
use countersign_sdk::agent::AgentApi;
use countersign_sdk::tls::{Acceptor, ClientAuth, Identity, TrustState};
use countersign_sdk::{clock, snapshot};
use countersign_token::{ConfirmationKey, JwtSvid, Wit};
use countersign_wire::Base64;
use countersign_wire::agent::{
    AppliedResponse, CertificatePurpose, IssueResponse, IssueTokenRequest, IssueTokenResponse,
    PublishTokenKeyResponse, ReportRequest, ReportResponse, SecretsResponse, SignedSnapshot,
    SnapshotsRequest, TokenKind,
};
use countersign_wire::node::node_server::{Node, NodeServer};
use countersign_wire::node::{
    EntriesRequest, EntriesResponse, Entry, JoinRequest, JoinResponse, NodeAppliedRequest, NodeIssueRequest,
    NodeIssueTokenRequest, NodePublishTokenKeyRequest, NodeSecretsRequest, RenewRequest,
};
use countersign_wire::snapshot::{
    AccessTokenKeys, FORMAT, Jwk, LedgerHead, Policies, Snapshot, TokenAuthority, TrustBundle,
};
use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub const TRUST_DOMAIN: &str = "fleamarket.test";
/// Longest wait for anything in these tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn trust_domain() -> TrustDomain {
    TrustDomain::parse(TRUST_DOMAIN).unwrap()
}

pub fn uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// Waits until `done` says so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

// ---------------------------------------------------------------- the authority

pub struct Authority {
    pub address: SocketAddr,
    pub core: Arc<Core>,
    serving: Option<(CancellationToken, JoinHandle<usize>)>,
}

pub struct Core {
    root: Issuer,
    issuing: Issuer,
    pub snapshot_key: KeyPair,
    trust: Arc<TrustState>,
    serial: AtomicU64,
    /// In each snapshot, unless a test puts another one there.
    first_crl: Vec<u8>,
    /// What is left of the life of each certificate when it is handed out.
    pub life: Mutex<Duration>,
    tokens: Mutex<HashMap<String, Option<(PublicKey, JoinResponse)>>>,
    pub entries: watch::Sender<EntriesResponse>,
    pub snapshots: watch::Sender<SignedSnapshot>,
    sequence: AtomicU64,
    pub joins: AtomicU64,
    pub renewals: AtomicU64,
    pub issued: Mutex<Vec<(NodeIssueRequest, UnixTime)>>,
    pub reports: Mutex<Vec<ReportRequest>>,
    pub token_keys: Mutex<Vec<NodePublishTokenKeyRequest>>,
    /// Sign JWT-SVIDs and WITs.
    pub jwt_svid_key: KeyPair,
    pub wit_key: KeyPair,
    /// Sends certificates for TLS to whoever wants to sign.
    pub confuses_purposes: AtomicBool,
    /// What is left of the life of each token when it is handed out.
    pub token_life: Mutex<Duration>,
    pub tokens_issued: Mutex<Vec<NodeIssueTokenRequest>>,
    pub secrets: watch::Sender<SecretsResponse>,
    pub applied: Mutex<Vec<NodeAppliedRequest>>,
}

impl Authority {
    pub async fn start() -> Self {
        Self::with_life(Duration::from_secs(3600)).await
    }

    pub async fn with_life(life: Duration) -> Self {
        let core = Arc::new(Core::new(life));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut authority = Self { address, core, serving: None };
        authority.listen(listener);
        authority
    }

    fn listen(&mut self, listener: TcpListener) {
        let acceptor = Acceptor::new(Arc::clone(&self.core.trust), ClientAuth::Optional);
        let service = NodeServer::new(NodeApi(Arc::clone(&self.core)));
        let ending = CancellationToken::new();
        let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
        let serving = accept::serve(listener, Transport::Tls(acceptor), service, limits, ending.clone());
        self.serving = Some((ending, tokio::spawn(serving)));
    }

    /// Nobody answers any more, until [`Authority::come_back`].
    pub async fn go_away(&mut self) {
        let (ending, serving) = self.serving.take().unwrap();
        ending.cancel();
        serving.await.unwrap();
    }

    pub async fn come_back(&mut self) {
        let mut listener = TcpListener::bind(self.address).await;
        while listener.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            listener = TcpListener::bind(self.address).await;
        }
        self.listen(listener.unwrap());
    }

    pub fn token(&self) -> String {
        let secret = URL_SAFE_NO_PAD.encode(random_bytes::<16>(&SystemRandom::new()).unwrap());
        let pin = sha256(&self.core.root.key().public_key().spki_der());
        let token = format!("csj_{secret}.{}", URL_SAFE_NO_PAD.encode(pin));
        self.core.tokens.lock().unwrap().insert(token.clone(), None);
        token
    }

    pub fn set_entries(&self, entries: Vec<Entry>) {
        self.core.entries.send_replace(EntriesResponse { entries });
    }
}

pub fn entry(name: &str, launch_by: u32) -> Entry {
    let spiffe_id = match name {
        "gateway" => format!("spiffe://{TRUST_DOMAIN}/countersign/gateway/main"),
        _ => format!("spiffe://{TRUST_DOMAIN}/svc/{name}"),
    };
    Entry { id: format!("id-of-{name}"), name: name.to_owned(), spiffe_id, launch_by: vec![launch_by] }
}

impl Core {
    fn new(life: Duration) -> Self {
        let random = SystemRandom::new();
        let key = || KeyPair::generate(&random).unwrap();
        let then = clock::now().saturating_sub(Duration::from_secs(7200));
        let root = make_root(Root::Workload, &trust_domain(), key(), then, [1; 16]).unwrap();
        let issuing = make_issuing(&root, &trust_domain(), key(), then, [2; 16]).unwrap();
        let bundle = Bundle::new(trust_domain(), vec![root.certificate().clone()], Vec::new()).unwrap();
        let trust = TrustState::new(BundleSet::from_iter([bundle]), CrlPolicy::AcceptMissing);
        let later = clock::now().saturating_add(Duration::from_secs(3600));
        let first_crl = make_crl(&issuing, 1, &[], clock::now(), later).unwrap();
        let core = Self {
            root,
            issuing,
            first_crl,
            snapshot_key: key(),
            trust,
            serial: AtomicU64::new(100),
            life: Mutex::new(life),
            tokens: Mutex::default(),
            entries: watch::Sender::new(EntriesResponse {
                entries: ["ads", "users", "gateway"].map(|name| entry(name, uid())).to_vec(),
            }),
            snapshots: watch::Sender::new(SignedSnapshot::default()),
            sequence: AtomicU64::new(0),
            joins: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            issued: Mutex::default(),
            reports: Mutex::default(),
            token_keys: Mutex::default(),
            jwt_svid_key: key(),
            wit_key: key(),
            token_life: Mutex::new(Duration::from_secs(300)),
            confuses_purposes: AtomicBool::new(false),
            tokens_issued: Mutex::default(),
            secrets: watch::Sender::new(SecretsResponse { generation: 1, ..SecretsResponse::default() }),
            applied: Mutex::default(),
        };
        let own = key();
        let csr = countersign_pki::csr::make(&own, None).unwrap();
        let chain =
            core.certify_for(&SpiffeId::authority(&trust_domain()), &csr, Duration::from_secs(3600)).unwrap();
        // The root travels along: a joining agent holds nothing but its hash.
        let chain =
            chain.into_iter().chain([core.root.certificate().to_vec()]).map(CertificateDer::from).collect();
        core.trust.set_identity(Identity::workload(chain, &own).unwrap());
        core.publish(|_| ());
        core
    }

    /// Signs and pushes the next snapshot.
    pub fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots.send_replace(self.next_snapshot(change));
    }

    pub fn next_snapshot(&self, change: impl FnOnce(&mut Snapshot)) -> SignedSnapshot {
        let now = clock::now();
        let mut next = Snapshot {
            format: FORMAT,
            trust_domain: trust_domain(),
            epoch: "e1".to_owned(),
            sequence: self.sequence.fetch_add(1, Ordering::SeqCst) + 1,
            issued_at: now,
            valid_until: now.saturating_add(Duration::from_secs(3600)),
            critical: Vec::new(),
            bundles: vec![TrustBundle {
                trust_domain: trust_domain(),
                roots: vec![Base64(self.root.certificate().to_vec())],
                crls: vec![Base64(self.first_crl.clone())],
            }],
            access_token: AccessTokenKeys { issuer: "i".into(), audience: "a".into(), keys: Vec::new() },
            internal_token_keys: Vec::new(),
            services: Vec::new(),
            policies: Policies { generation: 1, files: Vec::new() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: vec![TokenAuthority {
                trust_domain: trust_domain(),
                issuer: "https://authority.test".to_owned(),
                jwt_svid: vec![Jwk::from_text(&self.jwt_svid_key.public_key().to_jwk()).unwrap()],
                wit: vec![Jwk::from_text(&self.wit_key.public_key().to_jwk()).unwrap()],
                exchange: Vec::new(),
            }],
            workload_keys: Vec::new(),
            revoked: Default::default(),
            sts: None,
        };
        change(&mut next);
        snapshot::sign(&next, &self.snapshot_key).unwrap()
    }

    pub fn crl(&self, number: u64, revoked: &[RevokedEntry]) -> Vec<u8> {
        let now = clock::now();
        make_crl(&self.issuing, number, revoked, now, now.saturating_add(Duration::from_secs(3600))).unwrap()
    }

    /// The certificate was made long ago, so that as much of its life is left as the test wants.
    fn certify(&self, id: &SpiffeId, csr: &[u8]) -> Result<Vec<Vec<u8>>, Status> {
        self.certify_for(id, csr, *self.life.lock().unwrap())
    }

    fn certify_signing(&self, id: &SpiffeId, csr: &[u8]) -> Result<Vec<Vec<u8>>, Status> {
        let csr = Csr::parse(csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut serial = [1; 16];
        serial[8..].copy_from_slice(&self.serial.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        let issued = issue_signing(&self.issuing, &csr, id, LeafTtl::default(), clock::now(), serial)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(vec![issued.der.to_vec(), self.issuing.certificate().to_vec()])
    }

    fn certify_for(&self, id: &SpiffeId, csr: &[u8], life: Duration) -> Result<Vec<Vec<u8>>, Status> {
        let csr = Csr::parse(csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let ttl = Duration::from_secs(3600);
        let now = clock::now().saturating_sub(ttl - life);
        let mut serial = [0; 16];
        serial[8..].copy_from_slice(&self.serial.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        let issued = issue_workload(&self.issuing, &csr, id, LeafTtl::new(ttl).unwrap(), now, serial)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(vec![issued.der.to_vec(), self.issuing.certificate().to_vec()])
    }

    fn token(&self, id: &SpiffeId, asked: &IssueTokenRequest) -> Result<IssueTokenResponse, Status> {
        let now = UnixTime::from_secs(clock::now().secs());
        let expires = now.saturating_add(*self.token_life.lock().unwrap());
        let jti = format!("t{}", self.serial.fetch_add(1, Ordering::SeqCst));
        let token = match TokenKind::try_from(asked.kind).unwrap() {
            TokenKind::JwtSvid => {
                let audiences =
                    std::iter::once(&asked.audience).chain(&asked.more_audiences).cloned().collect();
                let svid =
                    JwtSvid { subject: id.clone(), audiences, jti: Some(jti), issued_at: Some(now), expires };
                svid.mint(&self.jwt_svid_key).unwrap()
            }
            TokenKind::Wit => {
                let key =
                    PublicKey::from_jwk(&asked.jwk).map_err(|e| Status::invalid_argument(e.to_string()))?;
                key.verify_fixed("wit-key", id.as_str().as_bytes(), &asked.possession)
                    .map_err(|_| Status::invalid_argument("not possessed"))?;
                let confirmation = ConfirmationKey::new(key);
                let wit =
                    Wit { subject: id.clone(), confirmation, token_id: Some(jti), issuer: None, expires };
                wit.mint(&self.wit_key, now).unwrap()
            }
            _ => format!("token of {id} for {}", asked.audience),
        };
        Ok(IssueTokenResponse { token, issued_at_ms: now.millis(), expires_at_ms: expires.millis() })
    }

    fn agent_credential(&self, csr: &[u8]) -> Result<JoinResponse, Status> {
        let id = SpiffeId::agent(&trust_domain(), "node1").unwrap();
        Ok(JoinResponse {
            version: 1,
            spiffe_id: id.to_string(),
            chain: self.certify(&id, csr)?,
            roots: vec![self.root.certificate().to_vec()],
            snapshot_keys: vec![self.snapshot_key.public_key().to_jwk()],
        })
    }

    pub fn issued_to(&self, name: &str) -> usize {
        let id = entry(name, 0).spiffe_id;
        self.issued.lock().unwrap().iter().filter(|(request, _)| request.spiffe_id == id).count()
    }
}

pub fn head(size: u64, digit: &str) -> LedgerHead {
    let payload = format!(
        r#"{{"v":1,"trust_domain":"{TRUST_DOMAIN}","epoch":"e1","size":{size},"hash":"{}","at":0}}"#,
        digit.repeat(64)
    );
    LedgerHead { payload, kid: "k".into(), signature: "s".into() }
}

struct NodeApi(Arc<Core>);

impl NodeApi {
    /// All but Join: the caller is the agent, by the certificate of its connection.
    fn demand_agent<T>(request: &Request<T>) -> Result<(), Status> {
        let connection = request.extensions().get::<Connection>();
        match connection.and_then(Connection::spiffe_id) {
            Some(id) if id.as_str() == format!("spiffe://{TRUST_DOMAIN}/countersign/agent/node1") => Ok(()),
            other => Err(Status::unauthenticated(format!("not the agent: {other:?}"))),
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for NodeApi {
    type EntriesStream = Answers<EntriesResponse>;
    type SnapshotsStream = Answers<SignedSnapshot>;

    type SecretsStream = Answers<SecretsResponse>;

    async fn issue_token(
        &self,
        request: Request<NodeIssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        Self::demand_agent(&request)?;
        let request = request.into_inner();
        let (id, asked) = (SpiffeId::parse(&request.spiffe_id).unwrap(), request.request.clone().unwrap());
        let answer = self.0.token(&id, &asked);
        self.0.tokens_issued.lock().unwrap().push(request);
        answer.map(Response::new)
    }

    async fn secrets(
        &self,
        request: Request<NodeSecretsRequest>,
    ) -> Result<Response<Self::SecretsStream>, Status> {
        Self::demand_agent(&request)?;
        let id = request.into_inner().spiffe_id;
        if id.ends_with("/users") {
            return Err(Status::permission_denied("not registered any more"));
        }
        let secrets = WatchStream::new(self.0.secrets.subscribe());
        Ok(Response::new(Box::pin(secrets.map(Ok))))
    }

    async fn applied(
        &self,
        request: Request<NodeAppliedRequest>,
    ) -> Result<Response<AppliedResponse>, Status> {
        Self::demand_agent(&request)?;
        self.0.applied.lock().unwrap().push(request.into_inner());
        Ok(Response::new(AppliedResponse {}))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let JoinRequest { token, csr, .. } = request.into_inner();
        self.0.joins.fetch_add(1, Ordering::SeqCst);
        let key = Csr::parse(&csr).map_err(|e| Status::invalid_argument(e.to_string()))?.public_key().clone();
        let mut tokens = self.0.tokens.lock().unwrap();
        match tokens.get_mut(&token) {
            None => Err(Status::permission_denied("unknown join token")),
            Some(Some((used_by, answer))) if *used_by == key => Ok(Response::new(answer.clone())),
            Some(Some(_)) => Err(Status::permission_denied("the join token was used")),
            Some(free) => {
                let answer = self.0.agent_credential(&csr)?;
                *free = Some((key, answer.clone()));
                Ok(Response::new(answer))
            }
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinResponse>, Status> {
        Self::demand_agent(&request)?;
        self.0.renewals.fetch_add(1, Ordering::SeqCst);
        self.0.agent_credential(&request.get_ref().csr).map(Response::new)
    }

    async fn entries(
        &self,
        request: Request<EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        Self::demand_agent(&request)?;
        Ok(Response::new(Box::pin(WatchStream::new(self.0.entries.subscribe()).map(Ok))))
    }

    async fn issue(&self, request: Request<NodeIssueRequest>) -> Result<Response<IssueResponse>, Status> {
        Self::demand_agent(&request)?;
        let request = request.into_inner();
        let id = SpiffeId::parse(&request.spiffe_id).unwrap();
        let signing = request.purpose == i32::from(CertificatePurpose::Signing);
        // A test may want the wrong kind.
        let chain = match signing && !self.0.confuses_purposes.load(Ordering::SeqCst) {
            true => self.0.certify_signing(&id, &request.csr)?,
            false => self.0.certify(&id, &request.csr)?,
        };
        let spiffe_id = request.spiffe_id.clone();
        self.0.issued.lock().unwrap().push((request, clock::now()));
        let snapshot_keys = vec![self.0.snapshot_key.public_key().to_jwk()];
        Ok(Response::new(IssueResponse { chain, spiffe_id, snapshot_keys }))
    }

    async fn snapshots(
        &self,
        request: Request<SnapshotsRequest>,
    ) -> Result<Response<Self::SnapshotsStream>, Status> {
        Self::demand_agent(&request)?;
        Ok(Response::new(Box::pin(WatchStream::new(self.0.snapshots.subscribe()).map(Ok))))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        Self::demand_agent(&request)?;
        let report = request.into_inner();
        let acknowledged = report.records.iter().map(|r| r.sequence).max().unwrap_or(0);
        self.0.reports.lock().unwrap().push(report);
        Ok(Response::new(ReportResponse { acknowledged }))
    }

    async fn publish_token_key(
        &self,
        request: Request<NodePublishTokenKeyRequest>,
    ) -> Result<Response<PublishTokenKeyResponse>, Status> {
        Self::demand_agent(&request)?;
        self.0.token_keys.lock().unwrap().push(request.into_inner());
        Ok(Response::new(PublishTokenKeyResponse {}))
    }
}

// ---------------------------------------------------------------- the agent

/// An agent in this process, with its own state.
pub struct Agent {
    pub dir: Arc<tempfile::TempDir>,
    pub socket: PathBuf,
    pub token_file: PathBuf,
    pub admin: SocketAddr,
    pub ending: CancellationToken,
    pub running: JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    /// Joins with a fresh token; returns when it is ready.
    pub async fn start(authority: &Authority) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("join-token"), authority.token()).unwrap();
        let agent = Self::launch(authority.address, dir);
        agent.ready().await;
        agent
    }

    /// Starts on what lies in `dir`, and does not wait.
    pub fn launch(authority: SocketAddr, dir: Arc<tempfile::TempDir>) -> Self {
        let socket = dir.path().join("agent.sock");
        let token_file = dir.path().join("join-token");
        let admin = SocketAddr::from(([127, 0, 0, 1], countersign_testkit::free_port()));
        let settings = Settings {
            authority_node: authority.to_string(),
            join_token_file: Some(token_file.clone()),
            socket: socket.clone(),
            socket_mode: SocketMode::default(),
            admin: Some(admin),
        };
        let deployment = Deployment {
            trust_domain: trust_domain(),
            state_dir: dir.path().to_owned(),
            metrics: Arc::new(|| "countersign_build_info 1\n".to_owned()),
        };
        let ending = CancellationToken::new();
        let running = tokio::spawn(countersign_agent::run(settings, deployment, ending.clone()));
        Self { dir, socket, token_file, admin, ending, running }
    }

    pub async fn ready(&self) {
        eventually("the agent becomes ready", || async { self.probe("/readyz").await.0 == 200 }).await;
    }

    /// Stops it and starts another one on the same state.
    pub async fn restart(self, authority: SocketAddr) -> Self {
        let dir = Arc::clone(&self.dir);
        self.stop().await.unwrap();
        Self::launch(authority, dir)
    }

    pub async fn stop(self) -> Result<(), AgentError> {
        self.ending.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap()
    }

    pub fn api(&self) -> AgentApi {
        AgentApi::new(self.socket.clone())
    }

    /// What the socket is called in `SPIFFE_ENDPOINT_SOCKET`.
    pub fn endpoint(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// `GET` on the admin listener.
    pub async fn probe(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.admin).await else {
            return (0, String::new());
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }
}

// ---------------------------------------------------------------- other processes

/// Runs the ignored test `name` of this test binary in another process; its output comes line by line.
pub struct Other {
    child: tokio::process::Child,
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
}

pub const SOCKET_VARIABLE: &str = "COUNTERSIGN_TEST_SOCKET";
/// What a line of the other process begins with, among the noise of the test harness.
pub const SAYS: &str = "SAYS ";

impl Other {
    pub fn run(name: &str, socket: &Path) -> Self {
        use tokio::io::AsyncBufReadExt as _;
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", name])
            .env(SOCKET_VARIABLE, socket)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub async fn says(&mut self) -> String {
        let listening = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the other process says something");
                if let Some((_, said)) = line.split_once(SAYS) {
                    return said.to_owned();
                }
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.unwrap()
    }

    /// Lets it go on from where it waits for a line.
    pub async fn nudge(&mut self) {
        use tokio::io::AsyncWriteExt as _;
        self.child.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// In the other process: the socket that it was given, or `None` when somebody runs it by hand.
pub fn given_socket() -> Option<PathBuf> {
    std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from)
}

/// In the other process: waits for [`Other::nudge`], or for the end of its parent.
pub async fn wait_for_nudge() {
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()).unwrap()).await.unwrap();
}
