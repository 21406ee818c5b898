//! Building a pool, and what can be wrong then.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::{Address, Credential, Event, FnSource, Issued, Lease, Rotator};
use leasehold_sqlx::{Error, Installer};
use sqlx::postgres::PgConnectOptions;

use crate::kit::{Events, Kit, options, shut_down};

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_postgres_is_said_in_time_and_by_name() {
    let kit = Kit::new("nowhere").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = unused.local_addr().unwrap().port();
    drop(unused);
    let options = options(2).acquire_timeout(Duration::from_millis(300));
    let error = Installer::new()
        .name("orders")
        .connect(&rotator.provider(), options, kit.base_at(port))
        .await
        .unwrap_err();
    let Error::Unreachable { source, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().starts_with("pool orders: no connection"), "{error}");
    assert!(matches!(source, sqlx::Error::Io(_)), "the cause, not a timeout: {source}");
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_a_refused_login() {
    let kit = Kit::new("nodb").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let base = kit.base().database("no_such_database");
    let error = leasehold_sqlx::connect(&rotator.provider(), options(2), base).await.unwrap_err();
    assert!(matches!(error, Error::LoginRefused { .. }), "{error:?}");
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_fails_is_said_at_once() {
    let kit = Kit::new("probe").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let error = Installer::new()
        .probe("SELECT 1 FROM no_such_table")
        .connect(&provider, options(2), kit.base())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ProbeFailed { .. }), "{error:?}");
    let pool = Installer::new()
        .probe("SELECT v FROM accounts LIMIT 1")
        .connect(&provider, options(2), kit.base())
        .await;
    assert!(pool.is_ok());
    shut_down(&kit, &rotator).await;
}

/// sqlx can't take a socket back, and would log in there.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_another_host_is_not_tried_on_the_pools_own_socket() {
    let credential = Credential::new("app", "password");
    let moved = Arc::new(AtomicBool::new(true));
    let source = FnSource::new("moving", {
        let moved = moved.clone();
        move || {
            let address = Address::new().host("db.internal");
            let credential = match moved.load(Ordering::Relaxed) {
                true => credential.clone().with_address(address),
                false => credential.clone(),
            };
            async { Ok(Issued::new(credential, Lease::endless())) }
        }
    });
    let rotator = Rotator::builder(source).start().await.unwrap();
    let provider = rotator.provider();
    let base = || PgConnectOptions::new_without_pgpass().socket("/nowhere");
    let clear = |error: &str| error.contains("db.internal") && error.contains("/nowhere");
    let error = leasehold_sqlx::connect_lazy(&provider, options(1), base()).unwrap_err();
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(matches!(error, Error::Unreachable { .. }) && clear(&source), "{error:?}");

    // One that says so later is refused.
    moved.store(false, Ordering::Relaxed);
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.swapped().await;
    let pool = leasehold_sqlx::connect_lazy(&provider, options(1), base()).unwrap();
    moved.store(true, Ordering::Relaxed);
    rotator.rotate();
    let told = events
        .next("a refused proof", |e| match e {
            Event::ProofFailed { rejected: true, message, .. } => Some(message.clone()),
            _ => None,
        })
        .await;
    assert!(clear(&told), "{told}");
    drop(pool);
    rotator.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_no_pool_is_built() {
    let kit = Kit::new("late").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    shut_down(&kit, &rotator).await;
    let error = leasehold_sqlx::connect_lazy(&provider, options(2), kit.base()).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
}

/// `PgConnectOptions` prints its password.
#[tokio::test(flavor = "multi_thread")]
async fn i10_nothing_that_is_shown_holds_the_password() {
    let kit = Kit::new("shown").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let password = provider.current().credential().expose_password().to_owned();
    let (hooks, hooked) = Installer::new().hooks(&provider, options(2));
    let pool = kit.pool(&provider, 2).await;
    let error = leasehold_sqlx::connect(&provider, options(2), kit.base().database("nodb"))
        .await
        .unwrap_err();
    let health = provider.health();
    let shown = format!("{hooks:#?} {hooked:#?} {pool:#?} {error:#?} {error} {health:#?}");
    assert!(!shown.contains(&password));
    shut_down(&kit, &rotator).await;
}
