//! What is told in the `metrics` facade, behind the feature `metrics`.
//!
//! Install a recorder (an exporter) before the rotator starts: that is when metrics are described
//! and their counters begin at zero. A recorder that comes later gets what happens from then on.
//! Gauges follow each step of the rotator, at least every 5 s. Nothing is recorded where
//! connections are handed out.
//!
//! ```
//! for metric in leasehold::metrics::ALL {
//!     println!("{} ({}): {}", metric.name, metric.labels.join(", "), metric.help);
//! }
//! ```

mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::clock::{Clock, MAX_SLEEP, Time};
use crate::event::{Event, Reason};
use crate::health::{HealthState, PoolHealth};
use crate::json::in_seconds;
use crate::provider::{CredentialProvider, Shared};
use crate::source::ErrorKind;
use names::{OUTCOME, POOL, PROVIDER, REASON, STATE};

pub use names::ALL;

/// One metric: its name and labels are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, with the unit in it.
    pub name: &'static str,
    /// What kind.
    pub kind: Kind,
    /// The names of its labels, all of them always there.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// What kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Only rises; begins at zero with each process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Metric {
    /// For the other crates of this workspace.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        name: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind, labels, help }
    }

    /// Tells the recorder what it is.
    #[doc(hidden)]
    pub fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.help),
        }
    }
}

