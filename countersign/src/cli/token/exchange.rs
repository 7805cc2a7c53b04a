//! `token exchange`: RFC 8693, spoken as any client would, with an SVID for the TLS handshake.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;

use super::token_in;
use crate::cli::{At, percent};
use crate::error::CliError;
use crate::https::{ClientFiles, Https};
use crate::output::{self, Format};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TYPES: &str = "urn:ietf:params:oauth:token-type:";

/// `token exchange`
#[derive(Debug, Args)]
pub struct ExchangeArgs {
    /// Whom it is about: a token, in a file or `-`
    #[arg(long, value_name = "FILE|-")]
    subject_token: PathBuf,
    /// Its type: access_token, txn_token or jwt
    #[arg(long, value_name = "TYPE", default_value = "access_token")]
    subject_type: String,
    /// Who acts, if not the client itself: a token, in a file
    #[arg(long, value_name = "FILE")]
    actor_token: Option<PathBuf>,
    /// Its type
    #[arg(long, value_name = "TYPE", default_value = "jwt", requires = "actor_token")]
    actor_type: String,
    /// For whom: a SPIFFE ID, or the short name of a service
    #[arg(long)]
    audience: String,
    /// What for, separated by blanks: never more than the subject token has
    #[arg(long)]
    scope: Option<String>,
    /// What is asked for: access_token, txn_token or jwt
    #[arg(long, value_name = "TYPE", default_value = "access_token")]
    requested_type: String,
    /// The client's certificate chain, PEM, as `cert issue` writes it
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// The client's key, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Prints the token and nothing else; `-o json` prints the whole answer.
pub async fn exchange(at: &At, args: ExchangeArgs) -> Result<(), CliError> {
    let ready = at.ready()?;
    let form = form(&args, &ready.trust_domain)?;
    let client = ClientFiles { cert: args.cert, key: args.key };
    let mut https = Https::connect_as(&ready.authority, &ready.ca_file, Some(&client)).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let answer = https.send(Method::POST, "/oauth2/token", headers, Bytes::from(form)).await?;
    let body: Value = serde_json::from_slice(answer.body()).map_err(|e| {
        CliError::failed("the token service's answer cannot be read", e, "countersign explain last")
    })?;
    if !answer.status().is_success() {
        let told = |member: &str| body.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let what = format!("the token service says {}: {}", answer.status(), told("error"));
        return Err(CliError::denied(what, told("error_description"), "countersign explain last"));
    }
    if at.output == Format::Json {
        return output::json(&body, false);
    }
    let token = body.get("access_token").and_then(Value::as_str).unwrap_or_default();
    output::line(token);
    Ok(())
}

fn form(args: &ExchangeArgs, trust_domain: &str) -> Result<String, CliError> {
    let audience = if args.audience.contains(':') {
        args.audience.clone()
    } else {
        format!("spiffe://{trust_domain}/svc/{}", args.audience)
    };
    let mut fields = vec![
        ("grant_type", GRANT.to_owned()),
        ("subject_token", token_in(&args.subject_token)?),
        ("subject_token_type", token_type(&args.subject_type)?),
        ("requested_token_type", token_type(&args.requested_type)?),
        ("audience", audience),
    ];
    if let Some(file) = &args.actor_token {
        fields.push(("actor_token", token_in(file)?));
        fields.push(("actor_token_type", token_type(&args.actor_type)?));
    }
    if let Some(scope) = &args.scope {
        fields.push(("scope", scope.clone()));
    }
    let field = |(name, value): (&str, String)| format!("{name}={}", percent(&value));
    Ok(fields.into_iter().map(field).collect::<Vec<_>>().join("&"))
}

fn token_type(name: &str) -> Result<String, CliError> {
    if name.starts_with("urn:") {
        return Ok(name.to_owned());
    }
    if ["access_token", "txn_token", "jwt"].contains(&name) {
        return Ok(format!("{TYPES}{name}"));
    }
    Err(CliError::usage(
        format!("{name} is not a type of token"),
        "the registered names end in access_token, txn_token and jwt",
        "write one of those, or a whole urn",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_a_service_of_this_trust_domain_and_a_whole_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "a.b.c\n").unwrap();
        let args = |audience: &str| ExchangeArgs {
            subject_token: file.clone(),
            subject_type: "access_token".into(),
            actor_token: None,
            actor_type: "jwt".into(),
            audience: audience.into(),
            scope: Some("ads:read ads:buy".into()),
            requested_type: "txn_token".into(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
        };
        let form_of = |audience| form(&args(audience), "example.org").unwrap();
        assert!(form_of("ads").contains("audience=spiffe%3A%2F%2Fexample.org%2Fsvc%2Fads"));
        assert!(form_of("spiffe://other.org/svc/x").contains("audience=spiffe%3A%2F%2Fother.org%2Fsvc%2Fx"));
        assert!(form_of("ads").contains("scope=ads%3Aread%20ads%3Abuy"));
        assert!(form_of("ads").contains("subject_token=a.b.c&"));
    }

    #[test]
    fn an_unknown_type_is_a_mistake_in_the_command() {
        assert_eq!(token_type("saml2").unwrap_err().code(), 2);
        assert_eq!(token_type("jwt").unwrap(), "urn:ietf:params:oauth:token-type:jwt");
    }
}
