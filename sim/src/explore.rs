//! Every order of a bounded set of events, over the same world and the same invariants.
//!
//! A plain search that visits each state once: layer by layer of faults used and turns of the clock
//! used, and depth first within a layer. So a state is left out only where it has been seen with as
//! many faults and turns left, or more. States are compared by a hash of 64 bits of all that decides
//! what can come of them; instants count in it by their distance from now.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use leasehold::clock::{Time, hashed_from};
use leasehold::simulation::Input;
use leasehold::{ErrorKind, Observation, SourceError};

use crate::invariants;
use crate::plan::{Plan, PoolPlan, Source, TokenKind, Weather};
use crate::pool::{Conn, Mark, State};
use crate::postgres::{Dial, Secret};
use crate::world::{Call, Violation, World};

/// What timers are rounded up to.
const TICK: Duration = Duration::from_millis(500);

/// More in one history are not to be had.
const MOST_FAULTS: usize = 3;

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Faults in one history. A requested rotation and a borrower count as one each.
    pub faults: u8,
    /// Turns of the clock to the next thing that is due.
    pub turns: u8,
    /// Generations that are published; a history ends with the next.
    pub generations: u64,
    /// States, at most.
    pub states: usize,
}

impl Bounds {
    /// Two generations, three faults, a shutdown at any point.
    pub const FULL: Self = Self { faults: 3, turns: 3, generations: 2, states: 20_000_000 };
    /// The same in small.
    pub const SMALL: Self = Self { faults: 1, turns: 6, generations: 2, states: 200_000 };
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A request is carried out and answered.
    Answer(usize),
    /// It is lost on the way there.
    Lose(usize),
    /// Its answer is lost.
    LoseAnswer(usize),
    /// The clock goes to what is due next, over requests that hang from then on.
    Turn,
    /// A borrower takes a connection.
    Borrow,
    /// It comes back.
    Return,
    /// Somebody revokes the current lease.
    RevokeByHand,
    /// A login with the current credential was refused.
    Rejected,
    /// A session found its role gone.
    Revoked,
    /// Vault goes away.
    Away,
    /// It comes back.
    Back,
    /// Somebody asks for a rotation.
    Rotate,
    /// The end.
    Shutdown,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different ones.
    pub states: usize,
    /// Steps from one to another.
    pub steps: u64,
    /// Histories that came to the end of their shutdown.
    pub finished: u64,
    /// All there are within the bounds were visited.
    pub complete: bool,
    /// The first broken invariant, and how it came about.
    pub violation: Option<(Vec<Choice>, Violation)>,
}

#[derive(Clone)]
struct Node {
    world: World,
    faults: u8,
    turns: u8,
    away: bool,
    /// Which of the pending requests hang: time has gone on over them.
    hang: Vec<bool>,
    path: Vec<Choice>,
}

fn plan() -> Plan {
    Plan {
        seed: 7,
        source: Source::Dynamic,
        token: TokenKind::AppRole,
        ttl: 10,
        max_ttl: 20,
        token_ttl: 3600,
        token_max_ttl: 3600,
        grace: None,
        roll: None,
        pools: vec![PoolPlan { aborts: false, max: 1, lag: Duration::ZERO }],
        storm: Duration::from_secs(3600),
        weather: Vec::new(),
        fates: Vec::new(),
        shutdown: None,
        drain: Duration::from_secs(2),
    }
}

impl Node {
    /// All that decides what can come of it, but for what may still happen to it. Instants count
    /// by how far away they are.
    fn print(&self) -> u64 {
        let w = &self.world;
        let mut hash = DefaultHasher::new();
        hashed_from(w.real, || {
            // The server counts in whole seconds.
            w.real.since_start().subsec_nanos().hash(&mut hash);
            (&w.machine, &w.vault, &w.session, &w.pools, &w.held).hash(&mut hash);
            (w.published, &w.drains, &w.unanswered, w.last_failed).hash(&mut hash);
            (w.shortest_ttl, w.told, w.stopping, w.start_failed).hash(&mut hash);
            (w.pools_closed, w.finished.is_some()).hash(&mut hash);
            (self.away, &self.hang).hash(&mut hash);
            for proofs in &w.proofs {
                proofs.hash(&mut hash);
            }
            for call in &w.pending {
                call.hash(&mut hash);
                if let Call::Issue { sent, .. } | Call::Renew { sent, .. } = call {
                    w.machine.is_overtaken(*sent).hash(&mut hash);
                }
            }
            // What I7 looks back on.
            let from = w.real.before(invariants::stretch(w));
            for at in w.mints.iter().filter(|at| **at >= from) {
                (1_u8, at).hash(&mut hash);
            }
            for at in w.resets.iter().filter(|at| **at >= from) {
                (2_u8, at).hash(&mut hash);
            }
            for (number, generation) in &w.generations {
                let of_it = |c: &Conn| c.generation == *number;
                let over = generation.drained.is_some()
                    && !w.held.contains_key(&generation.login)
                    && !w.pools.iter().any(|pool| pool.conns.iter().any(of_it));
                if !over {
                    (3_u8, number, generation).hash(&mut hash);
                } else if let Some(past) = generation.superseded.filter(|s| s.at >= from) {
                    let served = (past.at - generation.since) * 2 >= generation.planned;
                    (4_u8, number, past.at, served).hash(&mut hash);
                }
            }
        });
        hash.finish()
    }

