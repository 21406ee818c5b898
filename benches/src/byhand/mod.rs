//! Two ways in which services rotate a database login without this project, as a careful person
//! writes them: what `cargo rotation` compares with.
//!
//! Both get their logins from the same source as a rotator does, and retry nothing.

mod deadpool;
mod sqlx;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use leasehold::{Credential, CredentialSource, Issued, RevokeMode};
use leasehold_vault::DynamicRole;

use crate::AnyError;
use crate::args::PoolKind;
use crate::rotation::{AnyPool, Target};

/// How a login is rotated by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// A pool is built with the new login, opens as many connections as the old one has, and takes
    /// its place behind an `ArcSwap`. The old one is closed, which lets borrowed connections come
    /// back. Then the old lease is revoked.
    NewPool,
    /// The pool gets the new login for the connections that it opens from now on, and keeps those
    /// it has. After `keep`, the old lease is revoked, with the definitions that end its sessions.
    Options { keep: Duration },
}

/// A service that rotates by one of the recipes.
pub(crate) struct ByHand {
    recipe: Recipe,
    source: DynamicRole,
    target: Target,
    size: usize,
    pool: Arc<ArcSwap<AnyPool>>,
    login: Issued,
    /// What new connections of the one pool use, where only that is changed.
    options: Options,
}

enum Options {
    Sqlx,
    Deadpool(Arc<ArcSwap<tokio_postgres::Config>>),
}

/// When the first connection could be made with the new login, and when nothing of the old one was
/// left to do.
pub(crate) struct Rotated {
    pub(crate) begun: Instant,
    pub(crate) over: Instant,
}

impl ByHand {
    pub(crate) async fn start(
        recipe: Recipe,
        kind: PoolKind,
        source: DynamicRole,
        target: Target,
        size: usize,
    ) -> Result<Self, AnyError> {
        let login = source.issue().await?;
        let (pool, options) = match kind {
            PoolKind::Sqlx => {
                (AnyPool::Sqlx(sqlx::pool(&target, &login.credential, size)?), Options::Sqlx)
            }
            PoolKind::Deadpool => {
                let (pool, config) = deadpool::pool(&target, &login.credential, size)?;
                (AnyPool::Deadpool(pool), Options::Deadpool(config))
            }
        };
        let pool = Arc::new(ArcSwap::from_pointee(pool));
        Ok(Self { recipe, source, target, size, pool, login, options })
    }

    /// Where the service's handlers find the pool.
    pub(crate) fn pool(&self) -> Arc<ArcSwap<AnyPool>> {
        self.pool.clone()
    }

    pub(crate) async fn rotate(&mut self) -> Result<Rotated, AnyError> {
        let new = self.source.issue().await?;
        let begun = Instant::now();
        match self.recipe {
            Recipe::NewPool => self.swap_pools(&new.credential).await?,
            Recipe::Options { keep } => {
                self.change_options(&new.credential);
                tokio::time::sleep(keep).await;
            }
        }
        let old = std::mem::replace(&mut self.login, new);
        self.source.revoke(&old.lease, RevokeMode::Sync).await?;
        Ok(Rotated { begun, over: Instant::now() })
    }

    async fn swap_pools(&self, login: &Credential) -> Result<(), AnyError> {
        let new = match &**self.pool.load() {
            AnyPool::Sqlx(_) => AnyPool::Sqlx(sqlx::pool(&self.target, login, self.size)?),
            AnyPool::Deadpool(_) => {
                AnyPool::Deadpool(deadpool::pool(&self.target, login, self.size)?.0)
            }
        };
        // No borrower is to wait for a login.
        new.fill(self.size).await?;
        let old = self.pool.swap(Arc::new(new));
        match &*old {
            AnyPool::Sqlx(old) => old.close().await,
            AnyPool::Deadpool(old) => deadpool::close(old).await,
        }
        Ok(())
    }

    fn change_options(&self, login: &Credential) {
        match (&**self.pool.load(), &self.options) {
            (AnyPool::Sqlx(pool), _) => pool.set_connect_options(self.target.sqlx(login)),
            (AnyPool::Deadpool(_), Options::Deadpool(config)) => {
                config.store(Arc::new(self.target.deadpool(login)));
            }
            (AnyPool::Deadpool(_), Options::Sqlx) => {}
        }
    }

    /// Ends the service.
    pub(crate) async fn stop(self) -> Result<(), AnyError> {
        match &**self.pool.load() {
            AnyPool::Sqlx(pool) => pool.close().await,
            AnyPool::Deadpool(pool) => deadpool::close(pool).await,
        }
        Ok(self.source.revoke(&self.login.lease, RevokeMode::Sync).await?)
    }
}
