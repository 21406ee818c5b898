//! Spacing of liveness checks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{coarse_now, coarse_span};

/// Says yes to one caller per interval. Free of locks, and on a clock that costs a fifth of the
/// usual one: on the path of every connection that is handed out or comes back.
#[derive(Debug)]
pub struct Sampler {
    interval: u64,
    last: AtomicU64,
}

impl Sampler {
    /// At most one check per 100 ms and pool: a login revoked from outside is noticed within that,
    /// and at the cost of ten of Postgres's cheapest statements a second.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);

    /// One yes per `interval`, which is met to within some milliseconds; none at all for a zero
    /// interval. The first one is due an interval from now.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval: coarse_span(interval), last: AtomicU64::new(coarse_now()) }
    }

    /// Whether this caller makes the check.
    #[inline]
    #[must_use]
    pub fn due(&self) -> bool {
        self.interval != 0 && self.due_at(coarse_now())
    }

    #[inline]
    fn due_at(&self, now: u64) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        now.saturating_sub(last) >= self.interval
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_yes_per_interval() {
        let sampler = Sampler::new(Sampler::DEFAULT_INTERVAL);
        let (start, span) = (sampler.last.load(Ordering::Relaxed), sampler.interval);
        assert!(!sampler.due_at(start + span - 1));
        assert!(sampler.due_at(start + span));
        assert!(!sampler.due_at(start + span), "the second caller of the same instant");
        assert!(!sampler.due_at(start), "an instant that another thread read before");
        assert!(!sampler.due_at(start + 2 * span - 1));
        assert!(sampler.due_at(start + 9 * span), "after a rest one, not eight");
        assert!(!sampler.due_at(start + 9 * span));
    }

    #[test]
    fn an_interval_is_what_it_says() {
        let tenth = coarse_span(Duration::from_millis(100));
        let second = coarse_span(Duration::from_secs(1));
        assert!((second - 10 * tenth) < second / 1_000_000, "{tenth} and {second}");
        assert!(!Sampler::new(Duration::MAX).due(), "saturates");
        assert!(!Sampler::new(Duration::ZERO).due(), "is off");
    }
}
