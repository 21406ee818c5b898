//! Pools made with deadpool: [`diesel_async::pooled_connection::deadpool::Pool`] of
//! [`AsyncPgConnection`], so that nothing changes but how the pool is built.

use std::sync::Arc;
use std::time::Duration;

use ::deadpool::Runtime;
use ::deadpool::managed::Metrics;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::{Hook, HookError, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use leasehold::CredentialProvider;
use leasehold::hook::BoxFuture;
use leasehold_deadpool::hook::{Guard, Passage, Retained, arrival, hand_over};
use leasehold_tokio_postgres::Error;
use leasehold_tokio_postgres::hook::{Dial, Engine, Spare, Spares, TlsDial, attach};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use crate::wire::{self, Wire};

/// What the pool is built with.
pub type PoolBuilder = diesel_async::pooled_connection::deadpool::PoolBuilder<AsyncPgConnection>;

/// Settings of a pool made with deadpool.
pub type Installer = crate::Installer<Deadpool>;

/// What is set for a pool made with deadpool alone.
#[derive(Default)]
pub struct Deadpool {
    recycling: RecyclingMethod<AsyncPgConnection>,
}

impl std::fmt::Debug for Deadpool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deadpool").finish_non_exhaustive()
    }
}

impl Installer {
    /// diesel-async's own look at a connection before it is handed out. Default: its default, a
    /// `SELECT 1`. [`RecyclingMethod::Fast`] spares each borrower that round trip; connections that
    /// are closed are noticed either way.
    pub fn recycling(mut self, method: RecyclingMethod<AsyncPgConnection>) -> Self {
        self.pool.recycling = method;
        self
    }

    /// Builds a pool on `provider`, attaches it, and makes its first connection.
    ///
    /// `config` keeps everything but user and password, which come from the provider; `tls` is any
    /// connector that tokio-postgres takes. `build` gets a builder that runs on tokio, and may set
    /// sizes and timeouts and add hooks; they run after ours.
    ///
    /// # Errors
    /// [`Error`], which names the pool. Nothing stays attached then.
    pub async fn connect<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
        build: impl FnOnce(PoolBuilder) -> PoolBuilder,
    ) -> Result<Pool<AsyncPgConnection>, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let dial = Box::new(TlsDial::new(config, tls));
        let built = self.install(provider, dial, build)?;
        if let Some(first) = wire::first(&built.engine, provider).await? {
            built.spares.put(first);
            // Takes it in. A hook of the user's that refuses it tells whoever borrows.
            let _ = built.pool.get().await;
        }
        Ok(built.pool)
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
        build: impl FnOnce(PoolBuilder) -> PoolBuilder,
    ) -> Result<Pool<AsyncPgConnection>, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let dial = Box::new(TlsDial::new(config, tls));
        self.install(provider, dial, build).map(|built| built.pool)
    }

    fn install(
        self,
        provider: &CredentialProvider,
        dial: Box<dyn Dial>,
        build: impl FnOnce(PoolBuilder) -> PoolBuilder,
    ) -> Result<Built, Error> {
        let engine = self.engine(provider, dial);
        let spares = Arc::new(Spares::default());
        let mut config = ManagerConfig::default();
        config.recycling_method = self.pool.recycling;
        config.custom_setup = setup(&engine, &spares, provider);
        // The place of a URL: our connects need none.
        let manager = AsyncDieselConnectionManager::new_with_config("", config);
        let builder = Pool::builder(manager).runtime(Runtime::Tokio1);
        let pool = build(hooks(builder, &engine, &spares, provider, self.liveness))
            .build()
            // INVARIANT: a missing runtime is all that can be wrong, and none can be taken away.
            .expect("the builder has a runtime");
        engine.set_pool(Retained {
            pool: pool.weak(),
            spares: spares.clone(),
            made: |_, metrics| metrics.created,
            opener: Box::new(wire::opener(&engine)),
            connect_timeout: engine.connect_timeout(),
        });
        attach(provider, &engine)?;
        Ok(Built { pool, engine, spares })
    }
}

struct Built {
    pool: Pool<AsyncPgConnection>,
    engine: Arc<Engine>,
    spares: Arc<Spares<Wire>>,
}

type Setup = diesel_async::pooled_connection::SetupCallback<AsyncPgConnection>;

fn setup(engine: &Arc<Engine>, spares: &Arc<Spares<Wire>>, provider: &CredentialProvider) -> Setup {
    let (engine, spares, provider) = (engine.clone(), spares.clone(), provider.clone());
    Box::new(move |_| {
        let (engine, spares, provider) = (engine.clone(), spares.clone(), provider.clone());
        Box::pin(async move {
            let spare = |generation| spares.take(generation);
            let wire = wire::connect(&engine, &provider, spare).await?;
            hand_over(wire.generation());
            Ok(wire.connection)
        })
    })
}

/// Adds the hooks. The user's come after: deadpool calls them in order, up to the first refusal.
fn hooks(
    builder: PoolBuilder,
    engine: &Arc<Engine>,
    spares: &Arc<Spares<Wire>>,
    provider: &CredentialProvider,
    liveness: Option<Duration>,
) -> PoolBuilder {
    let (guard, provider) = (Guard::new(engine, spares, liveness), provider.clone());
    builder.post_create(arrival(engine)).pre_recycle(Hook::async_fn(move |connection, metrics| {
        pass(&guard, &provider, connection, metrics)
    }))
}

fn pass<'a>(
    guard: &Guard<Wire>,
    provider: &CredentialProvider,
    connection: &'a mut AsyncPgConnection,
    metrics: &Metrics,
) -> BoxFuture<'a, Result<(), HookError>> {
    let no = |why| Err(HookError::message(why));
    match guard.judge(metrics) {
        Passage::Open => Box::pin(std::future::ready(Ok(()))),
        Passage::Closed => Box::pin(std::future::ready(no("superseded"))),
        Passage::Sample(generation) => {
            let provider = provider.clone();
            Box::pin(async move {
                if wire::is_revoked(connection, &provider, generation).await {
                    return no("its login was revoked");
                }
                Ok(())
            })
        }
    }
}

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
) -> Result<Pool<AsyncPgConnection>, Error>
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
    build: impl FnOnce(PoolBuilder) -> PoolBuilder,
) -> Result<Pool<AsyncPgConnection>, Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Installer::new().connect_lazy(provider, config, tls, build)
}
