//! What can go wrong while a pool is put on a provider.

use std::fmt;

use leasehold::hook::Refusal;

/// A pool could not be put on a provider. Names the pool, and says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The rotator was shut down or dropped.
    Stopped {
        /// The pool.
        pool: String,
    },
    /// Postgres refused the login, or the login may not use the database.
    LoginRefused {
        /// The pool.
        pool: String,
        /// What Postgres said.
        source: sqlx::Error,
    },
    /// The login is let in, but a first statement, or the probe, failed.
    ProbeFailed {
        /// The pool.
        pool: String,
        /// What Postgres said.
        source: sqlx::Error,
    },
    /// Postgres could not be asked in time.
    Unreachable {
        /// The pool.
        pool: String,
        /// What was met instead.
        source: sqlx::Error,
    },
    /// These hooks serve a pool already.
    InUse {
        /// The pool.
        pool: String,
    },
    /// Called outside of a tokio runtime.
    NoRuntime {
        /// The pool.
        pool: String,
    },
}

impl Error {
    /// Sorts a failed connect.
    pub(crate) fn connect(pool: &str, source: sqlx::Error) -> Self {
        let pool = pool.to_owned();
        match Failure::of(&source) {
            Failure::Login => Self::LoginRefused { pool, source },
            Failure::Statement => Self::ProbeFailed { pool, source },
            Failure::Full | Failure::Unreachable => Self::Unreachable { pool, source },
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
            Self::LoginRefused { pool, .. } => write!(
                f,
                "pool {pool}: Postgres refuses the issued login; check pg_hba.conf, the database \
                 name, and the role's creation statements; for a replica set replica_lag"
            ),
            Self::ProbeFailed { pool, .. } => write!(
                f,
                "pool {pool}: the issued login connects, but its first statement fails; check the \
                 probe query and what the role's creation statements grant"
            ),
            Self::Unreachable { pool, .. } => write!(
                f,
                "pool {pool}: no connection to Postgres could be made; check host, port, TLS \
                 settings and free connection slots, or build the pool with connect_lazy"
            ),
            Self::InUse { pool } => write!(
                f,
                "pool {pool}: these hooks serve a pool already; build new ones for each pool"
            ),
            Self::NoRuntime { pool } => {
                write!(f, "pool {pool}: must be built inside a tokio runtime")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::LoginRefused { source, .. }
            | Self::ProbeFailed { source, .. }
            | Self::Unreachable { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The SQLSTATE of an error that came from Postgres.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// What a failed connect, or the first statement after it, says about the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is refused.
    Login,
    /// It got in; a statement failed.
    Statement,
    /// Nothing: no connection is free.
    Full,
    /// Nothing: there was no answer, or one of a server that starts, stops or is out of resources.
    Unreachable,
}

impl Failure {
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        let code = sqlstate(error);
        match (Refusal::of(code.as_deref()), code) {
            (Refusal::Login, _) => Self::Login,
            (Refusal::Full, _) => Self::Full,
            (_, Some(code)) if !["08", "53", "57"].iter().any(|c| code.starts_with(c)) => {
                Self::Statement
            }
            _ => Self::Unreachable,
        }
    }
}
