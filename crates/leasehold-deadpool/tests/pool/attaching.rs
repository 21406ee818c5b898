//! How a pool comes and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use deadpool_postgres::Hook;
use leasehold::Event;
use leasehold_deadpool::{Error, Installer};
use tokio_postgres::NoTls;

use crate::kit::{Events, Kit, Revoked, borrow, fill, touch, who};

const GRACE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn the_users_own_hooks_and_settings_stay() {
    let kit = Kit::new("dp_hooks").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let ran = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let count = |i: usize| {
        let ran = ran.clone();
        Hook::sync_fn(move |_, _| {
            ran[i].fetch_add(1, SeqCst);
            Ok(())
        })
    };
    let wait = Some(Duration::from_secs(7));
    let pool = leasehold_deadpool::connect(&provider, kit.config(), NoTls, |b| {
        b.max_size(3)
            .wait_timeout(wait)
            .post_create(count(0))
            .pre_recycle(count(1))
            .post_recycle(count(2))
    })
    .await
    .unwrap();
    assert_eq!((pool.status().max_size, pool.timeouts().wait), (3, wait));
    drop(pool.get().await.unwrap());
    let seen: Vec<_> = ran.iter().map(|n| n.load(SeqCst)).collect();
    assert_eq!(seen, [1, 1, 1]);
    let application: String = pool
        .get()
        .await
        .unwrap()
        .query_one("SELECT current_setting('application_name')", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(application, "tester");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_pool_dials_nothing_and_rotates_all_the_same() {
    let kit = Kit::new("dp_lazy").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = leasehold_deadpool::connect_lazy(&provider, kit.config(), NoTls, |b| b.max_size(2))
        .unwrap();
    assert_eq!(pool.status().size, 0);
    let old = provider.current().credential().username().to_owned();
    assert!(kit.db.sessions_of(&old).await.unwrap().is_empty());
    assert_eq!(who(&pool.get().await.unwrap()).await, old);
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.revoked().await;
    assert_eq!(kit.source.revoked(), [Revoked { user: old.clone(), sessions: 0 }]);
    assert_ne!(who(&pool.get().await.unwrap()).await, old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_dropped_is_let_go() {
    let kit = Kit::new("dp_dropped").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    fill(&pool, 2).await;
    let mut events = Events::of(&provider);
    drop(pool);
    rotator.rotate();
    events.wait("detachment", |e| matches!(e, Event::PoolDetached { .. })).await;
    events.revoked().await;
    let report = rotator.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
    assert!(kit.source.revoked().iter().all(|r| r.sessions == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_what_is_borrowed_from_a_dropped_pool_keeps_its_login() {
    let kit = Kit::new("dp_dropped_borrowed").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let client = pool.get().await.unwrap();
    let user = who(&client).await;
    drop(pool);
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.roll_ended().await;
    events.still_draining().await;
    touch(&client).await.unwrap();
    drop(client);
    events.revoked().await;
    assert_eq!(kit.source.revoked(), [Revoked { user, sessions: 0 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_postgres_is_told_as_such() {
    let kit = Kit::new("dp_unreachable").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let installer = Installer::new().name("orders");
    // Port 1 on loopback: nobody listens.
    let error = installer.connect(&provider, kit.config_at(1), NoTls, |b| b).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("orders"));
    // Nothing stays: a rotation has no pool to prove itself on.
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.wait("swap", |e| matches!(e, Event::Swapped { .. })).await;
    assert!(!events.seen.iter().any(|e| matches!(e, Event::ProofFailed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_told_as_such() {
    let kit = Kit::new("dp_silent").await;
    let rotator = kit.start(GRACE).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let installer = Installer::new().connect_timeout(Duration::from_millis(300));
    let config = kit.config_at(port);
    let error = installer.connect(&rotator.provider(), config, NoTls, |b| b).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_a_refused_login_is_told_as_such_and_shows_no_password() {
    let kit = Kit::new("dp_login_refused").await;
    kit.source.refuse();
    let rotator = kit.start(GRACE).await;
    // A busy machine may need more than the default for a handshake that ends in a refusal.
    let installer = Installer::new().connect_timeout(Duration::from_secs(60));
    let error = installer
        .connect(&rotator.provider(), kit.config(), NoTls, |b| b.max_size(2))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::LoginRefused { .. }), "{error:?}");
    let shown = format!("{error} {error:?} {error:#?}");
    assert!(!shown.contains("s3cr3t"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_fails_is_told_as_such() {
    let kit = Kit::new("dp_probe").await;
    let rotator = kit.start(GRACE).await;
    let installer = Installer::new().probe("SELECT * FROM hidden.t");
    let error =
        installer.connect(&rotator.provider(), kit.config(), NoTls, |b| b).await.unwrap_err();
    assert!(matches!(error, Error::ProbeFailed { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_a_login_that_is_refused_does_not_become_current() {
    let kit = Kit::new("dp_unproven").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let mut events = Events::of(&provider);
    kit.source.refuse();
    rotator.rotate();
    events.wait("refusal", |e| matches!(e, Event::ProofFailed { rejected: true, .. })).await;
    assert_eq!(provider.current().number(), 1);
    touch(&pool.get().await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_no_debug_output_shows_a_password() {
    let kit = Kit::new("dp_debug").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let client = pool.get().await.unwrap();
    let shown = format!("{pool:?} {client:?} {provider:?} {:?}", Installer::new());
    assert!(!shown.contains("s3cr3t"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_no_pool_is_taken() {
    let kit = Kit::new("dp_stopped").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    assert!(rotator.shutdown(GRACE).await.is_clean());
    assert!(pool.is_closed());
    let error = leasehold_deadpool::connect_lazy(&provider, kit.config(), NoTls, |b| b);
    assert!(matches!(error, Err(Error::Stopped { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_makes_room_for_the_proof() {
    let kit = Kit::new("dp_full").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    fill(&pool, 2).await;
    // Exactly as many as there are: the superuser's count, though they are exempt.
    let admin = kit.source.admin();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    let sessions: i64 = admin.query_one(count, &[]).await.unwrap().get(0);
    let limit = format!("ALTER DATABASE \"{}\" CONNECTION LIMIT {sessions}", kit.db.name());
    admin.batch_execute(&limit).await.unwrap();
    let mut events = Events::of(&provider);
    rotator.rotate();
    let swap = events.wait("swap", |e| matches!(e, Event::Swapped { .. })).await;
    assert!(matches!(swap, Event::Swapped { proven: true, .. }), "{swap}");
    let failed = events.seen.iter().any(|e| matches!(e, Event::ProofFailed { .. }));
    assert!(!failed, "{:#?}", events.seen);
    events.revoked().await;
    for client in borrow(&pool, 1).await {
        touch(&client).await.unwrap();
    }
}
