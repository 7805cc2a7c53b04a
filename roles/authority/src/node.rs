//! `countersign.node.v1`: what agents ask. Everything but joining demands the agent's own SVID, and an agent gets
//! only what the registration entries give to its node, whatever it asks for.

use std::{net::IpAddr, pin::Pin, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_accounts::lockout::{ADDRESSES_MAX, Limit, Throttle};
use countersign_identity::{IdKind, SpiffeId, Verified, Workload};
use countersign_keys::{PublicKey, SystemRandom, constant_time_eq, hash::hex, random_bytes, sha256};
use countersign_ledger::Event;
use countersign_sdk::{
    accept::Connection,
    clock,
    inbound::{DecisionDraft, Denial},
    trace::Hop,
};
use countersign_store::{
    nodes::{JoinError, Joined, Joining},
    services::Service,
    token_keys::TokenKey,
};
use countersign_wire::{
    MESSAGE_BYTES_MAX,
    agent::{
        CertificatePurpose, IssueResponse, IssueTokenResponse, PublishTokenKeyResponse, ReportRequest,
        ReportResponse, SecretsResponse, SignedSnapshot, SnapshotsRequest,
    },
    codes::Code,
    node::{
        EntriesRequest, EntriesResponse, Entry, JoinRequest, JoinResponse, NodeIssueRequest,
        NodeIssueTokenRequest, NodePublishTokenKeyRequest, NodeSecretsRequest, RenewRequest, Versions,
        node_server::{Node, NodeServer},
    },
    snapshot::Snapshot,
};
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::{
    entries,
    http::{TARGET, record_refusal},
    ingest,
    issuance::{self, Delivery, Order, OrderError, Requester, Signed},
    journal::Change,
    secrets, snapshot,
    state::Authority,
    token_desk::{self, TokenError},
};

/// Versions of this API that this authority speaks.
const VERSIONS: Versions = Versions { minimum: 1, maximum: 1 };
/// What one address may try: a secret of 256 bits cannot be guessed, but the database should not be asked for ever.
const JOIN_LIMIT: Limit = Limit { burst: 60, every: std::time::Duration::from_millis(500) };
/// What is kept of an agent's words about a process.
const ATTESTATION_CHARS_MAX: usize = 512;

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service for the node listener.
pub(crate) fn service(authority: &Arc<Authority>) -> NodeServer<NodeApi> {
    let joins = std::sync::Mutex::new(Throttle::new(JOIN_LIMIT, ADDRESSES_MAX));
    NodeServer::new(NodeApi { authority: Arc::clone(authority), joins })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) struct NodeApi {
    authority: Arc<Authority>,
    joins: std::sync::Mutex<Throttle>,
}

/// An agent that proved itself on this connection, and still does.
struct Agent(Verified<Workload>);

impl Agent {
    fn id(&self) -> &SpiffeId {
        &self.0.id
    }
}

/// One call, for its record.
struct Call {
    rpc: &'static str,
    connection: Connection,
}

impl NodeApi {
    fn call<T>(rpc: &'static str, request: &Request<T>) -> Result<Call, Status> {
        // Without it nobody knows who calls: the accept loop always sets it.
        let connection = request.extensions().get::<Connection>().cloned();
        connection.map(|connection| Call { rpc, connection }).ok_or_else(|| Status::internal("no connection"))
    }

    /// The one check in front of every call but Join.
    fn agent(&self, call: &Call) -> Result<Agent, Status> {
        let Some(peer) = &call.connection.peer else {
            return Err(self.refuse(
                call,
                Code::CertificateMissing,
                "an agent must show its own SVID",
                false,
            ));
        };
        let workload = peer
            .workload(clock::now())
            .map_err(|error| self.refuse(call, Code::CertificateRevoked, &error.to_string(), false))?;
        if self.authority.agent_name(&workload.id).is_none() {
            let why = format!("{} is not an agent of this trust domain", workload.id);
            return Err(self.refuse(call, Code::AdminNotPermitted, &why, true));
        }
        Ok(Agent(workload))
    }

    /// The entry of an identity, if this agent's node may hold it.
    async fn entry(&self, call: &Call, agent: &Agent, spiffe_id: &str) -> Result<Service, Status> {
        let unknown = |why: String| self.refuse(call, Code::EntryUnknown, &why, true);
        let id = SpiffeId::parse(spiffe_id).map_err(|error| unknown(error.to_string()))?;
        let entry = self.authority.db.service_of(&id).await.map_err(|error| self.failed(&error))?;
        match entry {
            Some(entry) if entries::may_hold(&entry, agent.id()) => Ok(entry),
            Some(_) => Err(unknown(format!("{id} is registered, but not for {}", agent.id()))),
            None => Err(unknown(format!("{id} is not registered"))),
        }
    }

    /// A refusal: recorded with its facts, answered with its code.
    fn refuse(&self, call: &Call, code: Code, why: &str, proven: bool) -> Status {
        let denial = Denial::new(code, why);
        let mut draft = DecisionDraft::begin(TARGET, Hop::first());
        draft.came_over(&call.connection);
        draft.asks_for(&http::Method::POST, call.rpc);
        if let Some(peer) = &call.connection.peer {
            draft.checked(peer.checks());
        }
        draft.denied(&denial);
        let id = record_refusal(&self.authority.journal, &call.connection, proven, draft, &denial);
        metrics::counter!("countersign_node_refusals_total", "code" => code.to_string()).increment(1);
        // The agent's operator is ours, and a wrong registration is found by these words.
        Status::new(code.entry().public.grpc(), format!("{code}: {why} ({id})"))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Status {
        tracing::error!(%error, "a node's call failed");
        Status::unavailable("the authority cannot do this now: try again")
    }

    fn order_failed(&self, call: &Call, error: &OrderError) -> Status {
        match error {
            OrderError::Csr(_) | OrderError::Issue(_) => {
                self.refuse(call, error.code(), &error.to_string(), true)
            }
            OrderError::Random(_) | OrderError::Store(_) => self.failed(error),
        }
    }

    fn throttle(&self, address: Option<IpAddr>) -> Result<(), Status> {
        let Some(address) = address else { return Ok(()) };
        let mut joins = self.joins.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        joins
            .take(address, clock::now())
            .map_err(|throttled| Status::resource_exhausted(throttled.to_string()))
    }

    fn admission(&self, version: u32, delivery: &Delivery) -> JoinResponse {
        let keys = self.authority.keys.load();
        JoinResponse {
            version,
            spiffe_id: delivery.certificate.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            chain: delivery.chain.clone(),
            roots: vec![delivery.root.clone()],
            snapshot_keys: self.snapshot_keys(&keys),
        }
    }

    fn snapshot_keys(&self, keys: &crate::keys::Keys) -> Vec<String> {
        keys.snapshot.all().map(|key| key.public_key().to_jwk()).collect()
    }

    /// The secret of a token that was made under our own root.
    fn secret<'a>(&self, token: &'a str) -> Option<&'a str> {
        let (secret, pin) = token.strip_prefix("csj_")?.split_once('.')?;
        let spki = self.authority.keys.load().workload_root.key().public_key().spki_der();
        let ours = URL_SAFE_NO_PAD.encode(sha256(&spki));
        constant_time_eq(pin.as_bytes(), ours.as_bytes()).then_some(secret)
    }

    async fn admit(&self, call: &Call, request: &JoinRequest, version: u32) -> Result<JoinResponse, Status> {
        let spent = |error: JoinError| match error {
            JoinError::Store(error) => self.failed(&error),
            JoinError::Unknown => self.refuse(call, Code::JoinTokenInvalid, &error.to_string(), false),
            JoinError::Expired => self.refuse(call, Code::JoinTokenExpired, &error.to_string(), false),
            JoinError::Spent => self.refuse(call, Code::JoinTokenSpent, &error.to_string(), false),
        };
        let secret = self.secret(&request.token).ok_or_else(|| {
            self.refuse(call, Code::JoinTokenInvalid, "the join token was not made by this authority", false)
        })?;
        let now = clock::now();
        let key = countersign_pki::csr::Csr::parse(&request.csr)
            .map_err(|error| self.order_failed(call, &OrderError::Csr(error)))?;
        let key = key.public_key().thumbprint().to_string();
        let token = self.authority.db.join_token(secret.as_bytes(), &key, now).await.map_err(spent)?;
        let agent = token.spiffe_id.clone();
        let order = Order::Workload { id: agent.clone(), ttl: self.authority.svid_ttl };
        let requester = Requester {
            name: agent.to_string(),
            agent: Some(agent.clone()),
            attestation: format!("join token {}", token.id),
        };
        let Signed { delivery, mut events } =
            issuance::sign(&self.authority, &request.csr, &order, &requester, now)
                .map_err(|error| self.order_failed(call, &error))?;
        let serial = delivery.certificate.serial.clone();
        events.push(Event::NodeJoined { agent, serial, credential: token.id });
        let answer = self.admission(version, &delivery);
        let node_id = random_bytes::<16>(&SystemRandom::new()).map_err(|error| self.failed(&error))?;
        let (secret, certificate) = (secret.to_owned(), delivery.certificate.clone());
        let encoded = answer.encode_to_vec();
        let consume = move |db: countersign_store::Db, records| async move {
            let node_id = format!("n_{}", hex(&node_id));
            let joining = Joining { key, node_id, certificate, answer: encoded, records };
            db.join(secret.as_bytes(), &joining, now).await.map(|joined| match joined {
                Joined::Now => Change::Recorded(None),
                Joined::Again { answer } => Change::Nothing(Some(answer)),
            })
        };
        match self.authority.journal.with(events, consume).await.map_err(spent)? {
            None => {
                issuance::delivered(&self.authority, &delivery.certificate);
                Ok(answer)
            }
            Some(before) => JoinResponse::decode(before.as_slice()).map_err(|error| self.failed(&error)),
        }
    }

    async fn seen(&self, agent: &Agent) {
        if let Err(error) = self.authority.db.node_seen(agent.id(), clock::now()).await {
            tracing::debug!(%error, agent = %agent.id(), "a node's sign of life was not stored");
        }
    }
}

