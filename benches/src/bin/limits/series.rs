//! Closed loops of requests, and how fast they went.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use leasehold_drill::AnyError;
use leasehold_drill::stats::quantile;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::world::{Login, World};

/// One kind of request in a closed loop: each client sends its next when the last was answered.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Series {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) done: usize,
    pub(crate) failed: usize,
}

/// What one kind of role does with some clients: a few seconds of mints, of renewals of what was
/// minted, and then the revocation of all of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) role: &'static str,
    pub(crate) clients: usize,
    /// Logins that live meanwhile, those of the cell not counted.
    pub(crate) live: usize,
    pub(crate) mint: Series,
    pub(crate) renew: Series,
    pub(crate) revoke: Series,
}

pub(crate) async fn cell(
    world: &Arc<World>,
    role: &'static str,
    clients: usize,
    time: Duration,
) -> Result<Cell, AnyError> {
    let live = world.live().await?;
    let (mint, logins) = mints(world, role, clients, Until::After(time)).await;
    let leases: Arc<[String]> = logins.into_iter().map(|login| login.lease).collect();
    let renew = renewals(world, &leases, clients, time).await;
    let revoke = revocations(world, leases.to_vec(), clients).await;
    let cell = Cell { role, clients, live, mint, renew, revoke };
    eprintln!(
        "{role}, {clients} clients, {live} live: mint {:.0}, renew {:.0}, revoke {:.0} per second",
        cell.mint.per_second, cell.renew.per_second, cell.revoke.per_second
    );
    Ok(cell)
}

/// When a series ends: what is under way is waited for.
#[derive(Clone)]
pub(crate) enum Until {
    After(Duration),
    Count(usize),
    Told(Arc<AtomicBool>),
}

/// Mints, and what they brought.
pub(crate) async fn mints(
    world: &Arc<World>,
    role: &'static str,
    clients: usize,
    until: Until,
) -> (Series, Vec<Login>) {
    let logins = Arc::new(Mutex::new(Vec::new()));
    let series = {
        let (world, logins) = (world.clone(), logins.clone());
        run(clients, until, move |_| {
            let (world, logins) = (world.clone(), logins.clone());
            async move {
                let login = world.mint(role).await?;
                logins.lock().unwrap_or_else(PoisonError::into_inner).push(login);
                Ok(())
            }
        })
        .await
    };
    let logins = std::mem::take(&mut *logins.lock().unwrap_or_else(PoisonError::into_inner));
    (series, logins)
}

async fn renewals(
    world: &Arc<World>,
    leases: &Arc<[String]>,
    clients: usize,
    time: Duration,
) -> Series {
    if leases.is_empty() {
        return Series::default();
    }
    let (world, leases) = (world.clone(), leases.clone());
    run(clients, Until::After(time), move |n| {
        let (world, leases) = (world.clone(), leases.clone());
        async move { world.renew(&leases[n % leases.len()], Duration::from_secs(3600)).await }
    })
    .await
}

/// Renews each of these once, so that it ends after `time`.
pub(crate) async fn shorten(
    world: &Arc<World>,
    leases: Vec<String>,
    clients: usize,
    time: Duration,
) -> Series {
    let (world, leases) = (world.clone(), Arc::new(leases));
    run(clients, Until::Count(leases.len()), move |n| {
        let (world, leases) = (world.clone(), leases.clone());
        async move { world.renew(&leases[n], time).await }
    })
    .await
}

/// Revokes each of these.
pub(crate) async fn revocations(world: &Arc<World>, leases: Vec<String>, clients: usize) -> Series {
    let (world, leases) = (world.clone(), Arc::new(leases));
    run(clients, Until::Count(leases.len()), move |n| {
        let (world, leases) = (world.clone(), leases.clone());
        async move { world.revoke(&leases[n]).await }
    })
    .await
}

/// `work` is told how many were begun before it.
async fn run<F>(
    clients: usize,
    until: Until,
    work: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Series
where
    F: Future<Output = Result<(), AnyError>> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (next, work, until) = (next.clone(), work.clone(), until.clone());
        tasks.spawn(async move {
            let (mut took, mut failed) = (Vec::new(), 0);
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let over = match &until {
                    Until::After(time) => begun.elapsed() >= *time,
                    Until::Count(count) => n >= *count,
                    Until::Told(over) => over.load(Ordering::Relaxed),
                };
                if over {
                    return (took, failed);
                }
                let at = Instant::now();
                match work(n).await {
                    Ok(()) => took.push(at.elapsed().as_secs_f64() * 1e3),
                    Err(error) => {
                        failed += 1;
                        eprintln!("failed: {error}");
                    }
                }
            }
        });
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok((more, failures)) => {
                took.extend(more);
                failed += failures;
            }
            Err(error) => {
                failed += 1;
                eprintln!("a client ended: {error}");
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    took.sort_unstable_by(f64::total_cmp);
    Series {
        per_second: took.len() as f64 / seconds,
        p50_ms: quantile(&took, 0.5).unwrap_or_default(),
        p99_ms: quantile(&took, 0.99).unwrap_or_default(),
        done: took.len(),
        failed,
    }
}
