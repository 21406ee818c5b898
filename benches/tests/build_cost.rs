//! `docs/performance.md` says how many crates Leasehold adds to a service, and it is so: none comes
//! along unnoticed. How long they take to build is for `cargo build-cost`.

#![allow(clippy::unwrap_used)]

use leasehold_drill::trees::{TREES, crates};

const PAGE: &str = include_str!("../../docs/performance.md");

#[test]
fn the_page_says_how_many_crates_each_of_ours_adds() {
    let (_, section) = PAGE.split_once("\n## Build cost\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let said: Vec<Vec<String>> = section
        .lines()
        .filter(|line| line.starts_with("| `with-"))
        .map(|line| line.split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    let mut found = Vec::new();
    for (service, additions) in TREES {
        let alone = crates(service).unwrap();
        found.push([service.to_owned(), String::new(), alone.len().to_string(), String::new()]);
        for adds in additions {
            let all = crates(&format!("{service},{adds}")).unwrap();
            let new = all.difference(&alone).count().to_string();
            found.push([service.into(), adds.replace(',', ", "), all.len().to_string(), new]);
        }
    }
    let said: Vec<_> = said.iter().map(|row| row[1..5].to_vec()).collect();
    let found: Vec<_> = found.iter().map(|row| row.to_vec()).collect();
    assert_eq!(said, found, "service, adds, crates, new: `cargo build-cost` prints the table");
}
