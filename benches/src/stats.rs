//! What a series of measurements says, without assuming how it is distributed.

use serde::Serialize;

/// One side of a 95 % interval: the normal quantile of 0.95.
const Z_95: f64 = 1.6449;

/// Ratios of pairs that were measured one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Ratio {
    /// Half of the pairs are below.
    pub median: f64,
    /// The median of all pairs there could be is above this with 95 % certainty.
    pub lower: f64,
    /// And below this.
    pub upper: f64,
    /// How many pairs.
    pub pairs: usize,
}

impl Ratio {
    /// From each pair's ratio. The bounds are those of the sign test: they take nothing for
    /// granted but that pairs don't depend on each other. `None` without a pair.
    #[must_use]
    pub fn of_pairs(ratios: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = ratios.into_iter().filter(|r| r.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let pairs = sorted.len();
        let n = pairs as f64;
        let below = (n / 2.0 - Z_95 * n.sqrt() / 2.0).floor().max(1.0) as usize - 1;
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            lower: *sorted.get(below)?,
            upper: *sorted.get(pairs.checked_sub(below + 1)?)?,
            pairs,
        })
    }
}

/// The value below which a share `q` of a sorted series lies. `None` of an empty one.
#[must_use]
pub fn quantile<T: Copy>(sorted: &[T], q: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * q).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_bounds_of_a_median_are_those_of_the_sign_test() {
        // The 41st from either end: at most 40 of 100 coins fall one way with 2.8 %, 41 with 4.4 %.
        let ratio = Ratio::of_pairs((1..=100).map(f64::from)).unwrap();
        assert_eq!((ratio.lower, ratio.upper), (41.0, 60.0));
        assert_eq!(Ratio::of_pairs([]), None);
        let one = Ratio::of_pairs([2.0]).unwrap();
        assert_eq!((one.lower, one.median, one.upper), (2.0, 2.0, 2.0));
    }

    #[test]
    fn a_quantile_of_one_is_the_largest() {
        let sorted: Vec<u32> = (1..=101).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(51));
        assert_eq!(quantile(&sorted, 0.99), Some(100));
        assert_eq!(quantile(&sorted, 1.0), Some(101));
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }
}
