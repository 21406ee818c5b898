//! What can go wrong while a pool is put on a provider.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::{BuildError, PoolError};
use leasehold::hook::Refusal;
use leasehold_tokio_postgres::hook::refusal;

/// A pool could not be put on a provider. Names the pool, and says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The rotator was shut down or dropped.
    Stopped {
        /// The pool.
        pool: String,
    },
    /// The pool's own settings are refused by deadpool.
    Build {
        /// The pool.
        pool: String,
        /// What deadpool said.
        source: BuildError,
    },
    /// Postgres refused the login, or the login may not use the database.
    LoginRefused {
        /// The pool.
        pool: String,
        /// What Postgres said.
        source: PoolError,
    },
    /// The login works, and the probe statement failed.
    ProbeFailed {
        /// The pool.
        pool: String,
        /// What Postgres said.
        source: tokio_postgres::Error,
    },
    /// No connection could be made.
    Unreachable {
        /// The pool.
        pool: String,
        /// What was met instead.
        source: PoolError,
    },
    /// No connection could be made in time.
    Timeout {
        /// The pool.
        pool: String,
        /// The connect timeout.
        after: Duration,
    },
}

impl Error {
    /// Sorts a failed `get`.
    pub(crate) fn connect(pool: &str, source: PoolError) -> Self {
        let pool = pool.to_owned();
        match &source {
            PoolError::Backend(e) if refusal(e) == Refusal::Login => {
                Self::LoginRefused { pool, source }
            }
            _ => Self::Unreachable { pool, source },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { pool } => write!(
                f,
                "pool {pool}: the rotator has been shut down or dropped; keep it alive as long as \
                 its pools"
            ),
            Self::Build { pool, .. } => write!(f, "pool {pool}: deadpool refuses its settings"),
            Self::LoginRefused { pool, .. } => write!(
                f,
                "pool {pool}: Postgres refuses the issued login; check pg_hba.conf, the database \
                 name, and the role's creation statements; for a replica set replica_lag"
            ),
            Self::ProbeFailed { pool, .. } => write!(
                f,
                "pool {pool}: the issued login works, but the probe statement fails; check the \
                 grants in the role's creation statements"
            ),
            Self::Unreachable { pool, .. } => write!(
                f,
                "pool {pool}: no connection to Postgres could be made; check host, port, TLS \
                 settings and free connection slots, or build the pool with connect_lazy"
            ),
            Self::Timeout { pool, after } => write!(
                f,
                "pool {pool}: no answer from Postgres within {after:?}; check host, port and \
                 firewalls, raise connect_timeout, or build the pool with connect_lazy"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Build { source, .. } => Some(source),
            Self::LoginRefused { source, .. } | Self::Unreachable { source, .. } => Some(source),
            Self::ProbeFailed { source, .. } => Some(source),
            Self::Stopped { .. } | Self::Timeout { .. } => None,
        }
    }
}
