//! How a pool is put on a provider.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolBuilder, Runtime};
use leasehold::CredentialProvider;
use leasehold::hook::{Sampler, await_replica};
use leasehold_tokio_postgres::hook::{
    self, Engine, EngineSettings, Managed, Spares, TlsDial, Unproven, opener,
};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use crate::connect::Connector;
use crate::error::Error;
use crate::hooks;
use crate::pooled::Retained;

/// Settings of a pool on a provider, each with a default. [`connect`](crate::connect) and
/// [`connect_lazy`](crate::connect_lazy) use these defaults.
#[derive(Clone, Debug)]
#[must_use = "call connect() or connect_lazy()"]
pub struct Installer {
    name: String,
    manager: ManagerConfig,
    probe: Option<String>,
    warm: Vec<String>,
    liveness: Option<Duration>,
    connect_timeout: Duration,
    replica_lag: Duration,
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
            name: "deadpool".to_owned(),
            manager: ManagerConfig::default(),
            probe: None,
            warm: Vec::new(),
            liveness: Some(Sampler::DEFAULT_INTERVAL),
            connect_timeout: Duration::from_secs(5),
            replica_lag: Duration::ZERO,
        }
    }

    /// The pool's name in events, logs and health. Default: `deadpool`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// deadpool's own manager settings, the recycling method among them.
    pub fn manager(mut self, config: ManagerConfig) -> Self {
        self.manager = config;
        self
    }

    /// Statements that a new login must be able to run before it becomes current, such as
    /// `SELECT 1 FROM orders LIMIT 0`. Default: none, a login is proven when it opens a connection.
    pub fn probe(mut self, sql: impl Into<String>) -> Self {
        self.probe = Some(sql.into());
        self
    }

    /// Statements that each connection of the pool has in its statement cache before it is handed
    /// out for the first time, as if its borrower had called `prepare_cached` with the same text:
    /// the first query on a connection is slow, and after a rotation all are new. Those that
    /// replace superseded ones get them off the borrowers' path; where a borrower has to wait for a
    /// connect, it waits for these too, a round trip each, for at most a second. One that can't be
    /// prepared is passed over. Default: none.
    pub fn warm_statements<S: Into<String>>(
        mut self,
        statements: impl IntoIterator<Item = S>,
    ) -> Self {
        self.warm = statements.into_iter().map(Into::into).collect();
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
    /// of new logins, spares. Default: 5 s. Those of borrowers are bounded by deadpool's
    /// `create_timeout` and by `config`'s own connect timeout.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How far the server may lag behind the primary, on which the roles are made, when it is a
    /// replica: for so long [`connect`](Self::connect) tries again while it refuses the login,
    /// which may be younger than what it has replayed. At a rotation a replica is waited for
    /// anyway. Default: zero, a refused login is told at once.
    pub fn replica_lag(mut self, lag: Duration) -> Self {
        self.replica_lag = lag;
        self
    }

    /// Builds a pool on `provider`, attaches it, and makes its first connection.
    ///
    /// `config` keeps everything but user and password, which come from the provider; `tls` is any
    /// connector that deadpool takes. `build` gets a builder that runs on tokio, and may set sizes
    /// and timeouts and add hooks; they run after ours.
    ///
    /// # Errors
    /// [`Error`], which names the pool. Nothing stays attached then.
    pub async fn connect<T>(
        self,
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
        let (after, lag) = (self.connect_timeout, self.replica_lag);
        let (pool, engine) = self.install(provider, config, tls, build)?;
        // Before a borrower tries it, who would report a refused login.
        await_replica(&Managed::new(engine.clone()), provider, lag).await;
        match tokio::time::timeout(after, verify(&pool, &engine)).await {
            Ok(verified) => verified.map(|()| pool),
            Err(_) => Err(Error::Timeout { pool: engine.name().to_owned(), after }),
        }
    }

    /// As [`connect`](Self::connect), without making a connection: the login is proven on this pool
    /// at the first rotation.
    ///
    /// # Errors
    /// [`Error`], which names the pool.
    pub fn connect_lazy<T>(
        self,
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
        self.install(provider, config, tls, build).map(|(pool, _)| pool)
    }

    fn install<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
        build: impl FnOnce(PoolBuilder) -> PoolBuilder,
    ) -> Result<(Pool, Arc<Engine>), Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let dial = Box::new(TlsDial::new(config.clone(), tls));
        let connect_timeout = self.connect_timeout;
        let (name, probe, warm) = (self.name, self.probe, self.warm);
        let settings = EngineSettings { name, probe, warm, connect_timeout };
        let engine = Arc::new(Engine::new(settings, dial, provider.current().clone()));
        let spares = Arc::new(Spares::default());
        let connector = Connector {
            engine: engine.clone(),
            spares: spares.clone(),
            provider: provider.clone(),
        };
        let manager = Manager::from_connect(config, connector, self.manager);
        let builder = Pool::builder(manager).runtime(Runtime::Tokio1);
        let builder = hooks::add(builder, &engine, &spares, provider.clone(), self.liveness);
        let pool = build(builder)
            .build()
            .map_err(|source| Error::Build { pool: engine.name().to_owned(), source })?;
        engine.set_pool(Retained {
            pool: pool.weak(),
            spares,
            made: |_, metrics| metrics.created,
            opener: opener(&engine),
            connect_timeout,
        });
        // Nobody has the pool yet, so that nothing was dialled before.
        hook::attach(provider, &engine)
            .map_err(|_| Error::Stopped { pool: engine.name().to_owned() })?;
        Ok((pool, engine))
    }
}

/// Makes the first connection as a borrower would, so that refused logins, hooks and TLS settings
/// show now.
async fn verify(pool: &Pool, engine: &Engine) -> Result<(), Error> {
    let generation = engine.current().number();
    let client = pool.get().await.map_err(|e| Error::connect(engine.name(), e))?;
    match hook::check(engine, &client).await {
        Ok(oid) => {
            // With a swap between, it is not known whose it is.
            if let Some(oid) = oid
                && engine.current().number() == generation
            {
                engine.remember_oid(generation, oid);
            }
            Ok(())
        }
        Err(Unproven::Connect(e)) => Err(Error::connect(engine.name(), e.into())),
        Err(Unproven::Probe(source)) => {
            Err(Error::ProbeFailed { pool: engine.name().to_owned(), source })
        }
    }
}
