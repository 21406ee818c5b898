//! One process with its lease machine, and everything around it, on virtual time.
//!
//! There are two clocks: `real` is the time of the servers, and the client's, on which the machine
//! lives, is what [`Fold`] makes of a monotonic clock that stands still in a suspension and a wall
//! clock that jumps. Time goes from event to event; nothing is polled.

mod driver;
mod requests;
mod storm;
mod traffic;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leasehold::Remains;
use leasehold::clock::{MAX_SLEEP, Time};
use leasehold::simulation::{Fold, Input, LoginId, Machine, Minted, Policy, Proofs, Terms};

use crate::invariants::{self, Invariant};
use crate::plan::{Fate, Plan, PoolPlan, Source};
use crate::pool::Pool;
use crate::postgres::{Postgres, Secret};
use crate::session::Session;
use crate::vault::{AppRole, LeaseId, Role, Vault};

/// What the wall clock shows at the start.
const WALL: Duration = Duration::from_secs(1_800_000_000);

/// A credential that the driver holds.
#[derive(Clone, Debug, Hash)]
pub struct Held {
    /// Its lease, if it has one.
    pub lease: Option<LeaseId>,
    /// What Postgres knows it by.
    pub secret: Secret,
    /// The token epoch that it dies with.
    pub epoch: Option<u32>,
    /// What became of it at the server can't be known: an answer was lost, somebody meddled.
    pub unsure: bool,
}

impl Held {
    /// The name that reports use.
    #[must_use]
    pub fn username(&self) -> String {
        username(self.secret)
    }
}

pub(crate) fn username(secret: Secret) -> String {
    match secret {
        Secret::Role { login, .. } => format!("v{}", login.0),
        Secret::Password(_) => "app".to_owned(),
    }
}

/// A generation that was published.
#[derive(Clone, Debug, Hash)]
pub struct Generation {
    /// Its login.
    pub login: LoginId,
    /// What Postgres knows it by.
    pub secret: Secret,
    /// On a lease.
    pub leased: bool,
    /// The machine was told that it is dead, and told the pools.
    pub dead: bool,
    /// The machine was told that it is gone, by whomever.
    pub told_gone: bool,
    /// When it became current.
    pub since: Time,
    /// How long it was to serve at the least, by what its lease, its token and the leeway left.
    pub planned: Duration,
    /// The terms at the swap that superseded it.
    pub superseded: Option<Superseded>,
    /// How its drain ended.
    pub drained: Option<Drained>,
}

/// What holds for a superseded generation whatever the machine says.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Superseded {
    /// When.
    pub at: Time,
    /// Its grace.
    pub terms: Terms,
    /// It was known to be gone then.
    pub gone: bool,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drained {
    /// Nothing was left.
    Clean,
    /// The deadline came.
    AtDeadline,
}

/// A drain under way.
#[derive(Clone, Debug, Hash)]
pub struct Drain {
    /// Superseded connections may be handed out until then.
    pub roll_until: Time,
    /// Borrowed connections have until then.
    pub deadline: Time,
    /// Its deadline was brought forward, as too many drained.
    pub hurried: bool,
    /// The login is certainly good until then.
    pub lease_end: Option<Time>,
    /// Pools that have not reported yet.
    pub tasks: Vec<DrainTask>,
    /// Connections that could not be ended.
    pub left: usize,
    /// The deadline came.
    pub late: bool,
}

/// A drain on one pool.
#[derive(Clone, Debug, Hash)]
pub struct DrainTask {
    pool: u32,
    rolled: bool,
    done: bool,
}

/// A request on its way.
#[derive(Clone, Debug, Hash)]
#[allow(missing_docs)] // the fields are those of the actions
pub enum Call {
    /// For a credential.
    Issue { attempt: u64, sent: Time },
    /// For more time.
    Renew { login: LoginId, lease: LeaseId, attempt: u64, sent: Time, increment: Duration },
    /// For an end.
    Revoke { login: LoginId, lease: LeaseId, queued: bool },
    /// To Postgres, by each pool.
    Prove { login: LoginId, secret: Option<Secret> },
    /// The same with the current login.
    Confirm { generation: u64 },
}

/// A minted credential on its way back.
#[derive(Clone, Debug)]
pub struct Issued {
    pub(crate) held: Held,
    pub(crate) ttl: Option<Duration>,
}

