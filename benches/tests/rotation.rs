//! The short version of `cargo rotation`: what holds on a machine of any speed.

#![allow(clippy::unwrap_used)]

mod common;

use common::run;

#[test]
fn nothing_fails_and_no_pool_goes_above_its_maximum_and_one() {
    let args = [
        "--size",
        "4",
        "--rotations",
        "2",
        "--by-hand",
        "1",
        "--warm-up",
        "0.2",
        "--think-ms",
        "20",
        "--roll-ms",
        "500",
    ];
    let (_, report) = run(env!("CARGO_BIN_EXE_rotation"), &args);
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 6, "{report}");
    for cell in cells {
        for side in ["calm", "at_swaps"] {
            assert!(cell[side]["operations"].as_u64().unwrap() > 0, "{cell}");
        }
        if cell["way"] != "leasehold" {
            continue;
        }
        assert_eq!(cell["rotations"], 2, "{cell}");
        assert_eq!(cell["failed"], 0, "{cell}");
        // `None` where the kernel does not tell.
        assert!(cell["above_maximum"].as_i64().unwrap_or(0) <= 1, "{cell}");
    }
}
