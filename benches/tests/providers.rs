//! The short version of `cargo providers`: what is exact in its report. Time and CPU are judged by
//! the long one alone.

#![allow(clippy::unwrap_used)]

mod common;

use common::run;
use serde_json::json;

#[test]
fn twenty_providers_ask_for_what_they_need_a_few_at_a_time_and_leave_nothing() {
    let args = ["--counts", "20", "--rest", "1", "--pools", "0", "--days", "1"];
    let (_, report) = run(env!("CARGO_BIN_EXE_providers"), &args);
    let row = &report["counts"][0];
    // And one that was there before. A rotator that had no answer for 10 s may have asked once more.
    let quick = row["start_s"].as_f64().unwrap() < 10.0;
    let mints = if quick { json!(21) } else { row["requests"]["mint"].clone() };
    let requests = json!({
        "login": 1, "mint": mints, "rights": 21, "revocation": mints, "token revocation": 1,
    });
    assert_eq!(row["requests"], requests, "{report}");
    assert!(row["mints_at_once"].as_u64().unwrap() <= 16, "{report}");
    assert!(row["heap_kib"].as_f64().unwrap() < 20.0, "{report}");
    assert_eq!(row["tasks"], 3.0, "{report}");
    for none in ["requests_at_rest", "unclean", "tasks_left"] {
        assert_eq!(row[none], 0, "{report}");
    }
    // A day is as long as a login may live.
    let schedule = &report["schedule"];
    assert!(schedule["mints_per_hour"].as_f64().unwrap() <= 2.0 / 24.0, "{report}");
    // Each when a sixth to a third of the hour has passed.
    let renewals = schedule["renewals_per_hour"].as_f64().unwrap();
    assert!((3.0..=6.0).contains(&renewals), "{report}");
}
