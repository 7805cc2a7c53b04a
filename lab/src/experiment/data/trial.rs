//! What was counted in a trial, and what is computed of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::exact;

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

/// Shares of all answers, in microseconds, from the first byte sent to the last byte read by the load generator. `wrk`
/// corrects them for coordinated omission: an answer that took longer than a connection's average counts several times, as
/// for the requests that would have waited behind it.
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
    /// Handshakes and connections that began in the trial.
    pub handshakes: Handshakes,
    /// And since the callee began: of connections that are kept, this alone tells what they are.
    pub handshakes_ever: Handshakes,
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

    /// Of how many answers at least one is slower: with fewer there is no such percentile, only the slowest answer.
    #[must_use]
    pub const fn answers_min(self) -> u64 {
        match self {
            Self::P50Us => 2,
            Self::P95Us => 20,
            Self::P99Us => 100,
            Self::P999Us => 1000,
            Self::RequestsPerSecond | Self::CpuUsPerRequest | Self::BytesPerRequest | Self::PssKib => 1,
        }
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
