//! A source over the model of Vault: a small session that logs in, renews and gives back its
//! tokens, on a network that delays, loses and repeats.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leasehold::clock::Time;
use leasehold::{
    Credential, CredentialSource, ErrorKind, Issued, Lease, Parent, ParentState, RevokeMode,
    SourceError,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Invariant;
use super::world::{Dice, Minted, State, World};
use crate::vault::{LeaseId, LoginId, Refusal, TokenId};

/// As `leasehold-vault` has it: minting, and the rest.
const MINT_TIMEOUT: Duration = Duration::from_secs(120);
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct ModelSource {
    world: Arc<World>,
    session: Arc<Session>,
    keeper: AbortHandle,
}

/// What a token is for its leases.
struct Epoch {
    token: TokenId,
    state: watch::Sender<ParentState>,
    /// One more than there are leases on it.
    holds: Arc<()>,
    ttl: Duration,
    renew_at: Time,
}

struct Session {
    world: Arc<World>,
    /// Never ends, and no lease depends on it: as if logins were no session's.
    root: Option<TokenId>,
    dice: Dice,
    /// The keeper's own.
    keeping: Dice,
    epochs: Mutex<Vec<Epoch>>,
}

/// What becomes of a request.
enum Fate {
    Fine,
    /// It never arrives.
    Lost,
    /// It is carried out, and nobody hears of it.
    Unheard,
    Panic,
}

impl ModelSource {
    pub(crate) fn new(world: &Arc<World>, root: Option<TokenId>) -> Self {
        let session = Arc::new(Session {
            world: world.clone(),
            root,
            dice: world.dice(),
            keeping: world.dice(),
            epochs: Mutex::default(),
        });
        let keeper = tokio::spawn(keep(session.clone())).abort_handle();
        Self { world: world.clone(), session, keeper }
    }
}

impl Drop for ModelSource {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelSource")
    }
}

/// A mint that is cut off may leave a role that nobody revokes: whoever drops it is found out.
struct Uncut<'a>(&'a World, Time, bool);

impl Drop for Uncut<'_> {
    fn drop(&mut self) {
        let over = self.0.with(|state| {
            if let Some(at) = state.mints_in_flight.iter().position(|begun| *begun == self.1) {
                state.mints_in_flight.remove(at);
            }
            state.over
        });
        // With its runtime everything ends.
        if !self.2 && !over {
            self.0.violate(Invariant::I7MintsRunToTheirEnd, "a request to mint was cut off");
        }
    }
}

impl CredentialSource for ModelSource {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let world = &*self.world;
        world.step("issue");
        let sent = world.clock().now();
        // What takes longer than a source may is given up, and another one is permitted.
        let in_flight = world.with(|state| {
            state.mints_in_flight.push(sent);
            let young = |begun: &&Time| sent - **begun < MINT_TIMEOUT;
            state.mints_in_flight.iter().filter(young).count()
        });
        world.check(Invariant::I7OneFetch, in_flight <= 2, || {
            format!("{in_flight} requests to mint are in flight")
        });
        let mut uncut = Uncut(world, sent, false);
        let fate = draw_fate(world, &self.session.dice);
        if matches!(fate, Fate::Panic) {
            uncut.2 = true;
            panic(world);
        }
        let result = self.mint(&fate).await;
        uncut.2 = true;
        if let Ok(issued) = &result {
            let login = super::world::login_of(issued.credential.username());
            world.step(format_args!("{login:?} is handed over"));
            world.with(|state| {
                if let Some(minted) = state.minted.get_mut(&login) {
                    minted.delivered = true;
                }
            });
        }
        result
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        let id = lease_of(lease);
        let world = &*self.world;
        world.step(format_args!("renew {id:?} by {increment:?}"));
        let fate = draw_fate(world, &self.session.dice);
        if matches!(fate, Fate::Panic) {
            panic(world);
        }
        // The server knows whole seconds only.
        let by = increment.as_secs().max(1);
        let renew = |state: &mut State, now, token| state.vault.renew(now, token, id, by);
        let (granted, _) = self.session.call(&fate, TIMEOUT, renew).await?;
        Ok(Duration::from_secs(granted))
    }

    async fn revoke(&self, lease: &Lease, mode: RevokeMode) -> Result<(), SourceError> {
        let id = lease_of(lease);
        let world = &*self.world;
        world.step(format_args!("revoke {id:?}, {mode:?}"));
        self.check_drained(id);
        let fate = draw_fate(world, &self.session.dice);
        if matches!(fate, Fate::Panic) {
            world.with(|state| state.failed_revocations.insert(id));
            panic(world);
        }
        let queued = mode == RevokeMode::Queued;
        let revoke = |state: &mut State, now, token| match queued {
            true => state.vault.revoke_queued(now, token, id),
            false => state.vault.revoke(now, token, id),
        };
        let revoked = self.session.call(&fate, TIMEOUT, revoke).await.map(drop);
        if revoked.is_err() {
            world.with(|state| state.failed_revocations.insert(id));
        }
        match revoked {
            Err(e) if e.kind() == ErrorKind::LeaseLost => Ok(()),
            revoked => revoked,
        }
    }

    async fn close(&self) -> Vec<String> {
        self.world.step("close");
        self.keeper.abort();
        self.session.close().await
    }
}

