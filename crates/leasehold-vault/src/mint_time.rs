//! How long a request for a login may take, from its first wait to the last byte of its answer.

use std::time::Duration;

use leasehold::SourceError;
use leasehold::clock::{Clock, Time};

/// A rotator takes a mint that is older for lost, and asks for another.
pub(crate) const MOST: Duration = Duration::from_secs(120);

/// For what comes before the request: a token, a turn. It leaves more than the 90 s after which the
/// server gives up on a mint.
const READY_WITHIN: Duration = Duration::from_secs(25);

/// The time of one call of `issue`.
#[derive(Clone, Copy)]
pub(crate) struct MintTime {
    began: Time,
}

impl MintTime {
    pub(crate) fn begin(clock: &Clock) -> Self {
        Self { began: clock.now() }
    }

    /// No request is sent later.
    pub(crate) fn ready_by(self) -> Time {
        self.began + READY_WITHIN
    }

    /// When all of it is over.
    pub(crate) fn ends(self) -> Time {
        self.began + MOST
    }

    /// How long a request that is sent `now` may take, `most` at most. `None`: it comes too late,
    /// as after a wait over which the machine was suspended.
    pub(crate) fn for_answer(self, now: Time, most: Duration) -> Option<Duration> {
        (now <= self.ready_by()).then(|| most.min(now.until(self.ends())))
    }
}

/// The end of `wait`, or `late` if that is not there by `until`.
pub(crate) async fn by<T>(
    clock: &Clock,
    until: Time,
    wait: impl Future<Output = Result<T, SourceError>>,
    late: impl FnOnce() -> SourceError,
) -> Result<T, SourceError> {
    tokio::select! {
        biased;
        done = wait => done,
        () = clock.sleep_until(until) => Err(late()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_whenever_a_mint_is_sent_it_outlasts_the_server_and_ends_in_time() {
        let s = Duration::from_secs;
        let time = MintTime { began: Time::from_start(s(1000)) };
        let at = |after: u64, most| time.for_answer(Time::from_start(s(1000 + after)), s(most));
        assert_eq!(at(0, 120), Some(s(120)));
        assert_eq!(at(25, 120), Some(s(95)));
        assert_eq!(at(26, 120), None, "it would be cut off before the server gives up");
        assert_eq!(at(20, 4), Some(s(4)), "what was set is not lengthened");
    }
}
