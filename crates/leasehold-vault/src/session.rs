//! An authenticated client that keeps itself authenticated.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use leasehold::clock::{Clock, Time};
use leasehold::{ErrorKind, SourceError};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info};

use crate::api::Api;
use crate::auth::Auth;
use crate::calls::CallCounts;
use crate::classify::Failure;
use crate::config::VaultConfig;
use crate::dynamic::DynamicRole;
use crate::epoch::Hold;
use crate::health::{self, VaultHealth};
use crate::keeper::{Command, Current, Keeper, Parts};
use crate::kv::KvSecret;
use crate::mint_time;
use crate::static_role::StaticRole;
use crate::token::Token;

/// An authenticated, self-renewing client of one server. Clones share it.
///
/// One background task, on the runtime that [`login`](Session::login) was called on, renews the
/// token at a third of its life or sooner, logs in anew before the token's end can no longer be
/// moved, and keeps the old token alive until the last lease that was made with it is gone. It
/// ends with [`close`](Session::close), or when the last clone (sources hold one each) is dropped;
/// the tokens then end by their TTL.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    parts: Arc<Parts>,
    keeper: mpsc::UnboundedSender<Command>,
    seen: watch::Receiver<Current>,
    sources: AtomicUsize,
}

/// The session's token, for health pages.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenState {
    /// Which login it came from; the first is 1.
    pub login: u64,
    /// Time to its end. `None`: it does not end.
    pub remaining: Option<Duration>,
    /// Its end is expected to move: the session renews it, or whoever writes the file that it is
    /// from.
    pub renewing: bool,
    /// The token is dead, or about to end, and there is no other to be had for now: why. Renewing
    /// and logging in go on being tried.
    pub lost: Option<String>,
    /// Older tokens that are kept until the leases made with them are gone.
    pub retired: usize,
}

impl Session {
    /// Logs in, and spawns the task that keeps the session alive.
    ///
    /// Dropping this future does not leave a token behind: the login runs to its end, and what it
    /// brings is given back.
    ///
    /// # Errors
    /// A setting that can't be worked with, a server that can't be reached, a login that is
    /// refused, a token that is limited in its uses.
    pub async fn login(config: VaultConfig, auth: Auth) -> Result<Self, SourceError> {
        let auth = auth.into_method();
        let api = Api::new(&config, Some(&auth.describe()))?;
        auth.check()?;
        let parts = Arc::new(Parts { api, clock: config.clock, auth });
        let (answer, outcome) = oneshot::channel();
        tokio::spawn(async move {
            let result = Self::log_in(parts).await;
            if let Err(Ok(unwanted)) = answer.send(result) {
                unwanted.close().await;
            }
        });
        let gone = |_| SourceError::new(ErrorKind::Other, "the runtime ended during the login");
        outcome.await.map_err(gone)?
    }

    async fn log_in(parts: Arc<Parts>) -> Result<Self, SourceError> {
        let asked_at = parts.clock.now();
        let grant = parts.auth.login(&parts.api).await?;
        info!(
            address = parts.api.address(),
            auth = parts.auth.describe(),
            ttl = ?grant.ttl,
            renewable = grant.renewable,
            "logged in"
        );
        let (keeper, to_keeper, seen) = Keeper::new(parts.clone(), asked_at, grant);
        tokio::spawn(keeper.run());
        Ok(Self(Arc::new(Inner { parts, keeper: to_keeper, seen, sources: AtomicUsize::new(0) })))
    }

    /// A source of logins of the dynamic role `role`, of the database engine mounted at `mount`.
    ///
    /// Sources share the session. When the last one is closed (a rotator does that at the end of
    /// its shutdown) the session is closed too; make all sources before that.
    #[must_use]
    pub fn dynamic_role(&self, mount: impl AsRef<str>, role: impl AsRef<str>) -> DynamicRole {
        DynamicRole::new(self.clone(), mount.as_ref(), role.as_ref())
    }

