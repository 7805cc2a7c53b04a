//! `token revoke`, `token revocations`.

use clap::{Args, ValueEnum};
use countersign_token::bearer::BearerId;
use countersign_wire::api::revocations::{NewRevocation, Revocation, RevocationKind};
use countersign_wire::api::tokens::Bearer;

use crate::cli::{At, percent};
use crate::error::CliError;
use crate::output::{self, Format};

/// `token revoke KIND ID`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// What the id names
    #[arg(value_enum)]
    kind: Kind,
    /// `jti` or public id of a token, name of a user, or `kid` of a key
    id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// One token
    Token,
    /// All tokens of a user that were issued until now
    User,
    /// All tokens signed with a key
    Key,
}

/// Takes something back.
pub async fn revoke(at: &At, args: RevokeArgs) -> Result<(), CliError> {
    // The one kind that the authority itself keeps a row of, with its owner.
    if args.kind == Kind::Token && BearerId::parse(&args.id).is_ok() {
        let route = format!("/api/v1/tokens/bearer/{}/revoke", percent(&args.id));
        let done: Bearer = at.admin.post(&route, &serde_json::json!({})).await?;
        if at.output == Format::Json {
            return output::json(&done, false);
        }
        output::line(format!("token {} of {} is revoked", done.id, done.owner));
        return Ok(());
    }
    let kind = match args.kind {
        Kind::Token => RevocationKind::Token,
        Kind::User => RevocationKind::User,
        Kind::Key => RevocationKind::Key,
    };
    let done: Revocation = at.admin.post("/api/v1/revocations", &NewRevocation { kind, id: args.id }).await?;
    if at.output == Format::Json {
        return output::json(&done, false);
    }
    output::line(format!("{} {} is revoked", name(done.kind), done.id));
    Ok(())
}

/// Lists what was taken back.
pub async fn list(at: &At) -> Result<(), CliError> {
    let revocations: Vec<Revocation> = at.admin.get("/api/v1/revocations").await?;
    if at.output == Format::Json {
        return output::json(&revocations, false);
    }
    output::table(
        ["WHAT", "ID", "ISSUED BEFORE", "BY"],
        revocations
            .into_iter()
            .map(|r| [name(r.kind).to_owned(), r.id, output::moment(r.issued_before), r.revoked_by]),
    )
}

const fn name(kind: RevocationKind) -> &'static str {
    match kind {
        RevocationKind::Token => "token",
        RevocationKind::User => "user",
        RevocationKind::Key => "key",
    }
}
