//! What the hooks of one pool share with the drain. Sits in the pool's options, so it must not
//! hold the pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use leasehold::hook::{BoxFuture, Gate, Sampler, Verdict, sql};
use leasehold::{CredentialProvider, Observation};
use sqlx::PgConnection;
use sqlx::pool::PoolConnectionMetadata;

use crate::dials::Dials;
use crate::error::sqlstate;
use crate::lifetime::Lifetimes;
use crate::ours;

/// A user's callback, in sqlx's own shape.
pub(crate) type Callback = Arc<
    dyn for<'c> Fn(
            &'c mut PgConnection,
            PoolConnectionMetadata,
        ) -> BoxFuture<'c, Result<bool, sqlx::Error>>
        + Send
        + Sync,
>;

pub(crate) struct Shared {
    pub(crate) provider: CredentialProvider,
    pub(crate) gate: Gate,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) sampler: Sampler,
    pub(crate) dials: Dials,
    /// The user took the pool off the provider.
    pub(crate) detached: AtomicBool,
    pub(crate) before_acquire: Option<Callback>,
    pub(crate) after_release: Option<Callback>,
}

impl Shared {
    /// May this connection be handed out?
    pub(crate) async fn keep_on_acquire(&self, age: Duration) -> bool {
        match self.gate.judge_age(age) {
            Verdict::Current => true,
            // The rotator's task pays for its replacement; until then it serves.
            Verdict::Superseded if !ours::is_ours() => true,
            verdict => {
                ours::met_superseded();
                if verdict == Verdict::Retired && !ours::is_ours() {
                    self.provider.past_dead_login().await;
                }
                false
            }
        }
    }

    /// May this connection go back to the idle ones?
    pub(crate) async fn keep_on_release(&self, conn: &mut PgConnection, age: Duration) -> bool {
        // Before the judgement: a swap in between makes this one too old, not too new.
        let generation = self.dials.certain();
        let verdict = self.gate.judge_age(age);
        if verdict == Verdict::Retired {
            ours::met_superseded();
            return false;
        }
        if self.lifetimes.is_over(age, &self.provider) {
            return false;
        }
        if ours::is_ours() {
            return true;
        }
        self.lifetimes.returned();
        if verdict == Verdict::Current
            && let Some(generation) = generation
            && self.sampler.due()
            && role_is_gone(conn).await
        {
            self.provider.report(generation, Observation::SessionRevoked);
            return false;
        }
        true
    }

    pub(crate) async fn before_acquire(
        &self,
        conn: &mut PgConnection,
        meta: PoolConnectionMetadata,
    ) -> Result<bool, sqlx::Error> {
        if !self.keep_on_acquire(meta.age).await {
            return Ok(false);
        }
        match &self.before_acquire {
            Some(users) if !ours::is_ours() => users(conn, meta).await,
            _ => Ok(true),
        }
    }

    pub(crate) async fn after_release(
        &self,
        conn: &mut PgConnection,
        meta: PoolConnectionMetadata,
    ) -> Result<bool, sqlx::Error> {
        if !self.keep_on_release(conn, meta.age).await {
            return Ok(false);
        }
        match &self.after_release {
            Some(users) if !ours::is_ours() => users(conn, meta).await,
            _ => Ok(true),
        }
    }
}

/// One round trip where a connection comes back, at which no borrower waits. Unbounded, as is the
/// ping with which sqlx follows it. Any other failure is for that ping to judge: in an aborted
/// transaction, say, the statement fails on a sound connection.
async fn role_is_gone(conn: &mut PgConnection) -> bool {
    match sqlx::raw_sql(sql::LIVENESS).execute(conn).await {
        Ok(_) => false,
        Err(error) => sqlstate(&error).as_deref() == Some(sql::ROLE_GONE),
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("provider", &self.provider)
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}
