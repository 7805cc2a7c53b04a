//! Permits that are remembered, for questions that come again.
//!
//! A cache belongs to one core: whoever decides owns it, and nobody waits for anybody. What it holds was permitted by
//! the rules that are in force and by nothing else: it forgets everything as soon as it is asked under other rules, and
//! never holds a refusal. The key is every fact that a rule can read, and the path too where an answer may depend on it.

use std::{collections::HashMap, mem, num::NonZeroUsize, sync::Arc};

use crate::{Ask, Generation, Permit, PolicySet, Refusal, decide, decide::Granted, facts::Facts};

/// Longest key that is remembered, in bytes. A user with hundreds of roles is decided about each time.
const KEY_BYTES_MAX: usize = 2048;

/// Decides, and remembers what was permitted.
///
/// Bounded by count, and each entry by [`KEY_BYTES_MAX`] and what a permit says. What was not asked for while as many
/// others came as half of the cache holds is forgotten.
#[derive(Debug)]
pub struct DecisionCache {
    generation: Option<Generation>,
    half: NonZeroUsize,
    recent: Remembered,
    older: Remembered,
    /// Written anew for each question.
    key: Vec<u8>,
}

type Remembered = HashMap<Box<[u8]>, Arc<Granted>>;

impl DecisionCache {
    /// Remembers at most `entries_max` permits, and at least two.
    #[must_use]
    pub fn new(entries_max: NonZeroUsize) -> Self {
        Self {
            generation: None,
            half: NonZeroUsize::new(entries_max.get() / 2).unwrap_or(NonZeroUsize::MIN),
            recent: HashMap::new(),
            older: HashMap::new(),
            key: Vec::new(),
        }
    }

    /// As [`decide`], from memory where the same was permitted before by the same rules.
    ///
    /// # Errors
    /// As [`decide`].
    pub fn decide(&mut self, policies: &PolicySet, ask: &Ask<'_>) -> Result<Permit, Refusal> {
        self.forget_other_rules(policies.generation());
        let facts = Facts::of(ask);
        self.key.clear();
        facts.write_key(&mut self.key);
        let without_path = self.key.len();
        if let Some(granted) = self.find() {
            return Ok(Permit::of(granted));
        }
        facts.write_path(&mut self.key);
        if let Some(granted) = self.find() {
            return Ok(Permit::of(granted));
        }
        let permit = decide(policies, ask)?;
        if permit.holds_for_route() {
            self.key.truncate(without_path);
        }
        self.remember(permit.granted());
        Ok(permit)
    }

    /// How many permits are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recent.len().saturating_add(self.older.len())
    }

    /// Is nothing remembered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn forget_other_rules(&mut self, generation: Generation) {
        if self.generation != Some(generation) {
            self.generation = Some(generation);
            self.recent.clear();
            self.older.clear();
        }
    }

    fn find(&mut self) -> Option<Arc<Granted>> {
        if let Some(granted) = self.recent.get(self.key.as_slice()) {
            return Some(Arc::clone(granted));
        }
        let granted = self.older.remove(self.key.as_slice())?;
        self.remember(&granted);
        Some(granted)
    }

    fn remember(&mut self, granted: &Arc<Granted>) {
        if self.key.len() > KEY_BYTES_MAX {
            return;
        }
        if self.recent.len() >= self.half.get() {
            self.older = mem::take(&mut self.recent);
        }
        self.recent.insert(self.key.as_slice().into(), Arc::clone(granted));
    }
}
