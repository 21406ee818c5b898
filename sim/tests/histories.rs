//! The simulation of the lease machine: it repeats itself, it finds nothing, and it would.

#![allow(clippy::unwrap_used)]

use leasehold::simulation::{Mutation, break_mechanism};
use leasehold_sim::explore::{Bounds, explore};
use leasehold_sim::{history, mutate};

#[test]
fn the_same_seed_gives_the_same_history() {
    for index in 0..20 {
        let seed = history::seed_of(3, index);
        let (first, second) = (history::run(seed), history::run(seed));
        assert_eq!((first.hash, first.steps), (second.hash, second.steps), "seed {seed}");
    }
    let hashes = (0..20).map(|index| history::run(history::seed_of(3, index)).hash);
    let different: std::collections::BTreeSet<u64> = hashes.collect();
    assert!(different.len() >= 19, "seeds make a difference");
}

#[test]
fn no_invariant_is_broken() {
    let mut rotations = 0;
    for index in 0..400 {
        let seed = history::seed_of(11, index);
        let outcome = history::run(seed);
        rotations += outcome.rotations;
        if let Some(v) = outcome.violation {
            panic!("cargo sim -- --one {seed}: {:?} at {:?}: {}", v.invariant, v.at, v.message);
        }
    }
    assert!(rotations > 400, "{rotations}");
}

/// What the simulation has found once is not found again, and would be.
#[test]
fn what_was_found_before_is_mended() {
    let list = include_str!("../regressions.txt");
    let mut found = 0;
    for line in list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (seed, name) = line.split_once(' ').unwrap();
        let seed = seed.parse().unwrap();
        if let Some(v) = history::run(seed).violation {
            panic!("cargo sim -- --one {seed}: {:?} at {:?}: {}", v.invariant, v.at, v.message);
        }
        let mutation = Mutation::ALL.iter().find(|m| format!("{m:?}") == name.trim()).unwrap();
        break_mechanism(Some(*mutation));
        let broken = history::run(seed).violation;
        break_mechanism(None);
        let shown = broken.map(|v| format!("{:?}", v.invariant));
        assert_eq!(
            shown.as_deref(),
            Some(mutation.invariant()),
            "seed {seed} meets {name} no more"
        );
        found += 1;
    }
    assert!(found > 0, "the list is empty");
}

#[test]
fn each_mechanism_that_is_broken_is_noticed() {
    for mutation in Mutation::ALL {
        let found = mutate::find(*mutation, 1);
        assert!(found.by.is_some(), "{mutation:?} ({}): {:?}", mutation.what(), found.before);
    }
}

#[test]
fn every_order_of_a_few_events_is_sound() {
    let found = explore(Bounds::SMALL);
    if let Some((path, v)) = found.violation {
        panic!("{:?} at {:?}: {}\n{path:?}", v.invariant, v.at, v.message);
    }
    assert!(found.complete && found.finished > 100, "{found:?}");
}

/// Those that one fault can show. With tokens of its own, which are given back at the end, what a
/// shutdown leaves is hidden.
#[test]
fn every_order_of_a_few_events_shows_what_is_broken() {
    for mutation in [
        Mutation::SkipsNumbers,
        Mutation::DrainsBeforeTheSwap,
        Mutation::RevokesUndrained,
        Mutation::SwapsUnproven,
    ] {
        break_mechanism(Some(mutation));
        let found = explore(Bounds::SMALL);
        break_mechanism(None);
        let invariant = found.violation.map(|(_, v)| format!("{:?}", v.invariant));
        assert_eq!(invariant.as_deref(), Some(mutation.invariant()), "{}", mutation.what());
    }
}
