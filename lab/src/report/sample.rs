//! An experiment made up, in which one knows who wins.

use crate::experiment::{
    checks,
    claims::{self, Counted},
    data::{
        Absent, Arm, Build, CarriedUser, CodeCount, CodeKind, Connections, Design, EdgeUse, Errors,
        Experiment, FORMAT, Factors, Handshakes, LabMode, Latency, Load, Machine, ProcessUse, Role, Signing,
        Trial, exact,
    },
    design::{self, Plan, Wishes},
    statistics,
};

/// What one edge costs, in microseconds of CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) each_request: f64,
    pub(super) handshake: f64,
}

/// The whole chapter, at costs that are near to what one would expect.
pub(super) fn thesis() -> Experiment {
    of(&design::thesis(&wishes()).unwrap(), expected)
}

/// Every mode with both kinds of connection, at costs of one's own choice.
pub(super) fn quick(cost: impl Fn(&Factors) -> Cost) -> Experiment {
    of(&design::quick(&wishes()).unwrap(), cost)
}

pub(super) fn wishes() -> Wishes {
    Wishes { seed: 7, ..Wishes::default() }
}

/// As `plan` lays them out, trials in which an arm costs what `cost` says and blocks differ by themselves.
pub(super) fn of(plan: &Plan, cost: impl Fn(&Factors) -> Cost) -> Experiment {
    let mut trials = Vec::new();
    for (block, arms) in (1..).zip(plan.order()) {
        for (position, arm) in (1..).zip(arms) {
            trials.push(trial(arm, (block, position), cost(&arm.factors), plan.connections));
        }
    }
    let design = Design { resamples: 200, ..plan.design.clone() };
    let effects = statistics::effects(&plan.arms, &trials, &design);
    Experiment {
        format: FORMAT,
        profile: plan.profile,
        started: "2026-01-31T12:00:00Z".to_owned(),
        took_s: 912.0,
        checks: checks::of(plan.profile, &plan.arms, &effects),
        effects,
        design,
        machine: Machine {
            cpu: "Made-up processor".to_owned(),
            cores: 2,
            memory_mib: 24_105,
            system: "Linux 6.18".to_owned(),
            load_before: 1.4,
        },
        build: Build { version: "0.1.0".to_owned(), debug: false },
        load: Load { tool: "wrk 4.1.0".to_owned(), connections: plan.connections, threads: 1 },
        arms: plan.arms.clone(),
        absent: vec![Absent { what: "request bodies".to_owned(), why: "every request is a GET".to_owned() }],
        trials,
        code: code(),
    }
}

/// Handshakes are dear, signatures less so, shared secrets cheap.
pub(super) fn expected(factors: &Factors) -> Cost {
    let each_request = match (factors.mode, factors.signing) {
        (LabMode::None, _) => 60.0,
        (LabMode::Tls, _) => 68.0,
        (LabMode::Bearer, _) => 75.0,
        (LabMode::Macaroon, _) => 90.0,
        (LabMode::Jwt, Some(Signing::Rs256)) => 820.0,
        (LabMode::Jwt, _) => 160.0,
        (LabMode::Wimse, _) => 185.0,
        (LabMode::Mtls, _) => 72.0,
        (LabMode::MtlsJwt, _) => 165.0,
    };
    let of_user = match factors.user {
        CarriedUser::None => 0.0,
        CarriedUser::Same => 30.0,
        CarriedUser::Nested => 24.0,
        CarriedUser::PerHop => 400.0,
    };
    let shaken = match factors.mode {
        LabMode::None => 70.0,
        LabMode::Mtls | LabMode::MtlsJwt => 950.0,
        _ => 560.0,
    };
    let group = if factors.post_quantum || !factors.mode.shakes_hands() { 0.0 } else { -90.0 };
    let bytes = f64::from(factors.payload_bytes) / if factors.mode.shakes_hands() { 900.0 } else { 2000.0 };
    Cost { each_request: each_request + of_user + bytes, handshake: shaken + group }
}

