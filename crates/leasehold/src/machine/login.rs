//! One credential's lease, as the machine sees it.

use std::time::Duration;

use super::policy::{self, Terms};
use crate::clock::Time;
use crate::credential::ParentState;
use crate::source::SourceError;

/// Names a credential from its request on: the number of the attempt that minted it.
pub type LoginId = u64;

/// What the machine has to know of a freshly minted credential; the secret stays with the driver.
#[derive(Clone, Debug)]
pub struct Minted {
    pub username: String,
    pub ttl: Option<Duration>,
    /// Has a lease that can be renewed.
    pub renewable: bool,
    /// Has a lease that can be revoked.
    pub revocable: bool,
    pub parent: Option<ParentState>,
    /// It is the current login itself, not known to be dead, come again without a lease of its
    /// own.
    pub unchanged: bool,
}

/// A credential that exists, in whatever stage.
#[derive(Clone, Debug, Hash)]
pub struct Login {
    pub id: LoginId,
    pub generation: Option<u64>,
    pub username: String,
    pub terms: Terms,
    /// Just before the request that minted it was sent: what its end is counted from.
    pub issued: Time,
    /// End of the lease itself.
    pub end: Option<Time>,
    /// The server has ended the lease by then for sure: counted from the answer, where `end` is
    /// counted from before the request. A renewal whose answer is lost may have moved it.
    pub gone_by: Option<Time>,
    /// `end` will not move any more.
    pub last: bool,
    pub renewable: bool,
    pub revocable: bool,
    pub parent: Option<ParentState>,
    pub renewal: Renewal,
    /// How much sooner than its leeway it is rotated; `None` while its end may still move.
    pub early: Option<Duration>,
    /// Known to be refused or gone though its lease has not ended.
    pub dead: bool,
    /// The server said that the lease is gone.
    pub lost: bool,
    pub proven: bool,
    /// How long it was meant to be current, at the least, when it became so.
    pub planned_service: Duration,
}

#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Renewal {
    pub at: Option<Time>,
    pub in_flight: Option<u64>,
    /// The one in flight was sent while there was a lease to make longer.
    pub can_extend: bool,
    pub failures: u32,
}

impl Login {
    pub fn new(id: LoginId, sent: Time, now: Time, minted: Minted, terms: Terms) -> Self {
        let sent = if broken!(CountsFromTheAnswer) { now } else { sent };
        Self {
            id,
            generation: None,
            username: minted.username,
            terms,
            issued: sent,
            end: minted.ttl.map(|ttl| sent + ttl),
            gone_by: minted.ttl.map(|ttl| now + ttl),
            last: !minted.renewable,
            renewable: minted.renewable,
            revocable: minted.revocable,
            parent: minted.parent,
            renewal: Renewal::default(),
            early: None,
            dead: false,
            lost: false,
            proven: false,
            planned_service: Duration::ZERO,
        }
    }

    /// The same login came again: its end is counted anew, the rest stays as it is. From a cache
    /// it comes with what is left of its TTL, and the terms stay those of the whole.
    pub fn take_over(&mut self, other: Self) {
        let rest = self.terms.ttl.zip(other.terms.ttl).is_some_and(|(whole, left)| left < whole);
        if !rest {
            self.terms = other.terms;
        }
        self.issued = other.issued;
        self.end = other.end;
        self.gone_by = other.gone_by;
        self.parent = other.parent;
    }

    /// Its sessions outlive it: nothing ends them when there is no lease to revoke.
    pub fn sessions_stay(&self) -> bool {
        !self.revocable && !self.dead
    }

    /// The lease ends with its token, whatever its own TTL says.
    pub fn effective_end(&self) -> Option<Time> {
        let parent = self.parent.filter(|_| !broken!(IgnoresTheToken)).and_then(|p| p.ends);
        [self.end, parent].into_iter().flatten().min()
    }

    pub fn over(&self, now: Time) -> bool {
        self.lost || self.effective_end().is_some_and(|end| end <= now)
    }

    /// Nothing is left of the lease, by the server's word or by its TTL.
    pub fn gone(&self, now: Time) -> bool {
        self.lost || self.gone_by().is_some_and(|by| by <= now)
    }

