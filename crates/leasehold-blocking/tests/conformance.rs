//! What every hook promises, kept by pools whose connections block.

use std::time::Duration;

use leasehold::CredentialProvider;
use leasehold_blocking::{Client, Installer, Manager};
use leasehold_conformance::{Blocking, Connection, Failure, Place, Subject, conforms};
use r2d2::{Builder, Pool, PooledConnection};
use tokio_postgres::{Config, NoTls};

conforms! {
    a_pool_of_eight: Kind::<postgres::Client>::new(8, true),
    a_pool_of_two_without_tests: Kind::<postgres::Client>::new(2, false),
}

#[cfg(feature = "diesel")]
conforms! {
    a_diesel_pool_of_four: Kind::<diesel::PgConnection>::new(4, true),
}

struct Kind<C> {
    max: u32,
    /// Each connection is asked whether it is alive when it is handed out.
    test: bool,
    client: std::marker::PhantomData<fn() -> C>,
}

impl<C> Kind<C> {
    fn new(max: u32, test: bool) -> Self {
        Self { max, test, client: std::marker::PhantomData }
    }
}

impl<C> Clone for Kind<C> {
    fn clone(&self) -> Self {
        Self::new(self.max, self.test)
    }
}

impl<C: Speaks> Subject for Kind<C> {
    type Pool = Pool<Manager<C>>;
    type Connection = Borrowed<C>;

    fn max_connections(&self) -> Option<usize> {
        usize::try_from(self.max).ok()
    }

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<Pool<Manager<C>>, Failure> {
        let mut config = Config::new();
        config
            .host(&place.host)
            .port(place.port)
            .dbname(&place.database)
            .application_name(place.application);
        let installer = Installer::default().probe(place.probe).test_on_check_out(self.test);
        let (max, provider) = (self.max, provider.clone());
        // r2d2 fills the pool by itself unless it is told not to, and after a shutdown it goes on
        // trying for as long as borrowers wait.
        let build = move |builder: Builder<Manager<C>>| {
            builder.max_size(max).min_idle(Some(0)).connection_timeout(Duration::from_secs(10))
        };
        let built =
            tokio::task::spawn_blocking(move || installer.connect(&provider, config, NoTls, build));
        Ok(built.await??)
    }

    async fn borrow(&self, pool: &Pool<Manager<C>>) -> Result<Borrowed<C>, Failure> {
        let pool = pool.clone();
        Ok(Borrowed(Blocking::make(move || pool.get()).await?))
    }
}

struct Borrowed<C: Client>(Blocking<PooledConnection<Manager<C>>>);

impl<C: Speaks> Connection for Borrowed<C> {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        let sql = sql.to_owned();
        self.0.run(move |connection| connection.execute_all(&sql)).await
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        let sql = sql.to_owned();
        self.0.run(move |connection| connection.text(&sql)).await
    }

    async fn give_back(self) {
        self.0.end().await;
    }
}

/// What the suite says, to each client in its own words.
trait Speaks: Client {
    fn execute_all(&mut self, sql: &str) -> Result<(), Failure>;

    fn text(&mut self, sql: &str) -> Result<String, Failure>;
}

impl Speaks for postgres::Client {
    fn execute_all(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.batch_execute(sql)?)
    }

    fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(self.query_one(sql, &[])?.try_get(0)?)
    }
}

#[cfg(feature = "diesel")]
mod by_libpq {
    use diesel::connection::SimpleConnection;
    use diesel::deserialize::QueryableByName;
    use diesel::sql_types::Text;
    use diesel::{PgConnection, RunQueryDsl, sql_query};
    use leasehold_conformance::Failure;

    use super::Speaks;

    #[derive(QueryableByName)]
    struct One {
        #[diesel(sql_type = Text)]
        value: String,
    }

    impl Speaks for PgConnection {
        fn execute_all(&mut self, sql: &str) -> Result<(), Failure> {
            Ok(self.batch_execute(sql)?)
        }

        fn text(&mut self, sql: &str) -> Result<String, Failure> {
            Ok(sql_query(sql).get_result::<One>(self)?.value)
        }
    }
}
