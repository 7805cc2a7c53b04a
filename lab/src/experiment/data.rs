//! What an experiment is when it is over: `experiment.json`, of which the chapter is a pure function.
//!
//! Nothing here is rounded and nothing is left out that a reader would need to doubt a figure: each trial with its
//! place in its block, each process with its share, each claim with what was counted.

use std::{collections::BTreeMap, fmt};

use countersign_identity::{Mode, UserContext, WimseProof};
use countersign_keys::Algorithm;
use serde::{Deserialize, Serialize};

/// Format of `experiment.json`; a reader that knows another one must not guess.
pub const FORMAT: u32 = 1;

/// One run of the experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// [`FORMAT`].
    pub format: u32,
    /// Which arms were chosen.
    pub profile: Profile,
    /// When it began: RFC 3339, UTC.
    pub started: String,
    /// How long it took altogether, set-up included, in seconds.
    pub took_s: f64,
    /// How trials were laid out.
    pub design: Design,
    /// On what.
    pub machine: Machine,
    /// Of what.
    pub build: Build,
    /// By what load.
    pub load: Load,
    /// What was compared.
    pub arms: Vec<Arm>,
    /// What one would expect among the arms and does not find, and why.
    pub absent: Vec<Absent>,
    /// Every trial that was counted, in the order in which they ran.
    pub trials: Vec<Trial>,
    /// Each arm against its base, metric by metric. Empty with fewer than three blocks.
    pub effects: Vec<Effect>,
    /// What a run of `--self-check` found about the experiment itself; empty otherwise.
    pub checks: Vec<Check>,
    /// What each mode takes of code and configuration in the flea market.
    pub code: Vec<CodeCount>,
}

impl Experiment {
    /// The arm of this name.
    #[must_use]
    pub fn arm(&self, name: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// The trials of one arm, a block after the other.
    pub fn trials_of<'a>(&'a self, arm: &'a str) -> impl Iterator<Item = &'a Trial> {
        self.trials.iter().filter(move |trial| trial.arm == arm)
    }

    /// The claims that did not hold, each with its trial. Figures of a run with any of them mean nothing.
    pub fn broken_claims(&self) -> impl Iterator<Item = (&Trial, &Claim)> {
        self.trials.iter().flat_map(|trial| {
            trial.claims.iter().filter(|claim| !claim.holds).map(move |claim| (trial, claim))
        })
    }

    /// Did every claim and every check hold?
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken_claims().next().is_none() && self.checks.iter().all(|check| check.holds)
    }
}

/// Which arms a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The missing chapter: main effects around a base, not the full product of all factors.
    Thesis,
    /// A chain of two, one payload, both kinds of connection.
    Quick,
    /// The experiment looks at itself: a null comparison and a planted delay.
    SelfCheck,
    /// Services of somebody else, behind sidecars.
    Target,
}

/// Randomised complete blocks: each block has every arm once, in an order of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// Of the order in each block, and of the resampling.
    pub seed: u64,
    /// How many blocks.
    pub blocks: u32,
    /// Milliseconds that a trial was meant to last; how long each did is told there.
    pub trial_ms: u64,
    /// Milliseconds of load before each trial that nobody counted.
    pub warm_up_ms: u64,
    /// Bootstrap resamples behind each interval.
    pub resamples: u32,
    /// Confidence of every interval, as a share: 0.95.
    pub confidence: f64,
}

/// Where it ran. Everything, load and services alike, shares this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor, as the system names it.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory, in MiB.
    pub memory_mib: u64,
    /// Operating system and its release.
    pub system: String,
    /// Load average of the minute before the first trial, set-up included: above the number of cores, somebody else was
    /// working too.
    pub load_before: f64,
}

/// The program under test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its version.
    pub version: String,
    /// Built without optimisation: its figures say nothing about the program that users run.
    pub debug: bool,
}

/// The load generator: a closed loop, in which a slow answer delays the next request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Its name and version, as it says them.
    pub tool: String,
    /// Requests that are in progress at any time, each on a connection of its own to the head of the chain.
    pub connections: u32,
    /// Threads that it uses.
    pub threads: u32,
}

