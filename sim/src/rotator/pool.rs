//! A pool as the rotator sees one: it proves, installs, rolls, drains and closes as the hooks do,
//! and has borrowers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leasehold::hook::{BoxFuture, DrainOrder, Drained, Holder, ManagedPool, PoolCounts, Proof};
use leasehold::{CredentialProvider, Generation, Observation};
use tokio::sync::Notify;

use super::Invariant;
use super::world::{Dial, Dice, World, login_of};
use crate::vault::LoginId;

#[derive(Clone, Debug)]
struct Conn {
    id: u64,
    generation: u64,
    login: LoginId,
    state: ConnState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnState {
    Dialling,
    Idle,
    Borrowed,
}

pub(crate) struct ModelPool {
    name: String,
    world: Arc<World>,
    provider: CredentialProvider,
    max: usize,
    state: Mutex<Pool>,
    dice: Dice,
    changed: Notify,
}

struct Pool {
    installed: Arc<Generation>,
    conns: Vec<Conn>,
    /// Generations up to this one are never handed out again.
    hard: u64,
    /// By the rotator.
    closed: bool,
    /// By its user.
    gone: bool,
    /// Generations whose drain ended at its deadline with connections left.
    overdue: Vec<u64>,
    next: u64,
}

impl ModelPool {
    /// Builds and attaches one. `None` once the rotator takes no more.
    pub(crate) fn attach(
        world: &Arc<World>,
        provider: &CredentialProvider,
        dice: &Dice,
    ) -> Option<Arc<Self>> {
        let number = world.with(|state| state.pools.len());
        let max = usize::try_from(dice.draw(1..=6)).unwrap_or(1);
        let attached = provider.attach(|current| {
            let held = leasehold::simulation::swap_lock_is_held(provider);
            world.check(Invariant::I1AttachedUnderTheSwapLock, held, || {
                "a pool is built while a swap may come between".to_owned()
            });
            let pool = Arc::new(Self {
                name: format!("pool-{number}"),
                world: world.clone(),
                provider: provider.clone(),
                max,
                state: Mutex::new(Pool {
                    installed: current.clone(),
                    conns: Vec::new(),
                    hard: 0,
                    closed: false,
                    gone: false,
                    overdue: Vec::new(),
                    // Ids are the server's, and no two of its sessions have the same.
                    next: 1 + 1_000_000 * u64::try_from(number).unwrap_or(0),
                }),
                dice: world.dice(),
                changed: Notify::new(),
            });
            (pool.clone() as Arc<dyn ManagedPool>, pool)
        });
        let pool = attached.ok()?;
        world.step(format_args!("{} is attached", pool.name));
        world.with(|state| state.pools.push(pool.clone()));
        // The swap lock was held from the building to the attaching.
        let (installed, current) = (pool.installed(), provider.current().number());
        world.check(Invariant::I1NewMeansCurrent, installed == current, || {
            format!("{} is attached with {installed}, {current} is current", pool.name)
        });
        Some(pool)
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Pool) -> T) -> T {
        let result = f(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    pub(crate) fn title(&self) -> &str {
        &self.name
    }

    pub(crate) fn installed(&self) -> u64 {
        self.lock().installed.number()
    }

    pub(crate) fn was_closed(&self) -> bool {
        let state = self.lock();
        state.closed || state.gone
    }

    /// Connections of `login` for which its lease may not be revoked yet. What its user closed is
    /// watched by nobody, and what the deadline could not end is told.
    pub(crate) fn left_behind(&self, login: LoginId) -> usize {
        let state = self.lock();
        if state.gone {
            return 0;
        }
        let of_it = state.conns.iter().filter(|conn| conn.login == login);
        of_it.filter(|conn| !state.overdue.contains(&conn.generation)).count()
    }

    /// Its user closes or drops it.
    pub(crate) fn leave(&self) {
        self.world.step(format_args!("{} is closed by its user", self.name));
        self.with(|pool| {
            pool.gone = true;
            pool.conns.retain(|conn| conn.state != ConnState::Idle);
        });
    }

    /// Postgres or the network ends all connections.
    pub(crate) fn cut(&self) {
        self.with(|pool| pool.conns.retain(|conn| conn.state == ConnState::Dialling));
    }

    /// One borrower, for ever: waits, borrows, holds, gives back.
    pub(crate) async fn borrow(self: Arc<Self>, dice: Dice, pause: Duration, longest: Duration) {
        loop {
            tokio::time::sleep(dice.span(Duration::from_millis(20), pause)).await;
            if self.was_closed() {
                return;
            }
            if let Some(conn) = self.acquire(&dice).await {
                let hold = if dice.chance(20, 1000) {
                    dice.span(Duration::from_secs(1), longest)
                } else {
                    dice.span(Duration::from_millis(1), Duration::from_secs(1))
                };
                tokio::time::sleep(hold).await;
                self.give_back(conn);
            }
        }
    }

    async fn acquire(&self, dice: &Dice) -> Option<u64> {
        let current = self.provider.current().number();
        let found = self.with(|pool| {
            let hard = pool.hard;
            let idle = |conn: &&mut Conn| conn.state == ConnState::Idle && conn.generation > hard;
            let conn = pool.conns.iter_mut().filter(idle).max_by_key(|conn| conn.generation)?;
            conn.state = ConnState::Borrowed;
            Some(conn.clone())
        });
        let Some(conn) = found else {
            return self.dial(dice).await;
        };
        // What the hooks' liveness check would see.
        if !self.world.role_is_there(conn.login) {
            let superseded = conn.generation < current;
            let harmed = self.world.with(|state| state.harmed);
            self.world.check(Invariant::I2HandedOutIsAlive, !superseded || harmed, || {
                format!("a connection of {} is handed out, {current} is current", conn.generation)
            });
            self.provider.report(conn.generation, Observation::SessionRevoked);
            self.close_one(conn.id);
            return None;
        }
        Some(conn.id)
    }

    async fn dial(&self, dice: &Dice) -> Option<u64> {
        let made = self.with(|pool| {
            if pool.gone || pool.closed || pool.conns.len() >= self.max {
                return None;
            }
            let (id, generation) = (pool.next, pool.installed.number());
            let login = login_of(pool.installed.credential().username());
            pool.next += 1;
            pool.conns.push(Conn { id, generation, login, state: ConnState::Dialling });
            Some((id, generation, login))
        });
        let (id, generation, login) = made?;
        // I1: what begins after the swap uses the current generation.
        let current = self.provider.current().number();
        self.world.check(Invariant::I1NewMeansCurrent, generation == current, || {
            format!("{} dials with {generation}, {current} is current", self.name)
        });
        tokio::time::sleep(dice.latency()).await;
        match self.world.dial(login) {
            Dial::Open => {
                let kept = self.with(|pool| {
                    let superseded = generation <= pool.hard || pool.gone || pool.closed;
                    if superseded {
                        pool.conns.retain(|conn| conn.id != id);
                        return false;
                    }
                    let conn = pool.conns.iter_mut().find(|conn| conn.id == id);
                    conn.is_some_and(|conn| {
                        conn.state = ConnState::Borrowed;
                        true
                    })
                });
                kept.then_some(id)
            }
            Dial::Unreachable => {
                self.close_one(id);
                None
            }
            Dial::Refused => {
                self.close_one(id);
                self.world.step(format_args!("{} is refused with {generation}", self.name));
                // The caller of an acquire may give up at any time.
                let patience = dice.span(Duration::from_millis(1), Duration::from_secs(20));
                let begun = tokio::time::Instant::now();
                let refused = self.provider.refused(generation);
                if tokio::time::timeout(patience, refused).await.is_ok() {
                    let took = begun.elapsed();
                    self.world.check(
                        Invariant::I6HooksWaitNoLonger,
                        took <= super::REFRESH_WAIT + Duration::from_millis(20),
                        || format!("a refused login was held for {took:?}"),
                    );
                }
                None
            }
        }
    }

    fn close_one(&self, id: u64) {
        self.with(|pool| pool.conns.retain(|conn| conn.id != id));
    }

    fn give_back(&self, id: u64) {
        self.with(|pool| {
            let (hard, over) = (pool.hard, pool.closed || pool.gone);
            if let Some(conn) = pool.conns.iter_mut().find(|conn| conn.id == id) {
                conn.state = ConnState::Idle;
                if conn.generation <= hard || over {
                    pool.conns.retain(|conn| conn.id != id);
                }
            }
        });
    }

    fn of(&self, generation: u64) -> usize {
        self.lock().conns.iter().filter(|conn| conn.generation == generation).count()
    }

    fn harden(&self, generation: u64) {
        self.with(|pool| {
            pool.hard = pool.hard.max(generation);
            let hard = pool.hard;
            pool.conns.retain(|conn| conn.generation > hard || conn.state != ConnState::Idle);
        });
    }

    async fn until(&self, mut done: impl FnMut(&Pool) -> bool) {
        loop {
            let changed = self.changed.notified();
            if done(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    async fn orderly(&self, order: &DrainOrder) {
        let generation = order.generation().number();
        let settle = async {
            let dialling =
                |conn: &Conn| conn.generation == generation && conn.state == ConnState::Dialling;
            self.until(|pool| !pool.conns.iter().any(dialling)).await;
            order.settled(&self.name);
        };
        let empty = async {
            while order.may_roll() && self.of(generation) > 0 {
                // A new one, then an old one goes.
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(self.dice.latency()) => {}
                    () = order.roll_over() => {}
                }
                self.with(|pool| {
                    let old = pool.conns.iter().position(|conn| {
                        conn.generation == generation && conn.state == ConnState::Idle
                    });
                    if let Some(at) = old {
                        pool.conns.remove(at);
                    }
                });
            }
            self.harden(generation);
            order.rolled(&self.name);
            order.remaining(&self.name, self.of(generation));
            self.until(|pool| !pool.conns.iter().any(|conn| conn.generation == generation)).await;
            let mut pace = Duration::from_millis(25);
            while self.world.with(|state| state.postgres_unreachable) {
                tokio::time::sleep(pace).await;
                pace = Duration::from_millis(250).min(pace * 2);
            }
            tokio::time::sleep(self.dice.latency()).await;
        };
        tokio::join!(settle, empty);
    }

    async fn at_deadline(&self, order: &DrainOrder) -> Drained {
        let generation = order.generation().number();
        self.harden(generation);
        let left = self.of(generation);
        if !order.lease_alive() || self.world.with(|state| state.postgres_unreachable) {
            self.with(|pool| pool.overdue.push(generation));
            return Drained::at_deadline(Vec::new(), left);
        }
        let login = login_of(order.generation().credential().username());
        let (alive, harmed) = (self.world.lets_in(login), self.world.with(|state| state.harmed));
        self.world.check(Invariant::I12AliveIsAlive, alive || harmed, || {
            format!("generation {generation} is said to be alive, and its login is refused")
        });
        tokio::time::sleep(self.dice.latency()).await;
        let mut forced = Vec::new();
        self.with(|pool| {
            pool.conns.retain(|conn| {
                let ours = conn.generation == generation;
                if ours {
                    let pid = i32::try_from(conn.id).unwrap_or(i32::MAX);
                    forced.push(Holder::new(pid, "sim".to_owned(), "active".to_owned(), 0.0));
                }
                !ours
            });
        });
        Drained::at_deadline(forced, 0)
    }

    async fn try_out(&self, candidate: &Arc<Generation>) -> Proof {
        if self.dice.mishap(&self.world, self.world.temper.panics, 1000) {
            self.world.fault("hook panicked");
            std::panic::resume_unwind(Box::new("a simulated panic"));
        }
        if self.dice.mishap(&self.world, self.world.temper.slow, 1000) {
            self.world.fault("slow proof");
            let most = Duration::from_secs(60);
            tokio::time::sleep(self.dice.span(Duration::from_millis(100), most)).await;
        }
        tokio::time::sleep(self.dice.latency()).await;
        match self.world.dial(login_of(candidate.credential().username())) {
            Dial::Open => Proof::Proven,
            Dial::Refused => Proof::Rejected("28P01".to_owned()),
            Dial::Unreachable => Proof::Unreachable("no connection".to_owned()),
        }
    }
}

impl ManagedPool for ModelPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn prove<'a>(&'a self, candidate: &'a Arc<Generation>) -> BoxFuture<'a, Proof> {
        Box::pin(self.try_out(candidate))
    }

    fn install(&self, next: &Arc<Generation>) {
        let held = leasehold::simulation::swap_lock_is_held(&self.provider);
        self.world.check(Invariant::I1AttachedUnderTheSwapLock, held, || {
            format!("{} gets {} while pools may be attached", self.name, next.number())
        });
        // The swap is the instant after the last pool has it.
        let current = self.provider.current().number();
        self.world.check(Invariant::I1NewMeansCurrent, current < next.number(), || {
            format!("{} gets {}, and {current} is current already", self.name, next.number())
        });
        let was = self.installed();
        self.world.check(Invariant::I1NewMeansCurrent, was < next.number(), || {
            format!("{} has {was} and gets {}", self.name, next.number())
        });
        self.world.step(format_args!("{} has {}", self.name, next.number()));
        self.with(|pool| {
            // Of two swaps in a row the first one's roll is over.
            pool.hard = pool.hard.max(pool.installed.number().saturating_sub(1));
            pool.installed = next.clone();
        });
    }

    fn distrust(&self) {
        self.world.step(format_args!("{} distrusts its login", self.name));
        let number = self.installed();
        self.harden(number);
    }

    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained> {
        Box::pin(async move {
            if self.dice.mishap(&self.world, self.world.temper.panics, 1000) {
                self.world.fault("hook panicked");
                let generation = order.generation().number();
                self.harden(generation);
                self.with(|pool| pool.overdue.push(generation));
                std::panic::resume_unwind(Box::new("a simulated panic"));
            }
            tokio::select! {
                biased;
                () = self.orderly(&order) => Drained::clean(),
                () = order.deadline() => self.at_deadline(&order).await,
            }
        })
    }

    fn close(&self) {
        self.with(|pool| {
            pool.closed = true;
            pool.conns.retain(|conn| conn.state != ConnState::Idle);
        });
    }

    fn is_closed(&self) -> bool {
        self.lock().gone
    }

    fn counts(&self) -> PoolCounts {
        let state = self.lock();
        let idle = state.conns.iter().filter(|conn| conn.state == ConnState::Idle).count();
        PoolCounts::new(state.conns.len(), idle)
    }
}
