//! `cargo overhead`: what the hooks cost while nothing happens.
//!
//! Hooked pools beside plain ones with a login that stays, on the same servers, in short rounds
//! that alternate. Progress goes to stderr; the last line on stdout is one JSON object.

#![forbid(unsafe_code)]

mod bare;
mod instructions;
mod pools;
mod report;
mod rounds;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use leasehold_drill::{AnyError, outcome};

use instructions::Subject;
use pools::{Kind, SIZE, Servers};
use report::Report;
use rounds::{Shape, Work};

/// What the hooks cost while nothing happens.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo overhead --")]
struct Args {
    /// Rounds of each side, for each line of the tables.
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    /// Milliseconds that a round takes.
    #[arg(long, default_value_t = 20)]
    round_ms: u64,
    /// Tasks that share a pool of 16.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64")]
    tasks: Vec<usize>,
    /// Only these parts; may be given more than once [default: all].
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Counts the instructions of the hooks instead, which takes valgrind.
    #[arg(long, conflicts_with = "only")]
    instructions: bool,
    /// Fails where a bound is broken.
    #[arg(long)]
    check: bool,
    /// Is what `--instructions` runs below valgrind.
    #[arg(long, value_enum, hide = true)]
    counted: Option<Subject>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Throughput and latency of sqlx.
    Sqlx,
    /// Throughput and latency of deadpool.
    Deadpool,
    /// deadpool's get and drop, in nanoseconds.
    Bare,
    /// `CredentialProvider::current`.
    Current,
}

impl Args {
    fn asks_for(&self, part: Part) -> bool {
        !self.instructions && (self.only.is_empty() || self.only.contains(&part))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.counted {
        Some(subject) => instructions::run(subject).map(|()| true),
        None => measured(&args),
    };
    outcome::exit("overhead", done)
}

fn measured(args: &Args) -> Result<bool, AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = runtime.block_on(measure(args))?;
    report.judge();
    report.print();
    for bound in &report.broken {
        eprintln!("broken: {bound}");
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.broken.is_empty() || !args.check)
}

async fn measure(args: &Args) -> Result<Report, AnyError> {
    let cores = std::thread::available_parallelism()?.get();
    let mut report = Report { cores, ..Report::default() };
    let servers = Servers::start().await?;
    for (part, kind) in [(Part::Sqlx, Kind::Sqlx), (Part::Deadpool, Kind::Deadpool)] {
        if args.asks_for(part) {
            throughput(args, &servers, kind, &mut report).await?;
        }
    }
    if args.asks_for(Part::Bare) {
        eprintln!("deadpool's get and drop");
        let pair = servers.pair(Kind::Deadpool, 1).await?;
        report.get_drop = Some(bare::get_drop(&pair.pools, args.rounds * 10).await?);
        pair.end().await;
    }
    if args.asks_for(Part::Current) {
        let rotator = servers.rotator().await?;
        for threads in [1, 2, 4, 8] {
            eprintln!("current() on {threads} threads");
            let rounds = args.rounds.div_ceil(5);
            report.current.push(bare::current(&rotator.provider(), threads, rounds)?);
        }
        pools::end(&rotator).await;
    }
    if args.instructions {
        for kind in [Kind::Deadpool, Kind::Sqlx] {
            report.instructions.push(instructions::count(&servers, kind).await?);
        }
    }
    Ok(report)
}

async fn throughput(
    args: &Args,
    servers: &Servers,
    kind: Kind,
    report: &mut Report,
) -> Result<(), AnyError> {
    let pair = servers.pair(kind, SIZE).await?;
    let round = Duration::from_millis(args.round_ms);
    for work in [Work::Acquire, Work::Select] {
        for &tasks in &args.tasks {
            let begun = Instant::now();
            let shape = Shape { rounds: args.rounds, round, tasks, work };
            let cell = rounds::compare(kind, &pair.pools, shape).await?;
            eprintln!(
                "{}, {}, {tasks} tasks: {:.3} ({:.1?})",
                cell.pool,
                work.as_str(),
                cell.ratio.median,
                begun.elapsed(),
            );
            report.throughput.push(cell);
        }
    }
    pair.end().await;
    Ok(())
}
