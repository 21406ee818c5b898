//! A replica that lags: no new login is used before it is known there, and none is minted for it.

use std::time::Duration;

use leasehold::{Event, HealthState, Rotator};
use leasehold_testkit::PostgresShutdown;
use leasehold_tests::s;

use crate::kit::{Events, LAG, Servers, well};
use crate::load::{Load, Pool, Work};

const ROTATIONS: u64 = 10;

/// Every rotation is held by the replica, which hears of the login three seconds late.
async fn ten_rotations(servers: Servers, pools: Vec<(&str, Pool, Work)>, rotator: Rotator) {
    let provider = rotator.provider();
    assert_eq!(provider.current().number(), 1, "nothing was minted to connect to the replica");
    let loads = pools.iter().map(|(name, pool, work)| Load::start(name, pool, *work));
    let loads: Vec<_> = loads.collect();
    let mut events = Events::of(&provider);
    for n in 1..=ROTATIONS {
        let old = provider.current().credential().username().to_owned();
        rotator.rotate();
        events.refused_by("replica").await;
        assert_eq!(provider.current().number(), n, "refused on one server: not swapped to");
        assert_eq!(events.swapped().await, n + 1);
        for load in &loads {
            load.goes_on().await;
        }
        events.wait(|e| matches!(e, Event::Drained { .. })).await;
        assert_eq!(servers.sessions(&old).await, [0, 0], "confirmed on either server");
        events.revoked(n).await;
    }
    for load in loads {
        load.stop().await.lost_nothing();
    }
    let is_bad = |e: &Event| match e {
        Event::Swapped { proven, .. } => !proven,
        Event::Drained { forced, left, .. } => !forced.is_empty() || *left > 0,
        _ => false,
    };
    assert_eq!(events.count(is_bad), 0, "{:#?}", events.seen);
    assert_eq!(events.issued() as u64, ROTATIONS, "one login a rotation: {:#?}", events.seen);
    assert!(rotator.shutdown(s(20)).await.is_clean());
    servers.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_ten_rotations_lose_nothing_on_sqlx_where_the_replica_lags() {
    let servers = Servers::start("sqlx_lag", 16).await;
    servers.replica.set_apply_delay(LAG).await.unwrap();
    let rotator = servers.rotator(3).await;
    let provider = rotator.provider();
    let pools = vec![
        ("writes", servers.sqlx_on_primary(&provider).await, Work::Write),
        ("reads", servers.sqlx_on_replica(&provider).await, Work::Read),
    ];
    ten_rotations(servers, pools, rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_ten_rotations_lose_nothing_on_deadpool_where_the_replica_lags() {
    let servers = Servers::start("deadpool_lag", 16).await;
    servers.replica.set_apply_delay(LAG).await.unwrap();
    let rotator = servers.rotator(3).await;
    let provider = rotator.provider();
    let pools = vec![
        ("writes", servers.deadpool_on_primary(&provider).await, Work::Write),
        ("reads", servers.deadpool_on_replica(&provider).await, Work::Read),
        ("writes to whichever can be", servers.deadpool_on_both(&provider).await, Work::Write),
    ];
    ten_rotations(servers, pools, rotator).await;
}

/// The swap is held for as long as the current login has time to give, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_replica_that_never_hears_of_a_login_holds_the_swap_to_the_leeway_alone() {
    let servers = Servers::start("never", 12).await;
    // Not renewable for longer: its end is near.
    servers.db.set_role_ttls("app", s(12), s(12)).await.unwrap();
    let rotator = servers.rotator(3).await;
    let provider = rotator.provider();
    let _pools = [
        servers.deadpool_on_primary(&provider).await,
        servers.deadpool_on_replica(&provider).await,
    ];
    servers.replica.set_apply_delay(s(3600)).await.unwrap();
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.refused_by("replica").await;
    let swapped = events.wait(|e| matches!(e, Event::Swapped { .. })).await;
    assert!(matches!(swapped, Event::Swapped { proven: false, .. }), "{swapped:?}");
    let alarms = events.count(|e| matches!(e, Event::Warning { .. }));
    assert_eq!(alarms, 1, "{:#?}", events.seen);
    assert_eq!(provider.health().state, HealthState::Degraded);
    assert_eq!(events.issued(), 1, "none is minted for it: {:#?}", events.seen);
}

/// A session that is nobody's but on the replica: it is counted there, and ended there.
#[tokio::test(flavor = "multi_thread")]
async fn i4_a_session_on_the_replica_holds_the_drain_and_is_named_with_its_pool() {
    for sqlx in [true, false] {
        let servers = Servers::start("held", 60).await;
        let rotator = servers.rotator(3).await;
        let provider = rotator.provider();
        let _pools = match sqlx {
            true => {
                [servers.sqlx_on_primary(&provider).await, servers.sqlx_on_replica(&provider).await]
            }
            false => [
                servers.deadpool_on_primary(&provider).await,
                servers.deadpool_on_replica(&provider).await,
            ],
        };
        let current = provider.current().clone();
        let (user, password) =
            (current.credential().username(), current.credential().expose_password());
        let held = servers.replica.connect(user, password, servers.db.name()).await.unwrap();
        let mut events = Events::of(&provider);
        rotator.rotate();
        let drained = events.wait(|e| matches!(e, Event::Drained { .. })).await;
        let Event::Drained { forced, .. } = &drained else { unreachable!() };
        let named: Vec<_> = forced.iter().map(|(p, h)| (&**p, &*h.application)).collect();
        assert_eq!(named, [("replica", "leasehold-testkit")], "{drained:?}");
        assert_eq!(servers.sessions(user).await, [0, 0], "ended there");
        assert!(held.query_one("select 1", &[]).await.is_err());
        events.revoked(1).await;
    }
}

/// Dropped on the primary, its sessions on the replica live on without a role. Traffic there tells.
#[tokio::test(flavor = "multi_thread")]
async fn i6_a_login_that_was_dropped_on_the_primary_is_noticed_on_the_replica() {
    for sqlx in [true, false] {
        let servers = Servers::start("dropped", 60).await;
        let rotator = servers.rotator(3).await;
        let provider = rotator.provider();
        let pool = match sqlx {
            true => servers.sqlx_on_replica(&provider).await,
            false => servers.deadpool_on_replica(&provider).await,
        };
        let reads = Load::start("reads", &pool, Work::Read);
        reads.goes_on().await;
        let mut events = Events::of(&provider);
        let user = provider.current().credential().username().to_owned();
        servers.db.drop_login(&user).await.unwrap();
        events.wait(|e| matches!(e, Event::SessionRevoked { generation: 1 })).await;
        assert_eq!(events.swapped().await, 2);
        reads.goes_on().await;
        reads.stop().await;
        assert!(rotator.shutdown(s(20)).await.is_clean());
        servers.nothing_left().await;
    }
}

/// The replica was away at the swap. When it comes back it refuses what it has yet to hear of, and
/// another login would be as unknown to it.
#[tokio::test(flavor = "multi_thread")]
async fn i7_a_replica_that_comes_back_and_lags_costs_no_login() {
    let servers = Servers::start("back", 60).await;
    let rotator = servers.rotator(3).await;
    let provider = rotator.provider();
    let writes = servers.deadpool_on_primary(&provider).await;
    let reads = servers.deadpool_on_replica(&provider).await;
    let mut events = Events::of(&provider);
    servers.replica.set_apply_delay(s(3600)).await.unwrap();
    servers.replica.stop(PostgresShutdown::Fast).await.unwrap();
    rotator.rotate();
    let swapped = events.wait(|e| matches!(e, Event::Swapped { .. })).await;
    assert!(matches!(swapped, Event::Swapped { proven: false, .. }), "it vetoes nothing");
    let (writing, reading) =
        (Load::start("writes", &writes, Work::Write), Load::start("reads", &reads, Work::Read));
    servers.replica.start().await.unwrap();
    // From here on readers meet refused logins, and report them.
    events.refused_by("replica").await;
    writing.goes_on().await;
    events.refused_by("replica").await;
    servers.replica.set_apply_delay(Duration::ZERO).await.unwrap();
    reading.goes_on().await;
    well(&provider).await;
    let refused = reading.stop().await;
    assert!(refused.failed().any(|op| op.result.as_ref().is_err_and(|e| e.contains("password"))));
    writing.stop().await.lost_nothing();
    assert_eq!(events.issued(), 1, "{:#?}", events.seen);
    assert!(rotator.shutdown(s(20)).await.is_clean());
    servers.nothing_left().await;
}
