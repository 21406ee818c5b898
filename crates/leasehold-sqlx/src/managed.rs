//! The pool as the rotator sees it.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leasehold::Generation;
use leasehold::hook::{BoxFuture, DrainOrder, Drained, ManagedPool, PoolCounts, Proof};
use sqlx::PgPool;
use tokio::task::AbortHandle;

use crate::control::Control;
use crate::drain;
use crate::error::Failure;
use crate::lifetime;
use crate::shared::Shared;

pub(crate) struct Managed {
    name: String,
    pool: PgPool,
    shared: Arc<Shared>,
    pub(crate) control: Control,
    pub(crate) connect_timeout: Duration,
    probe: Option<String>,
    /// Held from a swap's last dial to the end of its roll.
    pub(crate) rolling: tokio::sync::Mutex<()>,
    maintenance: OnceLock<AbortHandle>,
}

impl Managed {
    pub(crate) fn new(
        name: String,
        pool: PgPool,
        shared: Arc<Shared>,
        connect_timeout: Duration,
        probe: Option<String>,
    ) -> Self {
        let control = Control::new(shared.dials.clone());
        Self {
            name,
            pool,
            shared,
            control,
            connect_timeout,
            probe,
            rolling: tokio::sync::Mutex::default(),
            maintenance: OnceLock::new(),
        }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Starts the task that looks after idle connections, if there is anything to look for. It
    /// ends with the pool or with `self`, whichever goes first, and keeps neither alive.
    pub(crate) fn start_maintenance(self: &Arc<Self>) {
        let Some(period) = self.shared.lifetimes.period() else {
            return;
        };
        let closed = self.pool.close_event();
        let maintain = lifetime::maintain(Arc::downgrade(self), period);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = closed => {}
                () = maintain => {}
            }
        });
        let _ = self.maintenance.set(task.abort_handle());
    }

    /// Opens one connection with `candidate` and tries it.
    pub(crate) async fn try_login(&self, candidate: &Generation) -> Result<(), sqlx::Error> {
        let proof = (self.control).prove(&self.pool, candidate, self.probe.as_deref());
        tokio::time::timeout(self.connect_timeout, proof)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn proof(&self, candidate: &Generation) -> Proof {
        match self.try_login(candidate).await {
            Ok(()) => Proof::Proven,
            Err(sqlx::Error::PoolTimedOut) => {
                Proof::Unreachable(format!("no answer within {:?}", self.connect_timeout))
            }
            // Not one for this pool.
            Err(error @ sqlx::Error::Configuration(_)) => Proof::Rejected(error.to_string()),
            Err(error) => {
                let text = error.to_string();
                match Failure::of(&error) {
                    Failure::Login | Failure::Statement => Proof::Rejected(text),
                    Failure::Full | Failure::Unreachable => Proof::Unreachable(text),
                }
            }
        }
    }
}

impl ManagedPool for Managed {
    fn name(&self) -> &str {
        &self.name
    }

    fn prove<'a>(&'a self, candidate: &'a Arc<Generation>) -> BoxFuture<'a, Proof> {
        Box::pin(self.proof(candidate))
    }

    fn discard(&self) {
        self.control.discard();
    }

    fn install(&self, next: &Arc<Generation>) {
        self.shared.dials.switch(&self.pool, next);
        self.shared.gate.supersede();
    }

    fn distrust(&self) {
        self.shared.gate.retire_all();
    }

    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained> {
        Box::pin(drain::run(self, order))
    }

    fn close(&self) {
        // sqlx closes idle connections only after the last borrowed one came back. Taken out
        // first, they close at once, as returned ones do.
        let mut idle = Vec::new();
        while let Some(conn) = self.pool.try_acquire() {
            idle.push(conn);
        }
        // The first half of `close` runs in the call itself; the drain awaits the rest.
        drop(self.pool.close());
    }

    fn is_closed(&self) -> bool {
        // Closed by its user, it still drains what is borrowed.
        let closed = self.pool.is_closed() && self.pool.size() == 0;
        closed || self.shared.detached.load(Ordering::Acquire)
    }

    fn counts(&self) -> PoolCounts {
        PoolCounts::new(self.pool.size() as usize, self.pool.num_idle())
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if let Some(task) = self.maintenance.get() {
            task.abort();
        }
    }
}

impl fmt::Debug for Managed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the connect options: their Debug prints the password.
        f.debug_struct("Managed")
            .field("name", &self.name)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}
