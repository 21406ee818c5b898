//! How a connection of a pool is opened.

use std::error::Error as StdError;
use std::sync::Arc;

use leasehold::Generation;
use leasehold_tokio_postgres::hook::{Admission, Engine};
use tokio::task::spawn_blocking;

use crate::driver::{Client, Dial, Undialled};
use crate::error::Error;
use crate::held::Held;

/// What the application does with each new connection.
pub(crate) type OnConnect<C> =
    Arc<dyn Fn(&mut C) -> Result<(), Box<dyn StdError + Send + Sync>> + Send + Sync>;

/// Opens counted connections with a blocking driver.
pub(crate) struct Dialler<C: Client> {
    pub(crate) engine: Arc<Engine>,
    pub(crate) dial: Dial<C>,
    pub(crate) on_connect: Option<OnConnect<C>>,
}

impl<C: Client> Dialler<C> {
    /// Dials on a thread of the runtime that may be blocked, for no longer than the connect timeout.
    /// What is late is counted until it has ended.
    pub(crate) async fn open(self: Arc<Self>, admission: Admission) -> Result<Held<C>, Error> {
        let generation = admission.generation().clone();
        let theirs = self.clone();
        let dialling = spawn_blocking(move || theirs.dial(admission));
        let after = self.engine.connect_timeout();
        match tokio::time::timeout(after, dialling).await {
            Ok(Ok(Ok(held))) => Ok(held),
            Ok(Ok(Err(why))) => Err(self.explain(&generation, why).await),
            Ok(Err(ended)) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::stopped(self.engine.name())),
            },
            Err(_) => Err(Error::timeout(self.engine.name(), after)),
        }
    }

    fn dial(&self, admission: Admission) -> Result<Held<C>, Undialled> {
        let mut client = (self.dial)(admission.generation().credential())?;
        if let Some(on_connect) = &self.on_connect {
            on_connect(&mut client).map_err(Undialled::OnConnect)?;
        }
        Ok(Held::new(client, admission.open()))
    }

    async fn explain(&self, of: &Arc<Generation>, why: Undialled) -> Error {
        let pool = self.engine.name();
        match why {
            Undialled::Postgres(error) => Error::connect(pool, error),
            Undialled::Text(message) => self.ask_anew(of, message).await,
            Undialled::OnConnect(source) => Error::OnConnect { pool: pool.to_owned(), source },
        }
    }

    /// Whether a login is refused is a matter of its SQLSTATE, which libpq keeps to itself when a
    /// connect fails: the engine's own driver tells.
    async fn ask_anew(&self, of: &Arc<Generation>, message: String) -> Error {
        let pool = self.engine.name();
        let ask = async {
            let link = self.engine.open(self.engine.admit(Some(of)).await).await?;
            link.close().await;
            Ok::<_, tokio_postgres::Error>(())
        };
        let after = self.engine.connect_timeout();
        match tokio::time::timeout(after, ask).await {
            Ok(Err(error)) => Error::connect(pool, error),
            Ok(Ok(())) => Error::Libpq { pool: pool.to_owned(), message },
            Err(_) => Error::timeout(pool, after),
        }
    }
}
