//! Everything that the parts of one history share: the servers, the clocks, chance, and the record
//! of what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use leasehold::clock::{Clock, Time};
use leasehold::{CredentialProvider, Event};

use super::pool::ModelPool;
use super::{Invariant, Violation};
use crate::vault::{LeaseId, LoginId, Vault};

/// Only the first violations of a history are told: the rest follow from them.
const ENOUGH: usize = 3;
/// The last lines that are kept for a violation's message.
const KEPT_LINES: usize = 400;

/// How rough a history is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    /// Nothing goes wrong but that things take time.
    pub(crate) gentle: bool,
    /// A request or its answer is lost, in per mille.
    pub(crate) lost: u32,
    /// An answer takes seconds, in per mille.
    pub(crate) slow: u32,
    /// A source or a pool's hook panics, in per mille.
    pub(crate) panics: u32,
    /// An observer panics at an event, in per 100,000.
    pub(crate) observer_panics: u32,
}

pub(crate) struct World {
    begun: tokio::time::Instant,
    clock: OnceLock<Clock>,
    provider: OnceLock<CredentialProvider>,
    pub(crate) temper: Temper,
    observer: Dice,
    state: Mutex<State>,
}

pub(crate) struct State {
    rng: fastrand::Rng,
    pub(crate) vault: Vault,
    /// Time that passed while the machine was suspended: the monotonic clock did not count it.
    suspended: Duration,
    /// What people did to the wall clock, in milliseconds.
    wall_set: i64,
    pub(crate) pools: Vec<Arc<ModelPool>>,
    /// When each was sent.
    pub(crate) mints_in_flight: Vec<Time>,
    pub(crate) minted: BTreeMap<LoginId, Minted>,
    pub(crate) by_number: BTreeMap<u64, LoginId>,
    /// Postgres can't be reached by its clients.
    pub(crate) postgres_unreachable: bool,
    /// New roles are seen by clients only after so long: they are on a replica.
    pub(crate) replica_lag: Duration,
    /// Something happened that may end a login before its time.
    pub(crate) harmed: bool,
    /// The client's clock runs ahead of the server's: it takes live leases for ended.
    pub(crate) clock_ahead: bool,
    pub(crate) panics: u32,
    /// An answer to a revocation was a failure, or was lost.
    pub(crate) failed_revocations: BTreeSet<LeaseId>,
    /// A shutdown was asked for.
    pub(crate) stopping: bool,
    pub(crate) stopped: Option<Stop>,
    /// The runtime ends.
    pub(crate) over: bool,
    /// Subscribers that have learned of it.
    pub(crate) told: u32,
    /// Nothing new goes wrong: recovery is waited for.
    pub(crate) calm: bool,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) steps: u64,
    pub(crate) swaps: u64,
    pub(crate) renewals: u64,
    violations: Vec<Violation>,
    hash: u64,
    lines: Option<std::collections::VecDeque<String>>,
}

/// A login that the source made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Minted {
    pub(crate) lease: LeaseId,
    pub(crate) at: Time,
    /// The source has handed it over.
    pub(crate) delivered: bool,
    /// Its answer never comes.
    pub(crate) lost: bool,
}

/// The end of the background task, as events told it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) at: tokio::time::Instant,
}

impl World {
    pub(crate) fn new(
        mut rng: fastrand::Rng,
        vault: Vault,
        temper: Temper,
        traced: bool,
    ) -> Arc<Self> {
        let world = Arc::new(Self {
            begun: tokio::time::Instant::now(),
            clock: OnceLock::new(),
            provider: OnceLock::new(),
            temper,
            observer: Dice(Mutex::new(rng.fork())),
            state: Mutex::new(State {
                rng,
                vault,
                suspended: Duration::ZERO,
                wall_set: 0,
                pools: Vec::new(),
                mints_in_flight: Vec::new(),
                minted: BTreeMap::new(),
                by_number: BTreeMap::new(),
                postgres_unreachable: false,
                replica_lag: Duration::ZERO,
                harmed: false,
                clock_ahead: false,
                panics: 0,
                failed_revocations: BTreeSet::new(),
                stopping: false,
                stopped: None,
                over: false,
                told: 0,
                calm: false,
                faults: BTreeMap::new(),
                steps: 0,
                swaps: 0,
                renewals: 0,
                violations: Vec::new(),
                hash: 0,
                lines: traced.then(Default::default),
            }),
        });
        let read = Arc::downgrade(&world);
        let clock = Clock::with_wall(move || match read.upgrade() {
            Some(world) => world.wall(),
            // Only what is left of a history that is over asks.
            None => SystemTime::UNIX_EPOCH,
        });
        let _ = world.clock.set(clock);
        world
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A simulated panic never holds it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rotator's clock.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.get().expect("set when the world is made").clone()
    }

