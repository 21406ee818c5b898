//! How a pool is put on a provider.

use std::sync::Arc;
use std::time::Duration;

use bb8::{Builder, Pool};
use leasehold::CredentialProvider;
use leasehold::hook::Sampler;
use leasehold_tokio_postgres::hook::{self, Engine, EngineSettings, Slots, TlsDial};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use crate::{Connection, Error, Manager};

/// Settings of a pool on a provider, each with a default. [`connect`](crate::connect) and
/// [`connect_lazy`](crate::connect_lazy) use these defaults.
#[derive(Clone, Debug)]
#[must_use = "call connect() or connect_lazy()"]
pub struct Installer {
    name: String,
    probe: Option<String>,
    liveness: Option<Duration>,
    connect_timeout: Duration,
}

impl Default for Installer {
    fn default() -> Self {
        Self::new()
    }
}

impl Installer {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            name: "bb8".to_owned(),
            probe: None,
            liveness: Some(Sampler::DEFAULT_INTERVAL),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// The pool's name in events, logs and health. Default: `bb8`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Statements that a new login must be able to run before it becomes current, such as
    /// `SELECT 1 FROM orders LIMIT 0`. Default: none, a login is proven when it opens a connection.
    pub fn probe(mut self, sql: impl Into<String>) -> Self {
        self.probe = Some(sql.into());
        self
    }

    /// How often, while there is traffic, one connection is asked whether its role still exists
    /// when it is handed out: that is how a login revoked from outside is noticed, since pings and
    /// `SELECT 1` go on working. It costs that one borrower a round trip. `None` turns it off.
    /// Default: every 100 ms.
    pub fn liveness(mut self, every: impl Into<Option<Duration>>) -> Self {
        self.liveness = every.into();
        self
    }

    /// Bounds the connects that nobody borrows: the first one of [`connect`](Self::connect), proofs
    /// of new logins, spares. Default: 5 s. Those of borrowers are bounded by bb8's
    /// `connection_timeout` and by `config`'s own connect timeout.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Builds a pool on `provider`, attaches it, and makes its first connection.
    ///
    /// `config` keeps everything but user and password, which come from the provider; `tls` is any
    /// connector that tokio-postgres takes. `build` may set sizes and timeouts. It gets a builder
    /// without bb8's own `max_lifetime` and `idle_timeout`, which would close connections also
    /// while there is no login to replace them with; rotations renew connections anyway.
    /// `test_on_check_out` is always on, as that is where superseded connections are kept back.
    ///
    /// # Errors
    /// [`Error`], which names the pool. Nothing stays attached then.
    pub async fn connect<T>(
        self,
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
        let manager = self.manager(provider, config, tls)?;
        let first = manager.engine.verified(provider).await?;
        let first = Connection(manager.slots.place(first));
        let pool = pool(manager, build);
        // If there is no room, the pool was quicker.
        let _ = pool.add(first);
        Ok(pool)
    }

    /// As [`connect`](Self::connect), without making a connection: the login is proven on this pool
    /// at the first rotation.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn connect_lazy<T>(
        self,
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
        Ok(pool(self.manager(provider, config, tls)?, build))
    }

    fn manager<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
    ) -> Result<Manager, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let settings = EngineSettings {
            name: self.name,
            probe: self.probe,
            warm: Vec::new(),
            connect_timeout: self.connect_timeout,
        };
        let dial = Box::new(TlsDial::new(config, tls));
        let engine = Arc::new(Engine::new(settings, dial, provider.current().clone()));
        let slots = Slots::of_links(&engine);
        hook::attach(provider, &engine)?;
        let (provider, sampler) = (provider.clone(), self.liveness.map(Sampler::new));
        Ok(Manager { engine, slots, provider, sampler })
    }
}

fn pool(
    manager: Manager,
    build: impl FnOnce(Builder<Manager>) -> Builder<Manager>,
) -> Pool<Manager> {
    let slots = manager.slots.clone();
    let builder = Pool::builder().max_lifetime(None).idle_timeout(None);
    let pool = build(builder).test_on_check_out(true).build_unchecked(manager);
    slots.set_max_size(usize::try_from(pool.config().max_size).unwrap_or(usize::MAX));
    pool
}
