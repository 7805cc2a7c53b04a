//! `bench`: the thesis's missing chapter, run on a deployment of its own. What it measures and why one may believe it is
//! the laboratory's; here it is asked for and told.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use countersign_lab::experiment::data::{Effect, Experiment, LabMode, Metric, Trial};
use countersign_lab::experiment::design::{self, Plan, PlanError, Plant, Wishes};
use countersign_lab::experiment::load::LoadError;
use countersign_lab::experiment::sidecars::App;
use countersign_lab::experiment::{self, Progress, RunError, statistics};
use countersign_lab::report;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::At;
use crate::error::CliError;
use crate::output::{self, Format};

mod code;

/// `bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What is compared
    #[arg(long, value_enum, default_value_t = Profile::Thesis)]
    profile: Profile,
    /// A chain of two, one payload, both kinds of connection: less than three minutes
    #[arg(long)]
    quick: bool,
    /// Let the experiment look at itself: no difference between an arm and its twin, and a planted delay that is found
    #[arg(long, conflicts_with = "quick")]
    self_check: bool,
    /// Services of your own instead, each behind a sidecar that this starts: [[service]] with name, app (its loopback
    /// address) and path (what is asked for)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "self_check", "mislead", "plant"])]
    target: Option<PathBuf>,
    /// Where the report and the raw data go
    #[arg(long, value_name = "DIR", default_value = "countersign-bench")]
    out: PathBuf,
    /// Of the order of trials and of the resampling; the same seed runs them in the same order
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Blocks: each has every arm once
    #[arg(long, value_name = "N")]
    blocks: Option<u32>,
    /// Length of a trial
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Only arms whose names contain this; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// A delay in the last service of the chain of a mode, for the experiment to find: 2ms@mtls
    #[arg(long, value_name = "DELAY@MODE", value_parser = plant)]
    plant: Vec<Plant>,
    /// Set the relays of a mode up in another one, to see its claims fail: mtls=none
    #[arg(long, value_name = "MODE=MODE", value_parser = mislead, hide = true)]
    mislead: Option<(LabMode, LabMode)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Every way to prove who is calling, users, chains, payloads, key exchange
    Thesis,
}

/// Runs `bench`.
///
/// # Errors
/// Exit 1 where a claim or a check does not hold; the data is written all the same. Exit 2 where the plan or the machine
/// does not let it run.
pub async fn bench(at: &At, args: BenchArgs) -> Result<(), CliError> {
    let plan = plan(&args)?;
    let program = std::env::current_exe().map_err(|e| {
        CliError::failed("this program does not know where it lies", e, "call it by its path")
    })?;
    told_before(&plan);
    let run = experiment::run(&plan, &program, stopped(), told_meanwhile);
    let mut experiment = run.await.map_err(|e| not_run(&e))?;
    experiment.code = code::counts();
    let written =
        experiment::write::write(&experiment, &args.out).and_then(|()| report::write(&experiment, &args.out));
    written.map_err(|e| {
        CliError::usage(format!("{} cannot be written", args.out.display()), e, "name another with --out")
    })?;
    match at.output {
        Format::Json | Format::Jsonl => output::json(&experiment, false)?,
        Format::Table => table(&experiment)?,
    }
    output::note(format!("written to {}", args.out.join("report.html").display()));
    judge(&experiment)
}

fn plan(args: &BenchArgs) -> Result<Plan, CliError> {
    let wishes = Wishes {
        seed: args.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        blocks: args.blocks,
        trial: args.seconds,
        only: args.only.clone(),
        plant: args.plant.clone(),
        mislead: args.mislead,
    };
    if let Some(file) = &args.target {
        let app =
            App::read(file).map_err(|e| CliError::usage("no service to measure", e, "mend the file"))?;
        return design::target(app, &wishes).map_err(|e| cannot_be_run(&e));
    }
    let plan = match (args.self_check, args.quick, args.profile) {
        (true, ..) => design::self_check(&wishes),
        (_, true, Profile::Thesis) => design::quick(&wishes),
        (_, false, Profile::Thesis) => design::thesis(&wishes),
    };
    plan.map_err(|e| cannot_be_run(&e))
}

fn cannot_be_run(error: &PlanError) -> CliError {
    CliError::usage("nothing can be run so", error, "countersign bench --help")
}

fn told_before(plan: &Plan) {
    let minutes = plan.trials_take().as_secs_f64() / 60.0;
    output::note(format!(
        "{} arms in {} blocks, about {minutes:.1} minutes of trials; seed {}",
        plan.arms.len(),
        plan.design.blocks,
        plan.design.seed
    ));
    if cfg!(debug_assertions) {
        output::note("warning: debug build. Its figures say nothing about the program that users run.");
    }
}

/// One line for a terminal, rewritten; to files and pipes only what matters.
fn told_meanwhile(progress: Progress<'_>) {
    let is_terminal = std::io::stderr().is_terminal();
    match progress {
        Progress::Starting => output::note("starting a deployment of its own"),
        Progress::Chains { processes } => output::note(format!("starting {processes} relays")),
        Progress::Trial { number, of, arm } if is_terminal => {
            output::note_over(format!("trial {number} of {of}: {arm}"))
        }
        Progress::Trial { number, of, .. } if number == 1 || number % TOLD_EVERY == 0 => {
            output::note(format!("trial {number} of {of}"));
        }
        Progress::Trial { .. } => {}
        Progress::Broken { arm, counted } => output::note(format!("\nclaim broken: {arm}: {counted}")),
    }
}

