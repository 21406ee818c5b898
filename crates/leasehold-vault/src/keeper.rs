//! The session's one task: renews tokens, logs in anew before they end, and gives back those that
//! nobody needs any more.

use std::sync::Arc;
use std::time::Duration;

use leasehold::clock::{Clock, MAX_SLEEP, Time};
use leasehold::{ErrorKind, SourceError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::api::Api;
use crate::auth::AuthMethod;
use crate::classify::{Failure, Op};
use crate::endpoints::{AuthReply, LookupReply, LookupSelf, RenewSelf, RevokeSelf, whole_seconds};
use crate::epoch::Epoch;
use crate::schedule;
use crate::token::{Token, TokenGrant};
use crate::tracked::Tracked;

const RENEW_PATH: &str = "auth/token/renew-self";
const LOOKUP_PATH: &str = "auth/token/lookup-self";
const REVOKE_PATH: &str = "auth/token/revoke-self";

/// What a session is made of, apart from its tokens.
pub(crate) struct Parts {
    pub(crate) api: Api,
    pub(crate) clock: Clock,
    pub(crate) auth: Box<dyn AuthMethod>,
}

/// What callers tell the keeper.
pub(crate) enum Command {
    /// A call can't do with the current token: log in, if it can be done, and say how it went.
    Demand,
    /// The server called this epoch's token dead.
    Dead { number: u64 },
    /// The last hold on some epoch went.
    Released,
    /// Give everything back and end. Answers with what is left.
    Close(oneshot::Sender<Vec<String>>),
}

/// What callers see.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) epoch: Arc<Epoch>,
    pub(crate) ends: Option<Time>,
    pub(crate) renewing: bool,
    /// The server would take it.
    pub(crate) alive: bool,
    /// It is dead or about to end for good, and another can be had.
    pub(crate) wants_login: bool,
    /// Rises with each answer to a [`Command::Demand`].
    pub(crate) rounds: u64,
    /// Why the last login failed. `None` after a success.
    pub(crate) failure: Option<SourceError>,
    /// Older tokens that are kept for their leases.
    pub(crate) retired: usize,
    pub(crate) closed: bool,
}

impl Current {
    /// A token that is merely near its end is not lost while a login may still come.
    pub(crate) fn lost(&self) -> bool {
        let refused = self.failure.as_ref().is_some_and(|e| !e.is_transient());
        !self.alive || (self.wants_login && refused)
    }
}

/// The outcome of one request.
enum Done {
    Renewed { number: u64, asked_at: Time, result: Result<Duration, Failure> },
    LookedAt { number: u64, asked_at: Time, result: Result<Option<Duration>, Failure> },
    LoggedIn { asked_at: Time, result: Result<TokenGrant, SourceError> },
    GivenBack { number: u64, result: Result<(), SourceError> },
}

pub(crate) struct Keeper {
    parts: Arc<Parts>,
    commands: mpsc::UnboundedReceiver<Command>,
    to_self: mpsc::WeakUnboundedSender<Command>,
    seen: watch::Sender<Current>,
    /// The current token and the retired ones, oldest first.
    tokens: Vec<Tracked>,
    current: u64,
    login: Login,
    rounds: u64,
    jobs: JoinSet<Done>,
}

struct Login {
    busy: bool,
    /// Another token is there to be had, though the current one is fine.
    another: bool,
    /// The login under way was begun for that.
    for_another: bool,
    not_before: Time,
    last_end: Time,
    failures: u32,
    failure: Option<SourceError>,
    /// How long the server wants to be left alone, as far as that can be granted.
    wish: Duration,
}

impl Keeper {
    /// Takes over from the first login. The task is the caller's to spawn.
    pub(crate) fn new(
        parts: Arc<Parts>,
        asked_at: Time,
        grant: TokenGrant,
    ) -> (Self, mpsc::UnboundedSender<Command>, watch::Receiver<Current>) {
        let (to_keeper, commands) = mpsc::unbounded_channel();
        let to_self = to_keeper.downgrade();
        let first = Tracked::new(1, asked_at, grant, parts.auth.repeatable(), to_self.clone());
        let (seen, see) = watch::channel(Current {
            epoch: first.epoch.clone(),
            ends: first.ends,
            renewing: first.renewing(),
            alive: true,
            wants_login: false,
            rounds: 0,
            failure: None,
            retired: 0,
            closed: false,
        });
        let keeper = Self {
            parts,
            commands,
            to_self,
            seen,
            tokens: vec![first],
            current: 1,
            login: Login {
                busy: false,
                another: false,
                for_another: false,
                not_before: Time::ZERO,
                last_end: Time::ZERO,
                failures: 0,
                failure: None,
                wish: Duration::ZERO,
            },
            rounds: 0,
            jobs: JoinSet::new(),
        };
        (keeper, to_keeper, see)
    }

