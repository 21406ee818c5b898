//! How a superseded generation goes.

use std::time::Duration;

use leasehold::{Event, Rotator};
use sqlx::Connection;
use sqlx::postgres::PgListener;

use crate::kit::{Events, Kit, eventually, fill, shut_down, touch, who};

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_borrowed_connection_is_not_closed_before_the_deadline() {
    let kit = Kit::new("borrowed").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    fill(&pool, 3).await;
    let mut events = Events::of(&provider);
    let mut tx = pool.begin().await.unwrap();
    let (old, pid) = who(&mut tx).await;
    rotator.rotate();
    events.swapped().await;
    events.roll_ended().await;
    events.remaining(1).await;
    sqlx::query("UPDATE accounts SET v = 7 WHERE id = 1").execute(&mut *tx).await.unwrap();
    assert_eq!(who(&mut tx).await, (old.clone(), pid));
    tx.commit().await.unwrap();
    events.drained_cleanly().await;
    let revoked = kit.source.first_revoked().await;
    assert_eq!((revoked.user, revoked.sessions), (old, 0));
    assert_eq!(touch(&mut pool.acquire().await.unwrap()).await.unwrap(), 7);
    shut_down(&kit, &rotator).await;
}

/// No hook of the pool sees these any more; the server does.
#[tokio::test(flavor = "multi_thread")]
async fn i4_revoked_only_when_listeners_and_detached_connections_are_gone() {
    let kit = Kit::new("detached").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    let mut events = Events::of(&provider);
    let mut detached = pool.acquire().await.unwrap().detach();
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("x").await.unwrap();
    let (old, _) = who(&mut detached).await;
    rotator.rotate();
    events.swapped().await;
    events.roll_ended().await;
    events.remaining(2).await;
    touch(&mut detached).await.unwrap();
    assert_eq!(kit.source.revoked(), vec![]);
    drop(listener);
    events.remaining(1).await;
    touch(&mut detached).await.unwrap();
    assert_eq!(kit.source.revoked(), vec![]);
    detached.close().await.unwrap();
    events.drained_cleanly().await;
    let revoked = kit.source.first_revoked().await;
    assert_eq!((revoked.user, revoked.sessions), (old, 0));
    shut_down(&kit, &rotator).await;
}

