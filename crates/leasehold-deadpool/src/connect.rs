//! How the pool makes a connection.

use std::sync::Arc;

use deadpool_postgres::Connect;
use leasehold::CredentialProvider;
use leasehold::hook::BoxFuture;
use leasehold_tokio_postgres::hook::{Engine, Link, Spares};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};

use crate::guard::hand_over;

/// Dials with the current login, whatever the pool's own configuration says.
pub(crate) struct Connector {
    pub(crate) engine: Arc<Engine>,
    pub(crate) spares: Arc<Spares<Link>>,
    pub(crate) provider: CredentialProvider,
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        Box::pin(async move {
            let spare = |generation| self.spares.take(generation);
            let link = self.engine.connect_link(&self.provider, spare).await?;
            hand_over(link.generation());
            Ok(link.into_parts())
        })
    }
}
