//! Which arms a run has, and in which order they run.
//!
//! Eight factors at up to ten levels would be millions of arms. The design is fractional: a base, and from it one factor
//! at a time (two for connections, which matter to every mode). What it cannot see is how two factors act together.

use std::{collections::BTreeSet, time::Duration};

use countersign_identity::WimseProof;
use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus, seq::SliceRandom as _};
use thiserror::Error;

use super::{
    data::{Arm, CarriedUser, Connections, Design, Factors, LabMode, Profile, Role, Signing},
    sidecars::App,
};

/// What is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Which arms were chosen.
    pub profile: Profile,
    /// How trials are laid out.
    pub design: Design,
    /// Requests in progress at any time.
    pub connections: u32,
    /// What is compared.
    pub arms: Vec<Arm>,
    /// Relays of the first mode are set up in the second: for seeing that claims fail.
    pub mislead: Option<(LabMode, LabMode)>,
    /// Services of somebody else, instead of relays.
    pub app: Option<App>,
}

/// What a person may say about a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Seed of order and resampling.
    pub seed: u64,
    /// Blocks, instead of the profile's number.
    pub blocks: Option<u32>,
    /// Length of a trial, instead of the profile's.
    pub trial: Option<Duration>,
    /// Only arms whose names contain one of these.
    pub only: Vec<String>,
    /// Delays to be found.
    pub plant: Vec<Plant>,
    /// As [`Plan::mislead`].
    pub mislead: Option<(LabMode, LabMode)>,
}

/// A delay in the last service of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plant {
    /// How long.
    pub delay: Duration,
    /// In which mode.
    pub mode: LabMode,
}

/// Why there is nothing to run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// No arm has such a name.
    #[error("no arm of this profile is called like {only:?}: the arms are {arms}")]
    NoArm {
        /// What was asked for.
        only: Vec<String>,
        /// What there is.
        arms: String,
    },
    /// Nothing has that mode kept, so nothing can be held against the delayed arm.
    #[error("a delay cannot be planted in mode {mode}: no arm of this run has it")]
    NoBase {
        /// Which.
        mode: LabMode,
    },
    /// Trials of less than the load generator's own tick.
    #[error("a trial of {given:?} is too short: {TRIAL_MIN:?} at least")]
    TrialTooShort {
        /// What was asked for.
        given: Duration,
    },
    /// Nothing to run.
    #[error("no block, no trial: name at least one block")]
    NoBlock,
}

/// The chapter: modes with both kinds of connection, then users, chains, payloads and the key exchange around a base.
///
/// # Errors
/// See [`PlanError`].
pub fn thesis(wishes: &Wishes) -> Result<Plan, PlanError> {
    let mut arms = modes();
    for base in [Way::of(LabMode::Jwt, Some(Signing::Es256)), Way::of(LabMode::Mtls, None)] {
        for user in [CarriedUser::Same, CarriedUser::PerHop, CarriedUser::Nested] {
            if user.context().works_in(base.mode.verified_as()) {
                arms.push(around(base.kept(), |factors| factors.user = user));
            }
        }
    }
    let compared = [
        Way::of(LabMode::None, None),
        Way::of(LabMode::Jwt, Some(Signing::Es256)),
        Way::of(LabMode::Mtls, None),
    ];
    for base in compared {
        arms.extend([1, 3, 4, 5].map(|edges| around(base.kept(), |factors| factors.edges = edges)));
        let payloads = [10_000, 1_000_000];
        arms.extend(payloads.map(|bytes| around(base.kept(), |factors| factors.payload_bytes = bytes)));
    }
    for base in [Way::of(LabMode::Tls, None), Way::of(LabMode::Mtls, None)] {
        arms.push(around(base.fresh(), |factors| factors.post_quantum = false));
    }
    arms.push(twin(&Way::of(LabMode::Mtls, None).kept()));
    Layout { blocks: 6, trial: Duration::from_secs(2), warm_up: Duration::from_millis(400), confidence: 0.95 }
        .plan(Profile::Thesis, arms, two_for_each_core(), wishes)
}

