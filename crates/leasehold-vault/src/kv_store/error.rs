//! Why a secret could not be had, or not be written.

use std::fmt;
use std::time::SystemTime;

use leasehold::{ErrorKind, SourceError};

use super::fetch::Found;
use super::place::Place;
use super::problem::KvKeyProblem;

/// What came in the way of reading or writing a secret of a KV engine. Names the path, says what to
/// do, and holds nothing of what is in the secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KvError {
    /// There is no such secret, or no such version of it.
    Missing {
        /// As the API has it.
        path: String,
        /// The version, if one was asked for.
        version: Option<u64>,
    },
    /// The version was deleted. It can be had back: [`KvStore::undelete`](crate::KvStore::undelete).
    Deleted {
        /// As the API has it.
        path: String,
        /// Which one.
        version: u64,
        /// When, on the server's clock.
        at: Option<SystemTime>,
    },
    /// The version was destroyed. It is gone.
    Destroyed {
        /// As the API has it.
        path: String,
        /// Which one.
        version: u64,
    },
    /// Not written: the secret has another version than was expected, so somebody else has written
    /// it meanwhile.
    CasConflict {
        /// As the API has it.
        path: String,
        /// What was expected; 0: no secret at all.
        expected: u64,
    },
    /// Not written: this secret, or the whole engine, takes no write without an expected version.
    CasRequired {
        /// As the API has it.
        path: String,
    },
    /// The policy does not allow it.
    Denied(SourceError),
    /// The server can't be asked for now: out of reach, no answer in time, throttled, sealed, or
    /// failing. [`SourceError::kind`] says which. It heals with no human, and a write that had no
    /// answer in time may have been carried out.
    Unavailable(SourceError),
    /// Anything else that the server or the session says: no such engine, no valid token.
    Refused(SourceError),
    /// The secret is there and is not what the settings take.
    Malformed {
        /// As the API has it, or that it is the environment.
        path: String,
        /// None where there are no versions.
        version: Option<u64>,
        /// All that is missing or wrong.
        keys: Vec<KvKeyProblem>,
    },
    /// What was to be written can't be written as JSON.
    NotJson {
        /// As the API has it.
        path: String,
    },
    /// Not asked for: part of the path is empty, `.` or `..`, which no URL keeps.
    BadPath {
        /// Mount and path.
        path: String,
    },
    /// Not asked for: an engine of version 1 knows no versions.
    NotVersioned {
        /// As the API has it.
        path: String,
    },
}

impl KvError {
    /// Heals with no human: trying again later can succeed though nobody mends anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// The server could not be asked, so that what it said before may be as good as ever.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Refused(e) => e.kind() == ErrorKind::TokenLost,
            _ => false,
        }
    }

    /// What is there instead of a secret, or the secret.
    pub(super) fn unless_here<T>(
        place: &Place,
        asked: Option<u64>,
        found: Found<T>,
    ) -> Result<(Option<u64>, T), Self> {
        let path = place.data();
        Err(match found {
            Found::Here { version, value } => return Ok((version, value)),
            Found::Deleted { version, at } => Self::Deleted { path, version, at },
            Found::Destroyed { version } => Self::Destroyed { path, version },
            Found::Nothing => Self::Missing { path, version: asked },
        })
    }
}

impl From<SourceError> for KvError {
    fn from(e: SourceError) -> Self {
        match e.kind() {
            ErrorKind::Denied => Self::Denied(e),
            _ if e.is_transient() => Self::Unavailable(e),
            _ => Self::Refused(e),
        }
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path, version: None } => write!(
                f,
                "{path}: there is no such secret: write one, or check the path and the version of \
                 the engine"
            ),
            Self::Missing { path, version: Some(version) } => write!(
                f,
                "{path}: there is no version {version}: it was never written, or there were too \
                 many after it"
            ),
            Self::Deleted { path, version, at } => {
                write!(f, "{path}: its version {version} was deleted")?;
                if let Some(at) = at {
                    write!(f, " at {}", humantime::format_rfc3339_seconds(*at))?;
                }
                f.write_str(": undelete it, or write another")
            }
            Self::Destroyed { path, version } => {
                write!(f, "{path}: its version {version} was destroyed: write another")
            }
            Self::CasConflict { path, expected: 0 } => {
                write!(f, "writing {path}: there is a secret already: read it, and decide anew")
            }
            Self::CasConflict { path, expected } => write!(
                f,
                "writing {path}: its version is not {expected} any more, somebody has written it \
                 meanwhile: read it, and decide anew"
            ),
            Self::CasRequired { path } => {
                write!(f, "writing {path}: it takes no write without an expected version: give one")
            }
            Self::Denied(e) | Self::Unavailable(e) | Self::Refused(e) => fmt::Display::fmt(e, f),
            Self::Malformed { path, version, keys } => {
                f.write_str(path)?;
                if let Some(version) = version {
                    write!(f, ", version {version}")?;
                }
                for (i, key) in keys.iter().enumerate() {
                    write!(f, "{} {key}", if i == 0 { ":" } else { "," })?;
                }
                Ok(())
            }
            Self::NotJson { path } => {
                write!(f, "writing {path}: what is to be written is no JSON object")
            }
            Self::BadPath { path } => write!(
                f,
                "{path:?} is no path of a secret: a part of it is empty, or consists of dots alone"
            ),
            Self::NotVersioned { path } => write!(
                f,
                "{path}: an engine of version 1 knows no versions, and no patches: use version 2"
            ),
        }
    }
}

impl std::error::Error for KvError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its own words are said above.
            Self::Denied(e) | Self::Unavailable(e) | Self::Refused(e) => {
                std::error::Error::source(e)
            }
            _ => None,
        }
    }
}
