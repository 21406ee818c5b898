//! The pools under load, as a user has them: plain `PgPool` and plain deadpool `Pool`.

use std::time::Duration;

use leasehold::CredentialProvider;
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::NoTls;

use crate::AnyError;
use crate::args::PoolKind;
use crate::outcome::chain;

const SELECT: &str = "SELECT v, session_user::text FROM accounts WHERE id = $1";
const UPDATE: &str = "UPDATE accounts SET v = v + 1 WHERE id = $1";

/// A pool of either kind, and the provider that feeds it.
#[derive(Clone)]
pub(crate) struct AnyPool {
    pool: Kind,
    pub(crate) provider: CredentialProvider,
}

#[derive(Clone)]
enum Kind {
    Sqlx(sqlx::PgPool),
    Deadpool(deadpool_postgres::Pool),
}

/// Where a pool connects to.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
}

/// What one transaction does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) id: i32,
    pub(crate) pause: Duration,
}

/// Why an operation failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) sqlstate: String,
    pub(crate) at_checkout: bool,
    /// It was the pool that said no, as it had been closed.
    pub(crate) pool_closed: bool,
    pub(crate) message: String,
}

impl AnyPool {
    pub(crate) async fn connect(
        kind: PoolKind,
        size: usize,
        place: &Place,
        provider: &CredentialProvider,
    ) -> Result<Self, AnyError> {
        let pool = match kind {
            PoolKind::Sqlx => {
                let base = PgConnectOptions::new_without_pgpass()
                    .host(&place.host)
                    .port(place.port)
                    .database(&place.database)
                    .application_name("drill");
                let options = PgPoolOptions::new().max_connections(u32::try_from(size)?);
                Kind::Sqlx(leasehold_sqlx::connect(provider, options, base).await?)
            }
            PoolKind::Deadpool => {
                let mut base = tokio_postgres::Config::new();
                base.host(&place.host)
                    .port(place.port)
                    .dbname(&place.database)
                    .application_name("drill");
                let pool = leasehold_deadpool::connect(provider, base, NoTls, |b| b.max_size(size));
                Kind::Deadpool(pool.await?)
            }
        };
        Ok(Self { pool, provider: provider.clone() })
    }

    /// BEGIN, SELECT, a pause, UPDATE, COMMIT. The first statement also tells whose connection it
    /// is.
    pub(crate) async fn transaction(
        &self,
        work: Work,
        login: &mut Option<String>,
    ) -> Result<(), Failure> {
        match &self.pool {
            Kind::Sqlx(pool) => {
                let mut conn = pool.acquire().await.map_err(|e| of_sqlx(&e, true))?;
                on_sqlx(&mut conn, work, login).await.map_err(|e| of_sqlx(&e, false))
            }
            Kind::Deadpool(pool) => {
                let mut conn = pool.get().await.map_err(|e| of_deadpool(&e))?;
                on_deadpool(&mut conn, work, login).await.map_err(|e| of_postgres(&e, false))
            }
        }
    }
}

async fn on_sqlx(
    conn: &mut sqlx::PgConnection,
    work: Work,
    login: &mut Option<String>,
) -> Result<(), sqlx::Error> {
    use sqlx::Connection;
    let mut tx = conn.begin().await?;
    if let Some(row) = sqlx::query(SELECT).bind(work.id).fetch_optional(&mut *tx).await? {
        *login = Some(row.try_get(1)?);
    }
    tokio::time::sleep(work.pause).await;
    sqlx::query(UPDATE).bind(work.id).execute(&mut *tx).await?;
    tx.commit().await
}

async fn on_deadpool(
    conn: &mut deadpool_postgres::Object,
    work: Work,
    login: &mut Option<String>,
) -> Result<(), tokio_postgres::Error> {
    let tx = conn.transaction().await?;
    let select = tx.prepare_cached(SELECT).await?;
    if let Some(row) = tx.query_opt(&select, &[&work.id]).await? {
        *login = Some(row.try_get(1)?);
    }
    tokio::time::sleep(work.pause).await;
    let update = tx.prepare_cached(UPDATE).await?;
    tx.execute(&update, &[&work.id]).await?;
    tx.commit().await
}

/// No SQLSTATE: the failure did not come from Postgres.
const NONE: &str = "-----";

fn of_sqlx(error: &sqlx::Error, at_checkout: bool) -> Failure {
    let code = error.as_database_error().and_then(|e| e.code().map(|c| c.into_owned()));
    let sqlstate = code.unwrap_or_else(|| NONE.to_owned());
    let pool_closed = matches!(error, sqlx::Error::PoolClosed);
    Failure { sqlstate, at_checkout, pool_closed, message: chain(error) }
}

fn of_deadpool(error: &deadpool_postgres::PoolError) -> Failure {
    match error {
        deadpool_postgres::PoolError::Backend(error) => of_postgres(error, true),
        other => Failure {
            sqlstate: NONE.to_owned(),
            at_checkout: true,
            pool_closed: matches!(other, deadpool_postgres::PoolError::Closed),
            message: chain(other),
        },
    }
}

fn of_postgres(error: &tokio_postgres::Error, at_checkout: bool) -> Failure {
    let sqlstate = error.code().map_or(NONE, |c| c.code()).to_owned();
    Failure { sqlstate, at_checkout, pool_closed: false, message: chain(error) }
}
