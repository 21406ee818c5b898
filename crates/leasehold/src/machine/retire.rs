//! Drain, then revoke.

use std::time::Duration;

use super::policy::{self, DRAINING_AT_ONCE, REVOKE_TRIES, SHUTDOWN_WRAP_UP};
use super::shutdown::Stopping;
use super::{Action, Login, LoginId, Machine, Revocation};
use crate::clock::Time;
use crate::event::{Event, Reason};
use crate::hook::Holder;
use crate::source::{ErrorKind, RevokeMode, SourceError};

/// A superseded generation whose connections are going.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "simulation", derive(Hash))]
pub(super) struct Draining {
    pub(super) login: Login,
    pub(super) generation: u64,
    since: Time,
    /// The latest the drain may take, wherever the lease ends.
    limit: Time,
    /// None is handed out after that.
    roll_until: Time,
    /// `limit`, or as long as the lease certainly lives.
    pub(super) deadline: Time,
    lease_end: Option<Time>,
}

/// A lease with no connections on it any more, to be given back.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "simulation", derive(Hash))]
pub(super) struct Retiring {
    pub(super) login: Login,
    /// When the request was sent that is not answered yet.
    in_flight: Option<Time>,
    how: Revocation,
    failures: u32,
    retry_at: Option<Time>,
    /// Why nothing more is tried: it is left to its TTL.
    pub(super) left: Option<SourceError>,
}

impl Draining {
    /// Borrowed connections get no longer than until `limit`.
    pub(super) fn bring_forward(&mut self, limit: Time) {
        self.limit = self.limit.min(limit);
    }

    /// Needs no more renewals: there is time for all that the drain may take.
    pub(super) fn outlives_its_drain(&self) -> bool {
        let margin = self.login.terms.end_margin();
        self.login.end.is_none_or(|end| end.before(margin) >= self.limit)
    }
}

impl Retiring {
    fn new(login: Login) -> Self {
        let how = Revocation::Mode(RevokeMode::Sync);
        Self { login, in_flight: None, how, failures: 0, retry_at: None, left: None }
    }

    pub(super) fn next_look(&self, stopping: Option<&Stopping>) -> Option<Time> {
        if self.in_flight.is_some() {
            return Some(self.moot_at(stopping)?.max(self.login.gone_by()?));
        }
        [self.retry_at, self.login.gone_by()].into_iter().flatten().min()
    }

    /// A shutdown waits no longer than until then for an answer about a lease that is gone. It may
    /// be our clock that is wrong, so that the server has a moment to carry out what was asked.
    fn moot_at(&self, stopping: Option<&Stopping>) -> Option<Time> {
        Some((self.in_flight? + SHUTDOWN_WRAP_UP).min(stopping?.wrap_up))
    }
}

impl Machine {
    pub(super) fn begin_drain(&mut self, now: Time, mut login: Login, reason: Reason) {
        if broken!(RevokesUndrained) {
            return self.retire(login);
        }
        let generation = login.generation.unwrap_or(0);
        let terms = login.terms;
        // A password that was changed, or is over, ends no session.
        let trusted = broken!(RollsWhatIsGone)
            || login.sessions_stay()
            || !matches!(
                reason,
                Reason::LeaseLost | Reason::LoginRejected | Reason::SessionRevoked
            ) && login.certainly_good(now);
        // A grace longer than what is left of the lease is served by renewing while it drains.
        let limit = now + if broken!(DrainsWithoutGrace) { terms.roll } else { terms.drain() };
        let short = login.end.is_some_and(|end| end.before(terms.end_margin()) < limit);
        login.renewal.at = (short && !login.last && trusted).then_some(now);
        let (deadline, lease_end) = drain_terms(&login, limit, now);
        let roll_until = if !trusted {
            now
        } else if broken!(RollsForTheWholeGrace) {
            deadline
        } else if deadline < limit {
            now + terms.roll.min(room(now, deadline))
        } else {
            now + terms.roll
        };
        self.out.push(Action::Drain { generation, roll_until, deadline, lease_end });
        let draining =
            Draining { login, generation, since: now, limit, roll_until, deadline, lease_end };
        self.draining.push(draining);
        if self.draining.len() > DRAINING_AT_ONCE {
            self.draining[0].limit = now;
        }
    }

    /// Deadlines follow what renewals and the token make of the lease's end. A roll ends when the
    /// lease turns out to be over.
    pub(super) fn drain_step(&mut self, now: Time) {
        for draining in &mut self.draining {
            let login = &draining.login;
            let (deadline, lease_end) = drain_terms(login, draining.limit, now);
            let rolls =
                broken!(RollsWhatIsGone) || login.sessions_stay() || login.certainly_good(now);
            let mut roll_until = draining.roll_until;
            if !rolls {
                roll_until = roll_until.min(now);
            } else if deadline < draining.deadline {
                roll_until = roll_until.min(now + room(now, deadline));
            }
            let before = (draining.roll_until, draining.deadline, draining.lease_end);
            if (roll_until, deadline, lease_end) != before {
                (draining.roll_until, draining.deadline) = (roll_until, deadline);
                draining.lease_end = lease_end;
                let generation = draining.generation;
                self.out.push(Action::DrainTerms { generation, roll_until, deadline, lease_end });
            }
        }
    }

    pub(super) fn on_drained(
        &mut self,
        now: Time,
        generation: u64,
        forced: Vec<(String, Holder)>,
        left: usize,
    ) {
        let Some(at) = self.draining.iter().position(|d| d.generation == generation) else {
            return;
        };
        let Draining { login, since, .. } = self.draining.remove(at);
        self.emit(Event::Drained { generation, took: now - since, forced, left });
        self.retire(login);
    }

