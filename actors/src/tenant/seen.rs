//! What is remembered of a key beyond what it has used.

use identity::{limits::Limits, policy::Reserve};
use protocol::name::ModelName;
use tokio::time::Instant;

use super::Ask;
use crate::rules::learned::Learned;

/// Models of one key of which it is learned how long their replies are.
const LEARNED_MAX: usize = 8;

/// What is remembered of a key.
pub(super) struct Seen {
    pub(super) limits: Limits,
    pub(super) asked_at: Instant,
    /// Requests that were let in and are not over: as long as there are any, their limits are kept.
    pub(super) under_way: usize,
    learned: Vec<(ModelName, Learned)>,
}

// === impl Seen ===

impl Seen {
    pub(super) fn new(limits: Limits, asked_at: Instant) -> Self {
        Self { limits, asked_at, under_way: 0, learned: Vec::new() }
    }

    /// How many tokens are set aside for a reply.
    pub(super) fn expect(&self, ask: &Ask) -> u64 {
        let Some(model) = ask.learns.as_ref().filter(|_| ask.is_metered()) else {
            return ask.completion_max;
        };
        let learned = self.learned.iter().find(|(name, _)| name == model);
        let expected = learned.and_then(|(_, learned)| learned.expect());
        expected.map_or(ask.completion_max, |expected| expected.min(ask.completion_max))
    }

    /// A reply of a model came to its own end after so many tokens.
    pub(super) fn learn(&mut self, model: ModelName, tokens: u64) {
        let at = self.learned.iter().position(|(name, _)| *name == model).unwrap_or_else(|| {
            if self.learned.len() == LEARNED_MAX {
                self.learned.remove(0);
            }
            self.learned.push((model, Learned::default()));
            self.learned.len() - 1
        });
        self.learned[at].1.learn(tokens);
    }
}

// === impl Ask ===

impl Ask {
    /// Whether only a part of what it can use is set aside.
    pub(super) fn is_metered(&self) -> bool {
        let has_budget = self.tenant_limits.budget.is_some() || self.key_limits.budget.is_some();
        has_budget && self.policy.reserve == Reserve::Learned && self.learns.is_some()
    }
}