/// One way to run the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// What sets it apart, in words: `mtls, kept, 2 edges, 100 B`. Unique.
    pub name: String,
    /// The same, to compute with.
    pub factors: Factors,
    /// Which service of somebody else it asks, in a run with [`Profile::Target`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Is it what its name says, or one of the two that test the experiment?
    pub role: Role,
    /// Against which arm it is held: the one that differs in the factor that is asked about.
    pub base: Option<String>,
}

/// Why an arm is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Role {
    /// To be measured.
    Measured,
    /// Its base again under another name, run by the same processes: no difference may be found.
    Twin,
    /// Its base with a delay in the last service of the chain: the delay must be found.
    Planted {
        /// How long, in microseconds.
        delay_us: u64,
    },
}

/// Every factor of the experiment at one level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factors {
    /// How each caller proves itself to the next.
    pub mode: LabMode,
    /// With which algorithm requests are signed, in `jwt` and `mtls+jwt`.
    pub signing: Option<Signing>,
    /// Which proof is sent, in `wimse`. With [`WimseProof::HttpSignature`] method, query and body are bound.
    pub wimse: Option<WimseProof>,
    /// How a user goes along.
    pub user: CarriedUser,
    /// Whether connections between services are kept.
    pub connections: Connections,
    /// Authenticated edges in a row: one more service than that.
    pub edges: u8,
    /// Bytes of each answer; 0 where a service of somebody else answers as it likes.
    pub payload_bytes: u32,
    /// X25519MLKEM768 in the handshake, or X25519 alone.
    pub post_quantum: bool,
}

/// The modes of the product, and one that only the laboratory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabMode {
    /// Plain HTTP, nobody proven.
    None,
    /// The callee proven by its certificate, the caller not.
    Tls,
    /// As the product's.
    Bearer,
    /// As the product's.
    Macaroon,
    /// As the product's.
    Jwt,
    /// As the product's.
    Wimse,
    /// As the product's.
    Mtls,
    /// As the product's.
    #[serde(rename = "mtls+jwt")]
    MtlsJwt,
}

impl LabMode {
    /// All of them, the weakest first.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Tls,
        Self::Bearer,
        Self::Macaroon,
        Self::Jwt,
        Self::Wimse,
        Self::Mtls,
        Self::MtlsJwt,
    ];

    /// What the callee's registration accepts, the caller's sends, and the callee counts as verified. Of callers that
    /// prove nothing the product knows one kind, whatever carries them.
    #[must_use]
    pub const fn verified_as(self) -> Mode {
        match self {
            Self::None | Self::Tls => Mode::None,
            Self::Bearer => Mode::Bearer,
            Self::Macaroon => Mode::Macaroon,
            Self::Jwt => Mode::Jwt,
            Self::Wimse => Mode::Wimse,
            Self::Mtls => Mode::Mtls,
            Self::MtlsJwt => Mode::MtlsJwt,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            other => other.verified_as().as_str(),
        }
    }

    /// Is there a TLS handshake?
    #[must_use]
    pub const fn shakes_hands(self) -> bool {
        !matches!(self, Self::None)
    }

    /// The mode of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl fmt::Display for LabMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// With what requests are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// ECDSA on P-256, by a key that the authority certified: what the product does by itself.
    Es256,
    /// Ed25519, by a key that was registered for the service.
    Ed25519,
    /// RSA of 2048 bits, registered likewise: the form of the thesis.
    Rs256,
}

impl Signing {
    /// Its name in a JWS header.
    #[must_use]
    pub fn jose_name(self) -> &'static str {
        match self {
            Self::Es256 => Algorithm::EcdsaP256,
            Self::Ed25519 => Algorithm::Ed25519,
            Self::Rs256 => Algorithm::RsaPkcs1Sha256,
        }
        .jose_name()
    }
}

/// How a user goes along with each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarriedUser {
    /// Services call for themselves.
    None,
    /// One internal token for all hops (figure 4.2).
    Same,
    /// One from the token service for each hop of each request (figure 4.3).
    PerHop,
    /// Inside the caller's own signed token (section 4.2.2).
    Nested,
}

