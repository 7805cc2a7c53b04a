//! The stand-in for agent and authority: issues certificates, signs snapshots, takes records.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::{KeyPair, SystemRandom, random_bytes};
use countersign_ledger::{Decision, Entry, Event};
use countersign_pki::csr::Csr;
use countersign_pki::issue::{Issuer, issue_signing, issue_workload};
use countersign_pki::profile::LeafTtl;
use countersign_pki::revocation::{RevocationReason, RevokedEntry, make_crl};
use countersign_sdk::clock;
use countersign_wire::Base64;
use countersign_wire::agent::agent_server::{Agent, AgentServer};
use countersign_wire::agent::{
    CertificatePurpose, EdgeCount, IssueRequest, IssueResponse, PublishTokenKeyRequest,
    PublishTokenKeyResponse, RegisterRequest, RegisterResponse, ReportRequest, ReportResponse,
    SignedSnapshot, SnapshotsRequest,
};
use countersign_wire::snapshot::{
    AccessTokenKeys, FORMAT, InternalTokenKey, Jwk, Policies, Snapshot, TrustBundle,
};
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{AUDIENCE, ISSUER, make_ca};

/// What all stand-in agents of a rig share.
pub struct World {
    pub root: Issuer,
    pub issuing: Issuer,
    pub access_key: KeyPair,
    snapshot_key: KeyPair,
    snapshot: Mutex<Snapshot>,
    signed: watch::Sender<SignedSnapshot>,
    events: Mutex<Vec<Entry>>,
    edges: Mutex<Vec<EdgeCount>>,
    /// Serial numbers of certificates, by whose they are.
    issued: Mutex<Vec<(SpiffeId, Vec<u8>)>>,
}

impl World {
    pub fn new(td: &TrustDomain) -> Arc<Self> {
        let (root, issuing) = make_ca(td);
        let rng = SystemRandom::new();
        let (access_key, snapshot_key) = (KeyPair::generate(&rng).unwrap(), KeyPair::generate(&rng).unwrap());
        let now = clock::now();
        let crl = make_crl(&issuing, 1, &[], now, now.saturating_add(Duration::from_secs(3600))).unwrap();
        let snapshot = Snapshot {
            format: FORMAT,
            trust_domain: td.clone(),
            epoch: "first".into(),
            sequence: 1,
            issued_at: now,
            valid_until: now.saturating_add(Duration::from_secs(3600)),
            critical: Vec::new(),
            bundles: vec![TrustBundle {
                trust_domain: td.clone(),
                roots: vec![Base64::from(root.certificate().to_vec())],
                crls: vec![Base64::from(crl)],
            }],
            access_token: AccessTokenKeys {
                issuer: ISSUER.into(),
                audience: AUDIENCE.into(),
                keys: vec![Jwk::from_text(&access_key.public_key().to_jwk()).unwrap()],
            },
            internal_token_keys: Vec::new(),
            services: Vec::new(),
            policies: Policies { generation: 1, files: Vec::new() },
            ledger_head: None,
            pseudonym_key: Some("A".repeat(43).into()),
            token_authorities: Vec::new(),
            workload_keys: Vec::new(),
            revoked: Default::default(),
            sts: None,
        };
        let signed = countersign_sdk::snapshot::sign(&snapshot, &snapshot_key).unwrap();
        Arc::new(World {
            root,
            issuing,
            access_key,
            snapshot_key,
            snapshot: Mutex::new(snapshot),
            signed: watch::Sender::new(signed),
            events: Mutex::default(),
            edges: Mutex::default(),
            issued: Mutex::default(),
        })
    }

    /// Changes the snapshot and tells everybody.
    pub fn change(&self, edit: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.snapshot.lock().unwrap();
        edit(&mut snapshot);
        snapshot.sequence += 1;
        let signed = countersign_sdk::snapshot::sign(&snapshot, &self.snapshot_key).unwrap();
        self.signed.send_replace(signed);
    }

    /// Takes back every certificate that `id` was given.
    pub fn revoke(&self, id: &SpiffeId) {
        let now = clock::now();
        let next = now.saturating_add(Duration::from_secs(3600));
        let issued = self.issued.lock().unwrap();
        let entries: Vec<_> = issued
            .iter()
            .filter(|(whose, _)| whose == id)
            .map(|(_, serial)| RevokedEntry {
                serial: serial.clone(),
                at: now,
                reason: RevocationReason::KeyCompromise,
                not_after: next,
            })
            .collect();
        assert!(!entries.is_empty(), "{id} has no certificate");
        let crl = make_crl(&self.issuing, 2, &entries, now, next).unwrap();
        self.change(|snapshot| snapshot.bundles[0].crls = vec![Base64::from(crl)]);
    }

