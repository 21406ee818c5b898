//! What the connects, the proofs and the drains of one pool have in common.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use leasehold::hook::{BoxFuture, Gate, Ledger, Refusal, Ticket, Verdict};
use leasehold::{CredentialProvider, Generation, Refreshed};
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Error};

use crate::control::{Unproven, check};
use crate::diagnosis::is_authentication;
use crate::link::{Dial, Link, Notifications};
use crate::spare::Proven;

/// How long a dial waits for the sockets of discarded connections to be really closed, so that a
/// pool never has more than its maximum and one. Closing takes microseconds unless the runtime is
/// starved; a borrower is not held up for longer than this.
const CLOSING: Duration = Duration::from_millis(200);

/// How long preparing the listed statements may take: each waits for who changes its table.
pub const WARMING: Duration = Duration::from_secs(1);

/// How many role OIDs are remembered: more than generations ever drain at once.
const OIDS: usize = 8;

/// How often a connect that was overtaken by a swap is made anew. Swaps are seconds apart, so more
/// than one is unheard of; the connection that is then returned is drained like any other.
const OVERTAKEN: u32 = 3;

/// How often one connect waits for fresh credentials: the second time covers a login that was
/// revoked again at once.
const REFUSED: u32 = 2;

/// A pool's own part: what it does with idle connections, and with those opened ahead.
///
/// Called by the rotator's tasks. Methods that return no future must not block.
pub trait Pooled: Send + Sync + 'static {
    /// Neither closed nor dropped.
    fn is_open(&self) -> bool;

    /// Hands out nothing any more, and closes what is idle.
    fn close(&self);

    /// The most connections it may have; `None` where it has no bound.
    fn max_size(&self) -> Option<usize>;

    /// Connections that are the pool's, or that it is waiting for.
    fn size(&self) -> usize;

    /// Of them, those that nobody borrows.
    fn idle(&self) -> usize;

    /// Closes up to `most` idle connections that `which` picks by the instant of their making, and
    /// says how many there were.
    fn close_idle(&self, most: usize, which: &mut dyn FnMut(Instant) -> bool) -> usize;

    /// Idle connections can be replaced before anybody asks for them: there is something to roll.
    fn rolls(&self) -> bool {
        true
    }

    /// Lets one idle connection that `which` picks go for a spare, and says whether there was one.
    fn replace_idle(&self, which: &mut dyn FnMut(Instant) -> bool) -> bool {
        self.close_idle(1, &mut |made| which(made) && self.claim_spare()) == 1
    }

    /// Opens a connection with the current login for whoever needs one next. False: it could not be
    /// made fit for use.
    fn open_spare(&self) -> BoxFuture<'_, Result<bool, Refusal>>;

    /// The connection that proved the login that is current now: the first spare, where it can be
    /// one.
    fn put_proof(&self, proof: Link) {
        drop(proof);
    }

    /// A spare waits that nothing has made way for.
    fn spare_waits(&self) -> bool;

    /// Whether a superseded connection may go now: one per spare.
    fn claim_spare(&self) -> bool;

    /// How many spares wait.
    fn spares(&self) -> usize;

    /// Puts the spares that are left into the pool, so that it is as large as before.
    fn adopt_spares(&self) -> BoxFuture<'_, ()>;

    /// Closes the spares.
    fn clear_spares(&self);
}

/// What is set for a pool.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The pool's name in events, logs and health.
    pub name: String,
    /// Statements that a new login must be able to run.
    pub probe: Option<String>,
    /// Statements that are prepared on a connection before it is handed out for the first time.
    pub warm: Vec<String>,
    /// The bound on every connect that nobody borrows.
    pub connect_timeout: Duration,
}

