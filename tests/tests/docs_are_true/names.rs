//! Variables and files that the pages name exist.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::{none, pages, repository};

/// Set or read by programs that are not ours.
const OTHERS: [&str; 4] = ["NO_COLOR", "CARGO_TARGET_DIR", "DATABASE_URL", "PGSSLMODE"];

#[test]
fn every_variable_that_is_named_exists() {
    let mut problems = Vec::new();
    for page in pages::all() {
        let spans = page.spans.iter().map(|(line, text)| (*line, text.as_str()));
        let blocks = page.blocks.iter().map(|block| (block.line, block.text.as_str()));
        for (line, text) in spans.chain(blocks) {
            let unknown = variables(text).into_iter().filter(|name| !known(name));
            problems.extend(unknown.map(|name| format!("{}:{line}: {name}", page.path)));
        }
    }
    none(problems);
}

/// Words like `VAULT_ADDR` and `PGHOST`.
fn variables(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let words = text.split(word).filter(|word| {
        let capitals =
            word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let shaped = word.trim_matches('_').contains('_') || word.starts_with("PG");
        capitals && shaped && word.len() > 4 && word.starts_with(|c: char| c.is_ascii_uppercase())
    });
    words.collect()
}

fn known(name: &str) -> bool {
    // Whole words: half of a name is no name.
    static WORDS: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        repository::code().split(word).collect()
    });
    OTHERS.contains(&name) || WORDS.contains(name) || setting(name)
}

/// `Settings` makes names of variables of those of its table.
fn setting(name: &str) -> bool {
    let prefixes = ["VAULT__", "BAO__", "VAULT_", "BAO_"];
    let Some(name) = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)) else {
        return false;
    };
    // What follows a prefix of which the page speaks as such.
    let name = name.to_lowercase().replace("__", "_");
    name.is_empty()
        || repository::read("crates/leasehold-vault/src/config/settings.md")
            .contains(&format!("`{name}`"))
}

#[test]
fn every_file_that_is_named_exists() {
    let tops =
        ["benches", "crates", "deploy", "docker", "docs", "examples", "fuzz", "sim", "tests"];
    let mut problems = Vec::new();
    for page in pages::all() {
        for (line, span) in &page.spans {
            let path = span.split("::").next().unwrap().trim_end_matches('/');
            let ours = path.split_once('/').is_some_and(|(top, _)| tops.contains(&top));
            // A pattern, or a command.
            if !ours || path.contains(['*', ' ', '{', '<', '$', '…']) {
                continue;
            }
            if !repository::root().join(path).exists() {
                problems.push(format!("{}:{line}: {span}", page.path));
            }
        }
    }
    none(problems);
}

#[test]
fn an_unknown_name_is_told() {
    assert_eq!(Vec::from_iter(variables("`$VAULT_ADDR`, PGUSER=x; TTL")), ["PGUSER", "VAULT_ADDR"]);
    let unknown = ["VAULT", "NONSENSE"].join("_");
    assert!(known("VAULT_CLIENT_CERT") && known("BAO_ADDR") && !known(&unknown));
    assert!(!known("VAULT_ADD") && !known("VAULT_CLIENT"));
}
