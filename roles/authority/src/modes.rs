//! Changing how services prove themselves to each other while they run.
//!
//! A switch is three steps: every callee accepts the new mode as well, every caller sends it, every callee accepts
//! nothing else. Each step waits until all running workloads say that they work by it, so no request is refused on
//! the way. A switch that is cut off is finished by upkeep: what it leads to is written down with its first step.

use std::{sync::Arc, time::Duration};

use countersign_identity::{Mode, ServiceName, SpiffeId, UnixTime};
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{
    StoreError,
    services::{Lowered, Modes, Service},
};
use tokio::sync::OwnedMutexGuard;

use crate::{journal::Change, snapshot, state::Authority};

/// How long one step waits for those who run.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that were made under the old mode and have not arrived yet.
const SETTLE: Duration = Duration::from_millis(750);
/// A switch that is older than this was cut off.
const SWITCH_MAX: Duration = Duration::from_secs(120);

/// What a service has of whose modes nobody said anything.
const DEFAULT: Mode = Mode::Mtls;

/// What a service is to have at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: ServiceName,
    pub(crate) modes: Modes,
    /// Set where this lowers a floor for a while.
    pub(crate) lowered: Option<Lowered>,
}

/// Who holds it changes modes, and nobody else does. Take it before looking at what is to be changed: a floor that was
/// read before another switch raised it would be lowered by the next one.
pub(crate) struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedMutexGuard<()>);

impl Turn {
    /// Waits until no switch is under way.
    pub(crate) async fn wait(authority: &Authority) -> Self {
        Self(Arc::clone(&authority.switching).lock_owned().await)
    }
}

/// Switches all of them together. Returns the workloads that did not confirm the last step.
pub(crate) async fn switch(
    authority: &Arc<Authority>,
    _turn: Turn,
    wanted: Vec<Wanted>,
    by: &str,
) -> Result<Vec<SpiffeId>, StoreError> {
    let now = clock::now();
    let mut widened = Vec::with_capacity(wanted.len());
    for want in &wanted {
        let missing = StoreError::Missing { what: "service" };
        let held = authority.db.service(want.name.as_str()).await?.ok_or(missing)?;
        let accepts = union(&held.accepts, &want.modes.accepts);
        // Should we end here, this is what comes: a floor that was to be lowered for a while stays where it was.
        let from = want.lowered.as_ref().map_or(&want.modes, |lowered| &lowered.from).clone();
        let coming = Lowered { until: now.saturating_add(SWITCH_MAX), from };
        widened.push((want, Modes { accepts, ..held.modes() }, coming));
    }
    let step = |modes: &dyn Fn(&Wanted, &Modes) -> Modes| -> Vec<Step> {
        let one = |(want, held, coming): &(&Wanted, Modes, Lowered)| {
            (want.name.clone(), modes(want, held), Some(coming.clone()))
        };
        widened.iter().map(one).collect()
    };
    take(authority, step(&|_, held| held.clone()), by).await?;
    take(authority, step(&|want, held| Modes { accepts: held.accepts.clone(), ..want.modes.clone() }), by)
        .await?;
    if authority.applied.anybody_since(now) {
        tokio::time::sleep(SETTLE).await;
    }
    let last = wanted.into_iter().map(|want| (want.name, want.modes, want.lowered)).collect();
    take(authority, last, by).await
}

/// What `authority.strict` refuses does not last: whoever switches it on means what the database has already, too. Must
/// be called before the first snapshot is made and the first caller heard.
pub(crate) async fn raise_to_strict(authority: &Authority) -> Result<(), StoreError> {
    if !authority.settings.strict {
        return Ok(());
    }
    let raised: Vec<Step> = authority.db.services().await?.iter().filter_map(proving).collect();
    for (name, modes, _) in &raised {
        let accepts: Vec<&str> = modes.accepts.iter().map(|mode| mode.as_str()).collect();
        let accepts = accepts.join(",");
        tracing::warn!(service = %name, accepts, sends = %modes.sends,
            "mode none is over: authority.strict refuses it, and the floor was raised");
    }
    if raised.is_empty() {
        return Ok(());
    }
    let by = "authority.strict";
    let events =
        raised.iter().map(|(name, modes, lowered)| event(name, modes, lowered.as_ref(), by)).collect();
    authority
        .journal
        .with(events, |db, records| async move {
            db.set_modes(&raised, &records, clock::now()).await.map(Change::Recorded)
        })
        .await
}