impl ModelSource {
    async fn mint(&self, fate: &Fate) -> Result<Issued, SourceError> {
        let world = &*self.world;
        // Noted when it is carried out, whoever hears of it.
        let made = Mutex::new(Vec::new());
        let issue = |state: &mut State, now: Time, token: TokenId| {
            let grant = state.vault.issue(now, token, 0)?;
            let minted = Minted { lease: grant.lease, at: now, delivered: false, lost: false };
            state.minted.insert(grant.login, minted);
            made.lock().unwrap_or_else(PoisonError::into_inner).push(grant.login);
            Ok(grant)
        };
        let result = self.session.call(fate, MINT_TIMEOUT, issue).await;
        let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let answered = result.as_ref().ok().map(|(grant, _)| grant.login);
        for login in made.into_iter().filter(|login| Some(*login) != answered) {
            world.with(|state| {
                if let Some(minted) = state.minted.get_mut(&login) {
                    minted.lost = true;
                }
            });
        }
        let (grant, parent) = result?;
        let (LoginId(login), LeaseId(lease)) = (grant.login, grant.lease);
        let ttl = Duration::from_secs(grant.ttl);
        let lease = Lease::renewable(format!("lease-{lease}"), ttl);
        let issued = Issued::new(Credential::new(format!("v-{login}"), "simulated"), lease);
        Ok(match parent {
            Some(parent) => issued.with_parent(parent),
            None => issued,
        })
    }

    /// I4: nothing may be left on what is revoked, and it may not be what everybody uses.
    fn check_drained(&self, id: LeaseId) {
        let world = &*self.world;
        let login = world.with(|state| {
            state.minted.iter().find(|(_, minted)| minted.lease == id).map(|(login, _)| *login)
        });
        let Some(login) = login else {
            return;
        };
        for pool in world.with(|state| state.pools.clone()) {
            let left = pool.left_behind(login);
            world.check(Invariant::I4DrainedThenRevoked, left == 0, || {
                format!("{login:?} is revoked with {left} connections of it in {}", pool.title())
            });
        }
        if let Some(provider) = world.provider() {
            let current = super::world::login_of(provider.current().credential().username());
            let ending = world.with(|state| state.stopping || state.stopped.is_some());
            world.check(Invariant::I4DrainedThenRevoked, current != login || ending, || {
                format!("{login:?} is revoked, and is current")
            });
        }
    }
}

