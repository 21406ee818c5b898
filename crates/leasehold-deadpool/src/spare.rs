//! Connections dialled ahead by the drain's task, so that no borrower waits for a login.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::link::Link;

/// Spare connections, and how many of them no superseded one has made way for yet.
#[derive(Default)]
pub(crate) struct Spares(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Vec<Link>,
    unclaimed: usize,
}

impl Spares {
    pub(crate) fn put(&self, spare: Link) {
        let mut inner = self.lock();
        inner.waiting.push(spare);
        inner.unclaimed += 1;
    }

    /// A spare with the login of `generation` that is still open.
    pub(crate) fn take(&self, generation: u64) -> Option<Link> {
        let mut inner = self.lock();
        let spare = loop {
            match inner.waiting.pop() {
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
