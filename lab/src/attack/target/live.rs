//! A deployment that runs on this machine, as its administrator and its strangers see it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_identity::{ServiceName, TrustDomain};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_ledger::{Decision, Entry};
use countersign_pki::{CertificateDer, csr};
use countersign_wire::{
    Base64, SecretText,
    api::{
        Page,
        audit::AuditEvent,
        certificates::{IssueCertificate, IssuedCertificate, Revoke, Revoked},
        explain::Explanation,
        services::Service,
        users::{LoggedIn, Login},
    },
    codes::Code,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::TcpStream,
    sync::{Mutex, OnceCell},
    time::Instant,
};

use super::{VICTIM, callee::Callee};
use crate::attack::{AttackError, Dial, Held, Kind, Reply, Request, Why, wire::Connection};

/// Where the parts of a deployment are.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its local administration.
    pub admin_socket: PathBuf,
    /// The agent's socket.
    pub agent_socket: PathBuf,
    /// The edge over TLS.
    pub gateway_tls: SocketAddr,
    /// The edge in the clear, where there is one.
    pub gateway: Option<SocketAddr>,
    /// The authority's API.
    pub authority: SocketAddr,
    /// The authority's API for nodes, where it is known.
    pub nodes: Option<SocketAddr>,
    /// Where `NAME.password` of each user lies.
    pub passwords: PathBuf,
    /// Where its state lies, if it is known.
    pub state_dir: Option<PathBuf>,
}

/// What is not attacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} is at {address}, which is not this machine: attack what runs here, or what `--target` names on a loopback address"
)]
pub struct ForeignTarget {
    /// Which part.
    pub what: String,
    /// Where.
    pub address: SocketAddr,
}

/// A running deployment.
pub struct Live {
    settings: Settings,
    victim: SocketAddr,
    /// Logins are throttled, and so each user logs in once.
    tokens: Mutex<HashMap<String, SecretText>>,
    pub(super) callee: OnceCell<Callee>,
}