#[tonic::async_trait]
impl Node for NodeApi {
    type EntriesStream = Streaming<EntriesResponse>;
    type SnapshotsStream = Streaming<SignedSnapshot>;

    type SecretsStream = Streaming<SecretsResponse>;

    async fn issue_token(
        &self,
        request: Request<NodeIssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let call = Self::call("IssueToken", &request)?;
        let agent = self.agent(&call)?;
        let NodeIssueTokenRequest { spiffe_id, request } = request.into_inner();
        let entry = self.entry(&call, &agent, &spiffe_id).await?;
        let asked = request.unwrap_or_default();
        let issued = token_desk::issue(&self.authority, &entry.spiffe_id, agent.id(), asked).await;
        issued.map(Response::new).map_err(|error| match error {
            TokenError::Random(_) | TokenError::Store(_) => self.failed(&error),
            refused => self.refuse(&call, refused.code(), &refused.to_string(), true),
        })
    }

    async fn secrets(
        &self,
        request: Request<NodeSecretsRequest>,
    ) -> Result<Response<Self::SecretsStream>, Status> {
        let call = Self::call("Secrets", &request)?;
        let agent = self.agent(&call)?;
        let entry = self.entry(&call, &agent, &request.into_inner().spiffe_id).await?;
        // Ends with the connection, which is cut when the agent is no longer believed.
        Ok(Response::new(Box::pin(secrets::feed(Arc::clone(&self.authority), entry.spiffe_id))))
    }

