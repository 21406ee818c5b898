//! The one connection that the rotator has beside the pool: it proves a login, counts the
//! sessions of a superseded one, and ends them at the deadline.
//!
//! All of that goes through one slot, so that a pool never has more sockets than its maximum and
//! one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leasehold::hook::{Holder, sql};
use leasehold::{CredentialProvider, Generation};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, Row};

use crate::dials::Dials;
use crate::error::Failure;

/// How many role OIDs are remembered: far more than generations can drain at once.
const OIDS: usize = 8;

/// Where no connection is free (53300), one of the pool is given up for ours.
const FULL_TRIES: u32 = 5;
const FULL_PACE: Duration = Duration::from_millis(20);

const FIND_OID: &str = "SELECT oid::bigint FROM pg_catalog.pg_roles WHERE rolname = $1";

pub(crate) struct Control {
    dials: Dials,
    slot: tokio::sync::Mutex<Option<Open>>,
    /// Rises with each candidate that is not wanted.
    unwanted: AtomicU64,
    /// Role OIDs by user name, newest last: they still find sessions when the name is gone.
    oids: Mutex<Vec<(String, i64)>>,
}

struct Open {
    conn: PgConnection,
    generation: u64,
}

impl Control {
    pub(crate) fn new(dials: Dials) -> Self {
        let (slot, oids) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { dials, slot, unwanted: AtomicU64::new(0), oids }
    }

    /// Opens a connection with `candidate`, checks that it works, and runs the user's probe. That of
    /// a candidate is kept for the drain that follows, unless it is [discarded](Self::discard).
    pub(crate) async fn prove(
        &self,
        pool: &PgPool,
        candidate: &Generation,
        probe: Option<&str>,
    ) -> Result<(), sqlx::Error> {
        let unwanted = self.unwanted.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        close(&mut slot).await;
        let (mut conn, crowded) = dial(&self.dials, pool, candidate).await?;
        self.learn_oid(&mut conn, candidate.credential().username()).await?;
        if let Some(probe) = probe {
            sqlx::raw_sql(AssertSqlSafe(probe)).execute(&mut conn).await?;
        }
        let generation = candidate.number();
        if generation > self.dials.installed() && pool.size() > 0 && !crowded {
            *slot = Some(Open { conn, generation });
        } else {
            // It answered; how it ends proves nothing.
            let _ = conn.close().await;
        }
        drop(slot);
        // Looked at once the slot is free: who discards meanwhile finds it taken.
        if self.unwanted.load(Ordering::Acquire) != unwanted {
            self.close().await;
        }
        Ok(())
    }

    /// The candidate that was proven, or is being proven, is not wanted: it must leave no session
    /// behind.
    pub(crate) fn discard(&self) {
        self.unwanted.fetch_add(1, Ordering::AcqRel);
        if let Ok(mut slot) = self.slot.try_lock()
            && slot.as_ref().is_some_and(|open| open.generation > self.dials.installed())
        {
            *slot = None;
        }
    }

