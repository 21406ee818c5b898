//! The hooks of one pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::hook::ManagedPool;
use leasehold::{AttachError, Generation};
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool};

use crate::Error;
use crate::drain;
use crate::managed::Managed;
use crate::ours;
use crate::shared::Shared;

/// What an installer was told about the pool itself.
pub(crate) struct Setup {
    pub(crate) name: Option<String>,
    pub(crate) probe: Option<String>,
    pub(crate) connect_timeout: Duration,
}

/// The hooks of one pool, for whoever calls them from callbacks of their own or builds the pool
/// elsewhere (an ORM, say). Made by [`Installer::hooks`](crate::Installer::hooks); clones serve
/// the same pool.
#[derive(Clone)]
pub struct Hooks(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    setup: Setup,
    used: AtomicBool,
}

impl Hooks {
    pub(crate) fn new(shared: Shared, setup: Setup) -> Self {
        Self(Arc::new(Inner { shared: Arc::new(shared), setup, used: AtomicBool::new(false) }))
    }

    /// Sets `before_acquire` and `after_release` of `options` to these hooks, with the installer's
    /// callbacks behind them. What was set there before is lost: sqlx has one slot for each and
    /// shows it to nobody.
    #[must_use]
    pub fn install(&self, options: PgPoolOptions) -> PgPoolOptions {
        let (acquire, release) = (self.0.shared.clone(), self.0.shared.clone());
        options
            .before_acquire(move |conn, meta| acquire.before_acquire(conn, meta))
            .after_release(move |conn, meta| release.after_release(conn, meta))
    }

    /// To be called first in a `before_acquire` of your own; on `false` return `Ok(false)` at once.
    /// Calls none of the installer's callbacks, and waits only for a login that is known to be
    /// dead to be replaced.
    pub async fn keep_on_acquire(
        &self,
        _conn: &mut PgConnection,
        meta: &PoolConnectionMetadata,
    ) -> bool {
        self.0.shared.keep_on_acquire(meta.age).await
    }

    /// To be called first in an `after_release` of your own; on `false` return `Ok(false)` at once.
    /// Calls none of the installer's callbacks. Makes the liveness check when one is due.
    pub async fn keep_on_release(
        &self,
        conn: &mut PgConnection,
        meta: &PoolConnectionMetadata,
    ) -> bool {
        self.0.shared.keep_on_release(conn, meta.age).await
    }

    /// Inside a callback: it runs for the rotator, which looks after idle connections, and not for
    /// a borrower. The installer's callbacks are not called then; your own may want to return
    /// `Ok(true)`.
    #[must_use]
    pub fn in_maintenance() -> bool {
        ours::is_ours()
    }

    /// Puts a pool that exists already on the provider. Its login is replaced by the current one,
    /// and all the connections it has count as superseded: idle ones are closed now, borrowed ones
    /// on their return.
    ///
    /// The pool's callbacks must be these hooks, or call them; nothing can check that.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::InUse`], [`Error::NoRuntime`]; [`Error::Unreachable`] where the
    /// pool is on a Unix socket and the login is good on another host.
    pub async fn attach(&self, pool: &PgPool) -> Result<(), Error> {
        let name = self.name(&pool.connect_options());
        self.check(&name, &pool.connect_options())?;
        let managed = self.register(&name, |generation| {
            let managed = self.managed(name.clone(), pool.clone());
            managed.install(generation);
            managed
        })?;
        drain::replace_foreign(&managed).await;
        Ok(())
    }

    /// Takes the pool off the provider: it keeps the login it has, which ends with its lease, and
    /// nobody looks after its idle connections any more. Closing the pool does the same.
    pub fn detach(&self) {
        self.0.shared.detached.store(true, Ordering::Release);
    }

    /// Builds the pool and attaches it under the swap lock.
    pub(crate) fn build(
        &self,
        options: PgPoolOptions,
        base: PgConnectOptions,
    ) -> Result<Arc<Managed>, Error> {
        let name = self.name(&base);
        self.check(&name, &base)?;
        self.register(&name, |generation| {
            let options = self.install(options);
            let pool = options.connect_lazy_with(self.0.shared.dials.begin_with(generation, base));
            self.managed(name.clone(), pool)
        })
    }

    /// Fails early; what comes with a swap meanwhile, its proof finds.
    fn check(&self, name: &str, base: &PgConnectOptions) -> Result<(), Error> {
        let Shared { dials, provider, .. } = &*self.0.shared;
        dials.check(base, &provider.current()).map_err(|error| Error::connect(name, error))
    }

    fn register(
        &self,
        name: &str,
        build: impl FnOnce(&Arc<Generation>) -> Arc<Managed>,
    ) -> Result<Arc<Managed>, Error> {
        let pool = name.to_owned();
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::NoRuntime { pool });
        }
        if self.0.used.swap(true, Ordering::AcqRel) {
            return Err(Error::InUse { pool });
        }
        let attached = self.0.shared.provider.attach(|generation| {
            let managed = build(generation);
            (managed.clone() as Arc<dyn ManagedPool>, managed)
        });
        let managed = attached.map_err(|AttachError { .. }| Error::Stopped { pool })?;
        managed.start_maintenance();
        Ok(managed)
    }

    fn managed(&self, name: String, pool: PgPool) -> Arc<Managed> {
        let Setup { probe, connect_timeout, .. } = &self.0.setup;
        let shared = self.0.shared.clone();
        let managed = Managed::new(name, pool, shared, *connect_timeout, probe.clone());
        Arc::new(managed)
    }

    /// The name given, or else where the pool connects to.
    fn name(&self, options: &PgConnectOptions) -> String {
        self.0.setup.name.clone().unwrap_or_else(|| {
            let database = options.get_database().unwrap_or("postgres");
            format!("{database}@{}", options.get_host())
        })
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("name", &self.0.setup.name)
            .field("provider", &self.0.shared.provider)
            .finish_non_exhaustive()
    }
}
