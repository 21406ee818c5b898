//! The primary dies and the replica takes its place, at the worst moments.

use std::collections::HashSet;
use std::time::Instant;

use leasehold::{Event, Rotator};
use leasehold_testkit::PostgresShutdown;
use leasehold_tests::s;
use serde_json::json;

use crate::kit::{Events, Servers, well};
use crate::load::{Load, Pool, Work};

/// Pools under load, a fault from `at` until it is over, and what is left of it all.
struct Scene {
    servers: Servers,
    rotator: Rotator,
    events: Events,
    writes: Load,
    reads: Load,
}

impl Scene {
    async fn start(name: &str, sqlx: bool) -> (Self, [Pool; 2]) {
        let servers = Servers::start(name, 60).await;
        servers.synchronous().await;
        // Longer than a fail-over takes on a slow machine.
        let rotator = servers.rotator(20).await;
        let provider = rotator.provider();
        let pools = match sqlx {
            true => {
                [servers.sqlx_on_primary(&provider).await, servers.sqlx_on_replica(&provider).await]
            }
            false => [
                servers.deadpool_on_both(&provider).await,
                servers.deadpool_on_replica(&provider).await,
            ],
        };
        let writes = Load::start("writes", &pools[0], Work::Write);
        let reads = Load::start("reads", &pools[1], Work::Read);
        writes.goes_on().await;
        reads.goes_on().await;
        let events = Events::of(&provider);
        (Self { servers, rotator, events, writes, reads }, pools)
    }

    /// After a fail-over it all goes on by itself: load, rotations, revocations, the end.
    async fn goes_on_and_has_lost_only(mut self, from: Instant, to: Instant) {
        self.writes.goes_on().await;
        self.reads.goes_on().await;
        let number = self.rotator.provider().current().number();
        self.rotator.rotate();
        let swapped = self.events.wait(|e| matches!(e, Event::Swapped { .. })).await;
        assert!(matches!(swapped, Event::Swapped { proven: true, .. }), "{swapped:?}");
        self.writes.goes_on().await;
        self.reads.goes_on().await;
        self.events.revoked(number).await;

        let (writes, reads) = (self.writes.stop().await, self.reads.stop().await);
        reads.lost_nothing();
        writes.failed_only_within(from, to);
        assert!(writes.failed().next().is_some(), "a primary that dies is noticed");
        let rows = self.servers.writable().await.query("select id from written", &[]).await;
        let kept: HashSet<i64> = rows.unwrap().iter().map(|row| row.get(0)).collect();
        let lost: Vec<_> = writes.written().into_iter().filter(|id| !kept.contains(id)).collect();
        assert!(lost.is_empty(), "acknowledged, and gone: {lost:?}");
        assert!(self.rotator.shutdown(s(20)).await.is_clean());
        self.servers.nothing_left().await;
    }
}

