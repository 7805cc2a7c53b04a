//! A listener that makes mistakes on purpose, one [`Weakness`] at a time: what the attacks are controlled with.
//!
//! With no weakness it refuses what it should, by the rules of `pki` and `token`. With one of them it does what so many
//! have done: each is the mistake itself, written as it is found in the wild, and not a switch that says "let it pass".
//! It has a CA of its own, listens on loopback ports that the system chose, and ends when it is dropped. Nothing that a
//! service links can name it.

mod accounts;
mod administration;
mod door;
mod edge;
mod holder;
mod house;
mod listener;
mod news;
mod nodes;
mod pki;
mod token;
mod wimse;
mod workloads;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_sdk::{clock, inbound::new_decision_id};
use countersign_token::AccessToken;
use countersign_wire::codes::Code;
pub(crate) use token::public_key_pem;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::attack::{AttackError, Ca, Held, Kind, Why};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weakness {
    /// A client certificate is welcome, and not demanded.
    NoCertificateDemanded,
    /// Whoever signed the certificate will do.
    AnyIssuer,
    /// Every root that is trusted at all is trusted for whichever trust domain a certificate names.
    OnePoolOfRoots,
    /// Key usage, extended key usage and basic constraints are not looked at.
    AnyPurpose,
    /// Nobody looks at the clock when a certificate comes.
    AnyAge,
    /// The certificate is read, and the signature of its key is not.
    NoPossession,
    /// No revocation list is asked.
    NoRevocation,
    /// The first of several names counts.
    FirstNameCounts,
    /// Old clients are let in.
    OldTls,
    /// Plain HTTP is served where TLS is spoken.
    PlainHttp,
    /// An open connection is judged once, when it begins.
    ConnectionForEver,

    /// `alg` decides how a token is verified, and "none" is an algorithm.
    AlgNone,
    /// `alg` decides what the key is: of HS256, the public key is the secret.
    PublicKeyAsSecret,
    /// The token brings the key along with which it is verified.
    KeyFromHeader,
    /// `alg` is not read: whatever it says, the key verifies as it can.
    AnyAlgorithm,
    /// `kid` names a file, and where that holds no key, the one at hand will do.
    KidNamesAFile,
    /// Members of the header that nobody understands are skipped, `crit` among them.
    SkipsUnknownHeaders,
    /// The signature is decoded, and not verified.
    UnverifiedSignature,
    /// Of two members with one name the last one counts.
    LastMemberCounts,
    /// Tokens of any length are read.
    AnyLength,
    /// A claim of the wrong type is as good as none, and what is not there is not checked.
    WrongTypeIsAbsent,
    /// `typ` is not looked at: whoever's signature verifies may come in.
    AnyKind,
    /// The signature is good, so `iss` must be true.
    IssuerUnchecked,
    /// Token and connection may name different callers (D2).
    TokenOfAnybody,
    /// What once signed goes on signing (D3).
    SignerForEver,
    /// `aud` is not looked at.
    AnyAudience,
    /// `exp` is not looked at.
    NeverExpires,
    /// `iat` and `nbf` are not looked at.
    FromTheFuture,
    /// A token may live as long as it likes.
    AnyLifetime,
    /// Nothing is remembered of what was seen.
    NoMemory,
    /// The token says for which connection it is, and nobody compares.
    AnyConnection,
    /// Nor for which method.
    AnyMethod,
    /// Nor for which path and query.
    AnyTarget,
    /// Nor with which body.
    AnyBody,

    /// Whoever has no token is let in as a guest.
    TokenOptional,
    /// A token in the query will do.
    TokenInQuery,
    /// Where two headers have one name, the last one counts.
    LastHeaderCounts,
    /// Where two kinds of evidence come, the one that holds counts.
    BestEvidenceCounts,
    /// A header says who the user is.
    UserByHeader,
    /// Whatever a service passes on about a user is believed.
    UserContextBelieved,

    /// A bearer token is found by its id, and nothing else of it is compared.
    BearerByItsId,
    /// A bearer token counts wherever it is shown.
    BearerAnywhere,
    /// Nobody looks whether a bearer token was taken back.
    BearerForEver,
    /// Caveats are read by those who wrote them, and by nobody else.
    CaveatsSkipped,
    /// The caveats are met, so the MACs must fit.
    MacUnchecked,
    /// A macaroon counts wherever it is shown.
    MacaroonAnywhere,
    /// Whoever has a workload identity token is whom it names.
    WitIsEnough,
    /// A proof is read, and not verified.
    ProofUnverified,
    /// A proof counts beside any workload identity token.
    AnyWitOfProof,
    /// A proof counts wherever it is shown.
    AnyTargetOfProof,
    /// `X_User` and `X.User` are read as `X-User`, as CGI does.
    AliasesCount,
    /// `Connection` may delete any header, also those that a proxy sets itself.
    ConnectionDeletes,
    /// A header says by which method the request is meant.
    MethodByHeader,
    /// Of two statements about the length of a body, one counts.
    EitherLength,
    /// Header lines are read as kindly as they can be.
    KindLines,
    /// Heads of any length are read.
    AnyHead,
    /// A path is repaired before rules look at it.
    PathRepaired,
    /// Of two hosts, one counts.
    EitherHost,
    /// Once connected, any host may be asked for.
    AnyHost,
    /// A connection may become a tunnel.
    Tunnels,
    /// Every origin may read the answers.
    AnyOrigin,
    /// HTTP/2 frames are taken as they come, however many.
    AnyFrames,

    /// A password may be guessed as often as one likes.
    AnyNumberOfLogins,
    /// The address of a client is what a header says.
    AddressByHeader,
    /// An account is never closed.
    NoLockout,
    /// The answer tells whether there is such an account.
    UnknownUserIsTold,
    /// So does the time that it takes.
    UnknownUserIsQuick,
    /// An access token is good until it expires, whatever has become of it.
    AccessTokensForEver,
    /// Whoever is known is an administrator.
    EverybodyAdministers,
    /// A private address is proof enough for an administrator.
    LoopbackAdministers,

    /// A token for joining is good until it expires.
    JoinsForEver,
    /// Any certificate of the deployment may speak for a node.
    AnyServiceIsAnAgent,
    /// A node gets a certificate for whichever name it asks for.
    AgentNamesAnybody,
    /// The names in a certificate request end up in the certificate.
    RequestNamesItself,
    /// Whoever reaches the socket is meant to.
    NoWorkloadHeader,
    /// Whoever reaches the socket is a service.
    AnyProcess,
    /// Whoever reaches the socket may launch.
    AnybodyLaunches,

    /// A snapshot is taken as it comes.
    UnsignedSnapshot,
    /// Whatever was once signed is news.
    AnySnapshot,
    /// A snapshot counts until the next one comes.
    SnapshotForEver,
    /// So does a revocation list.
    ListForEver,
    /// It is as late as the clock of the machine says.
    ClockBelieved,

    /// The ledger is a list of events.
    LedgerIsAList,
    /// The head of the ledger is kept beside it, and nowhere else.
    HeadBesideTheLedger,
}

