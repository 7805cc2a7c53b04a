//! `token verify`: does it count, and where it does not, why.

use std::path::PathBuf;

use clap::Args;
use countersign_identity::ServiceName;
use countersign_wire::SecretText;
use countersign_wire::api::explain::CheckOutcome;
use countersign_wire::api::verify::{TokenVerdict, VerifyRequest, VerifyToken};

use super::token_in;
use crate::cli::At;
use crate::error::CliError;
use crate::output::{self, Format};

/// `token verify FILE`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The token
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// The service that would be called, if it is to be judged for that one
    #[arg(long)]
    callee: Option<ServiceName>,
    /// What the header `Countersign-Signing-Chain` said that came with a service token
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
    /// Method of the request by which the caveats of a macaroon are judged
    #[arg(long, requires = "path")]
    method: Option<String>,
    /// Its path, with its query
    #[arg(long, requires = "method", value_name = "PATH[?QUERY]")]
    path: Option<String>,
}

/// Prints every check.
pub async fn verify(at: &At, args: VerifyArgs) -> Result<(), CliError> {
    let question = VerifyToken {
        token: SecretText::new(token_in(&args.file)?),
        chain: args.chain.as_deref().map(token_in).transpose()?,
        callee: args.callee,
        request: args.method.zip(args.path).map(request),
    };
    let verdict: TokenVerdict = at.admin.post("/api/v1/tokens/verify", &question).await?;
    match at.output {
        Format::Json | Format::Jsonl => output::json(&verdict, false)?,
        Format::Table => lines(&verdict).iter().for_each(output::line),
    }
    outcome(&verdict)
}

fn request((method, target): (String, String)) -> VerifyRequest {
    match target.split_once('?') {
        Some((path, query)) => VerifyRequest { method, path: path.to_owned(), query: Some(query.to_owned()) },
        None => VerifyRequest { method, path: target, query: None },
    }
}

fn lines(verdict: &TokenVerdict) -> Vec<String> {
    let mut lines = vec![verdict.kind.to_string()];
    let facts = [
        ("subject", verdict.subject.clone()),
        ("audience", Some(verdict.audience.join(", ")).filter(|names| !names.is_empty())),
        ("until", verdict.expires_at.map(output::moment)),
    ];
    let told = facts.into_iter().filter_map(|(name, value)| Some(format!("  {name:<10} {}", value?)));
    lines.extend(told);
    lines.extend(verdict.checks.iter().map(|check| {
        let (mark, silent) = match check.result {
            CheckOutcome::Pass => ("√", ""),
            CheckOutcome::Fail => ("×", ""),
            CheckOutcome::NotReached => ("·", "not reached"),
        };
        let line = format!("{mark} {:<10} {}", check.name, check.detail.as_deref().unwrap_or(silent));
        line.trim_end().to_owned()
    }));
    lines
}

fn outcome(verdict: &TokenVerdict) -> Result<(), CliError> {
    if verdict.holds {
        return Ok(());
    }
    let what = match verdict.failed() {
        Some(check) => format!("the {} does not count: {} does not hold", verdict.kind, check.name),
        None => format!("the {} does not count", verdict.kind),
    };
    let why = verdict.failed().and_then(|check| check.detail.as_deref()).unwrap_or_default();
    let next = match verdict.revoked {
        true => "countersign token revocations",
        false => "countersign inspect shows what it says",
    };
    Err(CliError::failed(what, why, next))
}

#[cfg(test)]
mod tests {
    use countersign_identity::UnixTime;
    use countersign_wire::api::explain::Check;
    use countersign_wire::api::verify::ExaminedKind;

    use super::*;

    fn verdict(second: CheckOutcome) -> TokenVerdict {
        let check = |name: &str, result, detail: Option<&str>| Check {
            name: name.to_owned(),
            result,
            detail: detail.map(str::to_owned),
        };
        TokenVerdict {
            kind: ExaminedKind::JwtSvid,
            holds: second == CheckOutcome::Pass,
            subject: Some("spiffe://example.org/svc/ads".to_owned()),
            audience: vec!["a".to_owned(), "b".to_owned()],
            expires_at: Some(UnixTime::from_secs(1_800_000_000)),
            checks: vec![
                check("form", CheckOutcome::Pass, None),
                check("times", second, Some("until then")),
                check("audience", CheckOutcome::NotReached, Some("not judged: no callee was named")),
                check("revocation", CheckOutcome::NotReached, None),
            ],
            revoked: false,
        }
    }

    #[test]
    fn a_token_that_counts_is_told_with_every_check_and_with_those_that_were_not_made() {
        let verdict = verdict(CheckOutcome::Pass);
        assert_eq!(
            lines(&verdict),
            [
                "JWT-SVID",
                "  subject    spiffe://example.org/svc/ads",
                "  audience   a, b",
                "  until      2027-01-15 08:00:00Z",
                "√ form",
                "√ times      until then",
                "· audience   not judged: no callee was named",
                "· revocation not reached",
            ]
        );
        assert_eq!(outcome(&verdict), Ok(()));
    }

    #[test]
    fn a_token_that_does_not_count_names_the_check_that_failed_with_exit_code_1() {
        let verdict = verdict(CheckOutcome::Fail);
        assert!(lines(&verdict).contains(&"× times      until then".to_owned()));
        let error = outcome(&verdict).unwrap_err();
        assert_eq!(error.code(), 1);
        assert!(error.to_string().contains("the JWT-SVID does not count: times does not hold"), "{error}");
        let revoked = outcome(&TokenVerdict { revoked: true, ..verdict }).unwrap_err();
        assert!(revoked.to_string().contains("token revocations"), "{revoked}");
    }

    #[test]
    fn a_request_is_a_path_and_perhaps_a_query() {
        let asked = |target: &str| request(("GET".to_owned(), target.to_owned()));
        assert_eq!((asked("/x").path, asked("/x").query), ("/x".to_owned(), None));
        assert_eq!((asked("/x?a=?").path, asked("/x?a=?").query), ("/x".to_owned(), Some("a=?".to_owned())));
    }
}
