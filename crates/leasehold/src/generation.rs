//! One credential in use: what every pooled connection belongs to.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::credential::{Credential, Lease};

/// A credential with the number it got when it became current. Numbers start at 1 and rise by one
/// per swap.
pub struct Generation {
    number: u64,
    credential: Credential,
    lease: Lease,
    dead: AtomicBool,
}

impl Generation {
    pub(crate) fn new(number: u64, credential: Credential, lease: Lease) -> Self {
        Self { number, credential, lease, dead: AtomicBool::new(false) }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The login. Hand it to a driver, and load it anew for the next connection.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The lease as it was issued; its end moves with each renewal, see
    /// [`Health::expires_in`](crate::Health::expires_in).
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The login is known to be gone though its lease had not ended: someone revoked it, or the
    /// role was dropped. Pools stop handing out its connections and wait for the next generation.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(crate) fn mark_dead(&self) {
        self.dead.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("username", &self.credential.username())
            .field("dead", &self.is_dead())
            .finish_non_exhaustive()
    }
}
