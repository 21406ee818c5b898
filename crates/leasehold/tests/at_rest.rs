//! What a rotator takes while nothing happens. A program of its own: it counts every byte that is
//! allocated.

#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::clock::Clock;
use leasehold::{
    Credential, CredentialSource, Issued, Lease, Parent, ParentState, Rotator, SourceError,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Handle;
use tokio::sync::watch;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const HOUR: Duration = Duration::from_secs(3600);
const ROTATORS: usize = 100;

/// Bytes that are allocated now.
fn live() -> usize {
    let seen = HEAP.stats();
    seen.bytes_allocated - seen.bytes_deallocated
}

/// As a dynamic role is: leases that die with a token.
#[derive(Clone, Debug)]
struct Vault {
    token: watch::Receiver<ParentState>,
    asked: Arc<AtomicU64>,
}

impl CredentialSource for Vault {
    async fn issue(&self) -> Result<Issued, SourceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let login = Credential::new("v-approle-orders-rw-0123456789-1700000000", "p".repeat(20));
        let lease = Lease::renewable("database/creds/orders-rw/01234567890123456789", HOUR);
        let parent = Parent::new(self.token.clone(), Arc::new(()));
        Ok(Issued::new(login, lease).with_parent(parent))
    }

    async fn renew(&self, _: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(increment)
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotator_at_rest_takes_a_few_kib_and_three_tasks() {
    let clock = Clock::with_wall(|| std::time::UNIX_EPOCH);
    let (_token, see) = watch::channel(ParentState::ending(clock.now() + 24 * HOUR, true, true));
    let vault = Vault { token: see, asked: Arc::default() };
    let start = async |name: usize| {
        let builder = Rotator::builder(vault.clone()).name(format!("database/creds/{name:04}"));
        builder.clock(clock.clone()).start().await.unwrap()
    };
    let tasks = || Handle::current().metrics().num_alive_tasks();
    // What is made once in a process.
    let _first = start(0).await;
    let mut rotators = Vec::with_capacity(ROTATORS);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (bytes_before, tasks_before) = (live(), tasks());
    for name in 1..=ROTATORS {
        rotators.push(start(name).await);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let bytes = (live() - bytes_before) / ROTATORS;
    let asked = vault.asked.load(Ordering::Relaxed);
    // Its driver, one that follows the token, and one that follows the source.
    assert_eq!((tasks() - tasks_before, asked), (3 * ROTATORS, 1 + ROTATORS as u64));
    assert!(bytes < 16 * 1024, "{bytes} bytes each");

    // A renewal later it is the same.
    tokio::time::sleep(HOUR).await;
    assert!(vault.asked.load(Ordering::Relaxed) >= asked + ROTATORS as u64, "renewed");
    assert_eq!(tasks() - tasks_before, 3 * ROTATORS);
    let later = (live() - bytes_before) / ROTATORS;
    assert!(later < 16 * 1024, "{later} bytes each after a renewal");

    // What the first reader of events costs, and no other.
    let quiet = live();
    let _readers = [(); 10].map(|()| rotators[0].provider().events());
    let room = live() - quiet;
    assert!((16 * 1024..64 * 1024).contains(&room), "{room} bytes for events");
}
