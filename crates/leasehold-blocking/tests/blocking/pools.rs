//! What a pool does besides what every hook's does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use leasehold::{Credential, CredentialSource, Event, Issued, Lease, Reason, SourceError};
use leasehold_blocking::{Connection, Error, Installer, Rotator, connect, connect_lazy};
use r2d2::CustomizeConnection;
use tokio_postgres::{Config, NoTls};

use crate::kit::{Events, Kit, LIMIT, who};

#[test]
fn a_connection_may_be_dropped_where_futures_are_polled_and_is_counted_until_it_is_closed() {
    let kit = Kit::new("bl_dropped");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2);
    let mut events = Events::of(&provider);
    let mut client = pool.get().unwrap();
    let old = who(&mut client);
    rotator.rotate();
    events.rolled(&kit);
    // Superseded, so that the pool closes it; the driver's own way to do that would panic there.
    kit.wait(async { drop(client) });
    events.drained(&kit);
    events.revoked(&kit);
    let mut next = pool.get().unwrap();
    assert_ne!(who(&mut next), old);
    // So does a pool as a whole.
    drop(next);
    kit.wait(async { drop(pool) });
    assert!(rotator.shutdown(LIMIT).unwrap().is_clean());
    kit.nothing_left();
}

#[test]
fn an_idle_pool_is_renewed_where_it_lies() {
    let kit = Kit::new("bl_idle");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4);
    kit.eventually("r2d2 has filled it", async || pool.state().idle_connections == 4);
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.revoked(&kit);
    let new = provider.current().credential().username().to_owned();
    let sessions = |kit: &Kit| kit.wait(kit.db.sessions_of(&new)).unwrap().len();
    kit.eventually("control connections are gone", async || {
        kit.db.sessions_of(&new).await.unwrap().len() == 4
    });
    let mut borrowed: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    for client in &mut borrowed {
        assert_eq!(who(client), new);
    }
    assert_eq!(sessions(&kit), 4, "borrowers had to dial");
}

#[test]
fn a_connection_that_the_server_has_closed_is_not_handed_out() {
    let kit = Kit::new("bl_closed");
    let rotator = kit.start();
    let pool = kit.pool(&rotator.provider(), 1);
    let pid: i32 = {
        let mut client = pool.get().unwrap();
        client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
    };
    let admin = kit.admin();
    kit.wait(admin.execute("SELECT pg_terminate_backend($1)", &[&pid])).unwrap();
    pool.get().unwrap().query_one("SELECT 1", &[]).unwrap();
}

