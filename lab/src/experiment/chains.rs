//! The chains of relays: one for each way to prove who is calling, all alive at once, so that trials of different ways can
//! follow each other in any order without anything being switched.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use countersign_identity::{ServiceName, SpiffeId, TrustDomain, UserContext, WimseProof};
use countersign_wire::{
    api::{modes::ChangeModes, services::NewService, workload_keys::NewWorkloadKey},
    snapshot::{Jwk, KeyPurpose},
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    claims::CLASSICAL,
    data::{Arm, CarriedUser, Connections, Factors, LabMode, Role, Signing},
    deployment::{Deployment, DeploymentError},
    design::Plan,
    meter::{self, MeterError},
};
use crate::relay::Ready;

/// What sets one chain apart from another: everything that a request cannot choose for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What its relays are set up for: not what the arm says, where somebody wants to see claims fail.
    mode: LabMode,
    signing: Option<Signing>,
    wimse: Option<WimseProof>,
    user: CarriedUser,
    post_quantum: bool,
    delay: Duration,
    /// What the arms say, for its name.
    named: LabMode,
}

/// A running chain.
#[derive(Debug)]
pub struct Chain {
    /// What it is for.
    pub kind: Kind,
    /// Its head first.
    pub relays: Vec<Relay>,
}

/// One of its processes. Dropped, it ends.
#[derive(Debug)]
pub struct Relay {
    /// The registered service that it is.
    pub service: ServiceName,
    /// Its number for the system.
    pub pid: u32,
    /// Probes and metrics.
    pub admin: SocketAddr,
    /// Where load comes in: heads only.
    pub plain: Option<SocketAddr>,
    _child: Child,
}