    pub(crate) fn provider(&self) -> Option<&CredentialProvider> {
        self.provider.get()
    }

    pub(crate) fn set_provider(&self, provider: CredentialProvider) {
        let _ = self.provider.set(provider);
    }

    /// The servers' clock, which neither stands still nor is set.
    pub(crate) fn server_time(&self) -> Time {
        let suspended = self.lock().suspended;
        Time::from_start(self.begun.elapsed() + suspended)
    }

    fn wall(&self) -> SystemTime {
        let (suspended, set) = {
            let state = self.lock();
            (state.suspended, state.wall_set)
        };
        // Far enough from the epoch that no step back reaches it.
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let shown = base + self.begun.elapsed() + suspended;
        let by = Duration::from_millis(set.unsigned_abs());
        if set < 0 { shown - by } else { shown + by }
    }

    pub(crate) fn suspend(&self, by: Duration) {
        self.with(|state| state.suspended += by);
        self.fault("suspended");
    }

    pub(crate) fn set_wall(&self, by_ms: i64) {
        self.with(|state| {
            state.wall_set += by_ms;
            state.clock_ahead |= by_ms > 0;
        });
        self.fault(if by_ms > 0 { "clock set forward" } else { "clock set back" });
    }

    /// The vault, with all that was due by now done.
    pub(crate) fn vault<T>(&self, f: impl FnOnce(&mut Vault, Time) -> T) -> T {
        let now = self.server_time();
        self.with(|state| {
            state.vault.advance(now);
            f(&mut state.vault, now)
        })
    }

    /// The same with all else that is known.
    pub(crate) fn now_with<T>(&self, f: impl FnOnce(&mut State, Time) -> T) -> T {
        let now = self.server_time();
        self.with(|state| {
            state.vault.advance(now);
            f(state, now)
        })
    }

    // ---- chance

    /// Dice for somebody who acts by himself.
    pub(crate) fn dice(&self) -> Dice {
        Dice(Mutex::new(self.with(|state| state.rng.fork())))
    }

    /// Something may go wrong; not while recovery is waited for.
    fn mishaps(&self) -> bool {
        !self.with(|state| state.calm)
    }

    // ---- the record

    /// Somebody did something.
    pub(crate) fn step(&self, what: impl Display) {
        let at = self.begun.elapsed();
        self.with(|state| {
            state.steps += 1;
            let line = what.to_string();
            // A sum, as the order within an instant may differ.
            let mut hasher = DefaultHasher::new();
            (at.as_millis(), &line).hash(&mut hasher);
            state.hash = state.hash.wrapping_add(hasher.finish());
            if let Some(lines) = &mut state.lines {
                if lines.len() == KEPT_LINES {
                    lines.pop_front();
                }
                lines.push_back(format!("{at:.3?} {line}"));
            }
        });
    }

    /// Something went wrong, as it was meant to.
    pub(crate) fn fault(&self, kind: &'static str) {
        self.step(format_args!("fault: {kind}"));
        self.with(|state| {
            *state.faults.entry(kind).or_default() += 1;
            state.harmed = true;
        });
    }

    pub(crate) fn violate(&self, invariant: Invariant, what: impl Display) {
        self.step(format_args!("VIOLATED {invariant:?}: {what}"));
        let at = self.begun.elapsed();
        self.with(|state| {
            if state.violations.len() < ENOUGH {
                state.violations.push(Violation { invariant, at, what: what.to_string() });
            }
        });
    }

    pub(crate) fn check(&self, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violate(invariant, what());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.lock().hash
    }

