//! What every hook promises, kept by connections without a pool.

use leasehold::CredentialProvider;
use leasehold_conformance::{Connection, Failure, Place, Subject, conforms};
use leasehold_tokio_postgres::{Connection as Link, Connector, Installer};
use tokio_postgres::{Config, NoTls};

conforms! {
    connections_without_a_pool: Plain,
}

#[derive(Clone)]
struct Plain;

impl Subject for Plain {
    type Pool = Connector;
    type Connection = Borrowed;

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<Connector, Failure> {
        let mut config = Config::new();
        config
            .host(&place.host)
            .port(place.port)
            .dbname(&place.database)
            .application_name(place.application);
        Ok(Installer::new().probe(place.probe).connector(provider, config, NoTls)?)
    }

    async fn borrow(&self, connector: &Connector) -> Result<Borrowed, Failure> {
        Ok(Borrowed(connector.connect().await?))
    }
}

struct Borrowed(Link);

impl Connection for Borrowed {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.0.batch_execute(sql).await?)
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(self.0.query_one(sql, &[]).await?.try_get(0)?)
    }

    async fn give_back(self) {
        self.0.close().await;
    }
}