    /// Nothing uses this login (any more): give its lease back.
    pub(super) fn retire(&mut self, login: Login) {
        self.retiring.push(Retiring::new(login));
    }

    pub(super) fn retire_step(&mut self, now: Time) {
        let mut ended = Vec::new();
        for at in (0..self.retiring.len()).rev() {
            let retiring = &mut self.retiring[at];
            let moot = retiring.moot_at(self.stopping.as_ref()).is_some_and(|at| at <= now);
            if retiring.in_flight.is_some() && !(moot && retiring.login.gone(now)) {
                continue;
            }
            let login = &retiring.login;
            // Asked at least once: what is over by a clock that was set forward, say, is not so by
            // the server's.
            let asked = moot || retiring.failures > 0;
            let gone = login.lost || (asked && login.gone(now));
            let gone = gone || (broken!(ForgetsWhatSeemsOver) && login.over(now));
            if !login.revocable || gone {
                ended.push(self.retiring.remove(at).login);
            } else if retiring.retry_at.is_none_or(|at| at <= now) {
                retiring.in_flight = Some(now);
                retiring.retry_at = None;
                self.out.push(Action::Revoke { login: login.id, how: retiring.how });
            }
        }
        for login in ended {
            if login.revocable {
                let (generation, username) = (login.generation, login.username);
                self.emit(Event::LeaseEnded { generation, username });
            }
            self.out.push(Action::Forget { login: login.id });
        }
    }

    pub(super) fn on_revoked(&mut self, now: Time, id: LoginId, result: Result<(), SourceError>) {
        let Some(at) = self.retiring.iter().position(|r| r.login.id == id) else {
            return;
        };
        let Err(error) = result else {
            let Retiring { login, how, .. } = self.retiring.remove(at);
            let queued = how == Revocation::Mode(RevokeMode::Queued);
            let Login { generation, username, .. } = login;
            self.emit(Event::Revoked { generation, username, queued });
            self.out.push(Action::Forget { login: id });
            return;
        };
        if matches!(error.kind(), ErrorKind::LeaseLost) {
            self.retiring[at].login.lost = true;
            self.retiring[at].in_flight = None;
            return;
        }
        let failures = self.retiring[at].failures + 1;
        let pause = self.pause_after(&error, failures);
        let retiring = &mut self.retiring[at];
        retiring.in_flight = None;
        retiring.failures = failures;
        let generation = retiring.login.generation;
        let denied = error.kind() == ErrorKind::Denied;
        // A refusal changes nothing and queues nothing: it is ours to repeat, inside the lease.
        // Where revoking is not allowed at all a short renewal ends the lease as well; what keeps
        // failing is left to the server's own retries; after that there is only the TTL.
        let next = match retiring.how {
            Revocation::Mode(RevokeMode::Sync) if denied => Some((Revocation::Soft, now)),
            // A server that could not be asked has refused nothing.
            Revocation::Mode(RevokeMode::Sync)
                if failures >= REVOKE_TRIES && error.kind() == ErrorKind::ServerFault =>
            {
                Some((Revocation::Mode(RevokeMode::Queued), now))
            }
            how if error.is_transient() || error.kind() == ErrorKind::TokenLost => {
                Some((how, now + pause))
            }
            _ => None,
        };
        // Left to its TTL: looked at again only when the lease ends.
        let never = Time::from_start(Duration::MAX);
        retiring.retry_at = Some(next.map_or(never, |(_, at)| at));
        match next {
            Some((how, _)) => retiring.how = how,
            None => retiring.left = Some(error.clone()),
        }
        let retry_in = next.map(|(_, at)| now.until(at));
        self.emit(Event::RevokeFailed { generation, error, retry_in });
    }

    /// Was this the short renewal that stands in for a revocation?
    pub(super) fn soft_revoked(
        &mut self,
        now: Time,
        id: LoginId,
        attempt: u64,
        sent: Time,
        result: &Result<Duration, SourceError>,
    ) -> bool {
        if attempt != policy::SOFT_REVOKE {
            return false;
        }
        match result {
            Ok(granted) => {
                if let Some(retiring) = self.retiring.iter_mut().find(|r| r.login.id == id) {
                    retiring.in_flight = None;
                    retiring.retry_at = Some(Time::from_start(Duration::MAX));
                    retiring.login.end = Some(sent + *granted);
                    retiring.login.gone_by = Some(now + *granted);
                }
                self.warn(
                    "the policy does not allow sys/leases/revoke: the lease was cut short by a \
                     renewal instead",
                );
            }
            Err(error) => self.on_revoked(now, id, Err(error.clone())),
        }
        true
    }
}

/// What a roll may take of a drain that ends before its time: most of that is for what is borrowed.
fn room(now: Time, deadline: Time) -> Duration {
    (deadline - now) / 4
}

fn drain_terms(login: &Login, limit: Time, now: Time) -> (Time, Option<Time>) {
    let end = login.effective_end();
    let lease_end = if login.dead || login.lost { Some(now) } else { end };
    // A dead or ended lease gives no reason to hurry: nothing is terminated on its account.
    let alive = login.certainly_good(now) && !login.sessions_stay();
    let deadline = match end {
        Some(end) if alive => limit.min(end.before(login.terms.end_margin())),
        _ => limit,
    };
    (deadline, lease_end)
}
