//! What the hooks of one pool share with the drain. Sits in the pool's options, so it must not
//! hold the pool.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
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
pub(crate) type Callback =
    Arc<dyn for<'c> Fn(&'c mut PgConnection, PoolConnectionMetadata) -> Answer<'c> + Send + Sync>;

/// Whether the pool may go on with a connection.
type Answer<'c> = BoxFuture<'c, Result<bool, sqlx::Error>>;

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
        match self.judge_release(age) {
            Release::Keep => true,
            Release::Close => false,
            Release::Ask(generation) => self.keep_if_there(conn, generation).await,
        }
    }

    fn judge_release(&self, age: Duration) -> Release {
        // Before the judgement: a swap in between makes this one too old, not too new.
        let generation = self.dials.certain();
        let verdict = self.gate.judge_age(age);
        if verdict == Verdict::Retired {
            ours::met_superseded();
            return Release::Close;
        }
        if self.lifetimes.is_over(age, &self.provider) {
            return Release::Close;
        }
        if ours::is_ours() {
            return Release::Keep;
        }
        self.lifetimes.returned();
        match generation {
            Some(generation) if verdict == Verdict::Current && self.sampler.due() => {
                Release::Ask(generation)
            }
            _ => Release::Keep,
        }
    }

    /// The liveness check of a connection that comes back.
    async fn keep_if_there(&self, conn: &mut PgConnection, generation: u64) -> bool {
        let gone = role_is_gone(conn).await;
        if gone {
            self.provider.report(generation, Observation::SessionRevoked);
        }
        !gone
    }

    /// The hook in sqlx's own shape. What nearly every acquire needs is done in the call itself: a
    /// future that waits for something is boxed, and a handle on this cloned into it, only where
    /// there is something to wait for.
    pub(crate) fn before_acquire<'c>(
        self: &Arc<Self>,
        conn: &'c mut PgConnection,
        meta: PoolConnectionMetadata,
    ) -> Answer<'c> {
        if self.gate.judge_age(meta.age) == Verdict::Current {
            return ask(self.before_acquire.as_ref(), conn, meta);
        }
        let shared = self.clone();
        Box::pin(async move {
            let keep = shared.keep_on_acquire(meta.age).await;
            if keep { ask(shared.before_acquire.as_ref(), conn, meta).await } else { Ok(false) }
        })
    }

    /// As [`before_acquire`](Self::before_acquire).
    pub(crate) fn after_release<'c>(
        self: &Arc<Self>,
        conn: &'c mut PgConnection,
        meta: PoolConnectionMetadata,
    ) -> Answer<'c> {
        let generation = match self.judge_release(meta.age) {
            Release::Keep => return ask(self.after_release.as_ref(), conn, meta),
            Release::Close => return Box::pin(std::future::ready(Ok(false))),
            Release::Ask(generation) => generation,
        };
        let shared = self.clone();
        Box::pin(async move {
            let keep = shared.keep_if_there(conn, generation).await;
            if keep { ask(shared.after_release.as_ref(), conn, meta).await } else { Ok(false) }
        })
    }
}

/// What becomes of a connection that comes back.
enum Release {
    Keep,
    Close,
    /// Kept if the role of this generation is still there.
    Ask(u64),
}

/// What the user's own callback says, which is called for borrowers only. sqlx wants a box, which
/// is free for a future without a size.
fn ask<'c>(
    users: Option<&Callback>,
    conn: &'c mut PgConnection,
    meta: PoolConnectionMetadata,
) -> Answer<'c> {
    match users {
        Some(users) if !ours::is_ours() => users(conn, meta),
        _ => Box::pin(Keep),
    }
}

/// Keeps a connection.
struct Keep;

impl Future for Keep {
    type Output = Result<bool, sqlx::Error>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(true))
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
