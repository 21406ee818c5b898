#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

/// What `tests/loom.rs` has its own kind of.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use std::sync::{Mutex, MutexGuard};
}

mod certain;
mod control;
mod dials;
mod drain;
mod error;
mod home;
mod hooks;
mod installer;
mod lifetime;
mod managed;
mod ours;
mod report;
mod shared;

use leasehold::CredentialProvider;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub use error::Error;
pub use hooks::Hooks;
pub use installer::Installer;
pub use report::{acquire, report};

/// Builds a pool on the provider's current login, and opens its first connection. `base` says
/// everything but user name and password, which are replaced. For callbacks, a probe query or a
/// name see [`Installer`].
///
/// # Errors
/// As [`Installer::connect`].
pub async fn connect(
    provider: &CredentialProvider,
    options: PgPoolOptions,
    base: PgConnectOptions,
) -> Result<PgPool, Error> {
    Installer::new().connect(provider, options, base).await
}

/// As [`connect`], but opens nothing: the first borrower does. Needs no server to be up.
///
/// # Errors
/// As [`Installer::connect_lazy`].
pub fn connect_lazy(
    provider: &CredentialProvider,
    options: PgPoolOptions,
    base: PgConnectOptions,
) -> Result<PgPool, Error> {
    Installer::new().connect_lazy(provider, options, base)
}
