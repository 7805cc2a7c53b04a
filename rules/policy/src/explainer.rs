//! Explanations for records, no more of them than a process can afford.
//!
//! An explanation costs a hundred decisions and more. Whoever is refused could buy that work with one cheap
//! request after the other, so only some refusals of each second are explained; the others say so.

use std::{fmt, num::NonZeroU32};

use countersign_identity::UnixTime;

use crate::{Ask, PolicySet, Quota, explain};

/// Explains refusals as they happen. One for each process, or each door.
pub struct Explainer(Quota<()>);

/// What the record of a refusal says about the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The name of the rule that decided or came nearest.
    pub nearest: Option<String>,
    /// What to change, in one sentence.
    pub fix: String,
}

impl Explainer {
    /// Explains what [`crate::decide`] says about this, if there were not too many refusals lately.
    pub fn reason(&self, policies: &PolicySet, ask: &Ask<'_>, now: UnixTime) -> Reason {
        if self.0.check(&(), now).is_err() {
            let fix = format!(
                "too many refusals at once to find the nearest rule: repeat the call alone, or read {}.cedar",
                ask.target
            );
            return Reason { nearest: None, fix };
        }
        let explanation = explain(policies, ask);
        Reason { nearest: explanation.nearest, fix: explanation.fix }
    }
}

impl Default for Explainer {
    fn default() -> Self {
        Self(Quota::per_second(EXPLAINED_PER_SECOND, EXPLAINED_AT_ONCE, 1))
    }
}

impl fmt::Debug for Explainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Explainer")
    }
}

/// Explanations that a process makes for its records, on average.
const EXPLAINED_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
/// And after a quiet time: a person who tries something out always gets one.
const EXPLAINED_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);