/// A wall-clock time as Prometheus has them; what has no end is +Inf, so that a comparison with
/// `time()` is right for it too.
#[doc(hidden)]
#[must_use]
pub fn timestamp(clock: &Clock, at: Option<Time>) -> f64 {
    let Some(at) = at.and_then(|at| clock.wall_at(at)) else { return f64::INFINITY };
    in_seconds(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Bounds for the histograms of this crate, in seconds: a swap takes milliseconds, a drain up to its
/// roll and grace. For exporters that want them said, such as Prometheus'.
pub const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

const STATES: [HealthState; 4] =
    [HealthState::Ready, HealthState::Degraded, HealthState::Expired, HealthState::Stopped];

const IDLE: &str = "idle";
const IN_USE: &str = "in_use";

/// What a proof can fail with.
const UNPROVEN: [&str; 2] = ["rejected", ErrorKind::Unreachable.as_str()];

/// Turns one rotator's events and state into metrics. Looks the recorder up each time: one that is
/// installed late is found too.
#[derive(Debug)]
pub(crate) struct Meter {
    provider: Arc<str>,
    /// When the rotation under way began.
    rotating: Mutex<Option<Time>>,
    /// What was told of each pool last.
    pools: Mutex<BTreeMap<String, (usize, usize)>>,
    /// Something panicked in here.
    broken: AtomicBool,
}

impl Meter {
    pub(crate) fn new(provider: Arc<str>) -> Self {
        let meter = Self {
            provider,
            rotating: Mutex::default(),
            pools: Mutex::default(),
            broken: AtomicBool::new(false),
        };
        meter.guarded(|| meter.begin());
        meter
    }

    /// A recorder and the pools' `counts()` are other people's code: metrics are not worth the
    /// rotator's task. After a panic there are none any more.
    fn guarded(&self, record: impl FnOnce()) {
        if self.broken.load(Ordering::Relaxed) || catch_unwind(AssertUnwindSafe(record)).is_ok() {
            return;
        }
        self.broken.store(true, Ordering::Relaxed);
        let provider = &*self.provider;
        let message = "metrics panicked (the recorder, or a pool's counts): there are no more";
        tracing::error!(target: "leasehold", provider, "{message}");
    }

    fn begin(&self) {
        ALL.iter().for_each(Metric::describe);
        // So that the first one counts: a series that begins at 1 has no increase.
        for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::Start) {
            self.count(names::ROTATIONS, Some((REASON, reason.as_str())), 0);
            self.count(names::DELAYED, Some((REASON, reason.as_str())), 0);
        }
        for metric in [names::ISSUES, names::RENEWALS, names::REVOCATIONS] {
            self.count(metric, Some((OUTCOME, "ok")), 0);
            for kind in ErrorKind::ALL {
                self.count(metric, Some((OUTCOME, kind.as_str())), 0);
            }
        }
        self.count(names::RENEWALS, Some((OUTCOME, "last")), 0);
        for outcome in ["ended", "queued"] {
            self.count(names::REVOCATIONS, Some((OUTCOME, outcome)), 0);
        }
        for reason in [Reason::LoginRejected, Reason::SessionRevoked, Reason::LeaseLost] {
            self.count(names::LOGINS_LOST, Some((REASON, reason.as_str())), 0);
        }
        for metric in [names::DRAIN_FORCED, names::DRAIN_LEFT, names::WARNINGS] {
            self.count(metric, None, 0);
        }
    }

    fn count(&self, metric: Metric, label: Option<(&'static str, &'static str)>, by: u64) {
        let provider = self.provider.clone();
        match label {
            Some((label, value)) => {
                metrics::counter!(metric.name, PROVIDER => provider, label => value).increment(by);
            }
            None => metrics::counter!(metric.name, PROVIDER => provider).increment(by),
        }
    }

    fn set(&self, metric: Metric, value: f64) {
        metrics::gauge!(metric.name, PROVIDER => self.provider.clone()).set(value);
    }

    /// What happened, at `now`.
    pub(crate) fn event(&self, event: &Event, now: Time) {
        self.guarded(|| self.happened(event, now));
    }

    fn happened(&self, event: &Event, now: Time) {
        let outcome = |metric, outcome| self.count(metric, Some((OUTCOME, outcome)), 1);
        match event {
            Event::Issued { .. } => outcome(names::ISSUES, "ok"),
            Event::IssueFailed { error, .. } => outcome(names::ISSUES, error.kind().as_str()),
            Event::Renewed { last: false, .. } => outcome(names::RENEWALS, "ok"),
            Event::Renewed { last: true, .. } => outcome(names::RENEWALS, "last"),
            Event::RenewFailed { error, .. } => outcome(names::RENEWALS, error.kind().as_str()),
            Event::Revoked { queued: false, .. } => outcome(names::REVOCATIONS, "ok"),
            Event::Revoked { queued: true, .. } => outcome(names::REVOCATIONS, "queued"),
            Event::LeaseEnded { .. } => outcome(names::REVOCATIONS, "ended"),
            Event::RevokeFailed { error, .. } => {
                outcome(names::REVOCATIONS, error.kind().as_str());
            }
            Event::Rotating { reason } => {
                *lock(&self.rotating) = Some(now);
                if *reason == Reason::LeaseLost {
                    self.lost(*reason);
                }
            }
            Event::RotationDelayed { reason, .. } => {
                self.count(names::DELAYED, Some((REASON, reason.as_str())), 1);
            }
            Event::Swapped { reason, .. } => self.swapped(*reason, now),
            Event::ProofFailed { pool, rejected, .. } => {
                let [refused, unreachable] = UNPROVEN;
                self.unproven(pool, if *rejected { refused } else { unreachable }, 1);
            }
            Event::PoolAttached { pool } => {
                UNPROVEN.iter().for_each(|outcome| self.unproven(pool, outcome, 0));
            }
            Event::LoginRejected { .. } => self.lost(Reason::LoginRejected),
            Event::SessionRevoked { .. } => self.lost(Reason::SessionRevoked),
            Event::Drained { took, forced, left, .. } => {
                let provider = self.provider.clone();
                metrics::histogram!(names::DRAIN_SECONDS.name, PROVIDER => provider).record(*took);
                self.count(names::DRAIN_FORCED, None, forced.len() as u64);
                self.count(names::DRAIN_LEFT, None, *left as u64);
            }
            Event::Warning { .. } => self.count(names::WARNINGS, None, 1),
            // In the gauges, or of no use as a number.
            Event::Unchanged { .. } => *lock(&self.rotating) = None,
            Event::DialsSettled { .. }
            | Event::RollEnded { .. }
            | Event::Draining { .. }
            | Event::Expired { .. }
            | Event::PoolDetached { .. }
            | Event::Stopped { .. } => {}
        }
    }

    fn lost(&self, reason: Reason) {
        self.count(names::LOGINS_LOST, Some((REASON, reason.as_str())), 1);
    }

    fn unproven(&self, pool: &str, outcome: &'static str, by: u64) {
        metrics::counter!(
            names::PROOFS_FAILED.name,
            PROVIDER => self.provider.clone(), POOL => pool.to_owned(), OUTCOME => outcome
        )
        .increment(by);
    }

    fn swapped(&self, reason: Reason, now: Time) {
        if reason == Reason::Start {
            return;
        }
        self.count(names::ROTATIONS, Some((REASON, reason.as_str())), 1);
        if let Some(begun) = lock(&self.rotating).take() {
            let provider = self.provider.clone();
            metrics::histogram!(names::ROTATION_SECONDS.name, PROVIDER => provider)
                .record(now - begun);
        }
    }

    /// When gauges have to be set again though nothing happened: connections come and go. Not in
    /// the simulation, where a world in which nothing is due any more has come to its end.
    pub(crate) fn next(now: Time) -> Option<Time> {
        (!cfg!(feature = "simulation")).then(|| now + MAX_SLEEP)
    }

    /// How things stand, and how many credentials there are.
    pub(crate) fn state(&self, shared: &Arc<Shared>, held: usize) {
        self.guarded(|| self.stands(shared, held));
    }

    /// After an orderly end nothing is wrong: `left` credentials end by their TTL.
    pub(crate) fn shut_down(&self, left: usize) {
        self.guarded(|| {
            self.in_state(None);
            self.set(names::LEASE_EXPIRY, f64::INFINITY);
            self.set(names::NEXT_ROTATION, f64::INFINITY);
            self.set(names::SOURCE_UP, 1.0);
            self.set(names::CREDENTIALS, left as f64);
            self.set(names::DRAINING, 0.0);
            self.pools(&[]);
        });
    }

    fn in_state(&self, current: Option<HealthState>) {
        for state in STATES {
            let is = f64::from(u8::from(current == Some(state)));
            let provider = self.provider.clone();
            metrics::gauge!(names::STATES.name, PROVIDER => provider, STATE => state.as_str())
                .set(is);
        }
    }

    fn stands(&self, shared: &Arc<Shared>, held: usize) {
        let health = CredentialProvider::new(shared.clone()).health();
        let (end, rotate_at) = {
            let status = shared.status.borrow();
            (status.end, status.rotate_at)
        };
        self.in_state(Some(health.state));
        self.set(names::GENERATION, health.generation as f64);
        self.set(names::LEASE_EXPIRY, timestamp(&shared.clock, end));
        self.set(names::NEXT_ROTATION, timestamp(&shared.clock, rotate_at));
        self.set(names::SOURCE_UP, f64::from(u8::from(health.source_ok)));
        self.set(names::CREDENTIALS, held as f64);
        self.set(names::DRAINING, health.draining.len() as f64);
        self.pools(&health.pools);
    }

    fn pools(&self, pools: &[PoolHealth]) {
        let mut told = lock(&self.pools);
        // One that is gone has none; pools of one name are one.
        told.values_mut().for_each(|counts| *counts = (0, 0));
        for pool in pools {
            let (idle, in_use) = told.entry(pool.name.clone()).or_default();
            *idle += pool.counts.idle;
            *in_use += pool.counts.size.saturating_sub(pool.counts.idle);
        }
        for (pool, (idle, in_use)) in &*told {
            for (state, count) in [(IDLE, *idle), (IN_USE, *in_use)] {
                metrics::gauge!(
                    names::POOL_CONNECTIONS.name,
                    PROVIDER => self.provider.clone(), POOL => pool.clone(), STATE => state
                )
                .set(count as f64);
            }
        }
        told.retain(|name, _| pools.iter().any(|pool| pool.name == *name));
    }
}

/// A recorder may panic in between; what is in there is right all the same.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
