//! The chains of relays: one for each way to prove who is calling, all alive at once, so that trials of different ways can
//! follow each other in any order without anything being switched.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use countersign_identity::{ServiceName, SpiffeId, TrustDomain, UserContext, WimseProof};
use countersign_wire::{
    api::{modes::ChangeModes, services::NewService, workload_keys::NewWorkloadKey},
    snapshot::KeyPurpose,
};
use thiserror::Error;

use super::{
    claims::CLASSICAL,
    data::{Arm, CarriedUser, Factors, LabMode, Role, Signing},
    deployment::{Deployment, DeploymentError},
    design::Plan,
    meter::{self, MeterError},
    processes::{Ports, Relay, Starter},
    sidecars::AppService,
};

/// What sets one chain apart from another: everything that a request cannot choose for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What its relays are set up for: not what the arm says, where somebody wants to see claims fail.
    pub(super) mode: LabMode,
    pub(super) signing: Option<Signing>,
    wimse: Option<WimseProof>,
    user: CarriedUser,
    pub(super) post_quantum: bool,
    pub(super) delay: Duration,
    /// What the arms say, for its name.
    named: LabMode,
    /// Where its last process leads: a service of somebody else, behind sidecars instead of relays.
    app: Option<AppService>,
}

/// A running chain.
#[derive(Debug)]
pub struct Chain {
    /// What it is for.
    pub kind: Kind,
    /// Its head first.
    pub relays: Vec<Relay>,
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
    /// The chain that an arm of `plan` runs on.
    #[must_use]
    pub fn of(arm: &Arm, plan: &Plan) -> Self {
        let Factors { mode, signing, wimse, user, post_quantum, .. } = arm.factors;
        let set_up = plan.mislead.filter(|(named, _)| *named == mode).map_or(mode, |(_, instead)| instead);
        let delay = match arm.role {
            Role::Planted { delay_us } => Duration::from_micros(delay_us),
            Role::Measured | Role::Twin => Duration::ZERO,
        };
        let is_it = |app: &&AppService| Some(&app.name) == arm.service.as_ref();
        let app = plan.app.as_ref().and_then(|app| app.service.iter().find(is_it)).cloned();
        Self { mode: set_up, signing, wimse, user, post_quantum, delay, named: mode, app }
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

    pub(super) fn service(&self, place: usize) -> Result<ServiceName, ChainError> {
        let of = self.app.as_ref().map_or("relay", |app| app.name.as_str());
        let name = format!("{of}-{}-{place}", self.label());
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
        // Which routes a service of somebody else has, nobody said.
        let resource = match &self.app {
            Some(_) => format!("resource in Service::\"{callee}\""),
            None => format!("resource == Route::\"{callee} /hop/{{left}}/{{bytes}}/{{connections}}\""),
        };
        format!(
            "@id(\"chain\")\npermit (\n    {principal},\n    action == Action::\"GET\",\n    {resource}\n);\n"
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
        let places = (0..=edges).map(|_| Ports::free(&mut held)).collect::<Result<Vec<_>, _>>()?;
        register(&kind, &places, deployment).await?;
        chains.push((kind, places));
    }
    deployment.reload_policies().await?;
    // Nobody else took the ports while everything was registered.
    drop(held);
    let (starter, mut children) = (Starter { deployment, program, logs }, Vec::new());
    for (kind, places) in &chains {
        for (place, ports) in places.iter().enumerate() {
            let last = place + 1 == places.len();
            children.push(match &kind.app {
                None => starter.relay(kind, (place, last), ports)?,
                Some(app) => starter.sidecar(kind, place, ports, app)?,
            });
        }
    }
    let mut children = children.into_iter();
    let mut running = Vec::new();
    for (kind, places) in chains {
        let mut relays = Vec::new();
        for child in children.by_ref().take(places.len()) {
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
        let (kind, edges) = (Kind::of(arm, plan), usize::from(arm.factors.edges));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, most)) => *most = edges.max(*most),
            None => kinds.push((kind, edges)),
        }
    }
    kinds
}

async fn register(kind: &Kind, places: &[Ports], deployment: &Deployment) -> Result<(), ChainError> {
    let uid = nix::unistd::geteuid().as_raw();
    let mode = kind.mode.verified_as();
    for (place, ports) in places.iter().enumerate() {
        let name = kind.service(place)?;
        let address = ports.listen.to_string();
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

impl Chain {
    /// Where load for `arm` comes in.
    ///
    /// # Errors
    /// Its first relay is no head.
    pub fn head(&self, arm: &Arm) -> Result<SocketAddr, ChainError> {
        let said = || ChainError::NoAnswer { arm: arm.name.clone(), said: "it has no head".to_owned() };
        self.relays.first().and_then(|head| head.plain).ok_or_else(said)
    }

    /// What the load generator asks the head for, and under which name.
    ///
    /// # Errors
    /// As [`Chain::head`].
    pub fn asked(&self, arm: &Arm) -> Result<Asked, ChainError> {
        let head = self.head(arm)?;
        let callee = self.relays.get(1).map(|callee| callee.service.to_string());
        Ok(match (&self.kind.app, callee) {
            (Some(app), Some(host)) => Asked { head, host, path: app.path.clone() },
            _ => Asked { head, host: head.to_string(), path: path_of(&arm.factors) },
        })
    }

    /// How long its processes may take to count what they have done: sidecars add up their quick calls from time to time.
    #[must_use]
    pub const fn counts_within(&self) -> Duration {
        if self.kind.app.is_some() { SIDECAR_COUNTS } else { RELAY_COUNTS }
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
        let Asked { head, host, path } = self.asked(arm)?;
        let deadline = Instant::now() + within;
        loop {
            let answer = meter::get_of(head, &host, &path).await;
            if matches!(&answer, Ok((200..=399, _))) {
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
        if self.kind.app.is_some() {
            return "the ledger of a sidecar has the reason".to_owned();
        }
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

/// Where load goes, under which name, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Address of the head.
    pub head: SocketAddr,
    /// `Host`: a sidecar calls whom it names.
    pub host: String,
    /// Of the `GET`.
    pub path: String,
}

fn path_of(factors: &Factors) -> String {
    let Factors { edges, payload_bytes, connections, .. } = factors;
    format!("/call/{edges}/{payload_bytes}/{}", connections.as_str())
}

/// The person for whom chains call.
const USER: &str = "alice";
const AGAIN: Duration = Duration::from_millis(100);
/// Requests that were in progress end within moments.
const RELAY_COUNTS: Duration = Duration::from_millis(20);
/// More than the tick of a sidecar's workers.
const SIDECAR_COUNTS: Duration = Duration::from_millis(600);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{Ipv4Addr, TcpListener};

    use tokio::process::Command;

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
            ..Kind::of(arm, &plan)
        };
        assert!(matches!(kind.service(0), Err(ChainError::Name { .. })));
    }

    fn silent_chain() -> Chain {
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let child = Command::new("true").spawn().unwrap();
        let service = ServiceName::parse("relay-mtls-0").unwrap();
        let relay = Relay { service, pid: u32::MAX, admin: nobody, plain: Some(nobody), _child: child };
        let plan = quick(&Wishes::default()).unwrap();
        Chain { kind: Kind::of(plan.arms.first().unwrap(), &plan), relays: vec![relay] }
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
}