/// Every mode with both kinds of connection, in less than three minutes.
///
/// # Errors
/// See [`PlanError`].
pub fn quick(wishes: &Wishes) -> Result<Plan, PlanError> {
    Layout {
        blocks: 5,
        trial: Duration::from_millis(700),
        warm_up: Duration::from_millis(200),
        confidence: 0.95,
    }
    .plan(Profile::Quick, modes(), two_for_each_core(), wishes)
}

/// The experiment against itself: the same arm under two names, and one with a delay. One request at a time, since a
/// closed loop that is busy all the time waits for a core and not for a delay.
///
/// # Errors
/// See [`PlanError`].
pub fn self_check(wishes: &Wishes) -> Result<Plan, PlanError> {
    let base = Way::of(LabMode::Mtls, None).kept();
    let mut wishes = wishes.clone();
    if wishes.plant.is_empty() {
        wishes.plant.push(Plant { delay: Duration::from_millis(2), mode: LabMode::Mtls });
    }
    let arms = vec![measured(base.clone(), None), twin(&base)];
    Layout {
        blocks: 10,
        trial: Duration::from_millis(600),
        warm_up: Duration::from_millis(200),
        confidence: 0.99,
    }
    .plan(Profile::SelfCheck, arms, 1, &wishes)
}

/// Services of somebody else, each with every mode that a sidecar speaks, over kept connections: a sidecar keeps them.
///
/// # Errors
/// See [`PlanError`].
pub fn target(app: App, wishes: &Wishes) -> Result<Plan, PlanError> {
    let ways = [
        Way::of(LabMode::None, None),
        Way::of(LabMode::Bearer, None),
        Way::of(LabMode::Macaroon, None),
        Way::of(LabMode::Jwt, Some(Signing::Es256)),
        Way::wimse(WimseProof::Token),
        Way::wimse(WimseProof::HttpSignature),
        Way::of(LabMode::Mtls, None),
        Way::of(LabMode::MtlsJwt, Some(Signing::Es256)),
    ];
    let mut arms = Vec::new();
    for service in &app.service {
        let arm = |way: Way| {
            let factors = Factors { edges: 1, payload_bytes: 0, ..way.kept() };
            let name = format!("{}, {}", service.name, way_of(&factors));
            Arm { name, factors, service: Some(service.name.clone()), role: Role::Measured, base: None }
        };
        let measured = ways.map(arm);
        let base = measured.first().map(|none| none.name.clone());
        arms.extend(measured.into_iter().map(|arm| {
            let base = base.clone().filter(|base| *base != arm.name);
            Arm { base, ..arm }
        }));
    }
    let layout = Layout {
        blocks: 6,
        trial: Duration::from_secs(1),
        warm_up: Duration::from_millis(300),
        confidence: 0.95,
    };
    let plan = layout.plan(Profile::Target, arms, two_for_each_core(), wishes)?;
    Ok(Plan { app: Some(app), ..plan })
}

impl Plan {
    /// Every block's arms, each in an order of its own, by the seed.
    #[must_use]
    pub fn order(&self) -> Vec<Vec<&Arm>> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.design.seed);
        let mut block: Vec<&Arm> = self.arms.iter().collect();
        (0..self.design.blocks)
            .map(|_| {
                block.shuffle(&mut random);
                block.clone()
            })
            .collect()
    }

    /// How long its trials take, nothing else included.
    #[must_use]
    pub fn trials_take(&self) -> Duration {
        let trials = self.arms.len() as u64 * u64::from(self.design.blocks);
        Duration::from_millis(
            trials.saturating_mul(self.design.trial_ms + self.design.warm_up_ms + BETWEEN_MS),
        )
    }
}

/// A profile's own answers to what a person may wish for.
struct Layout {
    blocks: u32,
    trial: Duration,
    warm_up: Duration,
    confidence: f64,
}

