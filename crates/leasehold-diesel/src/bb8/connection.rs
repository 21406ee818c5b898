//! What the pool keeps, and hands out.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Weak;

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use leasehold_tokio_postgres::hook::{Slots, Slotted, Spare};

use crate::wire::Wire;

/// A connection of the pool, which derefs to [`AsyncPgConnection`] and is an
/// [`AsyncConnection`](diesel_async::AsyncConnection) itself.
pub struct Connection {
    pub(super) slotted: Slotted<Wire>,
    /// Weak: the pool's manager has them, so that they end with the pool.
    pub(super) slots: Weak<Slots<Wire>>,
}

const CHECKED_OUT: &str = "the pool hands out what it has checked";

impl Connection {
    /// The generation whose login it has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.wire().generation()
    }

    fn wire(&self) -> &Wire {
        // INVARIANT: a connection is reachable from outside of the pool only between a successful
        // check and its return, or before it was ever idle (customizers).
        self.slotted.get().expect(CHECKED_OUT)
    }
}

/// bb8 asks when it gets a connection back: it is put where a drain finds it.
impl PoolableConnection for Connection {
    fn is_broken(&mut self) -> bool {
        let Some(slots) = self.slots.upgrade() else {
            return true;
        };
        let broken = self.slotted.get_mut().is_none_or(|wire| wire.connection.is_broken());
        broken || !slots.put_back(&mut self.slotted)
    }
}

impl Deref for Connection {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.wire().connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        // INVARIANT: as above.
        &mut self.slotted.get_mut().expect(CHECKED_OUT).connection
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
