//! Futures that are dropped before they are done: no slot, no session and no pool is lost.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use tokio_postgres::NoTls;

use crate::kit::{Events, Kit, borrow, eventually, fill, touch};

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
    let kit = Kit::new("dp_cut_connect").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    let mut cuts = 0;
    for polls in 0..200 {
        let connect =
            leasehold_deadpool::connect(&provider, kit.config(), NoTls, |b| b.max_size(2));
        match cut(connect, polls, ANY).await {
            None => cuts += 1,
            Some(pool) => {
                drop(pool.unwrap());
                break;
            }
        }
    }
    assert!(cuts > 3, "it was cut {cuts} times");
    eventually("no pool is attached", async || provider.health().pools.is_empty()).await;
    eventually("no session is left", async || {
        let sessions = kit.db.sessions().await.unwrap();
        sessions.iter().all(|s| s.application_name != "tester")
    })
    .await;
    assert!(rotator.shutdown(Duration::from_secs(5)).await.is_clean());
}

#[tokio::test]
async fn i9_borrowing_may_be_dropped_at_any_point() {
    let kit = Kit::new("dp_cut").await;
    let rotator = kit.start(Duration::from_secs(10)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let mut events = Events::of(&provider);
    for _ in 0..2 {
        fill(&pool, 2).await;
        rotator.rotate();
        // All through the rotation: dials, spares and sweeps come in between.
        let borrowing = async {
            for n in 0_usize.. {
                let time = Duration::from_micros(500) * u32::try_from(n % 20).unwrap();
                let (polls, time) = if n % 2 == 0 { (n / 2 % 8, ANY) } else { (usize::MAX, time) };
                if let Some(client) = cut(pool.get(), polls, time).await {
                    let client = client.unwrap();
                    cut(touch(&client), polls, time).await;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = borrowing => unreachable!("it goes on for ever"),
            _ = events.drained() => {}
        }
        // Both places are there, and no more.
        let held = borrow(&pool, 2).await;
        for client in &held {
            touch(client).await.unwrap();
        }
        assert_eq!(pool.status().size, 2);
    }
    assert!(rotator.shutdown(Duration::from_secs(5)).await.is_clean());
    eventually("no session is left", async || {
        let sessions = kit.db.sessions().await.unwrap();
        sessions.iter().all(|s| s.application_name != "tester")
    })
    .await;
}
