//! A client with its place in the pool's count.

use std::fmt;
use std::time::Instant;

use leasehold_tokio_postgres::hook::{Seat, Spare};

use crate::driver::Client;
use crate::threads::drop_blocking;

/// An open connection, counted until its socket is closed. May be dropped anywhere: closing it
/// blocks, and is done where that is allowed.
pub(crate) struct Held<C: Client>(Option<Open<C>>);

/// In this order: the seat says that the socket is closed, so the socket goes first.
struct Open<C> {
    client: C,
    seat: Seat,
}

/// INVARIANT: nothing but the drop takes it out.
const UNTIL_DROPPED: &str = "there until it is dropped";

impl<C: Client> Held<C> {
    pub(crate) fn new(client: C, seat: Seat) -> Self {
        Self(Some(Open { client, seat }))
    }

    pub(crate) fn client(&self) -> &C {
        &self.open().client
    }

    pub(crate) fn client_mut(&mut self) -> &mut C {
        &mut self.0.as_mut().expect(UNTIL_DROPPED).client
    }

    fn open(&self) -> &Open<C> {
        self.0.as_ref().expect(UNTIL_DROPPED)
    }
}

impl<C: Client> Spare for Held<C> {
    fn generation(&self) -> u64 {
        self.open().seat.generation()
    }

    fn made(&self) -> Instant {
        self.open().seat.made()
    }

    fn is_closed(&self) -> bool {
        self.client().is_closed()
    }
}

impl<C: Client> Drop for Held<C> {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            drop_blocking(open);
        }
    }
}

impl<C: Client> fmt::Debug for Held<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
