//! An attacker in the box: what can somebody with X do, as an observation and not as a claim.
//!
//! Each [`Attack`] says what its attacker holds ([`Position`]), does what it says over real sockets, and names the
//! [`Guard`] that ought to stop it with the signs by which that guard, and no other, is known. "It did not work" is no
//! verdict: a timeout, a 404 or a refused connection is [`Verdict::Inconclusive`], and that is a failure. So is an attack
//! whose honest twin, the same request without the one thing that is wrong with it, is not believed.
//!
//! Whether an attack could succeed at all is shown each time by its control: the same function against a listener that
//! makes the one mistake ([`crate::weak`]) must succeed, and against the same listener without it must be blocked.
//!
//! ```
//! use countersign_lab::attack;
//! let stolen = attack::named("stolen-token").map(|attack| attack.guard.home);
//! assert_eq!(stolen, Some("sdk/src/authenticate/service_token.rs"));
//! ```

mod accounts;
mod administration;
mod credentials;
mod edge;
mod floods;
mod forge;
pub(crate) mod grpc;
mod hands;
mod handshakes;
mod ledger;
mod news;
mod nodes;
mod observation;
mod run;
mod service_tokens;
pub mod specimen;
mod target;
mod user_tokens;
mod wire;
mod workload_identity;
mod workloads;

use std::pin::Pin;

use countersign_wire::codes::Code;
pub use rustls::AlertDescription;
use serde::Serialize;

pub(crate) use forge::Ca;
pub use hands::{Held, Kind, Why};
pub use observation::{Observation, Received, Verdict};
pub use run::{Control, Finding, GuardSeen, Report, run};
pub use target::{Asked, ForeignTarget, Given, Live, Settings, Target, witness};
pub(crate) use target::{CALLEE, News};
pub use wire::{Broken, Connection, Dial, Exchanged, Reply, Request};

use crate::weak::Weakness;

/// One attack.
pub struct Attack {
    /// By what it is called on the command line, and its heading in `docs/mistakes.md`.
    pub name: &'static str,
    /// What it tries, in one sentence without a full stop.
    pub title: &'static str,
    /// Requirements, standards and advisories that it comes from.
    pub from: &'static [&'static str],
    /// What the attacker holds.
    pub position: Position,
    /// What stops it.
    pub guard: Guard,
    /// Must it wait for something, such as the end of a certificate? Then it runs beside the others.
    pub waits: bool,
    /// Does it.
    pub run: Run,
}

/// The attack itself: prepares what its position has, sends, and tells what came back.
pub type Run = for<'a> fn(&'a Target) -> Doing<'a>;

/// An attack on its way.
pub type Doing<'a> = Pin<Box<dyn Future<Output = Result<Observation, AttackError>> + 'a>>;

/// What an attacker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// Reaches the port, and nothing else.
    Stranger,
    /// Has an account, and its access token.
    User,
    /// Runs one of the services: its certificate and its keys.
    Service,
    /// Has a copy of what somebody else sent.
    Thief,
    /// Sits between two services, and changes what passes.
    Proxy,
    /// Was a service, until its certificate ended or was taken back.
    Former,
    /// Runs a program on the same machine.
    Neighbour,
    /// Can write where the deployment keeps its files.
    Insider,
}

/// What stops an attack, and how it is known that it was this that stopped it.
pub struct Guard {
    /// In a few words.
    pub what: &'static str,
    /// The file whose type or function it is.
    pub home: &'static str,
    /// Each is enough.
    pub signs: &'static [Sign],
    /// The mistake that lets the attack through: for the control.
    pub weakness: Weakness,
}

/// By what a guard is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sign {
    /// The handshake ended with this alert.
    Alert(AlertDescription),
    /// The refusal has this code.
    Code(Code),
    /// The refusal has this code, and its reason says so.
    Said(Code, &'static str),
    /// The attack looked at something itself, and it holds.
    Fact,
}

/// Why an attack could not be made. It says nothing about the target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttackError {
    /// The attacker could not be given what its position has.
    #[error("the attacker could not be equipped: {what}: {why}")]
    Equipment {
        /// With what.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The same request with nothing wrong with it was not believed: then nothing follows from a refusal.
    #[error("the honest twin of the attack was refused: {answer}")]
    HonestRefused {
        /// What came back.
        answer: String,
    },
    /// No connection on which to attack.
    #[error("no connection to {what}: {why}")]
    NoConnection {
        /// To whom.
        what: String,
        /// Why not.
        why: String,
    },
    /// Not ours to attack.
    #[error(transparent)]
    Foreign(#[from] ForeignTarget),
    /// The victim asks for something else than mutual TLS.
    #[error(
        "{service} accepts {accepts}, and the honest twins of the attacks prove themselves by mutual TLS: attack it in mode mtls"
    )]
    OtherFloor {
        /// Who.
        service: String,
        /// What it accepts.
        accepts: String,
    },
    /// This target has no such part.
    #[error("this target has no {what}")]
    Absent {
        /// Which.
        what: &'static str,
    },
}

impl AttackError {
    /// What the position lacks, and why.
    pub fn equipment(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Equipment { what, why: why.to_string() }
    }
}

/// Every attack, in the order in which they are told.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    let families: [&'static [Attack]; 13] = [
        handshakes::ATTACKS,
        service_tokens::ATTACKS,
        user_tokens::ATTACKS,
        credentials::ATTACKS,
        workload_identity::ATTACKS,
        edge::ATTACKS,
        floods::ATTACKS,
        accounts::ATTACKS,
        workloads::ATTACKS,
        nodes::ATTACKS,
        news::ATTACKS,
        administration::ATTACKS,
        ledger::ATTACKS,
    ];
    families.into_iter().flatten()
}

/// The attack of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Attack> {
    all().find(|attack| attack.name == name)
}

/// Where an attack is told.
#[must_use]
pub fn doc(name: &str) -> String {
    format!("docs/mistakes.md#{name}")
}

impl Position {
    /// As it stands in a listing.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::User => "user",
            Self::Service => "service",
            Self::Thief => "thief",
            Self::Proxy => "proxy",
            Self::Former => "former",
            Self::Neighbour => "neighbour",
            Self::Insider => "insider",
        }
    }
}