/// The connections beside two pools are of the login that both drain: neither waits for the
/// other's.
#[tokio::test(flavor = "multi_thread")]
async fn i9_a_shutdown_of_two_pools_leaves_nothing_and_waits_for_no_deadline() {
    let kit = Kit::new("two").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let (one, two) = (kit.pool(&provider, 3).await, kit.pool(&provider, 3).await);
    fill(&one, 3).await;
    fill(&two, 3).await;
    let mut events = Events::of(&provider);
    shut_down(&kit, &rotator).await;
    events.drained_cleanly().await;
    assert!(one.is_closed() && two.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_shutdown_waits_for_a_borrower() {
    let kit = Kit::new("shutdown").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    fill(&pool, 3).await;
    let mut events = Events::of(&provider);
    let mut held = pool.acquire().await.unwrap();
    let shutdown = tokio::spawn(async move { rotator.shutdown(Duration::from_secs(15)).await });
    // Idle ones close at once, though sqlx itself would wait for the borrowed one.
    events.remaining(1).await;
    touch(&mut held).await.unwrap();
    assert!(pool.acquire().await.is_err());
    drop(held);
    assert!(shutdown.await.unwrap().is_clean());
    events.drained_cleanly().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_pool_that_its_user_closed_still_drains_what_is_borrowed() {
    let kit = Kit::new("closed").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    let mut events = Events::of(&provider);
    let mut held = pool.acquire().await.unwrap();
    drop(pool.close());
    rotator.rotate();
    events.swapped().await;
    events.remaining(1).await;
    touch(&mut held).await.unwrap();
    assert_eq!(kit.source.revoked(), vec![]);
    drop(held);
    events.drained_cleanly().await;
    assert_eq!(kit.source.first_revoked().await.sessions, 0);
    events.next("the pool's end", |e| matches!(e, Event::PoolDetached { .. }).then_some(())).await;
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_closed_before_the_rotator_is_fed_no_longer() {
    let kit = Kit::new("gone").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    let mut events = Events::of(&provider);
    pool.close().await;
    rotator.rotate();
    events.next("the pool's end", |e| matches!(e, Event::PoolDetached { .. }).then_some(())).await;
    events.drained_cleanly().await;
    shut_down(&kit, &rotator).await;
}

/// Nobody takes or returns anything, and no roll looks at what is idle.
#[tokio::test(flavor = "multi_thread")]
async fn i4_idle_connections_are_closed_though_nobody_uses_the_pool() {
    let kit = Kit::new("sweep").await;
    let builder = Rotator::builder(kit.source.clone()).grace(Duration::from_secs(15));
    let rotator = builder.roll(Duration::ZERO).start().await.unwrap();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    fill(&pool, 4).await;
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.drained_cleanly().await;
    assert_eq!(pool.size(), 0);
    assert_eq!(kit.source.first_revoked().await.sessions, 0);
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_pool_rotates_before_and_after_its_first_connection() {
    let kit = Kit::new("lazy").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = leasehold_sqlx::connect_lazy(&provider, crate::kit::options(3), kit.base()).unwrap();
    let mut events = Events::of(&provider);
    assert_eq!(kit.db.sessions().await.unwrap().len(), 0);
    rotator.rotate();
    let second = events.swapped().await;
    events.drained_cleanly().await;
    assert_eq!(who(&mut pool.acquire().await.unwrap()).await.0, second);
    rotator.rotate();
    let third = events.swapped().await;
    events.drained_cleanly().await;
    assert_eq!(who(&mut pool.acquire().await.unwrap()).await.0, third);
    shut_down(&kit, &rotator).await;
}

/// The younger generation's roll does not wait for the end of the older one's, which is far.
#[tokio::test(flavor = "multi_thread")]
async fn i2_drains_that_overlap_each_end_with_their_own_last_connection() {
    const FAR: Duration = Duration::from_secs(600);
    let kit = Kit::new("overlap").await;
    kit.source.claim(FAR * 6);
    let builder = Rotator::builder(kit.source.clone()).grace(FAR).roll(FAR);
    let rotator = builder.start().await.unwrap();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    fill(&pool, 2).await;
    let mut events = Events::of(&provider);
    let mut first = pool.acquire().await.unwrap();
    let (old, pid) = who(&mut first).await;
    rotator.rotate();
    let second = events.swapped().await;
    eventually("the roll to replace what is idle", async || {
        let sessions = kit.db.sessions_of(&second).await.unwrap();
        sessions.iter().any(|s| s.application_name == "tester").then_some(())
    })
    .await;
    rotator.rotate();
    let third = events.swapped().await;
    let drained = events.next("the end of a drain", |e| match e {
        Event::Drained { generation, forced, left: 0, .. } if forced.is_empty() => {
            Some(*generation)
        }
        _ => None,
    });
    assert_eq!(drained.await, 2, "the younger one first");
    assert_eq!(who(&mut first).await, (old, pid), "borrowed means safe");
    drop(first);
    events.drained_cleanly().await;
    assert_eq!(who(&mut pool.acquire().await.unwrap()).await.0, third);
    shut_down(&kit, &rotator).await;
}

/// 53300: the pool gives up one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_login_is_proven_though_no_connection_is_free() {
    let kit = Kit::new("full").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    fill(&pool, 2).await;
    // The connection on which the first login was proven is closed, its backend may not be.
    eventually("two sessions", async || {
        (kit.db.sessions().await.unwrap().len() == 2).then_some(())
    })
    .await;
    let limit = format!("ALTER DATABASE \"{}\" CONNECTION LIMIT 2", kit.db.name());
    kit.db.admin().await.unwrap().batch_execute(&limit).await.unwrap();
    let mut events = Events::of(&provider);
    rotator.rotate();
    let new = events.swapped().await;
    events.drained_cleanly().await;
    assert_eq!(who(&mut pool.acquire().await.unwrap()).await.0, new);
    shut_down(&kit, &rotator).await;
}
