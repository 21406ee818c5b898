//! `cargo sim`: years of simulated weather.

#![forbid(unsafe_code)]

mod rotator_layer;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use leasehold::simulation::Mutation;
use leasehold_sim::explore::{Bounds, explore};
use leasehold_sim::history::{self, Outcome};
use leasehold_sim::mutate;
use leasehold_sim::world::Violation;

const YEAR: f64 = 365.25 * 86_400.0;
/// A run that found so much needs no more.
const ENOUGH: usize = 5;

/// Simulated weather: the lease machine against models of Vault, Postgres and pools. One seed is
/// one history. The last line is JSON; the exit code is 1 if an invariant was broken.
#[derive(Debug, Parser)]
struct Args {
    /// Virtual years to run, at least.
    #[arg(long, default_value_t = 50.0)]
    years: f64,
    /// Histories to run, at least.
    #[arg(long, default_value_t = 0)]
    histories: u64,
    /// What the seeds of the histories are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run the history of this seed alone, and print it.
    #[arg(long)]
    one: Option<u64>,
    /// What is simulated.
    #[arg(long, value_enum, default_value_t = Layer::Machine)]
    layer: Layer,
    /// Break each mechanism of the machine in turn, and see which history notices.
    #[arg(long)]
    mutations: bool,
    /// Explore every order of a bounded set of events in place of random histories.
    #[arg(long)]
    exhaustive: bool,
    /// States to explore at most.
    #[arg(long, default_value_t = Bounds::FULL.states)]
    states: usize,
    /// Threads to run on.
    #[arg(long, default_value_t = 1)]
    threads: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// The lease machine.
    Machine,
    /// The real rotator.
    Rotator,
}

#[derive(Default)]
struct Totals {
    histories: u64,
    time: f64,
    steps: u64,
    rotations: u64,
    faults: BTreeMap<&'static str, u64>,
    violations: Vec<(u64, Violation)>,
    hash: u64,
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.histories += 1;
        self.time += outcome.time.as_secs_f64();
        self.steps += outcome.steps;
        self.rotations += outcome.rotations;
        for (name, count) in outcome.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.violations.extend(outcome.violation.map(|violation| (seed, violation)));
        self.hash = self.hash.wrapping_add(outcome.hash);
    }

    fn merge(&mut self, other: Self) {
        self.histories += other.histories;
        self.time += other.time;
        self.steps += other.steps;
        self.rotations += other.rotations;
        for (name, count) in other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.violations.extend(other.violations);
        self.hash = self.hash.wrapping_add(other.hash);
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.layer == Layer::Rotator {
        return rotator_layer::main(&args);
    }
    if let Some(seed) = args.one {
        return one(seed);
    }
    if args.mutations {
        return mutations(args.seed);
    }
    if args.exhaustive {
        return exhaustive(args.states);
    }
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let milliseconds = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let found = AtomicU64::new(0);
    let work = || {
        let mut totals = Totals::default();
        while !enough.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let seed = history::seed_of(args.seed, index);
            let outcome = history::run(seed);
            let broken = u64::from(outcome.violation.is_some());
            let time = u64::try_from(outcome.time.as_millis()).unwrap_or(u64::MAX);
            let time = milliseconds.fetch_add(time, Ordering::Relaxed) + time;
            let found = found.fetch_add(broken, Ordering::Relaxed) + broken;
            let done = time as f64 / 1000.0 / YEAR >= args.years && index + 1 >= args.histories;
            if done || found >= ENOUGH as u64 {
                enough.store(true, Ordering::Relaxed);
            }
            totals.add(seed, outcome);
        }
        totals
    };
    let mut totals = Totals::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => totals.merge(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    report(&args, &totals, begun.elapsed())
}

