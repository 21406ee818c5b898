//! How the pool makes, checks and takes back connections.

use std::fmt;
use std::sync::Arc;

use leasehold::hook::Sampler;
use leasehold::{CredentialProvider, Observation};
use leasehold_tokio_postgres::hook::{Slots, Spare};
use r2d2::{CustomizeConnection, ManageConnection};

use crate::connection::Connection;
use crate::dialler::Dialler;
use crate::driver::{Client, Liveness};
use crate::error::Error;
use crate::held::Held;
use crate::threads::wait_for;

/// How often a connection that is not fit is replaced for one borrower. One that is just made can
/// only be superseded again by a further swap, and those are seconds apart.
const TRIES: u32 = 3;

/// r2d2's manager. Made by [`Installer`](crate::Installer).
pub struct Manager<C: Client> {
    pub(crate) dialler: Arc<Dialler<C>>,
    pub(crate) slots: Arc<Slots<Held<C>>>,
    pub(crate) provider: CredentialProvider,
    /// Each connection is asked whether it is alive when it is handed out.
    pub(crate) test: bool,
    pub(crate) sampler: Option<Sampler>,
}

impl<C: Client> Manager<C> {
    /// What a borrower waits for.
    pub(crate) fn open(&self) -> Result<Held<C>, Error> {
        let engine = &self.dialler.engine;
        if self.slots.is_closed() {
            return Err(Error::stopped(engine.name()));
        }
        let spare = |generation| self.slots.take_spare(generation);
        let open = |admission| self.dialler.clone().open(admission);
        let connecting = engine.connect(&self.provider, spare, open, Error::is_refused_login);
        wait_for(connecting).map_err(|source| Error::no_thread(engine.name(), source))?
    }

    /// Checks out what is in `kept`, and sees whether it is alive where that is due.
    fn take(&self, kept: &mut Connection<C>, just_made: bool) -> bool {
        let Some(slotted) = &mut kept.slotted else {
            return false;
        };
        if !self.slots.check_out(slotted) {
            return false;
        }
        let due = self.test || self.sampler.as_ref().is_some_and(Sampler::due);
        if just_made || !due {
            return true;
        }
        let Some(held) = slotted.get_mut() else {
            return false;
        };
        match held.client_mut().liveness() {
            Liveness::Alive => true,
            Liveness::RoleGone => {
                self.provider.report(held.generation(), Observation::SessionRevoked);
                false
            }
            Liveness::Failed => false,
        }
    }
}

impl<C: Client> ManageConnection for Manager<C> {
    type Connection = Connection<C>;
    type Error = Error;

    fn connect(&self) -> Result<Connection<C>, Error> {
        let slotted = Some(self.slots.place(self.open()?));
        Ok(Connection { slotted, greeted: false })
    }

    /// Puts another connection in the place of one that is not fit. As an error, r2d2 would log that
    /// it was superseded, and have another thread dial while the borrower waits all the same.
    fn is_valid(&self, kept: &mut Connection<C>) -> Result<(), Error> {
        let pool = self.dialler.engine.name();
        if !kept.greeted {
            return Err(Error::Customizer { pool: pool.to_owned() });
        }
        if self.take(kept, false) {
            return Ok(());
        }
        for _ in 0..TRIES {
            // Closed before the other is dialled.
            kept.slotted = None;
            kept.slotted = Some(self.slots.place(self.open()?));
            if self.take(kept, true) {
                return Ok(());
            }
        }
        Err(Error::stopped(pool))
    }

    fn has_broken(&self, kept: &mut Connection<C>) -> bool {
        let Some(slotted) = &mut kept.slotted else {
            return true;
        };
        let broken = slotted.get_mut().is_none_or(|held| held.client_mut().is_broken());
        broken || !self.slots.put_back(slotted)
    }
}

/// Sees the connections that r2d2 makes. One that it did not see was seen by another customizer,
/// which does not get to see those that replace superseded ones: better not to be used at all.
#[derive(Debug)]
pub(crate) struct Greeter;

impl<C: Client> CustomizeConnection<Connection<C>, Error> for Greeter {
    fn on_acquire(&self, connection: &mut Connection<C>) -> Result<(), Error> {
        connection.greeted = true;
        Ok(())
    }
}

impl<C: Client> fmt::Debug for Manager<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("engine", &self.dialler.engine).finish_non_exhaustive()
    }
}
