//! What happens, told to whoever listens.

use std::fmt;
use std::time::Duration;

use crate::hook::Holder;
use crate::line::Line;
use crate::source::{ErrorKind, SourceError};

/// Why a rotation was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The first credential of a rotator.
    Start,
    /// The lease can't be renewed past its maximum TTL, and its leeway has come.
    MaxTtl,
    /// The lease was not renewed in time, and its leeway has come.
    Leeway,
    /// The token that created the lease ends, and the lease with it.
    TokenEnding,
    /// The server says that the lease is gone.
    LeaseLost,
    /// Postgres refused the login.
    LoginRejected,
    /// A session's role was found to be gone.
    SessionRevoked,
    /// The source has something newer than what it issued.
    SourceChanged,
    /// Asked for by [`Rotator::rotate`](crate::Rotator::rotate).
    Requested,
}

impl Reason {
    /// The name used in logs, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::MaxTtl => "max_ttl",
            Self::Leeway => "leeway",
            Self::TokenEnding => "token_ending",
            Self::LeaseLost => "lease_lost",
            Self::LoginRejected => "login_rejected",
            Self::SessionRevoked => "session_revoked",
            Self::SourceChanged => "source_changed",
            Self::Requested => "requested",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something happened. `Display` is one readable line. Holds no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A credential was minted.
    Issued {
        /// Its user name.
        username: String,
        /// The TTL granted.
        ttl: Option<Duration>,
    },
    /// Minting failed.
    IssueFailed {
        /// Why.
        error: SourceError,
        /// When it is tried again.
        retry_in: Option<Duration>,
    },
    /// The lease of a generation was renewed.
    Renewed {
        /// Which.
        generation: u64,
        /// Time to live granted.
        granted: Duration,
        /// Less was granted than asked for: the lease ends for good then.
        last: bool,
    },
    /// A renewal failed.
    RenewFailed {
        /// Which generation's.
        generation: u64,
        /// Why.
        error: SourceError,
        /// When it is tried again; `None`: not at all.
        retry_in: Option<Duration>,
    },
    /// A rotation begins.
    Rotating {
        /// Why.
        reason: Reason,
    },
    /// The mint limiter makes a rotation wait.
    RotationDelayed {
        /// Why it was wanted.
        reason: Reason,
        /// When it is permitted.
        retry_in: Duration,
    },
    /// A candidate could not be proven on a pool.
    ProofFailed {
        /// The pool.
        pool: String,
        /// Postgres refused it (else it could not be asked).
        rejected: bool,
        /// What was said.
        message: String,
    },
    /// A new generation became current.
    Swapped {
        /// Its number.
        generation: u64,
        /// Its user name.
        username: String,
        /// Why.
        reason: Reason,
        /// Every attached pool opened a connection with it first.
        proven: bool,
    },
    /// The source issued the very login that is current: nothing was swapped.
    Unchanged {
        /// The generation that stays.
        generation: u64,
        /// Why the source was asked.
        reason: Reason,
    },
    /// No connect with a superseded login is in flight on a pool any more.
    DialsSettled {
        /// The pool.
        pool: String,
        /// The superseded generation.
        generation: u64,
    },
    /// A pool hands out none of a superseded generation any more.
    RollEnded {
        /// The pool.
        pool: String,
        /// The superseded generation.
        generation: u64,
    },
    /// A pool still has connections of a superseded generation.
    Draining {
        /// The pool.
        pool: String,
        /// The superseded generation.
        generation: u64,
        /// How many.
        remaining: usize,
    },
    /// No connection of a superseded generation is left, or its deadline was dealt with.
    Drained {
        /// The superseded generation.
        generation: u64,
        /// Time since the swap.
        took: Duration,
        /// Connections that were ended at the deadline, with the pool they belong to.
        forced: Vec<(String, Holder)>,
        /// Connections that could not be ended.
        left: usize,
    },
    /// A lease was revoked.
    Revoked {
        /// Its generation; `None` for a credential that never became current.
        generation: Option<u64>,
        /// Its user name.
        username: String,
    },
    /// A lease could not be revoked.
    RevokeFailed {
        /// Its generation; `None` for a credential that never became current.
        generation: Option<u64>,
        /// Why.
        error: SourceError,
        /// When it is tried again; `None`: left to its TTL.
        retry_in: Option<Duration>,
    },
    /// A lease ended by itself before it could be revoked.
    LeaseEnded {
        /// Its generation; `None` for a credential that never became current.
        generation: Option<u64>,
        /// Its user name.
        username: String,
    },
    /// Postgres refused the login of a generation.
    LoginRejected {
        /// Which.
        generation: u64,
    },
    /// A session found its role gone.
    SessionRevoked {
        /// Of which generation.
        generation: u64,
    },
    /// The current lease ends before another one could be had. Connections that are open go on.
    Expired {
        /// Which generation's.
        generation: u64,
    },
    /// A pool was attached.
    PoolAttached {
        /// The pool.
        pool: String,
    },
    /// A pool was closed or dropped, and is fed no longer.
    PoolDetached {
        /// The pool.
        pool: String,
    },
    /// Something the operator should know.
    Warning {
        /// The pool it is about, if any.
        pool: Option<String>,
        /// What.
        message: String,
    },
    /// The background task ended: nothing is renewed or rotated any more.
    Stopped {
        /// Why.
        cause: String,
        /// By a shutdown that was asked for.
        orderly: bool,
    },
}

