//! Lists the public API of each published crate, and holds it against `api/CRATE.txt`.
//!
//!     cargo run --manifest-path api/Cargo.toml               # says what changed, fails on it
//!     cargo run --manifest-path api/Cargo.toml -- --write    # writes the lists
//!
//! Two promises hang on it. Nothing public changes unnoticed: a line that went or changed breaks
//! somebody, and wants a new minor version before 1.0 (a major after). And no crate's API names a
//! type of a crate that it may not: their majors are not ours.

#![forbid(unsafe_code)]

mod foreign;
mod rustdoc;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A published crate, the features its API is listed with, and whose types may be in it.
struct Published {
    name: &'static str,
    features: &'static str,
    may_name: &'static [&'static str],
}

const CRATES: &[Published] = &[
    Published {
        name: "leasehold",
        features: "",
        may_name: &["arc_swap", "serde_core", "tokio", "zeroize"],
    },
    Published {
        name: "leasehold-vault",
        features: "config-file,metrics",
        may_name: &["leasehold", "serde_core", "serde_json"],
    },
    Published {
        name: "leasehold-sqlx",
        features: "",
        may_name: &["leasehold", "sqlx_core", "sqlx_postgres"],
    },
    Published {
        name: "leasehold-tokio-postgres",
        features: "",
        may_name: &["leasehold", "tokio", "tokio_postgres"],
    },
    Published {
        name: "leasehold-deadpool",
        features: "",
        may_name: &[
            "leasehold",
            "leasehold_tokio_postgres",
            "deadpool",
            "deadpool_postgres",
            "tokio_postgres",
        ],
    },
    Published {
        name: "leasehold-bb8",
        features: "",
        may_name: &["leasehold", "leasehold_tokio_postgres", "bb8", "tokio_postgres"],
    },
    Published {
        name: "leasehold-diesel",
        features: "",
        may_name: &[
            "leasehold",
            "leasehold_tokio_postgres",
            "bb8",
            "deadpool",
            "diesel",
            "diesel_async",
            "tokio_postgres",
        ],
    },
    Published {
        name: "leasehold-blocking",
        features: "diesel",
        may_name: &[
            "leasehold",
            "leasehold_tokio_postgres",
            "diesel",
            "postgres",
            "r2d2",
            "tokio",
            "tokio_postgres",
        ],
    },
    Published {
        name: "leasehold-testkit",
        features: "tls",
        may_name: &["serde_json", "tokio_postgres"],
    },
];

fn main() -> ExitCode {
    if rustdoc::is_wanted() {
        eprintln!("rustdoc: {}", rustdoc::run());
        return ExitCode::FAILURE;
    }
    let write = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--write") => true,
        Some(_) => {
            eprintln!("usage: leasehold-api [--write]");
            return ExitCode::from(2);
        }
    };
    let mut good = true;
    for published in CRATES {
        match check(published, write) {
            Ok(problems) => {
                println!("{}: {}", published.name, if problems.is_empty() { "ok" } else { "no" });
                good &= problems.is_empty();
                problems.iter().for_each(|problem| println!("  {problem}"));
            }
            Err(error) => {
                good = false;
                println!("{}: {error}", published.name);
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(published: &Published, write: bool) -> Result<Vec<String>, Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let api = list(published, here.parent().ok_or("no folder above")?)?;
    let mut problems = foreign::named(published.name, published.may_name, &api);
    let file = here.join(format!("{}.txt", published.name));
    if write {
        std::fs::write(&file, api.join("\n") + "\n")?;
        return Ok(problems);
    }
    let written = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let (written, api): (BTreeSet<_>, BTreeSet<_>) =
        (written.lines().collect(), api.iter().map(String::as_str).collect());
    let gone = written.difference(&api).map(|line| format!("- {line}"));
    let new = api.difference(&written).map(|line| format!("+ {line}"));
    let changed: Vec<_> = gone.chain(new).collect();
    if !changed.is_empty() {
        let breaks = changed.iter().any(|line| line.starts_with('-'));
        problems.push(format!(
            "the public API changed{}; if it is meant: CHANGELOG.md, then --write",
            if breaks { ", and what is gone breaks its users" } else { "" }
        ));
        problems.extend(changed);
    }
    Ok(problems)
}

/// One line for each public item.
fn list(published: &Published, root: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    // Where the workspace's own build is, so that its dependencies are there already.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .current_dir(root)
        .args(["rustdoc", "--quiet", "--locked", "--lib", "--package", published.name])
        .args(["--features", published.features])
        .arg("--target-dir")
        .arg(&target);
    rustdoc::stand_in(&mut cargo)?;
    let done = cargo.status()?;
    if !done.success() {
        return Err("cargo rustdoc failed".into());
    }
    let json = target.join("doc").join(published.name.replace('-', "_") + ".json");
    let api = public_api::Builder::from_rustdoc_json(&json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .map_err(|e| {
            format!(
                "{e}. This reads what rustdoc 1.95 writes: with another toolchain, take another \
                     version of public-api in api/Cargo.toml"
            )
        })?;
    Ok(api.items().map(ToString::to_string).collect())
}
