//! Reads and writes, one after another, each with when it began and ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::CredentialProvider;
use leasehold_testkit::eventually;
use leasehold_tests::{LONG, chain};
use tokio::task::JoinSet;

const WORKERS: i32 = 3;
/// Fewer say nothing about what goes on.
const ENOUGH: usize = 20;
const READ: &str = "SELECT v FROM accounts WHERE id = $1";
const WRITE: &str = "INSERT INTO written(id) VALUES ($1)";

/// A pool as its users have it.
#[derive(Clone)]
pub(crate) enum Pool {
    /// No hook of sqlx hears of a refused login: where one is waited for, `acquire` does it.
    Sqlx(sqlx::PgPool, CredentialProvider),
    Deadpool(deadpool_postgres::Pool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    Read,
    Write,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// What was written.
    pub(crate) id: i64,
    pub(crate) result: Result<(), String>,
}

/// Workers on a pool.
pub(crate) struct Load {
    name: String,
    tasks: JoinSet<Vec<Op>>,
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
}

impl Load {
    pub(crate) fn start(name: &str, pool: &Pool, work: Work) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..WORKERS {
            let (pool, stop, good) = (pool.clone(), stop.clone(), good.clone());
            tasks.spawn(async move {
                let mut ops = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let op = once(&pool, work).await;
                    let failed = op.result.is_err();
                    good.fetch_add(usize::from(!failed), Ordering::Relaxed);
                    ops.push(op);
                    // Nobody asks a server that is gone a thousand times a second.
                    let pause = Duration::from_millis(if failed { 20 } else { 2 });
                    tokio::time::sleep(pause).await;
                }
                ops
            });
        }
        Self { name: name.to_owned(), tasks, stop, good }
    }

    /// Waits until it has done more good work.
    pub(crate) async fn goes_on(&self) {
        let before = self.good.load(Ordering::Relaxed);
        let more = async || Ok(self.good.load(Ordering::Relaxed) >= before + ENOUGH);
        eventually(&format!("{} goes on", self.name), LONG, more).await.unwrap();
    }

    /// Ends it.
    pub(crate) async fn stop(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let ops = self.tasks.join_all().await.into_iter().flatten().collect();
        Done { name: self.name, ops }
    }
}

/// All that was done.
pub(crate) struct Done {
    name: String,
    pub(crate) ops: Vec<Op>,
}

impl Done {
    /// Not one failed, and there were some.
    pub(crate) fn lost_nothing(&self) {
        let failed: Vec<_> = self.failed().collect();
        assert!(failed.is_empty(), "{}: {failed:#?}", self.name);
        assert!(self.ops.len() >= ENOUGH, "{}: {} operations", self.name, self.ops.len());
    }

    /// What failed was under way while its server was gone.
    pub(crate) fn failed_only_within(&self, from: Instant, to: Instant) {
        let outside = self.failed().filter(|op| op.ended < from || op.begun > to);
        let told = |op: &Op| {
            let begun = op.begun.saturating_duration_since(from);
            format!("begun {begun:.3?} after the fault, for {:.3?}: {op:?}", op.ended - op.begun)
        };
        let outside: Vec<_> = outside.map(told).collect();
        let (lasted, name) = (to - from, &self.name);
        assert!(outside.is_empty(), "{name}: {lasted:?} of fault, but {outside:#?}");
    }

    pub(crate) fn failed(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| op.result.is_err())
    }

    /// What was acknowledged.
    pub(crate) fn written(&self) -> Vec<i64> {
        self.ops.iter().filter(|op| op.result.is_ok()).map(|op| op.id).collect()
    }
}

async fn once(pool: &Pool, work: Work) -> Op {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let begun = Instant::now();
    let result = match pool {
        Pool::Sqlx(pool, provider) => on_sqlx(pool, provider, work, id).await,
        Pool::Deadpool(pool) => on_deadpool(pool, work, id).await,
    };
    Op { begun, ended: Instant::now(), id, result }
}

async fn on_sqlx(
    pool: &sqlx::PgPool,
    provider: &CredentialProvider,
    work: Work,
    id: i64,
) -> Result<(), String> {
    let mut conn = leasehold_sqlx::acquire(pool, provider).await.map_err(|e| chain(&e))?;
    let done = match work {
        Work::Read => sqlx::query(READ).bind(account(id)).fetch_one(&mut *conn).await.map(drop),
        Work::Write => sqlx::query(WRITE).bind(id).execute(&mut *conn).await.map(drop),
    };
    done.map_err(|e| chain(&e))
}

async fn on_deadpool(pool: &deadpool_postgres::Pool, work: Work, id: i64) -> Result<(), String> {
    let client = pool.get().await.map_err(|e| chain(&e))?;
    let done = match work {
        Work::Read => client.query_one(READ, &[&account(id)]).await.map(drop),
        Work::Write => client.execute(WRITE, &[&id]).await.map(drop),
    };
    done.map_err(|e| chain(&e))
}

fn account(id: i64) -> i32 {
    i32::try_from(id % 10_000).unwrap()
}
