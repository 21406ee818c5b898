//! What is told in the `metrics` facade, behind the feature `metrics`. See
//! [`leasehold::metrics`], which says when a recorder has to be there.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge, histogram};
use leasehold::clock::{Clock, Time};
use leasehold::metrics::{Kind, Metric, timestamp};

use crate::classify::Op;

/// The session's name, see [`VaultConfig::name`](crate::VaultConfig::name).
const SESSION: &str = "session";
const OPERATION: &str = "operation";
/// `ok`, or why not.
const OUTCOME: &str = "outcome";

const REQUESTS: Metric = Metric::new(
    "leasehold_vault_requests_total",
    Kind::Counter,
    &[SESSION, OPERATION, OUTCOME],
    "requests sent: ok (answered, a health check by any status), cancelled, or the kind of the \
     error",
);
const REQUEST_SECONDS: Metric = Metric::new(
    "leasehold_vault_request_duration_seconds",
    Kind::Histogram,
    &[SESSION, OPERATION],
    "from a request to its whole answer, its failure or its cancellation",
);
const TOKEN_EXPIRY: Metric = Metric::new(
    "leasehold_vault_token_expiry_timestamp_seconds",
    Kind::Gauge,
    &[SESSION],
    "unix time at which the session's token ends; +Inf: no end, or the session is closed",
);
const TOKEN_LOST: Metric = Metric::new(
    "leasehold_vault_token_lost",
    Kind::Gauge,
    &[SESSION],
    "1 if the token is dead, or about to end with the next login refused; a given token's end to \
     come is in its expiry alone",
);
const TOKENS_RETIRED: Metric = Metric::new(
    "leasehold_vault_tokens_retired",
    Kind::Gauge,
    &[SESSION],
    "older tokens that are kept until the leases made with them are gone",
);

/// All metrics of this crate.
pub const ALL: &[Metric] = &[REQUESTS, REQUEST_SECONDS, TOKEN_EXPIRY, TOKEN_LOST, TOKENS_RETIRED];

/// Tells what one session does.
pub(crate) struct Meter {
    session: Arc<str>,
}

impl Meter {
    pub(crate) fn new(session: Arc<str>) -> Self {
        ALL.iter().for_each(Metric::describe);
        let meter = Self { session };
        // For all kinds of errors that would be many series for nothing: those that fail begin at
        // the first failure.
        for op in Op::ALL {
            meter.count(*op, "ok", 0);
        }
        meter
    }

    fn count(&self, op: Op, outcome: &'static str, by: u64) {
        let session = self.session.clone();
        counter!(REQUESTS.name, SESSION => session, OPERATION => op.name(), OUTCOME => outcome)
            .increment(by);
    }

    pub(crate) fn request(&self, op: Op, outcome: &'static str, took: Duration) {
        self.count(op, outcome, 1);
        let session = self.session.clone();
        histogram!(REQUEST_SECONDS.name, SESSION => session, OPERATION => op.name()).record(took);
    }

    pub(crate) fn token(&self, clock: &Clock, ends: Option<Time>, lost: bool, retired: usize) {
        let session = || self.session.clone();
        gauge!(TOKEN_EXPIRY.name, SESSION => session()).set(timestamp(clock, ends));
        gauge!(TOKEN_LOST.name, SESSION => session()).set(f64::from(u8::from(lost)));
        gauge!(TOKENS_RETIRED.name, SESSION => session()).set(retired as f64);
    }
}
