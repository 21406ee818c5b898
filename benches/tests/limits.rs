//! The short version of `cargo limits`: that all of it can be measured and that nothing fails. How
//! fast it goes is for the long one.

#![allow(clippy::unwrap_used)]

mod common;

use common::run;

#[test]
fn a_database_makes_renews_and_revokes_logins_of_every_kind_and_works_off_a_backlog() {
    let args = [
        "--seconds",
        "0.2",
        "--clients",
        "2",
        "--live",
        "20",
        "--logins",
        "2",
        "--grants",
        "10000",
        "--backlog",
        "10",
        "--backlog-ttl",
        "6",
        "--check",
    ];
    let (well, report) = run(env!("CARGO_BIN_EXE_limits"), &args);
    assert!(well, "{report}");
    assert_eq!(report["failed"], 0, "{report}");
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 3 + 2, "{report}");
    for cell in cells.iter().chain(report["crowded"].as_array().unwrap()) {
        for kind in ["mint", "renew", "revoke"] {
            assert!(cell[kind]["done"].as_u64().unwrap() > 0, "{kind}: {cell}");
        }
        assert_eq!(cell["mint"]["done"], cell["revoke"]["done"], "{cell}");
    }
    assert!(report["felt"][1]["live"].as_u64().unwrap() >= 20, "{report}");
    assert!(report["backlog"]["logins"].as_u64().unwrap() > 0, "{report}");
    // Why the ready-made roles give rights to groups: docs/limits.md says where this ends.
    assert_eq!(report["grants"]["sqlstate"], "54000", "{report}");
}
