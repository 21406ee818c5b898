//! How the pool makes, checks and takes back connections.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use bb8::ManageConnection;
use leasehold::CredentialProvider;
use leasehold::hook::Sampler;
use leasehold_tokio_postgres::hook::{Engine, Link, Slots, sample};

use crate::Connection;

/// bb8's manager. Made by [`Installer`](crate::Installer).
pub struct Manager {
    pub(crate) engine: Arc<Engine>,
    pub(crate) slots: Arc<Slots<Link>>,
    pub(crate) provider: CredentialProvider,
    pub(crate) sampler: Option<Sampler>,
}

/// Why a connection was not made, or not handed out. bb8 tells its error sink of it, tries anew for
/// as long as its connection timeout lets it, and tells the borrower no more than that.
#[derive(Debug)]
#[non_exhaustive]
pub enum ManagerError {
    /// Postgres refused it, or could not be reached.
    Postgres(tokio_postgres::Error),
    /// Its login was superseded, or its connection is closed: another takes its place.
    Superseded,
    /// The rotator was shut down.
    Stopped,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = ManagerError;

    async fn connect(&self) -> Result<Connection, ManagerError> {
        if self.slots.is_closed() {
            return Err(ManagerError::Stopped);
        }
        let spare = |generation| self.slots.take_spare(generation);
        let link = self.engine.connect_link(&self.provider, spare).await;
        link.map(|link| Connection(self.slots.place(link))).map_err(ManagerError::Postgres)
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), ManagerError> {
        if !self.slots.check_out(&mut connection.0) {
            return Err(ManagerError::Superseded);
        }
        if self.sampler.as_ref().is_some_and(Sampler::due) {
            let sampled = sample(connection, &self.provider, connection.generation()).await;
            return sampled.map_err(ManagerError::Postgres);
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        !self.slots.put_back(&mut connection.0)
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl fmt::Display for ManagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("no connection to Postgres"),
            Self::Superseded => f.write_str("the connection was superseded or has ended"),
            Self::Stopped => f.write_str("the rotator has been shut down"),
        }
    }
}

impl StdError for ManagerError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Postgres(error) => Some(error),
            Self::Superseded | Self::Stopped => None,
        }
    }
}
