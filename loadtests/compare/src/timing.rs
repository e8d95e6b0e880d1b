//! Times of many requests, as percentiles.

use serde::{Deserialize, Serialize};

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// Half are faster.
    pub(crate) p50: f64,
    /// One in a hundred is slower.
    pub(crate) p99: f64,
    /// One in a thousand is slower.
    pub(crate) p999: f64,
}

// === impl Percentiles ===

impl Percentiles {
    /// Of samples in nanoseconds, which are sorted by it.
    pub(crate) fn of(samples: &mut [u64]) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            // The nearest rank: the smallest sample that so large a share does not exceed.
            let rank = (share * samples.len() as f64).ceil() as usize;
            samples.get(rank.saturating_sub(1)).map_or(0.0, |ns| *ns as f64 / 1_000.0)
        };
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }

    /// Each as a multiple of another's.
    pub(crate) fn to(self, other: Self) -> Self {
        Self {
            p50: multiple(self.p50, other.p50),
            p99: multiple(self.p99, other.p99),
            p999: multiple(self.p999, other.p999),
        }
    }

    /// The median of each over several runs.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(runs.iter().map(field));
        Self { p50: of(|p| p.p50), p99: of(|p| p.p99), p999: of(|p| p.p999) }
    }
}

/// How many times another number it is; of nothing a very large number.
pub(crate) fn multiple(ours: f64, other: f64) -> f64 {
    ours / other.max(1e-9)
}

/// The middle one; of an even number the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(values[middle - 1], *value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut samples: Vec<u64> = (1..=1_000).rev().map(|us| us * 1_000).collect();
        let expected = Percentiles { p50: 500.0, p99: 990.0, p999: 999.0 };
        assert_eq!(Percentiles::of(&mut samples), expected);
        assert_eq!(Percentiles::of(&mut []), Percentiles::default());
    }

    #[test]
    fn multiples_are_of_each_percentile() {
        let (ours, other) = (
            Percentiles { p50: 3.0, p99: 5.0, p999: 6.0 },
            Percentiles { p50: 2.0, p99: 5.0, p999: 8.0 },
        );
        assert_eq!(ours.to(other), Percentiles { p50: 1.5, p99: 1.0, p999: 0.75 });
    }

    #[test]
    fn a_median_ignores_what_is_far_out() {
        assert!((median([3.0, 1.0, 900.0]) - 3.0).abs() < 1e-9);
        assert!((median([1.0, 2.0]) - 1.5).abs() < 1e-9);
        assert!(median([]).abs() < 1e-9);
    }
}
