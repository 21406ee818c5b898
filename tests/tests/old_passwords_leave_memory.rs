//! I10: when a generation has ended, none of our own copies of its password is left in memory. What
//! drivers and HTTP buffers leave is counted, and bounded: see docs/copies-of-secrets.md.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};

use leasehold_testkit::{TestDb, shared};
use leasehold_tests::*;
use serde_json::Value;

/// Runs the program that looks for its own passwords; how often it found those of two generations:
/// each while it was current, and after its lease was revoked, and at the very end.
async fn copies(what: &'static str, db: Option<&TestDb>) -> [Vec<u64>; 3] {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heap"));
    command.arg(what).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut secret_id = String::new();
    if let Some(db) = db {
        let port = db.pg_port().to_string();
        command.args([&*db.vault_addr(), db.role_id(), db.mount(), db.role()]);
        command.args([db.pg_host(), &port, db.name()]);
        secret_id = db.secret_id().await.unwrap();
    }
    let done = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(secret_id.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let done = done.await.unwrap();
    assert!(done.status.success(), "{what}: {:?}", done.status);
    let line = String::from_utf8(done.stdout).unwrap();
    println!("{}", line.trim());
    let seen: Value = serde_json::from_str(&line).unwrap();
    ["current", "old", "after"].map(|key| {
        let counts = seen[key].as_array().unwrap();
        counts.iter().map(|count| count.as_u64().unwrap()).collect()
    })
}

#[tokio::test]
async fn i10_of_our_own_copies_none_is_left() {
    let [current, old, after] = copies("core", None).await;
    assert!(current.iter().all(|&n| n >= 1), "it finds what is there: {current:?}");
    assert_eq!((old, after), (vec![0, 0], vec![0, 0]));
}

/// What is not ours to wipe: one or two as measured, and room for what chance adds, which is
/// whether freed memory has been used again.
async fn bounded(what: &'static str, most: u64) {
    let db = database(shared().await.unwrap(), what, 3600, 7200).await;
    let [current, old, after] = copies(what, Some(&db)).await;
    assert!(current.iter().all(|&n| n >= 1), "it finds what is there: {current:?}");
    for n in old.iter().chain(&after) {
        assert!(*n <= most, "{what}: {n} copies of an old password, where {most} are known of");
    }
}

#[tokio::test]
async fn i10_the_http_client_leaves_a_few_copies_in_freed_buffers() {
    bounded("vault", 3).await;
}

#[tokio::test]
async fn i10_sqlx_leaves_a_few_copies_in_freed_memory() {
    bounded("sqlx", 5).await;
}

#[tokio::test]
async fn i10_tokio_postgres_leaves_a_few_copies_in_freed_memory() {
    bounded("deadpool", 5).await;
}
