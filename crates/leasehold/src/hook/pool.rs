//! The seam between the rotator and a pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::BoxFuture;
use crate::clock::{Clock, Time};
use crate::event::Event;
use crate::generation::Generation;
use crate::line::line;

/// A pool that the rotator proves, installs and drains through.
///
/// Methods other than [`drain`](Self::drain) and [`close`](Self::close) are called by one task at
/// a time; drains of several generations may overlap.
pub trait ManagedPool: Send + Sync + 'static {
    /// The pool's name in events, logs and health.
    fn name(&self) -> &str;

    /// Opens one connection with the candidate, checks that it works, and runs the user's probe
    /// query if there is one. The implementation bounds it, and may keep the connection for the
    /// drain that follows.
    fn prove<'a>(&'a self, candidate: &'a Arc<Generation>) -> BoxFuture<'a, Proof>;

    /// The candidate of the last proof is not wanted, and its lease is revoked next: closes what was
    /// kept of the proof, and keeps nothing of one that is still under way. Must not block.
    /// Default: nothing is kept.
    fn discard(&self) {}

    /// Uses `next` for every connection dialled from now on, and takes all that exist for
    /// superseded. Called under the swap lock: must neither block nor panic.
    fn install(&self, next: &Arc<Generation>);

    /// The current login is known to be dead: hand out none of its connections any more.
    fn distrust(&self);

    /// Gets rid of all connections up to and including the generation of `order`: rolls while the
    /// order allows it, closes idle ones, lets borrowed ones close on their return, and confirms
    /// with the server; at the deadline ends what is left, if the lease is alive. Resolves once
    /// none is left, or the deadline was dealt with. Dropping the future stops the drain.
    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained>;

    /// Hands out nothing any more; borrowed connections are closed on their return. Resolves at
    /// once, the rest is the drain's.
    fn close(&self);

    /// The user closed or dropped the pool: it needs no further credentials.
    fn is_closed(&self) -> bool;

    /// What can be told of its connections now.
    fn counts(&self) -> PoolCounts;
}

/// What came of proving a candidate on one pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Proof {
    /// It opened a working connection.
    Proven,
    /// Postgres, or the probe query, refused it. The text holds no secret.
    Rejected(String),
    /// Postgres could not be asked. The text holds no secret.
    Unreachable(String),
}

impl Proof {
    pub(crate) fn without(self, password: &str) -> Self {
        match self {
            Self::Proven => Self::Proven,
            Self::Rejected(text) => Self::Rejected(without(&text, password)),
            Self::Unreachable(text) => Self::Unreachable(without(&text, password)),
        }
    }
}

/// One line of what a server said, without the password. I10: one that asks for the password in
/// clear text can say it back.
#[must_use]
pub fn without(text: &str, password: &str) -> String {
    // What is that short would be met by chance.
    const SHORTEST: usize = 6;
    if password.len() < SHORTEST {
        return line(text);
    }
    // In this order: of a password, a clipped text could show the first half.
    line(&text.replace(password, "[redacted]"))
}

/// What a failed connect says about the login, by SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The login itself is refused (class 28), or may not use this database (3D000, 42501).
    Login,
    /// No connection is free (53300): says nothing about the login.
    Full,
    /// Anything else, an unreachable server included: says nothing about the login.
    Unreachable,
}

impl Refusal {
    /// Reads a connect's SQLSTATE; `None` where there was no answer from Postgres.
    #[must_use]
    pub fn of(sqlstate: Option<&str>) -> Self {
        match sqlstate {
            Some(code) if code.starts_with("28") => Self::Login,
            Some("3D000" | "42501") => Self::Login,
            Some("53300") => Self::Full,
            _ => Self::Unreachable,
        }
    }

    /// A login that was refused outright (28P01, 28000): what a pool reports at once.
    #[must_use]
    pub fn is_authentication(sqlstate: &str) -> bool {
        matches!(sqlstate, "28P01" | "28000")
    }
}

/// One drain: which generation, until when, and whether its lease is alive.
#[derive(Clone)]
pub struct DrainOrder {
    pub(crate) generation: Arc<Generation>,
    pub(crate) terms: watch::Receiver<DrainTerms>,
    pub(crate) clock: Clock,
    pub(crate) emit: Arc<dyn Fn(Event) + Send + Sync>,
}

/// The part of an order that may change while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainTerms {
    /// Superseded connections may be handed out until then.
    pub(crate) roll_until: Time,
    /// When borrowed connections have had their time.
    pub(crate) deadline: Time,
    /// The login is certainly good until then; `None`: it has no end of its own.
    pub(crate) lease_end: Option<Time>,
}

impl DrainOrder {
    /// The generation to get rid of, with all before it.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Superseded connections may still be handed out.
    #[must_use]
    pub fn may_roll(&self) -> bool {
        let terms = *self.terms.borrow();
        self.clock.now() < terms.roll_until.min(terms.deadline)
    }