    /// A source of the login of the static role `role`, of the database engine mounted at `mount`.
    #[must_use]
    pub fn static_role(&self, mount: impl AsRef<str>, role: impl AsRef<str>) -> StaticRole {
        StaticRole::new(self.clone(), mount.as_ref(), role.as_ref())
    }

    /// A source of the login in the secret at `path`, of the KV engine version 1 mounted at
    /// `mount`.
    #[must_use]
    pub fn kv1(&self, mount: impl AsRef<str>, path: impl AsRef<str>) -> KvSecret {
        KvSecret::new(self.clone(), 1, mount.as_ref(), path.as_ref())
    }

    /// A source of the login in the secret at `path`, of the KV engine version 2 mounted at
    /// `mount`. `path` is without the `data/` of the API.
    #[must_use]
    pub fn kv2(&self, mount: impl AsRef<str>, path: impl AsRef<str>) -> KvSecret {
        KvSecret::new(self.clone(), 2, mount.as_ref(), path.as_ref())
    }

    /// The clock that tokens are judged on.
    pub(crate) fn clock(&self) -> &Clock {
        &self.0.parts.clock
    }

    /// Asks the server how it is. Never fails: not being reachable is an answer too. Takes 2 s at
    /// most.
    pub async fn health(&self) -> VaultHealth {
        health::ask(&self.0.parts.api).await
    }

    /// How many requests this session has sent.
    #[must_use]
    pub fn calls(&self) -> CallCounts {
        self.0.parts.api.counts()
    }

    /// How the session's token stands. Holds no secret.
    #[must_use]
    pub fn token_state(&self) -> TokenState {
        let seen = self.0.seen.borrow().clone();
        let now = self.0.parts.clock.now();
        let ended = seen.closed.then(|| "the session is closed".to_owned());
        let why = || match &seen.failure {
            Some(e) => e.to_string(),
            None => "the token is not valid any more".to_owned(),
        };
        TokenState {
            login: seen.epoch.number,
            remaining: seen.ends.map(|ends| now.until(ends)),
            renewing: seen.renewing,
            lost: ended.or_else(|| seen.lost().then(why)),
            retired: seen.retired,
        }
    }

    /// Ends the session: stops its task and revokes the tokens that it logged in for, never one
    /// that was given. Bounded by a few request timeouts. Returns what could not be given back, a
    /// line each. Nothing the second time.
    pub async fn close(&self) -> Vec<String> {
        let (answer, left) = oneshot::channel();
        if self.0.keeper.send(Command::Close(answer)).is_err() {
            return Vec::new();
        }
        // An error: somebody else's close came first, or the runtime is gone with the task.
        left.await.unwrap_or_default()
    }

    pub(crate) fn api(&self) -> &Api {
        &self.0.parts.api
    }

    /// Whether there is a way to another token once this one has ended.
    pub(crate) fn can_log_in_anew(&self) -> bool {
        self.0.parts.auth.repeatable()
    }

    pub(crate) fn source_made(&self) {
        self.0.sources.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether that was the last one.
    pub(crate) fn source_gone(&self) -> bool {
        self.0.sources.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Makes a call with a token that is worth issuing with: one whose end can still be moved, or
    /// a fresh one. The hold goes to the lease that comes of it. All waits for a token together end
    /// at `until`, and no call is made later; a login goes on whoever waits for it.
    pub(crate) async fn issue_with<T, F>(
        &self,
        until: Option<Time>,
        call: impl Fn(Token) -> F,
    ) -> Result<(T, Hold), SourceError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let hold = self.token_by(until, |seen| seen.alive && !seen.wants_login).await?;
        self.call_with(hold, until, call).await
    }

    /// Makes a call with any live token: renewing and revoking need the right, not the token that
    /// made the lease.
    pub(crate) async fn manage_with<T, F>(
        &self,
        call: impl Fn(Token) -> F,
    ) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let hold = self.token_for(|seen| seen.alive).await?;
        let (done, _) = self.call_with(hold, None, call).await?;
        Ok(done)
    }