impl CarriedUser {
    /// What registrations say of it.
    #[must_use]
    pub const fn context(self) -> UserContext {
        match self {
            Self::None | Self::Same => UserContext::Same,
            Self::PerHop => UserContext::PerHop,
            Self::Nested => UserContext::Nested,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            other => other.context().as_str(),
        }
    }
}

/// What becomes of a connection between two services after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connections {
    /// It is used for the next request: one HTTP/2 connection for each edge.
    Kept,
    /// It is closed: each request pays for its own.
    Fresh,
}

impl Connections {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Fresh => "fresh",
        }
    }
}

/// What was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// One arm under load for a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Counted from 1.
    pub block: u32,
    /// Its turn within the block, counted from 1.
    pub position: u32,
    /// [`Arm::name`].
    pub arm: String,
    /// How long the load lasted, in seconds.
    pub seconds: f64,
    /// Answers that came, good or bad.
    pub requests: u64,
    /// What went wrong.
    pub errors: Errors,
    /// How long answers took.
    pub latency_us: Latency,
    /// The processes of the chain, its head first.
    pub processes: Vec<ProcessUse>,
    /// The edges of the chain, from its head on.
    pub edges: Vec<EdgeUse>,
    /// What the arm claims, held against what was counted.
    pub claims: Vec<Claim>,
}

/// Requests without a good answer, as the load generator counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Connections to the head that could not be made.
    pub connect: u64,
    /// Broken while reading.
    pub read: u64,
    /// Broken while writing.
    pub write: u64,
    /// Answers other than 2xx and 3xx.
    pub status: u64,
    /// Too late.
    pub timeout: u64,
}

impl Errors {
    /// All kinds together.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.connect + self.read + self.write + self.status + self.timeout
    }
}

/// Shares of all answers, in microseconds, from the first byte sent to the last byte read by the load generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of them were not slower.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000: of a short trial no more than a handful are slower.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// What a process of the chain spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessUse {
    /// The service that it is.
    pub service: String,
    /// CPU time of all its threads for each request, in microseconds.
    pub cpu_us_per_request: f64,
    /// Memory at the end of the trial, in KiB: shared pages divided by those who share them.
    pub pss_kib: u64,
}

/// What went over one edge, as its callee counted it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeUse {
    /// Who called.
    pub caller: String,
    /// Who was called.
    pub callee: String,
    /// Requests by the mode in which the callee verified the caller.
    pub modes: BTreeMap<String, u64>,
    /// Requests by how the user was proven: `none`, `internal_token`, `hop_token`.
    pub users: BTreeMap<String, u64>,
    /// Handshakes and connections.
    pub handshakes: Handshakes,
    /// Bytes from caller to callee for each request: of TCP's payload, so TLS and HTTP/2 with their handshakes are in
    /// it, and the headers of TCP and IP are not.
    pub bytes_sent_per_request: f64,
    /// Bytes of answers, likewise.
    pub bytes_received_per_request: f64,
}

impl EdgeUse {
    /// Requests altogether.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.modes.values().sum()
    }
}

/// How connections began at one callee.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// Full TLS handshakes in which the caller showed a certificate, by group of the key exchange.
    pub mutual: BTreeMap<String, u64>,
    /// Full TLS handshakes in which it showed none, likewise.
    pub anonymous: BTreeMap<String, u64>,
    /// TLS handshakes that resumed an earlier session.
    pub resumed: u64,
    /// TLS handshakes that failed.
    pub refused: u64,
    /// Connections without TLS.
    pub plain: u64,
}

impl Handshakes {
    /// Connections, however they began.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.full() + self.resumed + self.plain
    }

    /// Full TLS handshakes.
    #[must_use]
    pub fn full(&self) -> u64 {
        self.mutual.values().chain(self.anonymous.values()).sum()
    }
}

/// Something that an arm says of itself, and whether it was so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What is claimed.
    pub claim: ClaimKind,
    /// Was it so?
    pub holds: bool,
    /// What was counted.
    pub counted: String,
}

