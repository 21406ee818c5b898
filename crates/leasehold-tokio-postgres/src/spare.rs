//! Connections dialled ahead by the rotator's own tasks, so that no borrower waits for a login.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use leasehold::Generation;
use leasehold::hook::{BoxFuture, Refusal};

use crate::diagnosis::refusal;
use crate::engine::Engine;
use crate::link::Link;

/// Spare connections, and how many of them no superseded one has made way for yet.
pub struct Spares<S>(Mutex<Inner<S>>);

struct Inner<S> {
    waiting: VecDeque<S>,
    unclaimed: usize,
}

impl<S: Spare> Inner<S> {
    /// One that died in waiting makes up for nothing.
    fn forget_dead(&mut self) {
        self.waiting.retain(|spare| !spare.is_closed());
        self.unclaimed = self.unclaimed.min(self.waiting.len());
    }
}

/// What can lie in wait for a borrower.
pub trait Spare: Send + 'static {
    /// The generation whose login it has.
    fn generation(&self) -> u64;

    /// When it was admitted, in the order of swaps.
    fn made(&self) -> Instant;

    /// Nobody can use it any more.
    fn is_closed(&self) -> bool;

    /// The connection that proved a login, as one of these, if it can be.
    #[must_use]
    fn from_link(link: Link) -> Option<Self>
    where
        Self: Sized,
    {
        drop(link);
        None
    }
}

/// Opens a connection with the current login ahead of its use; `None` if it could not be made fit.
pub type Opener<S> = Box<dyn Fn() -> BoxFuture<'static, Result<Option<S>, Refusal>> + Send + Sync>;

/// For connections of the driver that the engine dials with itself. Does not keep the engine.
#[must_use]
pub fn opener(engine: &Arc<Engine>) -> Opener<Link> {
    let opening = Arc::downgrade(engine);
    Box::new(move || {
        let engine = opening.upgrade();
        Box::pin(async move {
            match engine {
                Some(engine) => engine.open_ahead().await.map_err(|error| refusal(&error)),
                None => Ok(None),
            }
        })
    })
}

impl Spare for Link {
    fn generation(&self) -> u64 {
        self.generation()
    }

    fn made(&self) -> Instant {
        self.made()
    }

    fn is_closed(&self) -> bool {
        self.client().is_closed()
    }

    fn from_link(link: Link) -> Option<Self> {
        Some(link)
    }
}

impl<S> Default for Spares<S> {
    fn default() -> Self {
        Self(Mutex::new(Inner { waiting: VecDeque::new(), unclaimed: 0 }))
    }
}

impl<S> fmt::Debug for Spares<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").finish_non_exhaustive()
    }
}

impl<S: Spare> Spares<S> {
    /// One more.
    pub fn put(&self, spare: S) {
        let mut inner = self.lock();
        inner.waiting.push_back(spare);
        inner.unclaimed += 1;
    }

    /// A spare with the login of `generation` that is still open.
    #[must_use]
    pub fn take(&self, generation: u64) -> Option<S> {
        let mut inner = self.lock();
        let spare = loop {
            match inner.waiting.pop_front() {
                Some(spare) if spare.generation() != generation => {}
                Some(spare) if spare.is_closed() => {}
                spare => break spare,
            }
        };
        inner.unclaimed = inner.unclaimed.min(inner.waiting.len());
        spare
    }

    /// Whether a superseded connection may go now: one per spare.
    #[must_use]
    pub fn claim(&self) -> bool {
        let mut inner = self.lock();
        inner.forget_dead();
        let claimed = inner.unclaimed > 0;
        inner.unclaimed -= usize::from(claimed);
        claimed
    }

    /// A spare waits that nothing has made way for.
    #[must_use]
    pub fn is_claimable(&self) -> bool {
        let mut inner = self.lock();
        inner.forget_dead();
        inner.unclaimed > 0
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// None waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes all of them.
    pub fn clear(&self) {
        let old = {
            let mut inner = self.lock();
            inner.unclaimed = 0;
            std::mem::take(&mut inner.waiting)
        };
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
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
