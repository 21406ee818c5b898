//! Mechanisms broken on purpose, to see that the invariant that each upholds notices.

use leasehold::simulation::{Mutation, break_mechanism};

use crate::history;
use crate::world::Violation;

/// Histories tried for each.
pub const HISTORIES: u64 = 1000;

/// What was found of one.
#[derive(Clone, Debug)]
pub struct Found {
    /// What was broken.
    pub mutation: Mutation,
    /// How many histories it took, the seed of the last, and what it showed.
    pub by: Option<(u64, u64, Violation)>,
    /// What else broke before.
    pub before: Option<(u64, Violation)>,
}

/// Looks for the first history that shows a mutation as a violation of its own invariant.
#[must_use]
pub fn find(mutation: Mutation, base: u64) -> Found {
    let mut found = Found { mutation, by: None, before: None };
    for index in 0..HISTORIES {
        let seed = history::seed_of(base, index);
        break_mechanism(Some(mutation));
        let outcome = history::run(seed);
        break_mechanism(None);
        match outcome.violation {
            Some(violation) if format!("{:?}", violation.invariant) == mutation.invariant() => {
                found.by = Some((index + 1, seed, violation));
                return found;
            }
            Some(violation) if found.before.is_none() => found.before = Some((seed, violation)),
            _ => {}
        }
    }
    found
}
