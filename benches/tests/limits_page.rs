//! The table of `docs/limits.md` follows from the rates that the page states.

#![allow(clippy::unwrap_used)]

use leasehold_drill::capacity::{Rates, table};

const PAGE: &str = include_str!("../../docs/limits.md");

/// The number behind a word, in a table of two columns.
fn stated(what: &str) -> f64 {
    let row = PAGE.lines().find_map(|line| line.strip_prefix(&format!("| {what} | ")));
    row.unwrap_or_else(|| panic!("no row for {what}")).trim_end_matches(" |").parse().unwrap()
}

#[test]
fn the_table_of_the_page_follows_from_its_rates() {
    let rates = Rates {
        mint: stated("mints a second"),
        renew: stated("renewals a second"),
        revoke: stated("revocations a second"),
    };
    let table = table(&rates);
    assert!(PAGE.contains(&table), "docs/limits.md should have this table:\n{table}");
}