    fn choices(&self) -> Vec<Choice> {
        let world = &self.world;
        let mut choices = Vec::new();
        for at in 0..world.pending.len() {
            choices.push(Choice::Answer(at));
            if self.faults > 0 {
                choices.push(Choice::Lose(at));
                if !matches!(world.pending[at], Call::Prove { .. } | Call::Confirm { .. }) {
                    choices.push(Choice::LoseAnswer(at));
                }
            }
        }
        let free = self.hang.iter().all(|hangs| *hangs);
        if self.turns > 0 && (free || self.faults > 0) && world.next().is_some() {
            choices.push(Choice::Turn);
        }
        let borrowed = |c: &Conn| matches!(c.state, State::Borrowed(_));
        let pool = world.pools.first();
        if pool.is_some_and(|pool| pool.conns.iter().any(borrowed)) {
            choices.push(Choice::Return);
        }
        if self.faults > 0 && pool.is_some_and(|p| !p.closed && !p.conns.iter().any(borrowed)) {
            choices.push(Choice::Borrow);
        }
        if world.stopping.is_none() && world.published > 0 {
            choices.push(Choice::Shutdown);
            if self.faults > 0 {
                choices.extend([Choice::Rotate, Choice::RevokeByHand]);
                choices.extend([Choice::Rejected, Choice::Revoked]);
            }
        }
        match (self.away, self.faults) {
            (true, _) => choices.push(Choice::Back),
            (false, 1..) => choices.push(Choice::Away),
            (false, 0) => {}
        }
        choices
    }

    fn take(&mut self, choice: Choice) {
        self.path.push(choice);
        let world = &mut self.world;
        let first = world.published == 0;
        let fault = match choice {
            Choice::Answer(at) => {
                self.hang.remove(at);
                world.answer(at, false, false);
                false
            }
            Choice::Lose(at) => {
                self.hang.remove(at);
                world.answer(at, true, false);
                true
            }
            Choice::LoseAnswer(at) => {
                self.hang.remove(at);
                world.answer(at, false, true);
                true
            }
            Choice::Turn => {
                self.turns -= 1;
                let begins = self.hang.contains(&false);
                self.hang.fill(true);
                world.turn();
                begins
            }
            Choice::Borrow => {
                world.borrow();
                true
            }
            Choice::Return => {
                world.give_back();
                false
            }
            Choice::RevokeByHand => {
                world.strike(Weather::LeaseRevoked);
                true
            }
            Choice::Rejected => {
                world.observe(world.published, Observation::LoginRejected);
                true
            }
            Choice::Revoked => {
                world.observe(world.published, Observation::SessionRevoked);
                true
            }
            Choice::Away => {
                self.away = true;
                world.set_away(true);
                true
            }
            Choice::Back => {
                self.away = false;
                world.set_away(false);
                false
            }
            Choice::Rotate => {
                world.feed(Input::Rotate);
                true
            }
            Choice::Shutdown => {
                world.shut_down();
                false
            }
        };
        self.faults -= u8::from(fault);
        if first && world.published > 0 {
            // The pool opens its connection.
            world.borrow();
            world.give_back();
        }
        world.settle_by_hand();
        world.renumber();
        self.hang.resize(world.pending.len(), false);
    }
}

impl World {
    fn answer(&mut self, at: usize, lost: bool, answer_lost: bool) {
        let call = self.pending.remove(at);
        let nothing = || SourceError::new(ErrorKind::Timeout, "no answer");
        match call {
            Call::Issue { attempt, sent } => {
                let done = if lost { Err(nothing()) } else { self.issue() };
                let result = if answer_lost { Err(nothing()) } else { done };
                if let Some(epoch) = result.as_ref().ok().and_then(|issued| issued.held.epoch) {
                    self.session.hold(epoch);
                }
                self.minted(attempt, sent, result);
            }
            Call::Renew { login, lease, attempt, sent, increment } => {
                let done = if lost { Err(nothing()) } else { self.renew(login, lease, increment) };
                let result = if answer_lost { Err(nothing()) } else { done };
                if lost || answer_lost {
                    self.doubt(login);
                }
                self.feed(Input::Renewed { login, attempt, sent, result });
            }
            Call::Revoke { login, lease, queued } => {
                let done = if lost { Err(nothing()) } else { self.revoke(login, lease, queued) };
                let result = if answer_lost { Err(nothing()) } else { done };
                if lost || answer_lost {
                    self.doubt(login);
                }
                self.feed(Input::Revoked { login, result });
            }
            Call::Prove { login, secret } => {
                let proofs = self.prove(secret, lost);
                self.feed(Input::Proved { login, proofs });
            }
            Call::Confirm { generation } => {
                let refused = !lost && self.prove(self.secret(generation), false).rejected > 0;
                self.feed(Input::Confirmed { generation, refused });
            }
        }
    }

