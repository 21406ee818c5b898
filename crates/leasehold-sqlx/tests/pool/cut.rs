//! Futures that are dropped before they are done: no slot, no session and no pool is lost.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use crate::kit::{Events, Kit, eventually, fill, options, shut_down, touch};

/// Drops `future` when it is pending for the so manyth time, or after so long. Its output if it was
/// done by then.
async fn cut<F: Future>(future: F, polls: usize, time: Duration) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    let polled = poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => {
                left -= 1;
                if left == 0 { Poll::Ready(None) } else { Poll::Pending }
            }
        }
    });
    tokio::time::timeout(time, polled).await.ok().flatten()
}

const ANY: Duration = Duration::from_secs(60);

#[tokio::test]
async fn i9_a_connect_that_is_dropped_leaves_neither_pool_nor_session() {
    let kit = Kit::new("sqlx_cut_connect").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    let mut cuts = 0;
    for polls in 0..200 {
        let connect = leasehold_sqlx::connect(&provider, options(2), kit.base());
        match cut(connect, polls, ANY).await {
            None => cuts += 1,
            Some(pool) => {
                pool.unwrap().close().await;
                break;
            }
        }
    }
    assert!(cuts > 3, "it was cut {cuts} times");
    // Closed pools are noticed when anything happens, and each few seconds.
    eventually("no pool is attached", async || provider.health().pools.is_empty().then_some(()))
        .await;
    eventually("no session is left", async || {
        let sessions = kit.db.sessions().await.unwrap();
        sessions.iter().all(|s| s.application_name != "tester").then_some(())
    })
    .await;
    shut_down(&kit, &rotator).await;
}

#[tokio::test]
async fn i9_borrowing_and_returning_may_be_dropped_at_any_point() {
    let kit = Kit::new("sqlx_cut").await;
    let rotator = kit.start(Duration::from_secs(10)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let mut events = Events::of(&provider);
    for rotation in 0..2 {
        fill(&pool, 2).await;
        rotator.rotate();
        // All through the rotation: dials, rolls and sweeps come in between.
        let borrow = async {
            for n in 0_usize.. {
                let time = Duration::from_micros(500) * u32::try_from(n % 20).unwrap();
                let (polls, time) = if n % 2 == 0 { (n / 2 % 8, ANY) } else { (usize::MAX, time) };
                let acquire = async {
                    if n % 3 == 0 {
                        pool.acquire().await
                    } else {
                        leasehold_sqlx::acquire(&pool, &provider).await
                    }
                };
                if let Some(conn) = cut(acquire, polls, time).await {
                    let mut conn = conn.unwrap();
                    cut(touch(&mut conn), polls, time).await;
                    cut(conn.return_to_pool(), polls, time).await;
                }
                tokio::task::yield_now().await;
            }
        };
        let drained = async {
            events.swapped().await;
            events.drained_cleanly().await;
        };
        tokio::select! {
            () = borrow => unreachable!("it goes on for ever"),
            () = drained => {}
        }
        // Both places are there.
        let (mut one, mut two) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        assert_eq!((touch(&mut one).await.unwrap(), touch(&mut two).await.unwrap()), (0, 0));
        assert_eq!(pool.size(), 2, "rotation {rotation}");
    }
    shut_down(&kit, &rotator).await;
    pool.close().await;
}

#[tokio::test]
async fn putting_hooks_on_a_pool_may_be_dropped() {
    let kit = Kit::new("sqlx_cut_attach").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    for polls in 0..200 {
        let (hooks, options) = leasehold_sqlx::Installer::new().hooks(&provider, options(2));
        let pool = hooks.install(options).connect_lazy_with(kit.base());
        let done = cut(hooks.attach(&pool), polls, ANY).await;
        pool.close().await;
        if let Some(attached) = done {
            attached.unwrap();
            break;
        }
    }
    eventually("no pool is attached", async || provider.health().pools.is_empty().then_some(()))
        .await;
    shut_down(&kit, &rotator).await;
}
