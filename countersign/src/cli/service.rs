//! Column service: `service list|show|mode|key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use countersign_identity::{Mode, UserContext, WimseProof};
use countersign_wire::api::modes::{ChangeModes, LowerFloor, ModesChanged, SwitchDemo};
use countersign_wire::api::services::{Service, ServiceDetail};
use countersign_wire::api::workload_keys::{NewWorkloadKey, RegisteredKey, WithdrawKey};
use countersign_wire::snapshot::{Jwk, KeyPurpose};

use crate::cli::{At, percent, read_input};
use crate::error::CliError;
use crate::output::{self, Format};

const JWK_BYTES_MAX: u64 = 16 * 1024;

/// `service …`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Registered services
    List,
    /// One service: its identity, who may launch it, its certificates
    Show {
        /// Short name
        name: String,
    },
    /// How it proves itself to others, and what it asks of those who call it; while it runs
    Mode(ModeArgs),
    /// Public keys of its own: proofs signed with them need no certificate
    #[command(subcommand)]
    Key(KeyCommand),
}

/// `service key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Registered keys of a service
    List {
        /// Short name
        name: String,
    },
    /// Register a public key; its private half stays with the service
    Add {
        /// Short name
        name: String,
        /// A public JWK
        #[arg(long, value_name = "FILE|-")]
        jwk: PathBuf,
        /// Payloads are encrypted to it, instead of requests signed with it
        #[arg(long)]
        encryption: bool,
    },
    /// Withdraw a key, for ever
    Withdraw {
        /// Short name
        name: String,
        /// RFC 7638 thumbprint
        kid: String,
    },
}

/// `service mode NAME`
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// Short name
    name: String,
    /// Modes that it accepts from its callers, its floor: none, bearer, macaroon, jwt, wimse, mtls, mtls+jwt
    #[arg(long, value_name = "MODES", value_delimiter = ',', value_parser = Mode::parse)]
    accept: Option<Vec<Mode>>,
    /// The mode in which it calls others
    #[arg(long, value_name = "MODE", value_parser = Mode::parse)]
    send: Option<Mode>,
    #[command(flatten)]
    carries: Carries,
    /// Lower the floor for this many seconds; afterwards the old one comes back by itself
    #[arg(long, value_name = "SECONDS", requires = "accept", conflicts_with_all = ["send", "user_context", "wimse"])]
    lower_for: Option<u64>,
}

/// What goes with a mode.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Carries {
    /// How users are carried along: same (one token for all hops), per-hop (one for each), nested (inside the
    /// caller's own signed token)
    #[arg(long, value_name = "HOW", value_parser = user_context)]
    user_context: Option<UserContext>,
    /// Which proof is sent in mode wimse: token or http-signature
    #[arg(long, value_name = "PROOF", value_parser = wimse_proof)]
    wimse: Option<WimseProof>,
}

/// What everybody is told who switches proof off.
pub const NONE_WARNING: &str = "warning: mode none proves nothing. Calls go over plain HTTP, anybody who reaches a port \
     may call, and every rule that names a workload denies.";

impl Carries {
    /// Was anything said?
    #[must_use]
    pub const fn is_something(self) -> bool {
        self.user_context.is_some() || self.wimse.is_some()
    }

    /// The same as arguments of another process.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let context = self.user_context.map(|c| ["--user-context".to_owned(), c.to_string()]);
        let wimse = self.wimse.map(|w| ["--wimse".to_owned(), w.to_string()]);
        context.into_iter().chain(wimse).flatten().collect()
    }
}

/// Runs `service …`.
///
/// # Errors
/// Exit 3 where the authority does not answer, 2 for an unknown service or a mode that it cannot have.
pub async fn service(at: &At, command: ServiceCommand) -> Result<(), CliError> {
    match command {
        ServiceCommand::List => list(at).await,
        ServiceCommand::Show { name } => show(at, &name).await,
        ServiceCommand::Mode(args) => mode(at, args).await,
        ServiceCommand::Key(command) => key(at, command).await,
    }
}

/// `demo mode M`: every service at once, while they run.
///
/// # Errors
/// As [`service`]; 4 where the deployment is no demonstration.
pub async fn switch_all(at: &At, mode: Mode, carries: Carries) -> Result<(), CliError> {
    if mode == Mode::None {
        output::note(NONE_WARNING);
    }
    let changed: ModesChanged = at.admin.post("/api/v1/demo/mode", &switch(mode, carries)).await?;
    told(at, changed)
}

/// The body that switches a demonstration.
#[must_use]
pub fn switch(mode: Mode, carries: Carries) -> SwitchDemo {
    let Carries { user_context, wimse } = carries;
    SwitchDemo { mode, user_context: user_context.unwrap_or_default(), wimse: wimse.unwrap_or_default() }
}

async fn list(at: &At) -> Result<(), CliError> {
    let services: Vec<Service> = at.admin.get("/api/v1/services").await?;
    if at.output == Format::Json {
        return output::json(&services, false);
    }
    table(services)
}

