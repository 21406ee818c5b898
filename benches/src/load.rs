//! The load: short transactions on a fixed schedule, and a long one now and then.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

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
}

impl Op {
    pub(crate) fn ended(&self) -> Instant {
        self.begun + self.took
    }

    pub(crate) fn sqlstate(&self) -> &str {
        self.failure.as_ref().map_or("00000", |f| &f.sqlstate)
    }
}

/// Runs all tasks until `end`; returns the operations and how many slots were skipped.
pub(crate) async fn run(args: &Args, pool: AnyPool, end: Instant) -> (Vec<Op>, u64) {
    let (ops, mut taken) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..args.workers {
        let (pool, ops) = (pool.clone(), ops.clone());
        let pace = Duration::from_millis(args.pace_ms);
        tasks.spawn(async move { short(worker, pace, pool, ops, end).await });
    }
    if args.long_every > 0.0 {
        let every = Duration::from_secs_f64(args.long_every);
        let pause = Duration::from_secs_f64(args.long_secs);
        tasks.spawn(async move { long(every, pause, pool, ops, end).await });
    } else {
        drop(ops);
    }
    let mut all = Vec::new();
    let mut told = Instant::now();
    while let Some(op) = taken.recv().await {
        all.push(op);
        if told.elapsed() >= Duration::from_secs(10) {
            told = Instant::now();
            let failed = all.iter().filter(|o: &&Op| o.failure.is_some()).count();
            eprintln!("{} operations, {failed} failed", all.len());
        }
    }
    let mut skipped = 0;
    while let Some(done) = tasks.join_next().await {
        skipped += done.unwrap_or(0);
    }
    (all, skipped)
}

async fn short(
    worker: usize,
    pace: Duration,
    pool: AnyPool,
    ops: mpsc::UnboundedSender<Op>,
    end: Instant,
) -> u64 {
    let mut skipped = 0;
    // Workers don't march in step.
    let mut slot = Instant::now() + pace.mul_f64(fastrand::f64());
    loop {
        if !pace.is_zero() {
            tokio::time::sleep_until(slot.into()).await;
        }
        if Instant::now() >= end {
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

async fn long(
    every: Duration,
    pause: Duration,
    pool: AnyPool,
    ops: mpsc::UnboundedSender<Op>,
    end: Instant,
) -> u64 {
    let mut slot = Instant::now() + every / 2;
    let mut tasks = tokio::task::JoinSet::new();
    let mut id = 9000;
    while slot + pause < end {
        tokio::time::sleep_until(slot.into()).await;
        let (pool, ops) = (pool.clone(), ops.clone());
        tasks.spawn(async move {
            let _ = ops.send(one(&pool, Work { id, pause }, true).await);
        });
        id = 9000 + (id + 1) % 1000;
        slot += every;
    }
    while tasks.join_next().await.is_some() {}
    0
}

async fn one(pool: &AnyPool, work: Work, long: bool) -> Op {
    let (unix, begun) = (unix_now(), Instant::now());
    let mut login = None;
    let failure = pool.transaction(work, &mut login).await.err();
    Op { unix, begun, took: begun.elapsed(), long, login, failure }
}
