//! `cargo build-cost`: how many crates Leasehold adds to a service, which, and how much longer a
//! clean build takes.
//!
//! Progress goes to stderr, tables to stdout; the last line on stdout is one JSON object.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;
use leasehold_drill::stats::Ratio;
use leasehold_drill::trees::{TREES, cargo, crates};
use leasehold_drill::{AnyError, outcome};
use serde::Serialize;

/// What Leasehold adds to the build of a service.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo build-cost --")]
struct Args {
    /// Clean builds of each tree, one after the other; 0 counts crates only.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Services to look at: features of benches/service [default: all].
    #[arg(long, value_delimiter = ',')]
    services: Vec<String>,
    /// Builds with optimisation.
    #[arg(long)]
    release: bool,
    /// Where builds go; emptied before each [default: a folder below the system's for such things].
    #[arg(long)]
    target_dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    trees: Vec<Tree>,
}

#[derive(Debug, Serialize)]
struct Tree {
    service: &'static str,
    adds: &'static str,
    crates: usize,
    new: Vec<String>,
    /// The median of clean builds.
    seconds: Option<f64>,
    /// To those of the service alone.
    ratio: Option<Ratio>,
}

fn main() -> ExitCode {
    outcome::exit("build-cost", run())
}

fn run() -> Result<bool, AnyError> {
    let report = compare(&Args::parse())?;
    print(&report);
    println!("{}", serde_json::to_string(&report)?);
    Ok(true)
}

fn compare(args: &Args) -> Result<Report, AnyError> {
    let mut trees = Vec::new();
    for (service, additions) in TREES {
        if !args.services.is_empty() && !args.services.iter().any(|s| s == service) {
            continue;
        }
        let alone = crates(service)?;
        let mut seconds_alone = Vec::new();
        let mut seconds = vec![Vec::new(); additions.len()];
        for _ in 0..args.rounds {
            // Each round's builds are compared with that round's own of the service alone.
            seconds_alone.push(build(args, service)?);
            for (adds, seconds) in additions.iter().zip(&mut seconds) {
                seconds.push(build(args, &format!("{service},{adds}"))?);
            }
        }
        trees.push(Tree {
            service,
            adds: "",
            crates: alone.len(),
            new: Vec::new(),
            seconds: median(&seconds_alone),
            ratio: None,
        });
        for (adds, seconds) in additions.iter().zip(&seconds) {
            let all = crates(&format!("{service},{adds}"))?;
            trees.push(Tree {
                service,
                adds,
                crates: all.len(),
                new: all.difference(&alone).cloned().collect(),
                seconds: median(seconds),
                ratio: Ratio::of_pairs(seconds.iter().zip(&seconds_alone).map(|(w, p)| w / p)),
            });
        }
    }
    Ok(Report { trees })
}

fn median(seconds: &[f64]) -> Option<f64> {
    let mut sorted = seconds.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    leasehold_drill::stats::quantile(&sorted, 0.5)
}

/// This workspace's own settings, which a user's project does not have.
const AS_A_USER: [&str; 7] = [
    "profile.dev.debug=true",
    "profile.dev.package.block-buffer.opt-level=0",
    "profile.dev.package.digest.opt-level=0",
    "profile.dev.package.hmac.opt-level=0",
    "profile.dev.package.postgres-protocol.opt-level=0",
    "profile.dev.package.sha2.opt-level=0",
    "profile.dev.package.sqlx-postgres.opt-level=0",
];

/// Seconds of a build with nothing there before.
fn build(args: &Args, features: &str) -> Result<f64, AnyError> {
    let own = format!("leasehold-build-cost-{}", std::process::id());
    let target = args.target_dir.clone().unwrap_or_else(|| std::env::temp_dir().join(own));
    if target.exists() {
        std::fs::remove_dir_all(&target)?;
    }
    let mut command = cargo("build", features);
    command.args(["--locked", "--quiet", "--target-dir"]).arg(&target);
    if args.release {
        command.arg("--release");
    }
    for setting in AS_A_USER {
        command.args(["--config", setting]);
    }
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).status()?;
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("{features}: {seconds:.1} s");
    std::fs::remove_dir_all(&target)?;
    if status.success() { Ok(seconds) } else { Err(format!("{features}: {status}").into()) }
}

fn print(report: &Report) {
    println!("| service | adds | crates | new | clean build | to the service alone |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for tree in &report.trees {
        let alone = tree.adds.is_empty();
        let new = if alone { String::new() } else { tree.new.len().to_string() };
        let adds =
            if alone { String::new() } else { format!("`{}`", tree.adds.replace(',', "`, `")) };
        let seconds = tree.seconds.map(|s| format!("{s:.0} s")).unwrap_or_default();
        let ratio = tree.ratio.map(|r| format!("{:.2}", r.median)).unwrap_or_default();
        let row = [
            "",
            &format!("`{}`", tree.service),
            &adds,
            &tree.crates.to_string(),
            &new,
            &seconds,
            &ratio,
            "",
        ];
        println!("{}", row.map(|cell| cell.to_owned()).join(" | ").trim());
    }
    println!();
    for tree in report.trees.iter().filter(|tree| !tree.adds.is_empty()) {
        println!("{} + {}: {}\n", tree.service, tree.adds, tree.new.join(", "));
    }
}
