//! What differs between the blocking clients.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use leasehold::Credential;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

/// A blocking client of which there can be a pool on a provider: [`postgres::Client`] and, with the
/// feature `diesel`, `diesel::PgConnection`. Not for others to implement.
pub trait Client: Driver {}

impl<C: Driver> Client for C {}

/// Dials with a login. Blocks.
pub(crate) type Dial<C> = Arc<dyn Fn(&Credential) -> Result<C, Undialled> + Send + Sync>;

pub trait Driver: Sized + Send + 'static {
    /// What can be set for this driver alone.
    type Settings: Default + Clone + Send + Sync;

    /// The default name of a pool.
    const NAME: &'static str;

    /// How to connect as `config` says; `bound` is how long that may take.
    fn dial<T>(config: Config, tls: T, settings: Self::Settings, bound: Duration) -> Dial<Self>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send;

    /// Sends the liveness statement, and waits for the answer.
    fn liveness(&mut self) -> Liveness;

    /// Known to be closed, as far as that is known without asking. Does not block.
    fn is_closed(&self) -> bool;

    /// Nobody can use it after who had it. Does not block.
    fn is_broken(&mut self) -> bool;
}

/// What the liveness statement told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    /// The role that logged in does not exist any more.
    RoleGone,
    /// No answer, or none that says it is fit for use.
    Failed,
}

/// Why a dial brought nothing.
#[derive(Debug)]
pub enum Undialled {
    /// What the driver says, with the server's SQLSTATE if it answered.
    Postgres(tokio_postgres::Error),
    /// Of a driver that tells no SQLSTATE, without the password.
    #[cfg_attr(not(feature = "diesel"), allow(dead_code, reason = "libpq's alone"))]
    Text(String),
    /// What the application does with each new connection failed.
    OnConnect(Box<dyn StdError + Send + Sync>),
}
