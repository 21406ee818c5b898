//! A scripted source and a scripted pool, for what no real server produces on demand. Time is
//! tokio's, paused: hours of leases take milliseconds.
#![allow(dead_code, missing_docs, clippy::unwrap_used, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::clock::{Clock, Time};
use leasehold::hook::{BoxFuture, DrainOrder, Drained, Holder, ManagedPool, PoolCounts, Proof};
use leasehold::{
    Credential, CredentialProvider, CredentialSource, ErrorKind, Event, Generation, Issued, Lease,
    Parent, RevokeMode, SourceError,
};
use tokio::sync::{Semaphore, broadcast};

pub const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A server that does as it is told, and remembers.
#[derive(Clone, Debug)]
pub struct Script(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Requests pass one by one while this has permits; closed by `hang`, opened by `go`.
    gate: Semaphore,
}

#[derive(Debug)]
struct State {
    ttl: Duration,
    max_ttl: Duration,
    issue: Option<ErrorKind>,
    renew: Option<ErrorKind>,
    revoke: Option<ErrorKind>,
    hang_issue: bool,
    minted: u64,
    /// Lease id to (issued, ends).
    leases: BTreeMap<String, (tokio::time::Instant, tokio::time::Instant)>,
    calls: Vec<(&'static str, tokio::time::Instant)>,
    parent: Option<Parent>,
    closed: bool,
}

impl Script {
    pub fn new(ttl: Duration, max_ttl: Duration) -> Self {
        let state = State {
            ttl,
            max_ttl,
            issue: None,
            renew: None,
            revoke: None,
            hang_issue: false,
            minted: 0,
            leases: BTreeMap::new(),
            calls: Vec::new(),
            parent: None,
            closed: false,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), gate: Semaphore::new(0) }))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.state.lock().unwrap())
    }

    pub fn fail_issue(&self, kind: impl Into<Option<ErrorKind>>) {
        self.with(|s| s.issue = kind.into());
    }

    pub fn fail_renew(&self, kind: impl Into<Option<ErrorKind>>) {
        self.with(|s| s.renew = kind.into());
    }

    pub fn fail_revoke(&self, kind: impl Into<Option<ErrorKind>>) {
        self.with(|s| s.revoke = kind.into());
    }

    pub fn hang_issue(&self, hang: bool) {
        self.with(|s| s.hang_issue = hang);
    }

    /// Lets `n` hanging requests to mint go on.
    pub fn go(&self, n: usize) {
        self.0.gate.add_permits(n);
    }

    pub fn parent(&self, parent: Parent) {
        self.with(|s| s.parent = Some(parent));
    }

    pub fn minted(&self) -> u64 {
        self.with(|s| s.minted)
    }

    /// Leases that have neither been revoked nor ended.
    pub fn live(&self) -> Vec<String> {
        let now = tokio::time::Instant::now();
        self.with(|s| {
            s.leases.iter().filter(|(_, l)| l.1 > now).map(|(id, _)| id.clone()).collect()
        })
    }

    pub fn is_closed(&self) -> bool {
        self.with(|s| s.closed)
    }

    /// When each call of this kind was made, since the first call of any.
    pub fn calls(&self, kind: &str) -> Vec<Duration> {
        self.with(|s| {
            let first = s.calls.first().map(|c| c.1);
            let of_kind = s.calls.iter().filter(|(k, _)| *k == kind);
            of_kind.map(|(_, at)| at.duration_since(first.unwrap())).collect()
        })
    }

    fn call(&self, kind: &'static str) {
        self.with(|s| s.calls.push((kind, tokio::time::Instant::now())));
    }
}

fn failed(kind: Option<ErrorKind>) -> Result<(), SourceError> {
    kind.map_or(Ok(()), |kind| Err(SourceError::new(kind, format!("scripted {kind:?}"))))
}