fn report(args: &Args, totals: &Totals, took: Duration) -> ExitCode {
    for (seed, violation) in totals.violations.iter().take(ENOUGH) {
        println!(
            "seed {seed}: {:?} at {:?}: {}",
            violation.invariant, violation.at, violation.message
        );
    }
    if let Some((seed, violation)) = totals.violations.first() {
        explain(*seed, violation);
    }
    let years = totals.time / YEAR;
    let (histories, rotations) = (totals.histories, totals.rotations);
    println!(
        "{years:.1} years in {histories} histories with {rotations} rotations, seed {}",
        args.seed
    );
    println!("faults:");
    for (name, count) in &totals.faults {
        println!("  {count:>9}  {name}");
    }
    println!("violations: {}", totals.violations.len());
    let steps_per_s = totals.steps as f64 / took.as_secs_f64();
    let line = serde_json::json!({
        "layer": "machine",
        "seed": args.seed,
        "years": (years * 100.0).round() / 100.0,
        "histories": histories,
        "steps": totals.steps,
        "rotations": rotations,
        "faults": totals.faults.values().sum::<u64>(),
        "violations": totals.violations.len(),
        "steps_per_s": steps_per_s.round(),
        "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
        "hash": format!("{:016x}", totals.hash),
    });
    println!("{line}");
    ExitCode::from(u8::from(!totals.violations.is_empty()))
}

fn explain(seed: u64, violation: &Violation) {
    println!("shrinking the first ...");
    let (plan, tried) = history::shrink(seed, violation.invariant);
    let outcome = history::run_plan(plan.clone(), true);
    println!("smallest plan of {tried} tried:\n{plan:#?}");
    println!("its last events (server time, client time):");
    for line in outcome.trace.iter().rev().take(60).collect::<Vec<_>>().iter().rev() {
        println!("{line}");
    }
    println!("again: cargo sim -- --one {seed}");
}

fn mutations(base: u64) -> ExitCode {
    println!("| invariant | broken | found by history | seed | as |");
    println!("| --- | --- | --- | --- | --- |");
    let (mut caught, mut missed) = (0, 0);
    for mutation in Mutation::ALL {
        let found = mutate::find(*mutation, base);
        let (invariant, what) = (mutation.invariant(), mutation.what().trim());
        if let Some((histories, seed, violation)) = found.by {
            caught += 1;
            println!("| {invariant} | {what} | {histories} | {seed} | {} |", violation.message);
        } else {
            missed += 1;
            println!("| {invariant} | {what} | **none** | | {:?} |", found.before);
        }
    }
    let line = serde_json::json!({ "mutations": caught + missed, "caught": caught });
    println!("{line}");
    ExitCode::from(u8::from(missed > 0))
}

fn exhaustive(states: usize) -> ExitCode {
    let begun = Instant::now();
    let bounds = Bounds { states, ..Bounds::FULL };
    let found = explore(bounds);
    println!("{bounds:?}");
    if let Some((path, violation)) = &found.violation {
        println!("{:?}: {}", violation.invariant, violation.message);
        println!("{path:?}");
    }
    let line = serde_json::json!({
        "faults": bounds.faults,
        "turns": bounds.turns,
        "states": found.states,
        "steps": found.steps,
        "finished": found.finished,
        "complete": found.complete,
        "violations": u8::from(found.violation.is_some()),
        "seconds": begun.elapsed().as_secs(),
    });
    println!("{line}");
    ExitCode::from(u8::from(found.violation.is_some() || !found.complete))
}

fn one(seed: u64) -> ExitCode {
    let plan = history::plan(seed);
    println!("{plan:#?}");
    let outcome = history::run_plan(plan, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    let broken = outcome.violation.is_some();
    if let Some(violation) = &outcome.violation {
        println!("{:?} at {:?}: {}", violation.invariant, violation.at, violation.message);
        explain(seed, violation);
    }
    let Outcome { time, steps, rotations, hash, .. } = outcome;
    println!("{time:?} in {steps} steps with {rotations} rotations, hash {hash:016x}");
    ExitCode::from(u8::from(broken))
}
