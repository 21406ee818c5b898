//! Connections in places from which a drain can take them, and into which it can put others.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use leasehold::hook::{BoxFuture, Refusal, Verdict};

use crate::engine::{Engine, Pooled};
use crate::link::Link;
use crate::spare::{Opener, Spare, Spares, opener};

/// The [`Pooled`] of pools that call their manager both when they hand a connection out and when
/// they get one back (bb8, r2d2), and that can be asked for neither their idle connections nor their
/// state.
///
/// What the pool keeps is a [`Slotted`]. While it is idle, its connection lies in a slot that both
/// share. So a drain closes idle connections, and replaces them in place while it rolls, and the
/// pool learns of it when it hands one out.
pub struct Slots<S> {
    engine: Weak<Engine>,
    spares: Spares<S>,
    opener: Opener<S>,
    max_size: AtomicUsize,
    slots: Mutex<Vec<Weak<Slot<S>>>>,
    closed: AtomicBool,
}

/// What a pool keeps, and hands out: a connection, or the place of one.
#[derive(Debug)]
pub struct Slotted<S> {
    slot: Arc<Slot<S>>,
    /// While it is borrowed.
    held: OnceLock<S>,
}

struct Slot<S>(Mutex<State<S>>);

enum State<S> {
    Idle(S),
    Borrowed,
    Closed,
}

impl Slots<Link> {
    /// For connections of the driver that the engine dials with itself.
    #[must_use]
    pub fn of_links(engine: &Arc<Engine>) -> Arc<Self> {
        Self::new(engine, opener(engine))
    }
}

impl<S: Spare> Slots<S> {
    /// To be kept by the pool's manager, so that it ends with the pool. `opener` opens a connection
    /// with the login that is current then.
    pub fn new(
        engine: &Arc<Engine>,
        opener: impl Fn() -> BoxFuture<'static, Result<Option<S>, Refusal>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let slots = Arc::new(Self {
            engine: Arc::downgrade(engine),
            spares: Spares::default(),
            opener: Box::new(opener),
            max_size: AtomicUsize::new(usize::MAX),
            slots: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        engine.set_pool(Handle(Arc::downgrade(&slots)));
        slots
    }

    /// The most connections the pool may have, once that is known. Default: no bound.
    pub fn set_max_size(&self, max: usize) {
        self.max_size.store(max, Ordering::Relaxed);
    }

    /// A connection for whoever needs one next.
    pub fn put_spare(&self, spare: S) {
        self.spares.put(spare);
    }

    /// A spare with the login of `generation`.
    #[must_use]
    pub fn take_spare(&self, generation: u64) -> Option<S> {
        self.spares.take(generation)
    }

    /// The rotator has shut down: nothing is handed out any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// A new connection, as the pool is to keep it: idle until it is checked out.
    pub fn place(&self, connection: S) -> Slotted<S> {
        let slot = Arc::new(Slot(Mutex::new(State::Idle(connection))));
        let mut slots = self.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        Slotted { slot, held: OnceLock::new() }
    }

    /// When the pool hands it out. False: it is to be discarded (I2).
    #[must_use]
    pub fn check_out(&self, slotted: &mut Slotted<S>) -> bool {
        let Some(connection) = slotted.take() else {
            return false;
        };
        let fit = self.alive(connection).and_then(|connection| self.fit(connection));
        let Some(connection) = fit else {
            return false;
        };
        *slotted.slot.lock() = State::Borrowed;
        slotted.held = OnceLock::from(connection);
        true
    }

    /// When the pool gets it back. False: it is to be discarded.
    #[must_use]
    pub fn put_back(&self, slotted: &mut Slotted<S>) -> bool {
        let Some(connection) = slotted.take() else {
            return false;
        };
        let Some(connection) = self.alive(connection).and_then(|c| self.fit(c)) else {
            return false;
        };
        *slotted.slot.lock() = State::Idle(connection);
        true
    }

    fn alive(&self, connection: S) -> Option<S> {
        Some(connection).filter(|connection| !connection.is_closed() && !self.is_closed())
    }

    /// The connection itself if it may be handed out, or a spare in its place. During a roll the
    /// superseded pass, unless a spare waits.
    fn fit(&self, connection: S) -> Option<S> {
        let engine = self.engine.upgrade()?;
        match engine.judge(connection.made()) {
            Verdict::Current => Some(connection),
            Verdict::Superseded => {
                Some(self.spares.take(engine.current().number()).unwrap_or(connection))
            }
            _ => self.spares.take(engine.current().number()),
        }
    }

    /// Looks at each place that the pool still has, until `look` says that it is enough.
    fn each(&self, mut look: impl FnMut(&mut State<S>) -> bool) {
        let slots: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        for slot in slots {
            if look(&mut slot.lock()) {
                break;
            }
        }
    }

