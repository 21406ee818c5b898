//! How a pool is put on a provider.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use leasehold::CredentialProvider;
use leasehold::hook::Sampler;
use leasehold_tokio_postgres::hook::{self, Engine, EngineSettings, Slots, TlsDial};
use r2d2::{Builder, Pool};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use crate::dialler::{Dialler, OnConnect};
use crate::driver::Client;
use crate::error::Error;
use crate::manager::{Greeter, Manager};
use crate::threads::{blocking, wait_for};

/// Settings of a pool on a provider, each with a default. [`connect`](crate::connect) and
/// [`connect_lazy`](crate::connect_lazy) use these defaults.
#[must_use = "call connect() or connect_lazy()"]
pub struct Installer<C: Client = postgres::Client> {
    name: String,
    probe: Option<String>,
    test: bool,
    liveness: Option<Duration>,
    connect_timeout: Duration,
    on_connect: Option<OnConnect<C>>,
    pub(crate) settings: C::Settings,
}

impl Installer {
    /// The defaults, for a pool of [`postgres::Client`]s.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<C: Client> Default for Installer<C> {
    fn default() -> Self {
        Self {
            name: C::NAME.to_owned(),
            probe: None,
            test: true,
            liveness: Some(Sampler::DEFAULT_INTERVAL),
            connect_timeout: Duration::from_secs(5),
            on_connect: None,
            settings: C::Settings::default(),
        }
    }
}

impl<C: Client> Installer<C> {
    /// The pool's name in events, logs and health. Default: `r2d2`, or `diesel`.
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

    /// Whether each connection is asked, when it is handed out, if it and its role are still there:
    /// one round trip, in place of the one that r2d2's `test_on_check_out` makes with the managers of
    /// others. Without it a connection that the server has closed is handed out too. Default: on, as
    /// with r2d2.
    pub fn test_on_check_out(mut self, test: bool) -> Self {
        self.test = test;
        self
    }

    /// Where connections are not asked each time: how often, while there is traffic, one is. That is
    /// how a login revoked from outside is noticed, since pings and `SELECT 1` go on working. `None`
    /// turns it off. Default: every 100 ms.
    pub fn liveness(mut self, every: impl Into<Option<Duration>>) -> Self {
        self.liveness = every.into();
        self
    }

    /// Bounds each connect. Default: 5 s. How long borrowers wait in all is r2d2's
    /// `connection_timeout`; keep it longer than this and the rotator's refresh wait together.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Called with each new connection before it is used, such as to `SET` something: also with
    /// those that replace superseded ones, which r2d2's own `connection_customizer` would not see,
    /// and which a pool is therefore not to have. Runs on a thread that may be blocked; a connection
    /// for which it fails is not used. Default: nothing.
    pub fn on_connect<E>(
        mut self,
        call: impl Fn(&mut C) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.on_connect = Some(Arc::new(move |client| call(client).map_err(Into::into)));
        self
    }

    /// Builds a pool on `provider`, attaches it, and makes its first connection. Blocks.
    ///
    /// `config` keeps everything but user and password, which come from the provider. `tls` is any
    /// connector that tokio-postgres takes: with it the rotator proves new logins and sees to the
    /// ends of old ones, and a pool of [`postgres::Client`]s dials. `build` may set r2d2's sizes and
    /// timeouts. It gets a builder without a maximal lifetime and idle timeout: rotations renew
    /// connections, and while no login can be had they are better kept.
    ///
    /// # Errors
    /// [`Error`], which names the pool. Nothing stays attached then.
    pub fn connect<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
        build: impl FnOnce(Builder<Manager<C>>) -> Builder<Manager<C>>,
    ) -> Result<Pool<Manager<C>>, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let manager = self.manager(provider, config, tls)?;
        let engine = manager.dialler.engine.clone();
        let no_thread = |source| Error::no_thread(engine.name(), source);
        // By the engine's own driver first, which tells best what is wrong.
        let verified = wait_for(async {
            engine.verified(provider).await?.close().await;
            Ok::<_, Error>(())
        });
        verified.map_err(no_thread)??;
        manager.slots.put_spare(manager.open()?);
        let pool = pool(manager, build);
        let got = blocking(|| pool.get_timeout(engine.connect_timeout()).map(drop));
        match got.map_err(no_thread)? {
            Ok(()) => Ok(pool),
            Err(source) => Err(Error::Pool { pool: engine.name().to_owned(), source }),
        }
    }

    /// As [`connect`](Self::connect), without waiting for a connection; r2d2 begins to make them in
    /// the background, unless its `min_idle` is zero. The login is proven on this pool at the first
    /// rotation.
    ///
    /// # Errors
    /// [`Error::Connect`], once the rotator was shut down or dropped.
    pub fn connect_lazy<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
        build: impl FnOnce(Builder<Manager<C>>) -> Builder<Manager<C>>,
    ) -> Result<Pool<Manager<C>>, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Ok(pool(self.manager(provider, config, tls)?, build))
    }

    /// Attached before r2d2 has it, which begins to dial at once.
    fn manager<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
    ) -> Result<Manager<C>, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let dial = C::dial(config.clone(), tls.clone(), self.settings, self.connect_timeout);
        let settings = EngineSettings {
            name: self.name,
            probe: self.probe,
            warm: Vec::new(),
            connect_timeout: self.connect_timeout,
        };
        let control = Box::new(TlsDial::new(config, tls));
        let engine = Arc::new(Engine::new(settings, control, provider.current().clone()));
        let on_connect = self.on_connect;
        let dialler = Arc::new(Dialler { engine: engine.clone(), dial, on_connect });
        let opening = dialler.clone();
        let slots = Slots::new(&engine, move || {
            let dialler = opening.clone();
            Box::pin(async move {
                let admission = dialler.engine.admit(None).await;
                dialler.open(admission).await.map(Some).map_err(|error| error.refusal())
            })
        });
        hook::attach(provider, &engine).map_err(|_| Error::stopped(engine.name()))?;
        let (test, sampler) = (self.test, self.liveness.map(Sampler::new));
        Ok(Manager { dialler, slots, provider: provider.clone(), test, sampler })
    }
}

fn pool<C: Client>(
    manager: Manager<C>,
    build: impl FnOnce(Builder<Manager<C>>) -> Builder<Manager<C>>,
) -> Pool<Manager<C>> {
    let slots = manager.slots.clone();
    let builder = Pool::builder().max_lifetime(None).idle_timeout(None);
    let builder = build(builder.connection_customizer(Box::new(Greeter)));
    // Superseded connections are kept back there.
    let pool = builder.test_on_check_out(true).build_unchecked(manager);
    slots.set_max_size(usize::try_from(pool.max_size()).unwrap_or(usize::MAX));
    pool
}

impl<C: Client> fmt::Debug for Installer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installer").field("name", &self.name).finish_non_exhaustive()
    }
}
