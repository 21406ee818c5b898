//! One of this crate's programs, run to its end.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Whether it ended well, and the report in its last line.
pub(crate) fn run(program: &str, args: &[&str]) -> (bool, Value) {
    let done = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    let report = out.lines().last().map(serde_json::from_str);
    (done.status.success(), report.unwrap_or_else(|| panic!("it said nothing")).unwrap())
}
