//! What the pool hands out.

use std::fmt;
use std::ops::{Deref, DerefMut};

use leasehold_tokio_postgres::hook::{Link, Slotted};
use tokio_postgres::Client;

/// A connection of the pool, which derefs to [`Client`].
pub struct Connection(pub(crate) Slotted<Link>);

const CHECKED_OUT: &str = "the pool hands out what it has checked";

impl Connection {
    /// The generation whose login it has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.link().generation()
    }

    fn link(&self) -> &Link {
        // INVARIANT: a connection is reachable from outside of the pool only between a successful
        // `is_valid` and its return, or before it was ever idle (customizers).
        self.0.get().expect(CHECKED_OUT)
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.link().client()
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        self.0.get_mut().expect(CHECKED_OUT).client_mut()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0).finish()
    }
}
