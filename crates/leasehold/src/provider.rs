//! What pools and applications read.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{broadcast, mpsc, watch};

use crate::clock::Clock;
use crate::credential::Parent;
use crate::event::{Channel, Event};
use crate::generation::Generation;
use crate::health::{DrainHealth, Health, HealthState, LastError, PoolHealth, Status};
use crate::hook::ManagedPool;
use crate::told::Told;

/// Reads the current generation, and tells the rotator what was seen of it. Cheap to clone; every
/// method but those that say so is synchronous and waits for nothing.
///
/// A provider goes on after its [`Rotator`](crate::Rotator) is gone: it then serves the last
/// credential, and [`health`](Self::health) says so.
#[derive(Clone)]
pub struct CredentialProvider {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) current: ArcSwap<Generation>,
    pub(crate) swapped: watch::Sender<Arc<Generation>>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) events: Channel,
    /// Hands an event to the driver, which tells everybody in order.
    pub(crate) emit: Box<dyn Fn(Event) + Send + Sync>,
    pub(crate) pools: Mutex<Pools>,
    pub(crate) observations: mpsc::Sender<Observed>,
    pub(crate) clock: Clock,
    pub(crate) refresh_wait: Duration,
    /// By kind of observation.
    pub(crate) told: [Told; 3],
    /// The tokens of leases that were left to their TTL: kept while anybody reads.
    pub(crate) kept: Mutex<Vec<Parent>>,
}

impl Shared {
    /// The next one who sees this of `generation` is heard, though it was told before.
    pub(crate) fn hear_again(&self, generation: u64, what: Observation) {
        self.told[what as usize].again(generation);
    }
}

/// Pools under the swap lock: whoever holds it sees no swap.
#[derive(Default)]
pub(crate) struct Pools {
    pub(crate) attached: Vec<Arc<dyn ManagedPool>>,
    /// No pool is taken any more: the rotator is shutting down or gone.
    pub(crate) closed: bool,
}

/// What a reader noticed about a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub))]
#[cfg_attr(feature = "simulation", allow(missing_docs, clippy::must_use_candidate))]
pub struct Observed {
    pub generation: u64,
    pub what: Observation,
}

/// What was seen of a generation's login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Observation {
    /// Postgres refused to let it in (28P01, 28000).
    LoginRejected = 0,
    /// A session of it found its own role gone (42704 on
    /// [`LIVENESS`](crate::hook::sql::LIVENESS)): proof that the login was revoked.
    SessionRevoked = 1,
    /// Something looks as if it had been revoked (42501, a failed query): confirmed by a login
    /// before anything is minted, since a missing grant looks the same.
    Suspected = 2,
}

/// What a hook that met a refused login can do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refreshed {
    /// There is a newer generation: dial again.
    Swapped(Arc<Generation>),
    /// There is none yet, and none comes within the refresh wait. The time until the next try, if
    /// one is planned.
    NotNow(Option<Duration>),
}

/// The rotator is gone or shutting down: it takes no pool any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachError;

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the rotator has been shut down or dropped: keep it alive as long as its pools")
    }
}

impl std::error::Error for AttachError {}

impl CredentialProvider {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What tells this rotator from others in logs, metrics and health:
    /// [`RotatorBuilder::name`](crate::RotatorBuilder::name).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The current generation: one lock-free load. Don't hold the guard across an await; use
    /// [`Guard::into_inner`] for an `Arc`.
    #[must_use]
    pub fn current(&self) -> Guard<Arc<Generation>> {
        self.shared.current.load()
    }

