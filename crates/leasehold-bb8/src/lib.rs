#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod connection;
mod installer;
mod manager;

pub use bb8;
use bb8::{Builder, Pool};
use leasehold::CredentialProvider;
pub use leasehold_tokio_postgres::{Error, report, tokio_postgres};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

pub use connection::Connection;
pub use installer::Installer;
pub use manager::{Manager, ManagerError};

/// Builds a pool on `provider`, attaches it, and makes its first connection. See
/// [`Installer::connect`].
///
/// # Errors
/// [`Error`], which names the pool and says what to do.
pub async fn connect<T>(
    provider: &CredentialProvider,
    config: Config,
    tls: T,
    build: impl FnOnce(Builder<Manager>) -> Builder<Manager>,
) -> Result<Pool<Manager>, Error>
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
/// [`Error::Stopped`].
pub fn connect_lazy<T>(
    provider: &CredentialProvider,
    config: Config,
    tls: T,
    build: impl FnOnce(Builder<Manager>) -> Builder<Manager>,
) -> Result<Pool<Manager>, Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Installer::new().connect_lazy(provider, config, tls, build)
}
