//! What breaks a login, Vault or Postgres breaks no more than it has to, and heals by itself.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use leasehold_drill::{Args, Report};

async fn drill(pool: &str, args: &str) -> Report {
    let args = format!("drill --pool {pool} --long-secs 1 --long-every 5 {args}");
    leasehold_drill::run(&Args::parse_from(args.split_whitespace())).await.unwrap()
}

/// Every failure is of one of these SQLSTATEs.
fn only(report: &Report, allowed: &[&str]) {
    let strange = report.failed_by_sqlstate.keys().find(|c| !allowed.contains(&c.as_str()));
    assert!(strange.is_none(), "{strange:?} is not for this fault to cause: {report:?}");
}

/// A login that somebody revoked is noticed from the pool's own traffic and replaced.
async fn revoked(pool: &str, fault: &str) {
    let args = format!("--seconds 8 --ttl 3600 --fault {fault}@4 --workers 8 --pool-size 8");
    let report = drill(pool, &args).await;
    // A revoked role: no rights on tables, or none to be found; and, where the next operation
    // was already dialling, no such login.
    only(&report, &["42501", "42704", "28P01"]);
    // Noticed within a tenth of a second of traffic, and from then on nothing dead is handed out:
    // what is lost does not grow with the load's length. (How soon, the drill shows.)
    assert!(report.failed <= 40, "{report:?}");
    assert!(report.swap_after_fault_ms.is_some(), "{report:?}");
    assert_eq!(report.rotations.values().sum::<usize>(), 1, "{report:?}");
    assert!(report.vault_calls.issue <= 3, "{report:?}");
    assert!(report.nothing_left(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_revoked_lease_is_replaced_once_on_sqlx() {
    revoked("sqlx", "lease-revoke").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_revoked_lease_is_replaced_once_on_deadpool() {
    revoked("deadpool", "lease-revoke").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_revoked_token_is_replaced_and_its_leases_with_it_on_sqlx() {
    revoked("sqlx", "token-revoke").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_revoked_token_is_replaced_and_its_leases_with_it_on_deadpool() {
    revoked("deadpool", "token-revoke").await;
}

/// Vault is away for longer than the lease lives. What is open goes on; what fails is refused by
/// Postgres after VALID UNTIL, or broken by Vault's own revocation of the lease on its return.
async fn outage(pool: &str, fault: &str) {
    let args = format!("--seconds 26 --ttl 6 --fault {fault}@6:14 --workers 8 --pool-size 8");
    let report = drill(pool, &args).await;
    only(&report, &["28P01", "42501", "42704", "57P01"]);
    let during = &report.failed_during_fault;
    assert!(during.keys().all(|k| k == "28P01@checkout"), "only new logins: {report:?}");
    assert!(report.swap_after_fault_ms.is_some(), "it came back: {report:?}");
    assert!(report.vault_calls.issue <= 110, "no loop: {report:?}");
    assert!(report.nothing_left(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_paused_vault_costs_no_query_that_postgres_would_serve_on_sqlx() {
    outage("sqlx", "vault-pause").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_paused_vault_costs_no_query_that_postgres_would_serve_on_deadpool() {
    outage("deadpool", "vault-pause").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_stopped_vault_costs_no_query_that_postgres_would_serve() {
    outage("sqlx", "vault-stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_sealed_vault_costs_no_query_that_postgres_would_serve() {
    outage("deadpool", "vault-seal").await;
}

/// A restart ends every session and refuses new ones for a moment; nothing else is lost.
async fn restart(pool: &str) {
    let args = "--seconds 12 --ttl 3600 --fault pg-restart@5 --workers 8 --pool-size 8";
    let report = drill(pool, args).await;
    // Ended by an administrator, starting up, or no answer at all.
    only(&report, &["57P01", "57P03", "-----"]);
    assert!(report.failed <= 100, "it was away for a moment: {report:?}");
    assert_eq!(report.rotations.values().sum::<usize>(), 0, "the login was good: {report:?}");
    assert!(report.nothing_left(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_postgres_restart_mints_nothing_on_sqlx() {
    restart("sqlx").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_a_postgres_restart_mints_nothing_on_deadpool() {
    restart("deadpool").await;
}
