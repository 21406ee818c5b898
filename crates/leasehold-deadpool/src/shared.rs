//! What a pool's connects, its hooks and its drains have in common.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{Pool, WeakPool};
use leasehold::Generation;
use leasehold::hook::{Gate, Ledger, Ticket, Verdict};
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Error};

use crate::link::{Dial, Link};
use crate::spare::{Proven, Spares};

/// How long a dial waits for the sockets of discarded connections to be really closed, so that a
/// pool never has more than its maximum and one. Closing takes microseconds unless the runtime is
/// starved; a borrower is not held up for longer than this.
const CLOSING: Duration = Duration::from_millis(200);

/// How long preparing the listed statements may take: each waits for who changes its table.
pub(crate) const WARMING: Duration = Duration::from_secs(1);

/// How many role OIDs are remembered: more than generations ever drain at once.
const OIDS: usize = 8;

/// Has no handle on the provider, which holds it through the pool's registration: the two would
/// keep each other alive.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) probe: Option<String>,
    /// Prepared on a connection before it is handed out for the first time.
    pub(crate) warm: Vec<String>,
    /// The bound on every connect that nobody borrows: proofs, spares, control connections.
    pub(crate) connect_timeout: Duration,
    pub(crate) gate: Gate,
    /// Every socket of this pool, taken and spare ones included.
    pub(crate) ledger: Ledger,
    /// Those of them that are being dialled.
    pub(crate) dialling: Ledger,
    pub(crate) spares: Spares,
    pub(crate) proven: Proven,
    /// One roll at a time: they share the one socket above the maximum.
    pub(crate) rolling: tokio::sync::Mutex<()>,
    dial: Box<dyn Dial>,
    /// The generation that connects use, and the order of a connect and a swap: whoever holds the
    /// lock sees none. Held for a few instructions.
    current: Mutex<Arc<Generation>>,
    pool: OnceLock<WeakPool>,
    /// Sockets of clients taken out of the pool, as far as a dial has waited for one in vain.
    outside: AtomicUsize,
    tasks: Mutex<Vec<(u64, AbortHandle)>>,
    /// Role OIDs by generation: they still find sessions when the role's name is gone.
    oids: Mutex<BTreeMap<u64, i64>>,
}

/// The right to dial with one login, counted until the connection ends.
pub(crate) struct Admission {
    pub(crate) generation: Arc<Generation>,
    ticket: Ticket,
    dialling: Ticket,
}

