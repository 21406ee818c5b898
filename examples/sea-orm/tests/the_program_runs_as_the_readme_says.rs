//! The program, from its settings to Ctrl-C.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use leasehold_testkit::{DatabaseSpec, shared};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// A bound, never a measure.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn it_deposits_until_it_is_told_to_stop_and_leaves_nothing() {
    let db = shared().await.unwrap().database(DatabaseSpec::new("program").with_accounts()).await;
    let db = db.unwrap();
    let url = format!("postgres://{}:{}/{}", db.pg_host(), db.pg_port(), db.name());
    let mut program = Command::new(env!("CARGO_BIN_EXE_sea-orm-app"))
        .env_clear()
        .env("VAULT_ADDR", db.vault_addr())
        .env("VAULT_ROLE_ID", db.role_id())
        .env("VAULT_SECRET_ID", db.secret_id().await.unwrap())
        .env("VAULT_MOUNT_PATH", db.mount())
        .env("VAULT_DATABASE_ROLE", db.role())
        .env("DATABASE_URL", url)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let run = async {
        let login = loop {
            let line = lines.next_line().await.unwrap().expect("it ended");
            if let Some((_, login)) = line.split_once("account 7 has 2 cents; the login is ") {
                break login.to_owned();
            }
        };
        assert_eq!(db.logins().await.unwrap(), [login]);
        let id = Pid::from_raw(program.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(id, Signal::INT).unwrap();
        assert!(program.wait().await.unwrap().success());
    };
    tokio::time::timeout(LIMIT, run).await.expect("two deposits, and an end");
    assert_eq!(db.lease_count().await.unwrap(), 0);
    assert_eq!(db.logins().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_missing_is_named_and_nothing_is_asked_of_anybody() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sea-orm-app"));
    let program = program.env_clear().env("VAULT_ADDR", "http://127.0.0.1:1");
    let told = program.output().await.unwrap();
    assert!(!told.status.success());
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("VAULT_DATABASE_ROLE is not set"), "{told}");
    let told = program.env("VAULT_DATABASE_ROLE", "app").output().await.unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("DATABASE_URL is not set"), "{told}");
}