/// What is to happen.
#[derive(Clone, Debug)]
pub(crate) enum Ev {
    /// The plan's weather, by number.
    Weather(usize),
    /// Some weather may be over.
    Clear,
    /// A request arrives.
    Arrive(Call, Fate),
    /// A mint is answered.
    Minted(u64, Time, Result<Issued, leasehold::SourceError>),
    /// The machine gets an answer.
    Input(Input),
    /// The driver reads its clock.
    Look,
    /// The source has news since the answer of this number.
    News(u64),
    /// A pool is attached.
    Attach(PoolPlan),
    /// The service is shut down.
    Shutdown,
    /// The static role's password changes as planned.
    Password,
}

#[derive(Clone, Debug)]
struct Scheduled {
    at: Time,
    /// Not delayed by a suspension of the client.
    outside: bool,
    what: Ev,
}

/// What is counted. Not part of the state.
#[derive(Clone, Default)]
pub struct Stats {
    /// Events that happened.
    pub steps: u64,
    /// Swaps but the first.
    pub rotations: u64,
    /// By kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Of all that happened, in order.
    pub hash: u64,
    /// The last lines of the history, if it is traced.
    pub trace: Option<VecDeque<String>>,
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stats")
    }
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// How.
    pub message: String,
    /// When, on the servers' clock.
    pub at: Time,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) plan: Arc<Plan>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) real: Time,
    suspended: Duration,
    suspended_until: Time,
    offset: i128,
    fold: Fold,
    /// What the driver read last, and the monotonic clock then.
    read: (Time, Duration),
    /// The earliest that the client's clock was behind the servers' after having been ahead: what
    /// it then says of instants before can't be held against anybody.
    pub(crate) misled_at: Option<Time>,
    pub(crate) best_ahead: i128,
    /// The lead of the client's clock grew by no suspension: it is ahead for no reason.
    pub(crate) clock_forced: bool,

    pub(crate) machine: Machine,
    pub(crate) vault: Vault,
    pub(crate) session: Session,
    pub(crate) postgres: Postgres,
    pub(crate) pools: Vec<Pool>,

    pub(crate) held: BTreeMap<LoginId, Held>,
    pub(crate) generations: BTreeMap<u64, Generation>,
    pub(crate) published: u64,
    pub(crate) drains: BTreeMap<u64, Drain>,
    pub(crate) proofs: BTreeMap<LoginId, Proofs>,
    /// Mints that were not answered, and when they were sent, on the client's clock.
    pub(crate) unanswered: BTreeMap<u64, Time>,
    /// When mints were sent, and resets of the permits: on the client's clock.
    pub(crate) mints: VecDeque<Time>,
    pub(crate) resets: VecDeque<Time>,
    pub(crate) last_failed: bool,
    pub(crate) shortest_ttl: Duration,
    pub(crate) stopping: Option<Time>,
    pub(crate) start_failed: bool,
    pub(crate) pools_closed: bool,
    pub(crate) finished: Option<Vec<Remains>>,
    watches: u64,
    /// The source waits for news.
    watching: bool,
    /// The password that it has shown.
    shown: u32,
    pub(crate) told: [u64; 3],
    requests: usize,
    pool_ids: u32,
    windows: storm::Windows,
    app_role: AppRole,
    app_role_gone: bool,
    password_due: Time,
    /// When something last went wrong, on the servers' clock.
    pub(crate) trouble: Time,
    /// Since when all has been well for sure: no weather, no fate.
    pub(crate) calm: bool,
    idle_wakes: u32,
    queue: Vec<Scheduled>,
    /// Requests are not answered by themselves: whoever explores decides when, and how.
    pub(crate) manual: bool,
    pub(crate) pending: Vec<Call>,

    pub(crate) stats: Stats,
    pub(crate) violation: Option<Violation>,
}

