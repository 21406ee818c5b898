//! What the tests share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod answers;
pub mod capture;
pub mod files;
pub mod kv;
pub mod proxy;
pub mod script;
pub mod sim;

use std::time::Duration;

use leasehold_testkit::{DatabaseSpec, IssuedToken, RoleSpec, Stack, TestDb, eventually};
use leasehold_vault::{Auth, Session, VaultConfig};
use tokio::sync::OnceCell;

use capture::{Checked, CheckedStack};

/// A database with one role `app`, on the stack that all tests of this binary share. At its end
/// nothing that the server issued may be in the log.
pub async fn database(spec: DatabaseSpec) -> Checked {
    static SHARED: OnceCell<Stack> = OnceCell::const_new();
    let stack = SHARED.get_or_try_init(|| Stack::builder().audit_raw().start()).await;
    Checked::new(stack.expect("servers").database(spec).await.expect("database"))
}

/// The same, by an AppRole's specification alone.
pub async fn database_with(app_role: leasehold_testkit::AppRoleSpec) -> Checked {
    database(DatabaseSpec::new("vault").app_role(app_role)).await
}

/// Servers of a test's own, to be broken. The log is held against them at the end, too.
pub async fn own_stack() -> CheckedStack {
    CheckedStack::new(Stack::builder().audit_raw().start().await.expect("servers"))
}

pub fn config(db: &TestDb) -> VaultConfig {
    let config = VaultConfig::new(db.vault_addr());
    match db.stack().ca_pem() {
        Some(pem) => config.ca_pem(pem),
        None => config,
    }
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
    let gone = async || Ok(!lease_lives(stack, lease_id).await);
    eventually(&format!("{lease_id} is gone"), bound, gone).await.expect("revoked or ended");
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
        let what = format!("what is waited for at {place}");
        let holds = async || Ok(condition());
        let asked = leasehold_testkit::eventually(&what, bound, holds).await;
        asked.unwrap_or_else(|e| panic!("{e}"));
    }
}