impl CredentialSource for Script {
    async fn issue(&self) -> Result<Issued, SourceError> {
        self.call("issue");
        if self.with(|s| s.hang_issue) {
            self.0.gate.acquire().await.unwrap().forget();
        }
        tokio::time::sleep(ms(5)).await;
        failed(self.with(|s| s.issue))?;
        Ok(self.with(|s| {
            s.minted += 1;
            let (id, now) = (format!("lease-{}", s.minted), tokio::time::Instant::now());
            s.leases.insert(id.clone(), (now, now + s.ttl));
            let credential = Credential::new(format!("user-{}", s.minted), "scripted-password");
            let issued = Issued::new(credential, Lease::renewable(id, s.ttl));
            match &s.parent {
                Some(parent) => issued.with_parent(parent.clone()),
                None => issued,
            }
        }))
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        self.call("renew");
        tokio::time::sleep(ms(2)).await;
        failed(self.with(|s| s.renew))?;
        let now = tokio::time::Instant::now();
        self.with(|s| {
            let max = s.max_ttl;
            let lease = lease.id.as_ref().and_then(|id| s.leases.get_mut(id));
            let Some((issued, ends)) = lease.filter(|l| l.1 > now) else {
                return Err(SourceError::new(ErrorKind::LeaseLost, "lease not found"));
            };
            let rest = (*issued + max).saturating_duration_since(now);
            if rest < s_one() {
                return Err(SourceError::new(ErrorKind::NotRenewable, "past the max TTL"));
            }
            // Whole seconds, as the real one has it.
            let granted = Duration::from_secs(increment.min(rest).as_secs());
            *ends = now + granted;
            Ok(granted)
        })
    }

    async fn revoke(&self, lease: &Lease, _mode: RevokeMode) -> Result<(), SourceError> {
        self.call("revoke");
        tokio::time::sleep(ms(2)).await;
        failed(self.with(|s| s.revoke))?;
        self.with(|s| lease.id.as_ref().map(|id| s.leases.remove(id)));
        Ok(())
    }

    async fn close(&self) -> Vec<String> {
        self.with(|s| s.closed = true);
        Vec::new()
    }
}

const fn s_one() -> Duration {
    Duration::from_secs(1)
}

/// A pool that answers as told and holds connections until told to let go.
#[derive(Debug)]
pub struct FakePool {
    state: Mutex<PoolState>,
    release: Semaphore,
    provider: CredentialProvider,
}

#[derive(Debug, Default)]
struct PoolState {
    proof: Option<Proof>,
    holds: bool,
    says: Option<String>,
    closed: bool,
    installed: Vec<(u64, u64)>,
    proofs: u64,
    distrusted: u64,
    discarded: u64,
    drained: Vec<String>,
    rolled: Vec<bool>,
}

impl FakePool {
    pub fn attach(provider: &CredentialProvider) -> Arc<Self> {
        provider
            .attach(|_| {
                let pool = Arc::new(Self {
                    state: Mutex::default(),
                    release: Semaphore::new(0),
                    provider: provider.clone(),
                });
                (pool.clone() as Arc<dyn ManagedPool>, pool)
            })
            .unwrap()
    }

