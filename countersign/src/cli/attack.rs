//! `attack`: attacks this deployment, and says of each attack what was sent, what came back, and which guard stopped
//! it. Exit 1 unless every attack was blocked by its guard, with a control that held.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use countersign_identity::TrustDomain;
use countersign_lab::attack::specimen::{self, Specimen};
use countersign_lab::attack::{self, Attack, AttackError, Control, Finding, Live, Report, Settings, Target};
use serde::Deserialize;

use crate::cli::{At, read_input};
use crate::error::CliError;
use crate::output::{self, Format};
use crate::up::{Ready, is_supervised};

const TARGET_BYTES_MAX: u64 = 64 * 1024;

/// `attack [NAME|--all]`
#[derive(Debug, Args)]
pub struct AttackArgs {
    /// One attack, by its name; without a name and without --all they are listed
    #[arg(value_name = "NAME", conflicts_with = "all")]
    name: Option<String>,
    /// Every attack
    #[arg(long)]
    all: bool,
    /// A file that says where a deployment is that `up` did not start; every address in it must be a loopback address
    #[arg(long, value_name = "FILE")]
    target: Option<PathBuf>,
    /// Something that others wrote, built here and attacked instead, to see what it lets through
    #[arg(long, value_enum, conflicts_with_all = ["name", "all", "target"])]
    specimen: Option<Kind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Two services written after an article: a shared secret, 24 hours, and a log
    Article,
    /// The thesis's Algorithm 5.1, to the letter
    Thesis,
}

/// What `--target` names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    trust_domain: String,
    admin_socket: PathBuf,
    agent_socket: PathBuf,
    gateway_tls: SocketAddr,
    gateway: Option<SocketAddr>,
    authority: SocketAddr,
    nodes: Option<SocketAddr>,
    passwords: PathBuf,
}

/// Runs `attack`.
///
/// # Errors
/// Exit 1 where an attack succeeded or showed nothing, 2 for an unknown attack and for a target that is not to be
/// attacked, 3 where no deployment runs.
pub async fn attack(at: &At, args: AttackArgs) -> Result<(), CliError> {
    if let Some(kind) = args.specimen {
        return examine(at, kind).await;
    }
    let attacks: Vec<&'static Attack> = match &args.name {
        Some(name) => vec![attack::named(name).ok_or_else(|| unknown(name))?],
        None if args.all => attack::all().collect(),
        None => return list(at),
    };
    let settings = match &args.target {
        Some(file) => named(file)?,
        None => running(at)?,
    };
    let live = Live::at(settings).await.map_err(not_attacked)?;
    let target = Target::live(live);
    let report = attack::run(&attacks, &target, |finding| {
        if at.output == Format::Table && attacks.len() > 1 {
            output::note(format_args!("{:<12} {}", verdict(finding), finding.name));
        }
    });
    told(at, &report.await)
}

fn not_attacked(error: AttackError) -> CliError {
    let (what, then) = match &error {
        AttackError::OtherFloor { .. } => (
            "this deployment is not attacked as it stands",
            "countersign demo mode mtls, or countersign service mode ads --accept mtls; then attack again",
        ),
        _ => ("there is nothing to attack", "countersign up, or name a target with --target FILE"),
    };
    CliError::usage(what, error, then)
}

fn list(at: &At) -> Result<(), CliError> {
    let rows = attack::all();
    if at.output == Format::Json {
        let listed = rows.map(|attack| {
            serde_json::json!({
                "name": attack.name, "title": attack.title, "position": attack.position, "from": attack.from,
                "guard": attack.guard.what, "doc": attack::doc(attack.name),
            })
        });
        return output::json(&listed.collect::<Vec<_>>(), false);
    }
    output::table(
        ["NAME", "POSITION", "TRIES TO"],
        rows.map(|attack| {
            [attack.name.to_owned(), attack.position.as_str().to_owned(), attack.title.to_owned()]
        }),
    )
}

fn unknown(name: &str) -> CliError {
    let nearest = attack::all()
        .map(|attack| attack.name)
        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    CliError::usage(
        format!("there is no attack called {name}"),
        nearest.map_or_else(String::new, |nearest| format!("the nearest is {nearest}")),
        "countersign attack lists them",
    )
}

/// The deployment of the state directory, if `up` supervises it now.
fn running(at: &At) -> Result<Settings, CliError> {
    let ready = at.ready()?;
    if !is_supervised(&ready.state_dir)? {
        return Err(CliError::unreachable(
            format!("no deployment runs from {}", ready.state_dir.display()),
            "what is attacked is only what `up` started and still supervises",
            "countersign up, or name a target with --target FILE",
        ));
    }
    of_ready(&ready)
}

fn of_ready(ready: &Ready) -> Result<Settings, CliError> {
    Ok(Settings {
        trust_domain: trust_domain(&ready.trust_domain)?,
        admin_socket: ready.state_dir.join("admin.sock"),
        agent_socket: ready.agent_socket.clone(),
        gateway_tls: address(&ready.gateway_tls)?,
        gateway: Some(address(&ready.gateway)?),
        authority: address(&ready.authority)?,
        nodes: listens_for_nodes(&ready.state_dir),
        passwords: ready.state_dir.join("users"),
        state_dir: Some(ready.state_dir.clone()),
    })
}

