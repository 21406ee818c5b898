//! The lease machine: all policy, no I/O. Time comes in with each call, requests go out as
//! actions, and their answers come back as inputs, numbered so that a late one is known for what
//! it is. It never sees a password.
//!
//! ```text
//!  issue ── prove ── swap ─┬─ renew … renew ─┬─ rotate: issue ── prove ── swap ─ …
//!                          │                 │  (leeway before the end)
//!                          └─ the one before drains: roll, sweep, confirm ── revoke
//! ```
//!
//! [`Machine::handle`] takes an input, does everything that is due, and returns what the driver
//! has to do; [`Machine::next_deadline`] says when to call again with [`Input::Tick`].

#[macro_use]
#[cfg_attr(not(feature = "simulation"), allow(unused_macros))]
pub(crate) mod broken;
mod login;
pub mod policy;
mod retire;
mod rotation;
mod shutdown;
#[cfg(test)]
mod tests;
#[cfg(feature = "simulation")]
mod view;

use std::time::Duration;

use crate::clock::Time;
use crate::credential::ParentState;
use crate::event::{Event, Reason};
use crate::health::{Refresh, Status};
use crate::hook::Holder;
use crate::provider::{Observation, Observed};
use crate::source::{ErrorKind, RevokeMode, SourceError};

pub use login::{Login, LoginId, Minted};
pub use policy::Policy;
pub(crate) use policy::SHUTDOWN_WRAP_UP;
pub use policy::SOFT_REVOKE;
pub use policy::Terms;
use policy::{LONGEST, Limiter};
use retire::{Draining, Retiring};
use rotation::{Mint, Rotation};
pub use shutdown::Remains;
use shutdown::Stopping;
#[cfg(feature = "simulation")]
pub use view::{Stage, goes_with_its_token};

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time went by.
    Tick,
    /// A request to mint was answered.
    Issued { attempt: u64, sent: Time, result: Result<Minted, SourceError> },
    /// A request to renew was answered.
    Renewed { login: LoginId, attempt: u64, sent: Time, result: Result<Duration, SourceError> },
    /// A candidate (or an unproven current generation) was tried on the attached pools.
    Proved { login: LoginId, proofs: Proofs },
    /// No pool has connections of a generation any more, or its deadline was dealt with.
    Drained { generation: u64, forced: Vec<(String, Holder)>, left: usize },
    /// A request to revoke was answered.
    Revoked { login: LoginId, result: Result<(), SourceError> },
    /// Something was seen of a generation's login.
    Observed(Observed),
    /// A suspicion about the current login was looked into.
    Confirmed { generation: u64, refused: bool },
    /// The token that created a lease changed.
    Parent { login: LoginId, state: ParentState },
    /// The source has something newer than what its last answer told.
    Changed,
    /// Someone wants a rotation.
    Rotate,
    /// End in order, with borrowed connections given until `deadline`.
    Shutdown { deadline: Time },
}

/// How many of the attached pools said what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Proofs {
    pub proven: usize,
    pub rejected: usize,
    pub unreachable: usize,
}

impl Proofs {
    /// Every pool that there is refuses it.
    pub fn refused(self) -> bool {
        self.rejected > 0 && self.proven == 0 && self.unreachable == 0
    }
}

/// What the driver has to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Mint; answer with [`Input::Issued`].
    Issue { attempt: u64 },
    /// Try it on every attached pool; answer with [`Input::Proved`].
    Prove { login: LoginId, generation: u64 },
    /// Make it the current generation: install it on every pool, then publish.
    Publish { login: LoginId, generation: u64 },
    /// Drain a generation on every pool; answer with [`Input::Drained`].
    Drain { generation: u64, roll_until: Time, deadline: Time, lease_end: Option<Time> },
    /// The terms of a running drain changed.
    DrainTerms { generation: u64, roll_until: Time, deadline: Time, lease_end: Option<Time> },
    /// Renew; answer with [`Input::Renewed`].
    Renew { login: LoginId, attempt: u64, increment: Duration },
    /// Revoke; answer with [`Input::Revoked`].
    Revoke { login: LoginId, how: Revocation },
    /// Try to log in as the current generation; answer with [`Input::Confirmed`].
    Confirm { generation: u64 },
    /// The current login is gone: pools must not hand out its connections.
    Distrust { generation: u64 },
    /// Forget the secret and the lease of a login.
    Forget { login: LoginId },
    /// `login` is the same as `current`, which takes over what else came with it.
    Merge { login: LoginId, current: LoginId },
    /// Close every pool.
    ClosePools,
    /// Tell everybody.
    Emit(Event),
    /// There will be no first credential.
    StartFailed(StartFailure),
    /// All that could be done in a shutdown was done.
    Finished(Vec<Remains>),
}

