//! One seed, one history: drawn, run, and shrunk if it breaks an invariant.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use leasehold::clock::Time;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::invariants::{self, Invariant};
use crate::plan::{Plan, Source};
use crate::world::{Violation, World};

/// Once the weather has cleared up, this is enough to be served again: twice the longest pauses
/// (300 s of the limiter, of a login that was refused, and of a source that was), and two mints
/// that hang.
const RECOVERY: Duration = Duration::from_secs(1500);
/// No history needs so many steps; one that does goes round in circles.
const STEPS: u64 = 400_000;
/// Borrowers come this often while recovery is waited for.
const RUSH: Duration = Duration::from_secs(20);
/// Plans tried in shrinking one.
const SHRINKS: usize = 3000;

/// What came of a history.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Virtual time.
    pub time: Duration,
    /// Events.
    pub steps: u64,
    /// Swaps but the first.
    pub rotations: u64,
    /// By kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Of all that happened: the same for the same seed.
    pub hash: u64,
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
    /// The last lines, if it was traced.
    pub trace: VecDeque<String>,
}

/// The tree of plans that `seed` stands for.
fn tree(seed: u64) -> impl ValueTree<Value = Plan> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // XorShift wants a seed that is not all zeros.
    bytes[8..].copy_from_slice(&(!seed).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    Plan::strategy().new_tree(&mut runner).expect("a strategy that filters nothing makes a value")
}

/// The plan that `seed` stands for.
#[must_use]
pub fn plan(seed: u64) -> Plan {
    tree(seed).current()
}

/// Runs the history of a seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    run_plan(plan(seed), false)
}

/// Runs a plan.
#[must_use]
pub fn run_plan(plan: Plan, traced: bool) -> Outcome {
    let plan = Arc::new(plan);
    let mut world = World::new(plan.clone());
    if traced {
        world.trace();
    }
    world.begin();
    let calm_at = Time::from_start(plan.storm + Duration::from_secs(1));
    let until = |world: &mut World, at: Time| {
        while world.violation.is_none() && world.finished.is_none() && world.stats.steps < STEPS {
            // Nothing more happens of itself: the service is shut down.
            if world.session.needs_a_person() && world.stopping.is_none() {
                break;
            }
            if world.next().is_none_or(|next| next > at) {
                break;
            }
            world.step();
        }
    };
    until(&mut world, calm_at);
    if world.finished.is_none() && world.violation.is_none() && world.stopping.is_none() {
        world.clear_up();
        recover(&mut world, until);
        if world.finished.is_none() && world.violation.is_none() && world.stopping.is_none() {
            world.shut_down();
        }
    }
    // The longest that a shutdown takes: the mint of a start, and a suspension in between.
    while world.violation.is_none() && world.finished.is_none() && world.stats.steps < STEPS {
        if !world.step() {
            world.violate(Invariant::I11, "the shutdown never ends".to_owned());
        }
    }
    if world.stats.steps >= STEPS && world.violation.is_none() {
        world.violate(Invariant::I11, format!("no end after {STEPS} steps"));
    }
    let time = world.real.since_start();
    // What comes late cleans up after itself.
    let tail = world.real + Duration::from_secs(600);
    while world.violation.is_none() && world.next().is_some_and(|next| next <= tail) {
        world.step();
    }
    let stats = world.stats;
    Outcome {
        time,
        steps: stats.steps,
        rotations: stats.rotations,
        faults: stats.faults,
        hash: stats.hash,
        violation: world.violation,
        trace: stats.trace.unwrap_or_default(),
    }
}

/// I6: recovery needs no human. Somebody has to use the pools for a login that was dropped under
/// them to be noticed.
fn recover(world: &mut World, until: impl Fn(&mut World, Time)) {
    let begun = world.real;
    // No fate, no suspension is left over from the storm.
    let calm = world.trouble.max(begun);
    until(world, calm);
    if calm > world.real {
        world.go_to(calm);
    }
    let mut waited = Duration::ZERO;
    loop {
        for _ in 0..3 {
            world.rush();
            let soon = world.real + Duration::from_millis(300);
            until(world, soon);
        }
        let wrong = match invariants::i6_is_served(world) {
            Ok(()) => return,
            // With the connections that it has nobody notices that there would be no others.
            Err(_) if world.plan.source != Source::Dynamic && world.is_connected() => return,
            Err(wrong) => wrong,
        };
        if world.violation.is_some() || world.finished.is_some() || world.stopping.is_some() {
            return;
        }
        // A token that was given and is gone: a person has to give another. Without a pool that
        // is used nobody notices that a role is gone.
        if world.session.needs_a_person() || !world.is_used() {
            return;
        }
        if waited > RECOVERY && world.stats.steps < STEPS {
            return world.violate(
                Invariant::I6,
                format!("not served {waited:?} after the weather cleared up: {wrong}"),
            );
        }
        if world.stats.steps >= STEPS {
            return;
        }
        let next = world.real + RUSH;
        until(world, next);
        world.go_to(next);
        waited += RUSH;
    }
}

/// The smallest plan that still breaks the same invariant, and how often it was tried.
#[must_use]
pub fn shrink(seed: u64, invariant: Invariant) -> (Plan, usize) {
    let mut tree = tree(seed);
    let mut best = tree.current();
    let mut tried = 0;
    let breaks = |plan: &Plan| {
        run_plan(plan.clone(), false).violation.is_some_and(|v| v.invariant == invariant)
    };
    if !tree.simplify() {
        return (best, tried);
    }
    while tried < SHRINKS {
        tried += 1;
        let plan = tree.current();
        let more = if breaks(&plan) {
            best = plan;
            tree.simplify()
        } else {
            tree.complicate()
        };
        if !more {
            break;
        }
    }
    (best, tried)
}

/// The seed of the `index`th history of a run.
#[must_use]
pub fn seed_of(base: u64, index: u64) -> u64 {
    // splitmix64
    let mut z = base.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