    async fn applied(
        &self,
        request: Request<countersign_wire::node::NodeAppliedRequest>,
    ) -> Result<Response<countersign_wire::agent::AppliedResponse>, Status> {
        let call = Self::call("Applied", &request)?;
        let agent = self.agent(&call)?;
        let request = request.into_inner();
        let entry = self.entry(&call, &agent, &request.spiffe_id).await?;
        self.authority.applied.note(entry.spiffe_id, request.applied.unwrap_or_default(), clock::now());
        Ok(Response::new(countersign_wire::agent::AppliedResponse {}))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let call = Self::call("Join", &request)?;
        self.throttle(call.connection.address().map(|address| address.ip()))?;
        let request = request.into_inner();
        let version = self.common_version(&call, request.versions.as_ref())?;
        self.admit(&call, &request, version).await.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinResponse>, Status> {
        let call = Self::call("Renew", &request)?;
        let agent = self.agent(&call)?;
        let request = request.into_inner();
        let version = self.common_version(&call, request.versions.as_ref())?;
        // Only a certificate that this authority knows buys its successor, and none that was taken back.
        let serial = agent.0.certificate.as_ref().map(|facts| facts.serial_hex.clone()).unwrap_or_default();
        let known = self.authority.db.certificate(&serial).await.map_err(|error| self.failed(&error))?;
        if !known
            .is_some_and(|known| known.revocation.is_none() && known.spiffe_id.as_ref() == Some(agent.id()))
        {
            let why = "the certificate was not issued here, or was revoked; join again";
            return Err(self.refuse(&call, Code::CertificateRevoked, why, true));
        }
        let order = Order::Workload { id: agent.id().clone(), ttl: self.authority.svid_ttl };
        let requester = Requester {
            name: agent.id().to_string(),
            agent: Some(agent.id().clone()),
            attestation: format!("its own certificate {serial}"),
        };
        let delivery = issuance::issue(&self.authority, &request.csr, &order, &requester)
            .await
            .map_err(|error| self.order_failed(&call, &error))?;
        self.seen(&agent).await;
        issuance::delivered(&self.authority, &delivery.certificate);
        Ok(Response::new(self.admission(version, &delivery)))
    }

    async fn entries(
        &self,
        request: Request<EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        let call = Self::call("Entries", &request)?;
        let agent = self.agent(&call)?;
        let authority = Arc::clone(&self.authority);
        // Ends with the connection, which is cut when the agent is no longer believed.
        let changes = WatchStream::new(self.authority.entries.subscribe());
        let (id, end) = (agent.id().clone(), authority.shutdown.clone().cancelled_owned());
        let entries = changes.then(move |_| held_by(Arc::clone(&authority), id.clone()));
        Ok(Response::new(Box::pin(entries.take_until(end))))
    }

    async fn issue(&self, request: Request<NodeIssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let call = Self::call("Issue", &request)?;
        let agent = self.agent(&call)?;
        let request = request.into_inner();
        let entry = self.entry(&call, &agent, &request.spiffe_id).await?;
        let (id, ttl) = (entry.spiffe_id, self.authority.svid_ttl);
        let order = match CertificatePurpose::try_from(request.purpose) {
            Ok(CertificatePurpose::Tls) => Order::Workload { id, ttl },
            Ok(CertificatePurpose::Signing) => Order::Signing { id, ttl },
            Err(_) => {
                let why = format!("purpose {} of certificates is not known here", request.purpose);
                return Err(self.refuse(&call, Code::ParameterInvalid, &why, true));
            }
        };
        let requester = Requester {
            name: agent.id().to_string(),
            agent: Some(agent.id().clone()),
            attestation: request.attestation.chars().take(ATTESTATION_CHARS_MAX).collect(),
        };
        let delivery = issuance::issue(&self.authority, &request.csr, &order, &requester)
            .await
            .map_err(|error| self.order_failed(&call, &error))?;
        issuance::delivered(&self.authority, &delivery.certificate);
        let snapshot_keys = self.snapshot_keys(&self.authority.keys.load());
        Ok(Response::new(IssueResponse {
            chain: delivery.chain,
            spiffe_id: request.spiffe_id,
            snapshot_keys,
        }))
    }

    async fn snapshots(
        &self,
        request: Request<SnapshotsRequest>,
    ) -> Result<Response<Self::SnapshotsStream>, Status> {
        let call = Self::call("Snapshots", &request)?;
        self.agent(&call)?;
        let held = request.into_inner();
        let news = WatchStream::new(self.authority.snapshots.subscribe());
        let news = news.filter_map(move |signed| {
            let signed = signed.filter(|signed| !is_held(signed, &held));
            async move { signed.map(|signed| Ok((*signed).clone())) }
        });
        Ok(Response::new(Box::pin(news.take_until(self.authority.shutdown.clone().cancelled_owned()))))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let call = Self::call("Report", &request)?;
        let agent = self.agent(&call)?;
        let report = request.into_inner();
        let acknowledged =
            ingest::take(&self.authority, agent.id(), report).await.map_err(|error| match error {
                ingest::IngestError::Store(error) => self.failed(&error),
                refused => self.refuse(&call, refused.code(), &refused.to_string(), true),
            })?;
        self.seen(&agent).await;
        Ok(Response::new(ReportResponse { acknowledged }))
    }

    async fn publish_token_key(
        &self,
        request: Request<NodePublishTokenKeyRequest>,
    ) -> Result<Response<PublishTokenKeyResponse>, Status> {
        let call = Self::call("PublishTokenKey", &request)?;
        let agent = self.agent(&call)?;
        let request = request.into_inner();
        let entry = self.entry(&call, &agent, &request.spiffe_id).await?;
        if !matches!(entry.spiffe_id.kind(), IdKind::Gateway(_)) {
            let why = format!("{} is no gateway: only gateways mint internal tokens", entry.spiffe_id);
            return Err(self.refuse(&call, Code::EntryUnknown, &why, true));
        }
        let key = PublicKey::from_jwk(&request.jwk)
            .map_err(|error| self.refuse(&call, Code::BodyMalformed, &error.to_string(), true))?;
        let (kid, owner) = (key.thumbprint().to_string(), entry.spiffe_id);
        let event = Event::TokenKeyPublished { owner: owner.clone(), kid: kid.clone() };
        let key = TokenKey { owner, kid, jwk: key.to_jwk(), published_at: clock::now() };
        self.authority
            .journal
            .with(vec![event], |db, records| async move {
                db.publish_token_key(&key, &records).await.map(Change::Recorded)
            })
            .await
            .map_err(|error| self.failed(&error))?;
        snapshot::publish_change(&self.authority).await;
        Ok(Response::new(PublishTokenKeyResponse {}))
    }
}

impl NodeApi {
    fn common_version(&self, call: &Call, theirs: Option<&Versions>) -> Result<u32, Status> {
        let Versions { minimum, maximum } = theirs.copied().unwrap_or(Versions { minimum: 0, maximum: 0 });
        let highest = maximum.min(VERSIONS.maximum);
        if highest < minimum.max(VERSIONS.minimum) {
            let why = format!(
                "the agent speaks versions {minimum} to {maximum}, this authority {} to {}",
                VERSIONS.minimum, VERSIONS.maximum
            );
            return Err(self.refuse(call, Code::VersionMismatch, &why, false));
        }
        Ok(highest)
    }
}

/// The entries that an agent's node may hold, as they are now.
async fn held_by(authority: Arc<Authority>, agent: SpiffeId) -> Result<EntriesResponse, Status> {
    let all = authority.db.services().await.map_err(|error| {
        tracing::error!(%error, "entries could not be read");
        Status::unavailable("the authority cannot do this now: try again")
    })?;
    let held = all.into_iter().filter(|entry| entries::may_hold(entry, &agent)).map(|entry| Entry {
        id: entry.id,
        name: entry.name.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        launch_by: entry.launch_by,
    });
    Ok(EntriesResponse { entries: held.collect() })
}

/// The reader has this one already. Any doubt sends it: who reads judges the order anyway.
fn is_held(signed: &SignedSnapshot, held: &SnapshotsRequest) -> bool {
    Snapshot::parse(&signed.payload)
        .is_ok_and(|snapshot| snapshot.epoch == held.epoch && snapshot.sequence <= held.sequence)
}
