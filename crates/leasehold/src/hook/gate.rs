//! Which connections are superseded, told by when they were made.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stamps::{Stamps, Verdict};

/// Added to the instant at which no connect with the old login was in flight any more, before
/// connections made until then are taken for superseded. Pools stamp a connection just after the
/// handshake and report its age a little late; the latest seen on two overloaded cores was 0.9 ms.
/// A current connection that is misjudged is replaced, which harms nobody.
const MARGIN: Duration = Duration::from_millis(10);

/// Two instants per pool. Connections made at or before `hard` are retired, those made at or
/// before `soft` are superseded. At a swap `hard` takes over the previous `soft` and `soft` the
/// instant of the swap; at the end of the roll `hard` takes over `soft`.
///
/// Readers make one atomic load while nothing is superseded.
#[derive(Debug)]
pub struct Gate {
    base: Instant,
    /// In nanoseconds since `base`.
    stamps: Stamps,
    /// Writers go one at a time; readers never take it. Whether something was retired for another
    /// reason than a swap since the last one.
    writer: Mutex<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A gate that lets everything pass.
    #[must_use]
    pub fn new() -> Self {
        // A second back, so that no instant of interest is 0.
        let now = crate::clock::pool_instant();
        let base = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        Self { base, stamps: Stamps::new(), writer: Mutex::new(false) }
    }

    /// Judges a connection by the instant at which it was made.
    #[inline]
    #[must_use]
    pub fn judge(&self, created: Instant) -> Verdict {
        if self.stamps.pass_all() {
            return Verdict::Current;
        }
        self.stamps.judge(self.stamp(created))
    }

    /// Judges a connection by its age; reads the clock only while something is superseded.
    #[inline]
    #[must_use]
    pub fn judge_age(&self, age: Duration) -> Verdict {
        if self.stamps.pass_all() {
            return Verdict::Current;
        }
        let now = crate::clock::pool_instant();
        now.checked_sub(age).map_or(Verdict::Retired, |created| self.judge(created))
    }

    /// A swap: everything made until now is superseded, what was superseded before is retired.
    pub fn supersede(&self) {
        let mut distrusted = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        *distrusted = false;
        self.stamps.supersede(self.now());
    }

    /// The last connect with the superseded login has ended: what was made until now, and a margin
    /// on top, is superseded too. Waits for that margin to pass first.
    pub async fn raise(&self) {
        tokio::time::sleep(MARGIN).await;
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.stamps.raise(self.now());
    }

    /// The end of the roll: what is superseded is retired.
    pub fn harden(&self) {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.stamps.harden();
    }

    /// The current login is known to be dead: everything made until now is retired.
    pub fn retire_all(&self) {
        let mut distrusted = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        *distrusted = true;
        self.stamps.retire_all(self.now());
    }

    /// No connection is left that was made with a login before the current one, nor is one being
    /// made: until the next swap nothing has to be compared. Does nothing where connections of the
    /// current login are retired too.
    pub fn settle(&self) {
        let distrusted = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !*distrusted {
            self.stamps.clear();
        }
    }

    fn now(&self) -> u64 {
        self.stamp(crate::clock::pool_instant())
    }

    fn stamp(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn i2_once_retired_never_handed_out_again_whatever_swaps_follow() {
        let gate = Gate::new();
        let first = crate::clock::pool_instant();
        assert_eq!(gate.judge(first), Verdict::Current);
        gate.supersede();
        assert_eq!(gate.judge(first), Verdict::Superseded);
        gate.raise().await;
        gate.harden();
        assert_eq!(gate.judge(first), Verdict::Retired);
        let second = crate::clock::pool_instant();
        assert_eq!(gate.judge(second), Verdict::Current);
        gate.supersede();
        assert_eq!(gate.judge(first), Verdict::Retired);
        assert_eq!(gate.judge(second), Verdict::Superseded);
        gate.supersede(); // before the second's roll ended: its time is up all the same
        assert_eq!(gate.judge(second), Verdict::Retired);
        assert_eq!(gate.judge_age(Duration::ZERO), Verdict::Current);
        gate.retire_all();
        assert_eq!(gate.judge(second), Verdict::Retired);
    }

    #[tokio::test]
    async fn i2_what_was_retired_for_a_dead_login_stays_so_when_a_drain_ends() {
        let gate = Gate::new();
        gate.supersede();
        gate.raise().await;
        gate.harden();
        let current = crate::clock::pool_instant();
        gate.settle();
        assert!(gate.stamps.pass_all());
        assert_eq!(gate.judge(current), Verdict::Current);
        gate.retire_all();
        gate.settle();
        assert_eq!(gate.judge(current), Verdict::Retired);
        gate.supersede();
        assert_eq!(gate.judge(current), Verdict::Retired, "whatever swaps follow");
        gate.settle();
        assert!(gate.stamps.pass_all(), "with them gone");
    }
}