fn not_run(error: &RunError) -> CliError {
    match error {
        RunError::Load(LoadError::Absent) => {
            CliError::usage("the load generator is missing", error, "apt-get install wrk")
        }
        RunError::Stopped => CliError::interrupted("the experiment is over", error, ""),
        other => CliError::failed("the experiment could not be run", other, "try again, or with --only"),
    }
}

/// Means over all blocks, and CPU time against the base.
fn table(experiment: &Experiment) -> Result<(), CliError> {
    let design = &experiment.design;
    let level = |arm: &str, metric: Metric| {
        let values: Vec<f64> = experiment.trials_of(arm).map(|trial: &Trial| metric.of(trial)).collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        statistics::level(&experiment.trials, arm, metric, design).map_or(mean, |level| level.estimate)
    };
    let ratio = |arm: &str| {
        let is_it = |effect: &&Effect| effect.arm == arm && effect.metric == Metric::CpuUsPerRequest;
        let effect = experiment.effects.iter().find(is_it);
        effect.map_or_else(String::new, |effect| {
            let ratio = effect.ratio;
            format!("{:.2} ({:.2} to {:.2})", ratio.estimate, ratio.low, ratio.high)
        })
    };
    output::table(
        ["ARM", "REQUESTS/S", "P50 ms", "P99 ms", "CPU µs", "BYTES", "CPU x BASE"],
        experiment.arms.iter().map(|arm| {
            let ms = |metric| format!("{:.2}", level(&arm.name, metric) / 1000.0);
            [
                arm.name.clone(),
                format!("{:.0}", level(&arm.name, Metric::RequestsPerSecond)),
                ms(Metric::P50Us),
                ms(Metric::P99Us),
                format!("{:.0}", level(&arm.name, Metric::CpuUsPerRequest)),
                counted(level(&arm.name, Metric::BytesPerRequest)),
                ratio(&arm.name),
            ]
        }),
    )?;
    for check in &experiment.checks {
        let mark = if check.holds { "ok" } else { "FAILED" };
        output::line(format!("{mark}: {}: {}", check.name, check.found));
    }
    Ok(())
}

/// Bytes: sidecars count none.
fn counted(bytes: f64) -> String {
    if bytes > 0.0 { format!("{bytes:.0}") } else { "-".to_owned() }
}

/// Figures whose claims do not hold are figures of something else.
fn judge(experiment: &Experiment) -> Result<(), CliError> {
    let broken: Vec<String> = experiment
        .broken_claims()
        .map(|(trial, claim)| format!("{}: {}: {}", trial.arm, claim.claim.as_str(), claim.counted))
        .collect();
    if let Some(first) = broken.first() {
        let what = format!("{} claims do not hold, so the figures mean nothing", broken.len());
        return Err(CliError::failed(what, first, "experiment.json has what was counted in each trial"));
    }
    let failed = experiment.checks.iter().filter(|check| !check.holds).count();
    if failed > 0 {
        return Err(CliError::failed(
            format!("{failed} of the experiment's own checks failed"),
            "see above",
            "run it again on a quieter machine, or with more --blocks",
        ));
    }
    Ok(())
}

/// Ctrl-C, SIGTERM, or the terminal going away.
async fn stopped() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals: Vec<_> = kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect();
    futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `2ms@mtls`
fn plant(text: &str) -> Result<Plant, String> {
    let wrong = || "write a delay in milliseconds and a mode, such as 2ms@mtls".to_owned();
    let (delay, mode) = text.split_once("ms@").ok_or_else(wrong)?;
    let ms: f64 = delay.parse().map_err(|_| wrong())?;
    let delay = Duration::try_from_secs_f64(ms / 1000.0).map_err(|_| wrong())?;
    if delay.is_zero() || delay > PLANT_MAX {
        return Err(format!("a delay is more than nothing and at most {PLANT_MAX:?}"));
    }
    Ok(Plant { delay, mode: LabMode::parse(mode).ok_or_else(wrong)? })
}

fn mislead(text: &str) -> Result<(LabMode, LabMode), String> {
    let modes = text.split_once('=').and_then(|(a, b)| Some((LabMode::parse(a)?, LabMode::parse(b)?)));
    modes.ok_or_else(|| "write two modes, such as mtls=none".to_owned())
}

const TOLD_EVERY: usize = 20;
const PLANT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_and_its_mode_are_read_and_anything_else_is_refused() {
        let read = plant("2.5ms@mtls+jwt").unwrap();
        assert_eq!(read, Plant { delay: Duration::from_micros(2500), mode: LabMode::MtlsJwt });
        for wrong in
            ["2ms", "2@mtls", "ms@mtls", "0ms@mtls", "-1ms@mtls", "1001ms@mtls", "2ms@kerberos", "NaNms@tls"]
        {
            assert!(plant(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_run_that_was_stopped_is_no_failed_one() {
        assert_eq!(not_run(&RunError::Stopped).code(), 130);
        assert_eq!(not_run(&RunError::Load(LoadError::Absent)).code(), 2);
    }

    #[test]
    fn spans_of_time_are_seconds() {
        assert_eq!(seconds("0.3"), Ok(Duration::from_millis(300)));
        assert!(seconds("-1").is_err() && seconds("soon").is_err());
    }
}
