//! `token mint bearer|macaroon|service`, `token list`, `token rotate`.

use clap::{Args, Subcommand};
use countersign_identity::ServiceName;
use countersign_wire::api::tokens::{Bearer, IssuedToken, NewBearer, NewMacaroon, RotateBearer};

use super::service::{self, ServiceArgs};
use crate::cli::{At, percent};
use crate::error::CliError;
use crate::output::{self, Format};

/// `token mint …`
#[derive(Debug, Subcommand)]
pub enum MintCommand {
    /// A random token: whoever holds it speaks for the service
    Bearer {
        /// The service that it speaks for
        #[arg(long)]
        service: ServiceName,
        /// The services at which it counts
        #[arg(long, value_delimiter = ',', required = true)]
        scope: Vec<ServiceName>,
        /// Seconds until it expires [default: a day]
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// A token that its holder can narrow without asking anybody
    Macaroon {
        /// The service that it speaks for
        #[arg(long)]
        service: ServiceName,
        /// The one service at which it counts
        #[arg(long)]
        callee: ServiceName,
        /// A caveat such as `method = GET`; may be given several times
        #[arg(long = "caveat", value_name = "CAVEAT")]
        caveats: Vec<String>,
        /// What the authority must be shown before it discharges it: `workload = SPIFFE-ID` or `user = ID`
        #[arg(long, value_name = "CONDITION")]
        discharge_for: Option<String>,
        /// Seconds until it expires [default: an hour]
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// A token that is signed here in the name of a service, for one request of its own
    Service(ServiceArgs),
}

/// `token rotate ID`
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Public id of the token, as `token list` shows it
    id: String,
    /// Seconds for which both count [default: an hour]
    #[arg(long, value_name = "SECONDS")]
    overlap: Option<u64>,
}

/// Prints the token and nothing else; `-o json` tells its id and its end as well.
pub async fn mint(at: &At, command: MintCommand) -> Result<(), CliError> {
    let issued: IssuedToken = match command {
        MintCommand::Bearer { service, scope, ttl } => {
            at.admin.post("/api/v1/tokens/bearer", &NewBearer { service, scope, ttl_s: ttl }).await?
        }
        MintCommand::Macaroon { service, callee, caveats, discharge_for, ttl } => {
            let body = NewMacaroon { service, callee, ttl_s: ttl, caveats, discharge_for };
            at.admin.post("/api/v1/tokens/macaroon", &body).await?
        }
        MintCommand::Service(args) => return service::mint(at, args).await,
    };
    shown(at, &issued)
}

/// `token rotate`
pub async fn rotate(at: &At, args: RotateArgs) -> Result<(), CliError> {
    let route = format!("/api/v1/tokens/bearer/{}/rotate", percent(&args.id));
    let issued: IssuedToken = at.admin.post(&route, &RotateBearer { overlap_s: args.overlap }).await?;
    shown(at, &issued)
}

/// `token list`
pub async fn list(at: &At) -> Result<(), CliError> {
    let tokens: Vec<Bearer> = at.admin.get("/api/v1/tokens/bearer").await?;
    if at.output == Format::Json {
        return output::json(&tokens, false);
    }
    output::table(
        ["ID", "SPEAKS FOR", "AT", "ISSUED BY", "UNTIL", "STATE"],
        tokens.into_iter().map(|token| {
            let scope: Vec<String> = token.scope.iter().map(ToString::to_string).collect();
            let state = match (token.revoked_at, token.replaced_by) {
                (Some(_), _) => "revoked".to_owned(),
                (None, Some(by)) => format!("replaced by {by}"),
                (None, None) => String::new(),
            };
            [
                token.id,
                token.owner.to_string(),
                scope.join(" "),
                token.issued_by,
                output::moment(token.expires_at),
                state,
            ]
        }),
    )
}

fn shown(at: &At, issued: &IssuedToken) -> Result<(), CliError> {
    if at.output == Format::Json {
        return output::json(issued, false);
    }
    output::line(issued.token.expose());
    output::note(format!("{} until {}", issued.id, output::moment(issued.expires_at)));
    Ok(())
}
