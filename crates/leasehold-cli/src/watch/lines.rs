//! One line per event, for pipes and logs.

use leasehold::{Event, Health, Severity, ShutdownReport};
use serde_json::json;

use super::{Now, Queries};
use crate::terminal::{BAD, CAREFUL, FAINT, out};

pub(super) struct Lines {
    pub(super) json: bool,
}

impl Lines {
    pub(super) fn event(&self, event: &Event, now: &Now<'_>) {
        if self.json {
            let line = json!({
                "seconds": now.since_start.as_secs_f64(),
                "event": name(event),
                "severity": severity(event),
                "text": event.to_string(),
                "health": now.health,
            });
            return out(&line.to_string());
        }
        let style = match event.severity() {
            Severity::Debug => FAINT,
            Severity::Warn => CAREFUL,
            Severity::Error => BAD,
            _ => anstyle::Style::new(),
        };
        out(&format!("{:>9.1}s  {style}{event}{style:#}", now.since_start.as_secs_f64()));
    }

    /// The last line.
    pub(super) fn summary(
        &self,
        health: &Health,
        queries: Option<&Queries>,
        report: Option<&ShutdownReport>,
    ) {
        let left = match report {
            Some(report) => report.to_string(),
            None => "the shutdown was given up: leases end by their TTL".to_owned(),
        };
        if self.json {
            let line = json!({
                "event": "end",
                "rotations": health.rotations,
                "renewals": health.renewals,
                "queries": queries.map(|q| q.ok + q.failed),
                "failed_queries": queries.map(|q| q.failed),
                "clean": report.is_some_and(ShutdownReport::is_clean),
                "text": left,
            });
            return out(&line.to_string());
        }
        let mut line = format!("{} rotations, {} renewals", health.rotations, health.renewals);
        if let Some(q) = queries {
            line += &format!(", {} queries, {} failed", q.ok + q.failed, q.failed);
            if let Some(last) = &q.last_failure {
                line += &format!(" (last: {last})");
            }
        }
        out(&format!("{line}; {left}"));
    }
}

fn severity(event: &Event) -> &'static str {
    match event.severity() {
        Severity::Debug => "debug",
        Severity::Info => "info",
        Severity::Warn => "warn",
        _ => "error",
    }
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Issued { .. } => "issued",
        Event::IssueFailed { .. } => "issue_failed",
        Event::Renewed { .. } => "renewed",
        Event::RenewFailed { .. } => "renew_failed",
        Event::Rotating { .. } => "rotating",
        Event::RotationDelayed { .. } => "rotation_delayed",
        Event::ProofFailed { .. } => "proof_failed",
        Event::Swapped { .. } => "swapped",
        Event::Unchanged { .. } => "unchanged",
        Event::DialsSettled { .. } => "dials_settled",
        Event::RollEnded { .. } => "roll_ended",
        Event::Draining { .. } => "draining",
        Event::Drained { .. } => "drained",
        Event::Revoked { .. } => "revoked",
        Event::RevokeFailed { .. } => "revoke_failed",
        Event::LeaseEnded { .. } => "lease_ended",
        Event::LoginRejected { .. } => "login_rejected",
        Event::SessionRevoked { .. } => "session_revoked",
        Event::Expired { .. } => "expired",
        Event::PoolAttached { .. } => "pool_attached",
        Event::PoolDetached { .. } => "pool_detached",
        Event::Warning { .. } => "warning",
        Event::Stopped { .. } => "stopped",
        // Of a later version of the library.
        _ => "other",
    }
}