impl Layout {
    fn plan(
        self,
        profile: Profile,
        mut arms: Vec<Arm>,
        connections: u32,
        wishes: &Wishes,
    ) -> Result<Plan, PlanError> {
        let trial = wishes.trial.unwrap_or(self.trial);
        if trial < TRIAL_MIN {
            return Err(PlanError::TrialTooShort { given: trial });
        }
        let blocks = wishes.blocks.unwrap_or(self.blocks);
        if blocks == 0 {
            return Err(PlanError::NoBlock);
        }
        keep_only(&mut arms, &wishes.only)?;
        for plant in &wishes.plant {
            let base = arms.iter().find(|arm| arm.role == Role::Measured && arm.factors.mode == plant.mode);
            let base = base.ok_or(PlanError::NoBase { mode: plant.mode })?;
            let delayed = planted(&base.factors, plant.delay);
            arms.push(delayed);
        }
        let design = Design {
            seed: wishes.seed,
            blocks,
            trial_ms: millis(trial),
            warm_up_ms: millis(self.warm_up.min(trial)),
            resamples: RESAMPLES,
            confidence: self.confidence,
        };
        Ok(Plan { profile, design, connections, arms, mislead: wishes.mislead, app: None })
    }
}

/// A way to prove who is calling, at the base of everything else.
#[derive(Clone, Copy)]
struct Way {
    mode: LabMode,
    signing: Option<Signing>,
    wimse: Option<WimseProof>,
}

impl Way {
    const fn of(mode: LabMode, signing: Option<Signing>) -> Self {
        Self { mode, signing, wimse: None }
    }

    const fn wimse(proof: WimseProof) -> Self {
        Self { mode: LabMode::Wimse, signing: None, wimse: Some(proof) }
    }

    const ALL: [Self; 11] = [
        Self::of(LabMode::None, None),
        Self::of(LabMode::Tls, None),
        Self::of(LabMode::Bearer, None),
        Self::of(LabMode::Macaroon, None),
        Self::of(LabMode::Jwt, Some(Signing::Rs256)),
        Self::of(LabMode::Jwt, Some(Signing::Es256)),
        Self::of(LabMode::Jwt, Some(Signing::Ed25519)),
        Self::wimse(WimseProof::Token),
        Self::wimse(WimseProof::HttpSignature),
        Self::of(LabMode::Mtls, None),
        Self::of(LabMode::MtlsJwt, Some(Signing::Es256)),
    ];

    const fn kept(self) -> Factors {
        Factors {
            mode: self.mode,
            signing: self.signing,
            wimse: self.wimse,
            user: CarriedUser::None,
            connections: Connections::Kept,
            edges: 2,
            payload_bytes: 100,
            post_quantum: true,
        }
    }

    const fn fresh(self) -> Factors {
        Factors { connections: Connections::Fresh, ..self.kept() }
    }
}

/// Every mode against plain HTTP over connections of the same kind; plain HTTP over fresh ones against kept ones.
fn modes() -> Vec<Arm> {
    let none = Way::of(LabMode::None, None);
    let base_of = |factors: &Factors, base: Factors| (*factors != base).then(|| name_of(&base));
    let both = |way: &Way| {
        let (kept, fresh) = (way.kept(), way.fresh());
        let base_of_kept = base_of(&kept, none.kept());
        let base_of_fresh = base_of(&fresh, none.fresh()).or_else(|| Some(name_of(&none.kept())));
        [measured(kept, base_of_kept), measured(fresh, base_of_fresh)]
    };
    Way::ALL.iter().flat_map(both).collect()
}

/// An arm that differs from `base` in what `change` changes, and is held against it.
fn around(base: Factors, change: impl FnOnce(&mut Factors)) -> Arm {
    let name = name_of(&base);
    let mut factors = base;
    change(&mut factors);
    measured(factors, Some(name))
}

fn measured(factors: Factors, base: Option<String>) -> Arm {
    Arm { name: name_of(&factors), factors, service: None, role: Role::Measured, base }
}

fn twin(of: &Factors) -> Arm {
    let name = name_of(of);
    let (name, base) = (format!("{name}, again"), Some(name));
    Arm { name, factors: of.clone(), service: None, role: Role::Twin, base }
}

