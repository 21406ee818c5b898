//! What happens to the connections of a pool made with deadpool, whatever its manager keeps.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{Hook, Manager, Metrics};
use leasehold::hook::{Sampler, Verdict};
use leasehold_tokio_postgres::hook::{Engine, Spare, Spares};

thread_local! {
    /// The generation of the connection that this thread is just handing to deadpool, which puts
    /// the time stamp on it and calls the `post_create` hook without an await between.
    static HANDED_OVER: Cell<u64> = const { Cell::new(0) };
}

/// Called by a manager, last of all, with the generation of the connection that it returns.
pub fn hand_over(generation: u64) {
    HANDED_OVER.set(generation);
}

/// The first `post_create` hook of a pool whose manager calls [`hand_over`].
#[must_use]
pub fn arrival<M: Manager>(engine: &Arc<Engine>) -> Hook<M> {
    let engine = engine.clone();
    Hook::sync_fn(move |_, _| {
        engine.stamped(HANDED_OVER.take());
        Ok(())
    })
}

/// Judges connections that are about to be handed out: for a `pre_recycle` hook.
pub struct Guard<S> {
    engine: Arc<Engine>,
    spares: Arc<Spares<S>>,
    sampler: Option<Sampler>,
}

/// What is to be done with a connection that is about to be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Nothing.
    Open,
    /// It is asked whether the login of this generation, which it has, is still there.
    Sample(u64),
    /// It is closed.
    Closed,
}

impl<S: Spare> Guard<S> {
    /// `liveness` is the interval of the samples; `None`: there are none.
    #[must_use]
    pub fn new(engine: &Arc<Engine>, spares: &Arc<Spares<S>>, liveness: Option<Duration>) -> Self {
        let sampler = liveness.map(Sampler::new);
        Self { engine: engine.clone(), spares: spares.clone(), sampler }
    }

    /// One atomic load while nothing is superseded, and one look at the coarse clock for the
    /// sampler.
    pub fn judge(&self, metrics: &Metrics) -> Passage {
        match self.engine.judge(metrics.created) {
            Verdict::Current if !self.sampler.as_ref().is_some_and(Sampler::due) => Passage::Open,
            Verdict::Current => match self.engine.judge_with_current(metrics.created) {
                (Verdict::Current, generation) => Passage::Sample(generation),
                // A swap came between the two looks; the next borrower sees it.
                _ => Passage::Open,
            },
            // The roll: borrowers keep what they find, unless a replacement is ready.
            Verdict::Superseded if !self.spares.claim() => Passage::Open,
            _ => Passage::Closed,
        }
    }
}

impl<S> fmt::Debug for Guard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("engine", &self.engine).finish_non_exhaustive()
    }
}
