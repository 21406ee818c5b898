//! What happens, told to whoever listens.

mod channel;
mod log;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::time::Duration;

use crate::hook::Holder;
use crate::json::{holders, one_line, seconds, seconds_if_any};
use crate::source::{ErrorKind, SourceError};

pub(crate) use channel::Channel;
pub(crate) use log::log;

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
    /// Every reason.
    pub const ALL: &[Self] = &[
        Self::Start,
        Self::MaxTtl,
        Self::Leeway,
        Self::TokenEnding,
        Self::LeaseLost,
        Self::LoginRejected,
        Self::SessionRevoked,
        Self::SourceChanged,
        Self::Requested,
    ];

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
///
/// Serializes to one flat JSON object: `event` is the variant's name in snake case
/// ([`Event::name`]), the rest are the variant's fields. Durations are seconds as a number, to the
/// millisecond; an error is its kind and message; what is `None` is null. The log has the same
/// names as structured fields. Names and values are stable, messages are not.
///
/// ```
/// # use leasehold::{Event, Reason};
/// # fn one() -> serde_json::Result<()> {
/// let event = Event::Rotating { reason: Reason::MaxTtl };
/// assert_eq!(serde_json::to_string(&event)?, r#"{"event":"rotating","reason":"max_ttl"}"#);
/// # Ok(()) }
/// # one().unwrap();
/// ```
#[derive(Clone, Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A credential was minted.
    Issued {
        /// Its user name.
        username: String,
        /// The TTL granted.
        #[serde(serialize_with = "seconds_if_any")]
        ttl: Option<Duration>,
    },
    /// Minting failed.
    IssueFailed {
        /// Why.
        error: SourceError,
        /// When it is tried again.
        #[serde(serialize_with = "seconds_if_any")]
        retry_in: Option<Duration>,
    },
    /// The lease of a generation was renewed.
    Renewed {
        /// Which.
        generation: u64,
        /// Time to live granted.
        #[serde(serialize_with = "seconds")]
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
        #[serde(serialize_with = "seconds_if_any")]
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
        #[serde(serialize_with = "seconds")]
        retry_in: Duration,
    },
    /// A candidate could not be proven on a pool.
    ProofFailed {
        /// The pool.
        pool: String,
        /// Postgres refused it (else it could not be asked).
        rejected: bool,
        /// What was said.
        #[serde(serialize_with = "one_line")]
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
        #[serde(serialize_with = "seconds")]
        took: Duration,
        /// Connections that were ended at the deadline, with the pool they belong to.
        #[serde(serialize_with = "holders")]
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
        /// The server has only taken the request, after it failed to do it at once: it goes on
        /// trying by itself, and the login may still be there.
        queued: bool,
    },
    /// A lease could not be revoked.
    RevokeFailed {
        /// Its generation; `None` for a credential that never became current.
        generation: Option<u64>,
        /// Why.
        error: SourceError,
        /// When it is tried again; `None`: left to its TTL.
        #[serde(serialize_with = "seconds_if_any")]
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
        #[serde(serialize_with = "one_line")]
        message: String,
    },
    /// The background task ended: nothing is renewed or rotated any more.
    Stopped {
        /// Why.
        #[serde(serialize_with = "one_line")]
        cause: String,
        /// By a shutdown that was asked for.
        orderly: bool,
    },
}

/// How loud an event is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
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
    /// The variant's name in logs and JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Issued { .. } => "issued",
            Self::IssueFailed { .. } => "issue_failed",
            Self::Renewed { .. } => "renewed",
            Self::RenewFailed { .. } => "renew_failed",
            Self::Rotating { .. } => "rotating",
            Self::RotationDelayed { .. } => "rotation_delayed",
            Self::ProofFailed { .. } => "proof_failed",
            Self::Swapped { .. } => "swapped",
            Self::Unchanged { .. } => "unchanged",
            Self::DialsSettled { .. } => "dials_settled",
            Self::RollEnded { .. } => "roll_ended",
            Self::Draining { .. } => "draining",
            Self::Drained { .. } => "drained",
            Self::Revoked { .. } => "revoked",
            Self::RevokeFailed { .. } => "revoke_failed",
            Self::LeaseEnded { .. } => "lease_ended",
            Self::LoginRejected { .. } => "login_rejected",
            Self::SessionRevoked { .. } => "session_revoked",
            Self::Expired { .. } => "expired",
            Self::PoolAttached { .. } => "pool_attached",
            Self::PoolDetached { .. } => "pool_detached",
            Self::Warning { .. } => "warning",
            Self::Stopped { .. } => "stopped",
        }
    }

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