/// Why a chain does not run.
#[derive(Debug, Error)]
pub enum ChainError {
    /// The deployment refuses something.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// A relay does not answer.
    #[error(transparent)]
    Meter(#[from] MeterError),
    /// A name that nobody can have.
    #[error("{name} cannot be registered: {why}")]
    Name {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// No port is free.
    #[error("no port is free on loopback: {0}")]
    Port(#[from] std::io::Error),
    /// A relay ended before it served.
    #[error("{service} does not start: {said}")]
    NotStarted {
        /// Which.
        service: String,
        /// Its last words.
        said: String,
    },
    /// An arm's first request got no good answer, however long it was asked.
    #[error("{arm}: the chain does not answer: {said}")]
    NoAnswer {
        /// Which arm.
        arm: String,
        /// What came instead.
        said: String,
    },
}

impl Kind {
    /// The chain that an arm runs on.
    #[must_use]
    pub fn of(arm: &Arm, mislead: Option<(LabMode, LabMode)>) -> Self {
        let Factors { mode, signing, wimse, user, post_quantum, .. } = arm.factors;
        let set_up = mislead.filter(|(named, _)| *named == mode).map_or(mode, |(_, instead)| instead);
        let delay = match arm.role {
            Role::Planted { delay_us } => Duration::from_micros(delay_us),
            Role::Measured | Role::Twin => Duration::ZERO,
        };
        Self { mode: set_up, signing, wimse, user, post_quantum, delay, named: mode }
    }

    /// Its name: `jwt-rs256`, `mtls-same`.
    fn label(&self) -> String {
        let mut label = self.named.as_str().replace('+', "-");
        let mut add = |part: &str| {
            let _ = write!(label, "-{}", part.to_ascii_lowercase());
        };
        if let Some(signing) = self.signing {
            add(signing.jose_name());
        }
        if let Some(wimse) = self.wimse {
            add(wimse.as_str());
        }
        if self.user != CarriedUser::None {
            add(self.user.as_str());
        }
        if !self.post_quantum {
            add(CLASSICAL);
        }
        if !self.delay.is_zero() {
            add(&format!("late-{}", self.delay.as_micros()));
        }
        label
    }

    fn service(&self, place: usize) -> Result<ServiceName, ChainError> {
        let name = format!("relay-{}-{place}", self.label());
        ServiceName::parse(&name).map_err(|error| ChainError::Name { why: error.to_string(), name })
    }

    /// What a registration cannot say from the start.
    fn further_modes(&self) -> Option<ChangeModes> {
        let context = self.user.context();
        let wimse = self.wimse.unwrap_or_default();
        (context != UserContext::default() || wimse != WimseProof::default()).then(|| ChangeModes {
            user_context: Some(context),
            wimse: Some(wimse),
            ..ChangeModes::default()
        })
    }

    /// Only the caller before it may call a relay: as a workload where the mode proves one, as nobody where none does.
    fn rules(&self, callee: &ServiceName, caller: &SpiffeId) -> String {
        let principal = match self.mode {
            LabMode::None | LabMode::Tls => "principal is Stranger".to_owned(),
            _ => format!("principal == Workload::\"{caller}\""),
        };
        format!(
            "@id(\"chain\")\npermit (\n    {principal},\n    action == Action::\"GET\",\n    \
             resource == Route::\"{callee} /hop/{{left}}/{{bytes}}/{{connections}}\"\n);\n"
        )
    }

    /// What the token service needs to know of its users.
    fn exchange_rules(&self, caller: &SpiffeId, place: usize, callee: &ServiceName) -> String {
        let rule = |id: &str, route: &str| {
            format!(
                "\n@id(\"{id}\")\npermit (\n    principal == Workload::\"{caller}\",\n    action == Action::\"POST\",\n    \
                 resource == Route::\"sts {route}\"\n)\nwhen {{ context has user }};\n"
            )
        };
        let mut rules = String::new();
        if self.user != CarriedUser::None && place == 0 {
            rules += &rule(&format!("{}-begins", self.label()), "/txn/unsigned-json");
        }
        if self.user == CarriedUser::PerHop {
            rules += &rule(&format!("{}-exchanges-{place}", self.label()), &format!("/exchange/{callee}"));
        }
        rules
    }
}

/// Registers and starts the chains of all arms, each as long as its longest arm.
///
/// # Errors
/// See [`ChainError`].
pub async fn start(
    plan: &Plan,
    deployment: &Deployment,
    program: &Path,
    logs: &Path,
) -> Result<Vec<Chain>, ChainError> {
    let mut held = Vec::new();
    let mut chains = Vec::new();
    for (kind, edges) in kinds(plan) {
        let addresses = (0..=edges).map(|_| free_port(&mut held)).collect::<Result<Vec<_>, _>>()?;
        register(&kind, &addresses, deployment).await?;
        chains.push((kind, addresses));
    }
    deployment.reload_policies().await?;
    // Nobody else took the ports while everything was registered.
    drop(held);
    let mut children = Vec::new();
    for (kind, addresses) in &chains {
        for (place, address) in addresses.iter().enumerate() {
            let last = place + 1 == addresses.len();
            children.push(spawn(kind, (place, last), *address, deployment, program, logs)?);
        }
    }
    let mut children = children.into_iter();
    let mut running = Vec::new();
    for (kind, addresses) in chains {
        let mut relays = Vec::new();
        for child in children.by_ref().take(addresses.len()) {
            let (relay, key) = child.ready(logs).await?;
            if let Some(jwk) = key {
                let key = NewWorkloadKey { purpose: KeyPurpose::Signing, jwk };
                deployment.register_key(relay.service.as_str(), &key).await?;
            }
            relays.push(relay);
        }
        running.push(Chain { kind, relays });
    }
    Ok(running)
}

/// How many processes that takes.
#[must_use]
pub fn processes(plan: &Plan) -> usize {
    kinds(plan).iter().map(|(_, edges)| edges + 1).sum()
}

/// Every chain once, with the most edges that any of its arms has.
fn kinds(plan: &Plan) -> Vec<(Kind, usize)> {
    let mut kinds: Vec<(Kind, usize)> = Vec::new();
    for arm in &plan.arms {
        let (kind, edges) = (Kind::of(arm, plan.mislead), usize::from(arm.factors.edges));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, most)) => *most = edges.max(*most),
            None => kinds.push((kind, edges)),
        }
    }
    kinds
}

