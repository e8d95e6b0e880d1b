//! Prompt and completion tokens.

use serde::Serialize;

/// How many tokens a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt that the upstream evaluated.
    pub prompt: u64,
    /// Tokens that the upstream produced.
    pub completion: u64,
    /// The upstream never said, so that the numbers are ours: a count of what was relayed.
    pub estimated: bool,
}

// === impl Usage ===

impl Usage {
    /// Prompt and completion together, in tokens.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}
