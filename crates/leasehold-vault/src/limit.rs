//! How many requests a second the client sends at most.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leasehold::clock::{Clock, Time};

/// Requests per second, and how many may go out at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateLimit {
    every: Duration,
    burst: u32,
}

impl RateLimit {
    /// Without a burst: a second's worth of requests, one at least.
    pub(crate) fn new(per_second: f64, burst: Option<u32>) -> Option<Self> {
        // Less than one an hour would be an outage of its own.
        if !per_second.is_finite() || per_second < 1.0 / 3600.0 || burst == Some(0) {
            return None;
        }
        let every = Duration::try_from_secs_f64(1.0 / per_second).ok()?;
        // The cast saturates.
        let burst = burst.unwrap_or((per_second as u32).max(1));
        Some(Self { every, burst })
    }
}

/// Keeps to a [`RateLimit`], first come, first served.
#[derive(Debug)]
pub(crate) struct Limiter {
    limit: RateLimit,
    /// When the request after the last one would be due if all came evenly.
    due: Mutex<Time>,
}

impl Limiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self { limit, due: Mutex::new(Time::ZERO) }
    }

    /// Waits for this caller's turn. One who stops waiting has used it up all the same.
    pub(crate) async fn turn(&self, clock: &Clock) {
        let at = self.reserve(clock.now());
        clock.sleep_until(at).await;
    }

    /// The same, if that turn comes by `latest`. Else it is not taken, and the error is the time
    /// until it would have come.
    pub(crate) async fn turn_by(&self, clock: &Clock, latest: Time) -> Result<(), Duration> {
        let at = self.reserve_by(clock.now(), latest)?;
        clock.sleep_until(at).await;
        Ok(())
    }

    /// Takes a turn without waiting for it: those after it wait for longer.
    pub(crate) fn pass(&self, clock: &Clock) {
        self.reserve(clock.now());
    }

    fn reserve(&self, now: Time) -> Time {
        match self.reserve_by(now, Time::from_start(Duration::MAX)) {
            Ok(at) => at,
            Err(wait) => now + wait,
        }
    }

    fn reserve_by(&self, now: Time, latest: Time) -> Result<Time, Duration> {
        let RateLimit { every, burst } = self.limit;
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let even = (*due).max(now);
        // Ahead of an even pace by all of the burst but the request itself.
        let at = even.before(every.saturating_mul(burst - 1)).max(now);
        if at > latest {
            return Err(now.until(at));
        }
        *due = even + every;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_out_at_once_and_the_rest_at_the_rate() {
        let limiter = Limiter::new(RateLimit::new(10.0, Some(3)).unwrap());
        let start = Time::from_start(Duration::from_secs(100));
        let waits = |now: Time, n| -> Vec<u128> {
            (0..n).map(|_| now.until(limiter.reserve(now)).as_millis()).collect()
        };
        assert_eq!(waits(start, 5), [0, 0, 0, 100, 200]);
        // Half a second later all of the debt is paid, and all of the burst is there again.
        assert_eq!(waits(start + Duration::from_millis(500), 4), [0, 0, 0, 100]);
    }

    #[test]
    fn what_is_no_rate_makes_none() {
        for (rate, burst) in [(0.0, None), (-1.0, None), (f64::NAN, None), (1.0, Some(0))] {
            assert_eq!(RateLimit::new(rate, burst), None, "{rate} {burst:?}");
        }
    }
}
