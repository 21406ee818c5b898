//! The usual way to build a pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use leasehold::CredentialProvider;
use leasehold::hook::{BoxFuture, Gate, Sampler, await_replica};
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool};

use crate::Error;
use crate::dials::Dials;
use crate::hooks::{Hooks, Setup};
use crate::lifetime::Lifetimes;
use crate::ours;
use crate::shared::{Callback, Shared};

/// Time for one login that is proven, and for one question to the server while draining. As long
/// as a user would wait for a page; a server that takes longer can't be called well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds pools whose logins are kept fresh. [`connect`](crate::connect) and
/// [`connect_lazy`](crate::connect_lazy) are this with nothing set.
///
/// sqlx keeps one slot for each callback and lets nobody read it, so `before_acquire` and
/// `after_release` are given here and not to [`PgPoolOptions`], where they would be replaced
/// without a word. `after_connect` stays yours, on [`PgPoolOptions`]. It is the place to warm up
/// what is slow the first time on a connection: a query that it runs is prepared, and in the
/// connection's statement cache, before anybody borrows it. After a rotation all connections are
/// new; for those that replace superseded ones it runs at the rotator's expense.
///
/// `max_lifetime` and `idle_timeout` are read off the [`PgPoolOptions`] and applied by these hooks,
/// so that they can rest while no new login can be made; [`PgPool::options`] then shows `None`.
#[derive(Clone)]
#[must_use = "an installer does nothing until a pool is built with it"]
pub struct Installer {
    name: Option<String>,
    probe: Option<String>,
    connect_timeout: Duration,
    replica_lag: Duration,
    liveness: Duration,
    before_acquire: Option<Callback>,
    after_release: Option<Callback>,
}

impl Default for Installer {
    fn default() -> Self {
        Self::new()
    }
}

impl Installer {
    /// All as by default.
    pub fn new() -> Self {
        Self {
            name: None,
            probe: None,
            connect_timeout: CONNECT_TIMEOUT,
            replica_lag: Duration::ZERO,
            liveness: Sampler::DEFAULT_INTERVAL,
            before_acquire: None,
            after_release: None,
        }
    }

    /// The pool's name in events, logs and health. Default: `database@host`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A statement that a login must run without an error before it is used: one that touches what
    /// your queries need. Its rows are ignored.
    pub fn probe(mut self, sql: impl Into<String>) -> Self {
        self.probe = Some(sql.into());
        self
    }

    /// How long proving a login on this pool may take. Default: 5 s.
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

    /// How often, at most, a returned connection is asked whether its role still exists, which is
    /// how a login that was revoked from outside is noticed with nobody reporting it. `None` turns
    /// it off. Default: once per 100 ms, and only where connections are returned.
    pub fn liveness(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.liveness = interval.into().unwrap_or(Duration::ZERO);
        self
    }

    /// Your own [`PgPoolOptions::before_acquire`]. Called for borrowers only, after our own look.
    pub fn before_acquire<F>(mut self, callback: F) -> Self
    where
        for<'c> F: Fn(
                &'c mut PgConnection,
                PoolConnectionMetadata,
            ) -> BoxFuture<'c, Result<bool, sqlx::Error>>
            + Send
            + Sync
            + 'static,
    {
        self.before_acquire = Some(Arc::new(callback));
        self
    }

    /// Your own [`PgPoolOptions::after_release`]. Called for what borrowers return, after our own
    /// look; not when the rotator looks at idle connections.
    pub fn after_release<F>(mut self, callback: F) -> Self
    where
        for<'c> F: Fn(
                &'c mut PgConnection,
                PoolConnectionMetadata,
            ) -> BoxFuture<'c, Result<bool, sqlx::Error>>
            + Send
            + Sync
            + 'static,
    {
        self.after_release = Some(Arc::new(callback));
        self
    }

    /// Builds a pool on the current login and opens its first connection. `base` says everything
    /// but user name and password, which are replaced. Dropping the future closes the pool.
    ///
    /// # Errors
    /// [`Error::LoginRefused`], [`Error::ProbeFailed`], [`Error::Unreachable`] after the pool's
    /// `acquire_timeout`, [`Error::Stopped`], [`Error::NoRuntime`]. The pool is then closed.
    pub async fn connect(
        self,
        provider: &CredentialProvider,
        options: PgPoolOptions,
        base: PgConnectOptions,
    ) -> Result<PgPool, Error> {
        let lag = self.replica_lag;
        let (hooks, options) = self.hooks(provider, options);
        let managed = hooks.build(options, base)?;
        let pool = managed.pool().clone();
        let unwanted = CloseOnDrop(Some(pool.clone()));
        await_replica(&*managed, provider, lag).await;
        // The pool first: it waits for a server that is just starting.
        let first = ours::take_one(&pool).await;
        let generation = provider.current().clone();
        let tried = match (first, managed.try_login(&generation).await) {
            // That it timed out says nothing; a login of our own may say why.
            (Err(sqlx::Error::PoolTimedOut), Err(why)) => Err(why),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(())) => Ok(()),
        };
        if let Err(error) = tried {
            pool.close().await;
            return Err(Error::connect(leasehold::hook::ManagedPool::name(&*managed), error));
        }
        unwanted.keep();
        Ok(pool)
    }

    /// Builds a pool on the current login without opening a connection: the first borrower does.
    /// The pool is first proven at its first rotation.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::NoRuntime`]; [`Error::Unreachable`] where `base` is on a Unix
    /// socket and the login is good on another host.
    pub fn connect_lazy(
        self,
        provider: &CredentialProvider,
        options: PgPoolOptions,
        base: PgConnectOptions,
    ) -> Result<PgPool, Error> {
        let (hooks, options) = self.hooks(provider, options);
        Ok(hooks.build(options, base)?.pool().clone())
    }

    /// The hooks alone, for a pool that is built elsewhere, with `options` to build it with: its
    /// `max_lifetime` and `idle_timeout` are taken over. Call
    /// [`Hooks::install`] on them (or set callbacks of your own that call [`Hooks`]), build the
    /// pool, then [`Hooks::attach`] it.
    #[must_use]
    pub fn hooks(
        self,
        provider: &CredentialProvider,
        options: PgPoolOptions,
    ) -> (Hooks, PgPoolOptions) {
        let (lifetimes, options) = Lifetimes::take(options);
        let shared = Shared {
            provider: provider.clone(),
            gate: Gate::new(),
            lifetimes,
            sampler: Sampler::new(self.liveness),
            dials: Dials::new(),
            detached: AtomicBool::new(false),
            before_acquire: self.before_acquire,
            after_release: self.after_release,
        };
        let setup =
            Setup { name: self.name, probe: self.probe, connect_timeout: self.connect_timeout };
        (Hooks::new(shared, setup), options)
    }
}

/// A pool that nobody has yet. The provider holds it until it is closed, so that dropping
/// [`Installer::connect`] has to do that.
struct CloseOnDrop(Option<PgPool>);

impl CloseOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            // The first half of `close` runs in the call itself, and needs no runtime.
            drop(pool.close());
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { pool.close().await });
            }
        }
    }
}

impl fmt::Debug for Installer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installer")
            .field("name", &self.name)
            .field("connect_timeout", &self.connect_timeout)
            .field("replica_lag", &self.replica_lag)
            .field("liveness", &self.liveness)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_nobody_has_is_closed_where_there_is_no_runtime_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let pool = {
            let _in = runtime.enter();
            PgPoolOptions::new().connect_lazy_with(PgConnectOptions::new_without_pgpass())
        };
        drop(CloseOnDrop(Some(pool.clone())));
        assert!(pool.is_closed());
    }
}
