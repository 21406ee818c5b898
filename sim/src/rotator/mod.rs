//! The rotator layer: the real [`Rotator`](leasehold::Rotator), with its driver, supervisor,
//! provider and events, on a single-threaded runtime whose time is virtual, between models of Vault
//! and of pools. One seed is one history, and the same one each time.
//!
//! The machine layer is a thousand times as quick and looks at decisions; this one looks at what
//! only the driver can get wrong: the order of installing and publishing, tasks that outlive their
//! rotator, mints that are cut off, readers that are not told, panics, cancelled callers.

mod mutate;
mod pool;
mod source;
mod story;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

pub use mutate::{Found, find};

/// The rotator's default.
const REFRESH_WAIT: Duration = Duration::from_secs(5);

/// What is looked at in each history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// Every attached pool has the current generation before anybody can read it, dials with no
    /// other, and gets generations in order.
    I1NewMeansCurrent,
    /// A pool is built and attached, and a swap carried out, with the swap lock held.
    I1AttachedUnderTheSwapLock,
    /// Superseded connections are handed out only while their role exists, unless somebody ended
    /// it before its time.
    I2HandedOutIsAlive,
    /// A lease is revoked when no attached pool has a connection of it, or its deadline was dealt
    /// with; never that of the current generation.
    I4DrainedThenRevoked,
    /// While nothing goes wrong, the current login is accepted at any moment.
    I6CurrentIsAccepted,
    /// Once the weather is good again, a working login is current within a bounded time, and
    /// health says so.
    I6RecoversByItself,
    /// A hook that met a refused login is held no longer than the refresh wait.
    I6HooksWaitNoLonger,
    /// At most two requests to mint are in flight.
    I7OneFetch,
    /// A request to mint is not dropped before its answer.
    I7MintsRunToTheirEnd,
    /// Every credential that was handed over is in use, or its lease has ended or is reported.
    I7LateCredentialsAreRevoked,
    /// After a shutdown the leases that are left are in its report, and where nothing went wrong
    /// none is left.
    I9ReportIsExact,
    /// After the end of the rotator no task of it is left.
    I9NoTaskIsLeft,
    /// Start and shutdown return when they say that they will.
    I9EndsInTime,
    /// Health and every subscriber know of the end at once, and subscribers see generations rise,
    /// up to the last one.
    I11NeverSilent,
    /// One panic of an observer ends nothing.
    I11SurvivesAPanic,
    /// Whoever hears of something finds it in health.
    I11HealthIsFresh,
    /// The history comes to its end: nothing waits for ever.
    I11NothingHangs,
    /// A lease that is said to be alive is.
    I12AliveIsAlive,
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// Virtual time since the history began.
    pub at: Duration,
    /// What was seen.
    pub what: String,
}

/// What came of a history.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Virtual time.
    pub time: Duration,
    /// Events, requests, and what people did.
    pub steps: u64,
    /// Swaps but the first.
    pub rotations: u64,
    /// By kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Of all that happened and when: the same for the same seed.
    pub hash: u64,
    /// What was broken, first things first.
    pub violations: Vec<Violation>,
    /// The last lines, if it was traced.
    pub trace: Vec<String>,
}

/// Runs the history of `seed`.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    story::run(seed, false)
}

/// The same, with its last lines kept.
#[must_use]
pub fn run_traced(seed: u64) -> Outcome {
    story::run(seed, true)
}