/// How loud an event is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Routine, many per hour.
    Debug,
    /// Routine, worth a line.
    Info,
    /// Failed, while a valid credential is left.
    Warn,
    /// Needs a person, or queries fail.
    Error,
}

impl Event {
    /// How loud it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Renewed { .. }
            | Self::Draining { .. }
            | Self::DialsSettled { .. }
            | Self::RollEnded { .. } => Severity::Debug,
            Self::Issued { .. }
            | Self::Rotating { .. }
            | Self::Unchanged { .. }
            | Self::Swapped { proven: true, .. }
            | Self::Revoked { .. }
            | Self::PoolAttached { .. }
            | Self::PoolDetached { .. }
            | Self::Stopped { orderly: true, .. } => Severity::Info,
            Self::Drained { forced, left, .. } if forced.is_empty() && *left == 0 => Severity::Info,
            Self::IssueFailed { error, .. }
            | Self::RenewFailed { error, .. }
            // With a retry: refused, and a short renewal comes instead.
            | Self::RevokeFailed { error, retry_in: None, .. }
                if !error.is_transient() && error.kind() != ErrorKind::NotRenewable =>
            {
                Severity::Error
            }
            Self::Drained { .. }
            | Self::IssueFailed { .. }
            | Self::RenewFailed { .. }
            | Self::RevokeFailed { .. }
            | Self::RotationDelayed { .. }
            | Self::ProofFailed { .. }
            | Self::Swapped { .. }
            | Self::LeaseEnded { .. }
            | Self::LoginRejected { .. }
            | Self::SessionRevoked { .. }
            | Self::Warning { .. } => Severity::Warn,
            Self::Expired { .. } | Self::Stopped { .. } => Severity::Error,
        }
    }
}

/// ` again in 1.5s`, or what `None` means.
struct Again<'a>(&'a Option<Duration>, &'static str);

impl fmt::Display for Again<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) if after.is_zero() => f.write_str("; another way is tried"),
            Some(after) => write!(f, "; again in {after:.1?}"),
            None => f.write_str(self.1),
        }
    }
}

/// `generation 3`, or what a lease is that never became one.
struct Of<'a>(&'a Option<u64>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(n) => write!(f, "generation {n}"),
            None => f.write_str("unused credential"),
        }
    }
}

/// One line, whatever names and messages are in it.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tell(&mut Line::new(f))
    }
}

