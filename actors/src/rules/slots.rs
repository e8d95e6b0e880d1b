//! So many at once.

/// Units of concurrency, of which so many may be out.
///
/// Giving back is up to the guard that holds what was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    limit: u64,
    taken: u64,
}

// === impl Slots ===

impl Slots {
    /// None is out yet.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { limit, taken: 0 }
    }

    /// Another limit, from now on. What is out stays out.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// How many may be out.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// How many are out.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// How many more may go out.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.taken)
    }

    /// Takes one; false where none is left.
    pub fn take(&mut self) -> bool {
        let granted = self.remaining() > 0;
        self.taken += u64::from(granted);
        granted
    }

    /// One comes back.
    pub fn give_back(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_are_out_than_the_limit_when_they_went(
            limit in 0..10_u64,
            moves in prop::collection::vec(0..4_u8, 0..200),
        ) {
            let mut slots = Slots::new(limit);
            let (mut limit, mut out) = (limit, 0_u64);
            for step in moves {
                match step {
                    0 | 1 => {
                        let granted = slots.take();
                        prop_assert_eq!(granted, out < limit);
                        out += u64::from(granted);
                    }
                    2 => {
                        slots.give_back();
                        out = out.saturating_sub(1);
                    }
                    _ => {
                        limit = (limit + 3) % 10;
                        slots.set_limit(limit);
                    }
                }
                prop_assert_eq!(slots.taken(), out);
                prop_assert_eq!(slots.remaining(), limit.saturating_sub(out));
            }
        }
    }
}
