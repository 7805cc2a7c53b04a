//! Column federation: `trust bundle|list|add|remove`, other trust domains.

use std::path::PathBuf;

use clap::Subcommand;
use countersign_identity::TrustDomain;
use countersign_wire::api::federation::{BundleDocument, Federate, Federated};

use crate::cli::{At, read_input};
use crate::error::CliError;
use crate::output::{self, Format};

/// Longest bundle: revocation lists are in it.
const BUNDLE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// `trust …`
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Our own bundle, for other trust domains: a SPIFFE bundle with roots, token keys and revocation lists
    Bundle,
    /// Trust domains that we recognise
    List,
    /// Recognise another trust domain, or take its newer bundle: its members are then known by name, and policies say what
    /// they may
    Add {
        /// Its name: a bundle does not say whose it is, so you do
        trust_domain: TrustDomain,
        /// Its bundle, handed over by a way that you trust
        #[arg(long, value_name = "FILE|-")]
        bundle: PathBuf,
    },
    /// Recognise it no longer
    Remove {
        /// Its name
        trust_domain: TrustDomain,
    },
}

/// Runs `trust …`.
///
/// # Errors
/// Exit 2 for a bundle that cannot be read or is older than ours, 3 where the authority does not answer.
pub async fn trust(at: &At, command: TrustCommand) -> Result<(), CliError> {
    match command {
        TrustCommand::Bundle => {
            let own: BundleDocument = at.admin.get("/api/v1/bundle/spiffe").await?;
            output::json(&own, false)
        }
        TrustCommand::List => {
            let known: Vec<Federated> = at.admin.get("/api/v1/federation").await?;
            if at.output == Format::Json {
                return output::json(&known, false);
            }
            table(known)
        }
        TrustCommand::Add { trust_domain, bundle } => {
            let bytes = read_input(&bundle, BUNDLE_BYTES_MAX)?;
            let document: BundleDocument = serde_json::from_slice(&bytes).map_err(|e| {
                CliError::usage(
                    format!("{} holds no bundle", bundle.display()),
                    e,
                    "countersign trust bundle, at the other end",
                )
            })?;
            let body = Federate { trust_domain, bundle: document };
            let taken: Federated = at.admin.post("/api/v1/federation", &body).await?;
            if at.output == Format::Json {
                return output::json(&taken, false);
            }
            table(vec![taken])
        }
        TrustCommand::Remove { trust_domain } => {
            at.admin.delete(&format!("/api/v1/federation/{trust_domain}")).await?;
            output::line(format!("{trust_domain} is recognised no longer"));
            Ok(())
        }
    }
}

fn table(known: Vec<Federated>) -> Result<(), CliError> {
    output::table(
        ["TRUST DOMAIN", "SEQUENCE", "ROOTS", "TOKEN KEYS", "ISSUER", "LISTS END"],
        known.into_iter().map(|peer| {
            [
                peer.trust_domain.to_string(),
                peer.sequence.to_string(),
                peer.roots.len().to_string(),
                peer.keys.len().to_string(),
                peer.issuer,
                peer.crls_until.map_or_else(|| "-".to_owned(), output::moment),
            ]
        }),
    )
}
