//! How the pool makes a connection.

use std::cell::Cell;
use std::sync::Arc;

use deadpool_postgres::Connect;
use leasehold::hook::BoxFuture;
use leasehold::{CredentialProvider, Refreshed};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};

use crate::error::is_authentication;
use crate::link::Link;
use crate::shared::Shared;

/// How often a connect that was overtaken by a swap is made anew. Swaps are seconds apart, so more
/// than one is unheard of; the connection that is then returned is drained like any other.
const OVERTAKEN: u32 = 3;
/// How often one connect waits for fresh credentials: the second time covers a login that was
/// revoked again at once.
const REFUSED: u32 = 2;

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
    pub(crate) shared: Arc<Shared>,
    pub(crate) provider: CredentialProvider,
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        Box::pin(async move {
            let link = self.link().await?;
            HANDED_OVER.set(link.generation());
            Ok(link.into_parts())
        })
    }
}

impl Connector {
    async fn link(&self) -> Result<Link, Error> {
        let shared = &self.shared;
        let (mut overtaken, mut refused) = (0, 0);
        loop {
            let current = shared.current();
            if let Some(spare) = shared.spares.take(current.number()) {
                return Ok(spare);
            }
            if current.is_dead() {
                // Postgres would refuse it. If no other comes now, its refusal is the answer.
                let _ = self.provider.refused(current.number()).await;
            }
            let admission = shared.admit(None).await;
            let generation = admission.generation.number();
            match shared.open(admission).await {
                Ok(link) => {
                    if shared.current().number() == generation || overtaken == OVERTAKEN {
                        return Ok(link);
                    }
                    overtaken += 1;
                }
                Err(error) if is_authentication(&error) && refused < REFUSED => {
                    refused += 1;
                    match self.provider.refused(generation).await {
                        Refreshed::Swapped(_) => {}
                        _ => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
