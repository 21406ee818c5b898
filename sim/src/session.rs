//! The authenticated session as a model: which token is in use, when each is renewed, retired and
//! given back. Its requests take no time; what can fail of them is up to the model of Vault.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use leasehold::clock::{Time, still_ahead};
use leasehold::{ErrorKind, ParentState, SourceError};

use crate::fleet::server::Work;
use crate::plan::TokenKind;
use crate::vault::{Refusal, TokenId, Vault};

/// The real one's own numbers.
#[path = "../../crates/leasehold-vault/src/schedule.rs"]
#[allow(dead_code, reason = "only what a token's renewals take")]
mod schedule;

/// One token, from login to its end.
#[derive(Clone, Debug, Hash)]
pub struct Epoch {
    /// The token.
    pub token: TokenId,
    increment: u64,
    ends: Option<Time>,
    act_at: Option<Time>,
    worn_at: Option<Time>,
    dead: bool,
    spent: bool,
    fixed: bool,
    retired: bool,
    finished: bool,
    failures: u32,
    /// Leases that die with it, and requests under way.
    pub holds: u32,
    told: Option<ParentState>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Session {
    kind: TokenKind,
    epochs: BTreeMap<u32, Epoch>,
    current: u32,
    not_before: Time,
    failures: u32,
    failure: Option<SourceError>,
    /// A token was given, and there will be no other.
    given: bool,
    /// Without it what is drawn at random is as late as it can be.
    rng: Option<fastrand::Rng>,
}

impl Hash for Session {
    fn hash<H: Hasher>(&self, into: &mut H) {
        let Self { kind, epochs, current, not_before, failures, failure, given, rng: _ } = self;
        (kind, epochs, current, still_ahead(*not_before)).hash(into);
        (failures, failure, given).hash(into);
    }
}

fn error(refusal: Refusal) -> SourceError {
    refusal.error()
}

fn backoff(failures: u32, kind: ErrorKind) -> Duration {
    if kind.is_transient() {
        (Duration::from_millis(100) * 2u32.saturating_pow(failures.min(10)))
            .min(Duration::from_secs(30))
    } else {
        (Duration::from_secs(30) * 2u32.saturating_pow(failures.min(4)))
            .min(Duration::from_secs(300))
    }
}

impl Session {
    /// Logs in when it is first needed.
    #[must_use]
    pub const fn new(kind: TokenKind) -> Self {
        Self {
            kind,
            epochs: BTreeMap::new(),
            current: 0,
            not_before: Time::ZERO,
            failures: 0,
            failure: None,
            given: false,
            rng: None,
        }
    }

    /// The same, with the jitter of the real one.
    #[must_use]
    pub fn jittered(kind: TokenKind, seed: u64) -> Self {
        Self { rng: Some(fastrand::Rng::with_seed(seed)), ..Self::new(kind) }
    }

    /// From nothing to one, at random.
    fn dice(&mut self) -> f64 {
        self.rng.as_mut().map_or(1.0, fastrand::Rng::f64)
    }

    /// There is a token, or has been one.
    #[must_use]
    pub const fn is_logged_in(&self) -> bool {
        self.current > 0
    }

    /// What [`tick`](Self::tick) would ask of the server next.
    #[must_use]
    pub fn due(&self, now: Time) -> Option<Work> {
        for (number, epoch) in &self.epochs {
            let over = epoch.dead || epoch.finished || epoch.ends.is_some_and(|ends| ends <= now);
            if over || epoch.act_at.is_none_or(|at| at > now) {
                continue;
            }
            if *number == self.current || epoch.holds > 0 {
                return Some(Work::RenewToken);
            }
            if epoch.retired {
                return Some(Work::RevokeToken);
            }
        }
        (self.wants_login() && now >= self.not_before).then_some(Work::Login)
    }

    /// When something is due, on the client's clock.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        let mut next: Option<Time> = None;
        let mut at = |t: Option<Time>| next = [next, t].into_iter().flatten().min();
        for (number, epoch) in &self.epochs {
            if epoch.finished || epoch.dead {
                continue;
            }
            if *number == self.current || epoch.holds > 0 || epoch.retired {
                at(epoch.act_at);
            }
            at(epoch.worn_at.filter(|_| !epoch.spent));
            at(epoch.ends);
        }
        if self.wants_login() {
            at(Some(self.not_before));
        }
        next
    }

    fn repeatable(&self) -> bool {
        matches!(self.kind, TokenKind::AppRole | TokenKind::Batch)
    }

    fn wants_login(&self) -> bool {
        self.repeatable()
            && self.current > 0
            && self.epochs.get(&self.current).is_none_or(|e| e.dead || e.spent)
    }

