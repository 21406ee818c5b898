//! Every metric of this crate: names and labels are here and nowhere else.

use super::{Kind, Metric};

/// The rotator's name, see [`RotatorBuilder::name`](crate::RotatorBuilder::name).
pub(crate) const PROVIDER: &str = "provider";
/// A [`HealthState`](crate::HealthState), or what a connection does.
pub(crate) const STATE: &str = "state";
/// A [`Reason`](crate::Reason).
pub(crate) const REASON: &str = "reason";
/// `ok`, or why not.
pub(crate) const OUTCOME: &str = "outcome";
/// An attached pool's name.
pub(crate) const POOL: &str = "pool";

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:ident),*], $help:literal;)*) => {
        $(pub(crate) const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All metrics of this crate.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    STATES = "leasehold_state", Gauge, [PROVIDER, STATE],
        "1 for the state that health is in (ready, degraded, expired, stopped), 0 for the others; \
         all 0 after an orderly shutdown";
    GENERATION = "leasehold_generation", Gauge, [PROVIDER],
        "number of the current generation";
    LEASE_EXPIRY = "leasehold_lease_expiry_timestamp_seconds", Gauge, [PROVIDER],
        "unix time at which the current lease ends, its token's end included; +Inf: no end";
    NEXT_ROTATION = "leasehold_next_rotation_timestamp_seconds", Gauge, [PROVIDER],
        "unix time of the next planned rotation, or of the one that is due; +Inf: none is planned";
    SOURCE_UP = "leasehold_source_up", Gauge, [PROVIDER],
        "1 if the last issue or renewal was answered, and not by \"sealed\"";
    CREDENTIALS = "leasehold_credentials", Gauge, [PROVIDER],
        "credentials that exist for this rotator: candidate, current, draining, to be revoked; \
         after a shutdown: those left to their TTL";
    DRAINING = "leasehold_draining_generations", Gauge, [PROVIDER],
        "superseded generations that are being drained";
    POOL_CONNECTIONS = "leasehold_pool_connections", Gauge, [PROVIDER, POOL, STATE],
        "connections of an attached pool: idle, or in_use (borrowed or dialling)";
    ROTATIONS = "leasehold_rotations_total", Counter, [PROVIDER, REASON],
        "swaps to a new generation, the first credential not counted";
    DELAYED = "leasehold_rotations_delayed_total", Counter, [PROVIDER, REASON],
        "rotations that the mint limiter made wait";
    ROTATION_SECONDS = "leasehold_rotation_duration_seconds", Histogram, [PROVIDER],
        "from the beginning of a rotation to its swap, waits and retries included";
    ISSUES = "leasehold_issues_total", Counter, [PROVIDER, OUTCOME],
        "credentials issued: ok, or the kind of the error; answers that changed nothing are not \
         counted";
    RENEWALS = "leasehold_renewals_total", Counter, [PROVIDER, OUTCOME],
        "renewals: ok, last (less was granted than asked for), or the kind of the error";
    REVOCATIONS = "leasehold_revocations_total", Counter, [PROVIDER, OUTCOME],
        "ends of leases: ok, queued (left to the server's own retries), ended (by themselves), or \
         the kind of the error of one try";
    PROOFS_FAILED = "leasehold_proofs_failed_total", Counter, [PROVIDER, POOL, OUTCOME],
        "candidates that were not proven on a pool: rejected, or unreachable";
    LOGINS_LOST = "leasehold_logins_lost_total", Counter, [PROVIDER, REASON],
        "logins found dead before their end: login_rejected, session_revoked, lease_lost";
    DRAIN_SECONDS = "leasehold_drain_duration_seconds", Histogram, [PROVIDER],
        "from a swap to the end of the drain of what it superseded";
    DRAIN_FORCED = "leasehold_drain_forced_connections_total", Counter, [PROVIDER],
        "connections that were ended under their borrower at a drain's deadline";
    DRAIN_LEFT = "leasehold_drain_left_connections_total", Counter, [PROVIDER],
        "connections that could not be ended at a drain's deadline";
    WARNINGS = "leasehold_warnings_total", Counter, [PROVIDER],
        "things that an operator should know, told in the log";
}
