//! What every hook promises, kept by this one.

use leasehold::CredentialProvider;
use leasehold_conformance::{Connection, Failure, Place, Subject, conforms};
use leasehold_sqlx::Installer;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Postgres};

conforms! {
    a_pool_of_eight: Sqlx { max: 8, ping: true },
    a_pool_of_two_without_pings: Sqlx { max: 2, ping: false },
}

#[derive(Clone)]
struct Sqlx {
    max: u32,
    /// sqlx's own look at a connection before it is handed out.
    ping: bool,
}

impl Subject for Sqlx {
    type Pool = PgPool;
    type Connection = Borrowed;

    fn max_connections(&self) -> Option<usize> {
        Some(self.max as usize)
    }

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<PgPool, Failure> {
        let base = PgConnectOptions::new_without_pgpass()
            .host(&place.host)
            .port(place.port)
            .database(&place.database)
            .application_name(place.application);
        let options = PgPoolOptions::new().max_connections(self.max).test_before_acquire(self.ping);
        Ok(Installer::new().probe(place.probe).connect(provider, options, base).await?)
    }

    async fn borrow(&self, pool: &PgPool) -> Result<Borrowed, Failure> {
        Ok(Borrowed(pool.acquire().await?))
    }
}

struct Borrowed(PoolConnection<Postgres>);

impl Connection for Borrowed {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *self.0).await?;
        Ok(())
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *self.0).await?)
    }

    async fn give_back(mut self) {
        self.0.return_to_pool().await;
    }
}