/// Somebody reads on the replica with the old login, so that its drain is under way.
async fn during_a_drain(sqlx: bool) {
    let (mut scene, [_, reads]) = Scene::start("drain", sqlx).await;
    let borrowed = Borrowed::of(&reads).await;
    scene.rotator.rotate();
    assert_eq!(scene.events.swapped().await, 2);
    scene.events.wait(|e| matches!(e, Event::Draining { pool, .. } if pool == "replica")).await;
    let from = Instant::now();
    scene.servers.fail_over().await;
    let to = Instant::now();
    borrowed.still_works().await;
    scene.events.revoked(1).await;
    let drains = scene.events.count(|e| matches!(e, Event::Drained { .. }));
    assert_eq!(drains, 1, "{:#?}", scene.events.seen);
    assert_eq!(scene.events.issued(), 1, "the login outlived it: {:#?}", scene.events.seen);
    scene.goes_on_and_has_lost_only(from, to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_fail_over_during_a_drain_loses_only_what_was_under_way_on_sqlx() {
    during_a_drain(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_fail_over_during_a_drain_loses_only_what_was_under_way_on_deadpool() {
    during_a_drain(false).await;
}

/// The replica has got the new login and not shown it yet, so that the swap is held; then it is
/// the primary.
async fn during_a_rotation(sqlx: bool) {
    let (mut scene, _pools) = Scene::start("rotation", sqlx).await;
    scene.servers.replica.set_apply_delay(s(3600)).await.unwrap();
    scene.rotator.rotate();
    scene.events.refused_by("replica").await;
    let from = Instant::now();
    scene.servers.fail_over().await;
    let to = Instant::now();
    let swapped = scene.events.wait(|e| matches!(e, Event::Swapped { .. })).await;
    assert!(matches!(swapped, Event::Swapped { generation: 2, .. }), "{swapped:?}");
    assert_eq!(scene.events.issued(), 1, "the same login: {:#?}", scene.events.seen);
    scene.events.revoked(1).await;
    scene.goes_on_and_has_lost_only(from, to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_fail_over_during_a_rotation_loses_only_what_was_under_way_on_sqlx() {
    during_a_rotation(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_fail_over_during_a_rotation_loses_only_what_was_under_way_on_deadpool() {
    during_a_rotation(false).await;
}

/// The new primary never heard of the current login: whoever is refused tells, and another is
/// made, on the new primary. The dead one is asked last, and says nothing of logins.
async fn a_login_that_was_not_replicated(sqlx: bool) {
    let servers = Servers::start("lost", 600).await;
    let rotator = servers.rotator(3).await;
    let provider = rotator.provider();
    let pool = match sqlx {
        true => servers.sqlx_on_primary(&provider).await,
        false => servers.deadpool_on_both(&provider).await,
    };
    servers.replica.cut_off().await.unwrap();
    let first = provider.current().credential().username().to_owned();
    let mut events = Events::of(&provider);
    rotator.rotate();
    assert_eq!(events.swapped().await, 2);
    events.revoked(1).await;
    let writes = Load::start("writes", &pool, Work::Write);
    writes.goes_on().await;
    servers.fail_over().await;
    writes.goes_on().await;
    events.wait(|e| matches!(e, Event::LoginRejected { generation: 2 })).await;
    well(&provider).await;
    assert!(provider.current().number() > 2);
    let done = writes.stop().await;
    assert!(done.failed().next().is_some());
    assert!(rotator.shutdown(s(20)).await.is_clean());
    // Nor did it hear that the first one was dropped: that comes back, as everything does that was
    // not replicated, until its `VALID UNTIL`.
    servers.nothing_left_but(&[&first]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_login_that_the_new_primary_never_heard_of_is_replaced_on_sqlx() {
    a_login_that_was_not_replicated(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_login_that_the_new_primary_never_heard_of_is_replaced_on_deadpool() {
    a_login_that_was_not_replicated(false).await;
}

/// As the page says: no proxy and no name that moves, but both servers in the connection's URL.
#[tokio::test(flavor = "multi_thread")]
async fn vault_finds_the_new_primary_by_two_hosts_in_its_url() {
    let servers = Servers::start("url", 60).await;
    let (db, stack) = (&servers.db, &servers.stack);
    let hosts = format!("127.0.0.1:{},{}", db.pg_port(), servers.replica.address());
    let url = format!(
        "postgresql://{{{{username}}}}:{{{{password}}}}@{hosts}/{}\
         ?sslmode=disable&target_session_attrs=read-write",
        db.name()
    );
    let body = json!({
        "plugin_name": "postgresql-database-plugin",
        "connection_url": url,
        "username": stack.superuser(),
        "password": stack.superuser_password(),
        "allowed_roles": "*",
    });
    let path = format!("{}/config/{}", db.mount(), db.name());
    let (status, answer) = stack.vault_request("POST", &path, Some(body)).await.unwrap();
    assert!(status < 300, "{status} {answer}");
    let before = db.creds().await.unwrap();
    servers.replica.caught_up().await.unwrap();
    stack.stop_postgres(PostgresShutdown::Immediate).await.unwrap();
    servers.replica.promote().await.unwrap();
    stack.revoke_lease(&before.lease_id).await.unwrap();
    let after = db.creds().await.unwrap();
    servers.replica.connect(&after.username, &after.password, db.name()).await.unwrap();
    let gone = servers.replica.connect(&before.username, &before.password, db.name()).await;
    assert_eq!(gone.unwrap_err().sqlstate(), Some("28P01"));
}

/// A connection that somebody has borrowed.
enum Borrowed {
    Sqlx(sqlx::pool::PoolConnection<sqlx::Postgres>),
    Deadpool(deadpool_postgres::Object),
}

impl Borrowed {
    async fn of(pool: &Pool) -> Self {
        match pool {
            Pool::Sqlx(pool, _) => Self::Sqlx(pool.acquire().await.unwrap()),
            Pool::Deadpool(pool) => Self::Deadpool(pool.get().await.unwrap()),
        }
    }

    /// And is given back.
    async fn still_works(self) {
        match self {
            Self::Sqlx(mut conn) => {
                sqlx::query("SELECT 1").execute(&mut *conn).await.unwrap();
            }
            Self::Deadpool(client) => {
                client.query_one("SELECT 1", &[]).await.unwrap();
            }
        }
    }
}