/// Counts, judges, proves and drains the connections of one pool.
///
/// Has no handle on the provider, which holds it through the pool's registration: the two would
/// keep each other alive.
pub struct Engine {
    pub(crate) settings: EngineSettings,
    pub(crate) gate: Gate,
    /// Every socket of this pool, taken and spare ones included.
    pub(crate) ledger: Ledger,
    /// Those of them that are being dialled.
    pub(crate) dialling: Ledger,
    pub(crate) proven: Proven,
    /// One roll at a time: they share the one socket above the maximum.
    pub(crate) rolling: tokio::sync::Mutex<()>,
    dial: Box<dyn Dial>,
    /// The generation that connects use, and the order of a connect and a swap: whoever holds the
    /// lock sees none. Held for a few instructions.
    current: Mutex<Arc<Generation>>,
    pool: OnceLock<Box<dyn Pooled>>,
    /// Sockets of clients taken out of the pool, as far as a dial has waited for one in vain.
    outside: AtomicUsize,
    tasks: Mutex<Vec<(u64, AbortHandle)>>,
    /// Role OIDs by generation: they still find sessions when the role's name is gone.
    oids: Mutex<BTreeMap<u64, i64>>,
}

/// The right to dial with one login, counted until the connection ends.
#[derive(Debug)]
#[must_use = "dropping it says that the connection is closed"]
pub struct Admission {
    generation: Arc<Generation>,
    made: Instant,
    ticket: Ticket,
    dialling: Ticket,
}

/// The place of an open connection in its pool's count. Belongs into whatever ends with its socket.
#[derive(Debug)]
#[must_use = "dropping it says that the connection is closed"]
pub struct Seat {
    generation: u64,
    made: Instant,
    _ticket: Ticket,
}

impl Admission {
    /// The login to dial with.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The dial has succeeded.
    pub fn open(self) -> Seat {
        Seat { generation: self.generation.number(), made: self.made, _ticket: self.ticket }
    }
}

impl Seat {
    /// The generation whose login the connection has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When it was admitted, in the order of swaps: before one it belongs to what that supersedes.
    #[must_use]
    pub fn made(&self) -> Instant {
        self.made
    }
}

impl Engine {
    /// `dial` also opens the connections that nobody borrows: those that prove a login, count the
    /// sessions of a superseded one, and end them at the deadline.
    pub fn new(settings: EngineSettings, dial: Box<dyn Dial>, current: Arc<Generation>) -> Self {
        Self {
            settings,
            gate: Gate::new(),
            ledger: Ledger::new(),
            dialling: Ledger::new(),
            proven: Proven::default(),
            rolling: tokio::sync::Mutex::default(),
            dial,
            current: Mutex::new(current),
            pool: OnceLock::new(),
            outside: AtomicUsize::new(0),
            tasks: Mutex::default(),
            oids: Mutex::default(),
        }
    }

    /// The pool's name in events, logs and health.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The bound on every connect that nobody borrows.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Called once, before the pool is attached.
    pub fn set_pool(&self, pool: impl Pooled) {
        let _ = self.pool.set(Box::new(pool));
    }

    /// The pool, while it is neither dropped nor closed.
    pub(crate) fn pool(&self) -> Option<&dyn Pooled> {
        self.pool.get().map(|pool| &**pool).filter(|pool| pool.is_open())
    }

    /// The generation that connects use now.
    #[must_use]
    pub fn current(&self) -> Arc<Generation> {
        lock(&self.current).clone()
    }

    /// Called with what is current when the pool is attached.
    pub(crate) fn begin_with(&self, generation: &Arc<Generation>) {
        *lock(&self.current) = generation.clone();
    }

    /// I1: after this, every dial uses `next`, and all that exists is superseded.
    pub(crate) fn install(&self, next: &Arc<Generation>) {
        let mut current = lock(&self.current);
        *current = next.clone();
        self.gate.supersede();
        // Nobody took them before, and nobody may now.
        self.clear_spares();
        if let Some(proof) = self.proven.take(next) {
            self.register(&proof);
            if let Some(pool) = self.pool.get() {
                pool.put_proof(proof);
            }
        }
    }

