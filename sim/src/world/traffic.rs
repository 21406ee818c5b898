//! Borrowers, and what drains make of connections, as the hooks do it.

use std::time::Duration;

use leasehold::Observation;
use leasehold::clock::Time;
use leasehold::simulation::Input;

use super::{Drain, Drained, Ev, World};
use crate::invariants;
use crate::plan::PoolPlan;
use crate::pool::{Conn, Mark, Pool, State};
use crate::postgres::{Dial, Postgres, Secret};

impl World {
    pub(crate) fn attach(&mut self, plan: PoolPlan) {
        if self.published == 0
            || self.pools_closed
            || self.finished.is_some()
            || self.pools.len() >= 5
        {
            return;
        }
        self.pool_ids += 1;
        self.pools.push(Pool::new(self.pool_ids, plan, self.published));
    }

    pub(super) fn hold_for_ever(&mut self, number: usize) {
        if let Some(pool) = self.pools.get_mut(number) {
            for conn in &mut pool.conns {
                if let State::Borrowed(until) = &mut conn.state {
                    *until = None;
                    return;
                }
            }
        }
    }

    pub(crate) fn secret(&self, generation: u64) -> Option<Secret> {
        self.generations.get(&generation).map(|g| g.secret)
    }

    /// Connections come back, dials end, and borrowers come: by chance, or everywhere.
    pub(crate) fn traffic(&mut self, everywhere: bool) {
        let real = self.real;
        let mut seen: Vec<(u64, Observation, bool)> = Vec::new();
        for at in 0..self.pools.len() {
            self.move_on(at, &mut seen);
            if self.pools[at].closed || !(everywhere || self.rng.u8(..4) == 0) {
                continue;
            }
            let hold = self.hold();
            let pool = &self.pools[at];
            let ready = |c: &Conn| c.state == State::Idle && c.mark != Mark::Retired;
            if let Some(place) = pool.conns.iter().position(ready) {
                let conn = pool.conns[place];
                invariants::i2_handed_out_is_alive(self, at, conn);
                let gone = self
                    .secret(conn.generation)
                    .is_some_and(|s| !Postgres::role_is_there(&self.vault, s));
                if gone {
                    // Its borrower's first query fails, and the sample tells why.
                    seen.push((conn.generation, Observation::SessionRevoked, false));
                    self.pools[at].conns.swap_remove(place);
                } else {
                    self.pools[at].conns[place].state = State::Borrowed(hold.map(|h| real + h));
                }
            } else if pool.conns.len() < pool.max {
                let generation = pool.installed;
                let latency = Duration::from_millis(self.rng.u64(2..60));
                let slow = if self.rng.u8(..16) == 0 { 50 } else { 1 };
                let state = State::Dialling(real + latency * slow);
                self.pools[at].conns.push(Conn { generation, mark: Mark::Current, state });
                invariants::i1_new_means_current(self, generation);
            }
        }
        for (generation, what, insists) in seen {
            if insists {
                self.hear_again(generation, what);
            }
            self.observe(generation, what);
        }
    }

    fn hold(&mut self) -> Option<Duration> {
        match self.rng.u16(..1000) {
            0..3 => None,
            3..20 => Some(Duration::from_secs(self.rng.u64(1..90))),
            _ => Some(Duration::from_millis(self.rng.u64(1..400))),
        }
    }

    fn move_on(&mut self, at: usize, seen: &mut Vec<(u64, Observation, bool)>) {
        let real = self.real;
        let mut place = 0;
        while place < self.pools[at].conns.len() {
            let conn = self.pools[at].conns[place];
            let secret = self.secret(conn.generation);
            let stays = match conn.state {
                State::Dialling(until) if until <= real => {
                    let pool = &self.pools[at];
                    let dial = secret.map_or(Dial::Refused, |secret| {
                        self.postgres.dial(&self.vault, secret, pool.lag, real)
                    });
                    if dial == Dial::Refused {
                        seen.push((conn.generation, Observation::LoginRejected, pool.aborts));
                    }
                    let taken = dial == Dial::In && !pool.closed && conn.mark != Mark::Retired;
                    if taken {
                        let hold = self.hold();
                        self.pools[at].conns[place].state = State::Borrowed(hold.map(|h| real + h));
                    }
                    taken
                }
                State::Borrowed(Some(until)) if until <= real => {
                    let gone = secret.is_some_and(|s| !Postgres::role_is_there(&self.vault, s));
                    if gone {
                        seen.push((conn.generation, Observation::SessionRevoked, false));
                    }
                    let pool = &mut self.pools[at];
                    let stays = !gone && !pool.closed && conn.mark != Mark::Retired;
                    if stays {
                        pool.conns[place].state = State::Idle;
                    }
                    stays
                }
                _ => true,
            };
            if stays {
                place += 1;
            } else {
                self.pools[at].conns.swap_remove(place);
            }
        }
    }

