//! What is recorded: one enum, and the envelope in which its exact bytes are hashed.

use countersign_identity::{DecisionId, SpiffeId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::{calls::CallBatch, chain::BootId};

/// One event as it is written: its JSON bytes are what every hash covers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Schema of `event`; [`SCHEMA_VERSION`] for what this release writes.
    pub v: u16,
    /// Who wrote it.
    pub writer: SpiffeId,
    /// Which start of the writer.
    pub boot: BootId,
    /// From 1 within `boot`, without a gap.
    pub sequence: u64,
    /// The writer's clock, milliseconds.
    pub at: UnixTime,
    /// What happened.
    pub event: Event,
}

/// Everything that the ledger can say. A kind is never renamed and never changes its meaning; a field may
/// be added when its absence has a meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The authority came up on an existing or a new state.
    AuthorityStarted {
        /// Version of the program.
        version: String,
        /// Epoch of its snapshots.
        epoch: String,
    },
    /// A writer other than the authority came up.
    WriterStarted {
        /// Version of the program.
        version: String,
    },
    /// Figure 3.1, step 1: a credential that is good for enrolling and nothing else.
    BootstrapCredentialIssued {
        /// Public name of the credential, never its secret.
        credential: String,
        /// For which node, where it is bound to one.
        node: Option<SpiffeId>,
        /// When it stops being accepted.
        expires: UnixTime,
    },
    /// Figure 3.1, step 2: a workload asked for its identity, at start or at rotation.
    EnrolmentRequested {
        /// The identity that was asked for.
        spiffe_id: SpiffeId,
        /// The agent that attested the workload.
        agent: Option<SpiffeId>,
        /// What the agent saw of the process.
        attestation: String,
    },
    /// Figure 3.1, step 3: a certificate signing request for the workload's own key.
    CsrBuilt {
        /// The identity it is for.
        spiffe_id: SpiffeId,
        /// RFC 7638 thumbprint of the public key.
        key: String,
    },
    /// Figure 3.1, step 4: the CA signed.
    CertificateSigned {
        /// The identity in it.
        spiffe_id: SpiffeId,
        /// Serial number, lower-case hex.
        serial: String,
        /// RFC 7638 thumbprint of the public key.
        key: String,
        /// Which profile of `pki`.
        profile: String,
        /// Who asked: an agent, or an administrator (`uid:0`).
        requested_by: String,
        /// End of its validity.
        not_after: UnixTime,
    },
    /// Figure 3.1, step 5: the chain was handed to the workload.
    CertificateDelivered {
        /// The identity in it.
        spiffe_id: SpiffeId,
        /// Serial number, lower-case hex.
        serial: String,
    },
    /// A certificate must no longer be accepted.
    CertificateRevoked {
        /// Whose it was.
        spiffe_id: SpiffeId,
        /// Serial number, lower-case hex.
        serial: String,
        /// RFC 5280 reason, as in the CRL.
        reason: String,
        /// Who revoked it.
        revoked_by: String,
    },
    /// A numbered CRL was signed.
    CrlPublished {
        /// crlNumber.
        number: u64,
        /// How many certificates are on it.
        entries: u64,
        /// Its nextUpdate.
        next_update: UnixTime,
    },
    /// A process took in a CRL, and from now on refuses what it lists.
    RevocationReceived {
        /// crlNumber.
        number: u64,
        /// Open connections that were cut because of it.
        connections_cut: u64,
    },
    /// A snapshot of trust and policies was signed.
    SnapshotPublished {
        /// Its epoch.
        epoch: String,
        /// Its number within the epoch.
        sequence: u64,
    },
    /// A join token was used.
    NodeJoined {
        /// The agent's new identity.
        agent: SpiffeId,
        /// Serial number of its certificate, lower-case hex.
        serial: String,
        /// Public name of the join token.
        credential: String,
    },
    /// A registration entry was made or changed.
    ServiceRegistered {
        /// Its short name.
        name: String,
        /// Its identity.
        spiffe_id: SpiffeId,
        /// Who did it.
        registered_by: String,
    },
    /// A user was made.
    UserAdded {
        /// Pseudonym.
        user: String,
        /// Roles given.
        roles: Vec<String>,
        /// Who did it.
        added_by: String,
    },
    /// A user got a new password, which also unlocks the account.
    PasswordChanged {
        /// Pseudonym.
        user: String,
        /// Who did it.
        changed_by: String,
    },
    /// Somebody tried to log in.
    Login {
        /// Pseudonym; of an unknown name there is none.
        user: Option<String>,
        /// Address of the client, where it is known.
        address: Option<String>,
        /// How it ended.
        outcome: LoginOutcome,
    },
    /// Somebody called the authority's API.
    AdminCall {
        /// `METHOD /api/v1/…` with the path as a template.
        route: String,
        /// Who: `uid:0`, a SPIFFE ID, a pseudonym, or `stranger`.
        actor: String,
        /// Whether it was allowed.
        verdict: Verdict,
        /// Id under which `explain` finds it.
        decision: DecisionId,
    },
    /// Policies were replaced.
    PolicyChanged {
        /// The new generation.
        generation: u64,
        /// SHA-256 over the files, lower-case hex.
        digest: String,
        /// Who did it.
        changed_by: String,
    },
    /// A token was minted.
    TokenMinted {
        /// Its media type, for example `txntoken+jwt`.
        typ: String,
        /// Its `jti`, or `txn` where it has none.
        id: String,
        /// Pseudonym of the user.
        user: String,
        /// End of its validity.
        expires: UnixTime,
    },
    /// A token with which a workload proves itself was issued.
    WorkloadTokenIssued {
        /// `wit`, `jwt-svid`, `bearer`, `macaroon` or `discharge`.
        what: String,
        /// Its public id.
        id: String,
        /// Whom it speaks for.
        owner: SpiffeId,
        /// Where it counts; empty where it says nothing about that.
        audience: Vec<String>,
        /// Who had it issued: an agent, or an administrator.
        issued_by: String,
        /// The token whose place it takes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<String>,
        /// End of its validity.
        expires: UnixTime,
    },
    /// A key was registered for a workload, so that its proofs need no certificate.
    WorkloadKeyRegistered {
        /// Whose key.
        owner: SpiffeId,
        /// RFC 7638 thumbprint.
        kid: String,
        /// `signing` or `encryption`.
        purpose: String,
        /// Who did it.
        registered_by: String,
    },
    /// A registered key was withdrawn.
    WorkloadKeyWithdrawn {
        /// Whose key.
        owner: SpiffeId,
        /// RFC 7638 thumbprint.
        kid: String,
        /// Who did it.
        withdrawn_by: String,
    },
    /// A public key for verifying internal tokens was published.
    TokenKeyPublished {
        /// Whose key.
        owner: SpiffeId,
        /// RFC 7638 thumbprint.
        kid: String,
    },
    /// A service got other modes.
    ModesChanged {
        /// Short name.
        service: String,
        /// What it accepts now.
        accepts: Vec<String>,
        /// What it sends now.
        sends: String,
        /// How it carries its user along.
        user_context: String,
        /// Set where its floor was lowered: until when.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lowered_until: Option<UnixTime>,
        /// Who did it.
        changed_by: String,
    },
    /// Something was taken back before it expired.
    TokenRevoked {
        /// What `id` names: `token`, `user` or `key`.
        what: String,
        /// `jti`, pseudonym of the user, or `kid`.
        id: String,
        /// Who did it.
        revoked_by: String,
    },
    /// A token was exchanged for another one.
    TokenExchanged {
        /// Who asked, and now holds it.
        client: SpiffeId,
        /// Pseudonym of the user whom both tokens speak of, or the SPIFFE ID of a workload.
        subject: String,
        /// Type that was issued, without its `urn:ietf:params:oauth:token-type:`.
        issued: String,
        /// For whom.
        audience: String,
        /// `jti` of the new token, or `txn` where it has none.
        id: String,
        /// Workloads that acted for the subject so far, the first one first.
        actors: Vec<String>,
        /// End of its validity.
        expires: UnixTime,
        /// The policy that permitted it.
        policy: String,
    },
    /// Another trust domain is recognised by another bundle, or no longer.
    FederationChanged {
        /// Which.
        trust_domain: String,
        /// Number of its bundle; `None` if it is recognised no longer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sequence: Option<u64>,
        /// Who did it.
        changed_by: String,
    },
    /// A request was decided.
    Decision(Box<Decision>),
    /// Requests were decided, all of them allowed: the [`Event::Decision`]s of up to a second, packed.
    AllowedCalls(Box<CallBatch>),
    /// Refusals before authentication, counted; the first of each kind is a [`Event::Decision`] as well.
    Refusals {
        /// Address (IPv6: its /64), or `others` where the table was full.
        address: String,
        /// Where they were refused.
        stage: Stage,
        /// Public error code.
        code: String,
        /// Start of the minute.
        minute: UnixTime,
        /// How many, including the one that is recorded in full.
        count: u64,
    },
    /// Records of a writer that are missing, with the writer's own numbers. Written by the authority, of those that
    /// never arrived; by a writer without an authority, of those that made room for newer ones.
    Gap {
        /// Whose records.
        writer: SpiffeId,
        /// Of which start.
        boot: BootId,
        /// First missing sequence.
        missing_from: u64,
        /// Last missing sequence.
        missing_to: u64,
    },
    /// Calls that the writer could not record, because its spool was full or the disk refused. They have no
    /// sequence.
    Dropped {
        /// How many.
        count: u64,
        /// Time of the first.
        since: UnixTime,
        /// Time of the last.
        until: UnixTime,
    },
    /// An earlier start of the writer was killed. Calls that it allowed in the second before, after its last record,
    /// may be missing. They have no sequence.
    EndedAbruptly {
        /// Which start.
        boot: BootId,
    },
    /// The clock of the writer went back. Nothing that had expired is revived by it.
    ClockSteppedBack {
        /// By how much.
        by_ms: u64,
    },
    /// An agent saw a head that does not continue the one it kept.
    LedgerAlarm {
        /// What is wrong, as [`crate::head::HeadMismatch`] says it.
        finding: String,
    },
}

