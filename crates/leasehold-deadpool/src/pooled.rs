//! A deadpool as its engine sees it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Metrics, Object, Pool, Timeouts, WeakPool};
use leasehold::hook::{BoxFuture, Refusal};
use leasehold_tokio_postgres::hook::{Link, Opener, Pooled, Spare, Spares};

/// The [`Pooled`] of any pool made with deadpool, whatever its manager keeps.
pub struct Retained<M: Manager, S> {
    /// Weak: the pool's manager leads to the engine, which has this.
    pub pool: WeakPool<M>,
    /// Where the manager takes connections from before it dials.
    pub spares: Arc<Spares<S>>,
    /// When a connection of the pool was made.
    pub made: fn(&M::Type, Metrics) -> Instant,
    /// Opens a spare.
    pub opener: Opener<S>,
    /// The bound on taking a spare in.
    pub connect_timeout: Duration,
}

impl<M: Manager, S> Retained<M, S> {
    fn open(&self) -> Option<Pool<M>> {
        self.pool.upgrade().filter(|pool| !pool.is_closed())
    }
}

impl<M, S> Pooled for Retained<M, S>
where
    M: Manager + 'static,
    M::Type: Send,
    M::Error: Send,
    Object<M>: Send,
    S: Spare,
{
    fn is_open(&self) -> bool {
        self.open().is_some()
    }

    fn close(&self) {
        if let Some(pool) = self.open() {
            pool.close();
        }
    }

    fn max_size(&self) -> Option<usize> {
        self.open().map(|pool| pool.status().max_size)
    }

    fn size(&self) -> usize {
        self.open().map_or(0, |pool| pool.status().size)
    }

    fn idle(&self) -> usize {
        self.open().map_or(0, |pool| pool.status().available)
    }

    fn close_idle(&self, most: usize, which: &mut dyn FnMut(Instant) -> bool) -> usize {
        let Some(pool) = self.open() else {
            return 0;
        };
        let mut left = most;
        let result = pool.retain(|connection, metrics| {
            let close = left > 0 && which((self.made)(connection, metrics));
            left -= usize::from(close);
            !close
        });
        // They are dropped here, after the pool's lock.
        result.removed.len()
    }

    fn open_spare(&self) -> BoxFuture<'_, Result<bool, Refusal>> {
        Box::pin(async move {
            let spare = (self.opener)().await?;
            Ok(spare.map(|spare| self.spares.put(spare)).is_some())
        })
    }

    fn put_proof(&self, proof: Link) {
        if let Some(spare) = S::from_link(proof) {
            self.spares.put(spare);
        }
    }

    fn spare_waits(&self) -> bool {
        self.spares.is_claimable()
    }

    fn claim_spare(&self) -> bool {
        self.spares.claim()
    }

    fn spares(&self) -> usize {
        self.spares.len()
    }

    /// They come in by a `get` that finds nothing idle, and go back.
    fn adopt_spares(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(pool) = self.open() else {
                return;
            };
            // What is made of a spare is there at once; a dial in place of one that a borrower took
            // would hold up everybody.
            let (at_once, bound) = (Some(Duration::ZERO), Some(self.connect_timeout));
            let now = Timeouts { wait: at_once, create: at_once, recycle: bound };
            let mut held = Vec::new();
            while !self.spares.is_empty() {
                let status = pool.status();
                let used = status.size - status.available + status.waiting;
                if used >= status.max_size {
                    // In a busy pool borrowers take the spares themselves.
                    return;
                }
                match pool.timeout_get(&now).await {
                    Ok(connection) => held.push(connection),
                    Err(_) => return,
                }
            }
        })
    }

    fn clear_spares(&self) {
        self.spares.clear();
    }
}

impl<M: Manager, S> fmt::Debug for Retained<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retained").finish_non_exhaustive()
    }
}