    /// Makes the call and, should the token prove dead, once more with the next one, unless that
    /// would be later than `until`.
    async fn call_with<T, F>(
        &self,
        hold: Hold,
        until: Option<Time>,
        call: impl Fn(Token) -> F,
    ) -> Result<(T, Hold), SourceError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let number = hold.epoch().number;
        let dead = match call(hold.epoch().token.clone()).await {
            Ok(done) => return Ok((done, hold)),
            Err(Failure::Refused(e)) => return Err(e),
            Err(Failure::TokenDead(e)) => e,
        };
        debug!(login = number, error = %dead, "a call found the token dead");
        let _ = self.0.keeper.send(Command::Dead { number });
        if until.is_some_and(|until| self.clock().now() >= until) {
            // Where there is another to be had, that is what heals it.
            let heals = self.can_log_in_anew();
            return Err(if heals { still_logging_in() } else { dead.before_issuing() });
        }
        let anew = |seen: &Current| seen.alive && seen.epoch.number > number;
        let next = self.token_by(until, anew).await?;
        match call(next.epoch().token.clone()).await {
            Ok(done) => Ok((done, next)),
            Err(Failure::Refused(e)) => Err(e),
            Err(Failure::TokenDead(e)) => Err(e.before_issuing()),
        }
    }

    /// As [`token_for`](Self::token_for), and not for longer than `until`.
    async fn token_by(
        &self,
        until: Option<Time>,
        will_do: impl Fn(&Current) -> bool,
    ) -> Result<Hold, SourceError> {
        let wait = self.token_for(will_do);
        match until {
            Some(until) => mint_time::by(self.clock(), until, wait, still_logging_in).await,
            None => wait.await,
        }
    }

    /// The current token if it `will_do`, else the one that the keeper logs in for. All callers
    /// share that login.
    async fn token_for(&self, will_do: impl Fn(&Current) -> bool) -> Result<Hold, SourceError> {
        let mut seen = self.0.seen.clone();
        let mut asked_in_round = None;
        loop {
            let now = seen.borrow_and_update().clone();
            if now.closed {
                return Err(lost("the session is closed: log in again for another", None));
            }
            if will_do(&now) {
                if let Some(hold) = now.epoch.hold() {
                    return Ok(hold);
                }
                // Retired and on its way back since we looked: the next one is about to be seen.
            } else if asked_in_round.is_some_and(|round| now.rounds > round) {
                return Err(no_other(&now));
            } else if asked_in_round.is_none() {
                asked_in_round = Some(now.rounds);
                let _ = self.0.keeper.send(Command::Demand);
            }
            if seen.changed().await.is_err() {
                return Err(lost("the session's task has ended: log in again", None));
            }
        }
    }
}

/// The session gets there without whoever hears this.
fn still_logging_in() -> SourceError {
    let message = "the session is still logging in for another token: ask again later";
    SourceError::new(ErrorKind::Timeout, message).before_issuing()
}

/// Why there is no token. What heals by itself stays what it is; for the rest a person is needed.
fn no_other(seen: &Current) -> SourceError {
    match &seen.failure {
        Some(e) if e.is_transient() => e.clone(),
        Some(e) => lost("the token is at its end, and logging in anew is refused", Some(e)),
        None => lost(
            "the token is not valid any more, and there is no way to log in for another: give a \
             new one",
            None,
        ),
    }
}

fn lost(message: &str, cause: Option<&SourceError>) -> SourceError {
    match cause {
        Some(e) => SourceError::new(ErrorKind::TokenLost, format!("{message}: {e}")),
        None => SourceError::new(ErrorKind::TokenLost, message),
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("address", &self.0.parts.api.address())
            .field("auth", &self.0.parts.auth.describe())
            .field("token", &self.token_state())
            .finish_non_exhaustive()
    }
}
