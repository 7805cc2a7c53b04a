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

pub mod chains;
pub mod checks;
pub mod claims;
pub mod data;
pub mod deployment;
pub mod design;
pub mod load;
pub mod machine;
pub mod meter;
pub mod processes;
pub mod run;
pub mod sidecars;
pub mod statistics;
pub mod write;

pub use data::Experiment;
pub use run::{Progress, RunError, run};

#[cfg(test)]
pub(crate) mod testing {
    use super::{
        data::{
            Arm, Build, CarriedUser, Connections, Design, Errors, Experiment, FORMAT, Factors, LabMode,
            Latency, Load, Machine, ProcessUse, Profile, Role, Trial,
        },
        statistics,
    };

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

    /// An experiment of two arms in four blocks, `mtls` twice as fast as `none`.
    pub(crate) fn experiment() -> Experiment {
        let arm = |mode: LabMode, base: Option<&str>| Arm {
            name: format!("{mode}, kept"),
            factors: factors(mode),
            service: None,
            role: Role::Measured,
            base: base.map(ToOwned::to_owned),
        };
        let arms = vec![arm(LabMode::None, None), arm(LabMode::Mtls, Some("none, kept"))];
        let process = |service: &str, cpu_us_per_request| ProcessUse {
            service: service.to_owned(),
            cpu_us_per_request,
            pss_kib: 9000,
        };
        let mut trials = Vec::new();
        for block in 1..=4 {
            for (arm, p50_us) in [("none, kept", 400.0), ("mtls, kept", 200.0)] {
                let processes = vec![process("relay-0", 30.0), process("relay-1", 20.5)];
                trials.push(Trial { processes, ..trial(arm, block, p50_us + f64::from(block)) });
            }
        }
        let design =
            Design { seed: 1, blocks: 4, trial_ms: 1000, warm_up_ms: 0, resamples: 100, confidence: 0.95 };
        Experiment {
            format: FORMAT,
            profile: Profile::Quick,
            started: "2026-01-01T00:00:00Z".to_owned(),
            took_s: 10.0,
            effects: statistics::effects(&arms, &trials, &design),
            design,
            machine: Machine {
                cpu: "a processor".to_owned(),
                cores: 2,
                memory_mib: 1024,
                system: "Linux".to_owned(),
                load_before: 0.5,
            },
            build: Build { version: "0.1.0".to_owned(), debug: false },
            load: Load { tool: "wrk".to_owned(), connections: 4, threads: 1 },
            arms,
            absent: Vec::new(),
            trials,
            checks: Vec::new(),
            code: Vec::new(),
        }
    }
}
