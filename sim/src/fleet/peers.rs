//! What others do, as far as it is known how they do it; where it is not, the kindest guess.

use std::time::Duration;

use leasehold::clock::Time;

use super::server::{Lost, Work};
use super::{Process, Request, TTL, new_vault};
use crate::vault::{LeaseId, Refusal, TokenId, Vault};

const S: Duration = Duration::from_secs(1);

/// When to renew, and what to do when that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// A loop around a sleep of half the TTL, with 5 s between tries of what fails.
    Fixed,
    /// `LifetimeWatcher` of the Go clients, one for the token and one for the lease: at two thirds
    /// and some of what is left; after a failure a backoff from 10 s to 5 min, until it would reach
    /// into the last 10 to 20 %; then a new login. The tight loop that most of its releases go into
    /// after a failure is left out.
    Watcher,
    /// As Spring Vault does with a lease that is rotated when it ends: renewed a minute before its
    /// end, dropped and made anew when that fails; the token renewed 5 s before its end, and
    /// replaced when that fails.
    BeforeTheEnd,
}

impl Algorithm {
    /// For tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed interval",
            Self::Watcher => "LifetimeWatcher",
            Self::BeforeTheEnd => "a minute before the end",
        }
    }

    /// What the clients of each wait for an answer.
    const fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Fixed => 10,
            Self::Watcher => 60,
            Self::BeforeTheEnd => 15,
        })
    }
}

/// What is kept alive: a token or a lease.
#[derive(Clone, Copy, Debug)]
struct Kept<Id> {
    /// `None`: one is wanted.
    id: Option<Id>,
    ends: Time,
    /// When something is to be done about it.
    at: Option<Time>,
    failures: u32,
    /// The watcher's margin, drawn anew with each success.
    margin: Duration,
}