#[test]
fn without_tests_at_check_out_a_revoked_login_is_noticed_by_a_sample() {
    let kit = Kit::new("bl_sample");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = kit.pool_of(Installer::new().test_on_check_out(false), &provider, 1);
    let mut events = Events::of(&provider);
    let user = provider.current().credential().username().to_owned();
    kit.wait(kit.db.drop_login(&user)).unwrap();
    kit.eventually("fresh credentials", async || {
        let pool = pool.clone();
        let used = tokio::task::spawn_blocking(move || {
            pool.get().unwrap().simple_query("SELECT 1").map(drop)
        });
        used.await.unwrap().unwrap();
        provider.current().number() == 2
    });
    let reason = events.wait(&kit, "swap", |event| match event {
        Event::Swapped { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, Reason::SessionRevoked);
}

#[test]
fn each_connection_is_made_ready_also_those_that_replace_others() {
    let kit = Kit::new("bl_ready");
    let rotator = kit.start();
    let provider = rotator.provider();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let installer = Installer::new().on_connect(move |client: &mut postgres::Client| {
        counted.fetch_add(1, SeqCst);
        client.batch_execute("SET lock_timeout = '1234ms'")
    });
    let pool = kit.pool_of(installer, &provider, 2);
    let shown = || -> Vec<String> {
        let mut both = [pool.get().unwrap(), pool.get().unwrap()];
        both.iter_mut()
            .map(|client| client.query_one("SHOW lock_timeout", &[]).unwrap().get(0))
            .collect()
    };
    assert_eq!(shown(), ["1234ms"; 2]);
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.revoked(&kit);
    assert_eq!(shown(), ["1234ms"; 2]);
    assert!(calls.load(SeqCst) >= 4);
}

#[derive(Debug)]
struct Customizer;

impl CustomizeConnection<Connection<postgres::Client>, Error> for Customizer {
    fn on_acquire(&self, connection: &mut Connection<postgres::Client>) -> Result<(), Error> {
        connection.batch_execute("SET lock_timeout = '1234ms'").unwrap();
        Ok(())
    }
}

#[test]
fn a_customizer_that_would_not_see_every_connection_is_told_of() {
    let kit = Kit::new("bl_customizer");
    let rotator = kit.start();
    let installer = Installer::new().connect_timeout(Duration::from_secs(2));
    let error = installer
        .connect(&rotator.provider(), kit.config(), NoTls, |b| {
            b.max_size(1).connection_customizer(Box::new(Customizer))
        })
        .unwrap_err();
    let Error::Pool { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("Installer::on_connect"), "{source}");
}

#[test]
fn what_is_done_with_new_connections_may_fail() {
    let kit = Kit::new("bl_unready");
    let rotator = kit.start();
    let installer = Installer::new()
        .on_connect(|client: &mut postgres::Client| client.batch_execute("SELECT nonsense"));
    let error = installer.connect(&rotator.provider(), kit.config(), NoTls, |b| b).unwrap_err();
    assert!(matches!(error, Error::OnConnect { .. }), "{error:?}");
}

#[test]
fn a_pool_is_built_in_async_code_too() {
    let kit = Kit::new("bl_async");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = kit.wait(async { connect(&provider, kit.config(), NoTls, |b| b.max_size(1)) });
    pool.unwrap().get().unwrap().query_one("SELECT 1", &[]).unwrap();
}

#[test]
fn an_unreachable_postgres_is_told_as_such_and_nothing_stays() {
    let kit = Kit::new("bl_unreachable");
    let rotator = kit.start();
    let provider = rotator.provider();
    let mut config = Config::new();
    // Nobody listens there.
    config.host("127.0.0.1").port(1);
    let installer = Installer::new().name("orders");
    let error = installer.connect(&provider, config, NoTls, |b| b).unwrap_err();
    assert!(
        matches!(error, Error::Connect(leasehold_tokio_postgres::Error::Unreachable { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("orders"), "{error}");
    // A rotation has no pool to prove itself on.
    let mut events = Events::of(&provider);
    rotator.rotate();
    let proven = events.wait(&kit, "swap", |event| match event {
        Event::ProofFailed { .. } => Some(false),
        Event::Swapped { .. } => Some(true),
        _ => None,
    });
    assert!(proven);
}

/// Logins that Postgres refuses.
#[derive(Debug)]
struct Wrong;

impl CredentialSource for Wrong {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let login = Credential::new("nobody-of-that-name", "s3cr3t-w0rd");
        Ok(Issued::new(login, Lease::endless()))
    }
}

#[test]
fn i10_a_refused_login_is_told_as_such_and_shows_no_password() {
    let kit = Kit::new("bl_refused");
    let rotator = Rotator::start(&kit.runtime, leasehold::Rotator::builder(Wrong)).unwrap();
    let provider = rotator.provider();
    // A busy machine may need more than the default for a handshake that ends in a refusal.
    let installer = Installer::new().connect_timeout(LIMIT);
    let error = installer.connect(&provider, kit.config(), NoTls, |b| b).unwrap_err();
    assert!(
        matches!(error, Error::Connect(leasehold_tokio_postgres::Error::LoginRefused { .. })),
        "{error:?}"
    );
    let lazy = connect_lazy(&provider, kit.config(), NoTls, |b| b.max_size(1)).unwrap();
    let told = lazy.get_timeout(LIMIT / 6).unwrap_err();
    assert!(told.to_string().contains("28P01"), "{told}");
    let shown = format!("{error} {error:?} {lazy:?} {told} {told:?} {provider:?}");
    assert!(!shown.contains("s3cr3t"), "{shown}");
}

#[test]
fn after_a_shutdown_no_pool_is_taken() {
    let kit = Kit::new("bl_stopped");
    let rotator = kit.start();
    assert!(rotator.shutdown(LIMIT).unwrap().is_clean());
    let error = connect_lazy(&rotator.provider(), kit.config(), NoTls, |b| b).unwrap_err();
    assert!(
        matches!(error, Error::Connect(leasehold_tokio_postgres::Error::Stopped { .. })),
        "{error:?}"
    );
}

#[test]
fn a_pool_that_is_dropped_is_let_go() {
    let kit = Kit::new("bl_let_go");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2);
    let mut events = Events::of(&provider);
    drop(pool);
    rotator.rotate();
    events.wait(&kit, "detachment", |e| matches!(e, Event::PoolDetached { .. }).then_some(()));
    assert!(rotator.shutdown(LIMIT).unwrap().is_clean());
    kit.nothing_left();
}

#[test]
fn a_pool_of_an_async_service_needs_no_runtime_of_ours() {
    let kit = Kit::new("bl_of_async");
    let theirs = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let builder = leasehold::Rotator::builder(kit.source());
    let rotator = theirs.block_on(builder.start()).unwrap();
    let provider = rotator.provider();
    let config = kit.config();
    let used = theirs.block_on(async {
        let used = tokio::task::spawn_blocking(move || {
            let pool = connect(&provider, config, NoTls, |b| b.max_size(1)).unwrap();
            pool.get().unwrap().query_one("SELECT 1", &[]).map(drop)
        });
        used.await.unwrap()
    });
    used.unwrap();
    assert!(theirs.block_on(rotator.shutdown(LIMIT)).is_clean());
    kit.nothing_left();
}
