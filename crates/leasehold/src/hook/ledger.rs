//! A pool's own connections, counted by generation from the dial to the close.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Counts connections by generation. Exact: a [`Ticket`] is taken before the dial and moves into
/// whatever ends with the connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    open: Mutex<Open>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Open {
    by_generation: BTreeMap<u64, usize>,
    total: usize,
    most: usize,
}

/// One connection, dialling or open. Dropping it says that it is closed.
#[derive(Debug)]
#[must_use = "dropping a ticket says that the connection is closed"]
pub struct Ticket {
    ledger: Ledger,
    generation: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner { open: Mutex::default(), changed: watch::Sender::new(()) }))
    }

    /// A dial with the login of `generation` begins.
    pub fn enter(&self, generation: u64) -> Ticket {
        self.with(|open| {
            *open.by_generation.entry(generation).or_default() += 1;
            open.total += 1;
            open.most = open.most.max(open.total);
        });
        Ticket { ledger: self.clone(), generation }
    }

    /// As [`enter`](Self::enter), but only while fewer than `limit` are open.
    #[must_use]
    pub fn try_enter(&self, generation: u64, limit: usize) -> Option<Ticket> {
        let entered = self.with(|open| {
            let free = open.total < limit;
            if free {
                *open.by_generation.entry(generation).or_default() += 1;
                open.total += 1;
                open.most = open.most.max(open.total);
            }
            free
        });
        entered.then(|| Ticket { ledger: self.clone(), generation })
    }

    /// Connections of `generation`.
    #[must_use]
    pub fn of(&self, generation: u64) -> usize {
        self.with(|open| open.by_generation.get(&generation).copied().unwrap_or(0))
    }

    /// Connections of `generation` and of all before it.
    #[must_use]
    pub fn up_to(&self, generation: u64) -> usize {
        self.with(|open| open.by_generation.range(..=generation).map(|(_, n)| n).sum())
    }

    /// All connections.
    #[must_use]
    pub fn total(&self) -> usize {
        self.with(|open| open.total)
    }

    /// The most that were ever open at once.
    #[must_use]
    pub fn most(&self) -> usize {
        self.with(|open| open.most)
    }

    /// Waits until `done` holds of this ledger; looked at anew whenever a connection ends. Cancel
    /// safe.
    pub async fn wait(&self, mut done: impl FnMut(&Self) -> bool) {
        let mut changed = self.0.changed.subscribe();
        while !done(self) {
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Open) -> T) -> T {
        f(&mut self.0.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ledger.with(|open| {
            open.total -= 1;
            if let Some(n) = open.by_generation.get_mut(&self.generation) {
                *n -= 1;
                if *n == 0 {
                    open.by_generation.remove(&self.generation);
                }
            }
        });
        self.ledger.0.changed.send_replace(());
    }
}