    fn with<T>(&self, f: impl FnOnce(&mut PoolState) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    /// What proofs answer; `None`: proven.
    pub fn proof(&self, proof: impl Into<Option<Proof>>) {
        self.with(|s| s.proof = proof.into());
    }

    /// What drains warn of, and what a connection held to their deadline calls itself.
    pub fn says(&self, message: impl Into<String>) {
        self.with(|s| s.says = Some(message.into()));
    }

    /// A borrower holds on through drains, until `let_go`.
    pub fn hold(&self) {
        self.with(|s| s.holds = true);
    }

    pub fn let_go(&self) {
        self.with(|s| s.holds = false);
        self.release.add_permits(1000);
    }

    pub fn proofs(&self) -> u64 {
        self.with(|s| s.proofs)
    }

    /// The logins that drains were about.
    pub fn drained(&self) -> Vec<String> {
        self.with(|s| s.drained.clone())
    }

    /// Whether each drain was allowed a roll.
    pub fn rolled(&self) -> Vec<bool> {
        self.with(|s| s.rolled.clone())
    }

    /// How often what may have been kept of a proof was to be closed.
    pub fn discarded(&self) -> u64 {
        self.with(|s| s.discarded)
    }

    pub fn distrusted(&self) -> u64 {
        self.with(|s| s.distrusted)
    }

    /// Each installed generation, with the one that was current at that moment.
    pub fn installed(&self) -> Vec<(u64, u64)> {
        self.with(|s| s.installed.clone())
    }
}

impl ManagedPool for FakePool {
    fn name(&self) -> &str {
        "fake"
    }
    fn prove<'a>(&'a self, _: &'a Arc<Generation>) -> BoxFuture<'a, Proof> {
        Box::pin(async {
            tokio::time::sleep(ms(3)).await;
            self.with(|s| {
                s.proofs += 1;
                s.proof.clone().unwrap_or(Proof::Proven)
            })
        })
    }
    fn discard(&self) {
        self.with(|s| s.discarded += 1);
    }
    fn install(&self, next: &Arc<Generation>) {
        let current = self.provider.current().number();
        self.with(|s| s.installed.push((next.number(), current)));
    }
    fn distrust(&self) {
        self.with(|s| s.distrusted += 1);
    }
    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained> {
        let user = order.generation().credential().username().to_owned();
        self.with(|s| {
            s.drained.push(user);
            s.rolled.push(order.may_roll());
        });
        Box::pin(async move {
            if let Some(message) = self.with(|s| s.says.clone()) {
                order.warn("fake", message);
            }
            if self.with(|s| s.holds) {
                tokio::select! {
                    permit = self.release.acquire() => permit.unwrap().forget(),
                    () = order.deadline() => {
                        let holder = |says| Holder::new(1, says, "idle".to_owned(), 1.0);
                        let holders = self.with(|s| s.says.clone()).map(holder);
                        return Drained::at_deadline(holders.into_iter().collect(), 1);
                    }
                }
            }
            Drained::clean()
        })
    }
    fn close(&self) {
        self.with(|s| s.closed = true);
    }
    fn is_closed(&self) -> bool {
        self.with(|s| s.closed)
    }
    fn counts(&self) -> PoolCounts {
        PoolCounts::new(1, 1)
    }
}

/// A clock of this test's runtime.
pub fn clock() -> Clock {
    let start = tokio::time::Instant::now();
    let base = std::time::SystemTime::UNIX_EPOCH + s(1_000_000);
    Clock::with_wall(move || base + start.elapsed())
}

/// Fails, and does not hang, if it never comes. Paused time makes the wait short.
pub async fn soon<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(s(100_000), awaited).await.expect("what was awaited never came")
}

/// Waits for the first event that `pick` takes.
pub async fn event<T>(
    events: &mut broadcast::Receiver<Event>,
    mut pick: impl FnMut(&Event) -> Option<T>,
) -> T {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(found) = pick(&event) {
                        return found;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(e) => panic!("the events ended: {e}"),
            }
        }
    };
    soon(wait).await
}

pub async fn swapped(events: &mut broadcast::Receiver<Event>) -> (u64, leasehold::Reason) {
    event(events, |e| match e {
        Event::Swapped { generation, reason, .. } => Some((*generation, *reason)),
        _ => None,
    })
    .await
}

pub async fn drained(events: &mut broadcast::Receiver<Event>, number: u64) {
    event(events, |e| {
        matches!(e, Event::Drained { generation, .. } if *generation == number).then_some(())
    })
    .await;
}

pub async fn revoked(events: &mut broadcast::Receiver<Event>, number: u64) {
    let of = Some(number);
    event(events, |e| {
        matches!(e, Event::Revoked { generation, .. } if *generation == of).then_some(())
    })
    .await;
}

/// Polls a condition on paused time.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::time::sleep(ms(20)).await;
    }
    panic!("never came true: {what}");
}

pub fn at(clock: &Clock, after: Duration) -> Time {
    clock.now() + after
}
