//! One token, from login to its end, as the keeper drives it.

use std::sync::Arc;
use std::time::Duration;

use leasehold::clock::Time;
use leasehold::{ErrorKind, ParentState, SourceError};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::classify::Failure;
use crate::epoch::{Epoch, UsedRights};
use crate::keeper::Command;
use crate::schedule;
use crate::token::TokenGrant;

const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Tracked {
    pub(crate) epoch: Arc<Epoch>,
    state: watch::Sender<ParentState>,
    /// Another token can be had when this one ends.
    replaceable: bool,
    pub(crate) own: bool,
    pub(crate) batch: bool,
    /// Somebody else renews it; we look now and then where its end is.
    pub(crate) watched: bool,
    /// What the login granted.
    pub(crate) ttl: Option<Duration>,
    /// What a renewal asks for.
    pub(crate) increment: Duration,
    pub(crate) ends: Option<Time>,
    /// When to do the next thing about it: renew it or, once retired and not held, give it back.
    pub(crate) act_at: Option<Time>,
    /// A request about it is under way.
    pub(crate) busy: bool,
    pub(crate) dead: bool,
    /// Not worth issuing with: it is near an end that can't be moved, or renewals keep failing.
    pub(crate) spent: bool,
    /// `ends` can't be moved.
    fixed: bool,
    retired: bool,
    /// It was given back, or can't be.
    finished: bool,
    /// A token that can't be renewed is spent from here on, so that leases get a fresh one.
    worn_at: Option<Time>,
    failures: u32,
    /// How often it was looked at since it is retired.
    looks: u32,
}

impl Tracked {
    pub(crate) fn new(
        number: u64,
        asked_at: Time,
        grant: TokenGrant,
        replaceable: bool,
        keeper: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        let ends = grant.ttl.map(|ttl| asked_at + ttl);
        let due = grant.ttl.map(|ttl| asked_at + schedule::renew_after(ttl, fastrand::f64()));
        let worn = grant.ttl.map(|ttl| asked_at + schedule::replace_after(ttl, fastrand::f64()));
        let look = grant.ttl.map(|ttl| asked_at + schedule::look_after(ttl));
        let renewable = (grant.renewable || grant.watched) && ends.is_some();
        // Whoever writes the file has the next one, and when it comes is not ours to say.
        let replaceable = replaceable && !grant.watched;
        let state = match ends {
            None => ParentState::endless(),
            Some(ends) => ParentState::ending(ends, renewable, replaceable),
        };
        let (state, see) = watch::channel(state);
        let rights = UsedRights {
            renew: renewable && !grant.watched,
            look: renewable && grant.watched,
            revoke: grant.own && !grant.batch,
        };
        Self {
            epoch: Epoch::new(number, grant.token, rights, see, keeper),
            state,
            replaceable,
            own: grant.own,
            batch: grant.batch,
            watched: grant.watched,
            ttl: grant.ttl,
            increment: grant.increment,
            ends,
            act_at: if grant.watched { look } else { due.filter(|_| renewable) },
            busy: false,
            dead: false,
            spent: false,
            fixed: !renewable,
            retired: false,
            finished: false,
            worn_at: worn.filter(|_| !renewable),
            failures: 0,
            looks: 0,
        }
    }

    /// Whether its end is expected to move.
    pub(crate) fn renewing(&self) -> bool {
        !(self.fixed || self.dead || self.retired)
    }

    /// Whether there is nothing more to do about it, once it is not the current one.
    pub(crate) fn is_done_with(&self, now: Time) -> bool {
        let ours_to_revoke = self.own && !self.batch;
        let may_live = if ours_to_revoke { !self.certainly_over(now) } else { !self.dead };
        self.finished || !may_live || (!self.epoch.is_held() && !ours_to_revoke)
    }

    /// The next instant at which something is to be done about it.
    pub(crate) fn next(&self) -> Option<Time> {
        if self.dead {
            return self.act_at.filter(|_| self.retired && !self.epoch.is_held());
        }
        let worn = self.worn_at.filter(|_| !self.spent);
        [self.act_at, worn, self.ends].into_iter().flatten().min()
    }

