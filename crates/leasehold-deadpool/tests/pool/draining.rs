//! How a generation leaves.

use std::time::Duration;

use deadpool_postgres::Object;
use leasehold::Event;
use leasehold_testkit::{Catch, Direction, Toxic};
use tokio_postgres::NoTls;

use crate::kit::{Events, Kit, LIMIT, Revoked, borrow, eventually, fill, touch, who};

const GRACE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_handshake_that_straddles_the_swap_is_counted_and_dialled_anew() {
    let kit = Kit::new("dp_straddle").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let proxy = kit.db.stack().postgres_proxy().await.unwrap();
    let pool = kit.pool_at(&provider, 4, proxy.port()).await;
    let old = provider.current().credential().username().to_owned();
    pool.retain(|_, _| false);
    let mut events = Events::of(&provider);

    let held = proxy.trap(Catch::connection());
    let straddler = tokio::spawn({
        let pool = pool.clone();
        async move { who(&pool.get().await.unwrap()).await }
    });
    held.caught().await;
    rotator.rotate();
    events.wait("swap", |e| matches!(e, Event::Swapped { .. })).await;
    // Postgres does not show a backend that is authenticating: our own count alone holds this.
    events.still_draining().await;
    assert!(!events.seen.iter().any(|e| matches!(e, Event::DialsSettled { .. })));
    assert!(kit.role_exists(&old).await);

    held.release();
    let new = provider.current().credential().username().to_owned();
    assert_eq!(straddler.await.unwrap(), new, "a superseded connection was handed out");
    events.wait("settling", |e| matches!(e, Event::DialsSettled { .. })).await;
    events.revoked().await;
    assert_eq!(kit.source.revoked(), [Revoked { user: old, sessions: 0 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_what_comes_back_after_the_roll_is_never_handed_out_again() {
    let kit = Kit::new("dp_after_roll").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    let old = provider.current().credential().username().to_owned();
    let mut events = Events::of(&provider);
    let mut borrowed = borrow(&pool, 4).await;
    rotator.rotate();
    events.roll_ended().await;
    while let Some(client) = borrowed.pop() {
        assert_eq!(who(&client).await, old);
        drop(client);
        // No await between, so that no sweep has seen it: the pool finds just this one.
        let next = pool.get().await.unwrap();
        assert_ne!(who(&next).await, old);
        // Kept out of the way of the next one.
        drop(Object::take(next));
    }
    events.revoked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_during_the_roll_borrowers_keep_what_they_find() {
    let kit = Kit::new("dp_in_roll").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let proxy = kit.db.stack().postgres_proxy().await.unwrap();
    let pool = kit.pool_at(&provider, 2, proxy.port()).await;
    fill(&pool, 2).await;
    let mut events = Events::of(&provider);
    // The first spare takes so long that the roll has begun when borrowers look, and from the swap
    // on no other gets through: whoever dials waits for it.
    let slow = Toxic::Latency { delay: Duration::from_millis(80), jitter: Duration::ZERO };
    proxy.inject(Direction::Requests, slow).await;
    rotator.rotate();
    events.wait("a swap", |e| matches!(e, Event::Swapped { .. })).await;
    let held = proxy.trap(Catch::connection().times(usize::MAX));
    let mut served = 0;
    {
        let ended = events.roll_ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                biased;
                client = pool.get() => {
                    touch(&client.unwrap()).await.unwrap();
                    served += 1;
                }
                () = &mut ended => break,
            }
        }
    }
    held.release();
    assert!(served > 0, "a borrower dialled in the roll");
    events.revoked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pool_is_as_warm_after_a_rotation_as_before() {
    let kit = Kit::new("dp_warm").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let proxy = kit.db.stack().postgres_proxy().await.unwrap();
    let pool = kit.pool_at(&provider, 4, proxy.port()).await;
    fill(&pool, 3).await;
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.revoked().await;
    let dialled = proxy.accepted();
    for client in borrow(&pool, 3).await {
        touch(&client).await.unwrap();
    }
    assert_eq!(proxy.accepted(), dialled, "borrowers had to dial");
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_long_borrow_ends_by_itself() {
    let kit = Kit::new("dp_long").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    let mut events = Events::of(&provider);
    let mut client = pool.get().await.unwrap();
    let old = who(&client).await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("UPDATE accounts SET v = v + 1 WHERE id = 1", &[]).await.unwrap();
    rotator.rotate();
    events.roll_ended().await;
    events.still_draining().await;
    transaction.execute("UPDATE accounts SET v = v + 1 WHERE id = 1", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(touch(&client).await.unwrap(), 2);
    drop(client);
    // Nobody calls get(): the drain finds it on its own.
    match events.drained().await {
        Event::Drained { forced, left: 0, took, .. } => {
            assert!(forced.is_empty() && took < GRACE, "{took:?} {forced:?}");
        }
        other => panic!("{other:?}"),
    }
    events.revoked().await;
    assert_eq!(kit.source.revoked(), [Revoked { user: old, sessions: 0 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_client_taken_out_of_the_pool_keeps_its_login() {
    let kit = Kit::new("dp_taken").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    let mut events = Events::of(&provider);
    let taken = Object::take(pool.get().await.unwrap());
    let old = who(&taken).await;
    rotator.rotate();
    events.roll_ended().await;
    events.still_draining().await;
    // Our own count knows it, not the server's alone.
    let nothing_left = |e: &Event| matches!(e, Event::Draining { remaining: 0, .. });
    assert!(!events.seen.iter().any(nothing_left), "{:#?}", events.seen);
    touch(&taken).await.unwrap();
    drop(taken);
    events.revoked().await;
    assert_eq!(kit.source.revoked(), [Revoked { user: old, sessions: 0 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_session_that_the_pool_does_not_know_keeps_its_login() {
    let kit = Kit::new("dp_foreign").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let _pool = kit.pool(&provider, 4).await;
    let mut events = Events::of(&provider);
    let credential = provider.current().credential().clone();
    let foreign =
        kit.db.connect(credential.username(), credential.expose_password()).await.unwrap();
    rotator.rotate();
    events.roll_ended().await;
    events.still_draining().await;
    touch(&foreign).await.unwrap();
    drop(foreign);
    events.revoked().await;
    let user = credential.username().to_owned();
    assert_eq!(kit.source.revoked(), [Revoked { user, sessions: 0 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_the_holder_is_named_and_ended() {
    let kit = Kit::new("dp_deadline").await;
    let rotator = kit.start(Duration::from_millis(800)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let mut events = Events::of(&provider);
    let mut client = pool.get().await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let transaction = client.transaction().await.unwrap();
    transaction.simple_query("SELECT 1").await.unwrap();
    rotator.rotate();
    let Event::Drained { forced, left: 0, took, .. } = events.drained().await else {
        panic!("left: {:#?}", events.seen);
    };
    assert!(took >= Duration::from_millis(800), "before the deadline: {took:?}");
    let [(_, holder)] = &forced[..] else { panic!("{forced:?}") };
    assert_eq!((holder.pid, &*holder.application), (pid, "tester"));
    assert_eq!(holder.state, "idle in transaction");
    assert!(transaction.simple_query("SELECT 1").await.is_err());
    events.revoked().await;
    assert_eq!(kit.source.revoked()[0].sessions, 0);
    drop(transaction);
    drop(client);
    touch(&pool.get().await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_role_rotates_without_waiting_for_its_sessions() {
    let kit = Kit::new("dp_static").await;
    kit.source.fix_name();
    let rotator = kit.start(Duration::from_secs(2)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    fill(&pool, 3).await;
    let client = pool.get().await.unwrap();
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.wait("swap", |e| matches!(e, Event::Swapped { .. })).await;
    let Event::Drained { forced, .. } = events.drained().await else { unreachable!() };
    assert!(forced.is_empty(), "{forced:?}");
    touch(&client).await.unwrap();
    for client in borrow(&pool, 3).await {
        touch(&client).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pools_on_one_login_shut_down_without_waiting_for_each_other() {
    let kit = Kit::new("dp_two_pools").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let (one, two) = (kit.pool(&provider, 2).await, kit.pool(&provider, 2).await);
    fill(&one, 2).await;
    let client = two.get().await.unwrap();
    let report = {
        // It ends with the last connection, not with its deadline.
        let ending = tokio::time::timeout(LIMIT, rotator.shutdown(2 * LIMIT));
        let returning = async {
            eventually("closed", async || one.is_closed()).await;
            touch(&client).await.unwrap();
            drop(client);
        };
        tokio::join!(ending, returning).0.unwrap()
    };
    assert!(report.is_clean(), "{report}");
    assert_eq!(kit.source.revoked().len(), 1);
    assert_eq!(kit.source.revoked()[0].sessions, 0);
    assert!(one.get().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_clients_do_not_slow_down_the_pool() {
    let kit = Kit::new("dp_many_taken").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = leasehold_deadpool::connect_lazy(&provider, kit.config(), NoTls, |b| b.max_size(2))
        .unwrap();
    let mut taken: Vec<_> = borrow(&pool, 2).await.into_iter().map(Object::take).collect();
    taken.extend(borrow(&pool, 2).await.into_iter().map(Object::take));
    taken.extend(borrow(&pool, 2).await.into_iter().map(Object::take));
    fill(&pool, 2).await;
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.roll_ended().await;
    // They are known by now: nobody waits for their sockets to close. Were it waited for, each
    // connect would take 200 ms at least, on the fastest machine.
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        for client in borrow(&pool, 2).await {
            touch(&client).await.unwrap();
            drop(Object::take(client));
        }
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
    drop(taken);
    events.revoked().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_drains_that_overlap_each_end_with_their_own_last_connection() {
    let kit = Kit::new("dp_overlap").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    let mut events = Events::of(&provider);
    let first = pool.get().await.unwrap();
    rotator.rotate();
    events.roll_ended().await;
    let second = pool.get().await.unwrap();
    rotator.rotate();
    events.roll_ended().await;
    let third = pool.get().await.unwrap();
    let users = [who(&first).await, who(&second).await, who(&third).await];
    assert!(users[0] != users[1] && users[1] != users[2], "{users:?}");
    events.still_draining().await;
    // The younger one first: it does not wait for the older.
    drop(second);
    let Event::Drained { generation: 2, left: 0, .. } = events.drained().await else {
        panic!("{:#?}", events.seen);
    };
    touch(&first).await.unwrap();
    drop(first);
    let Event::Drained { generation: 1, left: 0, .. } = events.drained().await else {
        panic!("{:#?}", events.seen);
    };
    drop(third);
    for client in borrow(&pool, 4).await {
        assert_eq!(who(&client).await, users[2]);
    }
}
