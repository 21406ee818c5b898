//! Issue, prove, swap.

use std::time::Duration;

use super::policy::{self, MINT_TIMEOUT, MINTS_IN_FLIGHT, PROOF_REJECTIONS};
use super::{Action, Login, LoginId, Machine, Minted, Proofs, StartFailure};
use crate::clock::Time;
use crate::event::{Event, Reason};
use crate::provider::{Observation, Observed};
use crate::source::SourceError;

/// A rotation that is wanted, up to its swap.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "simulation", derive(Hash))]
pub(super) struct Rotation {
    pub(super) reason: Reason,
    /// Planned, of a generation that did its work: draws no permit for its first mint.
    free: bool,
    /// The leeway has come: it began so, or that came while it waited.
    pub(super) planned: bool,
    told: bool,
    delay_told: bool,
    /// The source itself says that there is something newer: needs no permit where no lease is
    /// made.
    news: bool,
    /// The source has something newer than the candidate. One on a lease stays good for all that,
    /// and the news is followed after it.
    outdated: bool,
    failures: u32,
    /// How often the source had no other login than the current one.
    rereads: u32,
    /// How many candidates without a lease every pool refused.
    refusals: u32,
    /// Not before: a backoff, or the limiter.
    pub(super) retry_at: Option<Time>,
    pub(super) candidate: Option<Login>,
    proof: Proof,
}

/// Where the proof of the candidate stands.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "simulation", derive(Hash))]
struct Proof {
    running: bool,
    failures: u32,
    retry_at: Option<Time>,
    last: Option<Proofs>,
}

/// The current generation went live without having been proven on every pool.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "simulation", derive(Hash))]
pub(super) struct Reprove {
    pub(super) at: Option<Time>,
    failures: u32,
    /// At the last proof some pool took it: who refuses it has yet to hear of it.
    taken: bool,
    /// It was refused since, which was put down to that.
    refused: bool,
}

/// A request to mint that has not been answered.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "simulation", derive(Hash))]
pub(super) struct Mint {
    attempt: u64,
    started: Time,
    drew_permit: bool,
}

impl Rotation {
    pub(super) fn new(reason: Reason, free: bool) -> Self {
        Self {
            reason,
            free,
            planned: false,
            told: false,
            delay_told: false,
            news: false,
            outdated: false,
            failures: 0,
            rereads: 0,
            refusals: 0,
            retry_at: None,
            candidate: None,
            proof: Proof::default(),
        }
    }

    /// Not going as planned.
    pub(super) fn in_trouble(&self) -> bool {
        self.failures + self.rereads + self.refusals + self.proof.failures > 0 || self.delay_told
    }
}

impl Machine {
    /// Begins a rotation unless one is running.
    pub(super) fn want(&mut self, reason: Reason) {
        if self.stopping.is_none() && self.rotation.is_none() && self.current.is_some() {
            self.rotation = Some(Rotation::new(reason, false));
        }
    }

    /// Whether asking the source can cost a lease. Until it has answered once it may.
    fn makes_leases(&self) -> bool {
        self.leases.unwrap_or(true)
    }

    /// The source has news: there may be a rotation to begin, or one to make use of it.
    pub(super) fn on_changed(&mut self, now: Time) {
        if self.stopping.is_some() {
            return;
        }
        let at = Some(self.news_at).filter(|at| *at > now);
        if let Some(rotation) = &mut self.rotation {
            rotation.outdated = rotation.candidate.is_some();
            if rotation.candidate.is_none() && self.mints.is_empty() {
                rotation.news = true;
                rotation.retry_at = at;
            }
        } else if self.current.is_some() {
            let mut rotation = Rotation::new(Reason::SourceChanged, false);
            rotation.news = true;
            rotation.retry_at = at;
            self.rotation = Some(rotation);
        }
    }

