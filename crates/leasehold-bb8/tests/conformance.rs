//! What every hook promises, kept by this one.

use bb8::{Pool, PooledConnection, QueueStrategy};
use leasehold::CredentialProvider;
use leasehold_bb8::{Installer, Manager};
use leasehold_conformance::{Connection, Failure, Place, Subject, conforms};
use tokio_postgres::{Config, NoTls};

conforms! {
    a_pool_of_eight: Bb8 { max: 8, queue: QueueStrategy::Fifo },
    a_pool_of_two_last_in_first_out: Bb8 { max: 2, queue: QueueStrategy::Lifo },
}

#[derive(Clone)]
struct Bb8 {
    max: u32,
    queue: QueueStrategy,
}

impl Subject for Bb8 {
    type Pool = Pool<Manager>;
    type Connection = Borrowed;

    fn max_connections(&self) -> Option<usize> {
        usize::try_from(self.max).ok()
    }

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<Pool<Manager>, Failure> {
        let mut config = Config::new();
        config
            .host(&place.host)
            .port(place.port)
            .dbname(&place.database)
            .application_name(place.application);
        let installer = Installer::new().probe(place.probe);
        // A shut down pool refuses when this is over: bb8 can't be closed.
        let build = |b: bb8::Builder<Manager>| {
            let waits = std::time::Duration::from_secs(10);
            b.max_size(self.max).queue_strategy(self.queue).connection_timeout(waits)
        };
        Ok(installer.connect(provider, config, NoTls, build).await?)
    }

    async fn borrow(&self, pool: &Pool<Manager>) -> Result<Borrowed, Failure> {
        Ok(Borrowed(pool.get_owned().await?))
    }
}

struct Borrowed(PooledConnection<'static, Manager>);

impl Connection for Borrowed {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.0.batch_execute(sql).await?)
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(self.0.query_one(sql, &[]).await?.try_get(0)?)
    }
}