    pub(crate) fn look_at_the_clock(&mut self, now: Time) {
        // A request under way may be a renewal that came in time.
        if !self.dead && !self.busy && self.ends.is_some_and(|ends| ends <= now) {
            warn!(login = self.epoch.number, "the token is over");
            self.dead = true;
        }
        if self.worn_at.is_some_and(|at| at <= now) {
            self.spent = true;
        }
    }

    /// The server does not take it any more.
    pub(crate) fn die(&mut self, now: Time) {
        self.dead = true;
        self.failures = 0;
        self.ends = Some(self.ends.map_or(now, |ends| ends.min(now)));
    }

    /// It is certainly over: by the server's word, or by the clock with no renewal that may have
    /// been granted without our hearing of it, or none that can have moved it past now.
    pub(crate) fn certainly_over(&self, now: Time) -> bool {
        let unheard = self.failures > 0 && self.ends.is_none_or(|e| now < e + self.increment);
        self.dead && !unheard
    }

    /// Another one is current from here on. It is kept while it is held.
    pub(crate) fn retire(&mut self, now: Time) {
        self.retired = true;
        // By the one that has come.
        self.replaceable = true;
        // One that somebody else replaced may be dead already, and its leases with it.
        if self.watched || !self.epoch.is_held() {
            self.act_at = Some(now);
        }
    }

    /// The keeper is gone: nobody will renew it.
    pub(crate) fn abandon(&mut self) {
        self.fixed = true;
        self.publish();
    }

    pub(crate) fn renewed(&mut self, now: Time, asked_at: Time, result: Result<Duration, Failure>) {
        self.busy = false;
        if self.dead {
            // By the server's word, which came after it had answered this.
            return;
        }
        let login = self.epoch.number;
        match result {
            Ok(granted) => {
                self.failures = 0;
                self.ends = Some(asked_at + granted);
                if granted < self.increment {
                    info!(login, ?granted, "the token nears its maximum TTL");
                    self.can_not_be_renewed();
                } else {
                    debug!(login, ?granted, "token renewed");
                    self.fixed = false;
                    self.spent = false;
                    let after = schedule::renew_after(granted, fastrand::f64());
                    self.act_at = Some(asked_at + after);
                }
            }
            Err(Failure::TokenDead(_)) => {
                warn!(login, "the token was found dead when it was to be renewed");
                self.die(now);
            }
            Err(Failure::Refused(e)) => match e.kind() {
                ErrorKind::NotRenewable | ErrorKind::Denied if !self.replaceable => {
                    self.renewal_refused(now, &e);
                }
                ErrorKind::NotRenewable | ErrorKind::Denied => {
                    warn!(login, error = %e, "the token can't be renewed");
                    self.can_not_be_renewed();
                }
                _ => self.renewal_failed(now, &e),
            },
        }
        if self.retired && !self.epoch.is_held() {
            self.act_at = Some(now);
        }
    }

    /// The server said how long a token has left that somebody else renews (`None`: it does not
    /// end).
    pub(crate) fn looked_at(
        &mut self,
        now: Time,
        asked_at: Time,
        result: Result<Option<Duration>, Failure>,
    ) {
        self.busy = false;
        if self.dead {
            return;
        }
        let login = self.epoch.number;
        match result {
            Ok(left) => {
                self.failures = 0;
                debug!(login, ?left, "token looked at");
                let told = left.map(|left| asked_at + left);
                self.ends = match (self.ends, told) {
                    // Told in whole seconds, an end that stands still seems to move by one.
                    (Some(known), Some(told)) if told < known && told + SECOND > known => {
                        Some(known)
                    }
                    (_, told) => told,
                };
                let next = left.map(schedule::look_after);
                let next = if self.retired {
                    // Who wrote the next one may revoke this one any moment, its leases with it.
                    self.looks += 1;
                    let soon = schedule::look_again_after(self.looks);
                    Some(next.map_or(soon, |next| next.min(soon)))
                } else {
                    next
                };
                self.act_at = next.map(|next| asked_at + next);
            }
            Err(Failure::TokenDead(_)) => {
                warn!(login, "the token was found dead");
                self.die(now);
            }
            Err(Failure::Refused(e)) => {
                self.failures += 1;
                let wait = self.wait_to_try_again(now, &e);
                self.act_at = Some(now + wait);
                debug!(login, error = %e, retry_in = ?wait, "the token could not be looked at");
            }
        }
        if self.retired && !self.epoch.is_held() {
            self.act_at = Some(now);
        }
    }