/// A service that accepts mutual TLS, with tokens beside it, and an edge for users, both in one process.
pub struct Weak {
    weaknesses: Vec<Weakness>,
    trust_domain: TrustDomain,
    pki: pki::Authority,
    /// Signs access tokens.
    login_key: KeyPair,
    seen: Mutex<Vec<String>>,
    told: Mutex<Told>,
    holders: holder::Holders,
    service: SocketAddr,
    edge: SocketAddr,
    callee: SocketAddr,
    house: house::House,
    _stop: DropGuard,
}

/// What was refused, and why, for `explain`.
#[derive(Default)]
struct Told {
    by_decision: HashMap<String, Why>,
    by_address: HashMap<SocketAddr, Why>,
}

/// Why there is no listener.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} could not be made: {why}")]
pub struct NoListener {
    /// What.
    pub what: &'static str,
    /// Why not.
    pub why: String,
}

impl NoListener {
    fn new(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self { what, why: why.to_string() }
    }
}

impl Weak {
    /// Listens on three loopback ports.
    ///
    /// # Errors
    /// No port, or no keys.
    pub async fn start(weaknesses: &[Weakness]) -> Result<Arc<Self>, NoListener> {
        let trust_domain =
            TrustDomain::parse("weak.test").map_err(|error| NoListener::new("a trust domain", error))?;
        let login_key = KeyPair::generate(&SystemRandom::new());
        let (service, edge, callee) =
            (listener::bind().await?, listener::bind().await?, listener::bind().await?);
        let address = |bound: &tokio::net::TcpListener| {
            bound.local_addr().map_err(|error| NoListener::new("a port", error))
        };
        let (house, doors) = house::House::open().await?;
        let stop = CancellationToken::new();
        let weak = Arc::new(Self {
            weaknesses: weaknesses.to_vec(),
            pki: pki::Authority::new(&trust_domain)?,
            trust_domain,
            login_key: login_key.map_err(|error| NoListener::new("a key", error))?,
            seen: Mutex::default(),
            told: Mutex::default(),
            service: address(&service)?,
            edge: address(&edge)?,
            callee: address(&callee)?,
            holders: holder::Holders::new()?,
            house,
            _stop: stop.clone().drop_guard(),
        });
        let roles = [listener::Role::Service, listener::Role::Edge, listener::Role::Callee];
        for (listener, role) in [service, edge, callee].into_iter().zip(roles) {
            // The listener must not keep alive whose end stops it.
            tokio::spawn(listener::serve(listener, role, Arc::downgrade(&weak), stop.clone()));
        }
        doors.serve(&weak, &stop);
        Ok(weak)
    }

