//! Where the policy does not let a lease be revoked.

#![allow(clippy::unwrap_used)]

use leasehold::{Event, Rotator};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, TestDb, eventually, shared};
use leasehold_tests::ready_made::{DYNAMIC_ROLE, without};
use leasehold_tests::*;
use leasehold_vault::Session;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

const RENEW: &str = "sys/leases/renew";
const REVOKE: &str = "sys/leases/revoke";

/// Leases of an hour, and the policy of `deploy/vault` less some rules.
async fn database_without(name: &str, rules: &[&str]) -> TestDb {
    let policy = rules.iter().fold(DYNAMIC_ROLE.to_owned(), |policy, rule| without(&policy, rule));
    let policy = policy.replace("database/creds/orders-rw", "{{mount}}/creds/app");
    let role = RoleSpec::new("app").default_ttl(s(3600)).max_ttl(s(7200));
    let who = AppRoleSpec::new().policy(policy).no_default_policy().token_ttl(s(3600));
    let spec = DatabaseSpec::new(name).role(role).app_role(who).with_accounts();
    shared().await.unwrap().database(spec).await.unwrap()
}

async fn pool(db: &TestDb, rotator: &Rotator) -> sqlx::PgPool {
    let base = PgConnectOptions::new_without_pgpass();
    let base = base.host(db.pg_host()).port(db.pg_port()).database(db.name());
    let options = PgPoolOptions::new().min_connections(2).max_connections(2);
    leasehold_sqlx::connect(&rotator.provider(), options, base).await.unwrap()
}

async fn works(pool: &sqlx::PgPool) {
    sqlx::query("UPDATE accounts SET v = v + 1 WHERE id = 1").execute(pool).await.unwrap();
}

async fn start(db: &TestDb) -> (Session, Rotator) {
    let session = session(db).await;
    let rotator = Rotator::builder(session.dynamic_role(db.mount(), db.role()));
    (session, rotator.start().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_drained_lease_that_may_not_be_revoked_is_ended_by_a_short_renewal() {
    let db = database_without("soft", &[REVOKE]).await;
    let (session, rotator) = start(&db).await;
    let provider = rotator.provider();
    let pool = pool(&db, &rotator).await;
    let mut held = pool.acquire().await.unwrap();
    let old = provider.current().credential().username().to_owned();
    let mut events = provider.events();
    rotator.rotate();
    swapped(&mut events).await;
    // As long as somebody works on the old login its lease is whole.
    sqlx::query("UPDATE accounts SET v = v + 1 WHERE id = 1").execute(&mut *held).await.unwrap();
    assert!(db.logins().await.unwrap().contains(&old));
    assert_eq!(session.calls().renew, 0);
    drop(held);

    event(&mut events, |e| {
        let cut = "cut short by a renewal";
        matches!(e, Event::Warning { message, .. } if message.contains(cut)).then_some(())
    })
    .await;
    // It had the better part of an hour to go.
    eventually("the old login is gone", LONG, async || {
        Ok(!db.logins().await?.contains(&old) && db.lease_count().await? == 1)
    })
    .await
    .unwrap();
    event(&mut events, |e| {
        matches!(e, Event::LeaseEnded { generation: Some(1), .. }).then_some(())
    })
    .await;
    let calls = session.calls();
    assert_eq!((calls.revoke, calls.renew), (1, 1), "{calls:?}");
    assert!(db.sessions().await.unwrap().iter().all(|s| s.user.is_some()), "no zombies");
    works(&pool).await;

    let report = rotator.shutdown(s(10)).await;
    assert!(report.is_clean(), "{report}");
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_lease_that_can_not_be_ended_goes_with_the_token_that_the_shutdown_revokes() {
    let db = database_without("token", &[REVOKE, RENEW]).await;
    let (_session, rotator) = start(&db).await;
    let pool = pool(&db, &rotator).await;
    let mut events = rotator.provider().events();
    rotator.rotate();
    let told = event(&mut events, |e| match e {
        Event::RevokeFailed { generation: Some(1), retry_in: None, .. } => Some(e.to_string()),
        _ => None,
    });
    let told = told.await;
    assert!(told.contains(RENEW) && told.ends_with("left to its TTL"), "{told}");
    assert_eq!(db.lease_count().await.unwrap(), 2, "the old one is left to its TTL");
    works(&pool).await;
    // Nothing more can be tried, so there is nothing to wait for.
    let report = tokio::time::timeout(LONG, rotator.shutdown(s(3600))).await.unwrap();
    assert!(report.is_clean(), "gone with their token: {report}");
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_shutdown_that_may_end_neither_lease_nor_token_names_both() {
    let rules = [REVOKE, RENEW, "auth/token/revoke-self"];
    let db = database_without("neither", &rules).await;
    let (_session, rotator) = start(&db).await;
    let user = rotator.provider().current().credential().username().to_owned();
    let pool = pool(&db, &rotator).await;
    works(&pool).await;
    let report = tokio::time::timeout(LONG, rotator.shutdown(s(3600))).await.unwrap();
    let [left] = &report.remains[..] else { panic!("one lease: {report}") };
    assert_eq!(left.username.as_deref(), Some(user.as_str()));
    assert!(left.ends_in.is_some_and(|end| end <= s(3600)), "{report}");
    assert!(left.why.contains(RENEW), "{report}");
    assert!(report.source.len() == 1 && report.source[0].contains("revoke-self"), "{report}");
    // And it is so.
    assert_eq!(db.lease_count().await.unwrap(), 1);
    assert_eq!(db.logins().await.unwrap(), [user]);
    assert_eq!(db.sessions().await.unwrap(), [], "connections are closed all the same");
}
