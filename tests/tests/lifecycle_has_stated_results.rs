//! What becomes of pools, leases and reports however a rotator is used or ended.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use leasehold::{Event, HealthState, Reason};
use leasehold_testkit::{Stack, Storage, TestDb, shared};
use leasehold_tests::*;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::NoTls;

fn sqlx_base(db: &TestDb) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass().host(db.pg_host()).port(db.pg_port()).database(db.name())
}

fn deadpool_base(db: &TestDb) -> tokio_postgres::Config {
    db.pg_config()
}

fn two() -> PgPoolOptions {
    PgPoolOptions::new().max_connections(2)
}

async fn works(pool: &sqlx::PgPool) {
    sqlx::query("SELECT v FROM accounts WHERE id = 1").execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_provider_feeds_pools_of_both_kinds_through_one_mint_each_rotation() {
    let db = database(shared().await.unwrap(), "both", 600, 3600).await;
    let session = session(&db).await;
    let builder = leasehold::Rotator::builder(session.dynamic_role(db.mount(), db.role()));
    let rotator = builder.start().await.unwrap();
    let provider = rotator.provider();
    let a = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let b = leasehold_deadpool::connect(&provider, deadpool_base(&db), NoTls, |p| p.max_size(2))
        .await
        .unwrap();
    let mut events = provider.events();
    for generation in 2..=3 {
        rotator.rotate();
        assert_eq!(swapped(&mut events).await, (generation, Reason::Requested));
        revoked(&mut events, generation - 1).await;
        works(&a).await;
        let row = b.get().await.unwrap().query_one("SELECT session_user::text", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), provider.current().credential().username());
    }
    assert_eq!(session.calls().issue, 3, "I7: one mint per rotation");
    assert!(rotator.shutdown(s(10)).await.is_clean());
    nothing_left(&db).await;
    assert!(a.is_closed() && b.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_a_dropped_rotator_leaves_its_pools_working_and_its_lease_to_its_ttl() {
    let db = database(shared().await.unwrap(), "dropped", 600, 3600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let pool = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let mut told = provider.subscribe();
    drop(rotator);
    assert!(told.changed().await.unwrap_err().cause.contains("dropped"));
    works(&pool).await;
    let health = provider.health();
    assert_eq!(health.state, HealthState::Stopped);
    assert_eq!(db.lease_count().await.unwrap(), 1, "nothing was revoked");
    let refused = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap_err();
    assert!(chain(&refused).contains("rotator"), "{}", chain(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_second_shutdown_says_the_same() {
    let db = database(shared().await.unwrap(), "twice", 600, 3600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let pool = leasehold_sqlx::connect(&rotator.provider(), two(), sqlx_base(&db)).await.unwrap();
    works(&pool).await;
    let (first, second) = tokio::join!(rotator.shutdown(s(10)), rotator.shutdown(s(10)));
    assert!(first.is_clean(), "{first}");
    assert_eq!(first, second);
    assert_eq!(rotator.shutdown(s(10)).await, first);
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_shutdown_without_vault_is_bounded_and_names_what_is_left() {
    let stack = Stack::builder().storage(Storage::Raft).start().await.unwrap();
    let db = database(&stack, "novault", 60, 600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let pool = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    works(&pool).await;
    stack.stop_vault().await.unwrap();
    let begun = Instant::now();
    let report = rotator.shutdown(s(3)).await;
    assert!(begun.elapsed() < LONG, "bounded: {:?}", begun.elapsed());
    let [left] = &report.remains[..] else { panic!("one lease is left: {report}") };
    let user = provider.current().credential().username().to_owned();
    assert_eq!(left.username.as_deref(), Some(user.as_str()));
    assert!(left.ends_in.is_some_and(|t| t <= s(60)), "{report}");
    assert!(!report.source.is_empty(), "the token is left as well: {report}");
    assert!(pool.is_closed());
    // And the report is exact: the lease is there when Vault is back.
    stack.start_vault().await.unwrap();
    assert_eq!(db.lease_count().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_goes_before_the_rotator_is_fed_no_longer() {
    let db = database(shared().await.unwrap(), "before", 600, 3600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let a = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let b = leasehold_deadpool::connect(&provider, deadpool_base(&db), NoTls, |p| p.max_size(2))
        .await
        .unwrap();
    a.close().await;
    drop(b);
    let mut events = provider.events();
    rotator.rotate();
    swapped(&mut events).await;
    revoked(&mut events, 1).await;
    assert!(provider.health().pools.is_empty(), "{:?}", provider.health());
    assert!(rotator.shutdown(s(10)).await.is_clean());
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_attached_while_another_drains_gets_the_current_login_only() {
    let db = database(shared().await.unwrap(), "while", 600, 3600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let first = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let held = first.acquire().await.unwrap();
    let mut events = provider.events();
    rotator.rotate();
    swapped(&mut events).await;
    assert_eq!(provider.health().draining.len(), 1, "a borrower keeps the first one draining");
    let second = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let user: String =
        sqlx::query_scalar("SELECT session_user::text").fetch_one(&second).await.unwrap();
    assert_eq!(user, provider.current().credential().username());
    drop(held);
    revoked(&mut events, 1).await;
    assert!(rotator.shutdown(s(10)).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_attached_at_every_step_of_a_rotation_miss_none() {
    let db = database(shared().await.unwrap(), "proving", 600, 3600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let attach = || leasehold_sqlx::connect_lazy(&provider, two(), sqlx_base(&db)).unwrap();
    let mut pools = vec![attach()];
    works(&pools[0]).await;
    let mut events = provider.events();
    rotator.rotate();
    // Told: rotating, issued (the proof runs), swapped, settled, rolled, drained, revoked.
    event(&mut events, |e| {
        if !matches!(e, Event::PoolAttached { .. }) {
            pools.push(attach());
        }
        matches!(e, Event::Revoked { generation: Some(1), .. }).then_some(())
    })
    .await;
    assert!(pools.len() >= 6, "one at each step: {}", pools.len());
    let current = provider.current().credential().username().to_owned();
    for pool in &pools {
        let user: String =
            sqlx::query_scalar("SELECT session_user::text").fetch_one(pool).await.unwrap();
        assert_eq!(user, current);
    }
    assert!(rotator.shutdown(s(10)).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_of_two_pools_one_that_can_not_be_reached_does_not_hold_the_other() {
    let db = database(shared().await.unwrap(), "away", 600, 3600).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let here = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let away = leasehold_sqlx::connect_lazy(&provider, two(), sqlx_base(&db).port(1)).unwrap();
    let mut events = provider.events();
    rotator.rotate();
    let proven = event(&mut events, |e| match e {
        Event::Swapped { proven, .. } => Some(*proven),
        _ => None,
    })
    .await;
    assert!(!proven, "told as what it is");
    works(&here).await;
    away.close().await;
    assert!(rotator.shutdown(s(10)).await.is_clean());
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_of_two_pools_one_that_refuses_holds_the_swap_until_the_leeway() {
    let db = database(shared().await.unwrap(), "refuses", 8, 8).await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let provider = rotator.provider();
    let good = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let elsewhere = sqlx_base(&db).database("no_such_database");
    let _bad = leasehold_sqlx::connect_lazy(&provider, two(), elsewhere).unwrap();
    let mut events = provider.events();
    event(&mut events, |e| matches!(e, Event::ProofFailed { rejected: true, .. }).then_some(()))
        .await;
    assert_eq!(provider.current().number(), 1, "held, since the old login has time");
    works(&good).await;
    let proven = event(&mut events, |e| match e {
        Event::Swapped { proven, .. } => Some(*proven),
        _ => None,
    })
    .await;
    assert!(!proven);
    works(&good).await;
    rotator.shutdown(s(5)).await;
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_nothing_that_is_logged_at_trace_holds_a_secret() {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // The only test of this program that sets it; the others' lines are searched as well.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let db = database(shared().await.unwrap(), "secrets", 600, 3600).await;
    let secret_id = db.secret_id().await.unwrap();
    let auth = leasehold_vault::Auth::approle(db.role_id(), &secret_id);
    let config = leasehold_vault::VaultConfig::new(db.vault_addr());
    let session = leasehold_vault::Session::login(config, auth).await.unwrap();
    let builder = leasehold::Rotator::builder(session.dynamic_role(db.mount(), db.role()));
    let rotator = builder.start().await.unwrap();
    let provider = rotator.provider();
    let a = leasehold_sqlx::connect(&provider, two(), sqlx_base(&db)).await.unwrap();
    let b = leasehold_deadpool::connect(&provider, deadpool_base(&db), NoTls, |p| p.max_size(2))
        .await
        .unwrap();
    let mut secrets = vec![secret_id];
    let mut events = provider.events();
    let mut shown = String::new();
    for generation in 2..=3 {
        secrets.push(provider.current().credential().expose_password().to_owned());
        works(&a).await;
        drop(b.get().await.unwrap());
        shown += &format!("{:?}{:?}{:?}", provider, rotator, provider.health());
        shown += &serde_json::to_string(&provider.health()).unwrap();
        rotator.rotate();
        swapped(&mut events).await;
        revoked(&mut events, generation - 1).await;
    }
    secrets.push(provider.current().credential().expose_password().to_owned());
    shown += &format!("{session:?}{a:?}");
    rotator.shutdown(s(10)).await;
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned() + &shown;
    assert!(text.len() > 10_000, "there is a log to search");
    for secret in secrets {
        assert!(!text.contains(&secret), "a secret is in the log");
    }
    // Tokens have a form of their own on the servers.
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_')) {
        let token = word.starts_with("s.") || word.starts_with("hvs.");
        assert!(!(token && word.len() > 20), "a token is in the log");
    }
}
