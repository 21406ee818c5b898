//! The short version of `cargo overhead`: all of it runs, nothing fails, and the report has all
//! that is measured. How long anything takes is for the long one.

#![allow(clippy::unwrap_used)]

mod common;

use common::run;

#[test]
fn what_the_hooks_cost_is_measured_beside_plain_pools() {
    let args = ["--rounds", "4", "--round-ms", "5", "--tasks", "1,20"];
    let (well, report) = run(env!("CARGO_BIN_EXE_overhead"), &args);
    // An operation that fails ends it.
    assert!(well);

    let cells = report["throughput"].as_array().unwrap();
    let names: Vec<_> = cells
        .iter()
        .map(|cell| {
            let text = |key: &str| cell[key].as_str().unwrap().to_owned();
            (text("pool"), text("work"), cell["tasks"].as_u64().unwrap())
        })
        .collect();
    let expected: Vec<_> = ["sqlx", "deadpool"]
        .into_iter()
        .flat_map(|pool| ["acquire", "select"].map(|work| (pool, work)))
        .flat_map(|(pool, work)| [1, 20].map(|tasks| (pool.to_owned(), work.to_owned(), tasks)))
        .collect();
    assert_eq!(names, expected, "{report}");
    for cell in cells {
        assert_eq!(cell["ratio"]["pairs"], 4, "{cell}");
        for side in ["plain", "hooked"] {
            for figure in ["per_second", "p50_us", "p99_us"] {
                assert!(cell[side][figure].as_f64().unwrap() > 0.0, "{cell}");
            }
        }
    }
    assert_eq!(report["get_drop"]["hook_ns"]["pairs"], 40, "{report}");
    let threads: Vec<_> = report["current"].as_array().unwrap().iter().collect();
    assert_eq!(
        threads.iter().map(|row| row["threads"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 4, 8]
    );
    for row in threads {
        for figure in ["current_ns", "apart_ns", "mutex_ns", "rwlock_ns"] {
            assert!(row[figure].as_f64().unwrap() > 0.0, "{row}");
        }
    }
}