fn planted(base: &Factors, delay: Duration) -> Arm {
    let (name, delay_us) = (name_of(base), u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
    Arm {
        name: format!("{name}, {delay_us} µs later"),
        factors: base.clone(),
        service: None,
        role: Role::Planted { delay_us },
        base: Some(name),
    }
}

/// How these factors prove who is calling, in words.
fn way_of(factors: &Factors) -> String {
    let mut name = factors.mode.to_string();
    if let Some(signing) = factors.signing {
        name = format!("{name} {}", signing.jose_name());
    }
    if let Some(wimse) = factors.wimse {
        name = format!("{name} {wimse}");
    }
    name
}

/// What sets these factors apart, in words.
fn name_of(factors: &Factors) -> String {
    let mut name = way_of(factors);
    if factors.user != CarriedUser::None {
        name = format!("{name}, user {}", factors.user.as_str());
    }
    let edges = if factors.edges == 1 { "1 edge".to_owned() } else { format!("{} edges", factors.edges) };
    let bytes = match factors.payload_bytes {
        bytes if bytes >= 1_000_000 => format!("{} MB", bytes / 1_000_000),
        bytes if bytes >= 1000 => format!("{} kB", bytes / 1000),
        bytes => format!("{bytes} B"),
    };
    let group = if factors.post_quantum { "" } else { ", X25519 alone" };
    format!("{name}, {}, {edges}, {bytes}{group}", factors.connections.as_str())
}

/// An arm whose base is left out stands alone.
fn keep_only(arms: &mut Vec<Arm>, only: &[String]) -> Result<(), PlanError> {
    if only.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = arms.iter().map(|arm| arm.name.clone()).collect();
    arms.retain(|arm| only.iter().any(|part| arm.name.contains(part.as_str())));
    if arms.is_empty() {
        return Err(PlanError::NoArm { only: only.to_vec(), arms: all.join("; ") });
    }
    let left: BTreeSet<String> = arms.iter().map(|arm| arm.name.clone()).collect();
    for arm in arms {
        arm.base = arm.base.take().filter(|base| left.contains(base));
    }
    Ok(())
}

/// Enough to keep every core busy, and few enough that an answer waits for work and not for its turn.
fn two_for_each_core() -> u32 {
    u32::try_from(2 * cores()).unwrap_or(u32::MAX)
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

const RESAMPLES: u32 = 10_000;
/// The load generator looks ten times a second whether it is to stop.
const TRIAL_MIN: Duration = Duration::from_millis(200);
/// Starting and ending the load generator twice, and reading what was counted.
const BETWEEN_MS: u64 = 300;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::experiment::sidecars::AppService;

    fn wishes() -> Wishes {
        Wishes { seed: 7, ..Wishes::default() }
    }

    fn every_profile() -> [Plan; 3] {
        [thesis(&wishes()).unwrap(), quick(&wishes()).unwrap(), self_check(&wishes()).unwrap()]
    }

    #[test]
    fn arms_have_names_of_their_own_and_bases_that_are_there() {
        for plan in every_profile() {
            let names: BTreeSet<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
            assert_eq!(names.len(), plan.arms.len(), "{:?}", plan.profile);
            for base in plan.arms.iter().filter_map(|arm| arm.base.as_deref()) {
                assert!(names.contains(base), "{base}");
            }
        }
    }

    #[test]
    fn the_chapter_has_every_factor_at_every_level() {
        let arms = thesis(&wishes()).unwrap().arms;
        let has = |what: &dyn Fn(&Factors) -> bool| arms.iter().any(|arm| what(&arm.factors));
        for mode in LabMode::ALL {
            for connections in [Connections::Kept, Connections::Fresh] {
                assert!(has(&|f| f.mode == mode && f.connections == connections), "{mode}");
            }
        }
        for signing in [Signing::Es256, Signing::Ed25519, Signing::Rs256] {
            assert!(has(&|f| f.signing == Some(signing)));
        }
        for user in [CarriedUser::Same, CarriedUser::PerHop, CarriedUser::Nested] {
            assert!(has(&|f| f.user == user));
        }
        assert!((1..=5).all(|edges| has(&|f| f.edges == edges)));
        assert!([100, 10_000, 1_000_000].iter().all(|bytes| has(&|f| f.payload_bytes == *bytes)));
        assert!(has(&|f| !f.post_quantum) && has(&|f| f.wimse == Some(WimseProof::HttpSignature)));
        assert!(arms.iter().any(|arm| arm.role == Role::Twin));
    }

    #[test]
    fn an_arm_beside_the_modes_differs_from_its_base_in_one_factor() {
        let plan = thesis(&wishes()).unwrap();
        for arm in plan.arms.iter().skip(2 * Way::ALL.len()).filter(|arm| arm.role == Role::Measured) {
            let base = arm.base.as_deref().unwrap();
            let base = &plan.arms.iter().find(|other| other.name == base).unwrap().factors;
            let differs = [
                arm.factors.user != base.user,
                arm.factors.edges != base.edges,
                arm.factors.payload_bytes != base.payload_bytes,
                arm.factors.post_quantum != base.post_quantum,
                arm.factors.mode != base.mode || arm.factors.connections != base.connections,
            ];
            assert_eq!(differs.iter().filter(|differs| **differs).count(), 1, "{}", arm.name);
        }
    }

    #[test]
    fn every_block_has_every_arm_once_in_an_order_of_its_own_that_the_seed_gives() {
        let plan = quick(&wishes()).unwrap();
        let order = plan.order();
        assert_eq!(order.len(), 5);
        for block in &order {
            let names: BTreeSet<&str> = block.iter().map(|arm| arm.name.as_str()).collect();
            assert_eq!((names.len(), block.len()), (plan.arms.len(), plan.arms.len()));
        }
        assert_ne!(order.first(), order.get(1));
        assert_eq!(order, quick(&wishes()).unwrap().order());
        assert_ne!(order, quick(&Wishes { seed: 8, ..wishes() }).unwrap().order());
    }

    #[test]
    fn the_quick_profile_leaves_time_for_its_set_up() {
        let plan = quick(&wishes()).unwrap();
        assert!(plan.trials_take() < Duration::from_secs(150), "{:?}", plan.trials_take());
        assert!(plan.arms.iter().all(|arm| arm.factors.edges == 2 && arm.factors.payload_bytes == 100));
    }

    #[test]
    fn a_person_may_take_fewer_arms_and_an_arm_without_its_base_stands_alone() {
        let only = Wishes { only: vec!["mtls, kept".into(), "tls, fresh".into()], ..wishes() };
        let plan = quick(&only).unwrap();
        let names: Vec<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
        let wanted =
            ["tls, fresh, 2 edges, 100 B", "mtls, kept, 2 edges, 100 B", "mtls, fresh, 2 edges, 100 B"];
        assert_eq!(names, wanted);
        assert!(plan.arms.iter().all(|arm| arm.base.is_none()));
    }

    #[test]
    fn every_service_of_somebody_else_has_every_mode_against_none() {
        let service =
            |name: &str| AppService { name: name.into(), app: ([127, 0, 0, 1], 80).into(), path: "/".into() };
        let app = App { service: vec![service("orders"), service("payments")] };
        let plan = target(app, &wishes()).unwrap();
        assert_eq!(plan.arms.len(), 16);
        let names: BTreeSet<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names.len(), 16);
        assert!(plan.arms.iter().filter(|arm| arm.base.is_none()).all(|arm| arm.name.ends_with(", none")));
        let jwt = plan.arms.iter().find(|arm| arm.name == "payments, jwt ES256").unwrap();
        assert_eq!((jwt.base.as_deref(), jwt.factors.edges), (Some("payments, none"), 1));
    }

    #[test]
    fn a_delay_is_planted_beside_the_arm_that_it_is_held_against() {
        let plan = self_check(&wishes()).unwrap();
        let planted = plan.arms.iter().find(|arm| matches!(arm.role, Role::Planted { .. })).unwrap();
        assert_eq!(planted.role, Role::Planted { delay_us: 2000 });
        assert_eq!(planted.base.as_deref(), Some("mtls, kept, 2 edges, 100 B"));
    }

    #[test]
    fn rejects_plans_without_arms_blocks_or_time() {
        let refused = |wishes: &Wishes| quick(wishes).unwrap_err();
        let only = Wishes { only: vec!["kerberos".into()], ..wishes() };
        assert!(matches!(refused(&only), PlanError::NoArm { .. }));
        let trial = Wishes { trial: Some(Duration::from_millis(199)), ..wishes() };
        assert!(matches!(refused(&trial), PlanError::TrialTooShort { .. }));
        assert_eq!(refused(&Wishes { blocks: Some(0), ..wishes() }), PlanError::NoBlock);
        let plant = vec![Plant { delay: Duration::from_millis(2), mode: LabMode::Jwt }];
        let refused = self_check(&Wishes { plant, ..wishes() }).unwrap_err();
        assert_eq!(refused, PlanError::NoBase { mode: LabMode::Jwt });
    }
}
