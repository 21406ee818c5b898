//! The short version of `cargo kills`, from its report.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// What hangs is red after this; what is slow is not.
const PATIENCE: Duration = Duration::from_secs(1800);

#[tokio::test]
async fn i9_what_killed_processes_leave_ends_by_its_ttl_and_stops_no_start() {
    // How late the server may be is measured by the long run, on a machine that has time for it:
    // one failed revocation, which the server tries again after a pause, is more than its 5 s.
    let run = Command::new(env!("CARGO_BIN_EXE_kills"))
        .args(["--times", "5", "--lanes", "2", "--seed", "7", "--late", "300"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let done = tokio::time::timeout(PATIENCE, run.wait_with_output()).await;
    let done = done.expect("it hangs").unwrap();
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
