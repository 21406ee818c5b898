//! A pool of sqlx with one login.

use leasehold::Credential;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::AnyError;
use crate::rotation::Target;

pub(super) fn pool(target: &Target, login: &Credential, size: usize) -> Result<PgPool, AnyError> {
    let options = PgPoolOptions::new().max_connections(u32::try_from(size)?);
    Ok(options.connect_lazy_with(target.sqlx(login)))
}
