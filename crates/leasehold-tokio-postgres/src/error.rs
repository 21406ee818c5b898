//! What can go wrong with a connection on a provider.

use std::fmt;
use std::time::Duration;

use leasehold::hook::Refusal;

use crate::diagnosis::refusal;

/// A connection could not be made, or was lost. Names the pool or connector, and says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The rotator was shut down or dropped.
    Stopped {
        /// The pool or connector.
        name: String,
    },
    /// Postgres refused the login, or the login may not use the database.
    LoginRefused {
        /// The pool or connector.
        name: String,
        /// What Postgres said.
        source: tokio_postgres::Error,
    },
    /// The login works, and the probe statement failed.
    ProbeFailed {
        /// The pool or connector.
        name: String,
        /// What Postgres said.
        source: tokio_postgres::Error,
    },
    /// No connection could be made.
    Unreachable {
        /// The pool or connector.
        name: String,
        /// What was met instead.
        source: tokio_postgres::Error,
    },
    /// No connection could be made in time.
    Timeout {
        /// The pool or connector.
        name: String,
        /// The connect timeout.
        after: Duration,
    },
    /// A listener's connection was lost: what is sent until it listens again reaches nobody.
    Interrupted {
        /// The pool or connector.
        name: String,
    },
    /// Postgres refuses to listen on a channel.
    Listen {
        /// The pool or connector.
        name: String,
        /// What Postgres said.
        source: tokio_postgres::Error,
    },
}

impl Error {
    /// Sorts a failed connect.
    #[must_use]
    pub fn connect(name: &str, source: tokio_postgres::Error) -> Self {
        let name = name.to_owned();
        match refusal(&source) {
            Refusal::Login => Self::LoginRefused { name, source },
            _ => Self::Unreachable { name, source },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { name } => write!(
                f,
                "{name}: the rotator has been shut down or dropped; keep it alive as \
                 long as its pools"
            ),
            Self::LoginRefused { name, .. } => write!(
                f,
                "{name}: Postgres refuses the issued login; check pg_hba.conf, the \
                 database name, and the role's creation statements"
            ),
            Self::ProbeFailed { name, .. } => write!(
                f,
                "{name}: the issued login works, but the probe statement fails; check \
                 the grants in the role's creation statements"
            ),
            Self::Unreachable { name, .. } => write!(
                f,
                "{name}: no connection to Postgres could be made; check host, port, TLS \
                 settings and free connection slots"
            ),
            Self::Timeout { name, after } => write!(
                f,
                "{name}: no answer from Postgres within {after:?}; check host, port and \
                 firewalls, or raise connect_timeout"
            ),
            Self::Interrupted { name } => write!(
                f,
                "{name}: the listening connection was lost, and notifications may have \
                 been missed; read what they would have told, and go on: it listens again"
            ),
            Self::Listen { name, .. } => {
                write!(f, "{name}: Postgres refuses to listen; check the channels' names")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::LoginRefused { source, .. }
            | Self::ProbeFailed { source, .. }
            | Self::Unreachable { source, .. }
            | Self::Listen { source, .. } => Some(source),
            Self::Stopped { .. } | Self::Timeout { .. } | Self::Interrupted { .. } => None,
        }
    }
}
