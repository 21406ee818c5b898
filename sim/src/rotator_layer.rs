//! `cargo sim -- --layer rotator`: the same questions of the layer of the real rotator.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use leasehold::simulation::Mutation;
use leasehold_sim::history;
use leasehold_sim::rotator::{self, Outcome};

use crate::{Args, ENOUGH, YEAR};

/// Seeds that a broken mechanism has to be found within.
const FOUND_WITHIN: u64 = 5000;

pub(crate) fn main(args: &Args) -> ExitCode {
    if args.mutations {
        return mutations();
    }
    if let Some(seed) = args.one {
        let outcome = rotator::run_traced(seed);
        for line in &outcome.trace {
            println!("{line}");
        }
        return told(seed, &outcome);
    }
    let begun = Instant::now();
    let (mut histories, mut steps, mut rotations, mut hash) = (0_u64, 0, 0, 0_u64);
    let mut seconds = 0.0;
    let mut faults = BTreeMap::<&str, u64>::new();
    let mut broken = Vec::new();
    while histories < args.histories || seconds / YEAR < args.years {
        let seed = history::seed_of(args.seed, histories);
        let outcome = rotator::run(seed);
        histories += 1;
        steps += outcome.steps;
        rotations += outcome.rotations;
        seconds += outcome.time.as_secs_f64();
        hash = hash.wrapping_add(outcome.hash);
        for (name, count) in &outcome.faults {
            *faults.entry(name).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            broken.push((seed, outcome));
            if broken.len() == ENOUGH {
                break;
            }
        }
    }
    for (seed, outcome) in &broken {
        told(*seed, outcome);
    }
    let years = seconds / YEAR;
    println!("{years:.1} years in {histories} histories with {rotations} rotations");
    println!("faults:");
    for (name, count) in &faults {
        println!("  {count:>9}  {name}");
    }
    println!("violations: {}", broken.len());
    let took = begun.elapsed().as_secs_f64();
    let line = serde_json::json!({
        "layer": "rotator",
        "seed": args.seed,
        "years": (years * 100.0).round() / 100.0,
        "histories": histories,
        "steps": steps,
        "rotations": rotations,
        "faults": faults.values().sum::<u64>(),
        "violations": broken.len(),
        "steps_per_s": (steps as f64 / took).round(),
        "seconds": (took * 10.0).round() / 10.0,
        "hash": format!("{hash:016x}"),
    });
    println!("{line}");
    ExitCode::from(u8::from(!broken.is_empty()))
}

fn told(seed: u64, outcome: &Outcome) -> ExitCode {
    for violation in &outcome.violations {
        let (invariant, at) = (violation.invariant, violation.at);
        println!("seed {seed}: {invariant:?} at {at:?}: {}", violation.what);
    }
    println!("again: cargo sim -- --layer rotator --one {seed}");
    ExitCode::from(u8::from(!outcome.violations.is_empty()))
}

fn mutations() -> ExitCode {
    println!("| invariant | broken | found by seed | as |");
    println!("| --- | --- | --- | --- |");
    let mut missed = 0;
    for mutation in Mutation::DRIVER {
        let (invariant, what) = (mutation.invariant(), mutation.what().trim());
        match rotator::find(*mutation, 0..FOUND_WITHIN) {
            Some(found) => {
                let broken = found.violation.invariant;
                println!("| {invariant} | {what} | {} | {broken:?} |", found.seed);
            }
            None => {
                missed += 1;
                println!("| {invariant} | {what} | none | |");
            }
        }
    }
    let line = serde_json::json!({
        "layer": "rotator",
        "mutations": Mutation::DRIVER.len(),
        "missed": missed,
    });
    println!("{line}");
    ExitCode::from(u8::from(missed > 0))
}
