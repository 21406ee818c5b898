//! Spacing of liveness checks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Says yes to one caller per interval. Free of locks: on the path of every released connection.
#[derive(Debug)]
pub struct Sampler {
    base: Instant,
    interval: u64,
    last: AtomicU64,
}

impl Sampler {
    /// At most one check per 100 ms and pool: a login revoked from outside is noticed within that,
    /// and at the cost of ten of Postgres's cheapest statements a second.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);

    /// One yes per `interval`; none at all for a zero interval.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        Self { base: crate::clock::pool_instant(), interval, last: AtomicU64::new(0) }
    }

    /// Whether this caller makes the check.
    #[must_use]
    pub fn due(&self) -> bool {
        if self.interval == 0 {
            return false;
        }
        let now = crate::clock::pool_instant().saturating_duration_since(self.base);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let last = self.last.load(Ordering::Relaxed);
        now.saturating_sub(last) >= self.interval
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
