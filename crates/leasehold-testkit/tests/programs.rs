//! Wrong pointers to programs are errors that say what to do.
//!
//! Variables cannot be set safely in a process with threads: this program is run again with them.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use leasehold_testkit::Stack;

/// Does nothing but in the processes that the other tests start.
#[tokio::test]
async fn a_child_prints_why_it_cannot_start() {
    if std::env::var_os("LEASEHOLD_TEST_CHILD").is_none() {
        return;
    }
    let error = Stack::builder().download(false).start().await.expect_err("nothing to start");
    println!("ERROR {error}");
}

fn error_with(variable: &str, value: &str) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_prints_why_it_cannot_start", "--nocapture"])
        .env("LEASEHOLD_TEST_CHILD", "1")
        // Only the one under test is wrong; whatever is looked for first has to be there.
        .env("BAO_BIN", "/bin/sh")
        .env(variable, value)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let error = text.lines().find_map(|l| l.split_once("ERROR ")).map(|(_, e)| e.to_owned());
    error.unwrap_or_else(|| panic!("no error:\n{text}{}", String::from_utf8_lossy(&out.stderr)))
}

#[test]
fn a_bao_bin_that_is_no_program() {
    let error = error_with("BAO_BIN", "/nowhere/bao");
    assert!(error.contains("BAO_BIN=/nowhere/bao is not a program"), "{error}");
}

#[test]
fn a_pg_bindir_without_servers() {
    let error = error_with("PG_BINDIR", "/nowhere");
    assert!(error.contains("PG_BINDIR=/nowhere: `initdb` and `postgres`"), "{error}");
}