    pub(super) fn rotate_if_due(&mut self, now: Time) {
        let Some(current) = &self.current else { return };
        if !self.expired_told && current.over(now) {
            let generation = current.generation.unwrap_or(0);
            self.expired_told = true;
            self.emit(Event::Expired { generation });
            if broken!(DistrustsAtTheEnd) {
                self.out.push(Action::Distrust { generation });
            }
        }
        let Some(current) = &self.current else { return };
        if self.rotation.as_ref().is_some_and(|r| r.planned) {
            return;
        }
        let due = current.rotate_at().filter(|(at, _)| *at <= now);
        let Some((_, by_token)) = due else { return };
        let reason = match () {
            () if by_token => Reason::TokenEnding,
            () if current.last => Reason::MaxTtl,
            () => Reason::Leeway,
        };
        // Minting is free for a generation that did its work: proven, and in service for half of
        // what was planned. What ends sooner draws on the limiter.
        let served = now - self.swapped_at;
        let free = current.proven && served * 2 >= current.planned_service;
        match &mut self.rotation {
            // One that the limiter holds, say. From here on it is a planned one, and as free.
            Some(waiting) => {
                waiting.planned = true;
                if free && waiting.candidate.is_none() {
                    waiting.free = true;
                    if waiting.delay_told {
                        waiting.retry_at = None;
                    }
                }
            }
            None => {
                let begun = Rotation::new(reason, free);
                self.rotation = Some(Rotation { planned: true, ..begun });
            }
        }
    }

    /// A renewal came through before anything was minted: the rotation that its lateness had
    /// begun is not needed.
    pub(super) fn forget_needless_rotation(&mut self, now: Time) {
        let later = self.current.as_ref().and_then(Login::rotate_at).is_some_and(|(t, _)| t > now);
        let idle = self.mints.is_empty()
            && (self.rotation.as_ref())
                .is_some_and(|r| r.reason == Reason::Leeway && r.candidate.is_none());
        if later && idle {
            self.rotation = None;
        }
    }

    pub(super) fn pursue_rotation(&mut self, now: Time) {
        let late = self.mints.extract_if(.., |m| now - m.started >= MINT_TIMEOUT);
        self.given_up.extend(late);
        self.tell_rotation();
        self.judge_candidate(now);
        // A swap to what is outdated has begun the next one.
        self.tell_rotation();
        self.mint_if_due(now);
    }

    /// Before anything is asked of the source for it.
    fn tell_rotation(&mut self) {
        let untold = self.rotation.as_mut().filter(|rotation| !rotation.told);
        let Some(rotation) = untold else { return };
        rotation.told = true;
        let reason = rotation.reason;
        if reason != Reason::Start {
            self.emit(Event::Rotating { reason });
        }
    }

    fn mint_if_due(&mut self, now: Time) {
        let (terms, read) = (self.terms(), !self.makes_leases());
        let Some(rotation) = &mut self.rotation else {
            return;
        };
        if rotation.candidate.is_some() || rotation.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let patience = terms.mint_patience();
        let hanging = self.mints.iter().all(|m| now - m.started >= patience);
        let few = self.mints.len() < MINTS_IN_FLIGHT || broken!(MintsTooMany);
        if !few || !hanging {
            return;
        }
        let free = (rotation.free || (rotation.news && read)) && self.mints.is_empty();
        let permit = match () {
            () if free || broken!(MintsWithoutPermit) => Ok(()),
            () if read => self.reads.take(now, policy::READ_EVERY),
            () => self.limiter.take(now, terms.refill()),
        };
        if let Err(at) = permit {
            rotation.retry_at = Some(at);
            if !rotation.delay_told {
                rotation.delay_told = true;
                let (reason, retry_in) = (rotation.reason, now.until(at));
                self.emit(Event::RotationDelayed { reason, retry_in });
            }
            return;
        }
        rotation.retry_at = None;
        let news = std::mem::take(&mut rotation.news);
        if news {
            self.news_at = now + policy::news_pause(self.idle_news);
            self.idle_news += 1;
        }
        let attempt = self.attempt();
        self.mints.push(Mint { attempt, started: now, drew_permit: !free });
        self.out.push(Action::Issue { attempt });
    }

