//! What is handed out around a swap.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leasehold::{Event, Rotator};
use leasehold_testkit::{Catch, SocketWatch};

use crate::kit::{Events, Kit, fill, options, shut_down, touch, who};

/// The dial is held so long that the rotation goes on without it.
#[tokio::test(flavor = "multi_thread")]
async fn i1_a_dial_that_straddles_the_swap_is_counted_and_its_connection_drained() {
    let kit = Kit::new("straddle").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let proxy = kit.db.stack().postgres_proxy().await.unwrap();
    let provider = rotator.provider();
    let pool =
        leasehold_sqlx::connect_lazy(&provider, options(4), kit.base_at(proxy.port())).unwrap();
    let mut events = Events::of(&provider);

    let held = proxy.trap(Catch::connection());
    let straddler = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut conn = pool.acquire().await.unwrap();
            let (user, pid) = who(&mut conn).await;
            touch(&mut conn).await.unwrap();
            conn.return_to_pool().await;
            (user, pid)
        }
    });
    held.caught().await;
    let old = provider.current().credential().username().to_owned();
    rotator.rotate();
    let new = events.swapped().await;
    events
        .next("the bound on waiting for dials", |e| match e {
            Event::Warning { pool: Some(_), message } => {
                message.contains("in flight").then_some(())
            }
            Event::Drained { .. } => panic!("drained while a dial was in flight"),
            _ => None,
        })
        .await;
    events.roll_ended().await;
    events.remaining(1).await;
    assert_eq!(kit.source.revoked(), vec![]);

    held.release();
    let (user, pid) = straddler.await.unwrap();
    assert_eq!(user, old);
    events.drained_cleanly().await;
    assert_eq!(kit.source.first_revoked().await.sessions, 0);
    let mut conn = pool.acquire().await.unwrap();
    let (user, next_pid) = who(&mut conn).await;
    assert_eq!(user, new);
    assert_ne!(next_pid, pid);
    drop(conn);
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_dial_after_the_swap_uses_the_new_login() {
    let kit = Kit::new("after").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    let mut events = Events::of(&provider);
    let held = pool.acquire().await.unwrap();
    rotator.rotate();
    let new = events.swapped().await;
    // Nothing is idle: this one is dialled.
    let mut fresh = pool.acquire().await.unwrap();
    assert_eq!(who(&mut fresh).await.0, new);
    drop((held, fresh));
    events.drained_cleanly().await;
    shut_down(&kit, &rotator).await;
}