/// One decided request: everything that `explain` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Given to the caller with a refusal.
    pub id: DecisionId,
    /// Allowed or denied.
    pub verdict: Verdict,
    /// The stage that denied; for an allowed request the last one that was passed.
    pub stage: Stage,
    /// Full SPIFFE ID of the calling workload, if it proved one.
    pub source: Option<String>,
    /// Name or SPIFFE ID of who was called.
    pub target: String,
    /// HTTP method; empty when the connection was refused before a request.
    pub method: String,
    /// Route template, never a path with values or a query.
    pub route: String,
    /// Pseudonym of the user, if one was proven.
    pub user: Option<String>,
    /// What was verified of the caller: `none`, `mtls`, …
    pub mode: String,
    /// Every check, also those that were not reached.
    pub checks: Vec<CheckRecord>,
    /// Id of the policy that decided.
    pub policy: Option<String>,
    /// Public error code of a refusal.
    pub code: Option<String>,
    /// The facts behind the code: for operators only.
    pub reason: Option<String>,
    /// What to change.
    pub fix: Option<String>,
    /// HTTP status of the answer; 0 when the connection was refused.
    pub status: u16,
    /// From the request's head to the answer's head, microseconds.
    pub latency_us: u64,
    /// Connection on which it came.
    pub connection: Option<String>,
    /// Address of the peer.
    pub peer: Option<String>,
    /// W3C trace id (32 lower-case hex digits) that joins the hops of one call; the edge makes one where the client
    /// sent none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// One check of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckRecord {
    /// For example `usage`, `validity`, `chain`, `revocation`, `identity`, `token`, `policy`.
    pub name: String,
    /// How it went.
    pub result: CheckResult,
    /// Why, or what was compared; empty when not reached.
    #[serde(default)]
    pub detail: String,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// It held.
    Pass,
    /// It did not hold.
    Fail,
    /// An earlier one failed first.
    NotReached,
}

/// Allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

/// Where a request was when it was decided, in the order in which the stages run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// TLS handshake.
    Transport,
    /// Reading the request in exactly one way.
    Request,
    /// Rate limits.
    Quota,
    /// Who is the workload.
    Identity,
    /// Who is the user.
    Token,
    /// May they.
    Policy,
    /// The service behind.
    Upstream,
}

/// How a login ended. What the person sees is one and the same for all failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginOutcome {
    /// A token was given.
    Accepted,
    /// Wrong password.
    WrongPassword,
    /// No such account.
    UnknownUser,
    /// Too many consecutive failures on the account.
    Locked,
    /// Too many attempts from the address.
    Throttled,
    /// The queue for password hashing was full.
    Busy,
}

macro_rules! words {
    ($type:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word used in JSON, in tables and as a metric label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(CheckResult { Pass => "pass", Fail => "fail", NotReached => "not_reached" });
words!(Verdict { Allow => "allow", Deny => "deny" });
words!(Stage {
    Transport => "transport",
    Request => "request",
    Quota => "quota",
    Identity => "identity",
    Token => "token",
    Policy => "policy",
    Upstream => "upstream",
});
words!(LoginOutcome {
    Accepted => "accepted",
    WrongPassword => "wrong_password",
    UnknownUser => "unknown_user",
    Locked => "locked",
    Throttled => "throttled",
    Busy => "busy",
});

impl Entry {
    /// The decisions about requests that it tells of, each with its time: one, those of a batch, or none.
    pub fn decisions(&self) -> Vec<(UnixTime, Decision)> {
        match &self.event {
            Event::Decision(decision) => vec![(self.at, (**decision).clone())],
            Event::AllowedCalls(batch) => batch.calls().map(|call| (call.at, call.decision())).collect(),
            _ => Vec::new(),
        }
    }
}

impl From<CallBatch> for Event {
    fn from(batch: CallBatch) -> Self {
        Self::AllowedCalls(Box::new(batch))
    }
}

impl Event {
    /// Must it be on disk before the answer leaves? Only allowed calls may wait for the next batch.
    pub fn is_durable_at_once(&self) -> bool {
        match self {
            Self::Decision(decision) => decision.verdict == Verdict::Deny,
            Self::AllowedCalls(_) => false,
            _ => true,
        }
    }

    /// The decision id under which `explain` finds it; those of [`Event::AllowedCalls`] are in its rows.
    pub fn decision(&self) -> Option<&DecisionId> {
        match self {
            Self::Decision(decision) => Some(&decision.id),
            Self::AdminCall { decision, .. } => Some(decision),
            _ => None,
        }
    }
}

impl Decision {
    /// The same decision with bounded texts: it fits [`crate::chain::EVENT_BYTES_MAX`] whatever strangers sent.
    pub(crate) fn shortened(&self) -> Self {
        let maybe = |text: &Option<String>| text.as_deref().map(shorten);
        let check = |check: &CheckRecord| CheckRecord {
            name: shorten(&check.name),
            result: check.result,
            detail: shorten(&check.detail),
        };
        Self {
            id: self.id,
            verdict: self.verdict,
            stage: self.stage,
            source: maybe(&self.source),
            target: shorten(&self.target),
            method: shorten(&self.method),
            route: shorten(&self.route),
            user: maybe(&self.user),
            mode: shorten(&self.mode),
            checks: self.checks.iter().take(CHECKS_MAX).map(check).collect(),
            policy: maybe(&self.policy),
            code: maybe(&self.code),
            reason: maybe(&self.reason),
            fix: maybe(&self.fix),
            status: self.status,
            latency_us: self.latency_us,
            connection: maybe(&self.connection),
            peer: maybe(&self.peer),
            trace: maybe(&self.trace),
        }
    }
}

/// The beginning of a text, marked as cut. What JSON would write longer than it is becomes `?`.
fn shorten(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() || matches!(c, '"' | '\\') { '?' } else { c });
    let mut short = String::with_capacity(TEXT_BYTES_MAX);
    for c in plain {
        if short.len() + c.len_utf8() > TEXT_BYTES_MAX {
            short.push('…');
            break;
        }
        short.push(c);
    }
    short
}

/// Schema that this release writes.
pub const SCHEMA_VERSION: u16 = 1;
const TEXT_BYTES_MAX: usize = 200;
const CHECKS_MAX: usize = 16;