/// A service may be starting still. Whoever is not there blocks nothing.
async fn listens(address: SocketAddr) -> Result<(), AttackError> {
    let mut tries = 0;
    loop {
        match TcpStream::connect(address).await {
            Ok(_) => return Ok(()),
            Err(error) if tries >= TRIES => return Err(AttackError::equipment("a connection to ads", error)),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

impl Settings {
    /// # Errors
    /// One of them is somewhere else.
    fn are_here(&self) -> Result<(), ForeignTarget> {
        let others = [("the edge", self.gateway), ("the api for nodes", self.nodes)];
        let others = others.into_iter().filter_map(|(what, address)| Some((what, address?)));
        let parts = [("the edge", self.gateway_tls), ("the authority", self.authority)];
        parts.into_iter().chain(others).try_for_each(|(what, address)| is_here(what, address))
    }
}

impl Live {
    /// The deployment at these places, all of which must be on this machine.
    ///
    /// # Errors
    /// They are not, or nobody answers there.
    pub async fn at(settings: Settings) -> Result<Self, AttackError> {
        settings.are_here()?;
        let services: Vec<Service> = get(&settings.admin_socket, "/api/v1/services").await?;
        let victim = services.iter().find(|service| service.name.as_str() == VICTIM);
        let victim = victim.and_then(|service| service.address.parse().ok());
        let victim = victim.ok_or(AttackError::Absent { what: "service called ads" })?;
        is_here(VICTIM, victim)?;
        listens(victim).await?;
        Ok(Self { settings, victim, tokens: Mutex::default(), callee: OnceCell::new() })
    }

    /// Where its parts are.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) const fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    pub(super) const fn victim(&self) -> SocketAddr {
        self.victim
    }

    /// Asks the administration, as its owner.
    ///
    /// # Errors
    /// It does not answer so.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AttackError> {
        get(&self.settings.admin_socket, path).await
    }

    /// Tells the administration, as its owner.
    ///
    /// # Errors
    /// It does not answer so.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AttackError> {
        let body = serde_json::to_vec(body).map_err(|error| AttackError::equipment("a request", error))?;
        ask(&self.settings.admin_socket, &Request::get(path).by("POST").carrying(JSON, body)).await
    }

    pub(super) async fn certified(
        &self,
        name: &str,
        kind: Kind,
        life: Duration,
    ) -> Result<Held, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("a certificate", why);
        let service: ServiceName = name.parse().map_err(|error| failed(&error))?;
        let key = KeyPair::generate(&SystemRandom::new()).map_err(|error| failed(&error))?;
        let profile = match kind {
            Kind::Workload => None,
            Kind::ServerOnly => Some("server".to_owned()),
            Kind::Signing => Some("signing".to_owned()),
        };
        let order = IssueCertificate {
            service: Some(service),
            edge: None,
            csr: Base64(csr::make(&key, None).map_err(|error| failed(&error))?),
            profile,
            ttl_s: Some(life.as_secs()),
        };
        let issued: IssuedCertificate = self.post("/api/v1/certificates", &order).await?;
        let id = issued.certificate.spiffe_id.ok_or_else(|| failed(&"it names nobody"))?;
        let chain = issued.chain.into_iter().map(|der| CertificateDer::from(der.0)).collect();
        Ok(Held { id, chain, key, serial: issued.certificate.serial })
    }

    pub(super) async fn revoke(&self, held: &Held) -> Result<(), AttackError> {
        let order = Revoke { serial: Some(held.serial.clone()), ..Revoke::default() };
        let _: Revoked = self.post("/api/v1/certificates/revoke", &order).await?;
        // Promised to be known everywhere by then.
        tokio::time::sleep(REVOKED_WITHIN).await;
        Ok(())
    }

    pub(super) async fn user_token(&self, user: &str) -> Result<String, AttackError> {
        let mut tokens = self.tokens.lock().await;
        if let Some(token) = tokens.get(user) {
            return Ok(token.expose().to_owned());
        }
        let token = self.log_in(user).await?;
        tokens.insert(user.to_owned(), token.clone());
        Ok(token.expose().to_owned())
    }

    pub(super) fn password(&self, user: &str) -> Result<String, AttackError> {
        let file = self.settings.passwords.join(format!("{user}.password"));
        let password = std::fs::read_to_string(file).map_err(|e| AttackError::equipment("a password", e))?;
        Ok(password.lines().next().unwrap_or_default().to_owned())
    }

    async fn log_in(&self, user: &str) -> Result<SecretText, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("an access token", why);
        let password = SecretText::new(self.password(user)?);
        let login = serde_json::to_vec(&Login { name: user.to_owned(), password }).map_err(|e| failed(&e))?;
        let request = Request::get("/api/v1/login").by("POST").carrying(JSON, login);
        let reply = self.ask_authority(&request).await?;
        let logged_in: LoggedIn = serde_json::from_slice(&reply.body).map_err(|error| failed(&error))?;
        Ok(logged_in.access_token)
    }

    pub(super) async fn published_key(&self) -> Result<serde_json::Value, AttackError> {
        let failed = |why: &dyn std::fmt::Display| AttackError::equipment("the published key", why);
        let reply = self.ask_authority(&Request::get("/oauth2/jwks")).await?;
        let set: serde_json::Value = serde_json::from_slice(&reply.body).map_err(|error| failed(&error))?;
        set.pointer("/keys/0").cloned().ok_or_else(|| failed(&"the set is empty"))
    }

    /// A request at the authority's HTTPS API, as anybody may send it.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask_authority(&self, request: &Request) -> Result<Reply, AttackError> {
        let lost = |why: String| AttackError::NoConnection { what: "the authority".to_owned(), why };
        let request = request.clone().with("Host", self.settings.authority.to_string());
        let mut connection =
            Dial::to(self.settings.authority).connect().await.map_err(|broken| lost(broken.how))?;
        connection.send(&request).await.map_err(|broken| lost(broken.how))
    }

    /// A refusal is at the authority within a second.
    pub(super) async fn why(&self, decision: &str) -> Option<Why> {
        patiently(async || {
            let path = format!("/api/v1/decisions/{decision}");
            let explained: Explanation = self.get(&path).await.ok()?;
            Some(Why {
                code: explained.code.as_deref().and_then(|code| Code::parse(code).ok()),
                reason: explained.reason.unwrap_or_default(),
                decision: Some(decision.to_owned()),
            })
        })
        .await
    }

    pub(super) async fn why_not_connected(&self, local: SocketAddr) -> Option<Why> {
        let peer = local.to_string();
        patiently(async || {
            let found = self
                .refusals()
                .await?
                .into_iter()
                .rev()
                .find(|d| d.peer.as_deref() == Some(peer.as_str()))?;
            Some(Why {
                code: found.code.as_deref().and_then(|code| Code::parse(code).ok()),
                reason: found.reason.unwrap_or_default(),
                decision: Some(found.id.to_string()),
            })
        })
        .await
    }

    async fn refusals(&self) -> Option<Vec<Decision>> {
        let path = "/api/v1/audit/events?kind=decision&verdict=deny&newest=true&limit=100";
        let page: Page<AuditEvent> = self.get(path).await.ok()?;
        let entries = page.items.iter().filter_map(|event| {
            let entry: Entry = serde_json::from_slice(event.event.as_slice()).ok()?;
            Some(entry.decisions().into_iter().map(|(_, decision)| decision))
        });
        Some(entries.flatten().collect())
    }
}

