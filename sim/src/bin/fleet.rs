//! `cargo fleet`: ten thousand processes on one Vault, and an outage.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use leasehold_sim::fleet::measure::Outcome;
use leasehold_sim::fleet::{Plan, Rules, run, svg};

/// A fleet of processes on one Vault, with the real lease machine on virtual time, through an
/// outage and a slow restart; and the same fleet on the algorithms of others. Progress is on
/// stderr; the last line is JSON.
#[derive(Debug, Parser)]
struct Args {
    /// Processes.
    #[arg(long, default_value_t = Plan::FULL.processes)]
    processes: usize,
    /// Decides the starts, and the jitter of each process.
    #[arg(long, default_value_t = Plan::FULL.seed)]
    seed: u64,
    /// Minutes from the start until the outage, at least 60.
    #[arg(long, default_value_t = 290)]
    outage_at: u64,
    /// Minutes that it lasts.
    #[arg(long, default_value_t = 20)]
    outage: u64,
    /// Minutes that are looked at after it. 1500 show the rotations of the next day.
    #[arg(long, default_value_t = 120)]
    after: u64,
    /// Only with the rules of Leasehold.
    #[arg(long)]
    alone: bool,
    /// Draw the fleets into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Exit with 1 if a bound is broken.
    #[arg(long)]
    check: bool,
}

/// What must hold: after the outage never more than so many times the hour before in 10 s, all
/// recovered within ten minutes, and no more than so many logins for a process.
const MOST_BURST: f64 = 3.0;
const MOST_RECOVERY: Duration = Duration::from_secs(600);
const MOST_MINTED: f64 = 1.05;

fn main() -> ExitCode {
    let args = Args::parse();
    let plan = Plan {
        processes: args.processes,
        seed: args.seed,
        outage_at: Duration::from_secs(60 * args.outage_at.max(60)),
        outage: Duration::from_secs(60 * args.outage),
        after: Duration::from_secs(60 * args.after),
        ..Plan::FULL
    };
    let rules = if args.alone { &Rules::ALL[..1] } else { &Rules::ALL };
    let mut outcomes = Vec::new();
    for rules in rules {
        let begun = Instant::now();
        let outcome = run(&plan, *rules);
        eprintln!("{}: {:.1} s", rules.name(), begun.elapsed().as_secs_f64());
        outcomes.push(outcome);
    }
    table(&outcomes);
    if let Some(path) = &args.svg {
        let picture = svg::draw(&plan, &outcomes);
        if let Err(e) = std::fs::write(path, picture) {
            eprintln!("{}: {e}", path.display());
            return ExitCode::from(2);
        }
    }
    let ours = &outcomes[0];
    let holds = ours.burst_ratio() <= MOST_BURST
        && ours.recovered.is_some_and(|took| took <= MOST_RECOVERY)
        && ours.minted_per_process() <= MOST_MINTED;
    let better = outcomes[1..].iter().all(|peer| {
        ours.burst_ratio() < peer.burst_ratio()
            && ours.lost <= peer.lost
            && ours.minted_since <= peer.minted_since
    });
    let mut line = serde_json::json!({
        "benchmark": "fleet",
        "processes": plan.processes,
        "seed": plan.seed,
        "holds": holds,
        "better": better,
    });
    for outcome in &outcomes {
        line[outcome.rules.key()] = in_json(outcome);
    }
    println!("{line}");
    ExitCode::from(u8::from(args.check && !(holds && better)))
}

fn in_json(outcome: &Outcome) -> serde_json::Value {
    let rounded = |n: f64| (n * 1000.0).round() / 1000.0;
    serde_json::json!({
        "mean_per_s": rounded(outcome.mean),
        "burst_per_s": rounded(outcome.burst),
        "burst_ratio": rounded(outcome.burst_ratio()),
        "burst_at_start_per_s": rounded(outcome.burst_at_start),
        "recovered_s": outcome.recovered.map(|took| took.as_secs()),
        "minted_before": outcome.minted_before,
        "minted_since": outcome.minted_since,
        "minted_per_process": rounded(outcome.minted_per_process()),
        "logins_lost": outcome.lost,
        "fewest_live": outcome.fewest_live,
        "hours_without": rounded(outcome.without.as_secs_f64() / 3600.0),
    })
}

fn table(outcomes: &[Outcome]) {
    println!(
        "| | mean before | worst 10 s after | ratio | recovered after | logins lost | minted since | \
         without a login, at worst | without, in all | worst 10 s at the start |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for o in outcomes {
        let recovered = match o.recovered {
            Some(took) => format!("{} s", took.as_secs()),
            None => "not all".to_owned(),
        };
        println!(
            "| {} | {:.1}/s | {:.1}/s | {:.2} | {recovered} | {} | {} | {} | {:.0} h | {:.0}/s |",
            o.rules.name(),
            o.mean,
            o.burst,
            o.burst_ratio(),
            o.lost,
            o.minted_since,
            o.processes - o.fewest_live,
            o.without.as_secs_f64() / 3600.0,
            o.burst_at_start,
        );
    }
}