/// The same service without mode `none`, if it has that now or would get it back.
fn proving(service: &Service) -> Option<Step> {
    let held = service.modes();
    let lowered = match &service.lowered {
        // A floor that was lowered to nothing comes back at once.
        Some(lowered) if proves_nothing(&held) => {
            return Some((service.name.clone(), raised(&lowered.from), None));
        }
        lowered => lowered.as_ref().map(|lowered| Lowered { from: raised(&lowered.from), ..lowered.clone() }),
    };
    let modes = raised(&held);
    let changed = modes != held || lowered != service.lowered;
    changed.then(|| (service.name.clone(), modes, lowered))
}

/// What is left without mode `none`; where nothing is, the default.
fn raised(modes: &Modes) -> Modes {
    let mut accepts: Vec<Mode> = modes.accepts.iter().copied().filter(|mode| *mode != Mode::None).collect();
    if accepts.is_empty() {
        accepts.push(DEFAULT);
    }
    let sends = if modes.sends == Mode::None { DEFAULT } else { modes.sends };
    Modes { accepts, sends, ..modes.clone() }
}

fn proves_nothing(modes: &Modes) -> bool {
    modes.accepts.contains(&Mode::None) || modes.sends == Mode::None
}

/// Brings back the floors whose time is over, and finishes switches that were cut off.
pub(crate) async fn restore(authority: &Arc<Authority>, now: UnixTime) -> Result<(), StoreError> {
    if over(authority, now).await?.is_empty() {
        return Ok(());
    }
    // Whoever was first may have changed what is over.
    let turn = Turn::wait(authority).await;
    let wanted = over(authority, now).await?;
    tracing::warn!(services = wanted.len(), "floors that were lowered come back");
    switch(authority, turn, wanted, "upkeep").await.map(drop)
}

async fn over(authority: &Authority, now: UnixTime) -> Result<Vec<Wanted>, StoreError> {
    let over = |service: Service| {
        let lowered = service.lowered.filter(|lowered| lowered.until <= now)?;
        Some(Wanted { name: service.name, modes: lowered.from, lowered: None })
    };
    Ok(authority.db.services().await?.into_iter().filter_map(over).collect())
}

/// What is left of a floor that was lowered for a while, where somebody asks for `wanted` meanwhile: it comes back as
/// before, unless it is there again already. What else is asked for stays when it does.
pub(crate) fn still_lowered(held: Option<&Lowered>, wanted: &Modes) -> Option<Lowered> {
    let held = held.filter(|held| lowers(&held.from.accepts, &wanted.accepts))?;
    let from = Modes { accepts: held.from.accepts.clone(), ..wanted.clone() };
    Some(Lowered { until: held.until, from })
}

/// Can a service have these modes here at all?
pub(crate) fn check(authority: &Authority, modes: &Modes) -> Result<(), String> {
    let Modes { accepts, sends, user_context, .. } = modes;
    if accepts.is_empty() {
        return Err("a service that accepts no mode can never be called: name at least one".to_owned());
    }
    if accepts.iter().enumerate().any(|(place, mode)| accepts.iter().take(place).any(|other| other == mode)) {
        return Err("a mode is named twice".to_owned());
    }
    if authority.settings.strict && proves_nothing(modes) {
        return Err("mode none proves nothing, and authority.strict refuses it".to_owned());
    }
    if !user_context.works_in(*sends) {
        return Err(format!(
            "a nested user travels inside a token that the caller signs, and mode {sends} has none: send jwt or mtls+jwt"
        ));
    }
    Ok(())
}

/// Is the weakest way in weaker than it was?
pub(crate) fn lowers(held: &[Mode], wanted: &[Mode]) -> bool {
    wanted.iter().min() < held.iter().min()
}

/// What is odd about a set of services: each is safe by itself, and together they may not be what somebody meant.
pub(crate) fn odd(services: &[Service]) -> Vec<String> {
    let mut found = Vec::new();
    let callees = || services.iter().filter(|service| !service.address.is_empty());
    for service in services {
        let Service { name, sends, .. } = service;
        let deaf: Vec<&str> = callees()
            .filter(|callee| callee.name != *name && !sends.satisfies(&callee.accepts))
            .map(|callee| callee.name.as_str())
            .collect();
        if !deaf.is_empty() {
            found.push(format!("{name} sends {sends}, which {} would refuse", deaf.join(", ")));
        }
        if *sends == Mode::None {
            found.push(format!("{name} calls in the clear and proves nothing"));
        }
        if let Some(lowered) = &service.lowered {
            let left = lowered.until.since(clock::now()).as_secs() / 60;
            found.push(format!("the floor of {name} is lowered for another {left} min"));
        }
    }
    for callee in callees() {
        let Service { name, accepts, .. } = callee;
        if accepts.contains(&Mode::None) {
            found.push(format!("{name} accepts callers that prove nothing, in the clear"));
        } else if let (Some(weakest), true) = (accepts.iter().min(), accepts.len() > 1) {
            found.push(format!("{name} accepts {} modes: whoever attacks it takes {weakest}", accepts.len()));
        }
    }
    found
}

