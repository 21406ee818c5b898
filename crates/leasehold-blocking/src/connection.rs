//! What the pool hands out.

use std::fmt;
use std::ops::{Deref, DerefMut};

use leasehold_tokio_postgres::hook::{Slotted, Spare};

use crate::driver::Client;
use crate::held::Held;

/// A connection of the pool, which derefs to its client: [`postgres::Client`], or with the feature
/// `diesel` `diesel::PgConnection`.
pub struct Connection<C: Client> {
    /// `None` only while it is replaced.
    pub(crate) slotted: Option<Slotted<Held<C>>>,
    /// r2d2 has shown it to our customizer.
    pub(crate) greeted: bool,
}

/// INVARIANT: r2d2 shows a connection to nobody but between a successful `is_valid` and its return,
/// or to a customizer before it was ever idle.
const HANDED_OUT: &str = "the pool hands out what it has checked";

impl<C: Client> Connection<C> {
    /// The generation whose login it has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.held().expect(HANDED_OUT).generation()
    }

    fn held(&self) -> Option<&Held<C>> {
        self.slotted.as_ref().and_then(Slotted::get)
    }

    pub(crate) fn held_mut(&mut self) -> Option<&mut Held<C>> {
        self.slotted.as_mut().and_then(Slotted::get_mut)
    }
}

impl<C: Client> Deref for Connection<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.held().expect(HANDED_OUT).client()
    }
}

impl<C: Client> DerefMut for Connection<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.held_mut().expect(HANDED_OUT).client_mut()
    }
}

impl<C: Client> fmt::Debug for Connection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("slotted", &self.slotted).finish_non_exhaustive()
    }
}