async fn show(at: &At, name: &str) -> Result<(), CliError> {
    let detail: ServiceDetail = at.admin.get(&format!("/api/v1/services/{}", percent(name))).await?;
    if at.output == Format::Json {
        return output::json(&detail, false);
    }
    let service = &detail.service;
    output::line(format!("{}   {}", service.name, service.spiffe_id));
    output::line(format!("  address    {}", service.address));
    output::line(format!("  accepts    {}", modes(&service.accepts)));
    output::line(format!("  sends      {}, users {}", service.sends, service.user_context));
    if let Some(until) = service.lowered_until {
        output::line(format!("  ▲ its floor is lowered until {}", output::moment(until)));
    }
    let uids: Vec<String> = detail.launch_by.iter().map(u32::to_string).collect();
    output::line(format!("  launch by  uid {}", uids.join(", ")));
    output::line(format!("  since      {}", output::moment(detail.created_at)));
    for c in detail.certificates {
        let (state, at) = c.revoked_at.map_or(("until", c.not_after), |at| ("revoked", at));
        output::line(format!("  key        {}  {state} {}", c.serial, output::moment(at)));
    }
    Ok(())
}

async fn mode(at: &At, args: ModeArgs) -> Result<(), CliError> {
    let ModeArgs { name, accept, send, carries, lower_for } = args;
    let route = format!("/api/v1/services/{}", percent(&name));
    let changed: ModesChanged = match (accept, lower_for) {
        (Some(accepts), Some(for_s)) => {
            at.admin.post(&format!("{route}/floor"), &LowerFloor { accepts, for_s }).await?
        }
        (accepts, _) => {
            let Carries { user_context, wimse } = carries;
            let body = ChangeModes { accepts, sends: send, user_context, wimse };
            if body == ChangeModes::default() {
                return Err(CliError::usage(
                    "nothing is to be changed",
                    "no mode was named",
                    format!("countersign service mode {name} --accept mtls,jwt --send jwt"),
                ));
            }
            at.admin.post(&format!("{route}/modes"), &body).await?
        }
    };
    told(at, changed)
}

async fn key(at: &At, command: KeyCommand) -> Result<(), CliError> {
    let route = |name: &str| format!("/api/v1/services/{}/keys", percent(name));
    let keys: Vec<RegisteredKey> = match command {
        KeyCommand::List { name } => at.admin.get(&route(&name)).await?,
        KeyCommand::Add { name, jwk, encryption } => {
            let unusable = |why: &dyn std::fmt::Display| {
                CliError::usage(
                    format!("{} holds no public key", jwk.display()),
                    why,
                    "give one JWK (RFC 7517)",
                )
            };
            let text = String::from_utf8(read_input(&jwk, JWK_BYTES_MAX)?).map_err(|e| unusable(&e))?;
            let purpose = if encryption { KeyPurpose::Encryption } else { KeyPurpose::Signing };
            let body =
                NewWorkloadKey { purpose, jwk: Jwk::from_text(text.trim()).map_err(|e| unusable(&e))? };
            vec![at.admin.post(&route(&name), &body).await?]
        }
        KeyCommand::Withdraw { name, kid } => {
            at.admin.post(&format!("{}/withdraw", route(&name)), &WithdrawKey { kid }).await?
        }
    };
    if at.output == Format::Json {
        return output::json(&keys, false);
    }
    output::table(
        ["KID", "PURPOSE", "SINCE", "BY"],
        keys.into_iter().map(|key| {
            let purpose = match key.purpose {
                KeyPurpose::Signing => "signing",
                KeyPurpose::Encryption => "encryption",
            };
            [key.kid, purpose.to_owned(), output::moment(key.registered_at), key.registered_by]
        }),
    )
}

fn told(at: &At, changed: ModesChanged) -> Result<(), CliError> {
    if at.output == Format::Json {
        return output::json(&changed, false);
    }
    for workload in &changed.unconfirmed {
        output::note(format!("warning: {workload} did not confirm in time; it follows as soon as it can"));
    }
    table(changed.services)
}

fn table(services: Vec<Service>) -> Result<(), CliError> {
    output::table(
        ["NAME", "IDENTITY", "ADDRESS", "ACCEPTS", "SENDS", "USERS"],
        services.into_iter().map(|s| {
            let accepts = modes(&s.accepts);
            let lowered = s.lowered_until.map_or_else(String::new, |_| " ▲".to_owned());
            [
                s.name.to_string(),
                s.spiffe_id.to_string(),
                s.address,
                format!("{accepts}{lowered}"),
                s.sends.to_string(),
                s.user_context.to_string(),
            ]
        }),
    )
}

fn modes(modes: &[Mode]) -> String {
    modes.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(",")
}

fn user_context(text: &str) -> Result<UserContext, String> {
    UserContext::parse(text).ok_or_else(|| "use one of same, per-hop, nested".to_owned())
}

fn wimse_proof(text: &str) -> Result<WimseProof, String> {
    WimseProof::parse(text).ok_or_else(|| "use one of token, http-signature".to_owned())
}