    fn turn(&mut self) {
        if let Some(next) = self.next() {
            let tick = TICK.as_nanos();
            let ticks = next.max(self.real).since_start().as_nanos().div_ceil(tick);
            let next = Duration::from_nanos(u64::try_from(ticks * tick).unwrap_or(u64::MAX));
            self.go_to(Time::from_start(next));
            self.wake();
        }
    }

    fn borrow(&mut self) {
        let Some(pool) = self.pools.first_mut() else { return };
        pool.sweep();
        if let Some(place) = pool.conns.iter().position(|c| c.mark != Mark::Retired) {
            let conn = pool.conns[place];
            pool.conns[place].state = State::Borrowed(None);
            return invariants::i2_handed_out_is_alive(self, 0, conn);
        }
        let generation = pool.installed;
        let Some(secret) = self.secret(generation) else { return };
        let lag = Duration::ZERO;
        match self.postgres.dial(&self.vault, secret, lag, self.real) {
            Dial::In => {
                let state = State::Borrowed(None);
                self.pools[0].conns.push(Conn { generation, mark: Mark::Current, state });
                invariants::i1_new_means_current(self, generation);
            }
            Dial::Refused => self.observe(generation, Observation::LoginRejected),
            Dial::Full | Dial::Unreachable => {}
        }
    }

    fn give_back(&mut self) {
        for pool in &mut self.pools {
            for conn in &mut pool.conns {
                conn.state = State::Idle;
            }
            pool.sweep();
        }
    }

    /// Numbers that nobody knows any more are given again: what was lost leaves no trace.
    fn renumber(&mut self) {
        let pending = self.pending.iter().map(|call| match call {
            Call::Issue { attempt, .. } => *attempt,
            Call::Renew { login, attempt, .. } => *login.max(attempt),
            Call::Revoke { login, .. } | Call::Prove { login, .. } => *login,
            Call::Confirm { .. } => 0,
        });
        let waiting = self.machine.logins().filter_map(|(_, l)| l.renewal.in_flight);
        let held = self.held.keys().chain(self.unanswered.keys()).copied();
        let published = self.generations.values().map(|g| g.login);
        let last = pending.chain(waiting).chain(held).chain(published).max();
        let secrets = self.held.values().map(|held| held.secret);
        let secrets = secrets.chain(self.generations.values().map(|g| g.secret));
        let known = secrets.map(|secret| match secret {
            Secret::Role { login, .. } => login.0,
            Secret::Password(_) => 0,
        });
        let known = known.max().unwrap_or(0);
        self.vault.renumber(known);
        self.machine.renumber(last.unwrap_or(0));
    }

    fn settle_by_hand(&mut self) {
        if self.finished.is_none() {
            self.tend_drains();
            self.hear_of_tokens();
            invariants::after_each_step(self);
        }
    }
}

/// Visits every state within the bounds.
#[must_use]
pub fn explore(bounds: Bounds) -> Explored {
    let mut world = World::new(Arc::new(plan()));
    world.manual = true;
    // Any request may hang.
    world.calm = false;
    world.begin();
    let Bounds { faults, turns, .. } = bounds;
    let first = Node { world, faults, turns, away: false, hang: vec![false], path: Vec::new() };
    let (all_faults, all_turns) = (faults, turns);
    let mut seen: HashMap<u64, [u8; MOST_FAULTS + 1]> = HashMap::new();
    seen.insert(first.print(), [0; MOST_FAULTS + 1]);
    let layers = (usize::from(all_faults) + 1) * (usize::from(all_turns) + 1);
    let mut open: Vec<Vec<Node>> = vec![Vec::new(); layers];
    let place = |node: &Node| {
        let used = usize::from(all_faults - node.faults);
        used * (usize::from(all_turns) + 1) + usize::from(all_turns - node.turns)
    };
    open[0].push(first);
    let mut found = Explored { states: 1, steps: 0, finished: 0, complete: true, violation: None };
    for layer in 0..layers {
        while let Some(node) = open[layer].pop() {
            for choice in node.choices() {
                let mut next = node.clone();
                next.take(choice);
                found.steps += 1;
                if let Some(violation) = next.world.violation.take() {
                    found.violation = Some((next.path, violation));
                    found.complete = false;
                    return found;
                }
                let (turns, faults) =
                    (all_turns - next.turns, usize::from(all_faults - next.faults));
                // The fewest turns with which it was seen, by faults.
                let old = seen.entry(next.print()).or_insert_with(|| {
                    found.states += 1;
                    found.finished += u64::from(next.world.finished.is_some());
                    [u8::MAX; MOST_FAULTS + 1]
                });
                if old[..=faults].iter().any(|least| *least <= turns) {
                    continue;
                }
                old[faults] = turns;
                if next.world.finished.is_none() && next.world.published <= bounds.generations {
                    open[place(&next)].push(next);
                }
            }
            if found.states >= bounds.states {
                found.complete = false;
                return found;
            }
        }
    }
    found
}