    /// Is this mistake made?
    #[must_use]
    pub fn makes(&self, weakness: Weakness) -> bool {
        self.weaknesses.contains(&weakness)
    }

    /// Whose listener it is.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where the service is.
    #[must_use]
    pub const fn service(&self) -> SocketAddr {
        self.service
    }

    /// Where the edge is.
    #[must_use]
    pub const fn edge(&self) -> SocketAddr {
        self.edge
    }

    /// Where bearer tokens and macaroons are taken.
    #[must_use]
    pub const fn callee(&self) -> SocketAddr {
        self.callee
    }

    /// A certificate for `service`.
    ///
    /// # Errors
    /// It could not be made.
    pub fn certified(&self, service: &str, kind: Kind, life: Duration) -> Result<Held, AttackError> {
        self.pki.certified(&self.name(service)?, kind, life, clock::now())
    }

    /// One that ended a while ago.
    ///
    /// # Errors
    /// It could not be made.
    pub fn expired(&self, service: &str) -> Result<Held, AttackError> {
        let then = clock::now().saturating_sub(Duration::from_secs(3600));
        self.pki.certified(&self.name(service)?, Kind::Workload, Duration::from_secs(60), then)
    }

    /// Its own CA, for certificates as it would never issue them.
    ///
    /// # Errors
    /// It could not be made.
    pub(crate) fn ca(&self) -> Result<Ca, AttackError> {
        self.pki.ca()
    }

    /// Puts it on the list.
    ///
    /// # Errors
    /// The list could not be made.
    pub fn revoke(&self, held: &Held) -> Result<(), AttackError> {
        self.pki.revoke(held)
    }

    /// An access token for the edge.
    ///
    /// # Errors
    /// It could not be made.
    pub fn user_token(&self, user: &str) -> Result<String, AttackError> {
        let now = clock::now();
        let token = AccessToken {
            issuer: self.issuer(),
            audience: self.audience(),
            user_id: format!("u_{user}"),
            name: user.to_owned(),
            roles: vec!["buyer".to_owned()],
            client_id: "countersign".to_owned(),
            jti: format!("login-of-{user}-at-{}", now.millis()),
            expires: now.saturating_add(Duration::from_secs(600)),
            confirmation: None,
        };
        token.mint(&self.login_key, now).map_err(|error| AttackError::equipment("an access token", error))
    }

    /// The key that verifies access tokens.
    ///
    /// # Errors
    /// It could not be written.
    pub fn published_key(&self) -> Result<serde_json::Value, AttackError> {
        let jwk = serde_json::from_str(&self.login_key.public_key().to_jwk());
        jwk.map_err(|error| AttackError::equipment("the published key", error))
    }

    /// Why a request was refused.
    #[must_use]
    pub fn why(&self, decision: &str) -> Option<Why> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).by_decision.get(decision).cloned()
    }

    /// Why a connection was.
    #[must_use]
    pub fn why_not_connected(&self, peer: SocketAddr) -> Option<Why> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).by_address.get(&peer).cloned()
    }

    fn name(&self, service: &str) -> Result<SpiffeId, AttackError> {
        SpiffeId::service(&self.trust_domain, service)
            .map_err(|error| AttackError::equipment("a name", error))
    }

    fn issuer(&self) -> String {
        format!("https://login.{}", self.trust_domain)
    }

    fn audience(&self) -> String {
        format!("spiffe://{}/countersign/gateway/edge", self.trust_domain)
    }

    /// Remembers why, and gives the id of the decision.
    fn tells(&self, code: Code, reason: &str) -> String {
        let decision = new_decision_id().to_string();
        let why = Why { code: Some(code), reason: reason.to_owned(), decision: Some(decision.clone()) };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.by_decision.len() < TOLD_MAX {
            told.by_decision.insert(decision.clone(), why);
        }
        decision
    }

    fn tells_of_connection(&self, peer: SocketAddr, code: Code, reason: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.by_address.len() < TOLD_MAX {
            told.by_address.insert(peer, Why { code: Some(code), reason, decision: None });
        }
    }

    /// Is this proof new?
    fn is_new(&self, jti: &str) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = seen.len() < TOLD_MAX && seen.iter().all(|known| known != jti);
        if is_new {
            seen.push(jti.to_owned());
        }
        is_new
    }
}

/// It lives as long as one attack.
const TOLD_MAX: usize = 1024;
