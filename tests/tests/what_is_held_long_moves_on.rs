//! Connections that are kept for long (a listener, an advisory lock) outlive rotations: told in time,
//! given the new login, counted in the drain.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use leasehold::{Event, Rotator};
use leasehold_testkit::{TestDb, shared};
use leasehold_tests::{LONG, database, nothing_left, revoked, rotator, s, swapped};
use leasehold_tokio_postgres::{Connector, Error, Installer};
use tokio_postgres::{Config, NoTls};

const ROTATIONS: u64 = 10;

fn config(db: &TestDb) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(db.pg_port()).dbname(db.name());
    config
}

async fn started(name: &str) -> (TestDb, Rotator, Connector) {
    let db = database(shared().await.unwrap(), name, 6, 3600).await;
    let builder = rotator(&db).await.grace(s(2)).roll(Duration::from_millis(500));
    let rotator = builder.start().await.unwrap();
    let connector = Connector::new(&rotator.provider(), config(&db), NoTls).unwrap();
    (db, rotator, connector)
}

async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what} never came"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_each_notification_once_and_in_order_over_ten_rotations() {
    let (db, rotator, connector) = started("listener").await;
    let mut listener = connector.listen(["orders", "Odd \"name\""]).await.unwrap();
    let mut events = rotator.provider().events();
    let admin = db.admin().await.unwrap();
    let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sending = tokio::spawn({
        let (sent, done) = (sent.clone(), done.clone());
        async move {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                let channel = ["orders", "Odd \"name\""][n as usize % 2];
                admin
                    .execute("SELECT pg_notify($1, $2)", &[&channel, &n.to_string()])
                    .await
                    .unwrap();
                n += 1;
                sent.store(n, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            n
        }
    });
    let hearing = tokio::spawn(async move {
        let mut heard = Vec::new();
        loop {
            let notification = bounded("a notification", listener.next()).await.unwrap();
            match notification.payload().parse::<u64>() {
                Ok(n) => heard.push((n, notification.channel().to_owned())),
                Err(_) => return (heard, listener.generation()),
            }
        }
    });
    for number in 1..=ROTATIONS {
        let before = sent.load(Ordering::Relaxed);
        rotator.rotate();
        swapped(&mut events).await;
        // Only when it has moved on: the drain counts it.
        revoked(&mut events, number).await;
        assert!(
            sent.load(Ordering::Relaxed) > before,
            "there was traffic during rotation {number}"
        );
    }
    done.store(true, Ordering::Relaxed);
    let sent = bounded("the sender's end", sending).await.unwrap();
    db.admin().await.unwrap().execute("SELECT pg_notify('orders', 'end')", &[]).await.unwrap();
    let (heard, generation) = bounded("the end", hearing).await.unwrap();
    assert_eq!(generation, ROTATIONS + 1);
    assert!(sent >= ROTATIONS, "{sent}");
    let wanted: Vec<_> =
        (0..sent).map(|n| (n, ["orders", "Odd \"name\""][n as usize % 2].to_owned())).collect();
    assert_eq!(heard.len(), wanted.len(), "{sent} sent");
    assert_eq!(heard, wanted, "each once, in order");
    assert!(rotator.shutdown(s(20)).await.is_clean());
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_session_is_ended_says_so_once_and_listens_again() {
    let (db, rotator, connector) = started("interrupted").await;
    let mut listener = connector.listen(["orders"]).await.unwrap();
    let admin = db.admin().await.unwrap();
    let user = rotator.provider().current().credential().username().to_owned();
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1::text::name";
    admin.execute(end, &[&user]).await.unwrap();
    let lost = bounded("the error", listener.next()).await;
    assert!(matches!(lost, Err(Error::Interrupted { .. })), "{lost:?}");
    let again = tokio::spawn(async move { listener.next().await });
    // What is sent before it listens again reaches nobody; what is sent after it does.
    bounded("a notification", async {
        while !again.is_finished() {
            admin.execute("SELECT pg_notify('orders', 'x')", &[]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(again.await.unwrap().unwrap().payload(), "x");
    rotator.shutdown(s(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_says_that_the_rotator_was_shut_down() {
    let (db, rotator, connector) = started("listener_end").await;
    let mut listener = connector.listen(["orders"]).await.unwrap();
    let report = rotator.shutdown(s(20)).await;
    for _ in 0..2 {
        let last = bounded("the error", listener.next()).await;
        assert!(matches!(last, Err(Error::Stopped { .. })), "{last:?}");
    }
    assert!(report.is_clean(), "{report:?}");
    assert!(matches!(connector.connect().await, Err(Error::Stopped { .. })));
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_holder_of_an_advisory_lock_is_told_and_hands_it_on() {
    let (db, rotator, connector) = started("lock").await;
    let mut events = rotator.provider().events();
    let mut session = connector.connect().await.unwrap();
    let mut holder = session.generation();
    for number in 1..=ROTATIONS {
        session.query("SELECT pg_advisory_lock(42)", &[]).await.unwrap();
        assert!(!session.is_superseded());
        rotator.rotate();
        bounded("the word of the swap", session.superseded()).await;
        // It is still whole: the transaction that the lock guards goes on to its end.
        let row = session.query_one("SELECT v FROM accounts WHERE id = 1", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0);
        let next = connector.connect().await.unwrap();
        assert_eq!((session.generation(), next.generation()), (number, number + 1));
        let taken = next.query_one("SELECT pg_try_advisory_lock(42)", &[]).await.unwrap();
        assert!(!taken.get::<_, bool>(0), "the old session still holds it");
        session.close().await;
        session = next;
        revoked(&mut events, number).await;
        assert!(session.generation() > holder);
        holder = session.generation();
    }
    session.close().await;
    assert!(rotator.shutdown(s(20)).await.is_clean());
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_i4_who_does_not_move_is_waited_for_until_the_deadline_then_ended_and_named() {
    let db = database(shared().await.unwrap(), "stays", 600, 3600).await;
    let rotator = rotator(&db).await.grace(s(2)).roll(s(1)).start().await.unwrap();
    let mut config = config(&db);
    config.application_name("stays put");
    let installer = Installer::new().name("held");
    let connector = installer.connector(&rotator.provider(), config, NoTls).unwrap();
    let session = connector.connect().await.unwrap();
    let mut events = rotator.provider().events();
    rotator.rotate();
    let forced = leasehold_tests::event(&mut events, |event| match event {
        Event::Drained { generation: 1, forced, .. } => Some(forced.clone()),
        _ => None,
    })
    .await;
    assert_eq!(forced.len(), 1, "{forced:?}");
    assert_eq!((forced[0].0.as_str(), forced[0].1.application.as_str()), ("held", "stays put"));
    revoked(&mut events, 1).await;
    assert!(session.simple_query("SELECT 1").await.is_err());
    rotator.shutdown(s(20)).await;
    nothing_left(&db).await;
}