    pub(super) fn on_issued(
        &mut self,
        now: Time,
        attempt: u64,
        sent: Time,
        result: Result<Minted, SourceError>,
    ) {
        self.heard(now, sent, result.as_ref().err());
        self.given_up.retain(|m| m.attempt != attempt);
        let known = self.mints.iter().position(|m| m.attempt == attempt);
        let mint = known.map(|at| self.mints.remove(at));
        match result {
            Ok(minted) => self.on_minted(now, attempt, sent, minted),
            Err(error) => {
                // Nothing was minted, unless the answer was lost or made no sense: then there may
                // be a login that nobody knows, and the next one is not free. Where there are no
                // leases nothing is minted, but a read has cost a request all the same.
                let definite = !error.may_have_issued();
                let read = !self.makes_leases();
                if let Some(rotation) = &mut self.rotation {
                    rotation.free &= definite || read;
                }
                if definite && !read && mint.is_some_and(|m| m.drew_permit) {
                    self.limiter.give_back();
                }
                self.on_mint_failed(now, error);
            }
        }
    }

    fn on_mint_failed(&mut self, now: Time, error: SourceError) {
        // With a candidate at hand the failure of its companion is nobody's concern.
        if self.rotation.as_ref().is_none_or(|r| r.candidate.is_some()) || self.stopping.is_some() {
            return;
        }
        if self.current.is_none() && !error.is_transient() {
            // At the start nobody is served yet: better to fail now than to look alive.
            self.rotation = None;
            self.out.push(Action::StartFailed(StartFailure::Source(error)));
            return;
        }
        let failures = self.rotation.as_ref().map_or(0, |r| r.failures);
        let good = self.current.as_ref().filter(|current| current.certainly_good(now));
        let end = good.and_then(Login::effective_end);
        let pause = self.pause_before(now, end, &error, failures);
        if let Some(rotation) = &mut self.rotation {
            rotation.failures += 1;
            let pause = if broken!(GivesUp) { Duration::MAX } else { pause };
            rotation.retry_at = Some(now + pause);
        }
        self.emit(Event::IssueFailed { error, retry_in: Some(pause) });
    }

    fn on_minted(&mut self, now: Time, id: LoginId, sent: Time, minted: Minted) {
        let ttl = minted.ttl;
        let terms = self.policy.terms(ttl);
        let unchanged = minted.unchanged;
        self.leases = Some(self.leases == Some(true) || minted.revocable);
        if !unchanged {
            self.emit(Event::Issued { username: minted.username.clone(), ttl });
        }
        let login = Login::new(id, sent, now, minted, terms);
        let vacant = self.rotation.as_ref().is_some_and(|r| r.candidate.is_none());
        let newer = !vacant && !unchanged && self.overtakes(&login);
        if self.stopping.is_some() || !(vacant || newer) {
            if broken!(DropsLateMints) {
                return;
            }
            // A late answer whose place is taken. It must not be left to its TTL.
            self.retire(login);
            return;
        }
        if unchanged {
            return self.on_unchanged(now, login);
        }
        if newer {
            let begun = || Rotation::new(Reason::SourceChanged, false);
            let rotation = self.rotation.get_or_insert_with(begun);
            if let Some(overtaken) = rotation.candidate.take() {
                self.retire(overtaken);
            }
        }
        if let (true, Some(ttl), None) = (terms.clipped, ttl, &self.current) {
            let leeway = self.policy.asked_leeway(ttl);
            let grace = self.policy.grace.unwrap_or(terms.grace);
            self.rotation = None;
            self.retire(login);
            let failure = StartFailure::TtlTooShort { ttl, leeway, grace };
            self.out.push(Action::StartFailed(failure));
            return;
        }
        let Some(rotation) = &mut self.rotation else {
            return;
        };
        rotation.free = false;
        rotation.failures = 0;
        rotation.retry_at = None;
        // Counted from before the request was sent. One that hung for most of its TTL is too
        // short-lived to put in place, and the next is quick.
        let stale = login.effective_end().is_some_and(|end| now.until(end) < terms.leeway)
            && now - sent > Duration::from_secs(1);
        if stale {
            self.retire(login);
            return;
        }
        rotation.candidate = Some(login);
        rotation.outdated = false;
        rotation.proof = Proof::default();
        if let (true, Some(ttl)) = (terms.clipped, ttl) {
            self.warn(format!(
                "the server granted only {ttl:.0?}, too short for the grace and the roll asked \
                 for: they are cut to {:.1?} and {:.1?}; raise default_ttl and max_ttl of the \
                 role, or lower them",
                terms.grace, terms.roll
            ));
        }
    }

