//! The same servers in Docker containers. Off by default:
//! `cargo test -p leasehold-tests --features containers --test rotation_in_containers`, with
//! LEASEHOLD_BAO_IMAGE and LEASEHOLD_POSTGRES_IMAGE for images other than the official ones.
#![cfg(feature = "containers")]
#![allow(clippy::unwrap_used)]

use leasehold_testkit::Stack;
use leasehold_tests::*;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_pool_rotates_and_leaves_nothing_on_servers_in_containers() {
    let stack = Stack::containers().await.unwrap();
    let db = database(&stack, "containers", 600, 3600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let base = PgConnectOptions::new_without_pgpass()
        .host(db.pg_host())
        .port(db.pg_port())
        .database(db.name());
    let options = PgPoolOptions::new().max_connections(4);
    let pool = leasehold_sqlx::connect(&provider, options, base).await.unwrap();
    let mut events = provider.events();
    for generation in 2..=4 {
        rotator.rotate();
        swapped(&mut events).await;
        revoked(&mut events, generation - 1).await;
        sqlx::query("UPDATE accounts SET v = v + 1 WHERE id = 1").execute(&pool).await.unwrap();
    }
    let report = rotator.shutdown(s(10)).await;
    assert!(report.is_clean(), "{report}");
    nothing_left(&db).await;
}
