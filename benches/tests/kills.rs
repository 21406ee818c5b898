//! The short version of `cargo kills`, from its report.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
fn i9_what_killed_processes_leave_ends_by_its_ttl_and_stops_no_start() {
    let done = Command::new(env!("CARGO_BIN_EXE_kills"))
        .args(["--times", "5", "--lanes", "2", "--seed", "7"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    let report: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(report["kills"], 5, "{report}");
    for none in
        ["start_failures", "leases_left_past_ttl", "logins_left_past_ttl", "tokens_left_past_ttl"]
    {
        assert_eq!(report[none], 0, "{report}");
    }
    assert!(done.status.success(), "{report}");
}
