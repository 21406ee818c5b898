//! What can go wrong, each with what to do about it.

use std::io;
use std::time::Duration;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a stack could not be started, or why something asked of it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server's programs are not on this machine and were not to be, or could not be, fetched.
    #[error("{0}")]
    NoPrograms(String),

    /// A server did not start or stop. The end of its log is in the text.
    #[error("{server}: {detail}")]
    Server {
        /// Which server.
        server: &'static str,
        /// What happened, and the end of its log.
        detail: String,
    },

    /// An error of the operating system.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The error itself.
        source: io::Error,
    },

    /// The Vault server answered with an error.
    #[error("{method} {path}: the server answered {status}: {body}")]
    Vault {
        /// HTTP method.
        method: String,
        /// Path below `/v1/`.
        path: String,
        /// HTTP status.
        status: u16,
        /// The body, or its `errors`.
        body: String,
    },

    /// The Vault server did not answer: stopped, paused, or still starting.
    #[error("{method} {path}: no answer from the server (stopped or paused?): {detail}")]
    NoAnswer {
        /// HTTP method.
        method: String,
        /// Path below `/v1/`.
        path: String,
        /// What the connection said.
        detail: String,
    },

    /// Postgres refused or failed.
    #[error("{doing}: {}", postgres_text(.source))]
    Postgres {
        /// What was being done.
        doing: String,
        /// The error itself.
        source: tokio_postgres::Error,
    },

    /// This backend or setting cannot do what was asked for.
    #[error("{0}")]
    Unsupported(String),

    /// A specification that cannot be carried out as it stands.
    #[error("{0}")]
    BadSpec(String),

    /// Something awaited did not come about in time.
    #[error("{what}: not so after {after:?}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// For how long.
        after: Duration,
    },
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn postgres(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Postgres { doing, source }
    }

    /// The SQLSTATE, if this is an error that Postgres reported.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Postgres { source, .. } => source.code().map(|c| c.code()),
            _ => None,
        }
    }

    /// The HTTP status, if this is an error that the Vault server reported.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Vault { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// tokio-postgres prints "db error" and keeps the message in the source.
fn postgres_text(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => match std::error::Error::source(e) {
            Some(source) => format!("{e}: {source}"),
            None => e.to_string(),
        },
    }
}
