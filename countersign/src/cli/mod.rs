//! The command line: a noun and a verb, frequent verbs at the top. One file for each column.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::admin::Admin;
use crate::error::CliError;
use crate::output::Format;

mod advise;
mod attack;
mod bench;
pub mod ca;
mod config;
mod demo;
mod explain;
pub mod idp;
mod inspect;
mod lab_relay;
mod lab_witness;
mod ledger;
mod overview;
mod policy;
mod presented;
mod run;
pub mod serve;
pub mod service;
mod tap;
mod terminators;
mod token;
mod trust;

/// Proves who is calling, decides what they may do, and can prove afterwards what happened.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, about, max_term_width = 100)]
#[command(
    after_help = "Exit: 0 ok · 1 a check failed · 2 usage or configuration · 3 authority unreachable · 4 denied"
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where the deployment's state lies
    #[arg(
        long,
        global = true,
        env = "COUNTERSIGN_STATE_DIR",
        default_value = "countersign.d",
        value_name = "DIR"
    )]
    state_dir: PathBuf,
    /// How listings are printed
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole deployment on this machine: authority, agent, gateway and the flea market
    Up(crate::up::UpArgs),
    /// End the deployment that `up` started
    Down(crate::up::DownArgs),
    /// Run one role from a configuration file
    Serve(serve::ServeArgs),
    /// Is it healthy, and for how long
    Status,
    /// Check configuration, keys, certificates, processes and files; exit 1 where one does not hold
    Check,
    /// Who talks to whom, and how each proved who it is
    Edges,
    /// Decisions as they are made, one line each, until Ctrl-C
    Tap(tap::TapArgs),
    /// Why a request was allowed or refused (a decision id, `last`, or an error code)
    Explain(explain::ExplainArgs),
    /// Show a certificate, chain, CSR, CRL or token: who, until when, by whom (a file, an https URL, or `-`)
    Inspect(inspect::InspectArgs),
    /// Start a program of your own with an identity
    Run(run::RunArgs),
    /// Log a user in
    Login(idp::LoginArgs),
    /// Services and their identities
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Tokens: mint, verify, exchange, narrow, discharge, take back
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Rules: what is in force, and reading the files again
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// The configuration: is it one, and where does it say what
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Other trust domains
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Certificates
    #[command(subcommand)]
    Cert(ca::CertCommand),
    /// The certification authority
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Users
    #[command(subcommand)]
    User(idp::UserCommand),
    /// The ledger
    #[command(subcommand)]
    Audit(ledger::AuditCommand),
    /// The flea market
    #[command(subcommand)]
    Demo(demo::DemoCommand),
    /// Which way to prove who is calling fits an edge, why, and why the others do not
    Advise(advise::AdviseArgs),
    /// Attack this deployment: what somebody with X can do, and which guard stops it; exit 1 where one does not
    Attack(attack::AttackArgs),
    /// What each way to prove who is calling costs: the thesis's missing chapter, measured here
    Bench(bench::BenchArgs),
    /// One of the flea market's services
    #[command(hide = true)]
    DemoService(serve::DemoServiceArgs),
    /// A link of the chains that `bench` measures
    #[command(hide = true)]
    LabRelay(lab_relay::LabRelayArgs),
    /// What the agent gives to a service, for `attack`
    #[command(hide = true)]
    LabWitness(lab_witness::LabWitnessArgs),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What the person at the terminal reads, with its exit code.
    pub async fn run(self) -> Result<(), CliError> {
        let Global { state_dir, output } = self.global;
        let at = At { admin: Admin::of(&state_dir), state_dir, output };
        if output == Format::Jsonl && !matches!(self.command, Command::Tap(_)) {
            return Err(CliError::usage(
                "-o jsonl is for what never ends",
                "this listing is one document",
                "-o json",
            ));
        }
        match self.command {
            Command::Up(args) => crate::up::up(&at.state_dir, args).await,
            Command::Down(args) => crate::up::down(&at.state_dir, args).await,
            Command::Serve(args) => serve::serve(args).await,
            Command::Bench(args) => bench::bench(&at, args).await,
            Command::DemoService(args) => serve::demo_service(args).await,
            Command::LabRelay(args) => lab_relay::lab_relay(args).await,
            Command::LabWitness(args) => lab_witness::lab_witness(args).await,
            Command::Status => overview::status(&at).await,
            Command::Check => overview::check(&at).await,
            Command::Edges => overview::edges(&at).await,
            Command::Tap(args) => tap::tap(&at, args).await,
            Command::Service(command) => service::service(&at, command).await,
            Command::Token(command) => token::token(&at, command).await,
            Command::Policy(command) => policy::policy(&at, command).await,
            Command::Config(command) => config::config(&at, command).await,
            Command::Trust(command) => trust::trust(&at, command).await,
            Command::Explain(args) => explain::explain(&at, args).await,
            Command::Inspect(args) => inspect::inspect(&at, args).await,
            Command::Run(args) => run::run(&at, args).await,
            Command::Login(args) => idp::login(&at, args).await,
            Command::User(command) => idp::user(&at, command).await,
            Command::Cert(command) => ca::cert(&at, command).await,
            Command::Ca(command) => ca::ca(&at, command).await,
            Command::Audit(command) => ledger::audit(&at, command).await,
            Command::Demo(command) => demo::demo(&at, command).await,
            Command::Advise(args) => advise::advise(&at, args).await,
            Command::Attack(args) => attack::attack(&at, args).await,
        }
    }
}

/// Which deployment a command speaks to, and how it prints.
pub struct At {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The authority's local administration.
    pub admin: Admin,
    /// Listing format.
    pub output: Format,
}

impl At {
    /// The line that `up` printed when it was ready.
    ///
    /// # Errors
    /// Exit 3 where no deployment was started from this directory.
    pub fn ready(&self) -> Result<crate::up::Ready, CliError> {
        crate::up::Ready::read(&self.state_dir)
    }
}

/// Bytes of a file, or of standard input for `-`, up to `max`.
///
/// # Errors
/// Exit 2 where the file cannot be read or is longer.
pub fn read_input(path: &Path, max: u64) -> Result<Vec<u8>, CliError> {
    use std::io::Read as _;
    let unreadable = |e: std::io::Error| CliError::usage(format!("cannot read {}", path.display()), e, "");
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if bytes.len() as u64 > max {
        let what = format!("{} is longer than {max} bytes", path.display());
        return Err(CliError::usage(what, "no such thing is that long", "name the right file"));
    }
    Ok(bytes)
}

/// Percent-encodes everything that is not unreserved (RFC 3986 section 2.3).
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
