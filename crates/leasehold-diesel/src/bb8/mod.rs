//! Pools made with bb8: [`diesel_async::pooled_connection::bb8::Pool`] of [`Connection`].
//!
//! It is not `AsyncPgConnection` itself because bb8 neither says when a connection was made nor lets
//! anybody see the idle ones: with a type of our own each says which login it has, and while it is
//! idle it lies where a drain finds it.

mod connection;

use std::sync::Arc;

use ::bb8::Builder;
use diesel::QueryResult;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod, SetupCallback,
};
use leasehold::CredentialProvider;
use leasehold::hook::{BoxFuture, Sampler};
use leasehold_tokio_postgres::Error;
use leasehold_tokio_postgres::hook::{Dial, Engine, Slots, TlsDial, attach};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

pub use self::connection::Connection;
use crate::wire::{self, Wire};

/// Settings of a pool made with bb8.
pub type Installer = crate::Installer<Bb8>;

/// What is set for a pool made with bb8 alone: nothing.
#[derive(Debug, Default)]
pub struct Bb8(());

/// What the pool is built with.
pub type PoolBuilder = Builder<AsyncDieselConnectionManager<Connection>>;

impl Installer {
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
        build: impl FnOnce(PoolBuilder) -> PoolBuilder,
    ) -> Result<Pool<Connection>, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let shared = self.shared(provider, Box::new(TlsDial::new(config, tls)))?;
        let first = wire::first(&shared.engine, provider).await?;
        let pool = shared.pool(build);
        if let Some(first) = first {
            // If there is no room, the pool was quicker.
            let _ = pool.add(shared.place(first));
        }
        Ok(pool)
    }

    /// As [`connect`](Self::connect), without making a connection: the login is proven on this pool
    /// at the first rotation.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, if `build` sets something for which bb8 starts a task (`min_idle`,
    /// `max_lifetime`, `idle_timeout`).
    pub fn connect_lazy<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
        build: impl FnOnce(PoolBuilder) -> PoolBuilder,
    ) -> Result<Pool<Connection>, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Ok(self.shared(provider, Box::new(TlsDial::new(config, tls)))?.pool(build))
    }

    fn shared(
        self,
        provider: &CredentialProvider,
        dial: Box<dyn Dial>,
    ) -> Result<Arc<Shared>, Error> {
        let engine = self.engine(provider, dial);
        let slots = Slots::new(&engine, wire::opener(&engine));
        attach(provider, &engine)?;
        let (provider, sampler) = (provider.clone(), self.liveness.map(Sampler::new));
        Ok(Arc::new(Shared { engine, slots, provider, sampler }))
    }
}

/// Of the pool's manager.
struct Shared {
    engine: Arc<Engine>,
    slots: Arc<Slots<Wire>>,
    provider: CredentialProvider,
    sampler: Option<Sampler>,
}

impl Shared {
    fn pool(self: &Arc<Self>, build: impl FnOnce(PoolBuilder) -> PoolBuilder) -> Pool<Connection> {
        let mut config = ManagerConfig::default();
        config.custom_setup = setup(self);
        let checking = self.clone();
        config.recycling_method = RecyclingMethod::CustomFunction(Box::new(move |connection| {
            check_out(&checking, connection)
        }));
        // The place of a URL: our connects need none.
        let manager = AsyncDieselConnectionManager::new_with_config("", config);
        let builder = Pool::builder().max_lifetime(None).idle_timeout(None);
        let pool = build(builder).test_on_check_out(true).build_unchecked(manager);
        self.slots.set_max_size(usize::try_from(pool.config().max_size).unwrap_or(usize::MAX));
        pool
    }

    fn place(&self, wire: Wire) -> Connection {
        Connection { slotted: self.slots.place(wire), slots: Arc::downgrade(&self.slots) }
    }
}

fn setup(shared: &Arc<Shared>) -> SetupCallback<Connection> {
    let shared = shared.clone();
    Box::new(move |_| {
        let shared = shared.clone();
        Box::pin(async move {
            if shared.slots.is_closed() {
                let why = format!("{}: the rotator has been shut down", shared.engine.name());
                return Err(diesel::ConnectionError::BadConnection(why));
            }
            let spare = |generation| shared.slots.take_spare(generation);
            let wire = wire::connect(&shared.engine, &shared.provider, spare).await?;
            Ok(shared.place(wire))
        })
    })
}

/// Without a round trip, but for the sample's.
fn check_out<'a>(
    shared: &Arc<Shared>,
    connection: &'a mut Connection,
) -> BoxFuture<'a, QueryResult<()>> {
    if !shared.slots.check_out(&mut connection.slotted) {
        return Box::pin(std::future::ready(no("superseded, or closed")));
    }
    if !shared.sampler.as_ref().is_some_and(Sampler::due) {
        return Box::pin(std::future::ready(Ok(())));
    }
    let (provider, generation) = (shared.provider.clone(), connection.generation());
    Box::pin(async move {
        if wire::is_revoked(connection, &provider, generation).await {
            return no("its login was revoked");
        }
        Ok(())
    })
}

/// For bb8's error sink: the borrower gets another connection.
fn no(why: &str) -> QueryResult<()> {
    let why = Box::new(why.to_owned());
    Err(QueryError::DatabaseError(DatabaseErrorKind::ClosedConnection, why))
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
) -> Result<Pool<Connection>, Error>
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
///
/// # Panics
/// As [`Installer::connect_lazy`].
pub fn connect_lazy<T>(
    provider: &CredentialProvider,
    config: Config,
    tls: T,
    build: impl FnOnce(PoolBuilder) -> PoolBuilder,
) -> Result<Pool<Connection>, Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Installer::new().connect_lazy(provider, config, tls, build)
}
