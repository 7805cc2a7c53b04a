//! What an experiment is when it is over: `experiment.json`, of which the chapter is a pure function.
//!
//! Nothing here is rounded and nothing is left out that a reader would need to doubt a figure: each trial with its
//! place in its block, each process with its share, each claim with what was counted.

mod factors;
mod trial;

use serde::{Deserialize, Serialize};

pub use factors::{CarriedUser, Connections, Factors, LabMode, Signing};
pub use trial::{Claim, ClaimKind, EdgeUse, Errors, Handshakes, Latency, Metric, ProcessUse, Trial};

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

/// What was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
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
