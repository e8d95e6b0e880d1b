//! How fast models are, learned from their replies: tokens per second, from the request until its end.
//!
//! What a request used is not known where it ends before a whole reply has come. It is then taken for what the
//! model makes in that time.

use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;
use protocol::name::ModelName;

/// How much the newest reply counts against all before it.
const WEIGHT: f64 = 0.2;
/// Replies with fewer tokens say little of a model's speed: reading the prompt outweighs them.
const TOKENS_MIN: u64 = 8;
/// Models that are remembered. Only models of the catalog are ever learned, so that this is no limit in practice.
const MODELS_MAX: usize = 4_096;

/// Tokens per second, by model.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<ModelName, f64>>);

// === impl Rates ===

impl Rates {
    /// The tokens per second of that model; `None` where no reply has shown it.
    pub(super) fn of(&self, model: &ModelName) -> Option<f64> {
        self.0.lock().get(model).copied()
    }

    /// A reply of so many tokens took so long.
    pub(super) fn learn(&self, model: &ModelName, tokens: u64, took: Duration) {
        if tokens < TOKENS_MIN || took.is_zero() {
            return;
        }
        let rate = tokens as f64 / took.as_secs_f64();
        let mut rates = self.0.lock();
        if let Some(known) = rates.get_mut(model) {
            *known += (rate - *known) * WEIGHT;
        } else if rates.len() < MODELS_MAX {
            rates.insert(model.clone(), rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_of_a_model_is_learned_from_replies_that_say_something() {
        let (rates, model) = (Rates::default(), ModelName::read("llama3.2").unwrap());
        rates.learn(&model, TOKENS_MIN - 1, Duration::from_secs(1));
        rates.learn(&model, 100, Duration::ZERO);
        assert_eq!(rates.of(&model), None);
        rates.learn(&model, 100, Duration::from_secs(2));
        assert_eq!(rates.of(&model), Some(50.0));
        rates.learn(&model, 100, Duration::from_secs(1));
        assert_eq!(rates.of(&model), Some(60.0));
    }
}
