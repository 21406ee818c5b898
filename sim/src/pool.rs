//! A pool and its hooks as a model: connections by generation, what is handed out, what a drain
//! closes and when.

use std::collections::BTreeSet;
use std::time::Duration;

use leasehold::clock::Time;

use crate::plan::PoolPlan;

/// What may be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Handed out.
    Current,
    /// Handed out while the roll lasts.
    Superseded,
    /// Never handed out again.
    Retired,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A login is under way, until then.
    Dialling(Time),
    /// In the pool.
    Idle,
    /// With a borrower, until then; `None`: for ever.
    Borrowed(Option<Time>),
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conn {
    /// Its login.
    pub generation: u64,
    /// See [`Mark`].
    pub mark: Mark,
    /// See [`State`].
    pub state: State,
}

/// One pool.
#[derive(Clone, Debug, Hash)]
pub struct Pool {
    /// Its number.
    pub id: u32,
    /// Takes connections from borrowers at a deadline, as deadpool's tasks can be aborted.
    pub aborts: bool,
    /// Connections at most.
    pub max: usize,
    /// Of its server, in learning of roles.
    pub lag: Duration,
    /// What is dialled with.
    pub installed: u64,
    /// Hands out nothing any more.
    pub closed: bool,
    /// What it has.
    pub conns: Vec<Conn>,
    /// Generations that had connections here which the deadline of their drain did not end.
    pub overdue: BTreeSet<u64>,
}

impl Pool {
    /// A pool with nothing in it.
    #[must_use]
    pub fn new(id: u32, plan: PoolPlan, installed: u64) -> Self {
        let PoolPlan { aborts, max, lag } = plan;
        Self {
            id,
            aborts,
            max,
            lag,
            installed,
            closed: false,
            conns: Vec::new(),
            overdue: BTreeSet::new(),
        }
    }

    /// Connections of a generation, dials in flight included.
    #[must_use]
    pub fn count(&self, generation: u64) -> usize {
        self.conns.iter().filter(|c| c.generation == generation).count()
    }

    /// The deadline of a drain came: what is left of the generation, whose lease does not end it.
    pub fn outlived(&mut self, generation: u64) -> usize {
        self.overdue.insert(generation);
        self.count(generation)
    }

    /// The swap: what was superseded before has had its time.
    pub fn install(&mut self, generation: u64) {
        for conn in &mut self.conns {
            conn.mark = match conn.mark {
                Mark::Current => Mark::Superseded,
                Mark::Superseded | Mark::Retired => Mark::Retired,
            };
        }
        self.installed = generation;
    }

    /// The end of a roll.
    pub fn harden(&mut self, generation: u64) {
        for conn in &mut self.conns {
            if conn.generation <= generation && conn.mark == Mark::Superseded {
                conn.mark = Mark::Retired;
            }
        }
    }

    /// The current login is known to be dead.
    pub fn distrust(&mut self) {
        for conn in &mut self.conns {
            conn.mark = Mark::Retired;
        }
    }

    /// Closes idle connections that are retired.
    pub fn sweep(&mut self) {
        self.conns.retain(|c| !(c.state == State::Idle && c.mark == Mark::Retired));
    }

    /// Hands out nothing any more; borrowed connections are closed on return.
    pub fn close(&mut self) {
        self.closed = true;
        self.distrust();
        self.sweep();
    }

    /// Closed by its user, and nothing is left of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.closed && self.conns.is_empty()
    }

    /// When a connection of a generation changes by itself next.
    #[must_use]
    pub fn next_change(&self, generation: u64) -> Option<Time> {
        let of_it = self.conns.iter().filter(|c| c.generation == generation);
        of_it
            .filter_map(|c| match c.state {
                State::Dialling(until) | State::Borrowed(Some(until)) => Some(until),
                State::Idle | State::Borrowed(None) => None,
            })
            .min()
    }
}
