//! `max_lifetime` and `idle_timeout`, taken over from sqlx so that they can rest.
//!
//! sqlx would go on closing old and idle connections while no new login can be made, until none is
//! left. Here both rules stand still for that time. Otherwise they work as sqlx's own: a
//! connection past its lifetime is closed on its return or while idle, never when it is handed
//! out, and idle ones are looked at about once per timeout.

use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use leasehold::CredentialProvider;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::time::Instant;

use crate::managed::Managed;
use crate::ours;

/// The two rules, and what they need to know.
#[derive(Debug, Default)]
pub(crate) struct Lifetimes {
    max_lifetime: Option<Duration>,
    idle_timeout: Option<Duration>,
    /// Connections returned by borrowers since the idle ones were last thinned out.
    returned: AtomicUsize,
}

impl Lifetimes {
    /// Moves both rules out of `options`.
    pub(crate) fn take(options: PgPoolOptions) -> (Self, PgPoolOptions) {
        let taken = Self {
            max_lifetime: options.get_max_lifetime(),
            idle_timeout: options.get_idle_timeout(),
            returned: AtomicUsize::new(0),
        };
        (taken, options.max_lifetime(None).idle_timeout(None))
    }

    /// A connection of this age may not go on.
    pub(crate) fn is_over(&self, age: Duration, provider: &CredentialProvider) -> bool {
        self.max_lifetime.is_some_and(|max| age > max) && provider.logins_possible()
    }

    /// A borrower returned a connection.
    pub(crate) fn returned(&self) {
        if self.idle_timeout.is_some() {
            self.returned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often idle connections have to be looked at, if at all.
    pub(crate) fn period(&self) -> Option<Duration> {
        match (self.max_lifetime, self.idle_timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Closes connections that nobody used during the last timeout.
    ///
    /// The pool hands out the connection that has been idle longest, and tells nobody for how long
    /// the others have been. But of `idle` connections at most as many were used as were returned,
    /// so the rest were not, and they are the first in line.
    async fn thin_out(&self, pool: &PgPool) {
        let used = self.returned.swap(0, Ordering::Relaxed);
        let spare = pool.size().saturating_sub(pool.options().get_min_connections()) as usize;
        let unused = pool.num_idle().saturating_sub(used).min(spare);
        for _ in 0..unused {
            let Some(conn) = pool.try_acquire() else {
                return;
            };
            // A failed close is a closed connection.
            let _ = conn.close().await;
        }
    }
}

/// Applies both rules to idle connections until the pool is closed or `managed` is gone.
pub(crate) async fn maintain(managed: Weak<Managed>, period: Duration) {
    let mut thinned = Instant::now();
    loop {
        tokio::time::sleep(period).await;
        let Some(managed) = managed.upgrade() else {
            return;
        };
        let (pool, shared) = (managed.pool(), managed.shared());
        if pool.is_closed() {
            return;
        }
        if !shared.provider.logins_possible() {
            continue;
        }
        let pass = async {
            ours::sweep(pool).await;
            if let Some(timeout) = shared.lifetimes.idle_timeout
                && thinned.elapsed() >= timeout
            {
                shared.lifetimes.thin_out(pool).await;
                thinned = Instant::now();
            }
        };
        // Replacing what was closed may take as long as Postgres likes; the next look is due then.
        let _ = tokio::time::timeout(period, pass).await;
    }
}
