//! `token mint service`: the token that a service signs itself for one request, signed here in its name. The key is made
//! here, certified by way of the agent as for the service's own processes, and forgotten: who may launch a service may
//! speak for it, and nobody else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use countersign_identity::{ServiceName, SpiffeId, TrustDomain};
use countersign_keys::{SystemRandom, sha256};
use countersign_request::CanonicalRequest;
use countersign_sdk::agent::AgentApi;
use countersign_sdk::clock;
use countersign_sdk::credentials::{CredentialError, Credentials, SigningIdentity};
use countersign_token::ServiceToken;
use countersign_token::service_token::{
    BodyBinding, SERVICE_TOKEN_LIFETIME, SERVICE_TOKEN_LIFETIME_MAX, UserBinding, new_id,
};
use http::{HeaderMap, Method, Uri, Version};

use crate::cli::serve::become_service;
use crate::cli::{At, read_input};
use crate::error::CliError;
use crate::output::{self, Format};
use crate::up::write_private;

/// What a callee compares with its token before the handler sees it.
const BODY_BYTES_MAX: u64 = 256 * 1024;

/// `token mint service`
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The service in whose name it is signed; its entry must let your uid launch it
    #[arg(long)]
    service: ServiceName,
    /// The one service that it is for: a short name, or a SPIFFE ID
    #[arg(long, value_name = "NAME|SPIFFE-ID")]
    callee: String,
    /// Method of the one request that it is for
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Path of that request, with its query
    #[arg(long, value_name = "PATH[?QUERY]")]
    path: String,
    /// Body of that request; without it, that it has none
    #[arg(long, value_name = "FILE|-")]
    body: Option<PathBuf>,
    /// A claim of your own that the callee may demand, such as `tenant=blue`; may be given several times
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, String)>,
    /// Seconds until it expires
    #[arg(long, value_name = "SECONDS", default_value_t = SERVICE_TOKEN_LIFETIME.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=SERVICE_TOKEN_LIFETIME_MAX.as_secs()))]
    ttl: u64,
    /// Where the value of the header `Countersign-Signing-Chain` is written, which goes with it
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
    /// The agent's socket; default: the one in the state directory
    #[arg(long, env = "COUNTERSIGN_AGENT_SOCKET", value_name = "PATH")]
    agent_socket: Option<PathBuf>,
}

/// Prints the token and nothing else; `-o json` tells the chain that goes with it as well.
pub async fn mint(at: &At, args: ServiceArgs) -> Result<(), CliError> {
    let body = args.body.as_deref().map(|file| read_input(file, BODY_BYTES_MAX)).transpose()?;
    let target = canonical(&args.method, &args.path)?;
    let socket = args.agent_socket.clone().unwrap_or_else(|| at.state_dir.join("agent.sock"));
    let id = become_service(&socket, args.service.as_str()).await?;
    let callee = callee(&args.callee, id.trust_domain())?;
    let signing = Credentials::new(id, AgentApi::new(socket)).signing().await.map_err(|e| uncertified(&e))?;
    let now = clock::now();
    let token = ServiceToken {
        issuer: signing.id().clone(),
        audience: callee,
        jti: new_id(&SystemRandom::new())
            .map_err(|e| CliError::failed("no id can be made", e, "try again"))?,
        method: args.method.to_string(),
        path_and_query: target,
        body: BodyBinding::Sha256(sha256(&body.unwrap_or_default())),
        // It is not known over which connection it will go, so it counts once at each process of the callee.
        channel: None,
        user: UserBinding::None,
        private: BTreeMap::from_iter(args.claims),
        issued_at: now,
        expires: now.saturating_add(Duration::from_secs(args.ttl)),
    };
    let minted = token.mint(signing.key(), signing.leaf_sha256()).map_err(|e| {
        CliError::usage("no token can be made of this", e, "countersign token mint service --help")
    })?;
    if let Some(file) = &args.chain {
        write_private(file, chain(&signing).as_bytes())?;
    }
    if args.chain.is_none() && at.output == Format::Table {
        output::note("a callee that does not know the key yet asks for its chain: --chain FILE writes that");
    }
    told(at, &token, &minted, &signing)
}

fn told(at: &At, token: &ServiceToken, minted: &str, signing: &SigningIdentity) -> Result<(), CliError> {
    if at.output == Format::Json {
        let told = serde_json::json!({
            "id": token.jti,
            "token": minted,
            "chain": chain(signing),
            "expires_at": token.expires,
        });
        return output::json(&told, false);
    }
    output::line(minted);
    let (method, path, until) = (&token.method, &token.path_and_query, output::moment(token.expires));
    output::note(format!("good once, for {method} {path} at {}, until {until}", token.audience));
    Ok(())
}

/// Path and query as the callee will read them.
fn canonical(method: &Method, path: &str) -> Result<String, CliError> {
    let wrong = |why: &dyn std::fmt::Display| {
        CliError::usage(
            format!("{path:?} is no path of a request"),
            why,
            "--path /ads or --path '/ads?near=1,1'",
        )
    };
    let uri = Uri::builder().scheme("https").authority("callee").path_and_query(path).build();
    let uri = uri.map_err(|e| wrong(&e))?;
    let read = CanonicalRequest::parse(method, &uri, &HeaderMap::new(), Version::HTTP_2);
    read.map(|read| read.path_and_query()).map_err(|e| wrong(&e))
}

fn callee(name: &str, home: &TrustDomain) -> Result<SpiffeId, CliError> {
    let id = if name.contains(':') { SpiffeId::parse(name) } else { SpiffeId::service(home, name) };
    id.map_err(|e| CliError::usage(format!("{name} is no name of a service"), e, "countersign service list"))
}

fn claim(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn chain(signing: &SigningIdentity) -> String {
    signing.chain().and_then(|chain| chain.to_str().ok()).unwrap_or_default().to_owned()
}

fn uncertified(error: &CredentialError) -> CliError {
    let what = "the key that is to sign was not certified";
    match error {
        CredentialError::Agent(refused) if !refused.is_temporary() => {
            CliError::denied(what, refused, "countersign service show NAME tells whether it was revoked")
        }
        other => CliError::unreachable(what, other, "countersign status"),
    }
}