    /// The answer of the later of two requests. Without a lease it may bring a newer login than
    /// the other did, and the source, which has shown it, does not tell of it again.
    fn overtakes(&self, login: &Login) -> bool {
        let candidate = self.rotation.as_ref().and_then(|r| r.candidate.as_ref());
        let place = candidate.or(self.current.as_ref());
        place.is_some_and(|p| !p.revocable && !login.revocable && p.issued < login.issued)
    }

    /// The source has no other login than the current one. Nothing would change for a pool, so
    /// nothing is swapped; only the login's time is counted anew.
    fn on_unchanged(&mut self, now: Time, login: Login) {
        let (Some(current), Some(rotation)) = (&mut self.current, &mut self.rotation) else {
            return self.retire(login);
        };
        let generation = current.generation.unwrap_or(0);
        let reason = rotation.reason;
        self.out.push(Action::Merge { login: login.id, current: current.id });
        current.take_over(login);
        self.expired_told &= current.over(now);
        let due = current.rotate_at().is_some_and(|(at, _)| at <= now);
        rotation.rereads += 1;
        rotation.free = false;
        // One that is refused is about to be replaced, or wrong. One that ends has to be.
        let refused = reason == Reason::LoginRejected;
        if due || (refused && rotation.rereads < policy::REREADS) {
            // Several times before it ends.
            let left = current.effective_end().map_or(Duration::MAX, |end| now.until(end));
            let cap = current.terms.transient_cap().min(policy::READ_EVERY.max(left / 4));
            let pause = policy::backoff(&mut self.rng, rotation.rereads, cap);
            rotation.retry_at = Some(now + pause);
            return;
        }
        if refused {
            self.reads.slow_down();
        }
        self.rotation = None;
        self.emit(Event::Unchanged { generation, reason });
    }

    /// Proves the candidate, and decides about it once there is an answer.
    fn judge_candidate(&mut self, now: Time) {
        let patience_over = self.patience_over(now);
        let Some(rotation) = &mut self.rotation else {
            return;
        };
        let Some(candidate) = &rotation.candidate else {
            return;
        };
        if rotation.proof.running {
            return;
        }
        if candidate.over(now) {
            // Its lease ended while no pool could be asked.
            rotation.proof = Proof::default();
            if let Some(login) = rotation.candidate.take() {
                self.retire(login);
            }
            return;
        }
        let Some(proofs) = rotation.proof.last else {
            return if broken!(SwapsUnproven) { self.publish(now, true) } else { self.prove_now() };
        };
        let Proofs { proven, rejected, unreachable } = proofs;
        let refused = proofs.refused();
        if rejected == 0 && unreachable == 0 {
            return self.publish(now, true);
        }
        if !candidate.revocable && (refused || rotation.outdated) {
            return self.read_again(now, refused);
        }
        let long = now - candidate.issued >= candidate.terms.lag_patience();
        let long = long || broken!(TakesLagForRefusal);
        if refused && rotation.proof.failures >= PROOF_REJECTIONS && long {
            // Every pool refuses it, and not because a replica lags: it is of no use.
            rotation.proof = Proof::default();
            rotation.failures += 1;
            let failures = rotation.failures;
            let login = rotation.candidate.take();
            self.limiter.slow_down();
            let cap = self.terms().permanent_cap();
            let pause = policy::backoff(&mut self.rng, failures + 3, cap);
            if let Some(rotation) = &mut self.rotation {
                rotation.retry_at = Some(now + pause);
            }
            if let Some(login) = login {
                self.retire(login);
            }
            return;
        }
        // One that can't be reached never vetoes what another has proven; one that refuses does,
        // until the current login has no more time to give.
        let publish = match () {
            () if refused => broken!(SwapsToRefused),
            () if rejected == 0 && proven > 0 => true,
            () => patience_over,
        };
        if publish {
            return self.publish(now, false);
        }
        if rotation.proof.retry_at.is_none_or(|at| at <= now) {
            self.prove_now();
        }
    }