impl World {
    /// The world before the first request.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        let role = Role { default_ttl: plan.ttl, max_ttl: plan.max_ttl };
        let app = AppRole {
            batch: plan.token == crate::plan::TokenKind::Batch,
            ..AppRole::new(plan.token_ttl, plan.token_max_ttl)
        };
        let start = Time::from_start(Duration::from_secs(1));
        let mut fold = Fold::new(SystemTime::UNIX_EPOCH + WALL);
        let now = fold
            .read(Duration::from_secs(1), SystemTime::UNIX_EPOCH + WALL + Duration::from_secs(1));
        let policy = Policy { grace: plan.grace, roll: plan.roll };
        let mut world = Self {
            rng: fastrand::Rng::with_seed(plan.seed),
            real: start,
            suspended: Duration::ZERO,
            suspended_until: Time::ZERO,
            offset: 0,
            fold,
            read: (now, Duration::from_secs(1)),
            misled_at: None,
            best_ahead: 0,
            clock_forced: false,
            machine: Machine::new(policy, now, plan.seed ^ 0x5bd1_e995),
            vault: Vault::new(role, app),
            session: Session::new(plan.token),
            postgres: Postgres::default(),
            pools: Vec::new(),
            held: BTreeMap::new(),
            generations: BTreeMap::new(),
            published: 0,
            drains: BTreeMap::new(),
            proofs: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            mints: VecDeque::new(),
            resets: VecDeque::new(),
            last_failed: false,
            shortest_ttl: Duration::from_secs(plan.ttl),
            stopping: None,
            start_failed: false,
            pools_closed: false,
            finished: None,
            watches: 0,
            watching: false,
            shown: 0,
            told: [0; 3],
            requests: 0,
            pool_ids: 0,
            windows: storm::Windows::default(),
            app_role: app,
            app_role_gone: false,
            password_due: Time::ZERO,
            trouble: Time::ZERO,
            calm: plan.weather.is_empty() && plan.fates.is_empty(),
            idle_wakes: 0,
            queue: Vec::new(),
            manual: false,
            pending: Vec::new(),
            stats: Stats::default(),
            violation: None,
            plan,
        };
        let plan = world.plan.clone();
        for (number, (at, _)) in plan.weather.iter().enumerate() {
            world.schedule_outside(start + *at, Ev::Weather(number));
        }
        if let Some(at) = plan.shutdown {
            world.schedule(start + at, Ev::Shutdown);
        }
        if let Source::Static { .. } = plan.source {
            world.schedule_password_change();
        }
        world
    }

    /// Keeps the last lines of what happens.
    pub fn trace(&mut self) {
        self.stats.trace = Some(VecDeque::new());
    }

    // ---- time

    fn mono(&self) -> Duration {
        self.real.since_start().saturating_sub(self.suspended)
    }

    /// Reads the client's clock.
    pub(crate) fn clock(&mut self) -> Time {
        let wall = SystemTime::UNIX_EPOCH + WALL + self.real.since_start();
        let step = Duration::from_nanos(self.offset.unsigned_abs() as u64);
        let wall = if self.offset < 0 { wall - step } else { wall + step };
        let now = self.fold.read(self.mono(), wall);
        let ahead = self.ahead(now);
        // Within what is taken for slewing.
        if ahead + 50_000_000 < self.best_ahead {
            self.misled_at = Some(self.real);
            self.best_ahead = ahead;
        }
        self.best_ahead = self.best_ahead.max(ahead);
        now
    }

    /// By how much the client's clock leads the servers', in nanoseconds.
    pub(crate) fn ahead(&self, now: Time) -> i128 {
        now.since_start().as_nanos() as i128 - self.real.since_start().as_nanos() as i128
    }

    /// What the driver takes the time for without having read it again.
    pub(crate) fn believed(&self) -> Time {
        self.read.0 + self.mono().saturating_sub(self.read.1)
    }

    /// When a timer of the client set for `at` goes off, on the servers' clock.
    fn to_real(&self, at: Time) -> Time {
        (self.real + self.believed().until(at)).max(self.suspended_until)
    }

    fn schedule(&mut self, at: Time, what: Ev) {
        self.put(Scheduled { at, outside: false, what });
    }

    fn schedule_outside(&mut self, at: Time, what: Ev) {
        self.put(Scheduled { at, outside: true, what });
    }

    fn put(&mut self, new: Scheduled) {
        // The latest first, so that taking the next is a pop; of two at one instant the one that
        // was put first comes first.
        let place = self.queue.partition_point(|s| s.at > new.at);
        self.queue.insert(place, new);
    }

    fn after(&mut self, delay: Duration, what: Ev) {
        let at = (self.real + delay).max(self.suspended_until);
        self.schedule(at, what);
    }

    /// Suspends the client: what would reach it meanwhile reaches it afterwards.
    fn suspend(&mut self, length: Duration) {
        self.suspended += length;
        self.suspended_until = self.suspended_until.max(self.real) + length;
        let until = self.suspended_until;
        let mut late: Vec<Scheduled> = Vec::new();
        let mut at = 0;
        while at < self.queue.len() {
            let event = &self.queue[at];
            let waits = !event.outside && event.at < until && !matches!(event.what, Ev::Arrive(..));
            if waits {
                late.push(self.queue.remove(at));
            } else {
                at += 1;
            }
        }
        for event in late.into_iter().rev() {
            self.put(Scheduled { at: until, ..event });
        }
        self.look_soon();
    }

    /// After the clock jumped: no timer sleeps for longer than this without reading it again.
    fn look_soon(&mut self) {
        let delay = MAX_SLEEP.mul_f64(self.rng.f64());
        self.after(self.suspended_until - self.real + delay, Ev::Look);
    }

    /// When something happens next.
    pub(crate) fn next(&self) -> Option<Time> {
        let mut next = self.queue.last().map(|s| s.at);
        let mut at = |t: Option<Time>| next = [next, t].into_iter().flatten().min();
        if self.finished.is_none() {
            at(self.machine.next_deadline().map(|t| self.to_real(t)));
            at(self.session.next_due().map(|t| self.to_real(t)));
            at(self.drain_wake());
        }
        next
    }

    /// Lets the next thing happen. `false`: nothing ever will.
    pub fn step(&mut self) -> bool {
        let Some(next) = self.next() else { return false };
        self.go_to(next);
        if self.queue.last().is_some_and(|s| s.at <= self.real) {
            if let Some(event) = self.queue.pop() {
                self.happen(event.what);
            }
        } else if self.finished.is_none() {
            self.wake();
        }
        self.settle();
        true
    }

    pub(crate) fn go_to(&mut self, next: Time) {
        self.stats.steps += 1;
        if next > self.real {
            self.real = next;
            self.idle_wakes = 0;
        }
        self.vault.advance(self.real);
        self.mix(self.real.since_start().as_nanos() as u64);
    }

    /// What follows at once from whatever happened.
    pub(crate) fn settle(&mut self) {
        if self.finished.is_none() {
            if self.real >= self.suspended_until {
                // A roll that is not allowed ends before anybody gets a connection of it.
                self.tend_drains();
                self.traffic(false);
                self.tend_drains();
            }
            self.hear_of_tokens();
            invariants::after_each_step(self);
        }
    }

    /// A timer of the client has gone off.
    pub(crate) fn wake(&mut self) {
        let now = self.clock();
        if self.session.next_due().is_some_and(|at| at <= now) {
            self.session.tick(&mut self.vault, self.real, now);
            self.idle_wakes += 1;
        }
        let due = self.machine.next_deadline().is_some_and(|at| at <= self.believed());
        if due {
            self.idle_wakes += 1;
            self.feed(Input::Tick);
        }
        invariants::i11_no_spinning(self, self.idle_wakes);
    }

    pub(crate) fn hear_of_tokens(&mut self) {
        for (epoch, state) in self.session.take_news() {
            let of_it = self.held.iter().filter(|(_, held)| held.epoch == Some(epoch));
            for login in of_it.map(|(login, _)| *login).collect::<Vec<_>>() {
                self.feed(Input::Parent { login, state });
            }
        }
    }

    fn happen(&mut self, event: Ev) {
        if self.finished.is_some() {
            return self.happen_after_the_end(event);
        }
        self.note(|| format!("{event:?}"));
        match event {
            Ev::Weather(number) => {
                let weather = self.plan.weather[number].1;
                self.strike(weather);
            }
            Ev::Clear => self.apply_weather(),
            Ev::Arrive(call, fate) => self.arrive(call, fate),
            Ev::Minted(attempt, sent, result) => self.minted(attempt, sent, result),
            Ev::Input(input) => self.feed(input),
            Ev::Look => self.feed(Input::Tick),
            Ev::News(watch) => {
                if watch == self.watches && std::mem::take(&mut self.watching) {
                    self.feed(Input::Changed);
                }
            }
            Ev::Attach(pool) => self.attach(pool),
            Ev::Shutdown => self.shut_down(),
            Ev::Password => {
                self.change_password();
                self.schedule_password_change();
            }
        }
    }

    /// The driver is gone; requests are still under way.
    fn happen_after_the_end(&mut self, event: Ev) {
        match event {
            Ev::Weather(number) => {
                let weather = self.plan.weather[number].1;
                self.strike(weather);
            }
            Ev::Clear => self.apply_weather(),
            Ev::Arrive(call @ Call::Issue { .. }, fate) => self.arrive(call, fate),
            Ev::Minted(_, _, Ok(issued)) => self.revoke_late(issued),
            _ => {}
        }
    }

    /// The first step.
    pub fn begin(&mut self) {
        self.feed(Input::Tick);
        self.settle();
    }

    /// Borrowers come to every pool.
    pub(crate) fn rush(&mut self) {
        if self.finished.is_none() && self.real >= self.suspended_until {
            self.tend_drains();
            self.traffic(true);
            self.settle();
        }
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.real < self.suspended_until
    }

    /// A request about the lease of a login was not answered yet.
    pub(crate) fn is_request_open(&self, login: LoginId) -> bool {
        let about = |call: &Call| match call {
            Call::Renew { login: of, .. } | Call::Revoke { login: of, .. } => *of == login,
            _ => false,
        };
        self.pending.iter().any(about)
            || self.queue.iter().any(|s| match &s.what {
                Ev::Arrive(call, _) => about(call),
                Ev::Input(Input::Revoked { login: of, .. } | Input::Renewed { login: of, .. }) => {
                    *of == login
                }
                _ => false,
            })
    }

    /// Somebody can come to a pool and get a connection, or dial one.
    pub(crate) fn is_used(&self) -> bool {
        let kept = |c: &&crate::pool::Conn| c.state == crate::pool::State::Borrowed(None);
        self.pools.iter().any(|p| !p.closed && p.conns.iter().filter(kept).count() < p.max)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.pools.iter().all(|pool| pool.closed || !pool.conns.is_empty())
    }

    /// Some answer will come by itself.
    pub(crate) fn is_anything_under_way(&self) -> bool {
        !self.pending.is_empty()
            || !self.drains.is_empty()
            || self
                .queue
                .iter()
                .any(|s| matches!(s.what, Ev::Arrive(..) | Ev::Minted(..) | Ev::Input(_)))
    }

    /// As the owner does.
    pub(crate) fn shut_down(&mut self) {
        if self.stopping.is_some() || (self.published == 0 && !self.start_failed) {
            // A start that is given up is a shutdown with the time of a mint.
            if self.stopping.is_none() {
                let deadline = self.clock() + Duration::from_secs(120);
                self.stopping = Some(deadline);
                self.feed(Input::Shutdown { deadline });
            }
            return;
        }
        let deadline = self.clock() + self.plan.drain;
        self.stopping = Some(deadline);
        self.feed(Input::Shutdown { deadline });
    }

    // ---- what is counted and told

    pub(crate) fn mix(&mut self, n: u64) {
        self.stats.hash = (self.stats.hash ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    pub(crate) fn fault(&mut self, name: &'static str) {
        *self.stats.faults.entry(name).or_default() += 1;
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.stats.trace.is_some() {
            let now = self.believed();
            let line = format!(
                "{:>14.3} {:>14.3}  {}",
                self.real.since_start().as_secs_f64(),
                now.since_start().as_secs_f64(),
                line()
            );
            if let Some(trace) = &mut self.stats.trace {
                trace.push_back(line);
                if trace.len() > 4000 {
                    trace.pop_front();
                }
            }
        }
    }

    pub(crate) fn violate(&mut self, invariant: Invariant, message: String) {
        self.note(|| format!("VIOLATION {invariant:?}: {message}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, message, at: self.real });
        }
    }

    pub(crate) fn minted_input(
        &self,
        issued: &Issued,
        state: Option<leasehold::ParentState>,
    ) -> Minted {
        let unchanged = match issued.held.secret {
            Secret::Password(_) => (self.generations.get(&self.published))
                .is_some_and(|g| g.secret == issued.held.secret && !g.dead),
            Secret::Role { .. } => false,
        };
        Minted {
            username: issued.held.username(),
            ttl: issued.ttl,
            renewable: issued.held.lease.is_some(),
            revocable: issued.held.lease.is_some(),
            parent: state,
            unchanged,
        }
    }
}
