//! A run, from nothing to data.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use countersign_sdk::clock;
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    chains::{self, Chain, ChainError, Kind},
    checks,
    claims::{self, Counted},
    data::{Absent, Arm, CarriedUser, EdgeUse, Experiment, FORMAT, ProcessUse, Profile, Trial, exact},
    deployment::{Deployment, DeploymentError},
    design::Plan,
    load::{Generator, LoadError},
    machine::{this_build, this_machine},
    meter::{self, Counters, MeterError},
    processes::Relay,
    statistics,
};

/// Why there is no data at all. That claims do not hold is none of these: such data is there to be looked at.
#[derive(Debug, Error)]
pub enum RunError {
    /// The load generator.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The deployment.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// The chains.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// What was to be measured.
    #[error(transparent)]
    Meter(#[from] MeterError),
    /// Somebody wanted it to stop.
    #[error("stopped before its end; nothing was written")]
    Stopped,
    /// A directory for what only this run needs.
    #[error("no directory can be made for the run: {0}")]
    Directory(#[from] std::io::Error),
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The deployment starts.
    Starting,
    /// Its chains start: so many processes.
    Chains {
        /// How many.
        processes: usize,
    },
    /// A trial begins.
    Trial {
        /// Its number, counted from 1 over all blocks.
        number: usize,
        /// Of how many.
        of: usize,
        /// What is run.
        arm: &'a str,
    },
    /// A claim did not hold; the run goes on, and fails.
    Broken {
        /// Where.
        arm: &'a str,
        /// What was counted.
        counted: &'a str,
    },
}

/// Runs `plan` with `program` as everything that has to be started, and tells how far it is. When `stop` is over, everything
/// that was started ends, and so does the run.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    plan: &Plan,
    program: &Path,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Experiment, RunError> {
    let (began, clock_at_start) = (Instant::now(), clock::now());
    // Sockets lie below it, and their paths are short.
    let directory = tempfile::Builder::new().prefix("cs-lab-").tempdir()?;
    let generator = Generator::find(directory.path(), plan.connections).await?;
    // Before the run itself is what keeps it busy.
    let machine = this_machine();
    progress(Progress::Starting);
    let deployment = Deployment::start(program, directory.path()).await?;
    let measured = tokio::select! {
        measured = measure(plan, program, &deployment, (&generator, directory.path()), &mut progress) => measured,
        () = stop => Err(RunError::Stopped),
    };
    // However it went: what it writes to must not be taken away from under it.
    deployment.end().await;
    let trials = measured?;
    let started =
        OffsetDateTime::from_unix_timestamp(clock_at_start.secs()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let effects = statistics::effects(&plan.arms, &trials, &plan.design);
    Ok(Experiment {
        format: FORMAT,
        profile: plan.profile,
        started: started.format(&Rfc3339).unwrap_or_default(),
        took_s: began.elapsed().as_secs_f64(),
        design: plan.design.clone(),
        machine,
        build: this_build(),
        load: generator.load,
        checks: checks::of(plan.profile, &plan.arms, &effects),
        arms: plan.arms.clone(),
        absent: absent(plan.profile),
        trials,
        effects,
        code: Vec::new(),
    })
}

/// The trials, with chains that end with them.
async fn measure(
    plan: &Plan,
    program: &Path,
    deployment: &Deployment,
    (generator, directory): (&Generator, &Path),
    progress: &mut impl FnMut(Progress<'_>),
) -> Result<Vec<Trial>, RunError> {
    progress(Progress::Chains { processes: chains::processes(plan) });
    let chains = chains::start(plan, deployment, program, directory).await?;
    let token_service = deployment.authority_pid().await?;
    let bench = Bench { plan, deployment, chains: &chains, generator, token_service };
    bench.renew_users().await?;
    for arm in &plan.arms {
        bench.chain_of(arm)?.until_it_answers(arm, ANSWERS).await?;
    }
    bench.trials(progress).await
}

/// What one would look for among the arms.
fn absent(profile: Profile) -> Vec<Absent> {
    let absent = |what: &str, why: &str| Absent { what: what.to_owned(), why: why.to_owned() };
    if profile == Profile::Target {
        let no_sidecar = "no sidecar does that: --profile thesis measures it on services that link the SDK";
        return vec![
            absent("a new connection for each request", no_sidecar),
            absent("callers that are not proven over TLS", no_sidecar),
            absent("signing keys of RSA and Ed25519", no_sidecar),
            absent("bytes on the wire", "a sidecar does not count them"),
            absent("the service itself", "what is counted is CPU time and memory of its two sidecars"),
        ];
    }
    vec![
        absent(
            "signing keys of RSA and Ed25519 that the authority certified",
            "certificates are for P-256 alone, so those two are registered at the authority instead; the callee then finds \
             them in its snapshot, and remembers no chain",
        ),
        absent(
            "sessions that are resumed",
            "neither end of a connection between services resumes any: every handshake is a full one",
        ),
        absent("request bodies", "every request is a GET, and what is varied is the length of the answer"),
    ]
}

/// Everything that trials need.
struct Bench<'a> {
    plan: &'a Plan,
    deployment: &'a Deployment,
    chains: &'a [Chain],
    generator: &'a Generator,
    /// The authority's process, which gives out the tokens of users who are carried along hop by hop.
    token_service: u32,
}

impl Bench<'_> {
    async fn trials(&self, progress: &mut impl FnMut(Progress<'_>)) -> Result<Vec<Trial>, RunError> {
        let order = self.plan.order();
        let of = order.iter().map(Vec::len).sum();
        let (mut trials, mut users_renewed) = (Vec::<Trial>::new(), Instant::now());
        for (block, arms) in (1..).zip(&order) {
            for (position, arm) in (1..).zip(arms) {
                if users_renewed.elapsed() > USERS_RENEWED_EVERY {
                    self.renew_users().await?;
                    users_renewed = Instant::now();
                }
                progress(Progress::Trial { number: trials.len() + 1, of, arm: &arm.name });
                let trial = self.trial((block, position), arm).await?;
                for claim in trial.claims.iter().filter(|claim| !claim.holds) {
                    progress(Progress::Broken { arm: &arm.name, counted: &claim.counted });
                }
                trials.push(trial);
            }
        }
        Ok(trials)
    }

    async fn trial(&self, (block, position): (u32, u32), arm: &Arm) -> Result<Trial, RunError> {
        let chain = self.chain_of(arm)?;
        let (asked, design) = (chain.asked(arm)?, &self.plan.design);
        if design.warm_up_ms > 0 {
            self.generator.run(&asked, Duration::from_millis(design.warm_up_ms)).await?;
        }
        let before = self.before(chain, arm).await?;
        let counts = self.generator.run(&asked, Duration::from_millis(design.trial_ms)).await?;
        let after = self.after(chain, arm).await?;
        let edges = after.edges_since(&before, chain);
        let counted = Counted {
            requests: counts.requests,
            errors: counts.errors,
            in_progress_max: u64::from(self.plan.connections),
            edges: &edges,
            users_are_counted: arm.service.is_none(),
        };
        let mut claims = claims::judge(&arm.factors, &counted);
        for claim in claims.iter_mut().filter(|claim| !claim.holds && counts.errors.sum() > 0) {
            claim.counted = format!("{}; {}", claim.counted, chain.trouble().await);
        }
        let served = edges.first().map_or(0, EdgeUse::requests).max(1);
        Ok(Trial {
            block,
            position,
            arm: arm.name.clone(),
            seconds: counts.seconds,
            requests: counts.requests,
            errors: counts.errors,
            latency_us: counts.latency,
            processes: after.processes_since(&before, served)?,
            edges,
            claims,
        })
    }

    /// Counters first: to render them is work of the processes, and not the trial's.
    async fn before(&self, chain: &Chain, arm: &Arm) -> Result<Reading, MeterError> {
        let counters = settled(chain, arm).await?;
        Ok(Reading { spent: self.spent(chain, arm)?, counters })
    }

    /// Counters last, likewise.
    async fn after(&self, chain: &Chain, arm: &Arm) -> Result<Reading, MeterError> {
        tokio::time::sleep(chain.counts_within()).await;
        let spent = self.spent(chain, arm)?;
        Ok(Reading { spent, counters: settled(chain, arm).await? })
    }

    /// CPU time so far: of the processes of an arm, and of the token service if it works for it.
    fn spent(&self, chain: &Chain, arm: &Arm) -> Result<Vec<Spent>, MeterError> {
        let asks_for_tokens = arm.factors.user == CarriedUser::PerHop;
        let relays = used(chain, arm).map(|relay| (relay.service.to_string(), relay.pid));
        let token_service = asks_for_tokens.then(|| (TOKEN_SERVICE.to_owned(), self.token_service));
        let spent = relays.chain(token_service);
        spent.map(|(service, pid)| Ok(Spent { service, pid, cpu_ns: meter::cpu_ns(pid)? })).collect()
    }

    async fn renew_users(&self) -> Result<(), RunError> {
        for chain in self.chains {
            chain.renew_user(self.deployment).await?;
        }
        Ok(())
    }

    fn chain_of(&self, arm: &Arm) -> Result<&Chain, RunError> {
        let kind = Kind::of(arm, self.plan);
        let chain = self.chains.iter().find(|chain| chain.kind == kind);
        let said = || ChainError::NoAnswer { arm: arm.name.clone(), said: "it has no chain".to_owned() };
        chain.ok_or_else(|| said().into())
    }
}

/// What was spent and counted so far.
struct Reading {
    /// By the processes of the arm, the head first, and then by whoever else worked for it.
    spent: Vec<Spent>,
    /// By its relays, the head first.
    counters: Vec<Counters>,
}

/// CPU time of a process since it began.
struct Spent {
    service: String,
    pid: u32,
    cpu_ns: u64,
}

impl Reading {
    fn edges_since(&self, before: &Self, chain: &Chain) -> Vec<EdgeUse> {
        let callees = self.counters.iter().zip(&before.counters).zip(&chain.relays).skip(1);
        let edges = callees.zip(&chain.relays).map(|(((now, then), callee), caller)| {
            let edge = now.since(then).edge(caller.service.as_str(), callee.service.as_str());
            EdgeUse { handshakes_ever: now.handshakes(), ..edge }
        });
        edges.collect()
    }

    fn processes_since(&self, before: &Self, requests: u64) -> Result<Vec<ProcessUse>, MeterError> {
        let spent = self.spent.iter().zip(&before.spent).map(|(now, then)| {
            let cpu_us = exact(now.cpu_ns.saturating_sub(then.cpu_ns)) / 1000.0;
            Ok(ProcessUse {
                service: now.service.clone(),
                cpu_us_per_request: cpu_us / exact(requests),
                pss_kib: meter::pss_kib(now.pid)?,
            })
        });
        spent.collect()
    }
}

/// The processes that an arm runs through: of a chain that is longer, the first ones.
fn used<'a>(chain: &'a Chain, arm: &Arm) -> impl Iterator<Item = &'a Relay> {
    chain.relays.iter().take(usize::from(arm.factors.edges) + 1)
}

/// The counters once nothing is added to them any more: what was in progress when the load stopped ends by itself.
async fn settled(chain: &Chain, arm: &Arm) -> Result<Vec<Counters>, MeterError> {
    let deadline = Instant::now() + SETTLED;
    let mut last = counters(chain, arm).await?;
    loop {
        tokio::time::sleep(chain.counts_within()).await;
        let next = counters(chain, arm).await?;
        if next == last || Instant::now() > deadline {
            return Ok(next);
        }
        last = next;
    }
}

async fn counters(chain: &Chain, arm: &Arm) -> Result<Vec<Counters>, MeterError> {
    let mut read = Vec::new();
    for relay in used(chain, arm) {
        read.push(Counters::of(relay.admin).await?);
    }
    Ok(read)
}

/// Longer than a callee knows nothing about proofs from before its start, and than a rule takes to reach it.
const ANSWERS: Duration = Duration::from_secs(40);
/// Internal tokens live for five minutes.
const USERS_RENEWED_EVERY: Duration = Duration::from_secs(120);
/// As what the authority's process is told of.
const TOKEN_SERVICE: &str = "token service";
/// How long what is in progress when the load stops is given at most.
const SETTLED: Duration = Duration::from_secs(3);