/// What every trial has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimKind {
    /// Every answer was a good one.
    Answers,
    /// Every request was seen at every edge of the chain.
    Chain,
    /// Every callee verified every caller in the mode of the arm.
    Mode,
    /// Every callee saw the user as the arm carries it along.
    User,
    /// As many connections began as the arm opens, with TLS or without, as the mode has it.
    Connections,
    /// Callers showed a certificate where the mode has one, and nowhere else; no session was resumed.
    Handshakes,
    /// Keys were agreed on in the group of the arm.
    Group,
}

impl ClaimKind {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Chain => "chain",
            Self::Mode => "mode",
            Self::User => "user",
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Group => "group",
        }
    }
}

/// One figure of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Good answers in a second.
    RequestsPerSecond,
    /// Median latency, in microseconds.
    P50Us,
    /// In microseconds.
    P95Us,
    /// In microseconds.
    P99Us,
    /// In microseconds.
    P999Us,
    /// CPU time of all processes of the chain for one request, in microseconds.
    CpuUsPerRequest,
    /// Bytes over all edges of the chain for one request, both ways.
    BytesPerRequest,
    /// Memory of all processes of the chain, in KiB.
    PssKib,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RequestsPerSecond,
        Self::P50Us,
        Self::P95Us,
        Self::P99Us,
        Self::P999Us,
        Self::CpuUsPerRequest,
        Self::BytesPerRequest,
        Self::PssKib,
    ];

    /// Its name, with its unit: as in the JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests_per_second",
            Self::P50Us => "p50_us",
            Self::P95Us => "p95_us",
            Self::P99Us => "p99_us",
            Self::P999Us => "p999_us",
            Self::CpuUsPerRequest => "cpu_us_per_request",
            Self::BytesPerRequest => "bytes_per_request",
            Self::PssKib => "pss_kib",
        }
    }

    /// Is more of it better?
    #[must_use]
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::RequestsPerSecond)
    }

    /// What it was in one trial.
    #[must_use]
    pub fn of(self, trial: &Trial) -> f64 {
        match self {
            Self::RequestsPerSecond => trial.requests_per_second(),
            Self::P50Us => trial.latency_us.p50,
            Self::P95Us => trial.latency_us.p95,
            Self::P99Us => trial.latency_us.p99,
            Self::P999Us => trial.latency_us.p999,
            Self::CpuUsPerRequest => trial.processes.iter().map(|process| process.cpu_us_per_request).sum(),
            Self::BytesPerRequest => {
                let both = |edge: &EdgeUse| edge.bytes_sent_per_request + edge.bytes_received_per_request;
                trial.edges.iter().map(both).sum()
            }
            Self::PssKib => exact(trial.processes.iter().map(|process| process.pss_kib).sum()),
        }
    }
}

impl Trial {
    /// Good answers in a second.
    #[must_use]
    pub fn requests_per_second(&self) -> f64 {
        if self.seconds <= 0.0 {
            return 0.0;
        }
        exact(self.requests.saturating_sub(self.errors.status)) / self.seconds
    }
}

/// An arm against its base in one metric, over all blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// [`Arm::name`].
    pub arm: String,
    /// [`Arm::name`] of what it is held against.
    pub base: String,
    /// In what.
    pub metric: Metric,
    /// Arm divided by base, block by block; the geometric mean and its interval.
    pub ratio: Interval,
    /// Arm minus base, block by block, in the metric's unit; the mean and its interval.
    pub difference: Interval,
}

/// An estimate, and between what it lies with [`Design::confidence`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The best guess.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Is `value` within it, its ends included?
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Have the two any value in common?
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// Something about the experiment itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What has to be so.
    pub name: String,
    /// Is it?
    pub holds: bool,
    /// What was found.
    pub found: String,
}

/// How much one mode takes of a file, counted when the program was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeCount {
    /// For whom.
    pub mode: LabMode,
    /// Of what kind.
    pub kind: CodeKind,
    /// Where: a path of the repository, or the name of a setting.
    pub place: String,
    /// Lines that are neither empty nor comment.
    pub lines: u32,
}

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeKind {
    /// Code of a service.
    Service,
    /// Configuration of a deployment.
    Configuration,
    /// Rules about who may call.
    Policy,
    /// Code of the SDK that no service has to write.
    Sdk,
}

/// No count of an experiment comes near 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) const fn exact(count: u64) -> f64 {
    count as f64
}
