//! `token attenuate`, `token discharge`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use countersign_token::macaroon::{HeldMacaroon, Predicate};
use countersign_wire::api::tokens::{Discharge, NewDischarge};

use super::token_in;
use crate::cli::At;
use crate::error::CliError;
use crate::output;

/// `token attenuate FILE`
#[derive(Debug, Args)]
pub struct AttenuateArgs {
    /// The macaroon
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// A caveat, may be given several times: `aud = SPIFFE-ID`, `method = GET`, `path = /x`, `path-under = /x/`,
    /// `before = UNIX-SECONDS`, `caller = SPIFFE-ID`, `user = ID`
    #[arg(long = "caveat", value_name = "CAVEAT", required = true)]
    caveats: Vec<String>,
}

/// Prints the narrower macaroon.
pub fn attenuate(args: &AttenuateArgs) -> Result<(), CliError> {
    let mut held = held_in(&args.file)?;
    for caveat in &args.caveats {
        let predicate = Predicate::parse(caveat.as_bytes()).map_err(|e| {
            // Verifiers deny what they do not know: such a macaroon would open nothing.
            CliError::usage(
                format!("{caveat:?} is no caveat that a verifier knows"),
                e,
                "countersign token attenuate --help",
            )
        })?;
        held = held.narrowed(&predicate).map_err(|e| {
            CliError::usage("the macaroon takes no further caveat", e, "begin with one that has fewer")
        })?;
    }
    output::line(held.to_text());
    Ok(())
}

/// Prints the macaroon with its discharges.
pub async fn discharge(at: &At, file: &Path) -> Result<(), CliError> {
    let mut held = held_in(file)?;
    let open: Vec<String> = held.undischarged().map(|(_, id)| URL_SAFE_NO_PAD.encode(id)).collect();
    if open.is_empty() {
        output::note("nothing is left to be discharged");
    }
    for caveat in open {
        let answer: Discharge = at.admin.post("/api/v1/tokens/discharge", &NewDischarge { caveat }).await?;
        let discharge = HeldMacaroon::parse(answer.discharge.expose()).map_err(|e| {
            CliError::failed(
                "the authority's discharge cannot be read",
                e,
                "use one version of countersign throughout",
            )
        })?;
        held = held.with(discharge.root().clone());
    }
    output::line(held.to_text());
    Ok(())
}

fn held_in(file: &Path) -> Result<HeldMacaroon, CliError> {
    HeldMacaroon::parse(&token_in(file)?).map_err(|e| {
        CliError::usage(
            format!("{} holds no macaroon", file.display()),
            e,
            "countersign token mint macaroon --service NAME --callee NAME",
        )
    })
}
