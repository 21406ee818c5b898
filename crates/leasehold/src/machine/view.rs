//! What the simulation looks at.

use std::hash::{Hash, Hasher};

use super::{Login, LoginId, Machine, Remains};
use crate::clock::{Time, still_ahead};
use crate::source::SourceError;

/// Where a credential stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Being proven.
    Candidate,
    /// Handed out.
    Current,
    /// Superseded, with connections on it until the deadline at the latest.
    Draining(Time),
    /// To be revoked, or left to its TTL.
    Retiring,
}

impl Machine {
    /// Every credential that there is, each once.
    pub fn logins(&self) -> impl Iterator<Item = (Stage, &Login)> {
        let candidate = self.rotation.iter().filter_map(|r| r.candidate.as_ref());
        (candidate.map(|login| (Stage::Candidate, login)))
            .chain(self.current.iter().map(|login| (Stage::Current, login)))
            .chain(self.draining.iter().map(|d| (Stage::Draining(d.deadline), &d.login)))
            .chain(self.retiring.iter().map(|r| (Stage::Retiring, &r.login)))
    }

    /// Whether a request was sent before one that has been answered well.
    #[must_use]
    pub fn is_overtaken(&self, sent: Time) -> bool {
        sent < self.answered
    }

    /// Takes `last` for the highest number of an attempt that anybody still knows.
    pub fn renumber(&mut self, last: LoginId) {
        self.attempts = last;
    }

    /// Starts the jitter anew, so that it depends on nothing that came before: for exploring
    /// histories in which the order of events is all that differs.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = fastrand::Rng::with_seed(seed);
    }
}

/// Should its token be revoked, the lease goes too.
#[must_use]
pub fn goes_with_its_token(remains: &Remains) -> bool {
    remains.goes_with_its_token
}

/// What decides what it will do: not its dice, and not what it only tells.
impl Hash for Machine {
    fn hash<H: Hasher>(&self, into: &mut H) {
        let Self {
            policy,
            rng: _,
            limiter,
            reads,
            leases,
            news_at,
            idle_news,
            // The next number: see `renumber`.
            attempts: _,
            swaps,
            // Which of the later answers it counts less for: see `is_overtaken`.
            answered: _,
            renewals: _,
            observations: _,
            max_ttl,
            current,
            swapped_at,
            expired_told,
            reprove,
            confirm_next,
            rotation,
            mints,
            given_up,
            draining,
            retiring,
            stopping,
            last_error: _,
            source_ok,
            sealed: _,
            out: _,
        } = self;
        let (news_at, confirm_next) = (still_ahead(*news_at), still_ahead(*confirm_next));
        (policy, limiter, reads, leases, news_at, idle_news).hash(into);
        (swaps, max_ttl, current, swapped_at, expired_told).hash(into);
        (reprove, confirm_next, rotation, mints, given_up).hash(into);
        (draining, retiring, stopping, source_ok).hash(into);
    }
}

/// What is decided by: not its words.
impl Hash for SourceError {
    fn hash<H: Hasher>(&self, into: &mut H) {
        (self.kind(), self.may_have_issued(), self.server_retry_after()).hash(into);
    }
}