async fn register(kind: &Kind, addresses: &[SocketAddr], deployment: &Deployment) -> Result<(), ChainError> {
    let uid = nix::unistd::geteuid().as_raw();
    let mode = kind.mode.verified_as();
    for (place, address) in addresses.iter().enumerate() {
        let name = kind.service(place)?;
        let address = address.to_string();
        let service = NewService {
            name: name.clone(),
            address,
            launch_by: vec![uid],
            accepts: vec![mode],
            sends: mode,
        };
        deployment.register(&service).await?;
        if let Some(modes) = kind.further_modes() {
            deployment.change_modes(name.as_str(), &modes).await?;
        }
        if let Some(before) = place.checked_sub(1) {
            let caller = id_of(deployment.trust_domain(), &kind.service(before)?)?;
            deployment.add_policies(name.as_str(), &kind.rules(&name, &caller))?;
            deployment.add_policies("sts", &kind.exchange_rules(&caller, before, &name))?;
        }
    }
    Ok(())
}

fn id_of(home: &TrustDomain, service: &ServiceName) -> Result<SpiffeId, ChainError> {
    SpiffeId::service(home, service.as_str())
        .map_err(|error| ChainError::Name { name: service.to_string(), why: error.to_string() })
}

/// A relay that was started and has not said yet that it serves.
struct Starting {
    service: ServiceName,
    child: Child,
}

fn spawn(
    kind: &Kind,
    (place, last): (usize, bool),
    listen: SocketAddr,
    deployment: &Deployment,
    program: &Path,
    logs: &Path,
) -> Result<Starting, ChainError> {
    let service = kind.service(place)?;
    let mut command = Command::new(program);
    command.arg("lab-relay").arg("--service").arg(service.as_str());
    command.arg("--listen").arg(listen.to_string()).arg("--agent-socket").arg(deployment.agent_socket());
    if place == 0 {
        command.arg("--head");
    }
    if !last {
        command.arg("--next").arg(kind.service(place + 1)?.as_str());
    } else if !kind.delay.is_zero() {
        command.arg("--delay-us").arg(kind.delay.as_micros().to_string());
    }
    if let Some(signing) = kind.signing.filter(|_| !last) {
        command.arg("--signing").arg(signing.jose_name().to_ascii_lowercase());
    }
    if !kind.post_quantum {
        command.arg("--group").arg(CLASSICAL);
    }
    if kind.mode == LabMode::Tls {
        command.arg("--calls-without-proof-over-tls");
    }
    let log = std::fs::File::create(logs.join(format!("{service}.log")))?;
    // It ends with us, however we end: our end of this pipe closes. Warnings are left out: mode `none` has one for each
    // connection.
    command.env("COUNTERSIGN_LOG", "error").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    Ok(Starting { service, child: command.kill_on_drop(true).spawn()? })
}

impl Starting {
    /// The relay, and the key that it signs with where that has to be registered.
    async fn ready(mut self, logs: &Path) -> Result<(Relay, Option<Jwk>), ChainError> {
        let service = self.service.to_string();
        let not_started = || {
            let said = std::fs::read_to_string(logs.join(format!("{service}.log"))).unwrap_or_default();
            let said = said.lines().last().unwrap_or("it said nothing in time").to_owned();
            ChainError::NotStarted { service: service.clone(), said }
        };
        let mut lines = BufReader::new(self.child.stdout.take().ok_or_else(not_started)?).lines();
        let line = timeout(START, lines.next_line()).await.ok().and_then(Result::ok).flatten();
        let ready =
            line.and_then(|line| serde_json::from_str::<Ready>(&line).ok()).ok_or_else(not_started)?;
        let jwk = ready.jwk.map(|jwk| Jwk::from_text(jwk.get())).transpose().map_err(|_| not_started())?;
        let pid = self.child.id().ok_or_else(not_started)?;
        let (admin, plain) = (ready.admin, ready.plain);
        Ok((Relay { service: self.service, pid, admin, plain, _child: self.child }, jwk))
    }
}

