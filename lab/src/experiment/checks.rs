//! The experiment's own test: what it must not find, and what it must.
//!
//! What was planted is looked for in every run that has something planted. Twins are judged in a self-check alone: of twenty
//! intervals at 95 % one is wrong, so another run would now and then fail for nothing.

use super::{
    data::{Arm, Check, Effect, Metric, Profile, Role},
    statistics::BLOCKS_MIN,
};

/// What a run found about itself: for twins that they do not differ, for planted delays that they are seen.
#[must_use]
pub fn of(profile: Profile, arms: &[Arm], effects: &[Effect]) -> Vec<Check> {
    arms.iter()
        .flat_map(|arm| match arm.role {
            Role::Twin if profile != Profile::SelfCheck => Vec::new(),
            Role::Measured => Vec::new(),
            Role::Twin => TOLD_APART.map(|metric| no_different(arm, metric, effects)).to_vec(),
            Role::Planted { delay_us } => vec![is_found(arm, delay_us, effects)],
        })
        .collect()
}

fn no_different(arm: &Arm, metric: Metric, effects: &[Effect]) -> Check {
    let effect = find(arm, metric, effects);
    Check {
        name: format!("{} does not differ from itself in {}", base_of(arm), metric.as_str()),
        holds: effect.is_some_and(|effect| effect.ratio.contains(1.0)),
        found: effect.map_or_else(nothing, |effect| {
            format!(
                "ratio {:.3} ({:.3} to {:.3})",
                effect.ratio.estimate, effect.ratio.low, effect.ratio.high
            )
        }),
    }
}

/// Found is a delay whose interval lies above nothing, and which is at least half of what was planted.
fn is_found(arm: &Arm, delay_us: u64, effects: &[Effect]) -> Check {
    let effect = find(arm, Metric::P50Us, effects);
    let planted = super::data::exact(delay_us);
    Check {
        name: format!("a delay of {delay_us} µs in {} is found in p50", base_of(arm)),
        holds: effect
            .is_some_and(|effect| effect.difference.low > 0.0 && effect.difference.estimate >= planted / 2.0),
        found: effect.map_or_else(nothing, |effect| {
            let more = effect.difference;
            format!("{:.0} µs more ({:.0} to {:.0})", more.estimate, more.low, more.high)
        }),
    }
}

fn find<'a>(arm: &Arm, metric: Metric, effects: &'a [Effect]) -> Option<&'a Effect> {
    effects.iter().find(|effect| effect.arm == arm.name && effect.metric == metric)
}

fn base_of(arm: &Arm) -> &str {
    arm.base.as_deref().unwrap_or(&arm.name)
}

fn nothing() -> String {
    format!("nothing: it takes {BLOCKS_MIN} blocks at least, and answers in every trial")
}

/// What the conclusions of the chapter hang on.
const TOLD_APART: [Metric; 3] = [Metric::RequestsPerSecond, Metric::P50Us, Metric::CpuUsPerRequest];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::experiment::{
        design::{Wishes, self_check},
        statistics::effects,
        testing::trial,
    };

    /// A run of the self-check in which the twin and the delayed arm are slower by so much, in microseconds.
    fn checked(twin_us: f64, delayed_us: f64) -> Vec<Check> {
        let plan = self_check(&Wishes::default()).unwrap();
        let trials: Vec<_> = (1..=10)
            .flat_map(|block| {
                // Blocks differ by themselves, and so does each arm a little in each.
                let of_block = f64::from(block % 5) * 40.0;
                plan.arms.iter().zip([0.0, twin_us, delayed_us]).map(move |(arm, more)| {
                    let of_arm = f64::from((block * 7 + more as u32) % 4);
                    trial(&arm.name, block, 300.0 + of_block + of_arm + more)
                })
            })
            .collect();
        of(plan.profile, &plan.arms, &effects(&plan.arms, &trials, &plan.design))
    }

    fn p50(checks: &[Check]) -> (bool, bool) {
        let holds = |part: &str| checks.iter().find(|check| check.name.contains(part)).unwrap().holds;
        (holds("does not differ from itself in p50_us"), holds("is found in p50"))
    }

    #[test]
    fn twins_are_alike_and_a_planted_delay_is_found() {
        let checks = checked(0.0, 2000.0);
        assert_eq!(p50(&checks), (true, true), "{checks:?}");
    }

    #[test]
    fn twins_that_differ_and_a_delay_that_is_not_seen_fail_the_run() {
        let checks = checked(200.0, 0.0);
        assert_eq!(p50(&checks), (false, false), "{checks:?}");
    }

    #[test]
    fn a_delay_of_which_less_than_half_is_found_fails_the_run() {
        assert_eq!(p50(&checked(0.0, 900.0)), (true, false));
        assert_eq!(p50(&checked(0.0, 1100.0)), (true, true));
    }

    #[test]
    fn other_runs_are_not_judged_by_their_twins_and_by_what_was_planted_in_them() {
        let plan = self_check(&Wishes::default()).unwrap();
        let [planted] = of(Profile::Thesis, &plan.arms, &[]).try_into().unwrap();
        assert!(planted.name.contains("is found in p50") && !planted.holds, "{planted:?}");
        assert!(of(Profile::SelfCheck, &plan.arms, &[]).iter().all(|check| !check.holds));
    }
}
