//! How the pool makes a connection.

use std::cell::Cell;
use std::sync::Arc;

use deadpool_postgres::Connect;
use leasehold::CredentialProvider;
use leasehold::hook::BoxFuture;
use leasehold_tokio_postgres::hook::{Engine, Link, Spares};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};

thread_local! {
    /// The generation of the connection that this thread is just handing to deadpool, which puts
    /// the time stamp on it and calls the `post_create` hook without an await between.
    static HANDED_OVER: Cell<u64> = const { Cell::new(0) };
}

/// The generation of the connection handed over last on this thread; 0 if there is none.
pub(crate) fn handed_over() -> u64 {
    HANDED_OVER.take()
}

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
            HANDED_OVER.set(link.generation());
            Ok(link.into_parts())
        })
    }
}
