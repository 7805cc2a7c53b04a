//! What a deployment needs once: the edge root for clients, users, the gateway's certificate, a join token.
//! Each step is safe to repeat: a start that was cut off is completed by the next.

use std::time::Duration;

use countersign_identity::{IdKind, ServiceName, UnixTime};
use countersign_keys::{SystemRandom, random_bytes};
use countersign_wire::SecretText;
use countersign_wire::api::Page;
use countersign_wire::api::certificates::{Bundle, EdgeNames, IssueCertificate, IssuedCertificate};
use countersign_wire::api::modes::{ModesChanged, SwitchDemo};
use countersign_wire::api::nodes::{JoinToken, NewJoinToken};
use countersign_wire::api::services::Service;
use countersign_wire::api::users::{NewUser, User};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::cli::ca::{csr_for, key_pem, new_key, pem_of};
use crate::cli::idp::password_in;
use crate::error::CliError;
use crate::up::layout::Layout;
use crate::up::write_private;

/// The people of the flea market, with their roles.
const PEOPLE: [(&str, &str); 4] =
    [("alice", "buyer"), ("bob", "seller"), ("mod", "moderator"), ("eve", "guest")];

/// Life of the gateway's certificate; it is renewed at half of it.
const GATEWAY_TTL: Duration = Duration::from_secs(24 * 3600);
/// Pause before a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// A join token is used at once or not at all.
const JOIN_TTL: Duration = Duration::from_secs(600);

/// Writes the edge root to `ca.pem`, for curl and browsers.
///
/// # Errors
/// Where the authority does not answer.
pub async fn write_edge_root(layout: &Layout, admin: &Admin) -> Result<(), CliError> {
    let bundle: Bundle = admin.get("/api/v1/bundle").await?;
    write_private(&layout.ca_file(), pem_of("CERTIFICATE", &bundle.edge_roots).as_bytes())
}

/// Gives every service the modes that `up --mode` names, before any of them runs.
///
/// # Errors
/// Where the authority refuses.
pub async fn switch_modes(admin: &Admin, wanted: &SwitchDemo) -> Result<(), CliError> {
    let services: Vec<Service> = admin.get("/api/v1/services").await?;
    let has_them = |service: &Service| {
        let is_gateway = matches!(service.spiffe_id.kind(), IdKind::Gateway(_));
        (is_gateway || service.accepts == [wanted.mode])
            && service.sends == wanted.mode
            && service.user_context == wanted.user_context
            && service.wimse == wanted.wimse
    };
    if services.iter().all(has_them) {
        return Ok(());
    }
    let _: ModesChanged = admin.post("/api/v1/demo/mode", wanted).await?;
    Ok(())
}

/// Makes the flea market's users, each with a random password that lies 0600 in the state directory.
///
/// # Errors
/// Where the authority refuses or a file cannot be written.
pub async fn make_users(layout: &Layout, admin: &Admin) -> Result<(), CliError> {
    let known: Page<User> = admin.get("/api/v1/users?limit=1000").await?;
    for (name, role) in PEOPLE {
        if known.items.iter().any(|user| user.name == name) {
            continue;
        }
        let file = layout.password_file(name);
        if !file.exists() {
            write_private(&file, random_password()?.expose().as_bytes())?;
        }
        let user =
            NewUser { name: name.to_owned(), password: password_in(&file)?, roles: vec![role.to_owned()] };
        let _: User = admin.post("/api/v1/users", &user).await?;
    }
    Ok(())
}

/// A new certificate for the gateway's HTTPS.
///
/// # Errors
/// Where the authority refuses or a file cannot be written.
pub async fn certify_gateway(layout: &Layout, admin: &Admin) -> Result<UnixTime, CliError> {
    let key = new_key()?;
    let request = IssueCertificate {
        service: None,
        edge: Some(EdgeNames { dns: vec!["localhost".into()], ips: vec!["127.0.0.1".into(), "::1".into()] }),
        csr: csr_for(&key)?.into(),
        profile: None,
        ttl_s: Some(GATEWAY_TTL.as_secs()),
    };
    let issued: IssuedCertificate = admin.post("/api/v1/certificates", &request).await?;
    let (cert_file, key_file) = layout.gateway_tls();
    write_private(&key_file, &key_pem(&key)?)?;
    write_private(&cert_file, pem_of("CERTIFICATE", &issued.chain).as_bytes())?;
    Ok(issued.certificate.not_after)
}

/// Renews the gateway's certificate at half its life, until `stop`.
pub async fn keep_gateway_certified(layout: Layout, admin: Admin, stop: CancellationToken) {
    let mut pause = GATEWAY_TTL / 2;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match certify_gateway(&layout, &admin).await {
            Ok(_) => GATEWAY_TTL / 2,
            Err(e) => {
                tracing::warn!(error = %e, "the gateway's certificate could not be renewed");
                RENEW_AGAIN
            }
        };
    }
}

/// A single-use join token for this machine's agent, in a file that the agent deletes.
///
/// # Errors
/// Where the authority refuses or the file cannot be written.
pub async fn write_join_token(layout: &Layout, admin: &Admin) -> Result<(), CliError> {
    let node: ServiceName = countersign_authority::LOCAL_NODE
        .parse()
        .map_err(|e| CliError::failed("the local node has no name", e, "report this"))?;
    let token: JoinToken =
        admin.post("/api/v1/join-tokens", &NewJoinToken { node, ttl_s: Some(JOIN_TTL.as_secs()) }).await?;
    write_private(&layout.join_token_file(), token.token.expose().as_bytes())
}

/// Takes away a join token that an agent with a credential of its own did not need.
pub fn remove_join_token(layout: &Layout) {
    let _ = std::fs::remove_file(layout.join_token_file());
}

/// 160 random bits, in letters and digits that survive every terminal.
fn random_password() -> Result<SecretText, CliError> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes: [u8; 32] = random_bytes(&SystemRandom::new())
        .map_err(|e| CliError::failed("there is no randomness", e, "try again"))?;
    let text =
        bytes.iter().filter_map(|b| ALPHABET.get(usize::from(b % 32))).map(|c| char::from(*c)).collect();
    Ok(SecretText::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_passwords_are_alike_and_each_is_long_enough_to_stand_alone() {
        let (a, b) = (random_password().unwrap(), random_password().unwrap());
        assert_ne!(a.expose(), b.expose());
        assert_eq!(a.expose().len(), 32);
    }
}
