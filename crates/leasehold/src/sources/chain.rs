//! One source, else another.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{Instrument, debug, warn};

use crate::clock::{Clock, Time};
use crate::credential::{Issued, Lease};
use crate::detached::to_its_end;
use crate::source::{
    BoxFuture, CredentialSource, DynSource, ErrorKind, RevokeMode, SourceError, end_lease,
};

/// How long an answer may take, and how long issuing may fail while a login of the primary is in
/// use: a server that restarts is no reason to leave it. Less where leases are short.
const PATIENCE: Duration = Duration::from_secs(5);
/// Failures further apart are not one outage. Between two tries of a rotation lie 30 s at most.
const APART: Duration = Duration::from_secs(60);
/// Between tries to get back to the primary: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// At the end: for a request to be answered, and again for each login to be given back.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// How long after its end a lease of the fallback may still be asked about.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// "Vault, else the environment": asks the primary, and where it can't be had the fallback.
///
/// Which of them is in force is said in one warning at each change, and by
/// [`in_force`](Self::in_force) of a clone that was kept. While the fallback is in force the
/// primary is tried in the background, each second at first and each 30 s in the end, and pools
/// move back to it as soon as it has issued a login.
///
/// - Only a failed *issue* falls back. A renewal that fails is retried inside its lease, as always.
/// - At the start it falls back at once, and from a primary that does not answer after 5 s. Later
///   only after 5 s (or a tenth of the lease, if that is less) of failing or of no answer: until
///   then the login in use goes on.
/// - The primary is asked once at a time, by a task that nothing cuts off. A login that comes when
///   nobody waits any more is what pools move to next, or is given back.
/// - Only for what heals by itself: unreachable, timed out, throttled, sealed, failing. A primary
///   that *refuses* (denied, no such role, no valid token) is a decision, or a mistake that a
///   person has to see, and a fallback would be the way around it:
///   [`even_if_refused`](Self::even_if_refused) makes it one.
/// - Each lease is renewed and revoked by the source that made it.
/// - Closed, which a failed start does too, it issues nothing any more: make a new one.
///
/// ```no_run
/// # use leasehold::{Chain, CredentialSource, FnSource, InForce, Rotator, SourceError, StaticSource};
/// # async fn vault() -> Result<FnSource, SourceError> { Err(SourceError::unreachable("none")) }
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let fallback = StaticSource::from_env("PGUSER", "PGPASSWORD")?;
/// // Logging in to Vault can fail as well, so that it is part of the primary.
/// let chain = Chain::lazily("Vault", || async { vault().await }, fallback);
/// let rotator = Rotator::builder(chain.clone()).start().await?;
/// if chain.in_force() == InForce::Fallback {
///     eprintln!("running on the environment's login");
/// }
/// # drop(rotator); Ok(()) }
/// ```
#[derive(Clone)]
pub struct Chain {
    inner: Arc<Inner>,
    even_if_refused: bool,
    clock: Clock,
}

/// Which source of a [`Chain`] issued last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InForce {
    /// None yet.
    Neither,
    /// The first one.
    Primary,
    /// The second one.
    Fallback,
}

type Build = dyn Fn() -> BoxFuture<'static, Result<Arc<dyn DynSource>, SourceError>> + Send + Sync;

struct Inner {
    name: String,
    build: Box<Build>,
    fallback: Arc<dyn DynSource>,
    state: Mutex<State>,
    /// A receiver for each request to the fallback that is under way.
    fallback_asked: watch::Sender<()>,
}

struct State {
    /// Once it was built.
    primary: Option<Arc<dyn DynSource>>,
    in_force: InForce,
    attempt: Option<Attempt>,
    /// When the first and the last request to issue were sent that failed, while a login of the
    /// primary is in use.
    failing: Option<(Time, Time)>,
    patience: Duration,
    /// Leases of the fallback, and when each ends; all others are the primary's. One that was
    /// never revoked is forgotten some time after its end.
    of_fallback: HashMap<String, Option<Time>>,
    /// What the primary issued last, until somebody takes it, and when it was asked for.
    ready: Option<(Issued, Time)>,
    /// What nobody takes any more, until it is given back.
    unused: Vec<(Issued, Time)>,
    closed: bool,
    /// What a primary that was made too late could not give back.
    left: Vec<String>,
}

impl State {
    fn under_way(&self) -> Option<Attempt> {
        // One that panicked is over.
        self.attempt.clone().filter(|attempt| attempt.outcome.has_changed().is_ok())
    }
}

/// A request to the primary that is under way.
#[derive(Clone)]
struct Attempt {
    sent: Time,
    /// What came of it; a login is in `ready`. Closed without, it panicked.
    outcome: watch::Receiver<Option<Result<(), SourceError>>>,
}