    /// Does what is due. `real` is the server's time, `now` the client's.
    pub fn tick(&mut self, vault: &mut Vault, real: Time, now: Time) {
        self.look_at_the_clock(now);
        let numbers: Vec<u32> = self.epochs.keys().copied().collect();
        for number in numbers {
            let current = number == self.current;
            let Some(epoch) = self.epochs.get_mut(&number) else { continue };
            if epoch.dead || epoch.finished || epoch.act_at.is_none_or(|at| at > now) {
                continue;
            }
            if current || epoch.holds > 0 {
                self.renew(vault, real, now, number);
            } else if epoch.retired {
                self.give_back(vault, real, now, number);
            } else {
                epoch.act_at = None;
            }
        }
        if self.wants_login() && now >= self.not_before {
            let _ = self.log_in(vault, real, now);
        }
        let current = self.current;
        self.epochs
            .retain(|number, e| *number == current || e.holds > 0 || !(e.dead || e.finished));
    }

    /// Sees what is over.
    pub fn look_at_the_clock(&mut self, now: Time) {
        for epoch in self.epochs.values_mut() {
            epoch.dead |= epoch.ends.is_some_and(|ends| ends <= now);
            epoch.spent |= epoch.worn_at.is_some_and(|at| at <= now);
        }
    }

    fn renew(&mut self, vault: &mut Vault, real: Time, now: Time, number: u32) {
        let (replaceable, dice) = (self.replaceable(number), self.dice());
        let Some(epoch) = self.epochs.get_mut(&number) else { return };
        match vault.renew_token(real, epoch.token, epoch.increment) {
            Ok(granted) => {
                epoch.failures = 0;
                let ttl = Duration::from_secs(granted);
                epoch.ends = Some(now + ttl);
                if granted < epoch.increment {
                    epoch.fixed = true;
                    epoch.spent = true;
                    epoch.act_at = None;
                } else {
                    epoch.fixed = false;
                    epoch.spent = false;
                    epoch.act_at = Some(now + schedule::renew_after(ttl, dice));
                }
            }
            Err(Refusal::TokenDead) => {
                epoch.dead = true;
                epoch.ends = Some(epoch.ends.map_or(now, |e| e.min(now)));
            }
            Err(refusal) => {
                epoch.failures += 1;
                let kind = refusal.kind();
                let left = epoch.ends.map_or(Duration::MAX, |ends| now.until(ends));
                if matches!(kind, ErrorKind::NotRenewable | ErrorKind::Denied) && replaceable {
                    epoch.fixed = true;
                    epoch.spent = true;
                    epoch.act_at = None;
                } else {
                    if matches!(kind, ErrorKind::NotRenewable | ErrorKind::Denied) {
                        epoch.fixed = true;
                    } else {
                        epoch.spent = left < Duration::from_secs(epoch.increment) / 4;
                    }
                    let ttl = Duration::from_secs(epoch.increment);
                    let calm = if kind.is_transient() {
                        schedule::pace(epoch.failures, left, ttl, dice)
                    } else {
                        Duration::ZERO
                    };
                    let wait = backoff(epoch.failures, kind)
                        .mul_f64(dice)
                        .max(calm)
                        .min((left / 2).max(Duration::from_millis(50)));
                    epoch.act_at = Some(now + wait);
                }
            }
        }
    }

    fn give_back(&mut self, vault: &mut Vault, real: Time, now: Time, number: u32) {
        let Some(epoch) = self.epochs.get_mut(&number) else { return };
        match vault.revoke_token(real, epoch.token) {
            Ok(()) | Err(Refusal::TokenDead) => {
                epoch.finished = true;
                epoch.dead = true;
            }
            Err(refusal) if refusal.kind().is_transient() => {
                epoch.failures += 1;
                epoch.act_at = Some(now + backoff(epoch.failures, refusal.kind()));
            }
            Err(_) => epoch.finished = true,
        }
    }

    fn replaceable(&self, number: u32) -> bool {
        self.repeatable() || number != self.current
    }

