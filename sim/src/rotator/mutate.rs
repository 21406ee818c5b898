//! The driver broken on purpose: which history notices.

use leasehold::simulation::{Mutation, break_mechanism};

use super::{Violation, run};

/// The history that noticed.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its seed.
    pub seed: u64,
    /// What it noticed first.
    pub violation: Violation,
}

/// Breaks the mechanism and runs the histories of `seeds` until one shows it as a violation of its
/// own invariant.
pub fn find(mutation: Mutation, seeds: impl IntoIterator<Item = u64>) -> Option<Found> {
    break_mechanism(Some(mutation));
    let found = seeds.into_iter().find_map(|seed| {
        let own = |v: &Violation| format!("{:?}", v.invariant) == mutation.invariant();
        let violation = run(seed).violations.into_iter().find(own)?;
        Some(Found { seed, violation })
    });
    break_mechanism(None);
    found
}