    /// I2: ends the roll of `generation`. If a further swap came, that has retired it already, and
    /// what is superseded now belongs to a later roll.
    pub(crate) fn end_roll(&self, generation: u64) {
        let current = lock(&self.current);
        if current.number() <= generation + 1 {
            self.gate.harden();
        }
    }

    /// The end of a drain. If nothing is left of any login before the current one, dials included,
    /// no connection has to be judged until the next swap, which the lock keeps out.
    pub(crate) fn settle(&self) {
        let current = lock(&self.current);
        if self.ledger.up_to(current.number().saturating_sub(1)) == 0 {
            self.gate.settle();
        }
    }

    /// Judges a connection by the instant of its making. One atomic load while nothing is
    /// superseded.
    #[inline]
    #[must_use]
    pub fn judge(&self, made: Instant) -> Verdict {
        self.gate.judge(made)
    }

    /// Judges a connection, and names the current generation, as of one instant.
    #[must_use]
    pub fn judge_with_current(&self, made: Instant) -> (Verdict, u64) {
        let current = lock(&self.current);
        (self.gate.judge(made), current.number())
    }

    /// For pools that stamp connections themselves, called when one has got its time stamp: one of
    /// `generation` that was overtaken by a swap between the last look at the current generation and
    /// the stamp would pass for current. It takes a thread that is preempted just there, so that
    /// retiring everything, the pool's current connections included, costs nothing worth counting.
    pub fn stamped(&self, generation: u64) {
        let current = lock(&self.current);
        if generation != current.number() {
            self.gate.retire_all();
        }
    }

