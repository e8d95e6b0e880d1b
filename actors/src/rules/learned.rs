//! How many tokens replies have had, to set aside about as many for the next one.
//!
//! Replies are counted in boxes that grow by half from one to the next. What was long ago counts less:
//! with each reply all that came before loses a hundredth. The answer is the upper edge of the box in
//! which the wanted share is reached: never less than what a plain count would give, and at most half
//! as much more.

/// Boxes; the last one holds everything beyond 18,206 tokens.
const BOXES: usize = 24;
/// What is left of a count after one more reply.
const KEPT: f32 = 0.99;
/// Below so many replies nothing is known.
const REPLIES_MIN: f32 = 8.0;
/// The share of replies for which what is set aside suffices.
const SHARE: f32 = 0.95;

/// What the replies of one kind were like.
#[derive(Clone, Debug)]
pub struct Learned {
    counts: [f32; BOXES],
    sum: f32,
}

// === impl Learned ===

impl Default for Learned {
    fn default() -> Self {
        Self { counts: [0.0; BOXES], sum: 0.0 }
    }
}

impl Learned {
    /// A reply had so many tokens.
    pub fn learn(&mut self, tokens: u64) {
        self.counts.iter_mut().for_each(|count| *count *= KEPT);
        let at = (0..BOXES - 1).find(|at| tokens <= edge(*at)).unwrap_or(BOXES - 1);
        self.counts[at] += 1.0;
        self.sum = self.sum * KEPT + 1.0;
    }

    /// As many tokens as suffice for nineteen of twenty replies; `None` where too few were seen, or
    /// where there is no telling.
    #[must_use]
    pub fn expect(&self) -> Option<u64> {
        if self.sum < REPLIES_MIN {
            return None;
        }
        let mut below = 0.0;
        for (at, count) in self.counts.iter().enumerate().take(BOXES - 1) {
            below += count;
            if below >= self.sum * SHARE {
                return Some(edge(at));
            }
        }
        None
    }
}

/// The most tokens of a box: 2, 3, 5, 8, 12, …
fn edge(at: usize) -> u64 {
    (0..at).fold(2, |edge, _| edge + edge.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn boxes_grow_by_half() {
        assert_eq!([0, 1, 2, 3, 4].map(edge), [2, 3, 5, 8, 12]);
        assert_eq!(edge(BOXES - 2), 18_206);
    }

    #[test]
    fn a_few_replies_say_nothing_and_endless_ones_neither() {
        let mut learned = Learned::default();
        (0..7).for_each(|_| learned.learn(10));
        assert_eq!(learned.expect(), None);
        (0..7).for_each(|_| learned.learn(10));
        assert_eq!(learned.expect(), Some(12));
        (0..100).for_each(|_| learned.learn(u64::MAX));
        assert_eq!(learned.expect(), None);
    }

    #[test]
    fn what_is_long_ago_no_longer_counts() {
        let mut learned = Learned::default();
        (0..100).for_each(|_| learned.learn(1_000));
        (0..400).for_each(|_| learned.learn(1));
        assert_eq!(learned.expect(), Some(2));
    }

    proptest! {
        /// Of replies of one kind, what is expected suffices for nineteen of twenty and is at most
        /// half as much more than that.
        #[test]
        fn what_is_expected_suffices(
            mut replies in prop::collection::vec(1_u64..5_000, 60..80),
        ) {
            let mut learned = Learned::default();
            for _ in 0..20 {
                replies.iter().for_each(|tokens| learned.learn(*tokens));
            }
            let expected = learned.expect().unwrap();
            replies.sort_unstable();
            let enough = replies.iter().filter(|tokens| **tokens <= expected).count();
            prop_assert!(enough * 100 >= replies.len() * 88, "{enough} of {}", replies.len());
            prop_assert!(expected <= replies[replies.len() - 1] * 3 / 2 + 2);
        }
    }
}