    /// Runs until the session is closed, or its last handle is dropped.
    pub(crate) async fn run(mut self) {
        let clock = self.parts.clock.clone();
        let parts = self.parts.clone();
        let mut changed = parts.auth.changed();
        loop {
            let now = clock.now();
            self.start_what_is_due(now);
            self.publish(now);
            let next = self.next_deadline(now);
            tokio::select! {
                Some(done) = self.jobs.join_next() => self.finish(joined(done)),
                command = self.commands.recv() => match command {
                    Some(Command::Close(answer)) => {
                        let left = self.give_everything_back().await;
                        let _ = answer.send(left);
                        return;
                    }
                    Some(command) => self.obey(command),
                    None => {
                        debug!("session dropped without being closed: its tokens end by their TTL");
                        return;
                    }
                },
                () = &mut changed => {
                    changed = parts.auth.changed();
                    info!(auth = parts.auth.describe(), "there is another token");
                    self.login.another = true;
                    self.login.not_before = clock.now();
                }
                () = clock.sleep_towards(next) => {}
            }
        }
    }

    fn token(&mut self, number: u64) -> Option<&mut Tracked> {
        self.tokens.iter_mut().find(|t| t.epoch.number == number)
    }

    fn wants_login(&self) -> bool {
        let current = self.tokens.iter().find(|t| t.epoch.number == self.current);
        self.parts.auth.repeatable() && current.is_none_or(|t| t.dead || t.spent)
    }

    fn may_log_in(&self) -> bool {
        (self.wants_login() || self.login.another) && !self.login.busy
    }

    fn start_what_is_due(&mut self, now: Time) {
        let current = self.current;
        for i in 0..self.tokens.len() {
            let token = &mut self.tokens[i];
            token.look_at_the_clock(now);
            if token.busy || token.act_at.is_none_or(|at| now < at) {
                continue;
            }
            if token.epoch.number == current || token.epoch.is_held() {
                if !token.dead {
                    self.renew(i, now);
                }
            } else if token.own && token.epoch.close_if_unheld() {
                self.give_back(i);
            }
        }
        if self.may_log_in() && now >= self.login.not_before {
            self.log_in(now);
        }
    }

    fn next_deadline(&self, now: Time) -> Time {
        let far = now + MAX_SLEEP;
        let tokens = self.tokens.iter().filter(|t| !t.busy).filter_map(Tracked::next);
        let login = self.may_log_in().then_some(self.login.not_before);
        tokens.chain(login).fold(far, Time::min)
    }

    fn renew(&mut self, i: usize, now: Time) {
        let parts = self.parts.clone();
        let token = &mut self.tokens[i];
        token.busy = true;
        let number = token.epoch.number;
        let secret = token.epoch.token.clone();
        let remaining = token.ends.map(|ends| now.until(ends));
        let timeout = schedule::renew_timeout(parts.api.request_timeout, remaining);
        if token.watched {
            self.jobs.spawn(async move {
                let asked_at = parts.clock.now();
                let result = look_at_token(&parts.api, &secret, timeout).await;
                Done::LookedAt { number, asked_at, result }
            });
            return;
        }
        // What it was granted at first, and never less than what is left: the server does shorten.
        let increment = token.increment.max(remaining.unwrap_or_default());
        let increment = whole_seconds(increment);
        self.jobs.spawn(async move {
            let asked_at = parts.clock.now();
            let result = renew_token(&parts.api, &secret, increment, timeout).await;
            Done::Renewed { number, asked_at, result }
        });
    }

    fn log_in(&mut self, now: Time) {
        self.login.busy = true;
        self.login.for_another = std::mem::take(&mut self.login.another);
        let parts = self.parts.clone();
        self.jobs.spawn(async move {
            let result = parts.auth.login(&parts.api).await;
            Done::LoggedIn { asked_at: now, result }
        });
    }

    fn give_back(&mut self, i: usize) {
        let parts = self.parts.clone();
        let token = &mut self.tokens[i];
        token.busy = true;
        let number = token.epoch.number;
        let secret = token.epoch.token.clone();
        self.jobs.spawn(async move {
            let result = revoke_token(&parts.api, &secret).await;
            Done::GivenBack { number, result }
        });
    }