    pub fn sequence(&self) -> u64 {
        self.snapshot.lock().unwrap().sequence
    }

    /// Every count of calls that any process reported.
    pub fn edges(&self) -> Vec<EdgeCount> {
        self.edges.lock().unwrap().clone()
    }

    /// Every event that any writer reported.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().iter().map(|entry| entry.event.clone()).collect()
    }

    /// Every decision about a request that any writer reported.
    pub fn decisions(&self) -> Vec<Decision> {
        let events = self.events.lock().unwrap();
        events.iter().flat_map(Entry::decisions).map(|(_, decision)| decision).collect()
    }
}

/// Serves one workload on a socket of its own.
pub fn serve(world: Arc<World>, id: SpiffeId, socket: &Path, shutdown: CancellationToken) {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let server = tonic::transport::Server::builder().add_service(AgentServer::new(Stub { world, id }));
    tokio::spawn(
        server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned()),
    );
}

struct Stub {
    world: Arc<World>,
    id: SpiffeId,
}

#[tonic::async_trait]
impl Agent for Stub {
    type SnapshotsStream = Pin<Box<dyn Stream<Item = Result<SignedSnapshot, Status>> + Send>>;

    type SecretsStream =
        Pin<Box<dyn futures::Stream<Item = Result<countersign_wire::agent::SecretsResponse, Status>> + Send>>;

    async fn issue_token(
        &self,
        _request: Request<countersign_wire::agent::IssueTokenRequest>,
    ) -> Result<Response<countersign_wire::agent::IssueTokenResponse>, Status> {
        Err(Status::unimplemented("no such token is issued"))
    }

    async fn secrets(
        &self,
        _request: Request<countersign_wire::agent::SecretsRequest>,
    ) -> Result<Response<Self::SecretsStream>, Status> {
        Err(Status::unimplemented("there are no secrets"))
    }

    async fn applied(
        &self,
        _request: Request<countersign_wire::agent::AppliedRequest>,
    ) -> Result<Response<countersign_wire::agent::AppliedResponse>, Status> {
        Ok(Response::new(countersign_wire::agent::AppliedResponse {}))
    }

    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        Err(Status::unimplemented("launching is not part of this rig"))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let request = request.into_inner();
        let csr = Csr::parse(&request.csr).unwrap();
        let issue = match request.purpose() {
            CertificatePurpose::Tls => issue_workload,
            CertificatePurpose::Signing => issue_signing,
        };
        let serial: [u8; 16] = random_bytes(&SystemRandom::new()).unwrap();
        self.world.issued.lock().unwrap().push((self.id.clone(), serial.to_vec()));
        let ttl = LeafTtl::new(Duration::from_secs(3600)).unwrap();
        let issued = issue(&self.world.issuing, &csr, &self.id, ttl, clock::now(), serial).unwrap();
        Ok(Response::new(IssueResponse {
            chain: vec![issued.der.to_vec(), self.world.issuing.certificate().to_vec()],
            spiffe_id: self.id.to_string(),
            snapshot_keys: vec![self.world.snapshot_key.public_key().to_jwk()],
        }))
    }

    async fn snapshots(
        &self,
        _: Request<SnapshotsRequest>,
    ) -> Result<Response<Self::SnapshotsStream>, Status> {
        let stream = WatchStream::new(self.world.signed.subscribe()).map(Ok);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let report = request.into_inner();
        let acknowledged = report.records.last().map_or(0, |record| record.sequence);
        self.world.edges.lock().unwrap().extend(report.edges);
        let mut events = self.world.events.lock().unwrap();
        for record in report.records {
            let entry: Entry = serde_json::from_slice(&record.event).unwrap();
            events.push(entry);
        }
        Ok(Response::new(ReportResponse { acknowledged }))
    }

    async fn publish_token_key(
        &self,
        request: Request<PublishTokenKeyRequest>,
    ) -> Result<Response<PublishTokenKeyResponse>, Status> {
        let jwk = Jwk::from_text(&request.into_inner().jwk).unwrap();
        let entry = InternalTokenKey { owner: self.id.clone(), jwk };
        self.world.change(|snapshot| snapshot.internal_token_keys.push(entry));
        Ok(Response::new(PublishTokenKeyResponse {}))
    }
}