impl Session {
    fn epochs<T>(&self, f: impl FnOnce(&mut Vec<Epoch>) -> T) -> T {
        f(&mut self.epochs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a request with the newest token, and once more with a new one if that was dead. What
    /// comes with the answer keeps that token alive.
    async fn call<T>(
        &self,
        fate: &Fate,
        timeout: Duration,
        ask: impl Fn(&mut State, Time, TokenId) -> Result<T, Refusal>,
    ) -> Result<(T, Option<Parent>), SourceError> {
        let world = &*self.world;
        for _ in 0..2 {
            let token = self.token().await?;
            let parent = self.parent(token);
            match exchange(world, &self.dice, fate, timeout, |state, now| ask(state, now, token))
                .await?
            {
                Err(Refusal::TokenDead) => self.dead(token),
                Err(refusal) => return Err(refusal.error()),
                Ok(answer) => return Ok((answer, parent)),
            }
        }
        Err(Refusal::TokenDead.error())
    }

    /// The newest token that can still be used for something that lasts.
    async fn token(&self) -> Result<TokenId, SourceError> {
        if let Some(root) = self.root {
            return Ok(root);
        }
        let usable = self.epochs(|epochs| {
            let last = epochs.last()?;
            last.state.borrow().renewing.then_some(last.token)
        });
        if let Some(token) = usable {
            return Ok(token);
        }
        let world = &*self.world;
        let sent = world.clock().now();
        let fate = draw_fate(world, &self.dice);
        let grant =
            exchange(world, &self.dice, &fate, TIMEOUT, |state, now| state.vault.login(now))
                .await?;
        let grant = grant.map_err(Refusal::error)?;
        let ttl = Duration::from_secs(grant.ttl);
        let state = ParentState::ending(sent + ttl, true, true);
        let epoch = Epoch {
            token: grant.token,
            state: watch::Sender::new(state),
            holds: Arc::new(()),
            ttl,
            renew_at: sent + ttl / 2,
        };
        world.step(format_args!("logged in: {:?} for {ttl:?}", grant.token));
        self.epochs(|epochs| epochs.push(epoch));
        Ok(grant.token)
    }

    fn parent(&self, token: TokenId) -> Option<Parent> {
        self.epochs(|epochs| {
            let epoch = epochs.iter().find(|epoch| epoch.token == token)?;
            Some(Parent::new(epoch.state.subscribe(), epoch.holds.clone()))
        })
    }

    fn change(&self, token: TokenId, f: impl FnOnce(&mut Epoch)) {
        self.epochs(|epochs| {
            if let Some(epoch) = epochs.iter_mut().find(|epoch| epoch.token == token) {
                f(epoch);
            }
        });
    }

    fn dead(&self, token: TokenId) {
        let now = self.world.clock().now();
        self.world.step(format_args!("{token:?} is found dead"));
        self.change(token, |epoch| {
            epoch.state.send_replace(ParentState::ending(now, false, true));
        });
    }

    async fn renew_token(&self, token: TokenId) {
        let world = &*self.world;
        let clock = world.clock();
        let sent = clock.now();
        let fate = draw_fate(world, &self.keeping);
        let renewed = exchange(world, &self.keeping, &fate, TIMEOUT, |s, now| {
            s.vault.renew_token(now, token, 0)
        })
        .await;
        match renewed {
            Ok(Ok(granted)) => {
                let ttl = Duration::from_secs(granted);
                self.change(token, |epoch| {
                    // Less than at first: its maximum TTL is near.
                    let last = ttl < epoch.ttl;
                    epoch.state.send_replace(ParentState::ending(sent + ttl, !last, true));
                    epoch.renew_at = sent + ttl / 2;
                });
            }
            Ok(Err(Refusal::TokenDead)) => self.dead(token),
            Ok(Err(Refusal::TokenPastMaxTtl | Refusal::NotRenewable)) => {
                self.change(token, |epoch| {
                    epoch.state.send_modify(|state| state.renewing = false);
                });
            }
            Ok(Err(_)) | Err(_) => {
                let pause = Duration::from_secs(1);
                self.change(token, |epoch| epoch.renew_at = clock.now() + pause);
            }
        }
    }

    async fn revoke_token(&self, token: TokenId) -> bool {
        let world = &*self.world;
        let fate = draw_fate(world, &self.keeping);
        let revoked = exchange(world, &self.keeping, &fate, TIMEOUT, |s, now| {
            s.vault.revoke_token(now, token)
        })
        .await;
        world.step(format_args!("revoke {token:?}: {revoked:?}"));
        matches!(revoked, Ok(Ok(()) | Err(Refusal::TokenDead | Refusal::NotRenewable)))
    }

    async fn close(&self) -> Vec<String> {
        let mut left = Vec::new();
        for epoch in self.epochs(std::mem::take) {
            let done = self.revoke_token(epoch.token).await;
            if done {
                let now = self.world.clock().now();
                epoch.state.send_replace(ParentState::ending(now, false, true));
            } else {
                left.push(format!("{:?} could not be revoked", epoch.token));
            }
        }
        left
    }
}

/// Renews tokens while they are the newest or have leases, and gives back the others.
async fn keep(session: Arc<Session>) {
    let clock = session.world.clock();
    loop {
        clock.sleep_towards(clock.now() + Duration::from_secs(5)).await;
        let now = clock.now();
        let (retired, due) = session.epochs(|epochs| {
            let newest = epochs.last().map(|epoch| epoch.token);
            let retired = epochs.iter().position(|epoch| {
                Some(epoch.token) != newest && Arc::strong_count(&epoch.holds) == 1
            });
            let retired = retired.map(|at| epochs.remove(at).token);
            let due: Vec<_> = (epochs.iter())
                .filter(|epoch| epoch.state.borrow().renewing && epoch.renew_at <= now)
                .map(|epoch| epoch.token)
                .collect();
            (retired, due)
        });
        if let Some(token) = retired {
            session.revoke_token(token).await;
        }
        for token in due {
            session.renew_token(token).await;
        }
    }
}

/// A request and its answer, on the network of this history.
async fn exchange<T>(
    world: &World,
    dice: &Dice,
    fate: &Fate,
    timeout: Duration,
    ask: impl FnOnce(&mut State, Time) -> Result<T, Refusal>,
) -> Result<Result<T, Refusal>, SourceError> {
    let slow = dice.mishap(world, world.temper.slow, 1000);
    let there = if slow {
        world.fault("slow answer");
        dice.span(Duration::from_secs(1), timeout)
    } else {
        dice.latency()
    };
    let lost = || SourceError::new(ErrorKind::Timeout, "no answer in time");
    let until = tokio::time::Instant::now() + timeout;
    tokio::time::sleep(there).await;
    match fate {
        Fate::Lost => {
            // Cut at once, or never answered.
            if dice.chance(500, 1000) {
                tokio::time::sleep_until(until).await;
            }
            return Err(lost());
        }
        Fate::Unheard => {
            let _ = world.now_with(ask);
            if dice.chance(500, 1000) {
                tokio::time::sleep_until(until).await;
            }
            return Err(lost());
        }
        Fate::Fine | Fate::Panic => {}
    }
    let answer = world.now_with(ask);
    let back = if slow && dice.chance(500, 1000) {
        dice.span(Duration::from_millis(100), timeout)
    } else {
        dice.latency()
    };
    if tokio::time::timeout_at(until, tokio::time::sleep(back)).await.is_err() && slow {
        // Came after the client had stopped listening.
        world.fault("answer too late");
        return match answer {
            Err(Refusal::Down) => Ok(answer),
            _ => Err(lost()),
        };
    }
    Ok(answer)
}

fn draw_fate(world: &World, dice: &Dice) -> Fate {
    let temper = world.temper;
    if dice.mishap(world, temper.panics, 1000) {
        Fate::Panic
    } else if dice.mishap(world, temper.lost, 1000) {
        let unheard = dice.chance(500, 1000);
        world.fault(if unheard { "answer lost" } else { "request lost" });
        if unheard { Fate::Unheard } else { Fate::Lost }
    } else {
        Fate::Fine
    }
}

fn panic(world: &World) -> ! {
    world.fault("source panicked");
    std::panic::resume_unwind(Box::new("a simulated panic"))
}

fn lease_of(lease: &Lease) -> LeaseId {
    let id = lease.id.as_deref().and_then(|id| id.strip_prefix("lease-"));
    let number = id.and_then(|n| n.parse().ok());
    LeaseId(number.expect("the model source names leases lease-NUMBER"))
}