impl Attempt {
    async fn ended(mut self) -> Result<(), SourceError> {
        match self.outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(SourceError::new(
                ErrorKind::Other,
                "the source panicked in issue; see the panic message on stderr",
            )),
        }
    }
}

impl Chain {
    /// `primary`, else `fallback`.
    #[must_use]
    pub fn new(primary: impl CredentialSource, fallback: impl CredentialSource) -> Self {
        let name = CredentialSource::describe(&primary);
        let primary: Arc<dyn DynSource> = Arc::new(primary);
        let again = primary.clone();
        let build = Box::new(move || -> BoxFuture<'static, _> {
            let primary = again.clone();
            Box::pin(async move { Ok(primary) })
        });
        Self::of(name, build, Some(primary), Arc::new(fallback))
    }

    /// A primary that first has to be made, which may fail: a login to Vault, say. `build` is
    /// called until it succeeds, and not again.
    #[must_use]
    pub fn lazily<F, Fut, S>(
        name: impl Into<String>,
        build: F,
        fallback: impl CredentialSource,
    ) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<S, SourceError>> + Send + 'static,
        S: CredentialSource,
    {
        let build = Box::new(move || -> BoxFuture<'static, _> {
            let made = build();
            Box::pin(async move { Ok(Arc::new(made.await?) as Arc<dyn DynSource>) })
        });
        Self::of(name.into(), build, None, Arc::new(fallback))
    }

    fn of(
        name: String,
        build: Box<Build>,
        primary: Option<Arc<dyn DynSource>>,
        fallback: Arc<dyn DynSource>,
    ) -> Self {
        let state = State {
            primary,
            in_force: InForce::Neither,
            attempt: None,
            failing: None,
            patience: PATIENCE,
            of_fallback: HashMap::new(),
            ready: None,
            unused: Vec::new(),
            closed: false,
            left: Vec::new(),
        };
        let (fallback_asked, _) = watch::channel(());
        let inner = Inner { name, build, fallback, state: Mutex::new(state), fallback_asked };
        Self { inner: Arc::new(inner), even_if_refused: false, clock: Clock::system() }
    }

    /// Falls back also where the primary refuses, and not only where it can't be had.
    #[must_use]
    pub fn even_if_refused(mut self) -> Self {
        self.even_if_refused = true;
        self
    }

    /// The clock to judge by; the rotator's. Default: [`Clock::system`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Which one issued last.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        self.state().in_force
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source that a lease has to be taken to, and whether that is the primary.
    fn maker(&self, lease: &Lease) -> Result<(Arc<dyn DynSource>, bool), SourceError> {
        let state = self.state();
        if lease.id.as_ref().is_some_and(|id| state.of_fallback.contains_key(id)) {
            return Ok((self.inner.fallback.clone(), false));
        }
        let primary = state.primary.clone().map(|primary| (primary, true));
        let stranger = || format!("this lease is not one of {}", self.inner.name);
        primary.ok_or_else(|| SourceError::new(ErrorKind::Other, stranger()))
    }

    /// Asks the primary, unless that is under way. Not cut off with us: a request to mint never is.
    fn attempt(&self) -> Result<Attempt, SourceError> {
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        if let Some(attempt) = state.under_way() {
            return Ok(attempt);
        }
        let (tell, outcome) = watch::channel(None);
        let sent = self.clock.now();
        let attempt = Attempt { sent, outcome };
        state.attempt = Some(attempt.clone());
        let chain = self.clone();
        let ask = async move {
            let asked = chain.ask_primary().await;
            let issued = asked.is_ok();
            tell.send_replace(Some(chain.answered(asked, sent)));
            if issued {
                chain.tidy().await;
            }
        };
        tokio::spawn(ask.in_current_span());
        Ok(attempt)
    }

    async fn ask_primary(&self) -> Result<Issued, SourceError> {
        let primary = self.state().primary.clone();
        if let Some(primary) = primary {
            return primary.issue().await;
        }
        let built = (self.inner.build)().await?;
        let in_time = {
            let mut state = self.state();
            if !state.closed {
                state.primary = Some(built.clone());
            }
            !state.closed
        };
        if in_time {
            return built.issue().await;
        }
        // Nobody else knows of it, and maybe nobody waits for what is left.
        let left = built.close().await;
        for line in &left {
            warn!(target: "leasehold", "{line}");
        }
        self.state().left.extend(left);
        Err(closed())
    }

    /// Not cut off either; what comes late is given back.
    async fn ask_fallback(&self) -> Result<Issued, SourceError> {
        let (fallback, to) = (self.inner.fallback.clone(), self.inner.fallback.clone());
        // Until somebody has what it brings, or it is given back.
        let under_way = self.inner.fallback_asked.subscribe();
        let give_back = async move |late: Issued| {
            let _under_way = under_way;
            if late.lease.id.is_some()
                && let Err(error) = end_lease(&*to, &late.lease).await
            {
                let user = late.credential.username();
                warn!(target: "leasehold", "late credential {user} not revoked: {error}");
            }
        };
        to_its_end(async move { fallback.issue().await }, give_back).await
    }

    fn answered(&self, asked: Result<Issued, SourceError>, sent: Time) -> Result<(), SourceError> {
        let mut state = self.state();
        state.attempt = None;
        let unused = match (asked, state.closed) {
            (Ok(issued), false) => state.ready.replace((issued, sent)),
            (Ok(issued), true) => Some((issued, sent)),
            (Err(error), _) => {
                debug!(target: "leasehold", "{} fails: {error}", self.inner.name);
                return Err(error);
            }
        };
        state.unused.extend(unused);
        Ok(())
    }

    /// A login of the primary, or why there is none and when it was asked for.
    async fn primary_login(&self) -> Result<Issued, (SourceError, Time)> {
        let asked = self.clock.now();
        loop {
            if let Some(issued) = self.ready(asked) {
                return Ok(issued);
            }
            let attempt = self.attempt().map_err(|error| (error, asked))?;
            let (sent, patience) = (attempt.sent, self.state().patience);
            let left = patience.saturating_sub(self.clock.now() - sent);
            match timeout(left, attempt.ended()).await {
                // It is ready, unless somebody was faster.
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err((error, sent)),
                Err(_) => {
                    let message = format!("no answer from {} in {patience:.1?}", self.inner.name);
                    return Err((SourceError::new(ErrorKind::Timeout, message), sent));
                }
            }
        }
    }

    /// What the primary issued, if it is good for some time yet. Who asked counts its time from
    /// `asked`, while it has to be counted from when the primary was.
    fn ready(&self, asked: Time) -> Option<Issued> {
        let mut state = self.state();
        let (mut issued, sent) = state.ready.take()?;
        if let Some(ttl) = issued.lease.ttl {
            let left = ttl.saturating_sub(asked - sent);
            if left < ttl / 2 {
                state.unused.push((issued, sent));
                return None;
            }
            issued.lease.ttl = Some(left);
        }
        Some(issued)
    }

    /// Gives back what nobody took. What can't be given back is said, and tried again next time.
    async fn tidy(&self) -> Vec<String> {
        let unused: Vec<_> = {
            let mut state = self.state();
            let now = self.clock.now();
            let over = |ttl: Option<Duration>, sent| ttl.is_some_and(|ttl| now - sent >= ttl);
            state.unused.retain(|(i, sent)| i.lease.id.is_some() && !over(i.lease.ttl, *sent));
            let each = state.unused.iter();
            each.map(|(i, _)| (i.lease.clone(), i.credential.username().to_owned())).collect()
        };
        let mut left = Vec::new();
        for (lease, user) in unused {
            let late = || Err(SourceError::new(ErrorKind::Timeout, "no answer in time"));
            match timeout(LAST_WAIT, self.give_back(&lease)).await.unwrap_or_else(|_| late()) {
                Ok(()) => self.state().unused.retain(|(issued, _)| issued.lease.id != lease.id),
                Err(error) => {
                    warn!(target: "leasehold", "unused credential {user} not revoked: {error}");
                    left.push(format!("unused credential {user}: {error}; it ends by its TTL"));
                }
            }
        }
        left
    }

    async fn give_back(&self, lease: &Lease) -> Result<(), SourceError> {
        let (primary, _) = self.maker(lease)?;
        end_lease(&*primary, lease).await
    }

    fn on_primary(&self, issued: &Issued) {
        let before = {
            let mut state = self.state();
            state.failing = None;
            state.patience = issued.lease.ttl.map_or(PATIENCE, |ttl| PATIENCE.min(ttl / 10));
            std::mem::replace(&mut state.in_force, InForce::Primary)
        };
        if before == InForce::Fallback {
            let (name, fallback) = (&self.inner.name, self.inner.fallback.describe());
            warn!(target: "leasehold", "{name} is in force again, in place of {fallback}");
        }
    }

    fn on_fallback(&self, issued: &Issued, why: &SourceError) {
        let before = {
            let mut state = self.state();
            let now = self.clock.now();
            state.of_fallback.retain(|_, end| end.is_none_or(|end| now < end + FORGOTTEN));
            if let Some(id) = &issued.lease.id {
                state.of_fallback.insert(id.clone(), issued.lease.ttl.map(|ttl| now + ttl));
            }
            std::mem::replace(&mut state.in_force, InForce::Fallback)
        };
        if before != InForce::Fallback {
            let (name, fallback) = (&self.inner.name, self.inner.fallback.describe());
            warn!(
                target: "leasehold",
                "{fallback} is in force, since {name} can't be had ({why}); it is tried again"
            );
        }
    }

    fn may_fall_back(&self, error: &SourceError, sent: Time) -> bool {
        if !(error.is_transient() || self.even_if_refused) {
            return false;
        }
        let mut state = self.state();
        if state.closed {
            return false;
        }
        if state.in_force != InForce::Primary {
            return true;
        }
        let before = state.failing.filter(|(_, last)| sent - *last <= APART);
        let since = before.map_or(sent, |(first, _)| first);
        state.failing = Some((since, sent));
        self.clock.now() - since >= state.patience
    }

    /// Waits for a login of the primary that nobody takes. While the fallback is in force the
    /// primary is asked until there is one.
    async fn primary_back(&self) {
        let (mut pause, most) = RETRY;
        loop {
            let under_way = self.state().under_way();
            if let Some(attempt) = under_way {
                // Failures are told by the task.
                let _ = attempt.ended().await;
            }
            if self.state().ready.is_some() {
                return;
            }
            if self.in_force() != InForce::Fallback {
                return std::future::pending().await;
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = most.min(pause * 2);
            if self.attempt().is_err() {
                // Closed.
                return std::future::pending().await;
            }
        }
    }
}

