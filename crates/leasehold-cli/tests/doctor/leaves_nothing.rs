//! A healthy set-up is well, and nothing is left behind: after it is done, and after it is told to
//! stop in the middle.

use std::time::Duration;

use leasehold_testkit::{Catch, Stack, eventually};
use rustix::process::{Pid, Signal, kill_process};

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::run::{Doctor, Report, assert_nothing_left, database, with_table};

#[tokio::test]
async fn a_healthy_set_up_is_well_and_nothing_is_left_or_shown() {
    let stack = Stack::builder().audit_raw().start().await.unwrap();
    let db = stack.database(with_table("healthy")).await.unwrap();
    let tokens = stack.token_accessors().await.unwrap();
    let said = Doctor::of(&db).await.administrator(&db).arg("--json").run().await;
    let report = Report::of(&said);
    assert_eq!(report.code, Some(0), "{}", report.text());
    let not_ok: Vec<_> = report.steps().filter(|s| s["status"] != "ok").collect();
    // The policy lets nobody read the role's definition, and that is right.
    assert_eq!(not_ok.len(), 1, "{}", report.text());
    assert_eq!((&not_ok[0]["id"], &not_ok[0]["status"]), (&"role".into(), &"skipped".into()));
    let gone = report.step("gone")["detail"].as_str().unwrap();
    assert!(gone.contains("its role is gone"), "{gone}");

    let text = Doctor::of(&db).await.run().await;
    assert_eq!(text.code, Some(0));
    assert!(text.stdout.contains("✓ ok   postgres-login"), "{}", text.stdout);
    assert!(text.stdout.ends_with("All is well.\n"), "{}", text.stdout);
    assert!(!text.stdout.contains('\u{1b}'), "colours without a terminal");

    assert_nothing_left(&db).await;
    assert_eq!(stack.token_accessors().await.unwrap().len(), tokens.len(), "tokens");
    // Postgres takes a moment to end the process of a connection that was closed.
    let gone = async || Ok(db.sessions().await?.is_empty());
    eventually("sessions end", Duration::from_secs(60), gone).await.unwrap();
    let secrets = stack.secrets_issued().await.unwrap();
    assert!(secrets.len() >= 4, "two tokens and two passwords at the least");
    for secret in secrets {
        for shown in [&said.stdout, &said.stderr, &text.stdout, &text.stderr] {
            assert!(!shown.contains(&secret), "a secret is shown");
        }
    }
}

#[tokio::test]
async fn what_is_missing_in_the_command_is_a_usage_error() {
    let db = database("usage").await;
    for (doctor, names) in [
        (Doctor::of(&db).await.env("VAULT_DATABASE_ROLE", ""), "--role"),
        (Doctor::of(&db).await.env("PGDATABASE", ""), "--database-url"),
        (Doctor::of(&db).await.env("VAULT_ADDR", ""), "VAULT_ADDR"),
        (Doctor::of(&db).await.env("PGSSLMODE", "sometimes"), "PGSSLMODE"),
        (Doctor::of(&db).await.arg("--needs=orders"), "--needs"),
        (Doctor::of(&db).await.arg("--grace=soon"), "--grace"),
    ] {
        let said = doctor.run().await;
        assert_eq!(said.code, Some(2), "{names}: {}{}", said.stdout, said.stderr);
        assert!(said.stderr.contains(names), "{names}: {}", said.stderr);
    }
}

/// Stopped by `signal` while its connection to Postgres hangs, the login being made.
async fn stopped_by(signal: Signal) {
    let db = database("stopped").await;
    let proxy = db.stack().postgres_proxy().await.unwrap();
    let trap = proxy.trap(Catch::request("v-approle").times(1));
    let doctor = Doctor::of(&db).await.env("PGPORT", proxy.port().to_string());
    let doctor = doctor.env("PGSSLMODE", "disable").arg("--json");
    let mut child = doctor.command().spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    let held = tokio::time::timeout(Duration::from_secs(60), trap.caught()).await;
    held.expect("it dials with the login");
    assert_eq!(db.leases().await.unwrap().len(), 1);
    // What takes long is told.
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = tokio::time::timeout(Duration::from_secs(60), stderr.next_line()).await;
    let told = told.expect("it says what it waits for").unwrap().unwrap();
    assert!(told.contains("still looking whether the way to Postgres"), "{told}");

    kill_process(pid, signal).unwrap();
    let done = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    let said = doctor.said(done.expect("it ends").unwrap());
    let report = Report::of(&said);
    assert_eq!(report.code, Some(130), "{}", said.stderr);
    assert_eq!(report.is("postgres-tls", "skipped")["detail"], "not run: it was told to stop");
    report.is("revoke", "ok");
    report.is("logout", "ok");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn told_to_stop_in_the_middle_it_gives_back_what_it_made() {
    stopped_by(Signal::INT).await;
}

#[tokio::test]
async fn terminated_in_the_middle_it_gives_back_what_it_made() {
    stopped_by(Signal::TERM).await;
}

#[tokio::test]
async fn where_nothing_can_be_printed_it_gives_back_what_it_made() {
    let db = database("full").await;
    let doctor = Doctor::of(&db).await;
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = doctor.command();
    let status = command.stdout(full()).stderr(full()).status().await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert_nothing_left(&db).await;
    // It came as far as that.
    let log = db.stack().postgres_log().await.unwrap();
    let database = format!("database={} ", db.name());
    let by_lease = |line: &str| line.contains("user=v-approle") && line.contains(&database);
    assert!(log.lines().any(by_lease), "it logged in");
}
