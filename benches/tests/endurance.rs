//! The short version of `cargo endurance`: what has to be the same after few rotations as after
//! many. Memory is judged by the long one alone: a short run is still warming up.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
fn i9_after_many_rotations_no_task_lease_or_role_is_left_and_no_query_was_lost() {
    let done = Command::new(env!("CARGO_BIN_EXE_endurance"))
        .args(["--rotations", "60", "--providers", "6"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    let report: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert!(report["rotations"].as_u64().unwrap() >= 60, "{report}");
    assert!(report["queries"].as_u64().unwrap() > 0, "{report}");
    for none in ["failed_queries", "tasks_left", "leases_left", "roles_left"] {
        assert_eq!(report[none], 0, "{report}");
    }
}
