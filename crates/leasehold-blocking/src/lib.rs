#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "diesel")]
mod by_libpq;
mod by_postgres;
mod connection;
#[cfg(feature = "diesel")]
mod conninfo;
mod dialler;
mod driver;
mod error;
mod held;
mod installer;
mod manager;
mod rotator;
mod runtime;
mod threads;

#[cfg(feature = "diesel")]
pub use diesel;
use leasehold::CredentialProvider;
pub use leasehold_tokio_postgres::{report, tokio_postgres};
pub use postgres;
pub use r2d2;
use r2d2::{Builder, Pool};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

pub use connection::Connection;
pub use driver::Client;
pub use error::Error;
pub use installer::Installer;
pub use manager::Manager;
pub use rotator::{Rotator, StartError};
pub use runtime::{InsideRuntime, Runtime};

/// The manager of a pool of [`postgres::Client`]s.
pub type PostgresManager = Manager<postgres::Client>;

/// The manager of a pool of [`diesel::PgConnection`]s.
#[cfg(feature = "diesel")]
pub type DieselManager = Manager<diesel::PgConnection>;

/// Builds a pool of [`postgres::Client`]s on `provider`, attaches it, and makes
/// its first connection. See [`Installer::connect`].
///
/// # Errors
/// [`Error`], which names the pool and says what to do.
pub fn connect<T>(
    provider: &CredentialProvider,
    config: Config,
    tls: T,
    build: impl FnOnce(Builder<PostgresManager>) -> Builder<PostgresManager>,
) -> Result<Pool<PostgresManager>, Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Installer::new().connect(provider, config, tls, build)
}

/// As [`connect`], without making a connection first. See [`Installer::connect_lazy`].
///
/// # Errors
/// [`Error::Connect`], once the rotator was shut down or dropped.
pub fn connect_lazy<T>(
    provider: &CredentialProvider,
    config: Config,
    tls: T,
    build: impl FnOnce(Builder<PostgresManager>) -> Builder<PostgresManager>,
) -> Result<Pool<PostgresManager>, Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Installer::new().connect_lazy(provider, config, tls, build)
}
