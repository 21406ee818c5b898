//! What a service depends on without Leasehold and with it, by the features of `benches/service`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{AnyError, fail};

/// Services, and what of ours they may add. Each is compared with the service alone.
pub const TREES: [(&str, &[&str]); 3] = [
    ("with-sqlx", &SQLX),
    ("with-sqlx-tls", &SQLX),
    (
        "with-deadpool",
        &[
            "leasehold",
            "leasehold-deadpool",
            "leasehold-vault",
            "leasehold-deadpool,leasehold-vault",
            "leasehold-testkit",
        ],
    ),
];

const SQLX: [&str; 5] = [
    "leasehold",
    "leasehold-sqlx",
    "leasehold-vault",
    "leasehold-sqlx,leasehold-vault",
    "leasehold-testkit",
];

/// The crates that a service with these features is built from, itself not counted, as
/// `name version`. Normal and build dependencies on Linux.
///
/// # Errors
/// When cargo can't tell.
pub fn crates(features: &str) -> Result<BTreeSet<String>, AnyError> {
    let done = cargo("tree", features)
        .args(["--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !done.status.success() {
        return Err(fail(format!("cargo tree: {}", done.status)));
    }
    let mut crates = BTreeSet::new();
    for line in String::from_utf8(done.stdout)?.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next())
            && name != PACKAGE
        {
            crates.insert(format!("{name} {}", version.trim_start_matches('v')));
        }
    }
    Ok(crates)
}

const PACKAGE: &str = "plain-service";

/// Cargo on the service with these features.
#[must_use]
pub fn cargo(command: &str, features: &str) -> Command {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut cargo = Command::new(cargo);
    cargo
        .args([command, "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .args(["--package", PACKAGE, "--features", features]);
    cargo
}