    /// The candidate was overtaken, or is refused by every pool: its password may have been changed
    /// between the read and the proof. It has no lease, so that another costs nothing.
    fn read_again(&mut self, now: Time, refused: bool) {
        let cap = self.terms().permanent_cap();
        let Some(rotation) = &mut self.rotation else {
            return;
        };
        rotation.proof = Proof::default();
        if std::mem::take(&mut rotation.outdated) {
            rotation.news = true;
            rotation.retry_at = Some(self.news_at).filter(|at| *at > now);
        } else {
            let pause = policy::backoff(&mut self.rng, rotation.refusals, cap);
            rotation.retry_at = Some(now + pause);
        }
        rotation.refusals += u32::from(refused);
        if rotation.refusals > PROOF_REJECTIONS {
            self.reads.slow_down();
        }
        if let Some(login) = rotation.candidate.take() {
            self.retire(login);
        }
    }

    fn prove_now(&mut self) {
        let Some(rotation) = &mut self.rotation else {
            return;
        };
        let Some(candidate) = &rotation.candidate else {
            return;
        };
        rotation.proof.running = true;
        rotation.proof.retry_at = None;
        let login = candidate.id;
        // The number it will have if it is published.
        self.out.push(Action::Prove { login, generation: self.swaps + 1 });
    }

    pub(super) fn on_proved(&mut self, now: Time, login: LoginId, proofs: Proofs) {
        let failed = proofs.rejected + proofs.unreachable > 0;
        let mut rng = self.rng.fork();
        let cap = self.terms().transient_cap();
        let candidate = (self.rotation.as_mut())
            .filter(|r| r.candidate.as_ref().is_some_and(|c| c.id == login));
        if let Some(rotation) = candidate {
            let proof = &mut rotation.proof;
            proof.running = false;
            proof.last = Some(proofs);
            if failed {
                proof.failures += 1;
                proof.retry_at = Some(now + policy::backoff(&mut rng, proof.failures, cap));
            }
        } else if let Some(current) = self.current.as_mut().filter(|c| c.id == login) {
            current.proven = !failed;
            let generation = current.generation.unwrap_or(0);
            let before = self.reprove.take();
            let refused = before.as_ref().is_some_and(|r| r.refused);
            self.reprove = failed.then(|| {
                let failures = before.map_or(1, |r| r.failures + 1);
                let at = Some(now + policy::backoff(&mut rng, failures, Duration::from_secs(30)));
                Reprove { at, failures, taken: proofs.proven > 0, refused }
            });
            // No pool takes it any more: it was no lag.
            if refused && proofs.proven == 0 && proofs.rejected > 0 {
                self.on_observed(now, Observed { generation, what: Observation::LoginRejected });
            }
        }
    }

    /// Who refuses the current login may be a replica that lags, as not every pool has taken it
    /// yet and some pool has: another login would be as unknown there. Proving it tells.
    fn put_down_to_lag(&mut self, now: Time) -> bool {
        let Some(reprove) = self.reprove.as_mut().filter(|r| r.taken) else {
            return false;
        };
        reprove.refused = true;
        if now >= self.confirm_next && reprove.at.is_some() {
            self.confirm_next = now + policy::CONFIRM_EVERY;
            reprove.at = Some(now);
        }
        true
    }

    pub(super) fn reprove_if_due(&mut self, now: Time) {
        let (Some(reprove), Some(current)) = (&mut self.reprove, &self.current) else {
            return;
        };
        if reprove.at.is_some_and(|at| at <= now) {
            reprove.at = None;
            let generation = current.generation.unwrap_or(0);
            self.out.push(Action::Prove { login: current.id, generation });
        }
    }

    /// The current login has no more time to give to a candidate that is not proven everywhere:
    /// what is left is for the drain.
    fn patience_over(&self, now: Time) -> bool {
        self.current.as_ref().is_none_or(|current| !current.certainly_good(now))
            || self.patience_ends().is_some_and(|at| at <= now)
    }

    fn patience_ends(&self) -> Option<Time> {
        let current = self.current.as_ref()?;
        let end = current.effective_end()?;
        Some(end.before(current.terms.drain() + Duration::from_secs(1)))
    }

