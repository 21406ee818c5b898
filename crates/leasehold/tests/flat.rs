//! Ten thousand rotations, and neither memory nor tasks grow. A program of its own: it counts every
//! byte that is allocated.

#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::clock::Clock;
use leasehold::hook::{BoxFuture, DrainOrder, Drained, ManagedPool, PoolCounts, Proof};
use leasehold::{
    Chain, Credential, CredentialProvider, CredentialSource, ErrorKind, Generation, Issued, Lease,
    RevokeMode, Rotator, SourceError, StaticSource,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TTL: Duration = Duration::from_secs(10);

/// Bytes that are allocated now.
fn live() -> usize {
    let seen = HEAP.stats();
    seen.bytes_allocated - seen.bytes_deallocated
}

/// Makes logins up, and keeps nothing.
#[derive(Debug, Default)]
struct Endless {
    minted: AtomicU64,
    /// What revoking comes to.
    refused: Option<ErrorKind>,
}

impl CredentialSource for Endless {
    async fn issue(&self) -> Result<Issued, SourceError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let number = self.minted.fetch_add(1, Ordering::Relaxed);
        // Of one length, so that no byte of difference is theirs.
        let user = Credential::new(format!("user-{number:08}"), format!("password-{number:08}"));
        let mut lease = Lease::fixed(TTL);
        lease.id = Some(format!("database/creds/app/{number:08}"));
        Ok(Issued::new(user, lease))
    }

    async fn revoke(&self, _: &Lease, _: RevokeMode) -> Result<(), SourceError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.refused.map_or(Ok(()), |kind| Err(SourceError::new(kind, "scripted")))
    }
}

/// Unreachable for ever.
#[derive(Debug)]
struct Away;

impl CredentialSource for Away {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Err(SourceError::unreachable("scripted"))
    }
}

struct Pool;

impl ManagedPool for Pool {
    fn name(&self) -> &str {
        "flat"
    }
    fn prove<'a>(&'a self, _: &'a Arc<Generation>) -> BoxFuture<'a, Proof> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Proof::Proven
        })
    }
    fn install(&self, _: &Arc<Generation>) {}
    fn distrust(&self) {}
    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            order.settled("flat");
            order.rolled("flat");
            Drained::clean()
        })
    }
    fn close(&self) {}
    fn is_closed(&self) -> bool {
        false
    }
    fn counts(&self) -> PoolCounts {
        PoolCounts::new(1, 1)
    }
}

fn clock() -> Clock {
    let start = tokio::time::Instant::now();
    let base = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    Clock::with_wall(move || base + start.elapsed())
}

/// Bytes and tasks at a moment when nothing is in flight.
async fn at_generation(provider: &CredentialProvider, number: u64) -> (usize, usize) {
    let mut swaps = provider.subscribe();
    while provider.current().number() < number {
        swaps.changed().await.unwrap();
    }
    drop(swaps);
    // The drain and the revocation of the one before are over by then, and the next is far.
    tokio::time::sleep(Duration::from_secs(2)).await;
    (live(), tokio::runtime::Handle::current().metrics().num_alive_tasks())
}

/// From a tenth of the rotations on.
async fn stays_flat(what: &str, rotations: u64, source: impl CredentialSource, clock: Clock) {
    let rotator =
        Rotator::builder(source).clock(clock).grace(Duration::from_secs(1)).start().await.unwrap();
    let provider = rotator.provider();
    provider.attach(|_| (Arc::new(Pool) as Arc<dyn ManagedPool>, ())).unwrap();
    // A reader that lags for ever: what it missed is dropped, not kept.
    let _lags = provider.events();
    let early = rotations / 10;
    let (bytes, tasks) = at_generation(&provider, early).await;
    let (end_bytes, end_tasks) = at_generation(&provider, rotations).await;
    println!(
        "{what}: {bytes} bytes at rotation {early}, {end_bytes} at {rotations}; {tasks} tasks"
    );
    assert_eq!(tasks, end_tasks, "{what}");
    // The ring of events holds a thousand of them, each with its text: not the same at both ends.
    assert!(end_bytes <= bytes + 8 * 1024, "{what}: {bytes} bytes grew to {end_bytes}");
    rotator.shutdown(Duration::from_secs(1)).await;
}

/// One test: what others allocate meanwhile would be counted too.
#[tokio::test(start_paused = true)]
async fn ten_thousand_rotations_take_no_more_memory_than_a_thousand() {
    stays_flat("dynamic", 10_000, Endless::default(), clock()).await;
    let denied = Endless { refused: Some(ErrorKind::Denied), ..Endless::default() };
    stays_flat("revoking is denied", 3_000, denied, clock()).await;
    let denied = Endless { refused: Some(ErrorKind::Denied), ..Endless::default() };
    let time = clock();
    let chain = Chain::new(Away, denied).clock(time.clone());
    stays_flat("a chain on its fallback, revoking is denied", 3_000, chain, time).await;
    let time = clock();
    let chain = Chain::new(Endless::default(), StaticSource::new("app", "pw")).clock(time.clone());
    stays_flat("a chain on its primary", 3_000, chain, time).await;
}