    /// Begins to replace superseded connections: see [`Pace`].
    #[must_use]
    pub fn pace(&self) -> Pace<'_> {
        let begun = self.clock.now();
        let terms = *self.terms.borrow();
        let end = terms.roll_until.min(terms.deadline);
        Pace { order: self, until: begun + (end - begun) * 3 / 4, begun }
    }

    /// Resolves when they may not any more; follows an end that is brought forward. Cancel safe.
    pub async fn roll_over(&self) {
        self.reached(|terms| terms.roll_until).await;
    }

    /// The lease is certainly alive, so that its login may be used to end its own sessions.
    #[must_use]
    pub fn lease_alive(&self) -> bool {
        let end = self.terms.borrow().lease_end;
        !self.generation.is_dead() && end.is_none_or(|end| self.clock.now() < end)
    }

    /// Resolves when borrowed connections have had their time; follows a deadline that is moved.
    /// Cancel safe.
    pub async fn deadline(&self) {
        self.reached(|terms| terms.deadline).await;
    }

    async fn reached(&self, time: impl Fn(&DrainTerms) -> Time) {
        let mut terms = self.terms.clone();
        loop {
            let at = time(&terms.borrow_and_update());
            if self.clock.now() >= at {
                return;
            }
            tokio::select! {
                () = self.clock.sleep_until(at) => {}
                changed = terms.changed() => {
                    if changed.is_err() {
                        // The rotator is gone: nothing moves it any more.
                        self.clock.sleep_until(at).await;
                    }
                }
            }
        }
    }

    /// Tells that no connect of `pool` with this generation's login is in flight any more.
    pub fn settled(&self, pool: &str) {
        (self.emit)(Event::DialsSettled { pool: pool.to_owned(), generation: self.number() });
    }

    /// Tells that the roll of `pool` ended: from now on none of this generation is handed out.
    pub fn rolled(&self, pool: &str) {
        (self.emit)(Event::RollEnded { pool: pool.to_owned(), generation: self.number() });
    }

    /// Tells how many connections `pool` still has.
    pub fn remaining(&self, pool: &str, remaining: usize) {
        let (pool, generation) = (pool.to_owned(), self.number());
        (self.emit)(Event::Draining { pool, generation, remaining });
    }

    /// Tells something that the operator should know, and that stops nothing. What the server said
    /// to the generation's login may be in it as it is: made one line without the password here.
    pub fn warn(&self, pool: &str, message: impl Into<String>) {
        let message = without(&message.into(), self.generation.credential().expose_password());
        (self.emit)(Event::Warning { pool: Some(pool.to_owned()), message });
    }

    fn number(&self) -> u64 {
        self.generation.number()
    }
}

impl fmt::Debug for DrainOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainOrder")
            .field("generation", &self.generation)
            .field("terms", &*self.terms.borrow())
            .finish_non_exhaustive()
    }
}

/// Spreads the logins that replace superseded connections over a roll. Each costs both ends some
/// milliseconds of CPU: made back to back they take it from the queries.
///
/// Done after three quarters of the roll, so that there is time for what comes back late, and for
/// a server that gets slower. Who is behind that plan does not wait.
#[derive(Debug)]
pub struct Pace<'a> {
    order: &'a DrainOrder,
    until: Time,
    /// The turn that was last.
    begun: Time,
}

impl Pace<'_> {
    /// So far apart turns are at most: a small pool is done sooner.
    const SLOWEST: Duration = Duration::from_millis(500);

    /// Resolves when it is the turn of the next of `left` connections, counted from the turn
    /// before it or the beginning. Cancel safe.
    pub async fn turn(&mut self, left: usize) {
        let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
        let apart = ((self.until - self.begun) / left).min(Self::SLOWEST);
        self.order.clock.sleep_until(self.begun + apart).await;
        self.begun = self.order.clock.now();
    }
}

/// How a drain ended on one pool.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that were ended at the deadline, with who held them.
    pub forced: Vec<Holder>,
    /// Connections that could not be ended, and are closed on their return.
    pub left: usize,
}

impl Drained {
    /// Nothing was left, nobody was cut off.
    #[must_use]
    pub fn clean() -> Self {
        Self::default()
    }

    /// What the deadline did.
    #[must_use]
    pub fn at_deadline(forced: Vec<Holder>, left: usize) -> Self {
        Self { forced, left }
    }
}

/// A session that outlived its drain.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// Its backend's process id.
    pub pid: i32,
    /// Its application name.
    pub application: String,
    /// Its state, as Postgres names it (`idle in transaction`, `active`).
    pub state: String,
    /// For how long its transaction has been open.
    #[serde(serialize_with = "crate::json::seconds")]
    pub transaction_age: Duration,
    /// When it began, by its server's clock. Servers give the same process id to sessions that
    /// have nothing to do with each other.
    #[serde(skip)]
    began: Option<f64>,
}

impl Holder {
    /// A row of [`sql::LIST_HOLDERS`](super::sql::LIST_HOLDERS).
    #[must_use]
    pub fn new(pid: i32, application: String, state: String, age_seconds: f64) -> Self {
        let transaction_age = Duration::try_from_secs_f64(age_seconds).unwrap_or_default();
        Self { pid, application, state, transaction_age, began: None }
    }

    /// With when the session began, in Unix seconds, as the server says it: the last column of
    /// [`sql::LIST_HOLDERS`](super::sql::LIST_HOLDERS). Pools on one server see the same sessions,
    /// pools on several servers others with the same process ids; this tells which.
    #[must_use]
    pub fn began(mut self, at: f64) -> Self {
        self.began = Some(at);
        self
    }

    /// The same for the same session, whichever pool tells of it.
    pub(crate) fn session(&self) -> (i32, Option<u64>) {
        (self.pid, self.began.map(f64::to_bits))
    }

    /// What it says of itself is what a server says.
    pub(crate) fn without(self, password: &str) -> Self {
        let (application, state) =
            (without(&self.application, password), without(&self.state, password));
        Self { application, state, ..self }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, application, state, transaction_age, .. } = self;
        write!(f, "pid {pid} ({application:?}, {state}, transaction open {transaction_age:.1?})")
    }
}

/// A pool's connections, as far as it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PoolCounts {
    /// Open or dialling.
    pub size: usize,
    /// Of them, idle.
    pub idle: usize,
}

impl PoolCounts {
    /// `size` connections, `idle` of them idle.
    #[must_use]
    pub fn new(size: usize, idle: usize) -> Self {
        Self { size, idle }
    }
}