    fn publish(&mut self, now: Time, proven: bool) {
        let Some(Rotation { reason, outdated, candidate: Some(mut login), proof, .. }) =
            self.rotation.take()
        else {
            return;
        };
        self.swaps += 1;
        self.idle_news = 0;
        let generation = self.swaps + u64::from(broken!(SkipsNumbers));
        login.generation = Some(generation);
        login.proven = proven;
        login.plan_renewal(&mut self.rng, self.max_ttl);
        let life = login.effective_end().map_or(Duration::ZERO, |end| now.until(end));
        login.planned_service = login.terms.planned_service(life);
        if proven {
            self.limiter.speed_up();
            self.reads.speed_up();
            self.reprove = None;
        } else {
            let at = Some(now + Duration::from_secs(1));
            let taken = proof.last.is_some_and(|proofs| proofs.proven > 0);
            self.reprove = Some(Reprove { at, failures: 0, taken, refused: false });
            self.warn("swapped to a login that is not proven on every pool: look at its pools");
        }
        self.out.push(Action::Publish { login: login.id, generation });
        let username = login.username.clone();
        self.emit(Event::Swapped { generation, username, reason, proven });
        self.expired_told = false;
        self.swapped_at = now;
        if let Some(old) = self.current.replace(login) {
            self.begin_drain(now, old, reason);
        }
        if broken!(DrainsBeforeTheSwap) {
            self.out.reverse();
        }
        if outdated {
            self.on_changed(now);
        }
    }

    pub(super) fn on_observed(&mut self, now: Time, observed: Observed) {
        if observed.what == Observation::LoginRejected {
            self.observations += 1;
        }
        let generation = observed.generation;
        let current = self.current.as_ref().and_then(|current| current.generation);
        if current != Some(generation) || self.stopping.is_some() {
            return;
        }
        match observed.what {
            Observation::LoginRejected if self.put_down_to_lag(now) => {}
            Observation::LoginRejected => {
                if self.rotation.is_none() {
                    self.emit(Event::LoginRejected { generation });
                    self.want(Reason::LoginRejected);
                }
                self.insist(Reason::LoginRejected);
            }
            Observation::SessionRevoked => {
                if let Some(current) = self.current.as_mut().filter(|current| !current.dead) {
                    current.dead = true;
                    self.out.push(Action::Distrust { generation });
                    self.emit(Event::SessionRevoked { generation });
                    self.want(Reason::SessionRevoked);
                    self.insist(Reason::SessionRevoked);
                }
            }
            Observation::Suspected => {
                if now >= self.confirm_next && self.rotation.is_none() {
                    self.confirm_next = now + policy::CONFIRM_EVERY;
                    self.out.push(Action::Confirm { generation });
                }
            }
        }
    }

    /// A rotation that lateness had begun: no renewal makes it needless any more.
    fn insist(&mut self, reason: Reason) {
        if let Some(rotation) = &mut self.rotation
            && rotation.reason == Reason::Leeway
        {
            rotation.reason = reason;
        }
    }

    /// A hook that met a refused login has a swap to wait for.
    pub(super) fn refresh_running(&self, now: Time) -> bool {
        // Where nothing is minted the next try is near, and often the one that brings it.
        let soon = if self.makes_leases() { now } else { now + policy::READ_EVERY };
        self.rotation.as_ref().is_some_and(|r| {
            r.candidate.is_some()
                || !self.mints.is_empty()
                || r.retry_at.is_none_or(|at| at <= soon)
        })
    }

    pub(super) fn rotation_deadline(&self) -> Option<Time> {
        let rotation = self.rotation.as_ref()?;
        let candidate = rotation.candidate.as_ref();
        let mint = match self.mints.as_slice() {
            [] if broken!(ForgetsItsTimer) => None,
            [] => rotation.retry_at,
            [hanging] => {
                Some(hanging.started + self.terms().mint_patience()).max(rotation.retry_at)
            }
            [oldest, ..] => Some(oldest.started + MINT_TIMEOUT),
        };
        if candidate.is_none() {
            return mint;
        }
        let proof = &rotation.proof;
        let retry = proof.retry_at.filter(|_| !proof.running)?;
        // A refused candidate is not published when patience ends, so nothing is due then.
        let patience = self.patience_ends().filter(|_| !proof.last.is_some_and(Proofs::refused));
        Some(patience.map_or(retry, |at| at.min(retry)))
    }
}