/// Where agents reach the authority, as the deployment's own configuration says.
fn listens_for_nodes(state_dir: &std::path::Path) -> Option<SocketAddr> {
    let text = read_input(&state_dir.join("countersign.toml"), TARGET_BYTES_MAX).ok()?;
    let config: toml::Table = String::from_utf8(text).ok()?.parse().ok()?;
    config.get("authority")?.get("node_listen")?.as_str()?.parse().ok()
}

fn named(file: &std::path::Path) -> Result<Settings, CliError> {
    let unusable = |why: &dyn std::fmt::Display| {
        CliError::usage(
            format!("{} names no target", file.display()),
            why,
            "it says trust_domain, admin_socket, agent_socket, gateway_tls, authority and passwords",
        )
    };
    let text = String::from_utf8(read_input(file, TARGET_BYTES_MAX)?).map_err(|e| unusable(&e))?;
    let named: Named = toml::from_str(&text).map_err(|e| unusable(&e))?;
    Ok(Settings {
        trust_domain: trust_domain(&named.trust_domain)?,
        admin_socket: named.admin_socket,
        agent_socket: named.agent_socket,
        gateway_tls: named.gateway_tls,
        gateway: named.gateway,
        authority: named.authority,
        nodes: named.nodes,
        passwords: named.passwords,
        state_dir: None,
    })
}

fn trust_domain(text: &str) -> Result<TrustDomain, CliError> {
    TrustDomain::parse(text).map_err(|e| CliError::usage(format!("{text} is no trust domain"), e, ""))
}

fn address(url: &str) -> Result<SocketAddr, CliError> {
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    host.parse().map_err(|e| CliError::usage(format!("{url} is not at an address of this machine"), e, ""))
}

fn told(at: &At, report: &Report) -> Result<(), CliError> {
    if at.output == Format::Json {
        output::json(report, false)?;
    } else if let [only] = report.attacks.as_slice() {
        one(only);
    } else {
        output::table(
            ["ATTACK", "POSITION", "VERDICT", "GUARD", "CONTROL"],
            report.attacks.iter().map(|finding| {
                let control = match finding.control {
                    Control::Passed { .. } => "passed",
                    Control::Failed { .. } => "FAILED",
                };
                let position = finding.position.as_str();
                [finding.name, position, &verdict(finding), finding.guard.what, control].map(str::to_owned)
            }),
        )?;
    }
    if report.all_blocked() {
        return Ok(());
    }
    let open = report.attacks.iter().filter(|finding| !finding.is_blocked()).map(|finding| finding.name);
    Err(CliError::failed(
        format!(
            "{} succeeded, {} showed nothing, {} were blocked",
            report.succeeded, report.unclear, report.blocked
        ),
        open.collect::<Vec<_>>().join(", "),
        "countersign attack NAME tells about one",
    ))
}

async fn examine(at: &At, kind: Kind) -> Result<(), CliError> {
    let specimen = match kind {
        Kind::Article => Specimen::Article,
        Kind::Thesis => Specimen::Thesis,
    };
    let unbuilt = |e| CliError::failed("the specimen cannot be built", e, "");
    let found = specimen::examine(specimen).await.map_err(unbuilt)?;
    if at.output == Format::Json {
        output::json(&found, false)?;
    } else {
        output::table(
            ["ATTACK", "DEFECT", "VERDICT", "SENT", "RECEIVED"],
            found.tried.iter().map(|tried| {
                let verdict = tried.verdict.as_str().to_uppercase();
                [tried.name, tried.defect, &verdict, tried.sent, &tried.received].map(str::to_owned)
            }),
        )?;
    }
    match found.faults {
        0 => Ok(()),
        faults => Err(CliError::failed(
            format!("{faults} attacks succeeded"),
            "the same attacks fail against a deployment: countersign attack --all",
            "docs/mistakes.md tells about each",
        )),
    }
}

fn one(finding: &Finding) {
    output::line(format_args!("{}   {}   as {}", verdict(finding), finding.title, finding.position.as_str()));
    output::line(format_args!("  sent      {}", finding.sent));
    output::line(format_args!("  received  {}", finding.received));
    output::line(format_args!("  because   {}", finding.verdict.because()));
    output::line(format_args!("  guard     {}   ({})", finding.guard.what, finding.guard.home));
    let control = match &finding.control {
        Control::Passed { without_guard } => format!("without it the attack succeeds: {without_guard}"),
        Control::Failed { why } => format!("FAILED: {why}"),
    };
    output::line(format_args!("  control   {control}"));
    output::line(format_args!("  from      {}", finding.from.join(", ")));
    output::line(format_args!("  more      {}", finding.doc));
}

fn verdict(finding: &Finding) -> String {
    finding.verdict.as_str().to_uppercase()
}
