//! A process that is killed can clean up nothing. What bounds what it leaves is the TTL of its
//! role and that of its token, whichever ends first.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, TestDb, eventually, shared};
use leasehold_tests::*;

struct Holder(Child);

impl Holder {
    /// A process of its own with a login and two connections.
    async fn start(db: &TestDb) -> Self {
        let secret_id = db.secret_id().await.unwrap();
        let port = db.pg_port().to_string();
        let mut process = Command::new(env!("CARGO_BIN_EXE_holder"))
            .args([&*db.vault_addr(), db.role_id(), db.mount(), db.role()])
            .args([db.pg_host(), &port, db.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(secret_id.as_bytes()).unwrap();
        drop(stdin);
        let out = BufReader::new(process.stdout.take().unwrap());
        let read = tokio::task::spawn_blocking(move || out.lines().next().unwrap().unwrap());
        assert!(read.await.unwrap().starts_with("v-"), "a user name");
        Self(process)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // A test that failed leaves none behind.
        let _ = self.0.kill();
    }
}

async fn database(name: &str, role_ttl: u64, token_ttl: u64) -> TestDb {
    let role = RoleSpec::new("app").default_ttl(s(role_ttl)).max_ttl(s(7200));
    let who = AppRoleSpec::new().token_ttl(s(token_ttl)).token_max_ttl(s(7200));
    let spec = DatabaseSpec::new(name).role(role).app_role(who).with_accounts();
    shared().await.unwrap().database(spec).await.unwrap()
}

/// Kills a process that holds a login, and sees that all it held goes without anybody's help.
async fn killed(db: &TestDb) {
    let holder = Holder::start(db).await;
    assert!(db.lease_count().await.unwrap() > 0 && !db.sessions().await.unwrap().is_empty());
    holder.kill();
    let begun = Instant::now();
    nothing_left(db).await;
    println!("lease and login were gone {:.1?} after the kill", begun.elapsed());
    eventually("its sockets are closed", LONG, async || Ok(db.sessions().await?.is_empty()))
        .await
        .unwrap();
}

#[tokio::test]
async fn i9_the_lease_of_a_killed_process_ends_with_the_roles_ttl() {
    // Its token would live for an hour.
    killed(&database("byrole", 6, 3600).await).await;
}

#[tokio::test]
async fn i9_the_lease_of_a_killed_process_ends_with_its_tokens_ttl() {
    // Its lease would live for an hour.
    killed(&database("bytoken", 3600, 6).await).await;
}

#[tokio::test]
async fn i9_a_second_process_is_not_hurt_by_what_ends_with_the_first() {
    let db = database("second", 3600, 6).await;
    let (first, second) = (Holder::start(&db).await, Holder::start(&db).await);
    first.kill();
    eventually("one login is left", LONG, async || {
        Ok(db.logins().await?.len() == 1 && db.lease_count().await? == 1)
    })
    .await
    .unwrap();
    let login = db.logins().await.unwrap().remove(0);
    assert_eq!(db.sessions_of(&login).await.unwrap().len(), 2, "and it is in use");
    second.kill();
    nothing_left(&db).await;
}
