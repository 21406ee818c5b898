//! `max_lifetime` and `idle_timeout`.

use std::time::{Duration, Instant};

use leasehold::Rotator;

use crate::kit::{Events, Kit, eventually, fill, options, shut_down, who};

#[tokio::test(flavor = "multi_thread")]
async fn connections_past_their_lifetime_are_closed_borrowed_or_idle() {
    let kit = Kit::new("lifetime").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let lifetime = Duration::from_millis(300);
    let options = options(2).max_lifetime(lifetime).idle_timeout(None);
    let pool = leasehold_sqlx::connect(&provider, options, kit.base()).await.unwrap();
    let mut held = pool.acquire().await.unwrap();
    let born = Instant::now();
    eventually("old age", async || (born.elapsed() > lifetime).then_some(())).await;
    held.return_to_pool().await;
    assert_eq!(pool.size(), 0);
    fill(&pool, 2).await;
    eventually("the idle ones' end", async || (pool.size() == 0).then_some(())).await;
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_down_to_the_minimum() {
    let kit = Kit::new("idle").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let idle = Duration::from_millis(200);
    let options = options(4).min_connections(1).max_lifetime(None).idle_timeout(idle);
    let pool = leasehold_sqlx::connect(&provider, options, kit.base()).await.unwrap();
    fill(&pool, 4).await;
    eventually("one connection", async || (pool.size() == 1).then_some(())).await;
    let mut kept = pool.acquire().await.unwrap();
    let pid = who(&mut kept).await.1;
    kept.return_to_pool().await;
    let begun = Instant::now();
    eventually("more idle time", async || (begun.elapsed() > 5 * idle).then_some(())).await;
    assert_eq!(who(&mut pool.acquire().await.unwrap()).await.1, pid, "the minimum is left alone");
    // What is in use is never idle for long. (A second one may be dialled where a borrower comes
    // just while the idle one is being looked at.)
    let mut pids = std::collections::BTreeSet::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) {
        let mut conn = pool.acquire().await.unwrap();
        pids.insert(who(&mut conn).await.1);
        conn.return_to_pool().await;
    }
    assert!(pids.len() <= 2, "{pids:?}");
    shut_down(&kit, &rotator).await;
}

/// With no login to replace them, old connections are better than none.
#[tokio::test(flavor = "multi_thread")]
async fn i6_both_rules_rest_while_no_new_login_can_be_made() {
    let kit = Kit::new("rest").await;
    kit.source.claim(Duration::from_secs(3));
    let builder = Rotator::builder(kit.source.clone()).grace(Duration::from_millis(300));
    let rotator = builder.start().await.unwrap();
    let provider = rotator.provider();
    let (lifetime, idle) = (Duration::from_millis(150), Duration::from_millis(100));
    let options = options(2).max_lifetime(lifetime).idle_timeout(idle);
    let pool = leasehold_sqlx::connect(&provider, options, kit.base()).await.unwrap();
    let mut events = Events::of(&provider);
    kit.source.fail();
    events
        .next("the end of the lease", |e| {
            matches!(e, leasehold::Event::Expired { .. }).then_some(())
        })
        .await;
    assert!(!provider.logins_possible());
    fill(&pool, 2).await;
    let begun = Instant::now();
    eventually("idle time", async || (begun.elapsed() > 4 * idle).then_some(())).await;
    assert_eq!(pool.num_idle(), 2);
    let mut conn = pool.acquire().await.unwrap();
    let (_, first) = who(&mut conn).await;
    let begun = Instant::now();
    while begun.elapsed() < 4 * lifetime {
        conn.return_to_pool().await;
        conn = pool.acquire().await.unwrap();
        tokio::task::yield_now().await;
    }
    conn.return_to_pool().await;
    assert_eq!((pool.size(), pool.num_idle()), (2, 2));
    let mut pids = Vec::new();
    for _ in 0..2 {
        let mut conn = pool.acquire().await.unwrap();
        pids.push(who(&mut conn).await.1);
        conn.return_to_pool().await;
    }
    assert!(pids.contains(&first));
    let _ = rotator.shutdown(Duration::from_secs(2)).await;
}
