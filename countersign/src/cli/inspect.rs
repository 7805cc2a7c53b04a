//! `inspect`: who, until when, by whom, of anything: a file, an HTTPS server, or standard input.

use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::presented::presented;
use crate::cli::{At, read_input};
use crate::error::CliError;
use crate::output::{self, Format};

mod token;

const INPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// `inspect WHAT`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A file, `https://host:port`, or `-`
    #[arg(value_name = "FILE|URL|-")]
    what: String,
}

/// Runs `inspect`.
///
/// # Errors
/// Exit 2 where nothing can be read, or nothing that is known is found.
pub async fn inspect(at: &At, args: InspectArgs) -> Result<(), CliError> {
    let described = match args.what.strip_prefix("https://") {
        Some(server) => describe(&pem_of_server(server.trim_end_matches('/')).await?)?,
        None => describe(&read_input(Path::new(&args.what), INPUT_BYTES_MAX)?)?,
    };
    if at.output == Format::Json {
        return output::json(&described, false);
    }
    for (number, object) in described.iter().enumerate() {
        if number > 0 {
            output::line("");
        }
        print(object, 0);
    }
    Ok(())
}

fn describe(bytes: &[u8]) -> Result<Vec<Value>, CliError> {
    if let Some(token) = token::describe(bytes) {
        return Ok(vec![token]);
    }
    let found = countersign_pki::inspect::describe(bytes).map_err(|e| {
        CliError::usage(
            "nothing that is known was found",
            e,
            "PEM or DER of a certificate, CSR or CRL, a JWT or JWE, a macaroon, or a bearer token",
        )
    })?;
    found
        .iter()
        .map(|d| {
            serde_json::to_value(d)
                .map_err(|e| CliError::failed("a description cannot be written", e, "report this"))
        })
        .collect()
}

fn print(value: &Value, indent: usize) {
    let Value::Object(map) = value else { return };
    if let (0, Some(kind)) = (indent, map.get("kind").and_then(Value::as_str)) {
        output::line(kind.replace('_', " "));
    }
    let pad = " ".repeat(indent + 2);
    for (key, value) in map.iter().filter(|(key, _)| indent > 0 || *key != "kind") {
        match value {
            Value::Object(_) => {
                output::line(format!("{pad}{key}"));
                print(value, indent + 2);
            }
            Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
                output::line(format!("{pad}{key}"));
                for item in items {
                    print(item, indent + 2);
                }
            }
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(shown).collect();
                output::line(format!("{pad}{key:<22} {}", items.join(", ")));
            }
            Value::Null => {}
            other => output::line(format!("{pad}{key:<22} {}", shown(other))),
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What an HTTPS server presents, as PEM.
async fn pem_of_server(server: &str) -> Result<Vec<u8>, CliError> {
    let address = if server.contains(':') { server.to_owned() } else { format!("{server}:443") };
    let presented = presented(&address).await.map_err(|silent| {
        CliError::unreachable(format!("https://{server} shows no certificate"), silent, "check host and port")
    })?;
    let pem = presented.chain.iter().map(|certificate| crate::pem::encode("CERTIFICATE", certificate));
    Ok(pem.collect::<String>().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn garbage_is_refused_with_exit_code_2() {
        assert_eq!(describe(b"hello").unwrap_err().code(), 2);
        assert_eq!(describe(b"").unwrap_err().code(), 2);
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = describe(&bytes);
        }
    }
}
