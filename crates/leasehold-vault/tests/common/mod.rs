//! What the tests share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod answers;
pub mod files;
pub mod proxy;
pub mod script;
pub mod sim;

use std::time::{Duration, Instant};

use leasehold_testkit::{DatabaseSpec, IssuedToken, RoleSpec, Stack, TestDb};
use leasehold_vault::{Auth, Session, VaultConfig};

/// A database with one role `app`, on the stack that all tests of this binary share.
pub async fn database(spec: DatabaseSpec) -> TestDb {
    let stack = leasehold_testkit::shared().await.expect("servers");
    stack.database(spec).await.expect("database")
}

/// The same, by an AppRole's specification alone.
pub async fn database_with(app_role: leasehold_testkit::AppRoleSpec) -> TestDb {
    database(DatabaseSpec::new("vault").app_role(app_role)).await
}

pub fn config(db: &TestDb) -> VaultConfig {
    VaultConfig::new(db.vault_addr())
}

pub async fn approle(db: &TestDb) -> Auth {
    Auth::approle(db.role_id(), db.secret_id().await.expect("secret_id"))
}

pub async fn session(db: &TestDb) -> Session {
    Session::login(config(db), approle(db).await).await.expect("login")
}

pub async fn session_by(db: &TestDb, token: &IssuedToken) -> Session {
    let auth = Auth::token(token.token.as_str());
    Session::login(config(db), auth).await.expect("login")
}

pub async fn lease_lives(stack: &Stack, lease_id: &str) -> bool {
    stack.lookup_lease(lease_id).await.expect("lookup").is_some()
}

/// Waits until the server has dropped a lease.
pub async fn lease_gone(stack: &Stack, lease_id: &str, bound: Duration) {
    let began = Instant::now();
    while lease_lives(stack, lease_id).await {
        assert!(began.elapsed() < bound, "{lease_id} lives after {bound:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A role whose leases outlive every token of these tests.
pub fn long_role() -> RoleSpec {
    RoleSpec::new("app").default_ttl(Duration::from_secs(3600)).max_ttl(Duration::from_secs(7200))
}

/// Waits for a condition, bounded.
#[track_caller]
pub fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    within(Duration::from_secs(20), condition)
}

/// Waits for a condition for at most `bound`.
#[track_caller]
pub fn within(bound: Duration, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < bound, "not within {bound:?}, waited for at {place}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
