//! What a rotation does to the service it happens to: latencies around swaps against calm ones in
//! the same run, failures, and connections; for this project and for two ways by hand.

mod cell;
mod load;
mod subject;
mod target;

use std::fmt::Write;
use std::time::Duration;

use cell::{Cell, Figures};
use clap::Parser;
use leasehold_testkit::Stack;
use serde::Serialize;
pub use subject::Way;
pub(crate) use target::{AnyPool, Target};

use crate::AnyError;
use crate::args::PoolKind;

/// Rotations under closed-loop load, against calm in between and against two ways by hand.
///
/// Progress goes to stderr. On stdout: a table, and as the last line one JSON object.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo rotation --")]
pub struct Args {
    /// Which pools [default: both].
    #[arg(long, value_enum)]
    pool: Vec<PoolKind>,
    /// Sizes of the pools; twice as many tasks ask for connections.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 32, 100])]
    size: Vec<usize>,
    /// Which ways [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    way: Vec<Way>,
    /// Rotations of each cell.
    #[arg(long, default_value_t = 50)]
    rotations: usize,
    /// Rotations of each cell that rotates by hand: what they cost shows sooner.
    #[arg(long, default_value_t = 20)]
    by_hand: usize,
    /// How long a task of a pool of 8 thinks between two operations, on average; in larger pools
    /// as much longer as there are more tasks, so that the load on two cores stays the same.
    #[arg(long, default_value_t = 5.0)]
    think_ms: f64,
    /// The rotator's roll [default: 15000, as with a TTL of four minutes and more].
    #[arg(long)]
    roll_ms: Option<u64>,
    /// Seconds of load before the first rotation.
    #[arg(long, default_value_t = 5.0)]
    warm_up: f64,
    /// Exit code 1 if a bound of the figures is broken.
    #[arg(long)]
    check: bool,
}

impl Args {
    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up.max(0.0))
    }

    fn cells(&self) -> Vec<Cell> {
        let or = |given: &[Way]| match given {
            [] => vec![Way::Leasehold, Way::NewPool, Way::Options],
            given => given.to_vec(),
        };
        let pools = match &self.pool[..] {
            [] => vec![PoolKind::Sqlx, PoolKind::Deadpool],
            given => given.to_vec(),
        };
        let mut cells = Vec::new();
        for kind in pools {
            for &size in &self.size {
                for way in or(&self.way) {
                    cells.push(Cell { pool: kind.as_str(), kind, size, way });
                }
            }
        }
        cells
    }
}

/// All cells.
#[derive(Debug, Serialize)]
pub struct Report {
    cells: Vec<Figures>,
    /// What is not as it has to be, a line each.
    broken: Vec<String>,
    #[serde(skip)]
    check: bool,
}

impl Report {
    /// Nothing that was asked for is broken.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.check || self.broken.is_empty()
    }

    /// As Markdown.
    ///
    /// # Errors
    /// None that a string has.
    pub fn table(&self) -> Result<String, AnyError> {
        let mut out = String::from(
            "| pool | size | way | calm p99 | at swaps p99 | max | ratio | median of pairs (95 %) \
             | failed | above maximum | logins in 100 ms, 1 s, a rotation | drained |\n",
        );
        writeln!(out, "|{}", " --- |".repeat(12))?;
        for one in &self.cells {
            let (calm, swaps) = (&one.calm, &one.at_swaps);
            let pairs = one.p99_pairs.map_or_else(String::new, |pairs| {
                format!("{:.2} ({:.2} to {:.2})", pairs.median, pairs.lower, pairs.upper)
            });
            let above = one.above_maximum.map_or_else(|| "?".to_owned(), |n| format!("{n:+}"));
            writeln!(
                out,
                "| {} | {} | {} | {:.2} ms | {:.2} ms | {:.1} ms | {:.2} | {pairs} | {} | {above} \
                 | {}, {}, {:.1} | {:.2} s |",
                one.cell.pool,
                one.cell.size,
                one.cell.way.name(),
                calm.p99,
                swaps.p99,
                swaps.max,
                one.p99_ratio,
                one.failed,
                one.logins_100ms,
                one.logins_1s,
                one.logins_per_rotation,
                one.drained_s,
            )?;
        }
        Ok(out)
    }
}

/// Runs all cells that `args` ask for.
///
/// # Errors
/// When the servers or a pool can't be set up, or a rotation does not come to its end.
pub async fn run(args: &Args) -> Result<Report, AnyError> {
    let cells = args.cells();
    // A pool that is swapped for another has twice its connections for a while.
    let most = args.size.iter().max().copied().unwrap_or(0) * 2 + 50;
    eprintln!("starting OpenBao and Postgres");
    let stack = Stack::builder().postgres_tls(true);
    let stack = stack.postgres_setting("max_connections", most.to_string()).start().await?;
    let mut figures = Vec::new();
    for cell in cells {
        let Cell { pool, size, way, .. } = cell;
        eprintln!("{pool}, {size} connections, {}", way.name());
        let rotations = if way == Way::Leasehold { args.rotations } else { args.by_hand };
        let one = cell::run(&stack, cell, rotations, args).await?;
        eprintln!(
            "    p99 {:.2} ms, at swaps {:.2} ms, {} failed",
            one.calm.p99, one.at_swaps.p99, one.failed
        );
        figures.push(one);
    }
    let broken = broken(&figures);
    for line in &broken {
        eprintln!("{line}");
    }
    Ok(Report { cells: figures, broken, check: args.check })
}

/// What the figures have to be.
fn broken(all: &[Figures]) -> Vec<String> {
    let mut broken = Vec::new();
    for ours in all.iter().filter(|one| one.cell.way == Way::Leasehold) {
        let Cell { pool, size, .. } = ours.cell;
        let mut hold = |holds: bool, what: String| {
            if !holds {
                broken.push(format!("{pool}, {size} connections: {what}"));
            }
        };
        hold(ours.failed == 0, format!("{} operations failed", ours.failed));
        let bound = if size > 32 { 1.5 } else { 1.25 };
        let ratio = ours.p99_ratio;
        hold(ratio <= bound, format!("p99 at swaps is {ratio:.2} of calm, not {bound}"));
        let above = ours.above_maximum.unwrap_or(0);
        hold(above <= 1, format!("{above} sockets above the maximum"));
        let same = |one: &&Figures| one.cell.pool == pool && one.cell.size == size;
        for other in all.iter().filter(same).filter(|one| one.cell.way != Way::Leasehold) {
            let name = other.cell.way.name();
            // By hand a failure is answered fast.
            let better = other.failed > 0 || ratio <= other.p99_ratio;
            hold(better, format!("p99 is no better than of {name}"));
            let fewer = ours.logins_100ms <= other.logins_100ms;
            hold(fewer, format!("more logins in 100 ms than of {name}"));
            let fewer = above <= other.above_maximum.unwrap_or(above);
            hold(fewer || above <= 1, format!("more sockets than of {name}"));
        }
    }
    broken
}
