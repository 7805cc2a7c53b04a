//! A deployment that runs on this machine, as its administrator and its strangers see it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_identity::{Mode, ServiceName, TrustDomain};
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
        services::{NewService, Service},
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

use super::{FORMER, OWN, VICTIM, callee::Callee};
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

/// Every attack has an honest twin, and most of them prove themselves by mutual TLS: where that is not enough they would
/// all be refused; and where less is enough, no guard of a handshake is there to be seen.
fn asks_for_mutual_tls(service: &Service) -> Result<(), AttackError> {
    let accepts = &service.accepts;
    if accepts.contains(&Mode::Mtls) && accepts.iter().all(|mode| mode.shows_certificate()) {
        return Ok(());
    }
    let accepts = accepts.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(", ");
    Err(AttackError::OtherFloor { service: service.name.to_string(), accepts })
}

/// Who only calls listens nowhere.
const fn nowhere() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9)
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
    /// The deployment at these places, all of which must be on this machine. The services in whose names it is attacked
    /// are registered there.
    ///
    /// # Errors
    /// They are not, or nobody answers there, or mutual TLS is not what the victim asks for.
    pub async fn at(settings: Settings) -> Result<Self, AttackError> {
        settings.are_here()?;
        let services: Vec<Service> = get(&settings.admin_socket, "/api/v1/services").await?;
        let absent = AttackError::Absent { what: "service called ads" };
        let service =
            services.iter().find(|service| service.name.as_str() == VICTIM).ok_or(absent.clone())?;
        let victim = service.address.parse().map_err(|_| absent)?;
        is_here(VICTIM, victim)?;
        asks_for_mutual_tls(service)?;
        listens(victim).await?;
        let live = Self { settings, victim, tokens: Mutex::default(), callee: OnceCell::new() };
        for name in [OWN, FORMER] {
            live.register(name, nowhere(), vec![Mode::Mtls]).await?;
        }
        Ok(live)
    }

    /// Registers a service of the lab's own, or finds it registered.
    pub(super) async fn register(
        &self,
        name: &str,
        address: SocketAddr,
        accepts: Vec<Mode>,
    ) -> Result<Service, AttackError> {
        let service = NewService {
            name: name.parse().map_err(|error| AttackError::equipment("a service of its own", error))?,
            address: address.to_string(),
            launch_by: vec![nix::unistd::getuid().as_raw()],
            accepts,
            sends: Mode::Mtls,
        };
        self.post("/api/v1/services", &service).await
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
    use countersign_identity::{SpiffeId, UserContext, WimseProof};

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
    fn a_victim_is_attacked_only_where_mutual_tls_is_enough_and_nothing_less_is() {
        let accepting = |accepts: &[Mode]| {
            let trust_domain = TrustDomain::parse("fleamarket.test").unwrap();
            asks_for_mutual_tls(&Service {
                name: VICTIM.parse().unwrap(),
                spiffe_id: SpiffeId::service(&trust_domain, VICTIM).unwrap(),
                address: "127.0.0.1:1".to_owned(),
                accepts: accepts.to_vec(),
                sends: Mode::Mtls,
                user_context: UserContext::default(),
                wimse: WimseProof::default(),
                lowered_until: None,
            })
        };
        assert_eq!(accepting(&[Mode::Mtls]), Ok(()));
        assert_eq!(accepting(&[Mode::Mtls, Mode::MtlsJwt]), Ok(()));
        for other in [[Mode::Jwt].as_slice(), &[Mode::MtlsJwt], &[Mode::Bearer], &[Mode::Mtls, Mode::Jwt]] {
            let refused = accepting(other).unwrap_err();
            assert!(matches!(refused, AttackError::OtherFloor { .. }), "{refused}");
        }
        let told = accepting(&[Mode::Mtls, Mode::Jwt]).unwrap_err().to_string();
        assert!(told.starts_with("ads accepts mtls, jwt, and"), "{told}");
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
