//! What an application can do about errors that no hook of the pool gets to see.

use leasehold::hook::{Refusal, sql};
use leasehold::{CredentialProvider, Observation, Refreshed};
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};

use crate::error::sqlstate;

/// Tells the rotator of an error that may come from a revoked login: a refused one (28P01, 28000),
/// a session whose role is gone (42704 `invalid role OID`), or one that only looks like it (42501,
/// 42704, 57P01), which is confirmed before anything is minted. Every other error is ignored.
///
/// Cheap and never blocks: call it with any error of a query or of
/// [`PgPool::acquire`](sqlx::PgPool::acquire).
pub fn report(provider: &CredentialProvider, error: &sqlx::Error) {
    if let Some(what) = observation(error) {
        provider.report(provider.current().number(), what);
    }
}

fn observation(error: &sqlx::Error) -> Option<Observation> {
    let code = sqlstate(error)?;
    // Even the plain text of a missing role is a suspicion only: the connection may be one of a
    // superseded generation.
    match &*code {
        code if Refusal::is_authentication(code) => Some(Observation::LoginRejected),
        "42501" | sql::ROLE_GONE | "57P01" => Some(Observation::Suspected),
        _ => None,
    }
}

/// As [`PgPool::acquire`], and if the login is refused, waits for the swap that this leads to
/// and tries once more.
///
/// sqlx lets no hook see a refused login, so its own `acquire` returns that error at once. In
/// ordinary rotation none occurs; this helper is for logins that were revoked from outside. However
/// many callers there are, they share one rotation, and where none is permitted now the error is
/// returned at once. Cancel safe.
///
/// # Errors
/// What `acquire` returns.
pub async fn acquire(
    pool: &PgPool,
    provider: &CredentialProvider,
) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    let generation = provider.current().number();
    let error = match pool.acquire().await {
        Ok(conn) => return Ok(conn),
        Err(error) => error,
    };
    if !sqlstate(&error).is_some_and(|code| Refusal::is_authentication(&code)) {
        return Err(error);
    }
    match provider.refused(generation).await {
        Refreshed::Swapped(_) => pool.acquire().await,
        _ => Err(error),
    }
}
