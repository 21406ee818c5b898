//! What the simulation looks at.

use super::{Login, Machine, Remains};
use crate::clock::Time;

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

    /// A rotation is under way, or waiting for its time.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.rotation.is_some()
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
