//! Rotations under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::Event;
use leasehold_testkit::SocketWatch;

use crate::kit::{Events, Kit, is_drained};

#[tokio::test(flavor = "multi_thread")]
async fn rotations_under_load_lose_no_query_and_never_need_more_than_one_socket_above_the_maximum()
{
    let kit = Kit::new("dp_load").await;
    kit.source.ttl(Duration::from_millis(2500));
    let rotator = kit.start(Duration::from_millis(800)).await;
    let provider = rotator.provider();
    let proxy = kit.db.stack().postgres_proxy().await.unwrap();
    let watch = SocketWatch::start(proxy.port(), Duration::from_millis(1));
    let pool = kit.pool_at(&provider, 4, proxy.port()).await;
    let mut events = Events::of(&provider);
    let done = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (pool, done) = (pool.clone(), done.clone());
            tokio::spawn(async move {
                let mut ok = 0;
                while !done.load(Ordering::SeqCst) {
                    let mut client = pool.get().await.unwrap();
                    let transaction = client.transaction().await.unwrap();
                    let sql = "UPDATE accounts SET v = v + 1 WHERE id = $1";
                    transaction.execute(sql, &[&worker]).await.unwrap();
                    transaction.commit().await.unwrap();
                    ok += 1;
                }
                ok
            })
        })
        .collect();
    for _ in 0..4 {
        let Event::Drained { forced, left, .. } = events.wait("drain", is_drained).await else {
            unreachable!()
        };
        assert!(forced.is_empty() && left == 0, "{:#?}", events.seen);
    }
    done.store(true, Ordering::SeqCst);
    let mut ok = 0;
    for worker in workers {
        ok += worker.await.unwrap();
    }
    assert!(ok > 100, "{ok} transactions");
    assert!(kit.source.revoked().iter().all(|r| r.sessions == 0), "{:?}", kit.source.revoked());
    let most = watch.map_or(0, |watch| watch.most());
    assert!(most <= 5, "{most} sockets at once for a pool of 4");
}
