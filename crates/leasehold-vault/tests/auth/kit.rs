//! What these tests share: servers, a life of a session, and the proof that nothing is left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use leasehold::{CredentialProvider, Rotator};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TestDb, eventually};
use leasehold_vault::{Auth, Session};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::common::capture::Checked;
use crate::common::{config, within};

pub const S: Duration = Duration::from_secs(1);

/// Far above what anything here takes: a loaded machine is slow, not wrong.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A database whose leases last 4 s and can't be renewed beyond that.
pub async fn db(name: &str) -> Checked {
    db_with(name, AppRoleSpec::new()).await
}

pub async fn db_with(name: &str, app_role: AppRoleSpec) -> Checked {
    static SHARED: OnceCell<Stack> = OnceCell::const_new();
    let stack = SHARED.get_or_try_init(|| Stack::builder().vault_tls().audit_raw().start()).await;
    let role = RoleSpec::new("app").default_ttl(4 * S).max_ttl(4 * S);
    let spec = DatabaseSpec::new(name).role(role).app_role(app_role);
    Checked::new(stack.expect("servers").database(spec).await.expect("database"))
}

/// As an administrator.
pub async fn admin(db: &TestDb, method: &str, path: &str, body: Value) -> Value {
    let body = (!body.is_null()).then_some(body);
    let (status, reply) = db.stack().vault_request(method, path, body).await.expect("asked");
    assert!(status < 300, "{method} {path}: {status} {reply}");
    reply
}

/// `bao auth enable -path=... KIND`, at a path of this test's own.
pub async fn enable(db: &TestDb, kind: &str) -> String {
    let mount = format!("team/{kind}-{}", db.name());
    admin(db, "POST", &format!("sys/auth/{mount}"), json!({ "type": kind })).await;
    mount
}

/// What a role says of its tokens: they have to be renewed, and end after 6 s all the same.
pub fn short_tokens(db: &TestDb, mut role: Value) -> Value {
    role["token_policies"] = json!([db.name()]);
    role["token_ttl"] = json!(3);
    role["token_max_ttl"] = json!(6);
    role
}

pub async fn login(db: &TestDb, auth: Auth) -> Session {
    Session::login(config(db), auth).await.expect("login")
}

pub async fn refused(db: &TestDb, auth: Auth) -> leasehold::SourceError {
    Session::login(config(db), auth).await.expect_err("refused")
}

/// A folder of a test's own, which goes with it.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(db: &TestDb) -> Self {
        let name = format!("leasehold-auth-{}-{}", std::process::id(), db.name());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// In one step, as agents write their sinks.
pub fn put(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, format!("{text}\n")).expect("written");
    std::fs::rename(fresh, path).expect("renamed");
}

/// A session with the rotator that lives on it.
pub struct Life {
    pub rotator: Rotator,
    pub provider: CredentialProvider,
    pub session: Session,
}

pub async fn live(db: &TestDb, session: Session) -> Life {
    let source = session.dynamic_role(db.mount(), db.role());
    let rotator = Rotator::builder(source).start().await.expect("the first login");
    Life { provider: rotator.provider(), rotator, session }
}

impl Life {
    /// Waits for this many swaps, and sees that each generation's login works.
    pub async fn rotates(&self, db: &TestDb, times: u64) {
        let mut swaps = self.provider.subscribe();
        let mut seen = swaps.latest();
        let last = seen.number() + times;
        while seen.number() < last {
            works(db, &self.provider).await;
            let next = tokio::time::timeout(PATIENCE, swaps.changed()).await.expect("a rotation");
            let next = next.expect("it goes on");
            assert_ne!(next.credential().username(), seen.credential().username());
            seen = next;
        }
        works(db, &self.provider).await;
    }

    /// Waits for this many logins in all.
    pub async fn logs_in(&self, logins: u64) {
        eventually("the next login", PATIENCE, async || {
            Ok(self.session.token_state().login >= logins)
        })
        .await
        .expect("logged in");
    }

    /// Ends it, after which nothing may be left but `given` tokens.
    pub async fn ends(self, db: &TestDb, given: usize) {
        let report = self.rotator.shutdown(5 * S).await;
        // On a machine too slow to give all back in time, the report says so, and TTLs do the rest.
        if !report.is_clean() {
            let told = |n| Ok(n <= given);
            let few = async || told(left(db).await.len());
            eventually("its tokens have ended", PATIENCE, few).await.expect("ended");
        }
        nothing_left(db, given).await;
    }
}

/// The current login opens a connection. If a swap comes in between, the next one has to.
async fn works(db: &TestDb, provider: &CredentialProvider) {
    let mut swaps = provider.subscribe();
    loop {
        let now = swaps.latest();
        let login = now.credential();
        match db.connect(login.username(), login.expose_password()).await {
            Ok(_) => return,
            Err(e) if provider.current().number() == now.number() => {
                // It may be dead, on a machine that stood still; then it is replaced.
                let known = now.is_dead() || provider.health().expires_in == Some(Duration::ZERO);
                assert!(known, "login {} does not work: {e}", now.number());
                let swap = tokio::time::timeout(PATIENCE, swaps.changed()).await;
                swap.expect("it is replaced").expect("the rotator runs");
            }
            Err(_) => {}
        }
    }
}

/// No lease, no login, and no token but those that were given.
pub async fn nothing_left(db: &TestDb, given: usize) {
    eventually("no lease and no login is left", PATIENCE, async || {
        Ok(db.lease_count().await? == 0 && db.logins().await?.is_empty())
    })
    .await
    .expect("nothing left");
    let left = left(db).await;
    assert_eq!(left.len(), given, "tokens left: {left:?}");
}

/// The session counts from before its requests, and lets go of one that ends within the second.
async fn left(db: &TestDb) -> Vec<Value> {
    let mut left = tokens(db).await;
    left.retain(|token| token["ttl"] != 0);
    left
}

/// What the server knows of the tokens that have this database's policy.
pub async fn tokens(db: &TestDb) -> Vec<Value> {
    let mut found = Vec::new();
    for accessor in db.stack().token_accessors().await.expect("accessors") {
        let (path, body) = ("auth/token/lookup-accessor", json!({ "accessor": accessor }));
        // Those of other tests may end meanwhile.
        let reply = db.stack().vault_request("POST", path, Some(body)).await.expect("asked");
        let data = &reply.1["data"];
        let policies = data["policies"].as_array();
        if policies.is_some_and(|all| all.iter().any(|p| p == db.name())) {
            found.push(data.clone());
        }
    }
    found
}

/// The whole of it, for methods that can log in again: three rotations, with renewals and another
/// login on the way, and nothing left.
pub async fn carries_three_rotations(db: &TestDb, auth: Auth) {
    let life = live(db, login(db, auth).await).await;
    carry_on(db, life).await;
}

pub async fn carry_on(db: &TestDb, life: Life) {
    life.rotates(db, 3).await;
    life.logs_in(2).await;
    // And one with the token of the second login.
    life.rotates(db, 1).await;
    within(PATIENCE, || life.session.calls().token_renew >= 2).await;
    within(PATIENCE, || life.session.token_state().lost.is_none()).await;
    life.ends(db, 0).await;
}
