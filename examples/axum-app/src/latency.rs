//! Percentiles in bounded memory, for what may run for days.

use std::time::Duration;

/// Buckets per doubling: values are known to about 6 %.
const STEPS: u32 = 16;
/// Up to 2^36 microseconds, which is 19 hours.
const DOUBLINGS: u32 = 32;

/// Counts of microseconds, in buckets that grow with the value.
#[derive(Clone, Debug)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        let buckets = vec![0; (STEPS * (DOUBLINGS + 1)) as usize];
        Self { buckets, count: 0, max: Duration::ZERO }
    }
}

impl Latencies {
    /// Counts one more.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let last = self.buckets.len() - 1;
        self.buckets[bucket(micros).min(last)] += 1;
        self.count += 1;
        self.max = self.max.max(took);
    }

    /// Counts all of another's too.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value that this share of all is not above; zero if there is none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(upper_end(index)).min(self.max);
            }
        }
        self.max
    }

    /// The highest, exactly.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }
}

/// Below `STEPS` each value has its own; above, the leading bits choose.
fn bucket(micros: u64) -> usize {
    let steps = u64::from(STEPS);
    if micros < steps {
        return micros as usize;
    }
    let doubling = micros.ilog2() - STEPS.ilog2();
    let step = (micros >> doubling) - steps;
    (steps * u64::from(doubling + 1) + step) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let (bucket, steps) = (bucket as u64, u64::from(STEPS));
    if bucket < steps {
        return bucket;
    }
    let doubling = bucket / steps - 1;
    ((bucket % steps + steps + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_bucket_of_the_truth() {
        let mut latencies = Latencies::default();
        for micros in 1..=10_000 {
            latencies.record(Duration::from_micros(micros));
        }
        for (share, truth) in [(0.5, 5_000.0), (0.99, 9_900.0)] {
            let found = latencies.percentile(share).as_micros() as f64;
            assert!((truth..truth * 1.07).contains(&found), "{share}: {found}");
        }
        assert_eq!(latencies.percentile(1.0), Duration::from_micros(10_000));
        assert_eq!(latencies.max(), Duration::from_micros(10_000));
    }

    #[test]
    fn merged_ones_are_as_if_counted_together() {
        let (mut few, mut many) = (Latencies::default(), Latencies::default());
        assert!(few.is_empty());
        few.record(Duration::from_millis(900));
        for _ in 0..999 {
            many.record(Duration::from_millis(1));
        }
        few.merge(&many);
        // The one slow among a thousand is the maximum, and is not what 99 of 100 are within.
        assert!(few.percentile(0.99) < Duration::from_millis(2));
        assert_eq!(few.max(), Duration::from_millis(900));
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for micros in (0..70).chain([1_000, 65_535, 65_536, 1 << 35]) {
            let index = bucket(micros);
            assert!(upper_end(index) >= micros, "{micros}");
            assert!(index == 0 || upper_end(index - 1) < micros, "{micros}");
        }
    }

    #[test]
    fn none_and_far_too_much_are_fine() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.99), Duration::ZERO);
        latencies.record(Duration::MAX);
        assert!(latencies.percentile(0.5) > Duration::from_secs(3600));
    }
}
