//! Which rules a question is about, by what stands in their heads.
//!
//! Each part of a head – who, what, where – names one thing, a few, or everything. So each part has a table from names
//! to rules, and the candidates are what the three have in common. What is left of a candidate is its conditions.

use std::collections::HashMap;

use cedar_policy::{ActionConstraint, EntityTypeName, EntityUid, PrincipalConstraint, ResourceConstraint};

use crate::{
    facts::{Facts, PrincipalKind, Resource},
    parse::{RULES_PER_FILE_MAX, Rule},
};

/// The heads of the rules of a file; a rule is known by its place there.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By kind, in the order of [`PrincipalKind::ALL`].
    principals: [Part; PrincipalKind::ALL.len()],
    actions: Part,
    resources: Part,
}

/// One part of the heads.
#[derive(Debug, Default)]
struct Part {
    everything: Places,
    named: HashMap<Box<str>, Places>,
}

/// A set of rules of one file.
#[derive(Clone, Copy, Debug, Default)]
struct Places([u64; RULES_PER_FILE_MAX.div_ceil(WORD)]);

const WORD: usize = u64::BITS as usize;

impl Index {
    pub(crate) fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (place, rule) in rules.iter().enumerate() {
            index.add_principal(place, &rule.policy.principal_constraint());
            index.add_action(place, rule.policy.action_constraint());
            index.add_resource(place, &rule.policy.resource_constraint());
        }
        index
    }

    /// The places of the rules whose heads fit, in order.
    pub(crate) fn candidates(&self, facts: &Facts<'_>) -> impl Iterator<Item = usize> + use<> {
        let principals = PrincipalKind::ALL.iter().zip(&self.principals);
        let of_kind = principals.filter(|(kind, _)| **kind == facts.principal.kind);
        let who = of_kind.fold(Places::default(), |_, (_, part)| part.about(facts.principal.id));
        who.and(self.actions.about(facts.action)).and(self.resources.about(facts.resource.name())).iter()
    }

    /// No principal is in anything but itself.
    fn add_principal(&mut self, place: usize, head: &PrincipalConstraint) {
        let (kind, id) = match head {
            PrincipalConstraint::Any => (None, None),
            PrincipalConstraint::Is(kind) => (Some(kind), None),
            PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => (Some(uid.type_name()), Some(uid)),
            PrincipalConstraint::IsIn(kind, uid) if kind == uid.type_name() => (Some(kind), Some(uid)),
            PrincipalConstraint::IsIn(..) => return,
        };
        for (each, part) in PrincipalKind::ALL.iter().zip(&mut self.principals) {
            if kind.is_none_or(|kind| kind.basename() == each.as_str()) {
                part.add(place, id.map(name));
            }
        }
    }

    /// No action is in anything but itself.
    fn add_action(&mut self, place: usize, head: ActionConstraint) {
        match head {
            ActionConstraint::Any => self.actions.add(place, None),
            ActionConstraint::Eq(uid) => self.actions.add(place, Some(name(&uid))),
            ActionConstraint::In(uids) => {
                uids.iter().for_each(|uid| self.actions.add(place, Some(name(uid))));
            }
        }
    }

    /// A route is in itself and in its service, and the loader lets no rule name another service.
    fn add_resource(&mut self, place: usize, head: &ResourceConstraint) {
        let (kind, within) = match head {
            ResourceConstraint::Any => (None, None),
            ResourceConstraint::Is(kind) => (Some(kind), None),
            ResourceConstraint::In(uid) => (None, Some(uid)),
            ResourceConstraint::Eq(uid) => (Some(uid.type_name()), Some(uid)),
            ResourceConstraint::IsIn(kind, uid) => (Some(kind), Some(uid)),
        };
        let is_asked_for = |kind: &EntityTypeName| matches!(kind.basename(), Resource::ROUTE | Resource::API);
        if !kind.is_none_or(is_asked_for) {
            return;
        }
        match within {
            Some(uid) if is_asked_for(uid.type_name()) => {
                self.resources.add(place, Some(template(name(uid))))
            }
            Some(uid) if uid.type_name().basename() != Resource::SERVICE => {}
            _ => self.resources.add(place, None),
        }
    }
}

impl Part {
    fn add(&mut self, place: usize, name: Option<&str>) {
        match name {
            Some(name) => self.named.entry(name.into()).or_default().insert(place),
            None => self.everything.insert(place),
        }
    }

    fn about(&self, name: &str) -> Places {
        self.named.get(name).map_or(self.everything, |named| self.everything.or(*named))
    }
}

impl Places {
    fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / WORD) {
            *word |= 1 << (place % WORD);
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        self
    }

    fn or(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
        self
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(at, word)| {
            let bits = std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
            bits.take_while(|word| *word != 0)
                .map(move |word| at.saturating_mul(WORD).saturating_add(word.trailing_zeros() as usize))
        })
    }
}

fn name(uid: &EntityUid) -> &str {
    uid.id().unescaped()
}

/// What [`Resource::name`] says, of `ads /ads/{id}`.
fn template(id: &str) -> &str {
    id.split_once(' ').map_or(id, |(_, template)| template)
}
