//! A deployment in one process: a CA, an agent socket for each workload, and signed snapshots.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::desk::{Desk, Modes};
use axum::{Router, routing::get};
use countersign_identity::{Mode, ServiceName, SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, PublicKey, SystemRandom, random_bytes};
use countersign_ledger::{CheckResult, Decision, Entry, Record};
use countersign_pki::{
    Bundle, BundleSet, CertificateDer, Crl, CrlPolicy, RevocationReason,
    csr::{self, Csr},
    issue::{
        Issuer, Root, issue_signing, issue_workload, issue_workload_server_only, make_issuing, make_root,
    },
    profile::LeafTtl,
    revocation::{RevokedEntry, make_crl},
};
use countersign_sdk::{
    Workload,
    accept::{self, Limits, Transport, bind_unix},
    clock,
    outbound::{CallLimits, Channel, Target},
    snapshot,
    tls::{Connector, Expected, Identity, TrustState},
};
use countersign_token::{TxnToken, txn_token};
use countersign_wire::{
    agent::{
        AppliedRequest, AppliedResponse, CertificatePurpose, IssueRequest, IssueResponse, IssueTokenRequest,
        IssueTokenResponse, PublishTokenKeyRequest, PublishTokenKeyResponse, RegisterRequest,
        RegisterResponse, ReportRequest, ReportResponse, SecretsRequest, SecretsResponse, SignedSnapshot,
        SnapshotsRequest,
        agent_server::{Agent, AgentServer},
    },
    snapshot::{
        AccessTokenKeys, InternalTokenKey, Jwk, Policies, PolicyFile, Revoked, ServiceAddress, Snapshot, Sts,
        TokenAuthority, TrustBundle, WorkloadKey,
    },
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::{StreamExt, wrappers::WatchStream};
use tokio_util::sync::CancellationToken;

pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// What a test may change between two snapshots.
pub(crate) struct World {
    pub(crate) sequence: u64,
    pub(crate) epoch: String,
    pub(crate) valid_for: Duration,
    pub(crate) issued_ago: Duration,
    pub(crate) revoked: Vec<RevokedEntry>,
    pub(crate) crl_number: u64,
    pub(crate) services: HashMap<String, SocketAddr>,
    /// Services that are not named here speak mutual TLS alone.
    pub(crate) modes: HashMap<String, Modes>,
    pub(crate) sts: Option<Sts>,
    pub(crate) workload_keys: Vec<WorkloadKey>,
    /// Besides our own.
    pub(crate) token_authorities: Vec<TokenAuthority>,
    pub(crate) taken_back: Revoked,
    pub(crate) policies: HashMap<String, String>,
    pub(crate) critical: Vec<String>,
    pub(crate) token_keys: Vec<(SpiffeId, PublicKey)>,
    /// Leaves are issued this long ago with a minute to live.
    pub(crate) leaf_age: Option<Duration>,
    pub(crate) extra_bundle: Option<TrustBundle>,
    /// What the agent does to each answer before it leaves.
    pub(crate) tamper: Option<fn(&mut IssueResponse)>,
    /// The agent is there and gives nothing.
    pub(crate) issues_nothing: bool,
}

pub(crate) struct Deployment {
    pub(crate) td: TrustDomain,
    pub(crate) root: Issuer,
    pub(crate) issuing: Issuer,
    pub(crate) world: Mutex<World>,
    pub(crate) snapshot_key: KeyPair,
    pub(crate) gateway_key: KeyPair,
    pub(crate) reports: Mutex<Vec<ReportRequest>>,
    pub(crate) report_fails: AtomicUsize,
    pub(crate) published: Mutex<Vec<String>>,
    pub(crate) desk: Desk,
    /// Bodies that a callee without a door got.
    pub(crate) bodies: Arc<Mutex<Vec<bytes::Bytes>>>,
    snapshots: watch::Sender<SignedSnapshot>,
    pub(crate) directory: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
    pub(crate) serial_hex: String,
}

impl Leaf {
    pub(crate) fn identity(&self) -> Identity {
        Identity::workload(self.chain.clone(), &self.key).unwrap()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeafProfile {
    Workload,
    ServerOnly,
    Signing,
}

impl Deployment {
    pub(crate) fn new() -> Arc<Self> {
        Self::of("fleamarket.test")
    }

    pub(crate) fn of(trust_domain: &str) -> Arc<Self> {
        let td = TrustDomain::parse(trust_domain).unwrap();
        let now = clock::now().saturating_sub(HOUR * 24);
        let root = make_root(Root::Workload, &td, key(), now, serial()).unwrap();
        let issuing = make_issuing(&root, &td, key(), now, serial()).unwrap();
        let gateway_key = key();
        let gateway = SpiffeId::gateway(&td, "edge").unwrap();
        let world = World {
            sequence: 0,
            epoch: "e1".into(),
            valid_for: HOUR,
            issued_ago: Duration::ZERO,
            revoked: Vec::new(),
            crl_number: 0,
            services: HashMap::new(),
            modes: HashMap::new(),
            sts: None,
            workload_keys: Vec::new(),
            token_authorities: Vec::new(),
            taken_back: Revoked::default(),
            policies: HashMap::new(),
            critical: Vec::new(),
            token_keys: vec![(gateway, gateway_key.public_key().clone())],
            leaf_age: None,
            extra_bundle: None,
            tamper: None,
            issues_nothing: false,
        };
        let desk = Desk::new(td.clone());
        let deployment = Self {
            td,
            root,
            issuing,
            world: Mutex::new(world),
            snapshot_key: key(),
            gateway_key,
            reports: Mutex::default(),
            report_fails: AtomicUsize::new(0),
            published: Mutex::default(),
            desk,
            bodies: Arc::default(),
            snapshots: watch::Sender::new(SignedSnapshot::default()),
            directory: countersign_testkit::temp_dir(),
            stop: CancellationToken::new(),
        };
        let deployment = Arc::new(deployment);
        deployment.publish();
        deployment
    }

    pub(crate) fn id(&self, service: &str) -> SpiffeId {
        match service {
            "gateway" => SpiffeId::gateway(&self.td, "edge").unwrap(),
            name => SpiffeId::service(&self.td, name).unwrap(),
        }
    }

    /// Allows `GET` of every route of `target` to the services `callers`.
    pub(crate) fn permit(&self, target: &str, callers: &[&str]) {
        let rules = callers.iter().map(|caller| {
            let id = self.id(caller);
            format!("@id(\"{caller}-may\") permit (principal == Workload::\"{id}\", action, resource in Service::\"{target}\");")
        });
        let rules: Vec<_> = rules.collect();
        self.world.lock().unwrap().policies.insert(target.to_owned(), rules.join("\n"));
        self.publish();
    }

    /// From the next snapshot on, `service` calls and is called like this.
    pub(crate) fn modes(&self, service: &str, change: impl FnOnce(&mut Modes)) {
        change(self.world.lock().unwrap().modes.entry(service.to_owned()).or_default());
        self.publish();
    }

    /// `services` accept these modes, and send this one.
    pub(crate) fn speak(&self, services: &[&str], accepts: &[Mode], sends: Mode) {
        for service in services {
            self.modes(service, |modes| {
                modes.accepts = accepts.to_vec();
                modes.sends = sends;
            });
        }
    }

    /// Registers somebody who only calls.
    pub(crate) fn register(&self, service: &str) {
        self.world.lock().unwrap().services.insert(service.to_owned(), ([127, 0, 0, 1], 1).into());
        self.publish();
    }

    /// Makes, signs and sends the next snapshot.
    pub(crate) fn publish(&self) {
        self.world.lock().unwrap().sequence += 1;
        self.publish_same_sequence();
    }

    pub(crate) fn publish_same_sequence(&self) {
        let snapshot = self.snapshot();
        self.snapshots.send_replace(snapshot::sign(&snapshot, &self.snapshot_key).unwrap());
    }

    pub(crate) fn publish_signed(&self, signed: SignedSnapshot) {
        self.snapshots.send_replace(signed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut world = self.world.lock().unwrap();
        world.crl_number += 1;
        let now = clock::now();
        let issued_at = now.saturating_sub(world.issued_ago);
        let services = world.services.iter().map(|(name, address)| {
            let modes = world.modes.get(name).cloned().unwrap_or_default();
            ServiceAddress {
                name: ServiceName::parse(name).unwrap(),
                spiffe_id: self.id(name),
                address: address.to_string(),
                accepts: modes.accepts,
                sends: modes.sends,
                user_context: modes.user_context,
                wimse: modes.wimse,
            }
        });
        let files =
            world.policies.iter().map(|(name, text)| PolicyFile { name: name.clone(), text: text.clone() });
        let mut bundles = vec![TrustBundle {
            trust_domain: self.td.clone(),
            roots: vec![self.root.certificate().as_ref().into()],
            crls: vec![self.crl(&world).as_slice().into()],
        }];
        bundles.extend(world.extra_bundle.clone());
        Snapshot {
            format: countersign_wire::snapshot::FORMAT,
            trust_domain: self.td.clone(),
            epoch: world.epoch.clone(),
            sequence: world.sequence,
            issued_at,
            valid_until: issued_at.saturating_add(world.valid_for),
            critical: world.critical.clone(),
            bundles,
            access_token: AccessTokenKeys { issuer: "i".into(), audience: "a".into(), keys: Vec::new() },
            internal_token_keys: world.token_keys.iter().map(token_key).collect(),
            services: services.collect(),
            policies: Policies { generation: world.sequence, files: files.collect() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: std::iter::once(self.desk.authority())
                .chain(world.token_authorities.clone())
                .collect(),
            workload_keys: world.workload_keys.clone(),
            revoked: world.taken_back.clone(),
            sts: world.sts.clone(),
        }
    }

    fn crl(&self, world: &World) -> Vec<u8> {
        let now = clock::now();
        let next = now.saturating_add(HOUR);
        make_crl(&self.issuing, world.crl_number, &world.revoked, now, next).unwrap()
    }

    pub(crate) fn revoke(&self, serial_hex: &str) {
        let padded = format!("{serial_hex:0>32}");
        let serial = u128::from_str_radix(&padded, 16).unwrap().to_be_bytes().to_vec();
        let reason = RevocationReason::KeyCompromise;
        self.world.lock().unwrap().revoked.push(RevokedEntry {
            serial,
            at: clock::now(),
            reason,
            not_after: clock::now().saturating_add(HOUR),
        });
        self.publish();
    }

    pub(crate) fn leaf(&self, service: &str) -> Leaf {
        self.leaf_of(&self.id(service), LeafProfile::Workload, HOUR, clock::now())
    }

    pub(crate) fn leaf_of(&self, id: &SpiffeId, profile: LeafProfile, ttl: Duration, now: UnixTime) -> Leaf {
        let key = key();
        let csr = Csr::parse(&csr::make(&key, None).unwrap()).unwrap();
        self.certify(&csr, id, profile, ttl, now).into_leaf(key, &self.issuing)
    }

    fn certify(
        &self,
        csr: &Csr,
        id: &SpiffeId,
        profile: LeafProfile,
        ttl: Duration,
        now: UnixTime,
    ) -> countersign_pki::issue::Issued {
        let ttl = LeafTtl::new(ttl).unwrap();
        let issue = match profile {
            LeafProfile::Workload => issue_workload,
            LeafProfile::ServerOnly => issue_workload_server_only,
            LeafProfile::Signing => issue_signing,
        };
        issue(&self.issuing, csr, id, ttl, now, serial()).unwrap()
    }

    /// What everybody in this deployment trusts, without an agent.
    pub(crate) fn bundles(&self) -> BundleSet {
        let crl = Crl::read(&self.crl(&self.world.lock().unwrap())).unwrap();
        let roots = vec![self.root.certificate().clone()];
        BundleSet::from_iter([Bundle::new(self.td.clone(), roots, vec![crl]).unwrap()])
    }

    /// A bare client that shows `leaf` and expects `service` at `address`.
    pub(crate) fn bare_client(&self, leaf: Option<&Leaf>, service: &str, address: SocketAddr) -> Channel {
        let trust = TrustState::new(self.bundles(), CrlPolicy::Require);
        if let Some(leaf) = leaf {
            trust.set_identity(leaf.identity());
        }
        let connector = Connector::new(trust, Expected::exactly(self.id(service)));
        let target = Target::Workload { address: address.to_string(), authority: service.into(), connector };
        Channel::new(target, CallLimits::default())
    }

    /// A socket on which the caller is `service`, as an agent that attested it would have it.
    pub(crate) async fn agent(self: &Arc<Self>, service: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{service}-agent.sock"));
        let listener = bind_unix(&path, 0o600).await.unwrap();
        let server = AgentServer::new(FakeAgent { deployment: Arc::clone(self), id: self.id(service) });
        let stop = self.stop.clone();
        tokio::spawn(accept::serve(listener, Transport::Plain, server, Limits::default(), stop));
        path
    }

    pub(crate) async fn workload(self: &Arc<Self>, service: &str) -> Workload {
        let socket = self.agent(service).await;
        Workload::connect_to(&socket).await.unwrap()
    }

    /// `router` behind the door of `service`, on a port that callers find in the snapshot.
    pub(crate) async fn serve(self: &Arc<Self>, service: &str, router: Router) -> Served {
        let workload = self.workload(service).await;
        let router = router.layer(workload.require().skip("/healthz").unwrap());
        self.serve_as(workload, service, router).await
    }

    pub(crate) async fn serve_as(
        self: &Arc<Self>,
        workload: Workload,
        service: &str,
        router: Router,
    ) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.world.lock().unwrap().services.insert(service.to_owned(), address);
        self.publish();
        let stop = self.stop.child_token();
        let serving = workload.serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let ended = tokio::spawn(serving.into_future());
        Served { address, workload, stop, ended }
    }

    pub(crate) fn txn_token(&self, user: &str, key: &KeyPair, lives: Duration) -> String {
        let now = clock::now();
        let token = TxnToken {
            txn: "01JZ".into(),
            user_id: format!("u_{user}"),
            name: user.into(),
            roles: vec!["buyer".into()],
            scope: "fleamarket".into(),
            requested_by: self.id("gateway"),
            actors: Vec::new(),
            possession: countersign_identity::Possession::None,
            expires: txn_token::expiry(now, Some(now.saturating_add(lives))),
        };
        token.mint(key, now).unwrap()
    }

    /// Everything that was reported, waiting for at most three seconds until `found` is among it.
    pub(crate) async fn reported(&self, found: impl Fn(&Decision) -> bool) -> Option<Decision> {
        for _ in 0..60 {
            if let Some(decision) = self.decisions().into_iter().find(&found) {
                return Some(decision);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    pub(crate) fn decisions(&self) -> Vec<Decision> {
        let entries = self.entries();
        entries.iter().flat_map(Entry::decisions).map(|(_, decision)| decision).collect()
    }

    fn entries(&self) -> Vec<Entry> {
        let reports = self.reports.lock().unwrap();
        let records = reports.iter().flat_map(|report| &report.records);
        records.map(|record| read(record).entry().unwrap()).collect()
    }
}

pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) workload: Workload,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: tokio::task::JoinHandle<usize>,
}

trait IntoLeaf {
    fn into_leaf(self, key: KeyPair, issuing: &Issuer) -> Leaf;
}

impl IntoLeaf for countersign_pki::issue::Issued {
    fn into_leaf(self, key: KeyPair, issuing: &Issuer) -> Leaf {
        Leaf { chain: vec![self.der, issuing.certificate().clone()], key, serial_hex: self.serial_hex }
    }
}

struct FakeAgent {
    deployment: Arc<Deployment>,
    id: SpiffeId,
}

#[tonic::async_trait]
impl Agent for FakeAgent {
    type SnapshotsStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<SignedSnapshot, tonic::Status>> + Send>>;

    type SecretsStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<SecretsResponse, tonic::Status>> + Send>>;

    async fn issue_token(
        &self,
        request: tonic::Request<IssueTokenRequest>,
    ) -> Result<tonic::Response<IssueTokenResponse>, tonic::Status> {
        self.deployment.desk.issue(&self.id, &request.into_inner()).map(tonic::Response::new)
    }

    async fn secrets(
        &self,
        _request: tonic::Request<SecretsRequest>,
    ) -> Result<tonic::Response<Self::SecretsStream>, tonic::Status> {
        let (deployment, id) = (Arc::clone(&self.deployment), self.id.clone());
        let generations = WatchStream::new(deployment.desk.secrets.subscribe());
        let stream = generations.map(move |generation| Ok(deployment.desk.secrets_of(&id, generation)));
        Ok(tonic::Response::new(Box::pin(stream)))
    }

    async fn applied(
        &self,
        request: tonic::Request<AppliedRequest>,
    ) -> Result<tonic::Response<AppliedResponse>, tonic::Status> {
        self.deployment.desk.applied.lock().unwrap().push((self.id.clone(), request.into_inner()));
        Ok(tonic::Response::new(AppliedResponse {}))
    }

    async fn register(
        &self,
        request: tonic::Request<RegisterRequest>,
    ) -> Result<tonic::Response<RegisterResponse>, tonic::Status> {
        let entry = request.into_inner().entry;
        if entry == "nonsense" {
            return Ok(tonic::Response::new(RegisterResponse { spiffe_id: "nonsense".into() }));
        }
        if entry != self.id.path().trim_start_matches("/svc/") {
            return Err(tonic::Status::permission_denied("this uid may not launch that service"));
        }
        Ok(tonic::Response::new(RegisterResponse { spiffe_id: self.id.to_string() }))
    }

    async fn issue(
        &self,
        request: tonic::Request<IssueRequest>,
    ) -> Result<tonic::Response<IssueResponse>, tonic::Status> {
        let deployment = &self.deployment;
        let request = request.into_inner();
        let csr = Csr::parse(&request.csr).map_err(|e| tonic::Status::invalid_argument(e.to_string()))?;
        let age = deployment.world.lock().unwrap().leaf_age;
        let (ttl, now) = match age {
            Some(age) => (Duration::from_mins(1), clock::now().saturating_sub(age)),
            None => (HOUR, clock::now()),
        };
        let profile = match request.purpose() {
            CertificatePurpose::Tls => LeafProfile::Workload,
            CertificatePurpose::Signing => {
                deployment.desk.check_open()?;
                deployment.desk.certified.fetch_add(1, Ordering::SeqCst);
                LeafProfile::Signing
            }
        };
        let issued = deployment.certify(&csr, &self.id, profile, ttl, now);
        let issuing = deployment.issuing.certificate().to_vec();
        let mut answer = IssueResponse {
            chain: vec![issued.der.to_vec(), issuing],
            spiffe_id: self.id.to_string(),
            snapshot_keys: vec![deployment.snapshot_key.public_key().to_jwk()],
        };
        let world = deployment.world.lock().unwrap();
        if world.issues_nothing {
            return Err(tonic::Status::unavailable("not now"));
        }
        if let Some(tamper) = world.tamper {
            tamper(&mut answer);
        }
        Ok(tonic::Response::new(answer))
    }

    async fn snapshots(
        &self,
        _request: tonic::Request<SnapshotsRequest>,
    ) -> Result<tonic::Response<Self::SnapshotsStream>, tonic::Status> {
        let stream = WatchStream::new(self.deployment.snapshots.subscribe()).map(Ok);
        Ok(tonic::Response::new(Box::pin(stream)))
    }

    async fn report(
        &self,
        request: tonic::Request<ReportRequest>,
    ) -> Result<tonic::Response<ReportResponse>, tonic::Status> {
        let failing = &self.deployment.report_fails;
        if failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(tonic::Status::unavailable("the authority cannot be reached"));
        }
        let report = request.into_inner();
        let acknowledged = report.records.last().map_or(0, |record| record.sequence);
        self.deployment.reports.lock().unwrap().push(report);
        Ok(tonic::Response::new(ReportResponse { acknowledged }))
    }

    async fn publish_token_key(
        &self,
        request: tonic::Request<PublishTokenKeyRequest>,
    ) -> Result<tonic::Response<PublishTokenKeyResponse>, tonic::Status> {
        self.deployment.published.lock().unwrap().push(request.into_inner().jwk);
        Ok(tonic::Response::new(PublishTokenKeyResponse {}))
    }
}

pub(crate) fn read(record: &countersign_wire::agent::LedgerRecord) -> Record {
    Record {
        writer: record.writer.parse().unwrap(),
        boot: record.boot.parse().unwrap(),
        sequence: record.sequence,
        bytes: record.event.clone(),
        chain: record.chain.as_slice().try_into().unwrap(),
    }
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate(&SystemRandom::new()).unwrap()
}

pub(crate) fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = random_bytes(&SystemRandom::new()).unwrap();
    serial[0] |= 1;
    serial
}

fn token_key((owner, key): &(SpiffeId, PublicKey)) -> InternalTokenKey {
    InternalTokenKey { owner: owner.clone(), jwk: Jwk::from_text(&key.to_jwk()).unwrap() }
}

/// A router whose handler counts how often it was reached.
pub(crate) fn counting() -> (Router, Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let handler = move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { "hello" }
    };
    (Router::new().route("/users/{id}", get(handler)), reached)
}

pub(crate) fn get_request(path: &str) -> http::Request<countersign_sdk::outbound::Outgoing> {
    http::Request::get(path).body(countersign_sdk::outbound::empty()).unwrap()
}

pub(crate) async fn text<B>(response: http::Response<B>) -> String
where
    B: hyper::body::Body,
    B::Error: std::fmt::Debug,
{
    use http_body_util::BodyExt;
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The five checks in their short form: `pass pass fail not_reached not_reached`.
pub(crate) fn results(decision: &Decision) -> Vec<(String, CheckResult)> {
    decision.checks.iter().map(|check| (check.name.clone(), check.result)).collect()
}
