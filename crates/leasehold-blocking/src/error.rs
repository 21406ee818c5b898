//! What can go wrong with a pool.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use leasehold::hook::Refusal;
use leasehold_tokio_postgres::hook::{is_authentication, kind, refusal};

/// A pool could not be put on a provider, or a connection of it could not be made. Names the pool,
/// and says what to do.
///
/// r2d2 keeps no more of an error than its text: the kind of what the driver said is in there too.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The rotator is gone, the login is refused, or no connection could be made.
    Connect(leasehold_tokio_postgres::Error),
    /// The login works, and libpq makes no connection with it.
    Libpq {
        /// The pool.
        pool: String,
        /// What libpq said, on one line and without the password.
        message: String,
    },
    /// What the application does with each new connection failed.
    OnConnect {
        /// The pool.
        pool: String,
        /// What it said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The pool has a `connection_customizer`, which would not see each of its connections.
    Customizer {
        /// The pool.
        pool: String,
    },
    /// r2d2 handed no connection out, though one was made.
    Pool {
        /// The pool.
        pool: String,
        /// What it said.
        source: r2d2::Error,
    },
    /// The system gave no thread to wait on, or no file.
    NoThread {
        /// The pool.
        pool: String,
        /// What it said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn connect(pool: &str, source: tokio_postgres::Error) -> Self {
        Self::Connect(leasehold_tokio_postgres::Error::connect(pool, source))
    }

    pub(crate) fn stopped(pool: &str) -> Self {
        Self::Connect(leasehold_tokio_postgres::Error::Stopped { name: pool.to_owned() })
    }

    pub(crate) fn timeout(pool: &str, after: Duration) -> Self {
        let name = pool.to_owned();
        Self::Connect(leasehold_tokio_postgres::Error::Timeout { name, after })
    }

    pub(crate) fn no_thread(pool: &str, source: io::Error) -> Self {
        Self::NoThread { pool: pool.to_owned(), source }
    }

    /// The login itself was refused: others may be had.
    pub(crate) fn is_refused_login(&self) -> bool {
        self.postgres().is_some_and(is_authentication)
    }

    /// What a failed connect says about the login.
    pub(crate) fn refusal(&self) -> Refusal {
        self.postgres().map_or(Refusal::Unreachable, refusal)
    }

    fn postgres(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Connect(error) => error.source()?.downcast_ref(),
            _ => None,
        }
    }
}

impl From<leasehold_tokio_postgres::Error> for Error {
    fn from(error: leasehold_tokio_postgres::Error) -> Self {
        Self::Connect(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => match self.postgres() {
                Some(source) => write!(f, "{error}: {}", kind(source)),
                None => error.fmt(f),
            },
            Self::Libpq { pool, message } => write!(
                f,
                "{pool}: the login works, but libpq makes no connection: {message}; check what is \
                 set with Installer::libpq, and that libpq was built with TLS if Postgres wants it"
            ),
            Self::OnConnect { pool, .. } => {
                write!(f, "{pool}: what is done with each new connection (on_connect) fails")
            }
            Self::Customizer { pool } => write!(
                f,
                "{pool}: r2d2's connection_customizer would not see the connections that replace \
                 superseded ones; use Installer::on_connect"
            ),
            Self::Pool { pool, .. } => {
                write!(f, "{pool}: r2d2 hands out no connection; check the pool's settings")
            }
            Self::NoThread { pool, .. } => {
                write!(
                    f,
                    "{pool}: no thread to connect on; check the limits on processes and files"
                )
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Connect(error) => error.source(),
            Self::OnConnect { source, .. } => Some(&**source),
            Self::Pool { source, .. } => Some(source),
            Self::NoThread { source, .. } => Some(source),
            Self::Libpq { .. } | Self::Customizer { .. } => None,
        }
    }
}
