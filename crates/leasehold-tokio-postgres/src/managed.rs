//! The pool as the rotator sees it.

use std::sync::Arc;

use leasehold::Generation;
use leasehold::hook::{BoxFuture, DrainOrder, Drained, ManagedPool, PoolCounts, Proof, Refusal};

use crate::control::{self, Unproven};
use crate::diagnosis::{explain, refusal};
use crate::drain;
use crate::engine::{Engine, Pooled};

/// An engine as the rotator sees it.
#[derive(Debug)]
pub struct Managed(Arc<Engine>);

impl Managed {
    /// See [`attach`](crate::hook::attach).
    pub fn new(engine: Arc<Engine>) -> Self {
        Self(engine)
    }
}

impl ManagedPool for Managed {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn prove<'a>(&'a self, candidate: &'a Arc<Generation>) -> BoxFuture<'a, Proof> {
        Box::pin(async move {
            if self.0.pool().is_none() {
                // It dials no more, and is attached only until its last connection is back.
                return Proof::Proven;
            }
            let bound = self.0.connect_timeout();
            match tokio::time::timeout(bound, control::prove(&self.0, candidate)).await {
                Ok(Ok(())) => Proof::Proven,
                Ok(Err(Unproven::Connect(error))) => match refusal(&error) {
                    Refusal::Login => Proof::Rejected(explain(&error)),
                    _ => Proof::Unreachable(explain(&error)),
                },
                Ok(Err(Unproven::Probe(error))) if error.as_db_error().is_some() => {
                    Proof::Rejected(format!("the probe failed: {}", explain(&error)))
                }
                Ok(Err(Unproven::Probe(error))) => Proof::Unreachable(explain(&error)),
                Err(_) => Proof::Unreachable(format!("no answer within {bound:?}")),
            }
        })
    }

    fn discard(&self) {
        self.0.proven.discard();
    }

    fn install(&self, next: &Arc<Generation>) {
        self.0.install(next);
    }

    fn distrust(&self) {
        self.0.gate.retire_all();
    }

    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained> {
        Box::pin(async move {
            let drained = drain::run(&self.0, order).await;
            self.0.settle();
            drained
        })
    }

    fn close(&self) {
        if let Some(pool) = self.0.pool() {
            pool.close();
        }
        self.0.gate.retire_all();
        self.0.clear_spares();
        self.0.proven.discard();
    }

    /// A pool that was dropped while something is borrowed from it is still drained: its logins
    /// must not be revoked under the borrower.
    fn is_closed(&self) -> bool {
        self.0.pool().is_none() && self.0.ledger.total() == 0
    }

    fn counts(&self) -> PoolCounts {
        let idle = self.0.pool().map_or(0, Pooled::idle);
        PoolCounts::new(self.0.ledger.total(), idle)
    }
}
