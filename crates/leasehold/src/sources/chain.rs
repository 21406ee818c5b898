//! One source, else another.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, warn};

use crate::clock::{Clock, Time};
use crate::credential::{Issued, Lease};
use crate::source::{BoxFuture, CredentialSource, DynSource, RevokeMode, SourceError};

/// How long issuing may fail while a login of the primary is in use: a server that restarts is no
/// reason to leave it. Less where leases are short.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between tries to get back to the primary: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// "Vault, else the environment": asks the primary, and where it can't be had the fallback.
///
/// Which of them is in force is said in one warning at each change, and by
/// [`in_force`](Self::in_force) of a clone that was kept. While the fallback is in force the
/// primary is tried in the background, each second at first and each 30 s in the end, and pools
/// move back to it as soon as it has issued a login.
///
/// - Only a failed *issue* falls back. A renewal that fails is retried inside its lease, as always.
/// - At the start it falls back at once. Later only after 5 s (or a tenth of the lease, if that is
///   less) of failing: until then the login in use goes on.
/// - Only for what heals by itself: unreachable, timed out, throttled, sealed, failing. A primary
///   that *refuses* (denied, no such role, no valid token) is a decision, or a mistake that a
///   person has to see, and a fallback would be the way around it:
///   [`even_if_refused`](Self::even_if_refused) makes it one.
/// - Each lease is renewed and revoked by the source that made it.
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
    /// Once it was built. Locked while it is.
    primary: tokio::sync::Mutex<Option<Arc<dyn DynSource>>>,
    fallback: Arc<dyn DynSource>,
    state: Mutex<State>,
}

struct State {
    in_force: InForce,
    /// Since when issuing fails, while a login of the primary is in use.
    failing: Option<Time>,
    patience: Duration,
    /// All other leases are the primary's.
    of_fallback: HashSet<String>,
    /// A login of the primary that came while the fallback was in force, and when it was asked for.
    ready: Option<(Issued, Time)>,
    closed: bool,
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
            in_force: InForce::Neither,
            failing: None,
            patience: PATIENCE,
            of_fallback: HashSet::new(),
            ready: None,
            closed: false,
        };
        let primary = tokio::sync::Mutex::new(primary);
        let inner = Inner { name, build, primary, fallback, state: Mutex::new(state) };
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

    async fn primary(&self) -> Result<Arc<dyn DynSource>, SourceError> {
        let mut primary = self.inner.primary.lock().await;
        if let Some(primary) = &*primary {
            return Ok(primary.clone());
        }
        let built = (self.inner.build)().await?;
        Ok(primary.insert(built).clone())
    }

    /// The source that a lease has to be taken to.
    async fn maker(&self, lease: &Lease) -> Result<Arc<dyn DynSource>, SourceError> {
        let of_fallback = lease.id.as_ref().is_some_and(|id| self.state().of_fallback.contains(id));
        if of_fallback { Ok(self.inner.fallback.clone()) } else { self.primary().await }
    }

    /// A login of the primary that came in the background, if it is good for some time yet.
    async fn ready(&self) -> Option<Issued> {
        let (mut issued, sent) = self.state().ready.take()?;
        let Some(ttl) = issued.lease.ttl else {
            return Some(issued);
        };
        // Its time has to be counted from when it was asked for.
        let left = ttl.saturating_sub(self.clock.now() - sent);
        if left >= ttl / 2 {
            issued.lease.ttl = Some(left);
            return Some(issued);
        }
        self.give_back(&issued).await;
        None
    }

    async fn give_back(&self, issued: &Issued) {
        if issued.lease.id.is_none() {
            return;
        }
        let revoked = match self.primary().await {
            Ok(primary) => primary.revoke(&issued.lease, RevokeMode::Sync).await,
            Err(error) => Err(error),
        };
        if let Err(error) = revoked {
            let user = issued.credential.username();
            warn!(target: "leasehold", "unused credential {user} not revoked: {error}");
        }
    }

    async fn ask_primary(&self) -> Result<Issued, SourceError> {
        self.primary().await?.issue().await
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
            state.of_fallback.extend(issued.lease.id.clone());
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

    fn may_fall_back(&self, error: &SourceError) -> bool {
        if !(error.is_transient() || self.even_if_refused) {
            return false;
        }
        let now = self.clock.now();
        let mut state = self.state();
        if state.in_force != InForce::Primary {
            return true;
        }
        let since = *state.failing.get_or_insert(now);
        now - since >= state.patience
    }

    /// Tries the primary in the background until it has issued a login, which is then ready.
    async fn primary_back(&self) {
        let (mut pause, most) = RETRY;
        while self.state().ready.is_none() {
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = most.min(pause * 2);
            let chain = self.clone();
            // Not cut off with us: a request to mint never is.
            let attempt = tokio::spawn(async move { chain.try_primary().await });
            let _ = attempt.await;
        }
    }

    async fn try_primary(&self) {
        let sent = self.clock.now();
        match self.ask_primary().await {
            Ok(issued) => {
                let unwanted = {
                    let mut state = self.state();
                    let wanted = !state.closed && state.in_force == InForce::Fallback;
                    if wanted { state.ready.replace((issued, sent)) } else { Some((issued, sent)) }
                };
                if let Some((issued, _)) = unwanted {
                    self.give_back(&issued).await;
                }
            }
            Err(error) => debug!(target: "leasehold", "{} still fails: {error}", self.inner.name),
        }
    }
}

impl CredentialSource for Chain {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let first = match self.ready().await {
            Some(issued) => Ok(issued),
            None => self.ask_primary().await,
        };
        let error = match first {
            Ok(issued) => {
                self.on_primary(&issued);
                return Ok(issued);
            }
            Err(error) if self.may_fall_back(&error) => error,
            Err(error) => return Err(error),
        };
        match self.inner.fallback.issue().await {
            Ok(issued) => {
                self.on_fallback(&issued, &error);
                Ok(issued)
            }
            Err(second) => {
                let message = format!("{error}; and the fallback: {second}");
                let both = SourceError::new(error.kind(), message);
                Err(match error.server_retry_after() {
                    Some(after) => both.retry_after(after),
                    None => both,
                })
            }
        }
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        self.maker(lease).await?.renew(lease, increment).await
    }

    async fn revoke(&self, lease: &Lease, mode: RevokeMode) -> Result<(), SourceError> {
        self.maker(lease).await?.revoke(lease, mode).await?;
        if let Some(id) = &lease.id {
            self.state().of_fallback.remove(id);
        }
        Ok(())
    }

    async fn changed(&self) {
        match self.in_force() {
            InForce::Neither => std::future::pending().await,
            InForce::Primary => match self.primary().await {
                Ok(primary) => primary.changed().await,
                Err(_) => std::future::pending().await,
            },
            InForce::Fallback => tokio::select! {
                () = self.inner.fallback.changed() => {}
                () = self.primary_back() => {}
            },
        }
    }

    async fn close(&self) -> Vec<String> {
        let ready = {
            let mut state = self.state();
            state.closed = true;
            state.ready.take()
        };
        if let Some((issued, _)) = ready {
            self.give_back(&issued).await;
        }
        let mut left = self.inner.fallback.close().await;
        // Waits for one that is being made: it has to be closed too.
        if let Some(primary) = &*self.inner.primary.lock().await {
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
