//! What every hook promises, kept by this one, with both pools.

use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, RecyclingMethod, bb8 as diesel_bb8,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use leasehold::CredentialProvider;
use leasehold_conformance::{Connection, Failure, Place, Subject, conforms};
use leasehold_diesel::{bb8, deadpool};
use tokio_postgres::{Config, NoTls};

conforms! {
    deadpool_with_eight: Deadpool { max: 8, fast: true },
    deadpool_with_two_and_pings: Deadpool { max: 2, fast: false },
    bb8_with_eight: Bb8 { max: 8 },
    bb8_with_two: Bb8 { max: 2 },
}

fn config(place: &Place) -> Config {
    let mut config = Config::new();
    config
        .host(&place.host)
        .port(place.port)
        .dbname(&place.database)
        .application_name(place.application);
    config
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn text(connection: &mut AsyncPgConnection, sql: &str) -> QueryResult<String> {
    Ok(sql_query(sql).get_result::<Row>(connection).await?.value)
}

#[derive(Clone)]
struct Deadpool {
    max: usize,
    /// Without diesel-async's own look at a connection before it is handed out.
    fast: bool,
}

impl Subject for Deadpool {
    type Pool = Pool<AsyncPgConnection>;
    type Connection = FromDeadpool;

    fn max_connections(&self) -> Option<usize> {
        Some(self.max)
    }

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<Self::Pool, Failure> {
        let mut installer = deadpool::Installer::new().probe(place.probe);
        if self.fast {
            installer = installer.recycling(RecyclingMethod::Fast);
        }
        let build = |pool: deadpool::PoolBuilder| pool.max_size(self.max);
        Ok(installer.connect(provider, config(place), NoTls, build).await?)
    }

    async fn borrow(&self, pool: &Self::Pool) -> Result<FromDeadpool, Failure> {
        Ok(FromDeadpool(pool.get().await?))
    }
}

struct FromDeadpool(Object<AsyncPgConnection>);

impl Connection for FromDeadpool {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.0.batch_execute(sql).await?)
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(text(&mut self.0, sql).await?)
    }
}

#[derive(Clone)]
struct Bb8 {
    max: u32,
}

type FromBb8 = ::bb8::PooledConnection<'static, AsyncDieselConnectionManager<bb8::Connection>>;

impl Subject for Bb8 {
    type Pool = diesel_bb8::Pool<bb8::Connection>;
    type Connection = Borrowed;

    fn max_connections(&self) -> Option<usize> {
        usize::try_from(self.max).ok()
    }

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<Self::Pool, Failure> {
        let installer = bb8::Installer::new().probe(place.probe);
        // That nothing is handed out any more is told by this timeout.
        let build = |pool: bb8::PoolBuilder| {
            pool.max_size(self.max).connection_timeout(Duration::from_secs(10))
        };
        Ok(installer.connect(provider, config(place), NoTls, build).await?)
    }

    async fn borrow(&self, pool: &Self::Pool) -> Result<Borrowed, Failure> {
        Ok(Borrowed(pool.get_owned().await?))
    }
}

struct Borrowed(FromBb8);

impl Connection for Borrowed {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.0.batch_execute(sql).await?)
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(text(&mut self.0, sql).await?)
    }
}