    /// What a borrower waits for: a spare if one is there, else a dial by `open` with the current
    /// login. One that a swap overtook is made anew; a refused login (`is_refused`) joins the
    /// refresh that is under way or permitted now.
    ///
    /// # Errors
    /// That of the last `open`.
    pub async fn connect<S, E, F>(
        &self,
        provider: &CredentialProvider,
        spare: impl Fn(u64) -> Option<S>,
        open: impl Fn(Admission) -> F,
        is_refused: impl Fn(&E) -> bool,
    ) -> Result<S, E>
    where
        F: Future<Output = Result<S, E>>,
    {
        let (mut overtaken, mut refused) = (0, 0);
        loop {
            let current = self.current();
            if let Some(spare) = spare(current.number()) {
                return Ok(spare);
            }
            if current.is_dead() {
                // Postgres would refuse it. If no other comes now, its refusal is the answer.
                let _ = provider.refused(current.number()).await;
            }
            let admission = self.admit(None).await;
            let generation = admission.generation.number();
            match open(admission).await {
                Ok(made) => {
                    if self.current().number() == generation || overtaken == OVERTAKEN {
                        return Ok(made);
                    }
                    overtaken += 1;
                }
                Err(error) if is_refused(&error) && refused < REFUSED => {
                    refused += 1;
                    match provider.refused(generation).await {
                        Refreshed::Swapped(_) => {}
                        _ => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// [`connect`](Self::connect) with the driver that the engine dials with itself.
    ///
    /// # Errors
    /// What the driver says of the last try.
    pub async fn connect_link(
        &self,
        provider: &CredentialProvider,
        spare: impl Fn(u64) -> Option<Link>,
    ) -> Result<Link, Error> {
        self.connect(provider, spare, |admission| self.open(admission), is_authentication).await
    }

    /// A first connection, within the connect timeout, which works and passes the probe: so refused
    /// logins, missing grants and TLS settings show now.
    ///
    /// # Errors
    /// [`crate::Error`], which names the pool and says what to do.
    pub async fn verified(&self, provider: &CredentialProvider) -> Result<Link, crate::Error> {
        let name = || self.name().to_owned();
        let verify = async {
            let opened = self.connect_link(provider, |_| None).await;
            let link = opened.map_err(|e| crate::Error::connect(self.name(), e))?;
            match check(self, link.client()).await {
                Ok(oid) => {
                    if let Some(oid) = oid {
                        self.remember_oid(link.generation(), oid);
                    }
                    Ok(link)
                }
                Err(Unproven::Connect(source)) => Err(crate::Error::connect(self.name(), source)),
                Err(Unproven::Probe(source)) => {
                    Err(crate::Error::ProbeFailed { name: name(), source })
                }
            }
        };
        let after = self.connect_timeout();
        let timeout = |_| crate::Error::Timeout { name: name(), after };
        tokio::time::timeout(after, verify).await.map_err(timeout)?
    }

    /// Waits, within bounds, until there is room for one more socket. With the login of `of`, or
    /// else the one that is current when there is.
    pub async fn admit(&self, of: Option<&Arc<Generation>>) -> Admission {
        let mut admission = None;
        let room = self.ledger.wait(|_| {
            admission = self.try_admit(of);
            if admission.is_none() {
                // Takes up room, and can be done without.
                self.proven.discard();
            }
            admission.is_some()
        });
        if tokio::time::timeout(CLOSING, room).await.is_err() {
            // What takes the room does not go away: objects taken out of the pool, which is
            // anybody's right. Not waited for again as long as they are there.
            self.outside.store(self.beyond(), Ordering::Relaxed);
        }
        admission.unwrap_or_else(|| self.enter(of))
    }

    /// As [`admit`](Self::admit), if there is room now.
    pub(crate) fn try_admit(&self, of: Option<&Arc<Generation>>) -> Option<Admission> {
        let limit = self.limit();
        let current = lock(&self.current);
        let generation = of.unwrap_or(&current).clone();
        let ticket = self.ledger.try_enter(generation.number(), limit)?;
        Some(self.admission(generation, ticket))
    }

    /// Opens a connection and runs it.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn open(&self, admission: Admission) -> Result<Link, Error> {
        self.open_with(admission, None).await
    }

    async fn open_with(
        &self,
        admission: Admission,
        notifications: Option<Notifications>,
    ) -> Result<Link, Error> {
        let Admission { generation, made, ticket, dialling } = admission;
        let parts = self.dial.dial(generation.credential(), None, notifications).await?;
        let link = Link::spawn(parts, Some(ticket), generation.number(), made);
        self.register(&link);
        drop(dialling);
        Ok(link)
    }

    /// As [`open`](Self::open), of a connection that listens.
    pub(crate) async fn open_listening(
        &self,
        admission: Admission,
        notifications: Notifications,
    ) -> Result<Link, Error> {
        self.open_with(admission, Some(notifications)).await
    }

    /// Opens a connection that is to become the pool's before anybody asks for it, and lets it see
    /// the listed statements: what Postgres reads to prepare one for the first time stays with the
    /// session. `None`: it could not be made free again in time.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn open_ahead(&self) -> Result<Option<Link>, Error> {
        let admission = self.admit(None).await;
        let link = self.open(admission).await?;
        if self.warm_up(link.client()).await {
            return Ok(Some(link));
        }
        link.close().await;
        Ok(None)
    }

    /// Tells whether the connection is free again. One that can't be prepared fails for its query
    /// too, which tells.
    pub(crate) async fn warm_up(&self, client: &Client) -> bool {
        let prepare = async {
            for statement in &self.settings.warm {
                let _ = client.prepare(statement).await;
            }
        };
        tokio::time::timeout(WARMING, prepare).await.is_ok()
    }

    /// What is to be prepared on a connection before it is handed out for the first time, for
    /// [`WARMING`] at most.
    #[must_use]
    pub fn warm_statements(&self) -> &[String] {
        &self.settings.warm
    }

    /// Opens a connection of our own, under a name other than the user's if one is given. Without
    /// an admission it is not counted.
    pub(crate) async fn open_control(
        &self,
        generation: &Arc<Generation>,
        admission: Option<Admission>,
        application: Option<&str>,
    ) -> Result<Link, Error> {
        let parts = self.dial.dial(generation.credential(), application, None).await?;
        let made = admission.as_ref().map_or_else(leasehold::clock::pool_instant, |a| a.made);
        Ok(Link::spawn(parts, admission.map(|a| a.ticket), generation.number(), made))
    }

    /// Closes up to `most` idle connections that `which` picks, and says how many there were.
    pub(crate) fn close_idle(&self, most: usize, mut which: impl FnMut(Verdict) -> bool) -> usize {
        self.pool()
            .map_or(0, |pool| pool.close_idle(most, &mut |made| which(self.gate.judge(made))))
    }

    /// Lets one superseded idle connection go for a spare, and says whether there was one.
    pub(crate) fn replace_idle(&self) -> bool {
        self.pool().is_some_and(|pool| {
            pool.replace_idle(&mut |made| self.gate.judge(made) != Verdict::Current)
        })
    }

    /// Cuts all connections of `generation` that run as tasks, wherever they are.
    pub(crate) fn abort(&self, generation: u64) {
        for (of, task) in lock(&self.tasks).iter() {
            if *of == generation {
                task.abort();
            }
        }
    }

    /// Remembers the OID of the role of `generation`: it still finds sessions when the role's name
    /// is gone.
    pub fn remember_oid(&self, generation: u64, oid: i64) {
        let mut oids = lock(&self.oids);
        oids.insert(generation, oid);
        while oids.len() > OIDS {
            oids.pop_first();
        }
    }

    pub(crate) fn oid(&self, generation: u64) -> Option<i64> {
        lock(&self.oids).get(&generation).copied()
    }

    pub(crate) fn spare_waits(&self) -> bool {
        self.pool().is_some_and(Pooled::spare_waits)
    }

    /// Also of a pool that is closed.
    pub(crate) fn clear_spares(&self) {
        if let Some(pool) = self.pool.get() {
            pool.clear_spares();
        }
    }

    /// Connections of this pool, dialling ones included.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The pool's maximum and one, and what is known to be outside of it.
    fn limit(&self) -> usize {
        let max = self.pool().and_then(Pooled::max_size).unwrap_or(usize::MAX);
        let outside = self.outside.load(Ordering::Relaxed).min(self.beyond());
        max.saturating_add(1).saturating_add(outside)
    }

    /// Sockets that are neither the pool's nor on the way to it: of clients taken out of it, or
    /// just being closed.
    fn beyond(&self) -> usize {
        let (pooled, spares) = self.pool().map_or((0, 0), |pool| (pool.size(), pool.spares()));
        let coming = self.dialling.total() + spares;
        self.ledger.total().saturating_sub(pooled + coming)
    }

    /// Counted under the lock, here and in `try_admit`, so that a dial of which a swap does not
    /// know begins after it.
    fn enter(&self, of: Option<&Arc<Generation>>) -> Admission {
        let current = lock(&self.current);
        let generation = of.unwrap_or(&current).clone();
        let ticket = self.ledger.enter(generation.number());
        self.admission(generation, ticket)
    }

    /// Stamped under the lock, too: what a swap supersedes was made before it.
    fn admission(&self, generation: Arc<Generation>, ticket: Ticket) -> Admission {
        let dialling = self.dialling.enter(generation.number());
        Admission { generation, made: leasehold::clock::pool_instant(), ticket, dialling }
    }

    fn register(&self, link: &Link) {
        let mut tasks = lock(&self.tasks);
        tasks.retain(|(_, task)| !task.is_finished());
        tasks.extend(link.abort_handle().map(|task| (link.generation(), task)));
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.settings.name)
            .field("current", &self.current().number())
            .field("connections", &self.ledger.total())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
#[cfg(test)]
mod tests {
    use leasehold::hook::Verdict;
    use leasehold::{Credential, CredentialSource, Issued, Lease, Rotator, SourceError};

    use super::*;
    use crate::link::Driver;

    #[derive(Debug)]
    struct Anything;

    impl CredentialSource for Anything {
        async fn issue(&self) -> Result<Issued, SourceError> {
            // Another each time: the very same login would not be swapped to.
            let password = leasehold::clock::pool_instant();
            Ok(Issued::new(Credential::new("user", format!("{password:?}")), Lease::endless()))
        }
    }

    impl Dial for Anything {
        fn dial<'a>(
            &'a self,
            _: &'a leasehold::Credential,
            _: Option<&'a str>,
            _: Option<Notifications>,
        ) -> BoxFuture<'a, Result<(Client, Driver), Error>> {
            Box::pin(std::future::pending())
        }
    }

    /// A pool of one, with nothing in it.
    struct One;

    impl Pooled for One {
        fn is_open(&self) -> bool {
            true
        }

        fn close(&self) {}

        fn max_size(&self) -> Option<usize> {
            Some(1)
        }

        fn size(&self) -> usize {
            0
        }

        fn idle(&self) -> usize {
            0
        }

        fn close_idle(&self, _: usize, _: &mut dyn FnMut(Instant) -> bool) -> usize {
            0
        }

        fn open_spare(&self) -> BoxFuture<'_, Result<bool, Refusal>> {
            Box::pin(std::future::ready(Ok(false)))
        }

        fn spare_waits(&self) -> bool {
            false
        }

        fn claim_spare(&self) -> bool {
            false
        }

        fn spares(&self) -> usize {
            0
        }

        fn adopt_spares(&self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }

        fn clear_spares(&self) {}
    }

    fn engine(current: Arc<Generation>) -> Engine {
        let settings = EngineSettings {
            name: String::new(),
            probe: None,
            warm: Vec::new(),
            connect_timeout: Duration::from_secs(1),
        };
        Engine::new(settings, Box::new(Anything), current)
    }

    /// The thread is preempted between the last look at the generation and deadpool's time stamp:
    /// no test can arrange that from outside.
    #[tokio::test]
    async fn i1_a_connection_that_is_stamped_after_a_swap_does_not_pass_for_current() {
        let rotator = Rotator::builder(Anything).start().await.unwrap();
        let first = rotator.provider().current().clone();
        let engine = engine(first.clone());
        let mut swaps = rotator.provider().subscribe();
        rotator.rotate();
        let second = swaps.changed().await.unwrap();
        engine.install(&second);
        // Dialled with the first login, stamped now.
        let created = leasehold::clock::pool_instant();
        assert_eq!(engine.judge(created), Verdict::Current);
        engine.stamped(first.number());
        assert_eq!(engine.judge(created), Verdict::Retired);
        // And what is current stays so.
        let created = leasehold::clock::pool_instant();
        engine.stamped(second.number());
        assert_eq!(engine.judge(created), Verdict::Current);
    }

    #[tokio::test]
    async fn i1_what_was_admitted_before_a_swap_is_superseded_by_it_however_long_it_dials() {
        let rotator = Rotator::builder(Anything).start().await.unwrap();
        let first = rotator.provider().current().clone();
        let engine = engine(first);
        let dialling = engine.admit(None).await;
        let mut swaps = rotator.provider().subscribe();
        rotator.rotate();
        engine.install(&swaps.changed().await.unwrap());
        let later = engine.admit(None).await;
        assert_eq!(engine.judge(dialling.open().made()), Verdict::Superseded);
        assert_eq!(engine.judge(later.open().made()), Verdict::Current);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_waits_for_sockets_that_are_closing_but_not_for_ever() {
        let rotator = Rotator::builder(Anything).start().await.unwrap();
        let engine = engine(rotator.provider().current().clone());
        engine.set_pool(One);
        let closing = engine.admit(None).await;
        let second = engine.admit(None).await;
        {
            let mut third = std::pin::pin!(engine.admit(None));
            let early = tokio::time::timeout(CLOSING / 2, &mut third).await;
            assert!(early.is_err(), "a third socket for a pool of one");
            drop(closing);
            let _third = third.await;
        }
        assert_eq!(engine.ledger.most(), 2);
        let third = engine.admit(None).await;
        let begun = tokio::time::Instant::now();
        let _fourth = engine.admit(None).await;
        assert_eq!(begun.elapsed(), CLOSING, "the borrower gets its connection all the same");
        drop((second, third));
    }
}