    pub(crate) fn log_in(
        &mut self,
        vault: &mut Vault,
        real: Time,
        now: Time,
    ) -> Result<u32, SourceError> {
        let dice = self.dice();
        let batch = self.kind == TokenKind::Batch;
        let granted = match self.kind {
            TokenKind::Root => Ok((vault.root_token(real), None)),
            _ => vault.login(real).map(|grant| (grant.token, Some(grant.ttl))),
        };
        match granted {
            Ok((token, ttl)) => {
                self.failures = 0;
                self.failure = None;
                self.given = true;
                let (old, life) = (self.current, ttl.map(Duration::from_secs));
                if let Some(old) = self.epochs.get_mut(&old) {
                    old.retired = true;
                    if old.holds == 0 {
                        old.act_at = Some(now);
                    }
                }
                self.current += 1;
                let due = life.map(|life| now + schedule::renew_after(life, dice));
                let worn = life.map(|life| now + schedule::replace_after(life, dice));
                let epoch = Epoch {
                    token,
                    increment: ttl.unwrap_or_default(),
                    ends: life.map(|life| now + life),
                    act_at: due.filter(|_| !batch),
                    worn_at: worn.filter(|_| batch),
                    dead: false,
                    spent: false,
                    fixed: batch || life.is_none(),
                    retired: false,
                    finished: false,
                    failures: 0,
                    holds: 0,
                    told: None,
                };
                self.epochs.insert(self.current, epoch);
                Ok(self.current)
            }
            Err(refusal) => {
                self.failures += 1;
                let failure = error(refusal);
                let alive = self.epochs.get(&self.current).filter(|epoch| !epoch.dead);
                let calm = alive.and_then(|e| Some((e.increment, e.ends?))).map(|(ttl, ends)| {
                    let ttl = Duration::from_secs(ttl);
                    schedule::pace(self.failures, now.until(ends), ttl, dice)
                });
                let calm = calm.filter(|_| refusal.kind().is_transient()).unwrap_or_default();
                let wait = backoff(self.failures, refusal.kind()).mul_f64(dice).max(calm);
                self.not_before = now + wait;
                self.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn usable(
        &mut self,
        vault: &mut Vault,
        real: Time,
        now: Time,
        fresh: bool,
    ) -> Result<u32, SourceError> {
        let good = (self.epochs.get(&self.current))
            .is_some_and(|e| !e.dead && (!fresh || !e.spent || !self.repeatable()));
        if good {
            return Ok(self.current);
        }
        if self.given && !self.repeatable() {
            return Err(SourceError::new(ErrorKind::TokenLost, "no other token"));
        }
        // Demand brings a login forward, a little.
        if let Some(failure) = self.failure.clone()
            && now + Duration::from_secs(5) < self.not_before
        {
            let kind = if failure.is_transient() { failure.kind() } else { ErrorKind::TokenLost };
            return Err(SourceError::new(kind, "no login for now"));
        }
        self.log_in(vault, real, now).map_err(|e| {
            // At the start it is said as it is.
            if e.is_transient() || self.current == 0 {
                e
            } else {
                SourceError::new(ErrorKind::TokenLost, "login refused")
            }
        })
    }

    /// Makes a call with a token, and once more with the next if that one is dead. Says which token
    /// it was.
    ///
    /// # Errors
    /// As the source would.
    pub fn call<T>(
        &mut self,
        vault: &mut Vault,
        real: Time,
        now: Time,
        fresh: bool,
        mut make: impl FnMut(&mut Vault, TokenId) -> Result<T, Refusal>,
    ) -> Result<(u32, T), SourceError> {
        for last in [false, true] {
            let number = self.usable(vault, real, now, fresh)?;
            let Some(epoch) = self.epochs.get_mut(&number) else { break };
            match make(vault, epoch.token) {
                Ok(done) => return Ok((number, done)),
                Err(Refusal::TokenDead) => {
                    epoch.dead = true;
                    epoch.ends = Some(epoch.ends.map_or(now, |e| e.min(now)));
                    if last {
                        return Err(error(Refusal::TokenDead));
                    }
                }
                Err(refusal) => return Err(error(refusal)),
            }
        }
        Err(error(Refusal::TokenDead))
    }

    /// A lease lives on it.
    pub fn hold(&mut self, number: u32) {
        if let Some(epoch) = self.epochs.get_mut(&number) {
            epoch.holds += 1;
        }
    }

    /// A lease has gone.
    pub fn release(&mut self, number: u32, now: Time) {
        if let Some(epoch) = self.epochs.get_mut(&number) {
            epoch.holds -= 1;
            if epoch.holds == 0 && epoch.retired {
                epoch.act_at = Some(now);
            }
        }
    }

    /// There is no token any more, and no way to another: a person has to give one.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        let dead = self.epochs.get(&self.current).is_none_or(|epoch| epoch.dead);
        self.given && !self.repeatable() && dead
    }

    /// What a lease is told of its token.
    #[must_use]
    pub fn state(&self, number: u32) -> Option<ParentState> {
        let epoch = self.epochs.get(&number)?;
        let renewing = !(epoch.fixed || epoch.dead || epoch.retired);
        Some(match epoch.ends {
            None => ParentState::endless(),
            Some(ends) => ParentState::ending(ends, renewing, self.replaceable(number)),
        })
    }

    /// States that changed since they were last taken.
    pub fn take_news(&mut self) -> Vec<(u32, ParentState)> {
        let mut news = Vec::new();
        let numbers: Vec<u32> = self.epochs.keys().copied().collect();
        for number in numbers {
            let state = self.state(number);
            let Some(epoch) = self.epochs.get_mut(&number) else { continue };
            if epoch.told != state {
                epoch.told = state;
                news.extend(state.map(|state| (number, state)));
            }
        }
        news
    }

    /// The token of an epoch.
    #[must_use]
    pub fn token(&self, number: u32) -> Option<TokenId> {
        self.epochs.get(&number).map(|epoch| epoch.token)
    }

    /// Gives back all tokens that are its own. Says which could not be.
    pub fn close(&mut self, vault: &mut Vault, real: Time, now: Time) -> Vec<TokenId> {
        let mut left = Vec::new();
        for epoch in self.epochs.values_mut() {
            if !self.kind.is_own() || epoch.finished {
                continue;
            }
            match vault.revoke_token(real, epoch.token) {
                Ok(()) | Err(Refusal::TokenDead) => {
                    epoch.dead = true;
                    epoch.ends = Some(now);
                }
                Err(_) => left.push(epoch.token),
            }
        }
        left
    }
}

impl TokenKind {
    /// We logged in for it, and give it back.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::AppRole | Self::Batch)
    }
}