    fn count(&self, which: impl Fn(&State<S>) -> bool) -> usize {
        let mut n = 0;
        self.each(|state| {
            n += usize::from(which(state));
            false
        });
        n
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Slot<S>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Slot<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Slotted<S> {
    /// The connection. Looking at an idle one, as a pool's callbacks for new connections do, takes
    /// it out of its slot until it has been checked out and put back. `None` once it is discarded.
    #[must_use]
    pub fn get(&self) -> Option<&S> {
        if self.held.get().is_none() {
            let mut state = self.slot.lock();
            match std::mem::replace(&mut *state, State::Closed) {
                State::Idle(connection) => {
                    *state = State::Borrowed;
                    let _ = self.held.set(connection);
                }
                other => *state = other,
            }
        }
        self.held.get()
    }

    /// As [`get`](Self::get).
    #[must_use]
    pub fn get_mut(&mut self) -> Option<&mut S> {
        let _ = self.get();
        self.held.get_mut()
    }

    /// The connection, wherever it is. Its place is closed then.
    fn take(&mut self) -> Option<S> {
        let state = std::mem::replace(&mut *self.slot.lock(), State::Closed);
        match (self.held.take(), state) {
            (Some(connection), _) | (None, State::Idle(connection)) => Some(connection),
            _ => None,
        }
    }
}

/// The pool as its engine sees it: its manager has the slots, and ends with the pool.
struct Handle<S>(Weak<Slots<S>>);

impl<S: Spare> Pooled for Handle<S> {
    fn is_open(&self) -> bool {
        self.0.upgrade().is_some_and(|slots| !slots.is_closed())
    }

    fn close(&self) {
        if let Some(slots) = self.0.upgrade() {
            slots.closed.store(true, Ordering::Relaxed);
            self.close_idle(usize::MAX, &mut |_| true);
        }
    }

    fn max_size(&self) -> Option<usize> {
        self.0.upgrade().map(|slots| slots.max_size.load(Ordering::Relaxed))
    }

    fn size(&self) -> usize {
        self.0.upgrade().map_or(0, |slots| slots.count(|state| !matches!(state, State::Closed)))
    }

    fn idle(&self) -> usize {
        self.0.upgrade().map_or(0, |slots| slots.count(|state| matches!(state, State::Idle(_))))
    }

    fn close_idle(&self, most: usize, which: &mut dyn FnMut(Instant) -> bool) -> usize {
        let mut closed = Vec::new();
        if let Some(slots) = self.0.upgrade() {
            slots.each(|state| {
                if closed.len() < most
                    && matches!(state, State::Idle(connection) if which(connection.made()))
                {
                    closed.push(std::mem::replace(state, State::Closed));
                }
                closed.len() == most
            });
        }
        // They are dropped here, out of their locks.
        closed.len()
    }

    fn replace_idle(&self, which: &mut dyn FnMut(Instant) -> bool) -> bool {
        let Some(slots) = self.0.upgrade() else {
            return false;
        };
        let Some(engine) = slots.engine.upgrade() else {
            return false;
        };
        let current = engine.current().number();
        let mut old = None;
        slots.each(|state| {
            if matches!(state, State::Idle(connection) if which(connection.made()))
                && let Some(spare) = slots.spares.take(current)
            {
                old = Some(std::mem::replace(state, State::Idle(spare)));
            }
            old.is_some()
        });
        old.is_some()
    }

    fn open_spare(&self) -> BoxFuture<'_, Result<bool, Refusal>> {
        Box::pin(async move {
            let Some(opening) = self.0.upgrade().map(|slots| (slots.opener)()) else {
                return Ok(false);
            };
            let opened = opening.await?;
            Ok(match (opened, self.0.upgrade()) {
                (Some(spare), Some(slots)) => {
                    slots.spares.put(spare);
                    true
                }
                _ => false,
            })
        })
    }

    fn spare_waits(&self) -> bool {
        self.0.upgrade().is_some_and(|slots| slots.spares.is_claimable())
    }

    fn claim_spare(&self) -> bool {
        self.0.upgrade().is_some_and(|slots| slots.spares.claim())
    }

    fn spares(&self) -> usize {
        self.0.upgrade().map_or(0, |slots| slots.spares.len())
    }

    /// Each stands in for one that was closed where it lay.
    fn adopt_spares(&self) -> BoxFuture<'_, ()> {
        if let Some(slots) = self.0.upgrade()
            && let Some(engine) = slots.engine.upgrade()
        {
            let current = engine.current().number();
            slots.each(|state| {
                if matches!(state, State::Closed) {
                    match slots.spares.take(current) {
                        Some(spare) => *state = State::Idle(spare),
                        None => return true,
                    }
                }
                false
            });
        }
        Box::pin(std::future::ready(()))
    }

    fn clear_spares(&self) {
        if let Some(slots) = self.0.upgrade() {
            slots.spares.clear();
        }
    }

    fn put_proof(&self, proof: Link) {
        if let Some(slots) = self.0.upgrade()
            && let Some(spare) = S::from_link(proof)
        {
            slots.spares.put(spare);
        }
    }
}

impl<S> fmt::Debug for Slots<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Slot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}
