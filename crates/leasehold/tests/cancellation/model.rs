//! A source and a pool whose every answer is chosen: at once, an error, slow, or not before the
//! test allows it. And the means to cut a future off at each of its awaits.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use leasehold::clock::Clock;
use leasehold::hook::{BoxFuture, DrainOrder, Drained, ManagedPool, PoolCounts, Proof};
use leasehold::{
    Credential, CredentialProvider, CredentialSource, ErrorKind, Generation, Issued, Lease,
    RevokeMode, SourceError,
};
use tokio::sync::watch;

/// How an operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Ok,
    Error,
    /// Longer than a user waits, shorter than any bound.
    Slow,
    /// Not before the test lets it.
    Never,
}

pub const ALL: [How; 4] = [How::Ok, How::Error, How::Slow, How::Never];

/// What can be chosen for: the five of a rotation, and the farewell.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Issue,
    Renew,
    Revoke,
    Prove,
    Drain,
}

/// Lives long: no lease ends by itself in a test, so that what is gone was given back.
pub const TTL: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Lets the hung ones go.
    open: watch::Sender<bool>,
    within: AtomicUsize,
    /// Requests to mint that were dropped before they were answered: a real server may have made a
    /// role by then that nobody ever revokes.
    cut_mints: AtomicUsize,
    clock: Clock,
}

struct State {
    how: [How; 5],
    minted: u64,
    live: BTreeMap<String, String>,
    closed: u32,
}

impl Model {
    pub fn new() -> Self {
        let state = State { how: [How::Ok; 5], minted: 0, live: BTreeMap::new(), closed: 0 };
        let start = tokio::time::Instant::now();
        let base = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            open: watch::Sender::new(false),
            within: AtomicUsize::new(0),
            cut_mints: AtomicUsize::new(0),
            clock: Clock::with_wall(move || base + start.elapsed()),
        }))
    }

    pub fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.state.lock().unwrap())
    }

    pub fn set(&self, op: Op, how: How) {
        self.with(|s| s.how[op as usize] = how);
    }

    /// Everything answers from now on, what hangs too, and at once.
    pub fn heal(&self) {
        self.with(|s| s.how = [How::Ok; 5]);
        self.release();
    }

    /// What hangs goes on, and answers.
    pub fn release(&self) {
        self.0.open.send_replace(true);
    }

    pub fn minted(&self) -> u64 {
        self.with(|s| s.minted)
    }

    /// User names whose leases were neither revoked nor have ended.
    pub fn live(&self) -> Vec<String> {
        self.with(|s| s.live.values().cloned().collect())
    }

    pub fn closed(&self) -> u32 {
        self.with(|s| s.closed)
    }

    /// Calls of the source that have begun and not ended.
    pub fn within(&self) -> usize {
        self.0.within.load(Ordering::SeqCst)
    }

    /// Requests to mint that were cut off.
    pub fn cut_mints(&self) -> usize {
        self.0.cut_mints.load(Ordering::SeqCst)
    }

    async fn go(&self, op: Op) -> Result<(), SourceError> {
        let minting = matches!(op, Op::Issue).then_some(&self.0.cut_mints);
        let mut inside = Inside::new(&self.0.within, minting);
        // Nothing answers in the very poll that asks.
        tokio::task::yield_now().await;
        match self.with(|s| s.how[op as usize]) {
            How::Ok => {}
            How::Error => {
                inside.cut = None;
                return Err(SourceError::new(ErrorKind::ServerFault, format!("scripted {op:?}")));
            }
            How::Slow => tokio::time::sleep(Duration::from_secs(3)).await,
            How::Never => {
                let _ = self.0.open.subscribe().wait_for(|open| *open).await;
            }
        }
        inside.cut = None;
        Ok(())
    }
}

struct Inside<'a> {
    count: &'a AtomicUsize,
    /// Counts one, unless it came to its end.
    cut: Option<&'a AtomicUsize>,
}