/// Borrowers without a pause, through two rotations.
async fn superseded_handouts(kit: &Kit, rotator: &Rotator) -> usize {
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    fill(&pool, 4).await;
    let ends: Arc<Mutex<Vec<(u64, Instant)>>> = Arc::default();
    let mut feed = provider.events();
    let watcher = tokio::spawn({
        let ends = ends.clone();
        async move {
            while let Ok(event) = feed.recv().await {
                if let Event::RollEnded { generation, .. } = event {
                    ends.lock().unwrap().push((generation, Instant::now()));
                }
            }
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (pool, stop) = (pool.clone(), stop.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let mut conn = pool.acquire().await.unwrap();
                    let user = who(&mut conn).await.0;
                    touch(&mut conn).await.unwrap();
                    seen.push((begun, user));
                }
                seen
            })
        })
        .collect();
    let mut events = Events::of(&provider);
    let mut users = vec![provider.current().credential().username().to_owned()];
    for _ in 0..2 {
        rotator.rotate();
        users.push(events.swapped().await);
        events.drained_cleanly().await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut late = 0;
    for worker in workers {
        for (begun, user) in worker.await.unwrap() {
            let generation = 1 + users.iter().position(|u| *u == user).unwrap() as u64;
            let ends = ends.lock().unwrap();
            let end = ends.iter().find(|(number, _)| *number == generation);
            late += usize::from(end.is_some_and(|(_, end)| begun > *end));
        }
    }
    for (n, revoked) in kit.source.revoked().iter().enumerate() {
        assert_eq!((&revoked.user, revoked.sessions), (&users[n], 0));
    }
    watcher.abort();
    late
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_nothing_superseded_is_handed_out_after_the_roll() {
    let kit = Kit::new("roll").await;
    let rotator = kit.start(Duration::from_secs(10)).await;
    assert_eq!(superseded_handouts(&kit, &rotator).await, 0);
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_nothing_superseded_is_handed_out_without_a_roll() {
    let kit = Kit::new("noroll").await;
    let builder = Rotator::builder(kit.source.clone()).grace(Duration::from_secs(10));
    let rotator = builder.roll(Duration::ZERO).start().await.unwrap();
    assert_eq!(superseded_handouts(&kit, &rotator).await, 0);
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_what_comes_back_after_the_roll_is_not_handed_out_again() {
    let kit = Kit::new("late").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let mut events = Events::of(&provider);
    let mut held = pool.acquire().await.unwrap();
    rotator.rotate();
    let new = events.swapped().await;
    events.roll_ended().await;
    held.return_to_pool().await;
    for _ in 0..3 {
        let mut conn = pool.acquire().await.unwrap();
        assert_eq!(who(&mut conn).await.0, new);
        conn.return_to_pool().await;
    }
    shut_down(&kit, &rotator).await;
}

/// While the roll lasts, a borrower gets what there is: it pays for no connect.
#[tokio::test(flavor = "multi_thread")]
async fn the_roll_replaces_connections_at_the_rotators_expense() {
    let kit = Kit::new("expense").await;
    let rotator = kit.start(Duration::from_secs(10)).await;
    let provider = rotator.provider();
    let dials: Arc<Mutex<Vec<Option<tokio::task::Id>>>> = Arc::default();
    let options = options(4).after_connect({
        let dials = dials.clone();
        move |_, _| {
            dials.lock().unwrap().push(tokio::task::try_id());
            Box::pin(async { Ok(()) })
        }
    });
    let pool = leasehold_sqlx::connect(&provider, options, kit.base()).await.unwrap();
    let mut events = Events::of(&provider);
    let borrower = tokio::spawn(async move {
        fill(&pool, 4).await;
        dials.lock().unwrap().clear();
        rotator.rotate();
        events.swapped().await;
        let me = tokio::task::try_id();
        let ended = events.drained_cleanly();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                biased;
                () = &mut ended => break,
                conn = pool.acquire() => { touch(&mut conn.unwrap()).await.unwrap(); }
            }
        }
        let dials = dials.lock().unwrap().clone();
        assert_eq!(dials.len(), 4, "each was replaced once");
        assert!(!dials.contains(&me), "a borrower dialled");
        rotator
    });
    let rotator = borrower.await.unwrap();
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_sockets_than_the_pools_maximum_and_one() {
    let kit = Kit::new("sockets").await;
    let rotator = kit.start(Duration::from_secs(10)).await;
    let provider = rotator.provider();
    let proxy = kit.db.stack().postgres_proxy().await.unwrap();
    let watch = SocketWatch::start(proxy.port(), Duration::from_millis(1));
    let pool =
        leasehold_sqlx::connect(&provider, options(3), kit.base_at(proxy.port())).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..6)
        .map(|_| {
            let (pool, stop) = (pool.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    touch(&mut pool.acquire().await.unwrap()).await.unwrap();
                }
            })
        })
        .collect();
    let mut events = Events::of(&provider);
    let held = pool.acquire().await.unwrap();
    rotator.rotate();
    events.swapped().await;
    events.roll_ended().await;
    events.remaining(1).await;
    // The next login is proven while the last is still drained.
    rotator.rotate();
    events.swapped().await;
    drop(held);
    events.drained_cleanly().await;
    events.drained_cleanly().await;
    stop.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await.unwrap();
    }
    let most = watch.map_or(0, |watch| watch.most());
    assert!(most >= 4, "the control connection was not seen");
    assert!(most <= 4, "{most} sockets");
    shut_down(&kit, &rotator).await;
}