    fn finish(&mut self, done: Done) {
        let now = self.parts.clock.now();
        match done {
            Done::Renewed { number, asked_at, result } => {
                if let Some(token) = self.token(number) {
                    token.renewed(now, asked_at, result);
                }
            }
            Done::LookedAt { number, asked_at, result } => {
                if let Some(token) = self.token(number) {
                    token.looked_at(now, asked_at, result);
                }
            }
            Done::LoggedIn { asked_at, result } => self.logged_in(now, asked_at, result),
            Done::GivenBack { number, result } => {
                if let Some(token) = self.token(number) {
                    token.given_back(now, result);
                }
            }
        }
    }

    fn logged_in(&mut self, now: Time, asked_at: Time, result: Result<TokenGrant, SourceError>) {
        self.rounds += 1;
        self.login.busy = false;
        self.login.last_end = now;
        match result {
            Ok(grant) => {
                let (current, ttl) = (self.current, grant.ttl);
                self.login.failures = 0;
                self.login.failure = None;
                self.login.not_before = now;
                if let Some(old) = self.token(current) {
                    if !old.dead && old.epoch.token == grant.token {
                        // The file was written anew with what was in it.
                        old.looked_at(now, asked_at, Ok(ttl));
                        return;
                    }
                    old.retire(now);
                }
                self.current += 1;
                let keeper = self.to_self.clone();
                let token = Tracked::new(self.current, asked_at, grant, true, keeper);
                self.tokens.push(token);
                info!(login = self.current, ?ttl, "logged in anew");
            }
            Err(e) => {
                self.login.failures += 1;
                self.login.another |= self.login.for_another;
                let ttl = self.tokens.last().and_then(|t| t.ttl);
                let left = self.tokens.last().filter(|t| !t.dead).and_then(|t| t.ends);
                let left = left.map(|ends| now.until(ends));
                let wish = e.server_retry_after().unwrap_or_default();
                self.login.wish = schedule::granted(wish, left);
                let wait = if e.is_transient() {
                    // Who needs it sooner says so.
                    let calm = left.zip(ttl).map_or(Duration::ZERO, |(left, ttl)| {
                        schedule::pace(self.login.failures, left, ttl, fastrand::f64())
                    });
                    schedule::backoff(self.login.failures, ttl, Some(self.login.wish)).max(calm)
                } else {
                    schedule::refused_backoff(self.login.failures)
                };
                self.login.not_before = now + wait;
                let news = self.login.failure.as_ref().map(SourceError::kind) != Some(e.kind());
                if news {
                    warn!(error = %e, kind = ?e.kind(), retry_in = ?wait, "login failed");
                } else {
                    debug!(error = %e, retry_in = ?wait, "login failed again");
                }
                // Whoever is told of it asked for something else, which was not done.
                self.login.failure = Some(e.before_issuing());
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Dead { number } => {
                let now = self.parts.clock.now();
                if let Some(token) = self.token(number)
                    && !token.dead
                {
                    warn!(login = number, "the server calls the token dead");
                    token.die(now);
                }
            }
            Command::Demand if self.wants_login() && !self.login.busy => {
                let now = self.parts.clock.now();
                let gap = self.login.failure.as_ref().map_or(Duration::ZERO, |e| {
                    let own = schedule::demand_gap(self.login.failures, !e.is_transient());
                    own.max(self.login.wish)
                });
                if now >= self.login.last_end + gap {
                    self.login.not_before = now;
                } else {
                    // Too soon after the last try: its outcome is the answer.
                    self.rounds += 1;
                }
            }
            // One is under way, whose outcome answers; or there is nothing to log in for, which
            // the caller sees as well.
            Command::Demand => {
                if !self.login.busy {
                    self.rounds += 1;
                }
            }
            Command::Released => {
                let now = self.parts.clock.now();
                let current = self.current;
                for token in &mut self.tokens {
                    if token.epoch.number != current && !token.epoch.is_held() {
                        token.act_at = Some(now);
                    }
                }
            }
            Command::Close(_) => unreachable!("handled where it arrives"),
        }
    }

    /// Revokes all tokens that are ours. Bounded: each request has its timeout, and repeats end
    /// at one timeout more.
    async fn give_everything_back(&mut self) -> Vec<String> {
        // A token that a login is about to get is ours too.
        while let Some(done) = self.jobs.join_next().await {
            self.finish(joined(done));
        }
        let clock = self.parts.clock.clone();
        let deadline = clock.now() + self.parts.api.request_timeout;
        let mut left = Vec::new();
        for mut token in std::mem::take(&mut self.tokens) {
            token.look_at_the_clock(clock.now());
            let result = self.give_back_at_last(&token, deadline).await;
            match result {
                Ok(()) => {
                    if token.own {
                        token.die(clock.now());
                    }
                    token.abandon();
                }
                Err(e) => {
                    left.push(token.left_behind(clock.now(), &e));
                    token.abandon();
                }
            }
        }
        info!(left = left.len(), "session closed");
        left
    }

    async fn give_back_at_last(&self, token: &Tracked, deadline: Time) -> Result<(), SourceError> {
        if !token.own || token.certainly_over(self.parts.clock.now()) {
            return Ok(());
        }
        if token.batch {
            let message = "batch tokens can't be revoked";
            return Err(SourceError::new(ErrorKind::NotRenewable, message));
        }
        let Parts { api, clock, .. } = &*self.parts;
        for tries in 1.. {
            let Err(e) = revoke_token(api, &token.epoch.token).await else {
                return Ok(());
            };
            let wait = schedule::backoff(tries, token.ttl, e.server_retry_after());
            let again = clock.now() + wait;
            if !e.is_transient() || again >= deadline {
                return Err(e);
            }
            clock.sleep_until(again).await;
        }
        unreachable!("the deadline comes first")
    }

    /// Lets callers and leases see where things stand, and drops the tokens that need nothing more.
    fn publish(&mut self, now: Time) {
        let current = self.current;
        let done = |t: &mut Tracked| !t.busy && t.epoch.number != current && t.is_done_with(now);
        let gone: Vec<_> = self.tokens.extract_if(.., done).collect();
        if let Some(token) = self.tokens.iter().find(|t| t.epoch.number == current) {
            let seen = Current {
                epoch: token.epoch.clone(),
                ends: token.ends,
                renewing: token.renewing(),
                alive: !token.dead,
                wants_login: self.wants_login(),
                rounds: self.rounds,
                failure: self.login.failure.clone(),
                retired: self.tokens.len() - 1,
                closed: false,
            };
            let Parts { api, clock, .. } = &*self.parts;
            api.meter.token(clock, seen.ends, seen.lost(), seen.retired);
            self.seen.send_replace(seen);
        }
        // Only now: a lease that is told to move finds the token to move to.
        for token in self.tokens.iter().chain(&gone) {
            token.publish();
        }
    }
}

impl Drop for Keeper {
    /// However the task ends, a panic included: nobody is left waiting for a renewal.
    fn drop(&mut self) {
        for token in &mut self.tokens {
            token.abandon();
        }
        // Of an end that was wanted nobody needs to be told.
        self.parts.api.meter.token(&self.parts.clock, None, std::thread::panicking(), 0);
        self.seen.send_modify(|seen| {
            seen.renewing = false;
            seen.closed = true;
        });
    }
}

async fn renew_token(
    api: &Api,
    token: &Token,
    increment: u64,
    timeout: Duration,
) -> Result<Duration, Failure> {
    let request = RenewSelf { increment };
    let reply = api.json(Op::TokenRenew, RENEW_PATH, request, Some(token), timeout);
    let AuthReply { auth } = reply.await?;
    Ok(Duration::from_secs(auth.lease_duration))
}

/// How long a token has left; `None` if it does not end.
async fn look_at_token(
    api: &Api,
    token: &Token,
    timeout: Duration,
) -> Result<Option<Duration>, Failure> {
    let reply = api.json(Op::TokenLookup, LOOKUP_PATH, LookupSelf {}, Some(token), timeout);
    let LookupReply { data } = reply.await?;
    Ok(data.left()?)
}

/// Succeeds for a token that is dead already.
async fn revoke_token(api: &Api, token: &Token) -> Result<(), SourceError> {
    let request = RevokeSelf {};
    let call = api.call(Op::TokenRevoke, REVOKE_PATH, request, Some(token), api.request_timeout);
    match call.await {
        Ok(_) | Err(Failure::TokenDead(_)) => Ok(()),
        Err(Failure::Refused(e)) => Err(e),
    }
}

/// A job that panicked takes the keeper with it, and `Drop` tells everybody.
fn joined(done: Result<Done, tokio::task::JoinError>) -> Done {
    match done {
        Ok(done) => done,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("jobs are never aborted while the keeper runs"),
        },
    }
}