impl Shared {
    pub(crate) fn new(
        name: String,
        probe: Option<String>,
        warm: Vec<String>,
        connect_timeout: Duration,
        dial: Box<dyn Dial>,
        current: Arc<Generation>,
    ) -> Self {
        Self {
            name,
            probe,
            warm,
            connect_timeout,
            gate: Gate::new(),
            ledger: Ledger::new(),
            dialling: Ledger::new(),
            spares: Spares::default(),
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

    pub(crate) fn set_pool(&self, pool: &Pool) {
        // Called once, by the installer.
        let _ = self.pool.set(pool.weak());
    }

    /// The pool, while it is neither dropped nor closed.
    pub(crate) fn pool(&self) -> Option<Pool> {
        self.pool.get()?.upgrade().filter(|pool| !pool.is_closed())
    }

    pub(crate) fn current(&self) -> Arc<Generation> {
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
        if let Some(proof) = self.proven.take(next) {
            self.register(&proof);
            self.spares.put(proof);
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

    /// Judges a connection, and names its generation if it is the current one.
    pub(crate) fn judge(&self, created: Instant) -> (Verdict, u64) {
        let current = lock(&self.current);
        (self.gate.judge(created), current.number())
    }

    /// Called when a connection has got its time stamp: one of `generation` that was overtaken by a
    /// swap between the last look at the current generation and the stamp would pass for current.
    /// It takes a thread that is preempted just there, so that retiring everything, the
    /// pool's current connections included, costs nothing worth counting.
    pub(crate) fn stamped(&self, generation: u64) {
        let current = lock(&self.current);
        if generation != current.number() {
            self.gate.retire_all();
        }
    }

    /// Waits, within bounds, until there is room for one more socket. With the login of `of`, or
    /// else the one that is current when there is.
    pub(crate) async fn admit(&self, of: Option<&Arc<Generation>>) -> Admission {
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
        let dialling = self.dialling.enter(generation.number());
        Some(Admission { generation, ticket, dialling })
    }

    /// Opens a connection and runs it.
    pub(crate) async fn open(&self, admission: Admission) -> Result<Link, Error> {
        let Admission { generation, ticket, dialling } = admission;
        let parts = self.dial.dial(generation.credential(), None).await?;
        let link = Link::spawn(parts, Some(ticket), generation.number());
        self.register(&link);
        drop(dialling);
        Ok(link)
    }

    /// Opens a connection that is to become the pool's before anybody asks for it, and lets it see
    /// the listed statements: what Postgres reads to prepare one for the first time stays with the
    /// session.
    pub(crate) async fn open_spare(&self) -> Result<Option<Link>, Error> {
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
            for statement in &self.warm {
                let _ = client.prepare(statement).await;
            }
        };
        tokio::time::timeout(WARMING, prepare).await.is_ok()
    }

    /// Opens a connection of our own, under a name other than the user's if one is given. Without
    /// an admission it is not counted.
    pub(crate) async fn open_control(
        &self,
        generation: &Arc<Generation>,
        admission: Option<Admission>,
        application: Option<&str>,
    ) -> Result<Link, Error> {
        let parts = self.dial.dial(generation.credential(), application).await?;
        Ok(Link::spawn(parts, admission.map(|a| a.ticket), generation.number()))
    }

    /// Closes up to `most` idle connections that `which` picks by the instant of their making, and
    /// says how many there were.
    pub(crate) fn close_idle(&self, most: usize, mut which: impl FnMut(Instant) -> bool) -> usize {
        let Some(pool) = self.pool() else {
            return 0;
        };
        let mut left = most;
        let result = pool.retain(|_, metrics| {
            let close = left > 0 && which(metrics.created);
            left -= usize::from(close);
            !close
        });
        // They are dropped here, after the pool's lock.
        result.removed.len()
    }

    /// Cuts all connections of `generation`, wherever they are.
    pub(crate) fn abort(&self, generation: u64) {
        for (of, task) in lock(&self.tasks).iter() {
            if *of == generation {
                task.abort();
            }
        }
    }

    pub(crate) fn remember_oid(&self, generation: u64, oid: i64) {
        let mut oids = lock(&self.oids);
        oids.insert(generation, oid);
        while oids.len() > OIDS {
            oids.pop_first();
        }
    }

    pub(crate) fn oid(&self, generation: u64) -> Option<i64> {
        lock(&self.oids).get(&generation).copied()
    }

    /// The pool's maximum and one, and what is known to be outside of it.
    fn limit(&self) -> usize {
        let max = self.pool().map_or(usize::MAX, |pool| pool.status().max_size);
        let outside = self.outside.load(Ordering::Relaxed).min(self.beyond());
        max.saturating_add(1).saturating_add(outside)
    }

    /// Sockets that are neither the pool's nor on the way to it: of clients taken out of it, or
    /// just being closed.
    fn beyond(&self) -> usize {
        let pooled = self.pool().map_or(0, |pool| pool.status().size);
        let coming = self.dialling.total() + self.spares.len();
        self.ledger.total().saturating_sub(pooled + coming)
    }

    /// Counted under the lock, here and in `try_admit`, so that a dial of which a swap does not
    /// know begins after it.
    fn enter(&self, of: Option<&Arc<Generation>>) -> Admission {
        let current = lock(&self.current);
        let generation = of.unwrap_or(&current).clone();
        let ticket = self.ledger.enter(generation.number());
        let dialling = self.dialling.enter(generation.number());
        Admission { generation, ticket, dialling }
    }

    fn register(&self, link: &Link) {
        let mut tasks = lock(&self.tasks);
        tasks.retain(|(_, task)| !task.is_finished());
        tasks.extend(link.abort_handle().map(|task| (link.generation(), task)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use deadpool_postgres::Manager;
    use leasehold::hook::{BoxFuture, Verdict};
    use leasehold::{Credential, CredentialSource, Issued, Lease, Rotator, SourceError};
    use tokio_postgres::{Config, NoTls};

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
            _: &'a Credential,
            _: Option<&'a str>,
        ) -> BoxFuture<'a, Result<(Client, Driver), Error>> {
            Box::pin(std::future::pending())
        }
    }

    /// The thread is preempted between the last look at the generation and deadpool's time stamp:
    /// no test can arrange that from outside.
    #[tokio::test]
    async fn i1_a_connection_that_is_stamped_after_a_swap_does_not_pass_for_current() {
        let rotator = Rotator::builder(Anything).start().await.unwrap();
        let first = rotator.provider().current().clone();
        let timeout = Duration::from_secs(1);
        let shared = Shared::new(
            String::new(),
            None,
            Vec::new(),
            timeout,
            Box::new(Anything),
            first.clone(),
        );
        let mut swaps = rotator.provider().subscribe();
        rotator.rotate();
        let second = swaps.changed().await.unwrap();
        shared.install(&second);
        // Dialled with the first login, stamped now.
        let created = leasehold::clock::pool_instant();
        assert_eq!(shared.gate.judge(created), Verdict::Current);
        shared.stamped(first.number());
        assert_eq!(shared.gate.judge(created), Verdict::Retired);
        // And what is current stays so.
        let created = leasehold::clock::pool_instant();
        shared.stamped(second.number());
        assert_eq!(shared.gate.judge(created), Verdict::Current);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_waits_for_sockets_that_are_closing_but_not_for_ever() {
        let rotator = Rotator::builder(Anything).start().await.unwrap();
        let current = rotator.provider().current().clone();
        let timeout = Duration::from_secs(1);
        let shared =
            Shared::new(String::new(), None, Vec::new(), timeout, Box::new(Anything), current);
        let pool = Pool::builder(Manager::new(Config::new(), NoTls)).max_size(1).build().unwrap();
        shared.set_pool(&pool);
        let closing = shared.admit(None).await;
        let second = shared.admit(None).await;
        {
            let mut third = std::pin::pin!(shared.admit(None));
            let early = tokio::time::timeout(CLOSING / 2, &mut third).await;
            assert!(early.is_err(), "a third socket for a pool of one");
            drop(closing);
            third.await;
        }
        assert_eq!(shared.ledger.most(), 2);
        let third = shared.admit(None).await;
        let begun = tokio::time::Instant::now();
        let _fourth = shared.admit(None).await;
        assert_eq!(begun.elapsed(), CLOSING, "the borrower gets its connection all the same");
        drop((second, third));
    }
}
