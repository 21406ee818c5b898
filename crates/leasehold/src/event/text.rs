//! An event as one readable line.

use std::fmt;
use std::time::Duration;

use super::Event;
use crate::line::Line;

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
            Self::Revoked { generation, username, queued: false } => {
                write!(f, "revoked {} {username}", Of(generation))
            }
            Self::Revoked { generation, username, queued: true } => {
                write!(f, "revocation of {} {username} left to the server's queue", Of(generation))
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
