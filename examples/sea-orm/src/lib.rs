//! SeaORM on a pool whose login rotates. Entities and queries know nothing of it.

#![forbid(unsafe_code)]

pub mod account;

use leasehold::CredentialProvider;
use leasehold_sqlx::{Error, Installer};
use sea_orm::{
    ActiveModelTrait, ActiveValue, DatabaseConnection, DbErr, EntityTrait, QuerySelect,
    SqlxPostgresConnector, TransactionTrait,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// A pool of at most `max` connections on the provider's login, as SeaORM takes it. `base` says
/// everything but user name and password.
///
/// # Errors
/// Those of [`Installer::connect`].
pub async fn connect(
    provider: &CredentialProvider,
    max: u32,
    base: PgConnectOptions,
) -> Result<DatabaseConnection, Error> {
    let options = PgPoolOptions::new().max_connections(max);
    let pool = Installer::new().connect(provider, options, base).await?;
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
}

/// Adds to an account, in one transaction. `None`: there is no such account.
///
/// # Errors
/// What the database says.
pub async fn deposit(
    db: &DatabaseConnection,
    id: i32,
    amount: i64,
) -> Result<Option<account::Model>, DbErr> {
    let transaction = db.begin().await?;
    let found = account::Entity::find_by_id(id).lock_exclusive().one(&transaction).await?;
    let Some(account) = found else { return Ok(None) };
    let balance = ActiveValue::Set(account.balance + amount);
    let account = account::ActiveModel { balance, ..account.into() };
    let account = account.update(&transaction).await?;
    transaction.commit().await?;
    Ok(Some(account))
}