/// How a lease is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// As the source revokes.
    Mode(RevokeMode),
    /// Revoking is not allowed: a renewal for a second ends it early all the same.
    Soft,
}

/// Why there is no first credential.
#[derive(Clone, Debug)]
pub enum StartFailure {
    /// The source refused for good.
    Source(SourceError),
    /// The granted TTL is not longer than the leeway.
    TtlTooShort { ttl: Duration, leeway: Duration, grace: Duration },
}

/// The state of one rotator.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    rng: fastrand::Rng,
    limiter: Limiter,
    /// As `limiter`, for a source that has never made a lease: asking it again makes nothing.
    reads: Limiter,
    /// The source has made a lease; `None` before its first answer.
    leases: Option<bool>,
    /// The source's own news is not followed before this.
    news_at: Time,
    /// How often in a row the source's news led to nothing.
    idle_news: u32,
    attempts: u64,
    swaps: u64,
    renewals: u64,
    observations: u64,
    /// Learned from a grant that was shorter than asked for.
    max_ttl: Option<Duration>,
    current: Option<Login>,
    swapped_at: Time,
    expired_told: bool,
    reprove: Option<rotation::Reprove>,
    confirm_next: Time,
    rotation: Option<Rotation>,
    mints: Vec<Mint>,
    /// Mints not waited for any more, of which a shutdown must know all the same.
    given_up: Vec<Mint>,
    draining: Vec<Draining>,
    retiring: Vec<Retiring>,
    stopping: Option<Stopping>,
    last_error: Option<(ErrorKind, String, Time)>,
    /// When the latest request was sent that was answered well.
    answered: Time,
    source_ok: bool,
    sealed: bool,
    out: Vec<Action>,
}

impl Machine {
    /// A machine that wants its first credential. `seed` decides its jitter.
    pub fn new(policy: Policy, now: Time, seed: u64) -> Self {
        Self {
            policy,
            rng: fastrand::Rng::with_seed(seed),
            limiter: Limiter::new(now),
            reads: Limiter::new(now),
            leases: None,
            news_at: now,
            idle_news: 0,
            attempts: 0,
            swaps: 0,
            renewals: 0,
            observations: 0,
            max_ttl: None,
            current: None,
            swapped_at: now,
            expired_told: false,
            reprove: None,
            confirm_next: now,
            rotation: Some(Rotation::new(Reason::Start, true)),
            mints: Vec::new(),
            given_up: Vec::new(),
            draining: Vec::new(),
            retiring: Vec::new(),
            stopping: None,
            last_error: None,
            answered: Time::ZERO,
            source_ok: true,
            sealed: false,
            out: Vec::new(),
        }
    }

