//! The load: short transactions on a fixed schedule, and a long one now and then.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::args::Args;
use crate::pools::{AnyPool, Failure, Work};
use crate::world::unix_now;

/// One operation, from the wish for a connection to the COMMIT.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) unix: f64,
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    pub(crate) long: bool,
    /// Who the transaction ran as, if it came that far.
    pub(crate) login: Option<String>,
    pub(crate) failure: Option<Failure>,
    /// When it was asked for the current login was known to be dead.
    pub(crate) dead: bool,
    /// When it was asked for, or when it ended, no login could be made as far as was known.
    pub(crate) barren: bool,
}

impl Op {
    pub(crate) fn ended(&self) -> Instant {
        self.begun + self.took
    }

    pub(crate) fn sqlstate(&self) -> &str {
        self.failure.as_ref().map_or("00000", |f| &f.sqlstate)
    }
}

/// How much load there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) workers: usize,
    /// From one start of a worker to its next; zero: as fast as it can.
    pub(crate) pace: Duration,
    /// From one long transaction to the next; zero: none.
    pub(crate) long_every: Duration,
    pub(crate) long: Duration,
}

impl Shape {
    pub(crate) fn of(args: &Args) -> Self {
        Self {
            workers: args.workers,
            pace: Duration::from_millis(args.pace_ms),
            long_every: Duration::from_secs_f64(args.long_every),
            long: Duration::from_secs_f64(args.long_secs),
        }
    }
}

/// When the load ends.
#[derive(Clone, Debug)]
pub(crate) enum Until {
    At(Instant),
    /// When it is told so: the value turns true.
    Told(watch::Receiver<bool>),
}

impl Until {
    /// Over at `then`, as far as is known now.
    fn over_by(&self, then: Instant) -> bool {
        match self {
            Self::At(end) => then >= *end,
            Self::Told(told) => *told.borrow(),
        }
    }
}

/// Runs all tasks until their end; shows each operation to `each`, and returns all of them and how
/// many slots were skipped.
pub(crate) async fn run(
    shape: Shape,
    pool: AnyPool,
    until: Until,
    mut each: impl FnMut(&Op),
) -> (Vec<Op>, u64) {
    let (ops, mut taken) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..shape.workers {
        let (pool, ops, until) = (pool.clone(), ops.clone(), until.clone());
        tasks.spawn(async move { short(worker, shape.pace, pool, ops, until).await });
    }
    if shape.long_every.is_zero() {
        drop((ops, pool));
    } else {
        tasks.spawn(async move { long(shape, pool, ops, until).await });
    }
    let mut all = Vec::new();
    while let Some(op) = taken.recv().await {
        each(&op);
        all.push(op);
    }
    let mut skipped = 0;
    while let Some(done) = tasks.join_next().await {
        skipped += done.unwrap_or(0);
    }
    (all, skipped)
}

/// Tells every 10 s how it goes.
pub(crate) fn progress() -> impl FnMut(&Op) {
    let (mut told, mut all, mut failed) = (Instant::now(), 0, 0);
    move |op| {
        all += 1;
        failed += usize::from(op.failure.is_some());
        if told.elapsed() >= Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{all} operations, {failed} failed");
        }
    }
}

async fn short(
    worker: usize,
    pace: Duration,
    pool: AnyPool,
    ops: mpsc::UnboundedSender<Op>,
    until: Until,
) -> u64 {
    let mut skipped = 0;
    // Workers don't march in step.
    let mut slot = Instant::now() + pace.mul_f64(fastrand::f64());
    loop {
        if !pace.is_zero() {
            tokio::time::sleep_until(slot.into()).await;
        }
        if until.over_by(Instant::now()) {
            return skipped;
        }
        let id = i32::try_from(worker * 1000 + fastrand::usize(..1000)).unwrap_or(0);
        let pause = Duration::from_millis(fastrand::u64(5..=20));
        let op = one(&pool, Work { id, pause }, false).await;
        // The reader outlives all writers.
        let _ = ops.send(op);
        slot += pace;
        while !pace.is_zero() && slot < Instant::now() {
            slot += pace;
            skipped += 1;
        }
    }
}

async fn long(shape: Shape, pool: AnyPool, ops: mpsc::UnboundedSender<Op>, until: Until) -> u64 {
    let mut slot = Instant::now() + shape.long_every / 2;
    let mut tasks = tokio::task::JoinSet::new();
    let mut id = 9000;
    while !until.over_by(slot + shape.long) {
        tokio::time::sleep_until(slot.into()).await;
        if until.over_by(Instant::now()) {
            break;
        }
        let (pool, ops) = (pool.clone(), ops.clone());
        tasks.spawn(async move {
            let _ = ops.send(one(&pool, Work { id, pause: shape.long }, true).await);
        });
        id = 9000 + (id + 1) % 1000;
        slot += shape.long_every;
    }
    while tasks.join_next().await.is_some() {}
    0
}

async fn one(pool: &AnyPool, work: Work, long: bool) -> Op {
    let (unix, begun) = (unix_now(), Instant::now());
    let provider = &pool.provider;
    let (dead, possible) = (provider.current().is_dead(), provider.logins_possible());
    let mut login = None;
    let failure = pool.transaction(work, &mut login).await.err();
    let barren = !(possible && provider.logins_possible());
    Op { unix, begun, took: begun.elapsed(), long, login, failure, dead, barren }
}