impl<Id> Kept<Id> {
    const fn wanted(at: Option<Time>) -> Self {
        Self { id: None, ends: Time::ZERO, at, failures: 0, margin: Duration::ZERO }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Peer {
    algorithm: Algorithm,
    vault: Vault,
    rng: fastrand::Rng,
    token: Kept<TokenId>,
    lease: Kept<LeaseId>,
    /// The login in use: the one that is kept, or the last one that was.
    current: Option<LeaseId>,
    /// How often it began anew with another token.
    turn: u64,
    minted: u32,
}

impl Peer {
    /// One that starts at an instant.
    #[must_use]
    pub fn new(algorithm: Algorithm, starts: Time, seed: u64) -> Self {
        Self {
            algorithm,
            vault: new_vault(),
            rng: fastrand::Rng::with_seed(seed),
            token: Kept::wanted(Some(starts)),
            lease: Kept::wanted(None),
            current: None,
            turn: 0,
            minted: 0,
        }
    }

    /// When to renew what was granted just now, `fresh` or once more; with the watcher's margin.
    fn plan(&mut self, sent: Time, now: Time, fresh: bool, token: bool) -> (Time, Duration) {
        match self.algorithm {
            Algorithm::Fixed => (sent + TTL / 2, Duration::ZERO),
            Algorithm::Watcher if fresh => (now, self.margin()),
            Algorithm::Watcher => {
                let margin = self.margin();
                (now + TTL * 2 / 3 + margin / 3, margin)
            }
            Algorithm::BeforeTheEnd if token => (now + (TTL - 5 * S), Duration::ZERO),
            Algorithm::BeforeTheEnd => (now + (TTL - 60 * S), Duration::ZERO),
        }
    }

    fn margin(&mut self) -> Duration {
        TTL.mul_f64(0.1 + 0.1 * self.rng.f64())
    }

    fn watchers_backoff(&mut self, failures: u32) -> Duration {
        let grown = (10 * S * 2u32.saturating_pow(failures.min(10))).min(300 * S);
        grown.mul_f64(0.5 + self.rng.f64())
    }

    /// How long to wait before a failed renewal is tried again. `None`: it is given up.
    fn renew_again(
        &mut self,
        now: Time,
        failures: u32,
        ends: Time,
        margin: Duration,
    ) -> Option<Duration> {
        match self.algorithm {
            Algorithm::Fixed => Some(5 * S),
            Algorithm::Watcher => {
                let pause = self.watchers_backoff(failures);
                (now.until(ends) > pause + margin).then_some(pause)
            }
            Algorithm::BeforeTheEnd => None,
        }
    }

    /// How long to wait before a login or a mint that failed is tried again.
    fn get_again(&mut self, failures: u32) -> Duration {
        match self.algorithm {
            Algorithm::Fixed => 5 * S,
            Algorithm::Watcher => self.watchers_backoff(failures),
            Algorithm::BeforeTheEnd => {
                Duration::from_millis(500).mul_f64(1.5f64.powi(failures.min(30) as i32)).min(30 * S)
            }
        }
    }

    /// The token is gone, and with it the lease.
    fn log_in_anew(&mut self, at: Time) {
        self.turn += 1;
        self.token = Kept::wanted(Some(at));
        self.lease = Kept::wanted(None);
    }

    fn carry_out(&mut self, now: Time, work: Work) -> Result<(), Refusal> {
        let token = self.token.id.ok_or(Refusal::TokenDead);
        match work {
            Work::Login => {
                let grant = self.vault.login(now)?;
                self.token.id = Some(grant.token);
            }
            Work::RenewToken => {
                self.vault.renew_token(now, token?, TTL.as_secs())?;
            }
            Work::Mint => {
                let grant = self.vault.issue(now, token?, 0)?;
                self.lease.id = Some(grant.lease);
                self.current = Some(grant.lease);
                self.minted += 1;
            }
            Work::Renew => {
                let lease = self.lease.id.ok_or(Refusal::LeaseUnknown)?;
                self.vault.renew(now, token?, lease, TTL.as_secs())?;
            }
            Work::Revoke | Work::RevokeToken => {}
        }
        Ok(())
    }

    fn succeeded(&mut self, now: Time, sent: Time, work: Work) {
        let token = work.is_of_token();
        let fresh = matches!(work, Work::Login | Work::Mint);
        let (at, margin) = self.plan(sent, now, fresh, token);
        if token {
            self.token = Kept { ends: now + TTL, at: Some(at), failures: 0, margin, ..self.token };
            if fresh {
                self.lease = Kept::wanted(Some(now));
            }
        } else {
            self.lease = Kept { ends: now + TTL, at: Some(at), failures: 0, margin, ..self.lease };
        }
    }

    fn failed(&mut self, now: Time, work: Work) {
        match work {
            Work::Login => {
                let pause = self.get_again(self.token.failures);
                self.token.failures += 1;
                self.token.at = Some(now + pause);
            }
            Work::Mint => {
                let pause = self.get_again(self.lease.failures);
                self.lease.failures += 1;
                self.lease.at = Some(now + pause);
            }
            Work::RenewToken => {
                let Kept { failures, ends, margin, .. } = self.token;
                self.token.failures += 1;
                match self.renew_again(now, failures, ends, margin) {
                    Some(pause) => self.token.at = Some(now + pause),
                    None => self.log_in_anew(now),
                }
            }
            Work::Renew => {
                let Kept { failures, ends, margin, .. } = self.lease;
                self.lease.failures += 1;
                match self.renew_again(now, failures, ends, margin) {
                    Some(pause) => self.lease.at = Some(now + pause),
                    None => self.lease = Kept::wanted(Some(now)),
                }
            }
            Work::Revoke | Work::RevokeToken => {}
        }
    }
}

impl Process for Peer {
    fn wake(&mut self, now: Time, out: &mut Vec<Request>) {
        let patience = self.algorithm.patience();
        // `at` is empty while a request is under way.
        if self.token.at.is_some_and(|at| at <= now) {
            self.token.at = None;
            let work = if self.token.id.is_some() { Work::RenewToken } else { Work::Login };
            out.push(Request { attempt: self.turn, ..Request::new(work, now, patience) });
        }
        if self.lease.at.is_some_and(|at| at <= now) && self.token.id.is_some() {
            self.lease.at = None;
            let work = if self.lease.id.is_some() { Work::Renew } else { Work::Mint };
            out.push(Request { attempt: self.turn, ..Request::new(work, now, patience) });
        }
    }

    fn answered(
        &mut self,
        now: Time,
        request: Request,
        lost: Option<Lost>,
        _: &mut Vec<Request>,
    ) -> bool {
        let Request { work, sent, attempt, .. } = request;
        if attempt != self.turn {
            // Of a token that was given up meanwhile: its successor begins anew.
            return false;
        }
        let result = if lost.is_some() { Err(Refusal::Down) } else { self.carry_out(now, work) };
        match result {
            Ok(()) => self.succeeded(now, sent, work),
            Err(Refusal::TokenDead) => self.log_in_anew(now),
            Err(Refusal::LeaseUnknown | Refusal::LeaseExpired) => {
                self.lease = Kept::wanted(Some(now));
            }
            Err(_) => self.failed(now, work),
        }
        result.is_ok()
    }

    fn next(&self) -> Option<Time> {
        let lease = self.lease.at.filter(|_| self.token.id.is_some());
        [self.token.at, lease].into_iter().flatten().min()
    }

    fn lease(&self) -> Option<LeaseId> {
        self.current
    }

    fn vault(&mut self) -> &mut Vault {
        &mut self.vault
    }

    fn minted(&self) -> u32 {
        self.minted
    }
}
