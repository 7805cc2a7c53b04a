//! Column policy: `policy list|reload`.

use clap::Subcommand;
use countersign_wire::api::policies::Policies;

use crate::cli::At;
use crate::error::CliError;
use crate::output::{self, Format};

/// `policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// The rules that are in force
    List,
    /// Read the policy files again; one that is wrong is named, and the old rules stay
    Reload,
}

/// Runs `policy …`.
///
/// # Errors
/// Exit 2 where a file is wrong, 3 where the authority does not answer.
pub async fn policy(at: &At, command: PolicyCommand) -> Result<(), CliError> {
    let policies: Policies = match command {
        PolicyCommand::List => at.admin.get("/api/v1/policies").await?,
        PolicyCommand::Reload => at.admin.post("/api/v1/policies/reload", &serde_json::json!({})).await?,
    };
    if at.output == Format::Json {
        return output::json(&policies, false);
    }
    let generation = policies.generation;
    output::table(
        ["TARGET", "RULES"],
        policies.files.into_iter().map(|file| [file.name, file.rules.join(", ")]),
    )?;
    output::line(format!("generation {generation}"));
    Ok(())
}
