//! What every hook promises, kept by this one.

use deadpool_postgres::{ManagerConfig, Object, Pool, RecyclingMethod};
use leasehold::CredentialProvider;
use leasehold_conformance::{Connection, Failure, Place, Subject, conforms};
use leasehold_deadpool::Installer;
use tokio_postgres::{Config, NoTls};

conforms! {
    a_pool_of_eight: Deadpool { max: 8, recycling: RecyclingMethod::Fast },
    a_pool_of_two_with_pings: Deadpool { max: 2, recycling: RecyclingMethod::Verified },
}

#[derive(Clone)]
struct Deadpool {
    max: usize,
    /// deadpool's own look at a connection before it is handed out.
    recycling: RecyclingMethod,
}

impl Subject for Deadpool {
    type Pool = Pool;
    type Connection = Borrowed;

    fn max_connections(&self) -> Option<usize> {
        Some(self.max)
    }

    async fn connect(&self, provider: &CredentialProvider, place: &Place) -> Result<Pool, Failure> {
        let mut config = Config::new();
        config
            .host(&place.host)
            .port(place.port)
            .dbname(&place.database)
            .application_name(place.application);
        let manager = ManagerConfig { recycling_method: self.recycling.clone() };
        let installer = Installer::new().probe(place.probe).manager(manager);
        Ok(installer.connect(provider, config, NoTls, |b| b.max_size(self.max)).await?)
    }

    async fn borrow(&self, pool: &Pool) -> Result<Borrowed, Failure> {
        Ok(Borrowed(pool.get().await?))
    }
}

struct Borrowed(Object);

impl Connection for Borrowed {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.0.batch_execute(sql).await?)
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(self.0.query_one(sql, &[]).await?.try_get(0)?)
    }
}