    /// Takes an input, does what is due, and returns what the driver has to do, in order.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Action> {
        match input {
            Input::Tick => {}
            Input::Issued { attempt, sent, result } => self.on_issued(now, attempt, sent, result),
            Input::Renewed { login, attempt, sent, result } => {
                self.on_renewed(now, login, attempt, sent, result);
            }
            Input::Proved { login, proofs } => self.on_proved(now, login, proofs),
            Input::Drained { generation, forced, left } => {
                self.on_drained(now, generation, forced, left);
            }
            Input::Revoked { login, result } => self.on_revoked(now, login, result),
            Input::Observed(observed) => self.on_observed(now, observed),
            Input::Confirmed { generation, refused } => {
                if refused {
                    let what = Observation::LoginRejected;
                    self.on_observed(now, Observed { generation, what });
                }
            }
            Input::Parent { login, state } => {
                if let Some(login) = self.login_mut(login) {
                    login.parent = Some(state);
                }
            }
            Input::Changed => self.on_changed(now),
            Input::Rotate => self.want(Reason::Requested),
            Input::Shutdown { deadline } => self.on_shutdown(now, deadline),
        }
        self.step(now);
        std::mem::take(&mut self.out)
    }

    /// Does everything that is due.
    fn step(&mut self, now: Time) {
        self.renew_what_is_due(now);
        if self.stopping.is_none() {
            self.rotate_if_due(now);
            self.pursue_rotation(now);
            self.reprove_if_due(now);
        }
        self.drain_step(now);
        self.retire_step(now);
        self.shutdown_step(now);
        if let Some(current) = &mut self.current {
            current.spread_rotation(&mut self.rng, now);
        }
    }

    /// When [`handle`](Self::handle) has to be called again if nothing happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let mut next: Option<Time> = None;
        let mut at = |t: Option<Time>| next = [next, t].into_iter().flatten().min();
        for login in self.live() {
            if login.renewal.in_flight.is_none() {
                at(login.renewal.at);
            }
        }
        if let Some(stopping) = &self.stopping {
            at(stopping.next_look());
        } else {
            if let Some(current) = &self.current {
                if self.rotation.as_ref().is_none_or(|r| !r.planned) {
                    at(current.rotate_at().map(|(t, _)| t));
                }
                if !self.expired_told {
                    at(current.effective_end());
                }
            }
            at(self.rotation_deadline());
            at(self.reprove.as_ref().and_then(|r| r.at));
        }
        for retiring in &self.retiring {
            at(retiring.next_look(self.stopping.as_ref()));
        }
        next
    }

    /// What health and waiting hooks are told.
    pub(crate) fn status(&self, now: Time) -> Status {
        let current = self.current.as_ref();
        Status {
            end: current.and_then(Login::effective_end),
            rotate_at: current.and_then(|c| c.planned_rotation(now, self.max_ttl)),
            degraded: current.is_some_and(|c| c.terms.clipped || !c.proven)
                || self.rotation.as_ref().is_some_and(Rotation::in_trouble),
            dead: current.is_some_and(|c| c.dead || c.lost),
            source_ok: self.source_ok,
            sealed: self.sealed,
            last_error: self.last_error.clone(),
            draining: self.draining.iter().map(|d| (d.generation, d.deadline)).collect(),
            rotations: self.swaps.saturating_sub(1),
            renewals: self.renewals,
            refresh: Refresh {
                running: self.refresh_running(now),
                next: self.rotation.as_ref().and_then(|r| r.retry_at),
                seen: self.observations,
            },
            stopped: None,
        }
    }

    /// A rotation is under way, or waiting for its time.
    pub fn is_rotating(&self) -> bool {
        self.rotation.is_some()
    }

    /// A shutdown has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    fn emit(&mut self, event: Event) {
        self.out.push(Action::Emit(event));
    }

    fn warn(&mut self, message: impl Into<String>) {
        self.emit(Event::Warning { pool: None, message: message.into() });
    }

    fn attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    /// Logins whose leases are kept alive: the current one and those that drain.
    fn live(&self) -> impl Iterator<Item = &Login> {
        self.current.iter().chain(self.draining.iter().map(|d| &d.login))
    }

    fn login_mut(&mut self, id: LoginId) -> Option<&mut Login> {
        let rotation = self.rotation.iter_mut().filter_map(|r| r.candidate.as_mut());
        (self.current.iter_mut())
            .chain(self.draining.iter_mut().map(|d| &mut d.login))
            .chain(rotation)
            .chain(self.retiring.iter_mut().map(|r| &mut r.login))
            .find(|l| l.id == id)
    }

    /// The terms that retries go by before there is a lease.
    fn terms(&self) -> Terms {
        self.current.as_ref().map_or_else(|| self.policy.terms(None), |c| c.terms)
    }

    /// The source answered, well or not.
    fn heard(&mut self, now: Time, sent: Time, answer: Option<&SourceError>) {
        match answer {
            None => {
                self.answered = self.answered.max(sent);
                if !self.source_ok {
                    // Whatever kept us from minting is over: start with a full burst.
                    self.limiter.reset(now);
                    self.reads.reset(now);
                }
                (self.source_ok, self.sealed, self.last_error) = (true, false, None);
            }
            // Overtaken: one that was sent later has been answered well.
            Some(_) if sent < self.answered => {}
            Some(error) => {
                self.source_ok = !error.is_transient();
                self.sealed = error.kind() == ErrorKind::Sealed;
                self.last_error = Some((error.kind(), error.to_string(), now));
            }
        }
    }

    /// How long to wait after a failure of the source.
    fn pause_after(&mut self, error: &SourceError, failures: u32) -> Duration {
        let terms = self.terms();
        let cap = if error.is_transient() { terms.transient_cap() } else { terms.permanent_cap() };
        let pause = policy::backoff(&mut self.rng, failures, cap);
        pause.max(error.server_retry_after().unwrap_or_default())
    }

    /// The same for what has to succeed before `end`, or a login is lost: whatever the server
    /// wants, there are more tries before that.
    fn pause_before(
        &mut self,
        now: Time,
        end: Option<Time>,
        error: &SourceError,
        failures: u32,
    ) -> Duration {
        let pause = self.pause_after(error, failures);
        let own = self.terms().transient_cap();
        end.map_or(pause, |end| pause.min(own.max(now.until(end) / 4)))
    }

    fn renew_what_is_due(&mut self, now: Time) {
        let due: Vec<(LoginId, Duration)> = (self.live())
            .filter(|l| l.renewal.in_flight.is_none() && l.renewal.at.is_some_and(|at| at <= now))
            .filter_map(|l| Some((l.id, l.terms.ttl?)))
            .collect();
        for (id, increment) in due {
            let attempt = self.attempt();
            let Some(login) = self.login_mut(id) else {
                continue;
            };
            login.renewal.can_extend = !login.gone(now);
            login.renewal.in_flight = Some(attempt);
            login.renewal.at = None;
            // Never ask for less than is left: that would shorten the lease. It can't be the case
            // here, as a renewal is due only once a part of the TTL is gone.
            self.out.push(Action::Renew { login: id, attempt, increment });
        }
    }

    fn on_renewed(
        &mut self,
        now: Time,
        id: LoginId,
        attempt: u64,
        sent: Time,
        result: Result<Duration, SourceError>,
    ) {
        if self.soft_revoked(now, id, attempt, sent, &result) {
            return;
        }
        self.heard(now, sent, result.as_ref().err());
        let mut rng = self.rng.fork();
        let Some(login) = self.login_mut(id) else {
            return;
        };
        if login.renewal.in_flight != Some(attempt) {
            return;
        }
        login.renewal.in_flight = None;
        match result {
            Ok(granted) => self.on_granted(now, id, sent, granted),
            Err(error) => {
                login.renewal_failed(now, &error);
                login.renewal.failures += 1;
                let (generation, failures) =
                    (login.generation.unwrap_or(0), login.renewal.failures);
                let end = login.effective_end();
                let calm = login.renewal_pause(&mut rng, now);
                let kind = error.kind();
                let mut retry_in = None;
                match kind {
                    ErrorKind::LeaseLost => {
                        login.lost = true;
                        login.last = true;
                    }
                    _ if kind.is_transient() || kind == ErrorKind::TokenLost => {
                        // Inside the remaining life, and on through a running rotation: whichever
                        // works first. After the end the answer is "lease lost" at the latest.
                        let calm = if kind.is_transient() { calm } else { Duration::ZERO };
                        let pause = self.pause_before(now, end, &error, failures);
                        retry_in = Some(pause.max(calm));
                    }
                    // At its maximum TTL, or not allowed: rotated at its leeway instead. Rotating
                    // at once would gain nothing, since the login is good until then.
                    _ => login.last = true,
                }
                if let Some(login) = self.login_mut(id) {
                    login.renewal.at = retry_in.map(|pause| now + pause);
                }
                self.emit(Event::RenewFailed { generation, error, retry_in });
                let current = self.current.as_ref().is_some_and(|c| c.id == id);
                if kind == ErrorKind::LeaseLost && current {
                    self.want(Reason::LeaseLost);
                }
            }
        }
    }

    fn on_granted(&mut self, now: Time, id: LoginId, sent: Time, granted: Duration) {
        self.renewals += 1;
        let granted = granted.min(LONGEST);
        let mut rng = self.rng.fork();
        let max_ttl = self.max_ttl;
        let Some(login) = self.login_mut(id) else {
            return;
        };
        let asked = login.terms.ttl.unwrap_or(granted);
        let end = if broken!(CountsFromTheAnswer) { now } else { sent } + granted;
        login.end = Some(end);
        login.gone_by = Some(now + granted);
        login.renewal.failures = 0;
        // `renewable` never says so; the grant does. A second of slack, as TTLs are truncated.
        let short = granted + Duration::from_secs(1) <= asked;
        login.last |= short;
        // A grant may also be cut to the rest of the token's life: nothing learned from that.
        let by_token =
            login.parent.and_then(|p| p.ends).is_some_and(|t| t <= end + Duration::from_secs(2));
        let age = end - login.issued;
        let learned = match max_ttl {
            _ if by_token => max_ttl,
            _ if short => Some(age),
            // The role was given a longer maximum meanwhile.
            Some(max) if age > max + Duration::from_secs(1) => None,
            other => other,
        };
        login.plan_renewal(&mut rng, learned);
        let (generation, last) = (login.generation.unwrap_or(0), login.last);
        let draining = self.draining.iter_mut().find(|d| d.login.id == id);
        if let Some(draining) = draining.filter(|d| d.outlives_its_drain()) {
            draining.login.renewal.at = None;
        }
        self.max_ttl = learned;
        self.emit(Event::Renewed { generation, granted, last });
        self.forget_needless_rotation(now);
    }
}
