//! The short version of `cargo endurance`: what has to be the same after few rotations as after
//! many. Memory is judged by the long one alone: a short run is still warming up.

#![allow(clippy::unwrap_used)]

mod common;

use common::run;

#[test]
fn i9_after_many_rotations_no_task_lease_or_role_is_left_and_no_query_was_lost() {
    let args = ["--rotations", "60", "--providers", "6"];
    let (_, report) = run(env!("CARGO_BIN_EXE_endurance"), &args);
    assert!(report["rotations"].as_u64().unwrap() >= 60, "{report}");
    assert!(report["queries"].as_u64().unwrap() > 0, "{report}");
    for none in ["failed_queries", "tasks_left", "leases_left", "roles_left"] {
        assert_eq!(report[none], 0, "{report}");
    }
}
