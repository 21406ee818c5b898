//! Which connections are superseded, told by when they were made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Added to the instant at which no connect with the old login was in flight any more, before
/// connections made until then are taken for superseded. Pools stamp a connection just after the
/// handshake and report its age a little late; the latest seen on two overloaded cores was 0.9 ms.
/// A current connection that is misjudged is replaced, which harms nobody.
const MARGIN: Duration = Duration::from_millis(10);

/// What may be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Of the current generation.
    Current,
    /// Superseded, and still handed out while the roll lasts.
    Superseded,
    /// Superseded for good: never handed out again.
    Retired,
}

/// Two instants per pool. Connections made at or before `hard` are retired, those made at or
/// before `soft` are superseded. At a swap `hard` takes over the previous `soft` and `soft` the
/// instant of the swap; at the end of the roll `hard` takes over `soft`.
///
/// Readers make one atomic load while nothing is superseded.
#[derive(Debug)]
pub struct Gate {
    base: Instant,
    /// Nanoseconds since `base`; 0 = nothing is superseded. Never below `hard`.
    soft: AtomicU64,
    hard: AtomicU64,
    /// Writers go one at a time; readers never take it.
    writer: Mutex<()>,
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
        Self { base, soft: AtomicU64::new(0), hard: AtomicU64::new(0), writer: Mutex::new(()) }
    }

    /// Judges a connection by the instant at which it was made.
    #[inline]
    #[must_use]
    pub fn judge(&self, created: Instant) -> Verdict {
        let soft = self.soft.load(Ordering::Acquire);
        if soft == 0 {
            return Verdict::Current;
        }
        let created = self.stamp(created);
        if created > soft {
            Verdict::Current
        } else if created > self.hard.load(Ordering::Acquire) {
            Verdict::Superseded
        } else {
            Verdict::Retired
        }
    }

    /// Judges a connection by its age; reads the clock only while something is superseded.
    #[inline]
    #[must_use]
    pub fn judge_age(&self, age: Duration) -> Verdict {
        if self.soft.load(Ordering::Acquire) == 0 {
            return Verdict::Current;
        }
        let now = crate::clock::pool_instant();
        now.checked_sub(age).map_or(Verdict::Retired, |created| self.judge(created))
    }

    /// A swap: everything made until now is superseded, what was superseded before is retired.
    pub fn supersede(&self) {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.hard.store(self.soft.load(Ordering::Acquire), Ordering::Release);
        self.soft.store(self.stamp(crate::clock::pool_instant()), Ordering::Release);
    }

    /// The last connect with the superseded login has ended: what was made until now, and a margin
    /// on top, is superseded too. Waits for that margin to pass first.
    pub async fn raise(&self) {
        tokio::time::sleep(MARGIN).await;
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.stamp(crate::clock::pool_instant());
        self.soft.fetch_max(now, Ordering::AcqRel);
    }

    /// The end of the roll: what is superseded is retired.
    pub fn harden(&self) {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.hard.fetch_max(self.soft.load(Ordering::Acquire), Ordering::AcqRel);
    }

    /// The current login is known to be dead: everything made until now is retired.
    pub fn retire_all(&self) {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.stamp(crate::clock::pool_instant());
        self.soft.fetch_max(now, Ordering::AcqRel);
        self.hard.fetch_max(now, Ordering::AcqRel);
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
}
