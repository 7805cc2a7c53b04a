//! What the chapter asks of an experiment: which arms there are, what they cost, and how they compare.

use countersign_identity::WimseProof;

use crate::experiment::{
    data::{
        Arm, CarriedUser, Connections, Effect, Experiment, Factors, Interval, LabMode, Metric, Role, Signing,
        exact,
    },
    statistics,
};

/// An experiment with the questions that are asked of it.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'a> {
    pub(super) experiment: &'a Experiment,
}

/// The mean of a metric over all blocks, with its interval where there are blocks enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    pub(super) mean: f64,
    pub(super) interval: Option<Interval>,
}

impl Level {
    /// The interval, or the mean alone where there is none.
    pub(super) fn as_interval(self) -> Interval {
        self.interval.unwrap_or(Interval { estimate: self.mean, low: self.mean, high: self.mean })
    }
}

/// A way to prove who is calling, without regard to connections, users, or what is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) mode: LabMode,
    pub(super) signing: Option<Signing>,
    pub(super) wimse: Option<WimseProof>,
}

impl Way {
    pub(super) const MTLS: Self = Self { mode: LabMode::Mtls, signing: None, wimse: None };
    pub(super) const NONE: Self = Self { mode: LabMode::None, signing: None, wimse: None };
    pub(super) const TLS: Self = Self { mode: LabMode::Tls, signing: None, wimse: None };

    pub(super) const fn jwt(signing: Signing) -> Self {
        Self { mode: LabMode::Jwt, signing: Some(signing), wimse: None }
    }

    pub(super) const fn wimse(proof: WimseProof) -> Self {
        Self { mode: LabMode::Wimse, signing: None, wimse: Some(proof) }
    }

    pub(super) const fn of(factors: &Factors) -> Self {
        Self { mode: factors.mode, signing: factors.signing, wimse: factors.wimse }
    }

    /// `jwt ES256`
    pub(super) fn name(self) -> String {
        let of_signing = self.signing.map(|signing| format!(" {}", signing.jose_name()));
        let of_wimse = self.wimse.map(|proof| format!(" {}", proof.as_str()));
        format!("{}{}{}", self.mode, of_signing.unwrap_or_default(), of_wimse.unwrap_or_default())
    }
}

impl<'a> Numbers<'a> {
    /// Everything that was measured for its own sake.
    pub(super) fn measured(self) -> impl Iterator<Item = &'a Arm> {
        self.experiment.arms.iter().filter(|arm| arm.role == Role::Measured)
    }

    /// The services of somebody else, in the order in which they come; one nameless chain of relays otherwise.
    pub(super) fn services(self) -> Vec<Option<&'a str>> {
        let mut services: Vec<Option<&str>> = Vec::new();
        for service in self.measured().map(service_of) {
            if !services.contains(&service) {
                services.push(service);
            }
        }
        services
    }

    /// A way in its plainest form: no user, the chain and the answer that the run begins with, X25519MLKEM768.
    pub(super) fn plain(self, way: Way, connections: Connections) -> Option<&'a Arm> {
        self.plain_of(None, way, connections)
    }

    /// As [`Numbers::plain`], for one service of somebody else.
    pub(super) fn plain_of(
        self,
        service: Option<&str>,
        way: Way,
        connections: Connections,
    ) -> Option<&'a Arm> {
        self.plains(service, connections).find(|arm| Way::of(&arm.factors) == way)
    }

    /// All ways in their plainest form.
    pub(super) fn plains(
        self,
        service: Option<&str>,
        connections: Connections,
    ) -> impl Iterator<Item = &'a Arm> {
        let first = self.measured().next().map(|arm| &arm.factors);
        self.measured().filter(move |arm| {
            service_of(arm) == service
                && arm.factors.connections == connections
                && first.is_some_and(|first| {
                    let plain = Factors { connections, ..plainest(&arm.factors, first) };
                    arm.factors == plain
                })
        })
    }

    /// Arms that differ from the plain form of `way` over kept connections in nothing that `same` does not allow.
    pub(super) fn around(
        self,
        way: Way,
        same: impl Fn(&Factors, &Factors) -> bool,
    ) -> impl Iterator<Item = &'a Arm> {
        let base = self.plain(way, Connections::Kept).map(|arm| &arm.factors);
        self.measured().filter(move |arm| {
            Way::of(&arm.factors) == way && base.is_some_and(|base| same(&arm.factors, base))
        })
    }

    /// What an arm cost, over all blocks.
    pub(super) fn level(self, arm: &str, metric: Metric) -> Level {
        let values: Vec<f64> = self.experiment.trials_of(arm).map(|trial| metric.of(trial)).collect();
        let mean = values.iter().sum::<f64>() / exact(values.len().max(1) as u64);
        Level { mean, interval: statistics::mean_interval(&values, &self.experiment.design) }
    }

    /// As [`Numbers::level`]; nothing where a trial had too few answers for the percentile that is asked for.
    pub(super) fn told(self, arm: &str, metric: Metric) -> Option<Level> {
        self.has_answers_for(arm, metric).then(|| self.level(arm, metric))
    }

    /// Had every trial enough answers to have such a figure at all?
    pub(super) fn has_answers_for(self, arm: &str, metric: Metric) -> bool {
        self.experiment.trials_of(arm).all(|trial| trial.requests >= metric.answers_min())
    }

    /// One arm against another. Nothing where there are too few blocks, or nothing to divide by.
    pub(super) fn compare(self, arm: &Arm, base: &Arm, metric: Metric) -> Option<Effect> {
        let known = self
            .experiment
            .effects
            .iter()
            .find(|effect| effect.metric == metric && effect.arm == arm.name && effect.base == base.name);
        let compute = || {
            let Experiment { trials, design, .. } = self.experiment;
            statistics::compare(trials, &arm.name, &base.name, metric, design)
        };
        let effect = known.cloned().or_else(compute)?;
        let Interval { low, high, .. } = effect.ratio;
        (low.is_finite() && high.is_finite()).then_some(effect)
    }

    /// The arm that it is held against.
    pub(super) fn base_of(self, arm: &Arm) -> Option<&'a Arm> {
        self.experiment.arm(arm.base.as_deref()?)
    }

    /// `95 % interval`
    pub(super) fn confidence(self) -> String {
        format!("{} interval", super::format::percent(self.experiment.design.confidence))
    }
}

fn plainest(factors: &Factors, first: &Factors) -> Factors {
    Factors {
        user: CarriedUser::None,
        edges: first.edges,
        payload_bytes: first.payload_bytes,
        post_quantum: true,
        ..factors.clone()
    }
}

fn service_of(arm: &Arm) -> Option<&str> {
    arm.service.as_deref()
}