fn closed() -> SourceError {
    SourceError::new(ErrorKind::Other, "the chain is closed")
}

impl CredentialSource for Chain {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let error = match self.primary_login().await {
            Ok(issued) => {
                self.on_primary(&issued);
                return Ok(issued);
            }
            Err((error, sent)) if self.may_fall_back(&error, sent) => error,
            Err((error, _)) => return Err(error),
        };
        match self.ask_fallback().await {
            Ok(issued) => {
                self.on_fallback(&issued, &error);
                Ok(issued)
            }
            Err(second) => {
                let message = format!("{error}; and the fallback: {second}");
                // Either may have left a login of which nobody knows.
                let issued = error.may_have_issued() || second.may_have_issued();
                let both = SourceError::new(error.kind(), message).issuing(issued);
                Err(match error.server_retry_after() {
                    Some(after) => both.retry_after(after),
                    None => both,
                })
            }
        }
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        let (maker, is_primary) = self.maker(lease)?;
        let granted = maker.renew(lease, increment).await?;
        let mut state = self.state();
        if is_primary {
            state.failing = None;
        } else if let Some(end) = lease.id.as_ref().and_then(|id| state.of_fallback.get_mut(id)) {
            *end = Some(self.clock.now() + granted);
        }
        drop(state);
        Ok(granted)
    }

    async fn revoke(&self, lease: &Lease, mode: RevokeMode) -> Result<(), SourceError> {
        self.maker(lease)?.0.revoke(lease, mode).await?;
        if let Some(id) = &lease.id {
            self.state().of_fallback.remove(id);
        }
        Ok(())
    }

    async fn changed(&self) {
        let (in_force, primary) = {
            let state = self.state();
            (state.in_force, state.primary.clone())
        };
        let news = async {
            match (in_force, primary) {
                (InForce::Primary, Some(primary)) => primary.changed().await,
                (InForce::Fallback, _) => self.inner.fallback.changed().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = news => {}
            () = self.primary_back() => {}
        }
    }

    async fn close(&self) -> Vec<String> {
        let under_way = {
            let mut state = self.state();
            state.closed = true;
            let ready = state.ready.take();
            state.unused.extend(ready);
            state.under_way()
        };
        let primary = async {
            if let Some(attempt) = under_way {
                // Failures are told by the task.
                let _ = attempt.ended().await;
            }
        };
        let fallback = self.inner.fallback_asked.closed();
        let (primary, fallback) =
            tokio::join!(timeout(LAST_WAIT, primary), timeout(LAST_WAIT, fallback));
        let asked =
            [(primary, self.inner.name.clone()), (fallback, self.inner.fallback.describe())];
        let unanswered = asked.into_iter().filter(|(answer, _)| answer.is_err());
        let mut left: Vec<String> = unanswered
            .map(|(_, name)| {
                format!(
                    "a request to {name} was not answered; a late credential is given back if \
                     this process still runs"
                )
            })
            .collect();
        left.extend(self.tidy().await);
        // What keeps a token alive goes before the source is asked to give it back.
        let primary = {
            let mut state = self.state();
            state.unused.clear();
            left.append(&mut state.left);
            state.primary.clone()
        };
        left.extend(self.inner.fallback.close().await);
        if let Some(primary) = primary {
            left.extend(primary.close().await);
        }
        left
    }

    fn describe(&self) -> String {
        format!("{}, else {}", self.inner.name, self.inner.fallback.describe())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("primary", &self.inner.name)
            .field("fallback", &self.inner.fallback)
            .field("in_force", &self.in_force())
            .finish_non_exhaustive()
    }
}