    /// Follows the swaps. Each subscriber sees the latest generation, has its own place, and
    /// learns at once when the rotator ends.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription {
            swapped: self.shared.swapped.subscribe(),
            status: self.shared.status.subscribe(),
        }
    }

    /// All that happens from now on. Bounded: a reader that lags is told by
    /// [`RecvError::Lagged`](broadcast::error::RecvError::Lagged) how many events it missed, and
    /// holds up nobody. It may lag by 256 events, for which the first reader of a rotator pays with
    /// some 50 KiB until the rotator and its providers are gone.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// How things stand now.
    #[must_use]
    pub fn health(&self) -> Health {
        // Not under the swap lock: a pool's counts are the pool's own code.
        let pools = self.pools().attached.clone();
        let generation = self.shared.current.load_full();
        let status = self.shared.status.borrow().clone();
        let now = self.shared.clock.now();
        let gone = generation.is_dead() || status.dead;
        let over = gone || status.end.is_some_and(|end| end <= now);
        let state = match () {
            () if status.stopped.is_some() => HealthState::Stopped,
            () if over => HealthState::Expired,
            () if status.degraded || status.last_error.is_some() => HealthState::Degraded,
            () => HealthState::Ready,
        };
        Health {
            provider: self.shared.name.to_string(),
            state,
            generation: generation.number(),
            username: generation.credential().username().to_owned(),
            expires_in: status.end.map(|end| now.until(end)),
            rotates_in: status.rotate_at.map(|at| now.until(at)),
            source_ok: status.source_ok,
            sealed: status.sealed,
            last_error: status.last_error.map(|(kind, message, at)| LastError {
                kind,
                message,
                ago: now - at,
            }),
            draining: (status.draining.iter())
                .map(|&(generation, deadline)| DrainHealth {
                    generation,
                    deadline_in: now.until(deadline),
                })
                .collect(),
            pools: (pools.iter())
                .map(|p| PoolHealth { name: p.name().to_owned(), counts: p.counts() })
                .collect(),
            rotations: status.rotations,
            renewals: status.renewals,
            stopped: status.stopped,
        }
    }

    /// New logins can be made as far as is known: the current one is neither dead nor past its
    /// end. While this is `false`, pools should not close what they have.
    #[must_use]
    pub fn logins_possible(&self) -> bool {
        let status = self.shared.status.borrow();
        !status.dead && status.end.is_none_or(|end| self.shared.clock.now() < end)
    }

    /// Tells what was seen of the login of `generation`. Cheap and never blocks; what is known
    /// already, or about a superseded generation, is ignored.
    ///
    /// An application calls this with [`Observation::Suspected`] (hook crates offer a `report`
    /// that takes the driver's error); the rest comes from hooks.
    pub fn report(&self, generation: u64, what: Observation) {
        let is_news = self.shared.told[what as usize].is_news(generation);
        // Suspicions are worth telling again, the rotator limits what it does about them.
        if is_news || what == Observation::Suspected {
            let observed = Observed { generation, what };
            if self.shared.observations.try_send(observed).is_err() {
                // Full or closed: not told after all, so that the next one tries again.
                self.shared.hear_again(generation, what);
            }
        }
    }

    /// For hooks that met a refused login of `generation`: reports it, and waits for the swap if a
    /// rotation runs or is permitted now, for at most the rotator's refresh wait (5 s unless set).
    /// However many callers there are, they share one rotation. Cancel safe.
    pub async fn refused(&self, generation: u64) -> Refreshed {
        let mut status = self.shared.status.subscribe();
        let mut swapped = self.shared.swapped.subscribe();
        let seen = status.borrow_and_update().refresh.seen;
        self.shared.hear_again(generation, Observation::LoginRejected);
        self.report(generation, Observation::LoginRejected);
        let wait = async {
            loop {
                let newest = swapped.borrow_and_update().clone();
                if newest.number() > generation {
                    return Refreshed::Swapped(newest);
                }
                let (refresh, stopped) = {
                    let status = status.borrow_and_update();
                    (status.refresh, status.stopped.is_some())
                };
                if stopped || (refresh.seen > seen && !refresh.running) {
                    let now = self.shared.clock.now();
                    return Refreshed::NotNow(refresh.next.map(|at| now.until(at)));
                }
                tokio::select! {
                    _ = swapped.changed() => {}
                    _ = status.changed() => {}
                }
            }
        };
        match tokio::time::timeout(self.shared.refresh_wait, wait).await {
            Ok(refreshed) => refreshed,
            Err(_) => Refreshed::NotNow(None),
        }
    }

    /// For hooks that hold a retired connection: if its login is known to be dead, waits for the
    /// swap, at most the refresh wait, so that the connection that replaces it is dialled with a
    /// login that works. Returns at once in ordinary rotation. Cancel safe.
    pub async fn past_dead_login(&self) {
        let current = self.shared.current.load_full();
        if !current.is_dead() {
            return;
        }
        let mut swapped = self.shared.swapped.subscribe();
        let newer = swapped.wait_for(|g| g.number() > current.number());
        let _ = tokio::time::timeout(self.shared.refresh_wait, newer).await;
    }

    /// Builds and attaches a pool under the swap lock, so that no swap comes between the login it
    /// is built with and its first installation. `build` gets the current generation and must
    /// neither block nor dial.
    ///
    /// # Errors
    /// [`AttachError`] once the rotator is shut down or gone; `build` is then not called.
    pub fn attach<T>(
        &self,
        build: impl FnOnce(&Arc<Generation>) -> (Arc<dyn ManagedPool>, T),
    ) -> Result<T, AttachError> {
        let mut pools = self.pools();
        if pools.closed {
            return Err(AttachError);
        }
        let (pool, built) = build(&self.shared.current.load_full());
        let name = pool.name().to_owned();
        pools.attached.push(pool);
        drop(pools);
        (self.shared.emit)(Event::PoolAttached { pool: name });
        Ok(built)
    }

    /// The clock that this provider's times are on.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody holds the swap lock: no swap and no attaching can come between.
#[cfg(feature = "simulation")]
#[must_use]
pub fn swap_lock_is_held(provider: &CredentialProvider) -> bool {
    matches!(provider.shared.pools.try_lock(), Err(std::sync::TryLockError::WouldBlock))
}

impl fmt::Debug for CredentialProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialProvider")
            .field("current", &self.shared.current.load())
            .finish_non_exhaustive()
    }
}

/// Follows the swaps of one provider.
#[derive(Debug)]
pub struct Subscription {
    swapped: watch::Receiver<Arc<Generation>>,
    status: watch::Receiver<Status>,
}

/// Nothing is rotated any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Why.
    pub cause: String,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credentials are not rotated any more: {}", self.cause)
    }
}

impl std::error::Error for Stopped {}

impl Subscription {
    /// The latest generation, which counts as seen.
    pub fn latest(&mut self) -> Arc<Generation> {
        self.swapped.borrow_and_update().clone()
    }

    /// Waits for the next swap. Cancel safe.
    ///
    /// # Errors
    /// [`Stopped`] as soon as the background task has ended and its last swap was seen.
    pub async fn changed(&mut self) -> Result<Arc<Generation>, Stopped> {
        loop {
            // A swap is told before the end that came right after it. The end is read first, so
            // that no swap comes between; a closed channel still has its last swap.
            let stopped = self.status.borrow_and_update().stopped.clone();
            tokio::select! {
                biased;
                Ok(()) = self.swapped.changed() => return Ok(self.latest()),
                Some(cause) = std::future::ready(stopped) => return Err(Stopped { cause }),
                Ok(()) = self.status.changed() => {}
                else => return Err(Stopped { cause: "the rotator is gone".to_owned() }),
            }
        }
    }
}