impl<'a> Inside<'a> {
    fn new(count: &'a AtomicUsize, cut: Option<&'a AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self { count, cut }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        if let Some(cut) = self.cut {
            cut.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Model")
    }
}

impl CredentialSource for Model {
    async fn issue(&self) -> Result<Issued, SourceError> {
        self.go(Op::Issue).await?;
        Ok(self.with(|s| {
            s.minted += 1;
            let (id, user) = (format!("lease-{}", s.minted), format!("user-{}", s.minted));
            s.live.insert(id.clone(), user.clone());
            Issued::new(Credential::new(user, "scripted-password"), Lease::renewable(id, TTL))
        }))
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        self.go(Op::Renew).await?;
        // Cut to a second, it has ended.
        if increment <= Duration::from_secs(1) {
            self.with(|s| s.live.remove(lease.id.as_deref().unwrap()));
        }
        Ok(increment)
    }

    async fn revoke(&self, lease: &Lease, _: RevokeMode) -> Result<(), SourceError> {
        self.go(Op::Revoke).await?;
        self.with(|s| s.live.remove(lease.id.as_deref().unwrap()));
        Ok(())
    }

    async fn close(&self) -> Vec<String> {
        tokio::task::yield_now().await;
        self.with(|s| s.closed += 1);
        Vec::new()
    }
}

/// A pool that answers as its model says.
pub struct Pool {
    model: Model,
    closed: Mutex<bool>,
    installed: Mutex<u64>,
}

impl Pool {
    pub fn attach(model: &Model, provider: &CredentialProvider) -> Arc<Self> {
        let attached = provider.attach(|current| {
            let pool = Arc::new(Self {
                model: model.clone(),
                closed: Mutex::new(false),
                installed: Mutex::new(current.number()),
            });
            (pool.clone() as Arc<dyn ManagedPool>, pool)
        });
        attached.unwrap()
    }

    /// The generation that it dials with.
    pub fn installed(&self) -> u64 {
        *self.installed.lock().unwrap()
    }
}

impl ManagedPool for Pool {
    fn name(&self) -> &str {
        "model"
    }
    fn prove<'a>(&'a self, _: &'a Arc<Generation>) -> BoxFuture<'a, Proof> {
        Box::pin(async {
            match self.model.go(Op::Prove).await {
                Ok(()) => Proof::Proven,
                Err(e) => Proof::Rejected(e.to_string()),
            }
        })
    }
    fn install(&self, next: &Arc<Generation>) {
        *self.installed.lock().unwrap() = next.number();
    }
    fn distrust(&self) {}
    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained> {
        Box::pin(async move {
            tokio::select! {
                done = self.model.go(Op::Drain) => match done {
                    Ok(()) => Drained::clean(),
                    Err(_) => Drained::at_deadline(Vec::new(), 1),
                },
                () = order.deadline() => Drained::at_deadline(Vec::new(), 1),
            }
        })
    }
    fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }
    fn is_closed(&self) -> bool {
        *self.closed.lock().unwrap()
    }
    fn counts(&self) -> PoolCounts {
        PoolCounts::new(1, 1)
    }
}

/// Polls `future`, and drops it when it is pending for the `n`th time (0: before it is polled at
/// all). Its output if it was done by then. It must be woken that often: what waits for nothing
/// that comes is cut in vain.
pub async fn cut<F: Future>(future: F, n: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = n;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => {
                left -= 1;
                if left == 0 { Poll::Ready(None) } else { Poll::Pending }
            }
        }
    })
    .await
}

/// Cuts what `make` makes at each of its awaits in turn, until it comes to its end. Returns how
/// many cuts there were, and fails if that is more than anything here awaits.
pub async fn cut_everywhere<T>(what: &str, mut one: impl AsyncFnMut(usize) -> Option<T>) -> usize {
    for n in 0..1000 {
        if one(n).await.is_some() {
            return n;
        }
    }
    panic!("{what} was polled a thousand times and came to no end");
}

pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Waits, on paused time, until no task is left but `base`.
pub async fn tasks_end(what: &str, base: usize) {
    let mut seen = 0;
    for _ in 0..2000 {
        seen = tasks();
        if seen <= base {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("{what}: {} tasks survive", seen - base);
}