impl Event {
    fn tell(&self, f: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::Issued { username, ttl: Some(ttl) } => {
                write!(f, "issued {username} for {ttl:.0?}")
            }
            Self::Issued { username, ttl: None } => write!(f, "issued {username}, no end"),
            Self::IssueFailed { error, retry_in } => {
                write!(f, "issue failed: {error}{}", Again(retry_in, ""))
            }
            Self::Renewed { generation, granted, last } => {
                let note = if *last { ", for the last time" } else { "" };
                write!(f, "renewed generation {generation} for {granted:.0?}{note}")
            }
            Self::RenewFailed { generation, error, retry_in } => {
                let again = Again(retry_in, "; not renewed any more");
                write!(f, "renewal of generation {generation} failed: {error}{again}")
            }
            Self::Rotating { reason } => write!(f, "rotating ({reason})"),
            Self::RotationDelayed { reason, retry_in } => {
                write!(f, "rotation ({reason}) held by the mint limiter for {retry_in:.1?}")
            }
            Self::ProofFailed { pool, rejected, message } => {
                let what = if *rejected { "rejected" } else { "not proven" };
                write!(f, "candidate {what} on pool {pool}: {message}")
            }
            Self::Swapped { generation, username, reason, proven } => {
                let note = if *proven { "" } else { ", not proven on every pool" };
                write!(f, "swapped to generation {generation} {username} ({reason}{note})")
            }
            Self::Unchanged { generation, reason } => {
                write!(f, "generation {generation} stays: the source has no other login ({reason})")
            }
            Self::DialsSettled { pool, generation } => {
                write!(f, "no connect of pool {pool} with generation {generation} is in flight")
            }
            Self::RollEnded { pool, generation } => {
                write!(f, "pool {pool} hands out none of generation {generation} any more")
            }
            Self::Draining { pool, generation, remaining } => {
                write!(f, "draining generation {generation} on pool {pool}: {remaining} left")
            }
            Self::Drained { generation, took, forced, left } => {
                write!(f, "drained generation {generation} in {took:.2?}")?;
                for (pool, holder) in forced {
                    write!(f, "; ended on pool {pool}: {holder}")?;
                }
                if *left > 0 {
                    write!(f, "; {left} left to close on return")?;
                }
                Ok(())
            }
            Self::Revoked { generation, username } => {
                write!(f, "revoked {} {username}", Of(generation))
            }
            Self::RevokeFailed { generation, error, retry_in } => {
                let again = Again(retry_in, "; left to its TTL");
                write!(f, "revocation of {} failed: {error}{again}", Of(generation))
            }
            Self::LeaseEnded { generation, username } => {
                write!(f, "lease of {} {username} ended by itself", Of(generation))
            }
            Self::LoginRejected { generation } => {
                write!(f, "Postgres refused the login of generation {generation}")
            }
            Self::SessionRevoked { generation } => {
                write!(f, "the role of generation {generation} is gone from Postgres")
            }
            Self::Expired { generation } => write!(
                f,
                "lease of generation {generation} ended and no other could be had; open \
                 connections go on"
            ),
            Self::PoolAttached { pool } => write!(f, "pool {pool} attached"),
            Self::PoolDetached { pool } => write!(f, "pool {pool} detached"),
            Self::Warning { pool: Some(pool), message } => write!(f, "pool {pool}: {message}"),
            Self::Warning { pool: None, message } => f.write_str(message),
            Self::Stopped { cause, .. } => write!(f, "stopped: {cause}"),
        }
    }
}

/// Writes an event to the log, at the level of its severity.
pub(crate) fn log(event: &Event) {
    match event.severity() {
        Severity::Debug => tracing::debug!(target: "leasehold", "{event}"),
        Severity::Info => tracing::info!(target: "leasehold", "{event}"),
        Severity::Warn => tracing::warn!(target: "leasehold", "{event}"),
        Severity::Error => tracing::error!(target: "leasehold", "{event}"),
    }
}
