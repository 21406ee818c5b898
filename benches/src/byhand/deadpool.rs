//! A pool of deadpool whose login can be changed for the connections to come.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, Runtime};
use leasehold::Credential;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::AnyError;
use crate::rotation::Target;

/// deadpool tells nobody when the last connection of a closed pool came back.
const LOOK: Duration = Duration::from_millis(10);

/// deadpool's own way to connect, with a configuration that may change.
struct Changing {
    config: Arc<ArcSwap<Config>>,
    tls: MakeRustlsConnect,
}

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

impl Connect for Changing {
    fn connect(&self, _: &Config) -> Connecting<'_> {
        Box::pin(async move {
            let config = self.config.load_full();
            let (client, connection) = config.connect(self.tls.clone()).await?;
            let task = tokio::spawn(async move {
                // A session that the server ended: its client's next call says so.
                let _ = connection.await;
            });
            Ok((client, task))
        })
    }
}

pub(super) fn pool(
    target: &Target,
    login: &Credential,
    size: usize,
) -> Result<(Pool, Arc<ArcSwap<Config>>), AnyError> {
    let first = target.deadpool(login);
    let config = Arc::new(ArcSwap::from_pointee(first.clone()));
    let connect = Changing { config: config.clone(), tls: target.tls() };
    let manager = Manager::from_connect(first, connect, ManagerConfig::default());
    let pool = Pool::builder(manager).runtime(Runtime::Tokio1).max_size(size).build()?;
    Ok((pool, config))
}

/// Closes what is idle, and the rest as it comes back.
pub(super) async fn close(pool: &Pool) {
    pool.close();
    while pool.status().size > 0 {
        tokio::time::sleep(LOOK).await;
    }
}
