//! Tells the rotator's own walks through a pool from its borrowers.
//!
//! The rotator reaches idle connections only the way borrowers do: by taking and returning them.
//! sqlx calls its hooks in the task that takes or returns, so a task-local value tells the hooks
//! for whom they run.

use std::cell::Cell;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};

tokio::task_local! {
    /// Whether this walk met a connection that is superseded.
    static OURS: Cell<bool>;
}

/// Runs for the rotator, not for a borrower.
pub(crate) fn is_ours() -> bool {
    OURS.try_with(|_| ()).is_ok()
}

/// A hook met a superseded connection on the rotator's walk.
pub(crate) fn met_superseded() {
    let _ = OURS.try_with(|met| met.set(true));
}

/// Takes one connection as the rotator: a superseded one that comes up is replaced, at this task's
/// expense. Tells whether one came up.
pub(crate) async fn take_one(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let walk = async {
        put_back(pool.acquire().await?).await;
        Ok(OURS.with(Cell::get))
    };
    OURS.scope(Cell::new(false), walk).await
}

/// Looks at each idle connection once; those that the hooks reject are closed. Stands in no
/// borrower's way: takes only what nobody waits for. Tells whether something was closed for being
/// superseded.
pub(crate) async fn sweep(pool: &PgPool) -> bool {
    let walk = async {
        for _ in 0..pool.num_idle() {
            let Some(conn) = pool.try_acquire() else {
                break;
            };
            put_back(conn).await;
        }
        OURS.with(Cell::get)
    };
    OURS.scope(Cell::new(false), walk).await
}

/// Dropping the connection would return it too, but in a task of its own, which is not known to be
/// ours. Where `min_connections` is set this may dial a replacement; callers bound it, and giving
/// up midway loses no more than the connection.
async fn put_back(mut conn: PoolConnection<Postgres>) {
    conn.return_to_pool().await;
}
