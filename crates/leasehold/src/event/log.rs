//! An event in the log: its line as the message, and what is in it as fields.

use super::{Event, Severity};
use crate::json::in_seconds;

/// What an event has of these; the names are those of its JSON, and stable. What is nested there
/// is plain here: of an error the kind (its message is in the line), of a list its length.
#[derive(Default)]
struct Fields<'a> {
    generation: Option<u64>,
    username: Option<&'a str>,
    reason: Option<&'static str>,
    pool: Option<&'a str>,
    kind: Option<&'static str>,
    ttl: Option<f64>,
    granted: Option<f64>,
    last: Option<bool>,
    retry_in: Option<f64>,
    proven: Option<bool>,
    rejected: Option<bool>,
    remaining: Option<u64>,
    took: Option<f64>,
    forced: Option<u64>,
    left: Option<u64>,
    queued: Option<bool>,
    orderly: Option<bool>,
}

impl<'a> Fields<'a> {
    fn of(event: &'a Event) -> Self {
        let none = Self::default();
        match event {
            Event::Issued { username, ttl } => {
                Self { username: Some(username), ttl: ttl.map(in_seconds), ..none }
            }
            Event::IssueFailed { error, retry_in } => Self {
                kind: Some(error.kind().as_str()),
                retry_in: retry_in.map(in_seconds),
                ..none
            },
            Event::Renewed { generation, granted, last } => Self {
                generation: Some(*generation),
                granted: Some(in_seconds(*granted)),
                last: Some(*last),
                ..none
            },
            Event::RenewFailed { generation, error, retry_in } => Self {
                generation: Some(*generation),
                kind: Some(error.kind().as_str()),
                retry_in: retry_in.map(in_seconds),
                ..none
            },
            Event::Rotating { reason } => Self { reason: Some(reason.as_str()), ..none },
            Event::RotationDelayed { reason, retry_in } => Self {
                reason: Some(reason.as_str()),
                retry_in: Some(in_seconds(*retry_in)),
                ..none
            },
            Event::ProofFailed { pool, rejected, .. } => {
                Self { pool: Some(pool), rejected: Some(*rejected), ..none }
            }
            Event::Swapped { generation, username, reason, proven } => Self {
                generation: Some(*generation),
                username: Some(username),
                reason: Some(reason.as_str()),
                proven: Some(*proven),
                ..none
            },
            Event::Unchanged { generation, reason } => {
                Self { generation: Some(*generation), reason: Some(reason.as_str()), ..none }
            }
            Event::DialsSettled { pool, generation } | Event::RollEnded { pool, generation } => {
                Self { pool: Some(pool), generation: Some(*generation), ..none }
            }
            Event::Draining { pool, generation, remaining } => Self {
                pool: Some(pool),
                generation: Some(*generation),
                remaining: Some(*remaining as u64),
                ..none
            },
            Event::Drained { generation, took, forced, left } => Self {
                generation: Some(*generation),
                took: Some(in_seconds(*took)),
                forced: Some(forced.len() as u64),
                left: Some(*left as u64),
                ..none
            },
            Event::Revoked { generation, username, queued } => Self {
                generation: *generation,
                username: Some(username),
                queued: Some(*queued),
                ..none
            },
            Event::LeaseEnded { generation, username } => {
                Self { generation: *generation, username: Some(username), ..none }
            }
            Event::RevokeFailed { generation, error, retry_in } => Self {
                generation: *generation,
                kind: Some(error.kind().as_str()),
                retry_in: retry_in.map(in_seconds),
                ..none
            },
            Event::LoginRejected { generation }
            | Event::SessionRevoked { generation }
            | Event::Expired { generation } => Self { generation: Some(*generation), ..none },
            Event::PoolAttached { pool } | Event::PoolDetached { pool } => {
                Self { pool: Some(pool), ..none }
            }
            Event::Warning { pool, .. } => Self { pool: pool.as_deref(), ..none },
            Event::Stopped { orderly, .. } => Self { orderly: Some(*orderly), ..none },
        }
    }
}

/// Writes an event to the log, at the level of its severity.
pub(crate) fn log(provider: &str, event: &Event) {
    macro_rules! at {
        ($level:ident) => {{
            let fields = Fields::of(event);
            tracing::$level!(
                target: "leasehold",
                provider,
                event = event.name(),
                generation = fields.generation,
                username = fields.username,
                reason = fields.reason,
                pool = fields.pool,
                kind = fields.kind,
                ttl = fields.ttl,
                granted = fields.granted,
                last = fields.last,
                retry_in = fields.retry_in,
                proven = fields.proven,
                rejected = fields.rejected,
                remaining = fields.remaining,
                took = fields.took,
                forced = fields.forced,
                left = fields.left,
                queued = fields.queued,
                orderly = fields.orderly,
                "{event}"
            );
        }};
    }
    match event.severity() {
        Severity::Debug => at!(debug),
        Severity::Info => at!(info),
        Severity::Warn => at!(warn),
        Severity::Error => at!(error),
    }
}