async fn patiently<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let found = look().await;
        if found.is_some() || begun.elapsed() > KNOWN_WITHIN {
            return found;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AttackError> {
    ask(socket, &Request::get(path)).await
}

async fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, AttackError> {
    let lost = |why: String| AttackError::NoConnection { what: "the administration".to_owned(), why };
    let mut connection = Connection::unix(socket).await.map_err(|broken| lost(broken.how))?;
    let reply = connection.send(request).await.map_err(|broken| lost(broken.how))?;
    if reply.status >= 300 {
        let problem = reply.problem().map(|problem| format!(" {} {:?}", problem.code, problem.detail));
        return Err(lost(format!(
            "{} {}: {}{}",
            request.method,
            request.target,
            reply.status,
            problem.unwrap_or_default()
        )));
    }
    serde_json::from_slice(&reply.body).map_err(|error| lost(error.to_string()))
}

fn is_here(what: &str, address: SocketAddr) -> Result<(), ForeignTarget> {
    if address.ip().is_loopback() { Ok(()) } else { Err(ForeignTarget { what: what.to_owned(), address }) }
}

const JSON: &str = "application/json";
const KNOWN_WITHIN: Duration = Duration::from_secs(4);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
pub(super) const REVOKED_WITHIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(gateway_tls: &str, authority: &str) -> Settings {
        Settings {
            trust_domain: TrustDomain::parse("fleamarket.test").unwrap(),
            admin_socket: "/s/admin.sock".into(),
            agent_socket: "/s/agent.sock".into(),
            gateway_tls: gateway_tls.parse().unwrap(),
            gateway: None,
            authority: authority.parse().unwrap(),
            nodes: None,
            passwords: "/s/users".into(),
            state_dir: None,
        }
    }

    #[test]
    fn only_what_runs_on_this_machine_is_attacked() {
        settings("127.0.0.1:1", "[::1]:2").are_here().unwrap();
        let foreign = settings("127.0.0.1:1", "192.0.2.7:443").are_here().unwrap_err();
        assert_eq!(foreign.what, "the authority");
        assert!(settings("10.0.0.1:1", "127.0.0.1:2").are_here().is_err());
        assert!(settings("0.0.0.0:1", "127.0.0.1:2").are_here().is_err());
    }
}
