//! The main job: pools whose logins rotate under load, on real servers, without one failed query.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use leasehold_drill::{Args, Report};

async fn drill(args: &str) -> Report {
    let args = format!("drill {args}");
    leasehold_drill::run(&Args::parse_from(args.split_whitespace())).await.unwrap()
}

fn lost_nothing(report: &Report) {
    let seen = serde_json::to_string_pretty(report).unwrap();
    assert_eq!((report.failed, report.long_failed), (0, 0), "a query was lost: {seen}");
    assert!(report.ok > 100 && report.long_ok > 0, "there was load: {seen}");
    assert!(report.rotations.values().sum::<usize>() >= 2, "it rotated: {seen}");
    assert_eq!(report.superseded_handouts, 0, "I2, after a roll: {seen}");
    assert_eq!(report.superseded_logins, Some(0), "I1, after the last dial: {seen}");
    assert_eq!(report.forced_closes, 0, "I3: {seen}");
    if let Some(most) = report.max_connections_seen {
        assert!(most <= 9, "never more than the pool's maximum and one: {seen}");
    }
    assert!(report.nothing_left(), "I9: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i2_i3_i9_hold_under_load_for_sqlx() {
    let args = "--pool sqlx --seconds 20 --ttl 4 --workers 12 --pool-size 8 --long-secs 1 \
                --long-every 3";
    lost_nothing(&drill(args).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i2_i3_i9_hold_under_load_for_deadpool() {
    let args = "--pool deadpool --seconds 20 --ttl 4 --workers 12 --pool-size 8 --long-secs 1 \
                --long-every 3";
    lost_nothing(&drill(args).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_token_of_seconds_is_outlived_without_a_failed_query() {
    let args = "--pool sqlx --seconds 30 --ttl 60 --workers 8 --pool-size 8 --long-secs 1 \
                --long-every 5 --token-ttl 6 --token-max-ttl 12";
    let report = drill(args).await;
    lost_nothing(&report);
    assert!(report.rotations["token_ending"] >= 2, "{report:?}");
    assert!(report.vault_calls.login >= 3, "{report:?}");
}
