//! Handing a connection out and taking it back allocates nothing more with the hooks than without.
//! A program of its own: it counts every allocation.

#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, Runtime};
use leasehold::{Event, Rotator};
use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack};
use leasehold_vault::{Auth, Session, VaultConfig};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio_postgres::NoTls;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TURNS: usize = 100;

/// Longer than anything takes on a slow machine: a bound, never a measure.
const LONG: Duration = Duration::from_secs(60);

/// The fewest of some series: what else the process does now and then is not in it.
async fn fewest(mut turns: impl AsyncFnMut()) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..10 {
        let region = Region::new(HEAP);
        turns().await;
        fewest = fewest.min(region.change().allocations);
    }
    fewest
}

async fn of_sqlx(pool: &PgPool) -> usize {
    fewest(async || {
        for _ in 0..TURNS {
            pool.acquire().await.unwrap().return_to_pool().await;
        }
    })
    .await
}

async fn of_deadpool(pool: &Pool) -> usize {
    fewest(async || {
        for _ in 0..TURNS {
            drop(pool.get().await.unwrap());
        }
    })
    .await
}

#[tokio::test(flavor = "current_thread")]
async fn handing_out_allocates_nothing_more_than_without_the_hooks() {
    let stack = Stack::start().await.unwrap();
    let hour = Duration::from_secs(3600);
    let role = RoleSpec::new("app").default_ttl(hour).max_ttl(hour);
    let db = stack.database(DatabaseSpec::new("allocations").role(role)).await.unwrap();
    let auth = Auth::approle(db.role_id(), db.secret_id().await.unwrap());
    let session = Session::login(VaultConfig::new(db.vault_addr()), auth).await.unwrap();
    let source = session.dynamic_role(db.mount(), db.role());
    let rotator = Rotator::builder(source).start().await.unwrap();
    let provider = rotator.provider();
    let login = db.creds().await.unwrap();

    let base = PgConnectOptions::new_without_pgpass();
    let base = base.host(db.pg_host()).port(db.pg_port()).database(db.name());
    let options = || PgPoolOptions::new().max_connections(1).acquire_timeout(LONG);
    let own = base.clone().username(&login.username).password(&login.password);
    let plain_sqlx = options().connect_with(own).await.unwrap();
    // A sample is a statement like any other: it is none of what is counted here.
    let installer = leasehold_sqlx::Installer::new().liveness(hour).connect_timeout(LONG);
    let sqlx = installer.connect(&provider, options(), base).await.unwrap();

    let mut own = db.pg_config();
    own.user(&login.username).password(&login.password);
    let manager = Manager::from_config(own, NoTls, ManagerConfig::default());
    let plain_deadpool = Pool::builder(manager).runtime(Runtime::Tokio1).max_size(1);
    let plain_deadpool = plain_deadpool.build().unwrap();
    let installer = leasehold_deadpool::Installer::new().liveness(Some(hour)).connect_timeout(LONG);
    let place = db.pg_config();
    let deadpool = installer.connect(&provider, place, NoTls, |b| b.max_size(1)).await.unwrap();

    // As it is most of the time: after a rotation, and long after it.
    let mut events = provider.events();
    rotator.rotate();
    let drained = async {
        while !matches!(events.recv().await.unwrap(), Event::Drained { generation: 1, .. }) {}
    };
    tokio::time::timeout(LONG, drained).await.unwrap();

    assert_eq!(of_sqlx(&sqlx).await, of_sqlx(&plain_sqlx).await, "sqlx");
    assert_eq!(of_deadpool(&deadpool).await, of_deadpool(&plain_deadpool).await, "deadpool");
    assert_eq!(of_deadpool(&deadpool).await, 0, "deadpool itself needs none either");
}
