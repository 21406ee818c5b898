//! What every hook promises, kept with an ORM above it.

#![allow(clippy::unwrap_used)]

use leasehold::CredentialProvider;
use leasehold_conformance::{Connection, Failure, Place, Subject, conforms};
use leasehold_sqlx::Installer;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    SqlxPostgresConnector, Statement, TransactionTrait,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

conforms! {
    a_pool_of_ours: SeaOrm { max: 4, builder: Builder::Leasehold },
    a_pool_that_sea_orm_builds: SeaOrm { max: 4, builder: Builder::SeaOrm },
}

#[derive(Clone)]
struct SeaOrm {
    max: u32,
    builder: Builder,
}

/// Who builds the pool.
#[derive(Clone)]
enum Builder {
    Leasehold,
    SeaOrm,
}

impl Subject for SeaOrm {
    type Pool = DatabaseConnection;
    type Connection = Borrowed;

    fn max_connections(&self) -> Option<usize> {
        Some(self.max as usize)
    }

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<DatabaseConnection, Failure> {
        let installer = Installer::new().probe(place.probe);
        match self.builder {
            Builder::Leasehold => {
                let base = PgConnectOptions::new_without_pgpass()
                    .host(&place.host)
                    .port(place.port)
                    .database(&place.database)
                    .application_name(place.application);
                let options = PgPoolOptions::new().max_connections(self.max);
                let pool = installer.connect(provider, options, base).await?;
                Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
            }
            Builder::SeaOrm => {
                // The lifetimes are taken off these, and SeaORM has none of its own here.
                let (hooks, _) = installer.hooks(provider, PgPoolOptions::new());
                let Place { host, port, database, application, .. } = place;
                let application = *application;
                let mut options =
                    ConnectOptions::new(format!("postgres://nobody@{host}:{port}/{database}"));
                let installed = hooks.clone();
                options
                    .max_connections(self.max)
                    // Nothing is dialled before the login is there.
                    .connect_lazy(true)
                    .map_sqlx_postgres_opts(move |o| o.application_name(application))
                    .map_sqlx_postgres_pool_opts(move |o| {
                        installed.install(o.max_lifetime(None).idle_timeout(None))
                    });
                let db = Database::connect(options).await?;
                hooks.attach(db.get_postgres_connection_pool()).await?;
                Ok(db)
            }
        }
    }

    /// SeaORM lends connections for transactions alone.
    async fn borrow(&self, db: &DatabaseConnection) -> Result<Borrowed, Failure> {
        Ok(Borrowed(Some(db.begin().await?)))
    }
}

struct Borrowed(Option<DatabaseTransaction>);

impl Borrowed {
    fn open(&self) -> &DatabaseTransaction {
        self.0.as_ref().unwrap()
    }
}

impl Connection for Borrowed {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.open().execute_unprepared(sql).await?;
        Ok(())
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        let statement = Statement::from_string(DbBackend::Postgres, sql);
        let row = self.open().query_one_raw(statement).await?.unwrap();
        Ok(row.try_get("", "value")?)
    }

    /// Since it was borrowed.
    async fn begin(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Gives it back as well.
    async fn commit(&mut self) -> Result<(), Failure> {
        Ok(self.0.take().unwrap().commit().await?)
    }

    async fn give_back(self) {
        if let Some(transaction) = self.0 {
            let _ = transaction.rollback().await;
        }
    }
}
