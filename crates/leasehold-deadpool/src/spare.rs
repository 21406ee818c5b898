//! Connections dialled ahead by the rotator's own tasks, so that no borrower waits for a login.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use leasehold::Generation;

use crate::link::Link;

/// Spare connections, and how many of them no superseded one has made way for yet.
#[derive(Default)]
pub(crate) struct Spares(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Link>,
    unclaimed: usize,
}

impl Spares {
    pub(crate) fn put(&self, spare: Link) {
        let mut inner = self.lock();
        inner.waiting.push_back(spare);
        inner.unclaimed += 1;
    }

    /// A spare with the login of `generation` that is still open.
    pub(crate) fn take(&self, generation: u64) -> Option<Link> {
        let mut inner = self.lock();
        let spare = loop {
            match inner.waiting.pop_front() {
                Some(spare) if spare.generation() != generation => {}
                Some(spare) if spare.client().is_closed() => {}
                spare => break spare,
            }
        };
        inner.unclaimed = inner.unclaimed.min(inner.waiting.len());
        spare
    }

    /// Whether a superseded connection may go now: one per spare.
    pub(crate) fn claim(&self) -> bool {
        let mut inner = self.lock();
        let claimed = inner.unclaimed > 0;
        inner.unclaimed -= usize::from(claimed);
        claimed
    }

    /// A spare waits that nothing has made way for.
    pub(crate) fn is_claimable(&self) -> bool {
        self.lock().unclaimed > 0
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        let old = std::mem::take(&mut *self.lock());
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection that proved a candidate, until the candidate is installed, which makes it the
/// first spare, or turns out not to be wanted.
#[derive(Default)]
pub(crate) struct Proven(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Rises with each proof and each candidate that is not wanted.
    round: u64,
    proof: Option<(Weak<Generation>, Link)>,
}

impl Proven {
    /// A proof begins, and what was kept of another is closed. Returns what
    /// [`keep`](Self::keep) wants to know.
    pub(crate) fn begin(&self) -> u64 {
        self.discard();
        self.lock().round
    }

    /// Keeps the connection, unless its candidate is not wanted any more or another proof began.
    pub(crate) fn keep(&self, round: u64, candidate: &Arc<Generation>, link: Link) {
        let mut kept = self.lock();
        if kept.round == round {
            kept.proof = Some((Arc::downgrade(candidate), link));
        }
    }

    /// The connection that proved `installed`, if it was kept.
    pub(crate) fn take(&self, installed: &Arc<Generation>) -> Option<Link> {
        let (candidate, link) = self.lock().proof.take()?;
        // Another candidate may have had the same number.
        std::ptr::eq(candidate.as_ptr(), Arc::as_ptr(installed)).then_some(link)
    }

    /// Closes what is kept, and keeps nothing of a proof that is under way.
    pub(crate) fn discard(&self) {
        let mut kept = self.lock();
        kept.round += 1;
        let unwanted = kept.proof.take();
        drop(kept);
        drop(unwanted);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