fn trial(arm: &Arm, (block, position): (u32, u32), cost: Cost, in_progress_max: u32) -> Trial {
    let factors = &arm.factors;
    let fresh = factors.connections == Connections::Fresh;
    let edge_us = cost.each_request + if fresh { cost.handshake } else { 0.0 };
    let services = u32::from(factors.edges) + 1;
    let sum = 40.0 + edge_us * f64::from(factors.edges);
    // Blocks differ, and arms differ a little in each of them, in a way that repeats itself.
    let wobble = f64::from((block * 31 + position * 17 + factors.payload_bytes % 7) % 11) - 5.0;
    let sum = sum * (1.0 + 0.02 * f64::from(block % 3)) * (1.0 + 0.003 * wobble);
    let delay = if let Role::Planted { delay_us } = arm.role { exact(delay_us) } else { 0.0 };
    let p50 = sum * 2.0 + delay;
    let requests = 20_000;
    let errors = Errors::default();
    let edges = edges(factors, requests, fresh);
    let counted = Counted {
        requests,
        errors,
        in_progress_max: in_progress_max.into(),
        users_are_counted: arm.service.is_none(),
        edges: &edges,
    };
    Trial {
        block,
        position,
        arm: arm.name.clone(),
        seconds: exact(requests) * sum / 2_000_000.0,
        requests,
        errors,
        latency_us: Latency { p50, p95: p50 * 1.6, p99: p50 * 2.4, p999: p50 * 5.0, max: p50 * 9.0 },
        processes: (0..services)
            .map(|place| ProcessUse {
                service: format!("relay-{place}"),
                cpu_us_per_request: sum / f64::from(services),
                pss_kib: 9000 + u64::from(place),
            })
            .collect(),
        claims: claims::judge(factors, &counted),
        edges,
    }
}

fn edges(factors: &Factors, requests: u64, fresh: bool) -> Vec<EdgeUse> {
    let user = match factors.user {
        CarriedUser::None => "none",
        CarriedUser::Same | CarriedUser::Nested => "internal_token",
        CarriedUser::PerHop => "hop_token",
    };
    let (mut handshakes, mut ever) = (Handshakes::default(), Handshakes::default());
    let group = if factors.post_quantum { "X25519MLKEM768" } else { "X25519" };
    for (seen, count) in [(&mut handshakes, if fresh { requests } else { 0 }), (&mut ever, requests)] {
        match factors.mode {
            _ if count == 0 => {}
            LabMode::None => seen.plain = count,
            LabMode::Mtls | LabMode::MtlsJwt => _ = seen.mutual.insert(group.to_owned(), count),
            _ => _ = seen.anonymous.insert(group.to_owned(), count),
        }
    }
    let of_handshake = if fresh { if factors.post_quantum { 3900.0 } else { 1600.0 } } else { 0.0 };
    let of_proof = if factors.signing.is_some() { 900.0 } else { 120.0 };
    let edge = |place: u8| EdgeUse {
        caller: format!("relay-{place}"),
        callee: format!("relay-{}", place + 1),
        modes: [(factors.mode.verified_as().as_str().to_owned(), requests)].into(),
        users: [(user.to_owned(), requests)].into(),
        handshakes: handshakes.clone(),
        handshakes_ever: ever.clone(),
        bytes_sent_per_request: 80.0 + of_proof + of_handshake,
        bytes_received_per_request: f64::from(factors.payload_bytes) + 60.0,
    };
    (0..factors.edges).map(edge).collect()
}

/// Counts of two modes: `jwt` has more of the SDK.
fn code() -> Vec<CodeCount> {
    let count = |mode, kind, place: &str, lines| CodeCount { mode, kind, place: place.to_owned(), lines };
    [LabMode::Mtls, LabMode::Jwt]
        .into_iter()
        .flat_map(|mode| {
            [
                count(mode, CodeKind::Service, "flea-market/src/run.rs", 9),
                count(mode, CodeKind::Policy, "flea-market/policies/ads.cedar", 40),
            ]
        })
        .chain([
            count(LabMode::Jwt, CodeKind::Configuration, "countersign demo mode jwt", 1),
            count(LabMode::Jwt, CodeKind::Sdk, "sdk/src/authenticate/service_token.rs", 400),
            count(LabMode::Mtls, CodeKind::Sdk, "sdk/src/tls/peer.rs", 120),
        ])
        .collect()
}
