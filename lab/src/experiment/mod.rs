//! The thesis's missing chapter: what each way to prove who is calling costs, measured.
//!
//! A run starts a deployment of its own, with a chain of relay services for each mode, all alive at once. Trials then go
//! through the arms in blocks: each block has every arm once, in random order, so that whatever the machine does meanwhile
//! it does to all arms alike. An arm is held against its base within each block ([`statistics`]).
//!
//! A trial counts only if the callees saw what its arm says ([`claims`]): mode, user, connections, handshakes, group.
//! Figures of a run in which one claim does not hold mean nothing, and the run fails.
//!
//! What is left at the end is [`data::Experiment`]; the chapter is a pure function of it.

pub mod claims;
pub mod data;
pub mod statistics;

pub use data::Experiment;

#[cfg(test)]
pub(crate) mod testing {
    use super::data::{CarriedUser, Connections, Errors, Factors, LabMode, Latency, Trial};

    /// A mode at the base of everything else.
    pub(crate) fn factors(mode: LabMode) -> Factors {
        Factors {
            mode,
            signing: None,
            wimse: None,
            user: CarriedUser::None,
            connections: Connections::Kept,
            edges: 2,
            payload_bytes: 100,
            post_quantum: true,
        }
    }

    /// A trial of which only the median latency counts.
    pub(crate) fn trial(arm: &str, block: u32, p50_us: f64) -> Trial {
        Trial {
            block,
            position: 1,
            arm: arm.to_owned(),
            seconds: 1.0,
            requests: 1000,
            errors: Errors::default(),
            latency_us: Latency { p50: p50_us, ..Latency::default() },
            processes: Vec::new(),
            edges: Vec::new(),
            claims: Vec::new(),
        }
    }
}
