//! What is a matter of nanoseconds: a connection from deadpool, and the current login.

use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Instant;

use arc_swap::ArcSwap;
use leasehold::{CredentialProvider, Generation};
use leasehold_drill::AnyError;
use leasehold_drill::stats::{self, Ratio};
use serde::Serialize;

use crate::pools::AnyPool;

/// Short enough that most rounds are not interrupted.
const GETS: u32 = 1000;

/// Reads of each thread and round.
const READS: u32 = 50_000;

/// Bare `get` and drop, in nanoseconds.
#[derive(Debug, Serialize)]
pub(crate) struct GetDrop {
    pub(crate) plain_ns: f64,
    pub(crate) hooked_ns: f64,
    /// The difference.
    pub(crate) hook_ns: Ratio,
}

/// One task, `rounds` short rounds of each side, alternating.
pub(crate) async fn get_drop(pools: &[AnyPool; 2], rounds: usize) -> Result<GetDrop, AnyError> {
    let mut seen = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let begun = Instant::now();
            // tokio would have the task pause every 128 gets.
            tokio::task::unconstrained(async {
                for _ in 0..GETS {
                    pools[side].use_one(false).await?;
                }
                Ok::<_, AnyError>(())
            })
            .await?;
            seen[side].push(begun.elapsed().as_nanos() as f64 / f64::from(GETS));
        }
    }
    let [plain, hooked] = seen;
    let difference = hooked.iter().zip(&plain).map(|(hooked, plain)| hooked - plain);
    Ok(GetDrop {
        hook_ns: Ratio::of_pairs(difference).ok_or("no rounds")?,
        plain_ns: median(plain)?,
        hooked_ns: median(hooked)?,
    })
}

/// Nanoseconds of one core for one read, while so many threads read.
#[derive(Debug, Serialize)]
pub(crate) struct Current {
    pub(crate) threads: usize,
    /// `CredentialProvider::current`, one provider for all.
    pub(crate) current_ns: f64,
    /// The same where each thread has one of its own: what is left of the difference is contention,
    /// and not a busy machine or two threads on one core.
    pub(crate) apart_ns: f64,
    /// One provider for all, to one for each.
    pub(crate) contention: Ratio,
    /// The same `Arc` cloned out of a `Mutex`.
    pub(crate) mutex_ns: f64,
    /// And out of an `RwLock`.
    pub(crate) rwlock_ns: f64,
}

pub(crate) fn current(
    provider: &CredentialProvider,
    threads: usize,
    rounds: usize,
) -> Result<Current, AnyError> {
    let generation = provider.current().clone();
    let apart: Vec<_> = (0..threads).map(|_| ArcSwap::new(generation.clone())).collect();
    let mutex = Mutex::new(generation.clone());
    let rwlock = RwLock::new(generation.clone());
    let cloned = |generation: Arc<Generation>| generation.number();
    let shared = || read(threads, |_| provider.current().number());
    let own = || read(threads, |thread| apart[thread].load().number());
    let mut seen: [Vec<f64>; 4] = Default::default();
    for round in 0..rounds {
        if round % 2 == 0 {
            seen[0].push(shared()?);
            seen[1].push(own()?);
        } else {
            seen[1].push(own()?);
            seen[0].push(shared()?);
        }
        seen[2].push(read(threads, |_| {
            cloned(mutex.lock().unwrap_or_else(PoisonError::into_inner).clone())
        })?);
        seen[3].push(read(threads, |_| {
            cloned(rwlock.read().unwrap_or_else(PoisonError::into_inner).clone())
        })?);
    }
    let [current, apart, mutex, rwlock] = seen;
    let pairs = current.iter().zip(&apart).map(|(shared, own)| shared / own);
    Ok(Current {
        threads,
        contention: Ratio::of_pairs(pairs).ok_or("no rounds")?,
        current_ns: median(current)?,
        apart_ns: median(apart)?,
        mutex_ns: median(mutex)?,
        rwlock_ns: median(rwlock)?,
    })
}

/// From the first thread's first read to the last one's last.
fn read(threads: usize, one: impl Fn(usize) -> u64 + Sync) -> Result<f64, AnyError> {
    let cores = thread::available_parallelism()?.get();
    let (barrier, one) = (Barrier::new(threads), &one);
    let spans = thread::scope(|scope| {
        let start = |thread| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                let begun = Instant::now();
                for _ in 0..READS {
                    black_box(one(black_box(thread)));
                }
                (begun, Instant::now())
            })
        };
        let started: Vec<_> = (0..threads).map(start).collect();
        let ended = started.into_iter().map(|thread| thread.join());
        ended.collect::<Result<Vec<_>, _>>().map_err(|_| "a reader panicked")
    })?;
    let begun = spans.iter().map(|(begun, _)| *begun).min().ok_or("no threads")?;
    let ended = spans.iter().map(|(_, ended)| *ended).max().ok_or("no threads")?;
    let busy = (ended - begun).as_nanos() as f64 * threads.min(cores) as f64;
    Ok(busy / (threads as f64 * f64::from(READS)))
}

fn median(mut series: Vec<f64>) -> Result<f64, AnyError> {
    series.sort_unstable_by(f64::total_cmp);
    stats::quantile(&series, 0.5).ok_or_else(|| "no rounds".into())
}
