//! One token, from login to its end, as those see it who use it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use leasehold::{Parent, ParentState};
use tokio::sync::{mpsc, watch};

use crate::keeper::Command;
use crate::token::Token;

/// A token epoch. The keeper drives it; callers hold it while they or their leases need it.
pub(crate) struct Epoch {
    /// Rises by one with each login.
    pub(crate) number: u64,
    pub(crate) token: Token,
    pub(crate) rights: UsedRights,
    state: watch::Receiver<ParentState>,
    holds: Mutex<Holds>,
    /// Weak: a lease that is still held must not keep the session's task alive.
    keeper: mpsc::WeakUnboundedSender<Command>,
}

/// What we do with the token itself, as far as its kind allows, and need rights for.
#[derive(Clone, Copy)]
pub(crate) struct UsedRights {
    pub(crate) renew: bool,
    /// Ask how long it lives.
    pub(crate) look: bool,
    pub(crate) revoke: bool,
}

#[derive(Default)]
struct Holds {
    count: usize,
    /// The token is being given back; nobody may start to use it.
    closed: bool,
}

impl Epoch {
    pub(crate) fn new(
        number: u64,
        token: Token,
        rights: UsedRights,
        state: watch::Receiver<ParentState>,
        keeper: mpsc::WeakUnboundedSender<Command>,
    ) -> Arc<Self> {
        Arc::new(Self { number, token, rights, state, holds: Mutex::default(), keeper })
    }

    /// Keeps the token from being revoked. `None` if that has begun.
    pub(crate) fn hold(self: &Arc<Self>) -> Option<Hold> {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if holds.closed {
            return None;
        }
        holds.count += 1;
        Some(Hold(self.clone()))
    }

    /// Whether nobody holds it; from then on nobody can.
    pub(crate) fn close_if_unheld(&self) -> bool {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.closed |= holds.count == 0;
        holds.closed
    }

    pub(crate) fn is_held(&self) -> bool {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.count > 0
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch")
            .field("number", &self.number)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// One user of a token: a call under way, or a lease that dies with it.
pub(crate) struct Hold(Arc<Epoch>);

impl Hold {
    pub(crate) fn epoch(&self) -> &Epoch {
        &self.0
    }

    /// Hands the hold to the lease that was made with the token.
    pub(crate) fn into_parent(self) -> Parent {
        let state = self.0.state.clone();
        Parent::new(state, Arc::new(self))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.0.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.count -= 1;
        let last = holds.count == 0;
        drop(holds);
        if last && let Some(keeper) = self.0.keeper.upgrade() {
            // No keeper any more: the token ends by its TTL.
            let _ = keeper.send(Command::Released);
        }
    }
}