impl Chain {
    /// Where load for `arm` comes in.
    ///
    /// # Errors
    /// Its first relay is no head.
    pub fn head(&self, arm: &Arm) -> Result<SocketAddr, ChainError> {
        let said = || ChainError::NoAnswer { arm: arm.name.clone(), said: "it has no head".to_owned() };
        self.relays.first().and_then(|head| head.plain).ok_or_else(said)
    }

    /// Tells the head for whom it calls from now on, if for anybody: tokens live for minutes.
    ///
    /// # Errors
    /// The deployment or the head refuses.
    pub async fn renew_user(&self, deployment: &Deployment) -> Result<(), ChainError> {
        let Some(head) = self.relays.first().filter(|_| self.kind.user != CarriedUser::None) else {
            return Ok(());
        };
        let token = deployment.internal_token(USER, head.service.as_str()).await?;
        meter::post(head.admin, "/user", token.expose().to_owned()).await?;
        Ok(())
    }

    /// Asks once for what `arm` asks for all the time, until there is a good answer: keys and rules need a moment to
    /// reach everybody.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn until_it_answers(&self, arm: &Arm, within: Duration) -> Result<(), ChainError> {
        let no_answer = |said: String| ChainError::NoAnswer { arm: arm.name.clone(), said };
        let head = self.head(arm)?;
        let deadline = Instant::now() + within;
        loop {
            let answer = meter::get(head, &path_of(&arm.factors)).await;
            if matches!(&answer, Ok((200, _))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let said = answer.map_or_else(|error| error.to_string(), |(status, _)| status.to_string());
                return Err(no_answer(format!("{said}; {}", self.trouble().await)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Why calls between its relays failed, as each of them says of its own last one.
    pub async fn trouble(&self) -> String {
        let mut said = Vec::new();
        for relay in &self.relays {
            match meter::get(relay.admin, "/trouble").await {
                Ok((_, why)) if why.is_empty() => {}
                Ok((_, why)) => said.push(format!("{}: {why}", relay.service)),
                Err(error) => said.push(error.to_string()),
            }
        }
        said.join("; ")
    }
}

/// What the load generator asks the head for.
#[must_use]
pub fn path_of(factors: &Factors) -> String {
    let Factors { edges, payload_bytes, connections, .. } = factors;
    let kept = match connections {
        Connections::Kept => "kept",
        Connections::Fresh => "fresh",
    };
    format!("/call/{edges}/{payload_bytes}/{kept}")
}

/// A port that stays free until the listener that is `held` goes: below the range from which the kernel takes ports for
/// outgoing connections, of which a run makes many.
fn free_port(held: &mut Vec<TcpListener>) -> Result<SocketAddr, ChainError> {
    let mut tried = (0..TRIES).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, rand::random_range(PORTS))));
    let listener = match tried.find(Result::is_ok) {
        Some(listener) => listener?,
        None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
    };
    let address = listener.local_addr()?;
    held.push(listener);
    Ok(address)
}

/// The person for whom chains call.
const USER: &str = "alice";
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 64;
const START: Duration = Duration::from_secs(150);
const AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::experiment::design::{Wishes, quick, self_check, thesis};

    fn plan() -> Plan {
        thesis(&Wishes::default()).unwrap()
    }

    #[test]
    fn arms_share_a_chain_where_a_request_says_what_sets_them_apart() {
        let kinds = kinds(&plan());
        let edges_of = |label: &str| {
            let found: Vec<usize> =
                kinds.iter().filter(|(kind, _)| kind.label() == label).map(|(_, edges)| *edges).collect();
            assert_eq!(found.len(), 1, "{label}");
            found.first().copied().unwrap()
        };
        assert_eq!(
            [edges_of("mtls"), edges_of("jwt-es256"), edges_of("none"), edges_of("tls")],
            [5, 5, 5, 2]
        );
        assert_eq!(edges_of("mtls-x25519") + edges_of("jwt-es256-per-hop"), 4);
        assert_eq!(kinds.len(), 11 + 5 + 2);
    }