type Step = (ServiceName, Modes, Option<Lowered>);

/// One step: durable, told to everybody, and confirmed by those who run.
async fn take(authority: &Arc<Authority>, step: Vec<Step>, by: &str) -> Result<Vec<SpiffeId>, StoreError> {
    let events = step.iter().map(|(name, modes, lowered)| event(name, modes, lowered.as_ref(), by)).collect();
    authority
        .journal
        .with(events, |db, records| async move {
            db.set_modes(&step, &records, clock::now()).await.map(Change::Recorded)
        })
        .await?;
    match snapshot::publish(authority, snapshot::Occasion::Change).await {
        Ok(sequence) => Ok(confirmed(authority, sequence).await),
        Err(error) => {
            tracing::error!(%error, "no snapshot could be made; upkeep tries again and finishes the switch");
            Err(StoreError::Busy)
        }
    }
}

/// Waits for everybody who runs; returns who did not confirm.
async fn confirmed(authority: &Authority, sequence: u64) -> Vec<SpiffeId> {
    let mut news = authority.applied.subscribe();
    let deadline = tokio::time::Instant::now() + CONFIRM_TIMEOUT;
    loop {
        let behind = authority.applied.behind(&authority.epoch, sequence, clock::now());
        if behind.is_empty() {
            return behind;
        }
        match tokio::time::timeout_at(deadline, news.changed()).await {
            Ok(Ok(())) => {}
            _ => return behind,
        }
    }
}

fn event(name: &ServiceName, modes: &Modes, lowered: Option<&Lowered>, by: &str) -> Event {
    Event::ModesChanged {
        service: name.to_string(),
        accepts: modes.accepts.iter().map(|mode| mode.as_str().to_owned()).collect(),
        sends: modes.sends.as_str().to_owned(),
        user_context: modes.user_context.as_str().to_owned(),
        lowered_until: lowered.map(|lowered| lowered.until),
        changed_by: by.to_owned(),
    }
}

