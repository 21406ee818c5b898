//! What the rotator's driver does with actions, step by step as `rotator/driver.rs` has it.

use std::collections::VecDeque;
use std::time::Duration;

use leasehold::simulation::{Action, Input, Revocation, SOFT_REVOKE};
use leasehold::{ErrorKind, Event, Observation, Remains, RevokeMode};

use super::{Call, Drain, DrainTask, Ev, Generation, Superseded, World};
use crate::invariants;
use crate::vault::LeaseState;

impl World {
    /// Gives the machine an input and does what it says.
    pub(crate) fn feed(&mut self, input: Input) {
        if self.finished.is_some() || self.violation.is_some() {
            return;
        }
        let now = self.clock();
        self.read = (now, self.mono());
        self.watch_answers(&input, now);
        self.note(|| format!("  <- {input:?}"));
        if self.manual {
            self.machine.reseed(self.plan.seed);
        }
        let mut actions: VecDeque<Action> = self.machine.handle(now, input).into();
        while let Some(action) = actions.pop_front() {
            self.note(|| format!("  -> {action:?}"));
            self.carry_out(action, &mut actions);
        }
        if self.stopping.is_none() {
            self.pools.retain(|pool| !pool.is_gone());
        }
    }

    /// What the invariants have to know of what the machine is told.
    fn watch_answers(&mut self, input: &Input, now: leasehold::clock::Time) {
        match input {
            Input::Proved { login, proofs } => {
                self.proofs.insert(*login, *proofs);
            }
            Input::Renewed { login, attempt, result: Err(error), .. }
                if error.kind() == ErrorKind::LeaseLost && *attempt != SOFT_REVOKE =>
            {
                let of_it = self.generations.values_mut().find(|g| g.login == *login);
                let waits = self
                    .machine
                    .logins()
                    .any(|(_, l)| l.id == *login && l.renewal.in_flight == Some(*attempt));
                if let Some(generation) = of_it.filter(|_| waits) {
                    generation.told_gone = true;
                }
            }
            _ => {}
        }
        if let Input::Issued { sent, result: Err(error), .. } = input
            && !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Malformed)
            && let Some(at) = self.mints.iter().position(|mint| mint == sent)
        {
            // Nothing was made: it draws no permit.
            self.mints.remove(at);
        }
        let answer = match input {
            Input::Issued { result, .. } => Some(result.as_ref().err()),
            Input::Renewed { result, .. } => Some(result.as_ref().err()),
            _ => None,
        };
        if let Some(error) = answer {
            if error.is_none() && self.last_failed {
                self.resets.push_back(now);
            }
            match error {
                None => self.last_failed = false,
                Some(error) => self.last_failed |= error.is_transient(),
            }
        }
    }

    fn carry_out(&mut self, action: Action, actions: &mut VecDeque<Action>) {
        match action {
            Action::Issue { attempt } => {
                let sent = self.believed();
                self.mix(attempt);
                self.unanswered.insert(attempt, sent);
                self.mints.push_back(sent);
                invariants::i7_one_fetch(self, sent);
                self.send(Call::Issue { attempt, sent });
            }
            Action::Prove { login, .. } => {
                let Some(held) = self.held.get(&login) else { return };
                let secret = (self.published > 0).then_some(held.secret);
                self.send(Call::Prove { login, secret });
            }
            Action::Publish { login, generation } => self.publish(login, generation),
            Action::Drain { generation, roll_until, deadline, lease_end } => {
                invariants::i1_swap_before_drain(self, generation);
                let now = self.believed();
                let of_it = |l: &leasehold::simulation::Login| l.generation == Some(generation);
                let terms = self.machine.logins().find(|(_, l)| of_it(l)).map(|(_, l)| l.terms);
                if let (Some(known), Some(terms)) = (self.generations.get_mut(&generation), terms) {
                    known.superseded = Some(Superseded { at: now, terms, gone: known.told_gone });
                }
                let tasks =
                    self.pools.iter().map(|p| DrainTask { pool: p.id, rolled: false, done: false });
                let tasks = tasks.collect();
                let hurried = false;
                let drain =
                    Drain { roll_until, deadline, hurried, lease_end, tasks, left: 0, late: false };
                self.drains.insert(generation, drain);
                if let Some(oldest) = invariants::in_the_way(self)
                    && let Some(drain) = self.drains.get_mut(&oldest)
                {
                    drain.hurried = true;
                }
                invariants::i3_deadline_is_kept(self, generation);
                invariants::i3_the_roll_leaves_room(self, generation);
            }
            Action::DrainTerms { generation, roll_until, deadline, lease_end } => {
                if let Some(drain) = self.drains.get_mut(&generation) {
                    drain.roll_until = roll_until;
                    drain.deadline = deadline;
                    drain.lease_end = lease_end;
                    invariants::i3_deadline_is_kept(self, generation);
                }
            }
            Action::Renew { login, attempt, increment } => {
                self.send_renewal(login, attempt, increment)
            }
            Action::Revoke { login, how } => {
                invariants::i4_drained_then_revoked(self, login);
                match how {
                    Revocation::Soft => {
                        self.send_renewal(login, SOFT_REVOKE, Duration::from_secs(1))
                    }
                    Revocation::Mode(mode) => {
                        let queued = mode == RevokeMode::Queued;
                        let lease = self.held.get(&login).and_then(|held| held.lease);
                        match lease {
                            Some(lease) => self.send(Call::Revoke { login, lease, queued }),
                            None => self.violate(
                                invariants::Invariant::I7,
                                format!("revokes login {login}, which is not held or has no lease"),
                            ),
                        }
                    }
                }
            }
            Action::Confirm { generation } => self.send(Call::Confirm { generation }),
            Action::Distrust { generation } => {
                invariants::i6_distrusted_for_a_reason(self, generation);
                if generation == self.published {
                    if let Some(generation) = self.generations.get_mut(&generation) {
                        generation.dead = true;
                    }
                    for pool in &mut self.pools {
                        pool.distrust();
                    }
                }
            }
            Action::Forget { login } => {
                invariants::i7_every_credential_ends(self, login);
                self.drop_held(login);
            }
            Action::Merge { login, current } => {
                let Some(merged) = self.held.remove(&login) else { return };
                if let Some(held) = self.held.get_mut(&current) {
                    let old = std::mem::replace(&mut held.epoch, merged.epoch);
                    if let Some(old) = old {
                        self.session.release(old, self.read.0);
                    }
                }
            }
            Action::ClosePools => {
                if self.stopping.is_none() {
                    self.violate(
                        invariants::Invariant::I6,
                        "closes the pools with no shutdown".to_owned(),
                    );
                }
                self.pools_closed = true;
                self.watching = false;
                for pool in &mut self.pools {
                    pool.close();
                }
            }
            Action::Emit(event) => self.told(&event),
            Action::StartFailed(_) => {
                self.start_failed = true;
                let deadline = self.believed() + Duration::from_secs(120);
                self.stopping = Some(deadline);
                actions.extend(self.machine.handle(self.believed(), Input::Shutdown { deadline }));
            }
            Action::Finished(remains) => self.wind_up(remains),
        }
    }

    fn told(&mut self, event: &Event) {
        match event {
            Event::Unchanged { generation, .. } => {
                self.hear_again(*generation, Observation::LoginRejected);
            }
            Event::Expired { generation } => invariants::i6_none_expires_in_calm(self, *generation),
            _ => {}
        }
    }

    fn send_renewal(&mut self, login: u64, attempt: u64, increment: Duration) {
        let sent = self.believed();
        match self.held.get(&login).and_then(|held| held.lease) {
            Some(lease) => self.send(Call::Renew { login, lease, attempt, sent, increment }),
            None => self.violate(
                invariants::Invariant::I7,
                format!("renews login {login}, which is not held or has no lease"),
            ),
        }
    }

    fn publish(&mut self, login: u64, number: u64) {
        self.mix(number << 32 | login);
        invariants::i1_numbers_rise(self, number);
        invariants::i5_proven_then_swapped(self, login);
        let Some(held) = self.held.get(&login) else {
            return self.violate(
                invariants::Invariant::I5,
                format!("publishes login {login}, which is not held"),
            );
        };
        let now = self.believed();
        let planned =
            self.machine.logins().find(|(_, l)| l.id == login).map_or(Duration::ZERO, |(_, l)| {
                let life = l.effective_end().map_or(Duration::ZERO, |end| now.until(end));
                life.saturating_sub(l.terms.leeway).max(life / 4)
            });
        let generation = Generation {
            login,
            secret: held.secret,
            leased: held.lease.is_some(),
            dead: false,
            told_gone: false,
            since: now,
            planned,
            superseded: None,
            drained: None,
        };
        self.generations.insert(number, generation);
        // Connections of generations that old have been closed or belong to nobody we know, and the
        // mints that they made free are not looked at any more.
        let counted = self.believed().before(invariants::stretch(self));
        let is_old = |g: &Generation| g.superseded.is_some_and(|s| s.at < counted);
        if self.generations.len() > 16 && self.generations.values().next().is_some_and(is_old) {
            self.generations.pop_first();
        }
        let first = self.published == 0;
        self.published = number;
        for pool in &mut self.pools {
            pool.install(number);
        }
        if first {
            let plan = self.plan.clone();
            for (n, pool) in plan.pools.iter().enumerate() {
                if self.manual {
                    self.attach(*pool);
                    continue;
                }
                self.after(Duration::from_millis(n as u64), Ev::Attach(*pool));
            }
        } else {
            self.stats.rotations += 1;
        }
    }

    fn drop_held(&mut self, login: u64) {
        let Some(held) = self.held.remove(&login) else {
            return self.violate(
                invariants::Invariant::I7,
                format!("forgets login {login}, which is not held"),
            );
        };
        self.proofs.remove(&login);
        if let Some(epoch) = held.epoch {
            self.session.release(epoch, self.read.0);
        }
    }

    /// The last steps of a shutdown.
    fn wind_up(&mut self, mut remains: Vec<Remains>) {
        invariants::i9_nothing_is_left_in_pools(self, &remains);
        let now = self.clock();
        for held in self.held.values() {
            if let Some(epoch) = held.epoch {
                self.session.release(epoch, now);
            }
        }
        let ended: Vec<_> = (self.held.iter())
            .filter(|(_, held)| {
                let lease = held.lease.and_then(|lease| self.vault.lease(lease));
                lease.is_none_or(|lease| lease.state != LeaseState::Live)
            })
            .map(|(login, _)| *login)
            .collect();
        let left = self.session.close(&mut self.vault, self.real, now);
        let gone: Vec<String> = (self.held.values())
            .filter(|held| {
                held.epoch
                    .and_then(|e| self.session.state(e))
                    .and_then(|s| s.ends)
                    .is_some_and(|ends| ends <= now)
            })
            .map(super::Held::username)
            .collect();
        remains.retain(|r| {
            let goes = leasehold::simulation::goes_with_its_token(r);
            !(goes && r.username.as_ref().is_some_and(|user| gone.contains(user)))
        });
        self.finished = Some(remains);
        invariants::i9_the_report_is_exact(self, &left, &ended);
    }
}