    pub(crate) fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.lock().violations)
    }

    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.lock().lines.take().map(Vec::from).unwrap_or_default()
    }

    // ---- what is known of logins

    /// Postgres lets this login in now, if it can be asked.
    pub(crate) fn lets_in(&self, login: LoginId) -> bool {
        self.vault(|vault, now| vault.login_works(now, login))
    }

    /// The role is there, so that its sessions are no zombies.
    pub(crate) fn role_is_there(&self, login: LoginId) -> bool {
        self.vault(|vault, _| vault.pg_role(login).is_some())
    }

    /// A client's connect, when it reaches Postgres.
    pub(crate) fn dial(&self, login: LoginId) -> Dial {
        let (unreachable, unseen) = self.with(|state| {
            let made = state.minted.get(&login).map(|minted| minted.at);
            (state.postgres_unreachable, made.map(|at| at + state.replica_lag))
        });
        let now = self.server_time();
        if unreachable {
            Dial::Unreachable
        } else if unseen.is_some_and(|until| now < until) || !self.lets_in(login) {
            Dial::Refused
        } else {
            Dial::Open
        }
    }

    // ---- what the rotator tells

    /// Looks at an event as it is told: whoever hears of something finds it in health.
    pub(crate) fn observe(&self, event: &Event) {
        self.step(event);
        let told = self.with(|state| {
            match event {
                Event::Swapped { generation, username, .. } => {
                    state.swaps += 1;
                    state.by_number.insert(*generation, login_of(username));
                }
                Event::Renewed { .. } => state.renewals += 1,
                Event::Stopped { .. } => {
                    state.stopped = Some(Stop { at: tokio::time::Instant::now() });
                }
                _ => {}
            }
            (state.swaps, state.renewals)
        });
        let Some(provider) = self.provider() else {
            return;
        };
        let health = provider.health();
        match event {
            Event::Swapped { generation, .. } => {
                self.check(Invariant::I11HealthIsFresh, health.rotations + 1 >= told.0, || {
                    format!("{} swaps were told, health knows {}", told.0, health.rotations + 1)
                });
                let current = provider.current().number();
                self.check(Invariant::I1NewMeansCurrent, current >= *generation, || {
                    format!("generation {generation} is told, {current} is current")
                });
            }
            Event::Renewed { .. } => {
                self.check(Invariant::I11HealthIsFresh, health.renewals >= told.1, || {
                    format!("{} renewals were told, health knows {}", told.1, health.renewals)
                });
            }
            Event::Stopped { .. } => {
                self.check(Invariant::I11NeverSilent, health.stopped.is_some(), || {
                    "the end is told, and is not in health".to_owned()
                });
            }
            _ => {}
        }
        let current = provider.current().number();
        for pool in self.with(|state| state.pools.clone()) {
            let installed = pool.installed();
            let open = !pool.was_closed() && health.stopped.is_none();
            self.check(Invariant::I1NewMeansCurrent, !open || installed >= current, || {
                format!("{} has generation {installed}, {current} is current", pool.title())
            });
        }
        if self.observer.mishap(self, self.temper.observer_panics, 100_000) {
            self.fault("observer panicked");
            self.with(|state| state.panics += 1);
            // Without the hook that prints it.
            std::panic::resume_unwind(Box::new("a simulated panic"));
        }
    }
}

/// Chance of one's own. In which order tasks run that are woken at the same instant is not ours to
/// decide (tokio's `watch` draws it), so that no two of them may draw from the same dice.
#[derive(Debug)]
pub(crate) struct Dice(Mutex<fastrand::Rng>);

impl Dice {
    fn with<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn draw(&self, range: impl std::ops::RangeBounds<u64>) -> u64 {
        self.with(|rng| rng.u64(range))
    }

    pub(crate) fn chance(&self, per: u32, of: u32) -> bool {
        per > 0 && self.with(|rng| rng.u32(0..of)) < per
    }

    /// As [`chance`](Self::chance), for what is to go wrong.
    pub(crate) fn mishap(&self, world: &World, per: u32, of: u32) -> bool {
        self.chance(per, of) && world.mishaps()
    }

    /// Between `from` and `to`, each order of magnitude as likely as the others.
    pub(crate) fn span(&self, from: Duration, to: Duration) -> Duration {
        let (from, to) = (from.as_secs_f64().ln(), to.as_secs_f64().ln());
        let drawn = self.with(fastrand::Rng::f64);
        Duration::from_secs_f64((from + (to - from) * drawn).exp())
    }

    /// A latency as it is on a good day.
    pub(crate) fn latency(&self) -> Duration {
        self.span(Duration::from_millis(1), Duration::from_millis(60))
    }
}

/// What Postgres says to a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    Open,
    Refused,
    Unreachable,
}

/// User names of the model are numbers.
pub(crate) fn login_of(username: &str) -> LoginId {
    let number = username.strip_prefix("v-").and_then(|n| n.parse().ok());
    LoginId(number.expect("the model source names logins v-NUMBER"))
}
