//! Closed-loop load: each task asks for the next thing after it has had the last one and thought.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::task::JoinSet;

use super::target::AnyPool;
use crate::AnyError;
use crate::outcome::chain;

/// From the wish for a connection to the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) begun: Instant,
    pub(super) took: Duration,
    pub(super) failed: bool,
}

impl Op {
    pub(super) fn overlaps(&self, window: &Window) -> bool {
        self.begun < window.end && self.begun + self.took > window.begin
    }
}

/// A time of the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

impl Window {
    pub(super) fn length(&self) -> Duration {
        self.end - self.begin
    }
}

/// Tasks under way.
pub(super) struct Load {
    tasks: JoinSet<Vec<Op>>,
    over: Arc<AtomicBool>,
}

impl Load {
    pub(super) fn start(pool: &Arc<ArcSwap<AnyPool>>, tasks: usize, think: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for task in 0..tasks {
            let (pool, over) = (pool.clone(), over.clone());
            set.spawn(async move {
                let mut ops = Vec::new();
                let mut told = false;
                while !over.load(Ordering::Relaxed) {
                    // Not in step with each other.
                    tokio::time::sleep(think.mul_f64(0.5 + fastrand::f64())).await;
                    let begun = Instant::now();
                    let done = pool.load_full().query(fastrand::i32(0..1000)).await;
                    let took = begun.elapsed();
                    ops.push(Op { begun, took, failed: done.is_err() });
                    if let Err(error) = done
                        && !std::mem::replace(&mut told, true)
                        && task == 0
                    {
                        eprintln!("    the first failure of a task: {}", chain(&*error));
                    }
                }
                ops
            });
        }
        Self { tasks: set, over }
    }

    /// All that was done, in the order of its beginning.
    pub(super) async fn stop(mut self) -> Result<Vec<Op>, AnyError> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(ops) = self.tasks.join_next().await {
            all.extend(ops?);
        }
        all.sort_unstable_by_key(|op| op.begun);
        Ok(all)
    }
}
