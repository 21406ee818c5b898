//! The two instants of a gate, as numbers: what writers and readers agree on without a lock.

use crate::sync::{AtomicU64, Ordering};

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

/// Connections made at or before `hard` are retired, those made at or before `soft` are superseded.
/// One writer at a time.
///
/// Writers raise what a reader looks at last before what it looks at first: who sees a swap sees
/// as well what that swap retired. `tests/loom.rs` goes through all interleavings.
#[derive(Debug)]
pub(crate) struct Stamps {
    /// 0 = nothing is superseded.
    soft: AtomicU64,
    hard: AtomicU64,
}

impl Stamps {
    pub(crate) fn new() -> Self {
        Self { soft: AtomicU64::new(0), hard: AtomicU64::new(0) }
    }

    /// Nothing is superseded.
    #[inline]
    pub(crate) fn pass_all(&self) -> bool {
        self.soft.load(Ordering::Acquire) == 0
    }

    #[inline]
    pub(crate) fn judge(&self, created: u64) -> Verdict {
        if created > self.soft.load(Ordering::Acquire) {
            Verdict::Current
        } else if created > self.hard.load(Ordering::Acquire) {
            Verdict::Superseded
        } else {
            Verdict::Retired
        }
    }

    /// A swap at `now`.
    pub(crate) fn supersede(&self, now: u64) {
        self.hard.store(self.soft.load(Ordering::Acquire), Ordering::Release);
        self.soft.store(now, Ordering::Release);
    }

    /// What was made until `now` is superseded too.
    pub(crate) fn raise(&self, now: u64) {
        self.soft.fetch_max(now, Ordering::AcqRel);
    }

    /// What is superseded is retired.
    pub(crate) fn harden(&self) {
        self.hard.fetch_max(self.soft.load(Ordering::Acquire), Ordering::AcqRel);
    }

    /// Nothing is superseded any more: nothing is left that was made before the last swap.
    pub(crate) fn clear(&self) {
        self.hard.store(0, Ordering::Release);
        self.soft.store(0, Ordering::Release);
    }

    /// Everything made until `now` is retired.
    pub(crate) fn retire_all(&self, now: u64) {
        self.soft.fetch_max(now, Ordering::AcqRel);
        self.hard.fetch_max(now, Ordering::AcqRel);
    }
}