fn union(held: &[Mode], wanted: &[Mode]) -> Vec<Mode> {
    let fresh = wanted.iter().filter(|mode| !held.contains(mode));
    held.iter().chain(fresh).copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use countersign_identity::{UserContext, WimseProof};
    use countersign_wire::agent::AppliedRequest;

    use super::*;
    use crate::serve::testing;

    async fn registered(authority: &Arc<Authority>) -> Service {
        let entry = countersign_store::services::NewService {
            id: "s_1".to_owned(),
            name: ServiceName::parse("ads").unwrap(),
            spiffe_id: SpiffeId::service(&authority.trust_domain, "ads").unwrap(),
            address: "127.0.0.1:7091".to_owned(),
            accepts: vec![Mode::Mtls],
            sends: Mode::Mtls,
            user_context: UserContext::Same,
            wimse: WimseProof::Token,
            launch_by: Vec::new(),
            nodes: Vec::new(),
        };
        crate::entries::register(authority, entry, "uid:0").await.unwrap()
    }

    #[test]
    fn a_floor_is_as_low_as_its_weakest_mode() {
        assert!(lowers(&[Mode::Mtls], &[Mode::Mtls, Mode::Bearer]));
        assert!(lowers(&[Mode::MtlsJwt, Mode::Jwt], &[Mode::None]));
        assert!(!lowers(&[Mode::Jwt], &[Mode::Mtls]) && !lowers(&[Mode::Jwt, Mode::Mtls], &[Mode::Jwt]));
    }

    #[tokio::test]
    async fn what_a_floor_or_a_switch_that_was_cut_off_would_bring_back_has_no_mode_none_either() {
        let (_dir, authority) = testing::authority().await;
        let mut service = registered(&authority).await;
        assert_eq!(proving(&service), None);
        let (mtls, until) = (service.modes(), clock::now());
        let none = Modes { accepts: vec![Mode::None], sends: Mode::None, ..mtls.clone() };
        service.lowered = Some(Lowered { until, from: none });
        let back = Some(Lowered { until, from: mtls.clone() });
        assert_eq!(proving(&service), Some((service.name.clone(), mtls.clone(), back)));
        service.accepts = vec![Mode::Mtls, Mode::None];
        assert_eq!(proving(&service), Some((service.name.clone(), mtls, None)));
    }

    #[tokio::test]
    async fn combinations_that_nobody_can_have_meant_are_named() {
        let (_dir, authority) = testing::authority().await;
        let ads = registered(&authority).await;
        let users = Service { name: ServiceName::parse("users").unwrap(), ..ads.clone() };
        assert!(odd(&[ads.clone(), users.clone()]).is_empty());

        let told = |change: &dyn Fn(&mut Service)| {
            let mut changed = ads.clone();
            change(&mut changed);
            odd(&[changed, users.clone()]).join("; ")
        };
        assert!(told(&|ads| ads.sends = Mode::Jwt).contains("ads sends jwt, which users would refuse"));
        assert!(told(&|ads| ads.sends = Mode::None).contains("ads calls in the clear"));
        assert!(told(&|ads| ads.accepts = vec![Mode::None, Mode::Mtls]).contains("prove nothing"));
        assert!(told(&|ads| ads.accepts.push(Mode::Bearer)).contains("whoever attacks it takes bearer"));
        let lowered = Lowered { until: clock::now(), from: ads.modes() };
        assert!(told(&|ads| ads.lowered = Some(lowered.clone())).contains("is lowered for another 0 min"));
    }

    #[tokio::test]
    async fn a_lowered_floor_comes_back_when_its_time_is_over_and_so_ends_a_switch_that_was_cut_off() {
        let (_dir, authority) = testing::authority().await;
        let service = registered(&authority).await;
        let (now, before) = (clock::now(), service.modes());
        let low = Modes { accepts: vec![Mode::Jwt], ..before.clone() };
        let until = now.saturating_add(Duration::from_secs(60));
        let lowered = Some(Lowered { until, from: before.clone() });
        let wanted = Wanted { name: service.name.clone(), modes: low.clone(), lowered };
        switch(&authority, Turn::wait(&authority).await, vec![wanted], "uid:0").await.unwrap();

        restore(&authority, now).await.unwrap();
        let held = authority.db.service(service.name.as_str()).await.unwrap().unwrap();
        assert_eq!(held.modes(), low);
        restore(&authority, until).await.unwrap();
        let held = authority.db.service(service.name.as_str()).await.unwrap().unwrap();
        assert_eq!((held.modes(), held.lowered), (before, None));
    }

    #[tokio::test]
    async fn a_lowering_that_was_cut_off_is_taken_back_instead_of_lasting() {
        let (_dir, authority) = testing::authority().await;
        let service = registered(&authority).await;
        let (now, before) = (clock::now(), service.modes());
        let low = Modes { accepts: vec![Mode::Bearer], ..before.clone() };
        let lowered =
            Some(Lowered { until: now.saturating_add(Duration::from_secs(60)), from: before.clone() });
        let wanted = Wanted { name: service.name.clone(), modes: low, lowered };
        // The first step is durable and waits for a workload that is behind; then the process ends.
        let told =
            |sequence| AppliedRequest { epoch: authority.epoch.clone(), sequence, secrets_generation: 0 };
        authority.applied.note(service.spiffe_id.clone(), told(0), now);
        let switching = switch(&authority, Turn::wait(&authority).await, vec![wanted], "uid:0");
        tokio::time::timeout(CONFIRM_TIMEOUT / 2, switching).await.unwrap_err();
        authority.applied.note(service.spiffe_id.clone(), told(u64::MAX), now);
        let held = authority.db.service(service.name.as_str()).await.unwrap().unwrap();
        assert_eq!(held.accepts, [Mode::Mtls, Mode::Bearer]);

        restore(&authority, now.saturating_add(SWITCH_MAX * 2)).await.unwrap();
        let held = authority.db.service(service.name.as_str()).await.unwrap().unwrap();
        assert_eq!((held.modes(), held.lowered), (before, None));
    }

    #[test]
    fn a_floor_that_is_raised_half_way_still_comes_back_to_where_it_was() {
        let modes = |accepts: &[Mode], sends| Modes {
            accepts: accepts.to_vec(),
            sends,
            user_context: UserContext::Same,
            wimse: WimseProof::Token,
        };
        let until = UnixTime::from_secs(1_800_000_000);
        let held = Lowered { until, from: modes(&[Mode::Mtls], Mode::Mtls) };
        let half_way = modes(&[Mode::Macaroon], Mode::Jwt);
        let left = still_lowered(Some(&held), &half_way);
        assert_eq!(left, Some(Lowered { until, from: modes(&[Mode::Mtls], Mode::Jwt) }));
        for enough in [&[Mode::Mtls][..], &[Mode::MtlsJwt, Mode::Mtls]] {
            assert_eq!(still_lowered(Some(&held), &modes(enough, Mode::Mtls)), None);
        }
        assert_eq!(still_lowered(None, &half_way), None);
    }
}