    #[test]
    fn every_service_of_every_chain_has_a_name_of_its_own_that_can_be_registered() {
        let mut names = std::collections::BTreeSet::new();
        for (kind, edges) in kinds(&plan()) {
            assert!((0..=edges).all(|place| names.insert(kind.service(place).unwrap().to_string())));
        }
        assert!(names.contains("relay-mtls-jwt-es256-0") && names.contains("relay-wimse-http-signature-2"));
    }

    #[test]
    fn a_delayed_chain_is_another_one_and_a_twin_is_not() {
        assert_eq!(kinds(&self_check(&Wishes::default()).unwrap()).len(), 2);
    }

    #[test]
    fn a_relay_lets_in_the_one_before_it_and_where_nobody_is_proven_nobody_else_by_name() {
        let plan = quick(&Wishes::default()).unwrap();
        let [callee, caller] = ["b", "a"].map(|name| ServiceName::parse(name).unwrap());
        let caller = id_of(&TrustDomain::parse("td").unwrap(), &caller).unwrap();
        for (kind, _) in kinds(&plan) {
            let rules = kind.rules(&callee, &caller);
            let proves = !matches!(kind.mode, LabMode::None | LabMode::Tls);
            assert_eq!(rules.contains("Workload::\"spiffe://td/svc/a\""), proves, "{rules}");
            assert_eq!(rules.contains("Stranger"), !proves, "{rules}");
        }
    }

    #[test]
    fn a_chain_may_be_set_up_in_another_mode_than_its_arm_says() {
        let plan = quick(&Wishes { mislead: Some((LabMode::Mtls, LabMode::None)), ..Wishes::default() });
        let kinds = kinds(&plan.unwrap());
        let (misled, _) = kinds.iter().find(|(kind, _)| kind.label() == "mtls").unwrap();
        assert_eq!((misled.mode, misled.named), (LabMode::None, LabMode::Mtls));
        assert!(kinds.iter().filter(|(kind, _)| kind.mode != kind.named).count() == 1);
    }

    #[test]
    fn a_name_that_is_too_long_cannot_be_registered() {
        let plan = self_check(&Wishes::default()).unwrap();
        let arm = plan.arms.iter().find(|arm| matches!(arm.role, Role::Planted { .. })).unwrap();
        let kind = Kind {
            wimse: Some(WimseProof::HttpSignature),
            user: CarriedUser::PerHop,
            post_quantum: false,
            delay: Duration::from_micros(u64::MAX),
            ..Kind::of(arm, None)
        };
        assert!(matches!(kind.service(0), Err(ChainError::Name { .. })));
    }

    fn silent_chain() -> Chain {
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let child = Command::new("true").spawn().unwrap();
        let service = ServiceName::parse("relay-mtls-0").unwrap();
        let relay = Relay { service, pid: u32::MAX, admin: nobody, plain: Some(nobody), _child: child };
        let plan = quick(&Wishes::default()).unwrap();
        Chain { kind: Kind::of(plan.arms.first().unwrap(), None), relays: vec![relay] }
    }

    #[tokio::test]
    async fn a_chain_that_does_not_answer_is_told_with_its_trouble() {
        let plan = quick(&Wishes::default()).unwrap();
        let chain = silent_chain();
        let refused = chain.until_it_answers(plan.arms.first().unwrap(), Duration::ZERO).await.unwrap_err();
        assert!(
            matches!(&refused, ChainError::NoAnswer { said, .. } if said.contains("/trouble")),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_relay_that_ends_before_it_serves_is_told_with_its_last_words() {
        let logs = tempfile::tempdir().unwrap();
        std::fs::write(logs.path().join("relay-x-0.log"), "first\nno identity\n").unwrap();
        let child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        let starting = Starting { service: ServiceName::parse("relay-x-0").unwrap(), child };
        let refused = starting.ready(logs.path()).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(&refused, ChainError::NotStarted { said, .. } if said == "no identity"),
            "{refused}"
        );
    }
}