    // ---- drains

    /// When a drain has something to do, on the servers' clock.
    pub(super) fn drain_wake(&self) -> Option<Time> {
        let mut next: Option<Time> = None;
        let mut at = |t: Time| next = Some(next.map_or(t, |n: Time| n.min(t)));
        for (generation, drain) in &self.drains {
            at(self.to_real(drain.deadline));
            for task in drain.tasks.iter().filter(|t| !t.done) {
                if !task.rolled {
                    at(self.to_real(drain.roll_until));
                }
                let pool = self.pools.iter().find(|p| p.id == task.pool);
                if let Some(change) = pool.and_then(|p| p.next_change(*generation)) {
                    at(change.max(self.real).max(self.suspended_until));
                }
                if !self.postgres.is_up(self.real) {
                    at(self.postgres.down_until.max(self.suspended_until));
                }
            }
        }
        next
    }

    /// What the hooks do for the drains under way.
    pub(crate) fn tend_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let now = self.clock();
        for number in self.drains.keys().copied().collect::<Vec<_>>() {
            let Some(mut drain) = self.drains.remove(&number) else { continue };
            for at in 0..drain.tasks.len() {
                if !drain.tasks[at].done {
                    self.tend_drain(now, number, &mut drain, at);
                }
            }
            if drain.tasks.iter().all(|task| task.done) {
                let ended = if drain.late { Drained::AtDeadline } else { Drained::Clean };
                if let Some(generation) = self.generations.get_mut(&number) {
                    generation.drained = Some(ended);
                }
                let left = drain.left;
                let input = Input::Drained { generation: number, forced: Vec::new(), left };
                let delay = Duration::from_millis(self.rng.u64(0..3));
                if self.manual {
                    self.feed(input);
                } else {
                    self.after(delay, Ev::Input(input));
                }
            } else {
                self.drains.insert(number, drain);
            }
        }
    }

    fn tend_drain(&mut self, now: Time, number: u64, drain: &mut Drain, at: usize) {
        let real = self.real;
        let late = now >= drain.deadline;
        let task = &mut drain.tasks[at];
        let (Some(generation), Some(place)) = (
            self.generations.get(&number).map(|g| (g.secret, g.leased, g.dead)),
            self.pools.iter().position(|p| p.id == task.pool),
        ) else {
            task.done = true;
            return;
        };
        let (secret, leased, dead) = generation;
        let pool = &mut self.pools[place];
        let rolled = now >= drain.roll_until || late || pool.closed || pool.installed != number + 1;
        if !task.rolled && (rolled || pool.count(number) == 0) {
            task.rolled = true;
        }
        if task.rolled {
            pool.harden(number);
        } else {
            // At our own expense: superseded connections that are idle are replaced.
            let current = pool.installed;
            let opens = self.generations.get(&current).is_some_and(|g| {
                self.postgres.dial(&self.vault, g.secret, pool.lag, real) == Dial::In
            });
            for conn in &mut pool.conns {
                if opens && conn.generation == number && conn.state == State::Idle {
                    *conn = Conn { generation: current, mark: Mark::Current, state: State::Idle };
                }
            }
        }
        pool.sweep();
        let up = self.postgres.is_up(real);
        if pool.count(number) == 0 && (up || !leased) {
            task.done = true;
            return;
        }
        if !late {
            return;
        }
        task.done = true;
        drain.late = true;
        let alive = !dead && drain.lease_end.is_none_or(|end| now < end);
        let aborts = pool.aborts;
        let lag = pool.lag;
        let ends = aborts || (up && self.postgres.lets_in(&self.vault, secret, lag, real));
        if leased && alive && ends {
            let taken = pool.count(number);
            pool.conns.retain(|c| c.generation != number);
            if !drain.hurried {
                invariants::i3_borrowed_is_safe(self, number, now, taken);
            }
        } else {
            drain.left += pool.outlived(number);
        }
    }
}