    fn can_not_be_renewed(&mut self) {
        self.fixed = true;
        self.spent = true;
        self.act_at = None;
    }

    /// There is no other to be had. A person may mend what is wrong, a policy say.
    fn renewal_refused(&mut self, now: Time, e: &SourceError) {
        self.failures += 1;
        self.fixed = true;
        let wait = self.before_its_end(now, schedule::refused_backoff(self.failures));
        self.act_at = Some(now + wait);
        let login = self.epoch.number;
        if self.failures == 1 {
            warn!(login, error = %e, retry_in = ?wait, "the token can't be renewed for now");
        } else {
            debug!(login, error = %e, retry_in = ?wait, "the token still can't be renewed");
        }
    }

    fn renewal_failed(&mut self, now: Time, e: &SourceError) {
        self.failures += 1;
        let remaining = self.remaining(now);
        let calm = self.ttl.map_or(Duration::ZERO, |ttl| {
            schedule::pace(self.failures, remaining, ttl, fastrand::f64())
        });
        let wait = self.wait_to_try_again(now, e).max(calm);
        self.act_at = Some(now + wait);
        // Renewing may go on failing while a login works (the role was deleted, say).
        self.spent = self.ttl.is_some_and(|ttl| remaining < ttl / 4);
        let login = self.epoch.number;
        if self.failures == 1 {
            warn!(login, error = %e, kind = ?e.kind(), retry_in = ?wait, "token renewal failed");
        } else {
            debug!(login, error = %e, retry_in = ?wait, "token renewal failed again");
        }
    }

    fn remaining(&self, now: Time) -> Duration {
        self.ends.map_or(Duration::MAX, |ends| now.until(ends))
    }

    fn wait_to_try_again(&self, now: Time, e: &SourceError) -> Duration {
        // Whatever the server wants.
        self.before_its_end(now, schedule::backoff(self.failures, self.ttl, e.server_retry_after()))
    }

    /// So that there is one more try before the end.
    fn before_its_end(&self, now: Time, wait: Duration) -> Duration {
        wait.min((self.remaining(now) / 2).max(Duration::from_millis(50)))
    }

    pub(crate) fn given_back(&mut self, now: Time, result: Result<(), SourceError>) {
        self.busy = false;
        let login = self.epoch.number;
        match result {
            Ok(()) => {
                debug!(login, "retired token revoked");
                self.finish();
            }
            Err(e) if e.is_transient() => {
                self.failures += 1;
                let wait = schedule::backoff(self.failures, self.ttl, e.server_retry_after());
                self.act_at = Some(now + wait);
            }
            Err(e) => {
                warn!(login, error = %e, "a retired token can't be revoked: it ends by its TTL");
                self.finish();
            }
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        self.act_at = None;
    }

    /// A line for the report of a shutdown.
    pub(crate) fn left_behind(&self, now: Time, e: &SourceError) -> String {
        let ends = match self.ends {
            Some(ends) => format!("it ends in {} s", now.until(ends).as_secs()),
            None => "it does not end by itself".to_owned(),
        };
        format!("token of login {}: {e}; {ends}", self.epoch.number)
    }

    pub(crate) fn publish(&self) {
        let state = match self.ends {
            None => ParentState::endless(),
            Some(ends) => ParentState::ending(ends, self.renewing(), self.replaceable),
        };
        self.state.send_if_modified(|seen| {
            let news = *seen != state;
            *seen = state;
            news
        });
    }
}
