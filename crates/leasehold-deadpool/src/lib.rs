#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod connect;
mod control;
mod drain;
mod error;
mod hooks;
mod hosts;
mod installer;
mod link;
mod managed;
mod report;
mod shared;
mod spare;

pub use deadpool_postgres;
use deadpool_postgres::{Pool, PoolBuilder};
use leasehold::CredentialProvider;
pub use tokio_postgres;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

pub use error::Error;
pub use installer::Installer;
pub use report::report;

/// Builds a pool on `provider`, attaches it, and makes its first connection. See
/// [`Installer::connect`].
///
/// # Errors
/// [`Error`], which names the pool and says what to do.
pub async fn connect<T>(
    provider: &CredentialProvider,
    config: Config,
    tls: T,
    build: impl FnOnce(PoolBuilder) -> PoolBuilder,
) -> Result<Pool, Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Installer::new().connect(provider, config, tls, build).await
}

/// As [`connect`], without making a connection. See [`Installer::connect_lazy`].
///
/// # Errors
/// [`Error`], which names the pool and says what to do.
pub fn connect_lazy<T>(
    provider: &CredentialProvider,
    config: Config,
    tls: T,
    build: impl FnOnce(PoolBuilder) -> PoolBuilder,
) -> Result<Pool, Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Installer::new().connect_lazy(provider, config, tls, build)
}