    /// Asks the connection of `user` for its role's OID and remembers it. A role that may not read
    /// the catalog, or is not found there under its session's name, works all the same.
    async fn learn_oid(&self, conn: &mut PgConnection, user: &str) -> Result<(), sqlx::Error> {
        let oid = sqlx::query_scalar::<_, i64>(sql::PROVE);
        match oid.fetch_optional(conn).await {
            Ok(Some(oid)) => self.remember(user, oid),
            Ok(None) => {}
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42501") => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Sessions of the login of `of`, asked for with the current login.
    pub(crate) async fn count(
        &self,
        pool: &PgPool,
        provider: &CredentialProvider,
        of: &Generation,
    ) -> Result<usize, sqlx::Error> {
        let mut slot = self.slot.lock().await;
        // Read here: whoever waited for the slot may have been overtaken by a swap.
        let current = provider.current().clone();
        if current.credential().address() != of.credential().address() {
            // It sees another server's sessions. The deadline decides.
            let message = "the current login is good on another server";
            return Err(sqlx::Error::Configuration(message.into()));
        }
        // One of a login that is being drained itself would outlive it.
        if slot.as_ref().is_none_or(|open| open.generation != current.number()) {
            close(&mut slot).await;
            let (conn, _) = dial(&self.dials, pool, &current).await?;
            *slot = Some(Open { conn, generation: current.number() });
        }
        let Some(open) = slot.as_mut() else {
            return Ok(0);
        };
        // Given up midway, it is good for the next question: sqlx skips what was still to come.
        let counted = self.ask(&mut open.conn, of.credential().username()).await;
        if counted.is_err() {
            *slot = None;
        }
        counted
    }

    async fn ask(&self, conn: &mut PgConnection, user: &str) -> Result<usize, sqlx::Error> {
        if self.oid(user).is_none() {
            // The first login of a lazy pool was never proven.
            let known: Option<i64> =
                sqlx::query_scalar(FIND_OID).bind(user).fetch_optional(&mut *conn).await?;
            known.inspect(|&oid| self.remember(user, oid));
        }
        let count: i64 = sqlx::query_scalar(sql::COUNT_SESSIONS)
            .bind(user)
            .bind(self.oid(user))
            .fetch_one(conn)
            .await?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Logs in as `old` itself, lists who still holds on, and ends their sessions.
    pub(crate) async fn end_sessions(
        &self,
        pool: &PgPool,
        old: &Generation,
    ) -> Result<Vec<Holder>, sqlx::Error> {
        let mut slot = self.slot.lock().await;
        close(&mut slot).await;
        let (mut conn, _) = dial(&self.dials, pool, old).await?;
        // Roles are often made with a default role that owns the tables; that one may not end the
        // login's sessions.
        sqlx::raw_sql("SET ROLE NONE").execute(&mut conn).await?;
        let holders = sqlx::query(sql::LIST_HOLDERS)
            .fetch_all(&mut conn)
            .await?
            .iter()
            .map(holder)
            .collect::<Result<_, _>>()?;
        sqlx::query(sql::END_OWN_SESSIONS).fetch_all(&mut conn).await?;
        let _ = conn.close().await;
        Ok(holders)
    }

    /// Closes the connection, if there is one.
    pub(crate) async fn close(&self) {
        close(&mut *self.slot.lock().await).await;
    }

    fn remember(&self, user: &str, oid: i64) {
        let mut oids = self.oids.lock().unwrap_or_else(PoisonError::into_inner);
        oids.retain(|(known, _)| known != user);
        oids.push((user.to_owned(), oid));
        if oids.len() > OIDS {
            oids.remove(0);
        }
    }

    fn oid(&self, user: &str) -> Option<i64> {
        let oids = self.oids.lock().unwrap_or_else(PoisonError::into_inner);
        oids.iter().find(|(known, _)| known == user).map(|o| o.1)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// Opens a connection beside the pool; tells whether one of the pool had to make way for it.
async fn dial(
    dials: &Dials,
    pool: &PgPool,
    generation: &Generation,
) -> Result<(PgConnection, bool), sqlx::Error> {
    // A clone: the pool's own options are counted while somebody holds them.
    let base = PgConnectOptions::clone(&pool.connect_options());
    dials.check(&base, generation)?;
    let options = dials
        .with_login(base, generation)
        .application_name(sql::CONTROL_APPLICATION)
        .disable_statement_logging();
    let mut tries = FULL_TRIES;
    loop {
        match options.connect().await {
            Err(full) if Failure::of(&full) == Failure::Full && tries > 0 => {
                if tries == FULL_TRIES
                    && let Some(idle) = pool.try_acquire()
                {
                    let _ = idle.close().await;
                }
                // Its slot is free once the server has seen it go.
                tokio::time::sleep(FULL_PACE).await;
                tries -= 1;
            }
            done => return done.map(|conn| (conn, tries < FULL_TRIES)),
        }
    }
}

async fn close(slot: &mut Option<Open>) {
    if let Some(open) = slot.take() {
        // A connection that can't say goodbye is closed as well.
        let _ = tokio::time::timeout(Duration::from_secs(1), open.conn.close()).await;
    }
}

fn holder(row: &sqlx::postgres::PgRow) -> Result<Holder, sqlx::Error> {
    let holder = Holder::new(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    Ok(holder.began(row.try_get(4)?))
}