    pub fn gone_by(&self) -> Option<Time> {
        let parent = self.parent.and_then(|p| p.ends);
        // Nobody knows while it may be moved.
        let moving = self.renewal.in_flight.is_some() && self.renewal.can_extend;
        let own = self.gone_by.filter(|_| !moving);
        // What is told in whole seconds may be cut off by almost one.
        let by = [own, parent].into_iter().flatten().min()?;
        Some(by + Duration::from_secs(1))
    }

    /// A renewal was answered by `error`. It may have been carried out all the same, at the latest
    /// just now.
    pub fn renewal_failed(&mut self, now: Time, error: &SourceError) {
        if error.may_have_renewed() && self.renewal.can_extend {
            let asked = self.terms.ttl.map(|increment| now + increment);
            self.gone_by = self.gone_by.max(asked);
        }
    }

    /// When it has to be replaced, and whether that is because of its token. A token that its
    /// session still renews, or that nothing can replace, is no reason to rotate.
    pub fn rotate_at(&self) -> Option<(Time, bool)> {
        let early = self.terms.leeway + self.early.unwrap_or_default();
        let ahead = if self.last { early } else { self.terms.leeway };
        let own = self.end.map(|end| (end.before(ahead), false));
        let token = self.token_runs_out().map(|end| (end.before(early), true));
        [own, token].into_iter().flatten().min()
    }

    fn token_runs_out(&self) -> Option<Time> {
        let parent = self.parent.filter(|p| !p.renewing && p.replaceable);
        parent.filter(|_| !broken!(IgnoresTheToken)).and_then(|p| p.ends)
    }

    /// Its end may have become final. Then it is drawn, once, how much sooner it is replaced: what
    /// was started together ends together, and a server does not make thousands of logins within
    /// one leeway.
    pub fn spread_rotation(&mut self, rng: &mut fastrand::Rng, now: Time) {
        let ends = self.last || self.token_runs_out().is_some();
        // Without a lease there is nothing to be made: it is only read again.
        if !ends || !self.revocable || self.early.is_some() {
            return;
        }
        if let Some((at, _)) = self.rotate_at() {
            let most = policy::rotate_spread(now.until(at));
            self.early = Some(if most.is_zero() { most } else { most.mul_f64(rng.f64()) });
        }
    }

    /// As [`rotate_at`](Self::rotate_at), with what is known of the maximum TTL taken in: what is
    /// published as the plan. Once its time has come it is that, renewable or not: so that a
    /// rotation that hangs is seen to be late.
    pub fn planned_rotation(&self, now: Time, max_ttl: Option<Duration>) -> Option<Time> {
        let (at, by_token) = self.rotate_at()?;
        match max_ttl {
            _ if at <= now => Some(at),
            Some(max) if !self.last && !by_token => {
                Some(at.max((self.issued + max).before(self.terms.leeway)))
            }
            Some(_) | None if self.last || by_token => Some(at),
            _ => None,
        }
    }

    /// The lease is certainly alive and its login not known to be gone.
    pub fn certainly_good(&self, now: Time) -> bool {
        !self.dead && !self.over(now)
    }

    /// Plans the next renewal, at random so that a fleet that started together does not renew
    /// together.
    pub fn plan_renewal(&mut self, rng: &mut fastrand::Rng, max_ttl: Option<Duration>) {
        self.renewal.at = None;
        let (Some(end), Some(_), true) = (self.end, self.terms.ttl, self.renewable) else {
            return;
        };
        // Vault truncates to whole seconds, hence the second.
        let at_max = |max| end + Duration::from_secs(1) >= self.issued + max;
        if self.last || max_ttl.is_some_and(at_max) {
            self.last = true;
            return;
        }
        let jitter = self.terms.renew_spread().mul_f64(rng.f64());
        self.renewal.at = Some(end.before(self.terms.renew_within() + jitter));
    }

    /// A renewal that failed, and may be tried again, waits at least so long.
    pub fn renewal_pause(&self, rng: &mut fastrand::Rng, now: Time) -> Duration {
        let leeway = self.effective_end().map(|end| end.before(self.terms.leeway));
        let left = leeway.map_or(Duration::ZERO, |leeway| now.until(leeway));
        self.terms.renewal_pause(rng, self.renewal.failures, left)
    }
}
