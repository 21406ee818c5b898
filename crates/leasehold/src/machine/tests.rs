//! The pure machine: cases of its own, and a few random histories in which answers make no sense
//! at all. Those that do, by the thousand and with every invariant, are `cargo sim`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::policy::PROOF_REJECTIONS;
use super::*;

const HISTORIES: u64 = 300;
const STEPS: usize = 250;

/// A world in which each request is answered late, badly or not at all.
struct World {
    rng: fastrand::Rng,
    now: Time,
    machine: Machine,
    ttl: Duration,
    /// Unanswered requests.
    issues: Vec<(u64, Time)>,
    renewals: Vec<(LoginId, u64, Time)>,
    proofs: Vec<LoginId>,
    drains: BTreeMap<u64, Time>,
    revocations: Vec<(LoginId, Revocation)>,
    /// Minted and neither forgotten nor left.
    alive: BTreeSet<LoginId>,
    published: Vec<LoginId>,
    drained: BTreeSet<u64>,
    generation_of: BTreeMap<LoginId, u64>,
    finished: bool,
    failed_start: bool,
    /// The source reads logins and makes none.
    reads: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now = Time::from_start(Duration::from_secs(1));
        let ttl = Duration::from_secs(rng.u64(4..4000));
        let machine = Machine::new(Policy::default(), now, seed);
        Self {
            rng,
            now,
            machine,
            ttl,
            issues: Vec::new(),
            renewals: Vec::new(),
            proofs: Vec::new(),
            drains: BTreeMap::new(),
            revocations: Vec::new(),
            alive: BTreeSet::new(),
            published: Vec::new(),
            drained: BTreeSet::new(),
            generation_of: BTreeMap::new(),
            finished: false,
            failed_start: false,
            reads: seed.is_multiple_of(3),
        }
    }

    fn feed(&mut self, input: Input) {
        let actions = self.machine.handle(self.now, input);
        for action in actions {
            self.note(action);
        }
        let waiting = |(_, sent): &&(u64, Time)| self.now - *sent < policy::MINT_TIMEOUT;
        let waiting = self.issues.iter().filter(waiting).count();
        assert!(waiting <= policy::MINTS_IN_FLIGHT, "I7: mints in flight");
        if let Some(next) = self.machine.next_deadline() {
            // Due at once is fine once; a machine that stays due spins its driver.
            if next <= self.now {
                let more = self.machine.handle(self.now, Input::Tick);
                for action in more {
                    self.note(action);
                }
                let next = self.machine.next_deadline();
                assert!(next.is_none_or(|n| n > self.now), "the driver would spin");
            }
        }
    }

    fn note(&mut self, action: Action) {
        match action {
            Action::Issue { attempt } => self.issues.push((attempt, self.now)),
            Action::Prove { login, .. } => {
                assert!(self.alive.contains(&login));
                self.proofs.push(login);
            }
            Action::Publish { login, generation } => {
                assert!(self.alive.contains(&login), "published what is not there");
                assert_eq!(generation, self.published.len() as u64 + 1, "I1: numbers rise by one");
                self.published.push(login);
                self.generation_of.insert(login, generation);
            }
            Action::Drain { generation, deadline, .. } => {
                assert!(generation < self.published.len() as u64 || self.machine.is_stopping());
                self.drains.insert(generation, deadline);
            }
            Action::DrainTerms { generation, deadline, .. } => {
                self.drains.entry(generation).and_modify(|d| *d = deadline);
            }
            Action::Renew { login, attempt, increment } => {
                assert!(self.alive.contains(&login));
                assert!(increment >= Duration::from_secs(1));
                self.renewals.push((login, attempt, self.now));
            }
            Action::Revoke { login, how } => {
                assert!(self.alive.contains(&login), "revoked twice");
                if let Some(generation) = self.generation_of.get(&login) {
                    assert!(self.drained.contains(generation), "I4: revoked before drained");
                }
                self.revocations.push((login, how));
            }
            Action::Forget { login } => {
                assert!(self.alive.remove(&login), "forgotten twice");
                if let Some(generation) = self.generation_of.get(&login) {
                    assert!(self.drained.contains(generation), "I4: forgotten before drained");
                }
            }
            Action::Merge { login, current } => {
                assert!(self.alive.remove(&login), "merged what is not there");
                assert_eq!(self.published.last(), Some(&current), "merged into the current one");
            }
            Action::Finished(remains) => {
                self.finished = true;
                let known = remains.iter().filter(|r| r.username.is_some()).count();
                assert_eq!(known, self.alive.len(), "I9: the report is exact");
            }
            Action::StartFailed(_) => {
                self.failed_start = true;
                self.feed(Input::Shutdown { deadline: self.now + Duration::from_secs(120) });
            }
            Action::Confirm { .. }
            | Action::Distrust { .. }
            | Action::ClosePools
            | Action::Emit(_) => {}
        }
    }

    fn error(&mut self) -> SourceError {
        use ErrorKind as K;
        let kinds = [
            K::Unreachable,
            K::Timeout,
            K::Throttled,
            K::Sealed,
            K::ServerFault,
            K::Denied,
            K::TokenLost,
            K::LeaseLost,
            K::NotRenewable,
            K::NotFound,
            K::Malformed,
            K::Other,
        ];
        SourceError::new(kinds[self.rng.usize(..kinds.len())], "scripted")
    }

    fn pick<T>(rng: &mut fastrand::Rng, from: &mut Vec<T>) -> Option<T> {
        (!from.is_empty()).then(|| from.swap_remove(rng.usize(..from.len())))
    }

    fn answer_something(&mut self) {
        let ok = self.rng.u8(..10) < 7;
        match self.rng.u8(..12) {
            0..=2 => {
                let Some((attempt, sent)) = Self::pick(&mut self.rng, &mut self.issues) else {
                    return;
                };
                let result = if ok {
                    self.alive.insert(attempt);
                    let parent = self.rng.bool().then(|| self.parent());
                    let ttl = Some(self.ttl);
                    let username = format!("user-{attempt}");
                    // A source that reads comes by a login with no lease, often the same one.
                    let revocable = !self.reads;
                    let current = (self.machine.current.as_ref())
                        .is_some_and(|c| !c.dead && !self.machine.is_stopping());
                    let unchanged = self.reads && current && self.rng.bool();
                    let ttl = ttl.filter(|_| revocable || self.rng.bool());
                    let renewable = revocable;
                    Ok(Minted { username, ttl, renewable, revocable, parent, unchanged })
                } else {
                    Err(self.error())
                };
                self.feed(Input::Issued { attempt, sent, result });
            }
            3..=4 => {
                let Some((login, attempt, sent)) = Self::pick(&mut self.rng, &mut self.renewals)
                else {
                    return;
                };
                let granted = self.ttl.mul_f64(if self.rng.bool() { 1.0 } else { self.rng.f64() });
                let result = if ok { Ok(granted) } else { Err(self.error()) };
                self.feed(Input::Renewed { login, attempt, sent, result });
            }
            5..=6 => {
                let Some(login) = Self::pick(&mut self.rng, &mut self.proofs) else { return };
                let mut some = || usize::from(self.rng.u8(..4) == 0);
                let (rejected, unreachable) = (some(), some());
                let proofs = Proofs { proven: usize::from(ok), rejected, unreachable };
                self.feed(Input::Proved { login, proofs });
            }
            7..=8 => {
                let Some((&generation, &deadline)) = self.drains.first_key_value() else { return };
                let left = usize::from(self.now >= deadline);
                self.drains.remove(&generation);
                self.drained.insert(generation);
                self.feed(Input::Drained { generation, forced: Vec::new(), left });
            }
            9 => {
                let Some((login, how)) = Self::pick(&mut self.rng, &mut self.revocations) else {
                    return;
                };
                let result = if ok { Ok(()) } else { Err(self.error()) };
                if how == Revocation::Soft {
                    let result = result.map(|()| Duration::from_secs(1));
                    let (attempt, sent) = (SOFT_REVOKE, self.now);
                    self.feed(Input::Renewed { login, attempt, sent, result });
                } else {
                    self.feed(Input::Revoked { login, result });
                }
            }
            10 => {
                let generation = self.published.len() as u64;
                let what = match self.rng.u8(..8) {
                    0 => Observation::SessionRevoked,
                    1 => Observation::LoginRejected,
                    _ => Observation::Suspected,
                };
                self.feed(Input::Observed(Observed { generation, what }));
            }
            _ => {
                let state = self.parent();
                if let Some(&login) = self.alive.iter().next_back() {
                    self.feed(Input::Parent { login, state });
                }
            }
        }
    }

    fn parent(&mut self) -> ParentState {
        let ends = self.now + self.ttl.mul_f64(self.rng.f64() * 3.0);
        ParentState::ending(ends, self.rng.bool(), self.rng.bool())
    }

    fn let_time_pass(&mut self) {
        let next = self.machine.next_deadline().filter(|_| self.rng.u8(..4) > 0);
        let by = self.ttl.mul_f64(self.rng.f64() / 20.0);
        self.now = next.map_or(self.now + by, |next| next.max(self.now));
        self.feed(Input::Tick);
    }
}

#[test]
fn i4_i7_i9_hold_in_random_histories_and_the_driver_never_spins() {
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        world.feed(Input::Tick);
        for _ in 0..STEPS {
            if world.rng.u8(..3) == 0 {
                world.let_time_pass()
            } else {
                world.answer_something()
            }
            if world.rng.u16(..400) == 0 {
                world.feed(Input::Rotate);
            }
            if world.rng.u16(..40) == 0 {
                world.feed(Input::Changed);
            }
        }
        let deadline = world.now + Duration::from_secs(world.rng.u64(..30));
        world.feed(Input::Shutdown { deadline });
        for _ in 0..2000 {
            if world.finished {
                break;
            }
            if world.rng.bool() { world.let_time_pass() } else { world.answer_something() }
        }
        assert!(world.finished, "seed {seed}: the shutdown never finished");
        let end = world.machine.next_deadline();
        assert!(end.is_none_or(|end| end > world.now), "seed {seed}");
    }
}

#[test]
fn a_rotation_that_the_limiter_holds_is_free_once_its_leeway_has_come() {
    let start = Time::from_start(Duration::from_secs(1));
    let mut machine = Machine::new(Policy::default(), start, 1);
    let attempt = match &machine.handle(start, Input::Tick)[..] {
        [Action::Issue { attempt }] => *attempt,
        other => panic!("{other:?}"),
    };
    let minted = Minted {
        username: "user".to_owned(),
        ttl: Some(Duration::from_secs(60)),
        renewable: false,
        revocable: true,
        parent: None,
        unchanged: false,
    };
    machine.handle(start, Input::Issued { attempt, sent: start, result: Ok(minted) });
    machine.handle(start, Input::Proved { login: attempt, proofs: Proofs::default() });
    // Fresh credentials were refused for a while, and no permit is left.
    for _ in 0..8 {
        machine.limiter.slow_down();
    }
    let refill = machine.terms().refill();
    while machine.limiter.take(start, refill).is_ok() {}

    let issues = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Issue { .. }));
    let asked = start + Duration::from_secs(20);
    assert!(!issues(&machine.handle(asked, Input::Rotate)), "held");
    let leeway = start + Duration::from_secs(60 - 21);
    assert!(machine.next_deadline().is_some_and(|at| at <= leeway));
    assert!(issues(&machine.handle(leeway, Input::Tick)), "a planned rotation waits for no permit");
}

/// A shutdown with one login, whose revocation is answered so; what is left, and the time it took.
fn left_by_a_shutdown(answers: &[ErrorKind]) -> (Vec<Remains>, Duration) {
    let start = Time::from_start(Duration::from_secs(1));
    let mut machine = Machine::new(Policy::default(), start, 1);
    machine.handle(start, Input::Tick);
    let minted = Minted {
        username: "user".to_owned(),
        ttl: Some(Duration::from_secs(3600)),
        renewable: true,
        revocable: true,
        parent: None,
        unchanged: false,
    };
    machine.handle(start, Input::Issued { attempt: 1, sent: start, result: Ok(minted) });
    machine.handle(start, Input::Proved { login: 1, proofs: Proofs::default() });
    machine.handle(start, Input::Shutdown { deadline: start + Duration::from_secs(10) });
    let drained = Input::Drained { generation: 1, forced: Vec::new(), left: 0 };
    let (mut now, mut actions) = (start, machine.handle(start, drained));
    let mut answers = answers.iter().copied().cycle();
    loop {
        let mut answer = None;
        for action in actions {
            match action {
                Action::Finished(remains) => return (remains, now - start),
                Action::Revoke { login, how } => answer = Some((login, how)),
                _ => {}
            }
        }
        let mut refuse = || {
            let kind = answers.next().expect("cycled");
            SourceError::new(kind, "refused")
        };
        let input = match answer {
            Some((login, Revocation::Soft)) => {
                let (attempt, sent) = (SOFT_REVOKE, now);
                Input::Renewed { login, attempt, sent, result: Err(refuse()) }
            }
            Some((login, _)) => Input::Revoked { login, result: Err(refuse()) },
            None => {
                now = machine.next_deadline().expect("it ends").max(now);
                Input::Tick
            }
        };
        actions = machine.handle(now, input);
    }
}

#[test]
fn i9_a_refused_lease_is_not_waited_for_and_only_such_a_one_goes_with_its_token() {
    let (left, took) = left_by_a_shutdown(&[ErrorKind::Denied]);
    assert_eq!(took, Duration::ZERO, "nothing more can be tried");
    assert!(left.len() == 1 && left[0].goes_with_its_token, "{left:?}");
    assert!(left[0].why.contains("refused"), "{left:?}");

    let (left, took) = left_by_a_shutdown(&[ErrorKind::Denied, ErrorKind::NotRenewable]);
    assert_eq!(took, Duration::ZERO, "at its maximum TTL");
    assert!(left[0].goes_with_its_token, "{left:?}");

    // A server that could not carry it out may not do so for the token either.
    let (left, took) = left_by_a_shutdown(&[ErrorKind::ServerFault]);
    assert!(took >= Duration::from_secs(10), "tried as long as there is time: {took:?}");
    assert!(left.len() == 1 && !left[0].goes_with_its_token, "{left:?}");
}

/// What a source is has not shown yet when it is asked first: it may make a lease each time.
#[test]
fn i7_a_start_whose_answers_are_lost_draws_permits() {
    let start = Time::from_start(Duration::from_secs(1));
    let mut machine = Machine::new(Policy::default(), start, 1);
    let (mut now, mut issued) = (start, 0_u32);
    let mut actions = machine.handle(start, Input::Tick);
    while now < start + Duration::from_secs(600) {
        let attempt = actions.iter().find_map(|a| match a {
            Action::Issue { attempt } => Some(*attempt),
            _ => None,
        });
        let input = if let Some(attempt) = attempt {
            issued += 1;
            let lost = SourceError::new(ErrorKind::Timeout, "no answer");
            Input::Issued { attempt, sent: now, result: Err(lost) }
        } else {
            now = machine.next_deadline().expect("it goes on").max(now);
            Input::Tick
        };
        actions = machine.handle(now, input);
    }
    // One that is free, a burst of two, and one each 30 s.
    assert!((3..=23).contains(&issued), "{issued} in 10 minutes");
}

/// The session could not log in, and nobody knows whether the server noticed: no login to Postgres
/// can have come of that, and the planned rotation stays free.
#[test]
fn i7_what_is_lost_before_the_request_to_mint_draws_no_permit() {
    let lost = SourceError::new(ErrorKind::Timeout, "logging in: no answer");
    assert!(lost.may_have_issued() && !lost.clone().before_issuing().may_have_issued());
    let (mut machine, mut now) = in_service(minted("one", true));
    let mut failed = 0;
    let mut actions = Vec::new();
    while failed < 10 {
        let attempt = actions.iter().find_map(|a| match a {
            Action::Issue { attempt } => Some(*attempt),
            _ => None,
        });
        let input = if let Some(attempt) = attempt {
            failed += 1;
            Input::Issued { attempt, sent: now, result: Err(lost.clone().before_issuing()) }
        } else {
            now = machine.next_deadline().expect("it goes on").max(now);
            Input::Tick
        };
        actions = machine.handle(now, input);
        let held = |a: &Action| matches!(a, Action::Emit(Event::RotationDelayed { .. }));
        assert!(!actions.iter().any(held), "after {failed} failures");
    }
}

fn minted(username: &str, revocable: bool) -> Minted {
    Minted {
        username: username.to_owned(),
        ttl: revocable.then_some(Duration::from_secs(600)),
        renewable: revocable,
        revocable,
        parent: None,
        unchanged: false,
    }
}

/// A machine with one login, at its first instant.
fn in_service(first: Minted) -> (Machine, Time) {
    let start = Time::from_start(Duration::from_secs(1));
    let mut machine = Machine::new(Policy::default(), start, 1);
    machine.handle(start, Input::Tick);
    machine.handle(start, Input::Issued { attempt: 1, sent: start, result: Ok(first) });
    machine.handle(start, Input::Proved { login: 1, proofs: Proofs::default() });
    assert_eq!(machine.swaps, 1);
    (machine, start)
}

fn asked(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|a| match a {
        Action::Issue { attempt } => Some(*attempt),
        _ => None,
    })
}

/// Ticks until the source is asked.
fn asked_in_the_end(machine: &mut Machine, mut now: Time) -> u64 {
    loop {
        if let Some(attempt) = asked(&machine.handle(now, Input::Tick)) {
            return attempt;
        }
        now = machine.next_deadline().expect("something is due").max(now);
    }
}

#[test]
fn news_that_comes_while_a_leased_login_is_proven_is_followed_after_it() {
    for proven in [true, false] {
        let (mut machine, now) = in_service(minted("first", true));
        let attempt = asked(&machine.handle(now, Input::Rotate)).expect("a permit is left");
        let result = Ok(minted("second", true));
        machine.handle(now, Input::Issued { attempt, sent: now, result });
        machine.handle(now, Input::Changed);
        let unreachable = usize::from(!proven);
        let proofs = Proofs { proven: 1, rejected: 0, unreachable };
        machine.handle(now, Input::Proved { login: attempt, proofs });
        assert_eq!(machine.swaps, 2, "a login on a lease is not overtaken: it stays good");
        let rotation = machine.rotation.as_ref().expect("the news is not lost");
        assert_eq!(rotation.reason, Reason::SourceChanged);
        asked_in_the_end(&mut machine, now);
    }
}

/// Where reads cost nothing the next rotation asks at once: who listens hears of it before that.
#[test]
fn a_rotation_is_told_before_the_source_is_asked_for_it() {
    let (mut machine, now) = in_service(minted("first", false));
    let login = asked(&machine.handle(now, Input::Rotate)).expect("a permit is left");
    let result = Ok(minted("second", false));
    machine.handle(now, Input::Issued { attempt: login, sent: now, result });
    machine.handle(now, Input::Changed);
    let proofs = Proofs { proven: 1, rejected: 0, unreachable: 0 };
    let actions = machine.handle(now, Input::Proved { login, proofs });
    let of_it = |a: &Action| match a {
        Action::Emit(Event::Rotating { reason: Reason::SourceChanged }) => Some("told"),
        Action::Issue { .. } => Some("asked"),
        _ => None,
    };
    let order: Vec<_> = actions.iter().filter_map(of_it).collect();
    assert_eq!(order, ["told", "asked"], "{actions:?}");
}

/// A lease that could be renewed has no planned rotation. If Vault is away until its leeway comes,
/// the rotation that then hangs is due since that time, and is seen to be.
#[test]
fn a_rotation_that_hangs_is_seen_to_be_late() {
    let (mut machine, mut now, mut attempt) = renewing();
    assert_eq!(machine.status(now).rotate_at, None, "it is about to be renewed");
    let due = loop {
        let result = Err(SourceError::new(ErrorKind::Unreachable, "away"));
        machine.handle(now, Input::Renewed { login: 1, attempt, sent: now, result });
        let mut begun = None;
        while begun.is_none() {
            now = machine.next_deadline().expect("it is tried again").max(now);
            let actions = machine.handle(now, Input::Tick);
            begun = asked(&actions).map(|_| now);
            let renewal = actions.iter().find_map(|a| match a {
                Action::Renew { attempt, .. } => Some(*attempt),
                _ => None,
            });
            if let Some(again) = renewal {
                attempt = again;
                break;
            }
        }
        if let Some(due) = begun {
            break due;
        }
    };
    let late = due + Duration::from_secs(20);
    machine.handle(late, Input::Tick);
    assert_eq!(machine.status(late).rotate_at, Some(due));
    let end = machine.status(late).end.expect("it has an end");
    assert!(due < end && late < end);
}

/// When a login on a lease of `ttl` that can't be renewed is rotated, by the machine of a seed; and
/// whether a permit was needed for that.
fn rotated_after(ttl: u64, parent: Option<ParentState>, seed: u64) -> (Duration, bool) {
    let start = Time::from_start(Duration::from_secs(1));
    let mut machine = Machine::new(Policy::default(), start, seed);
    machine.handle(start, Input::Tick);
    let lease = Minted {
        ttl: Some(Duration::from_secs(ttl)),
        renewable: parent.is_some(),
        parent,
        ..minted("one", true)
    };
    machine.handle(start, Input::Issued { attempt: 1, sent: start, result: Ok(lease) });
    machine.handle(start, Input::Proved { login: 1, proofs: Proofs::default() });
    let told = machine.status(start).rotate_at.expect("it is planned");
    let mut now = start;
    loop {
        now = machine.next_deadline().expect("it is due").max(now);
        if asked(&machine.handle(now, Input::Tick)).is_some() {
            assert_eq!(now, told, "as it was told");
            let refill = machine.terms().refill();
            let free = (0..2).all(|_| machine.limiter.take(now, refill).is_ok());
            return (now - start, !free);
        }
    }
}

#[test]
fn what_was_started_together_is_rotated_one_after_the_other() {
    let leeway = Duration::from_secs(51);
    let token = |ends: u64| {
        let ends = Time::from_start(Duration::from_secs(1 + ends));
        Some(ParentState::ending(ends, false, true))
    };
    // By the end of the lease, and by that of its token before it could be renewed.
    for (ttl, parent, ends) in [(3600, None, 3600), (36_000, token(1800), 1800)] {
        let latest = Duration::from_secs(ends) - leeway;
        let spread = policy::rotate_spread(latest);
        let all: Vec<_> = (0..500).map(|seed| rotated_after(ttl, parent, seed)).collect();
        assert!(all.iter().all(|(at, permit)| *at <= latest && !permit), "in time, and planned");
        assert!(all.iter().all(|(at, _)| *at + spread >= latest), "no sooner than it helps");
        for tenth in 0..10 {
            let from = latest - spread + spread / 10 * tenth;
            let within = all.iter().filter(|(at, _)| *at >= from && *at < from + spread / 10);
            let within = within.count();
            assert!((20..=90).contains(&within), "{within} of 500 in the tenth no. {tenth}");
        }
    }
    // A fleet does not run on a minute, and who looks at such a login expects the leeway.
    let short = Duration::from_secs(60) - Duration::from_millis(24_750);
    assert!((0..20).all(|seed| rotated_after(60, None, seed) == (short, false)));
}

/// A server that fails to drop the role is left to its own retries, which is no plain success.
#[test]
fn a_revocation_that_the_server_only_queued_is_told_as_such() {
    let (mut machine, mut now) = in_service(minted("first", true));
    machine.handle(now, Input::Shutdown { deadline: now + Duration::from_secs(300) });
    let drained = Input::Drained { generation: 1, forced: Vec::new(), left: 0 };
    let mut actions = machine.handle(now, drained);
    let told = loop {
        let how = actions.iter().find_map(|a| match a {
            Action::Revoke { how, .. } => Some(*how),
            _ => None,
        });
        actions = match how {
            Some(how) => {
                let queued = how == Revocation::Mode(RevokeMode::Queued);
                let fault = || SourceError::new(ErrorKind::ServerFault, "it owns a table");
                let result = if queued { Ok(()) } else { Err(fault()) };
                machine.handle(now, Input::Revoked { login: 1, result })
            }
            None => {
                now = machine.next_deadline().expect("it is tried again").max(now);
                machine.handle(now, Input::Tick)
            }
        };
        let told = actions.iter().find_map(|a| match a {
            Action::Emit(Event::Revoked { queued, .. }) => Some(*queued),
            _ => None,
        });
        if let Some(told) = told {
            break told;
        }
    };
    assert!(told);
}

/// The first read hangs, the second is sent, and the login changes in between: the source has
/// shown the new one and will not say again that there is news.
#[test]
fn a_newer_login_in_a_late_answer_is_used() {
    let issued = |attempt, sent, minted| Input::Issued { attempt, sent, result: Ok(minted) };
    let proved = |login| Input::Proved { login, proofs: Proofs::default() };
    for (revocable, first, swaps) in [
        (false, "unchanged", 2),
        (false, "published", 3),
        (false, "a candidate", 2),
        // A lease that comes late is given back, and takes nobody's place.
        (true, "published", 2),
        (true, "a candidate", 2),
    ] {
        let (mut machine, start) = in_service(minted("app", revocable));
        let a = asked(&machine.handle(start, Input::Rotate)).expect("a permit is left");
        let now = start + Duration::from_secs(20);
        let b = asked(&machine.handle(now, Input::Tick)).expect("the first one hangs");
        let answer = Minted { unchanged: first == "unchanged", ..minted("app", revocable) };
        machine.handle(now, issued(a, start, answer));
        if first == "published" {
            machine.handle(now, proved(a));
        }
        let actions = machine.handle(now, issued(b, now, minted("app", revocable)));
        let proves =
            actions.iter().any(|a| matches!(a, Action::Prove { login, .. } if *login == b));
        assert_eq!(proves, !revocable, "{first}");
        machine.handle(now, proved(a));
        machine.handle(now, proved(b));
        assert_eq!(machine.swaps, swaps, "{first}");
        assert!(machine.rotation.is_none(), "{first}: nothing is asked again");
    }
}

#[test]
fn an_older_login_in_a_late_answer_is_not_used() {
    let (mut machine, start) = in_service(minted("app", false));
    let a = asked(&machine.handle(start, Input::Rotate)).expect("a permit is left");
    let now = start + Duration::from_secs(20);
    let b = asked(&machine.handle(now, Input::Tick)).expect("the first one hangs");
    for (attempt, sent) in [(b, now), (a, start)] {
        machine.handle(now, Input::Issued { attempt, sent, result: Ok(minted("app", false)) });
    }
    machine.handle(now, Input::Proved { login: b, proofs: Proofs::default() });
    assert!(machine.swaps == 2 && machine.rotation.is_none());
    assert_eq!(machine.current.map(|current| current.id), Some(b));
}

/// The server learns of the end of a lease when its own clock says so: a credential that comes so
/// late that it is over for us may live on there for as long as its answer was under way.
#[test]
fn i9_what_is_over_by_our_reckoning_is_revoked_all_the_same() {
    let (mut machine, start) = in_service(minted("first", true));
    let late = asked(&machine.handle(start, Input::Rotate)).expect("a permit is left");
    let now = start + Duration::from_secs(20);
    let second = asked(&machine.handle(now, Input::Tick)).expect("the first one hangs");
    let result = Ok(minted("second", true));
    machine.handle(now, Input::Issued { attempt: second, sent: now, result });
    let now = start + Duration::from_secs(601);
    let result = Ok(minted("late", true));
    let actions = machine.handle(now, Input::Issued { attempt: late, sent: start, result });
    let revoked = |a: &Action| matches!(a, Action::Revoke { login, .. } if *login == late);
    assert!(actions.iter().any(revoked), "{actions:?}");
    // Refused, it is not repeated for ever.
    let error = SourceError::new(ErrorKind::Unreachable, "away");
    machine.handle(now, Input::Revoked { login: late, result: Err(error) });
    let now = now + Duration::from_secs(601);
    let actions = machine.handle(now, Input::Tick);
    let forgotten = |a: &Action| matches!(a, Action::Forget { login } if *login == late);
    assert!(actions.iter().any(forgotten), "{actions:?}");
}

/// Servers tell TTLs and a batch token's end in whole seconds: what is told may be cut off by almost
/// one, so a lease that nobody could revoke is looked after for one more.
#[test]
fn i7_a_lease_that_could_not_be_revoked_is_forgotten_a_second_after_its_end() {
    let start = Time::from_start(Duration::from_secs(1));
    let token_ends = start + Duration::from_secs(60);
    let batch = ParentState { ends: Some(token_ends), renewing: false, replaceable: true };
    for (parent, end) in [(None, start + Duration::from_secs(600)), (Some(batch), token_ends)] {
        let (mut machine, mut now) = in_service(Minted { parent, ..minted("first", true) });
        let login = asked(&machine.handle(now, Input::Rotate)).expect("a permit is left");
        let result = Ok(minted("second", true));
        machine.handle(now, Input::Issued { attempt: login, sent: now, result });
        machine.handle(now, Input::Proved { login, proofs: Proofs::default() });
        assert_eq!(machine.swaps, 2);
        let drained = Input::Drained { generation: 1, forced: Vec::new(), left: 0 };
        let mut actions = machine.handle(now, drained);
        let (mut refused, mut latest) = (0, now);
        let is_first = |login: &LoginId| *login == 1;
        while !actions.iter().any(|a| matches!(a, Action::Forget { login } if is_first(login))) {
            let revokes = |a: &Action| matches!(a, Action::Revoke { login, .. } if is_first(login));
            actions = if actions.iter().any(revokes) {
                (refused, latest) = (refused + 1, now);
                let error = SourceError::new(ErrorKind::Unreachable, "away");
                machine.handle(now, Input::Revoked { login: 1, result: Err(error) })
            } else {
                now = machine.next_deadline().expect("it is looked after").max(now);
                machine.handle(now, Input::Tick)
            };
        }
        assert_eq!(now, end + Duration::from_secs(1), "{refused} refused, the last at {latest:?}");
        assert!(refused > 2, "{refused}");
    }
}

/// A replica that lags by seconds refuses every new login at first, and a newer one longer still.
#[test]
fn i5_a_login_that_a_lagging_replica_refuses_at_first_is_waited_for() {
    let (mut machine, start) = in_service(minted("first", true));
    let login = asked(&machine.handle(start, Input::Rotate)).expect("a permit is left");
    let result = Ok(minted("second", true));
    let mut actions = machine.handle(start, Input::Issued { attempt: login, sent: start, result });
    let (mut now, mut proofs) = (start, 0);
    while machine.swaps == 1 {
        let proves = actions.iter().any(|a| matches!(a, Action::Prove { .. }));
        assert!(
            !actions.iter().any(|a| matches!(a, Action::Revoke { .. })),
            "given up: {actions:?}"
        );
        let input = if proves {
            proofs += 1;
            let knows = now - start >= Duration::from_secs(5);
            let (proven, rejected) = if knows { (1, 0) } else { (0, 1) };
            Input::Proved { login, proofs: Proofs { proven, rejected, unreachable: 0 } }
        } else {
            now = machine.next_deadline().expect("it is tried again").max(now);
            Input::Tick
        };
        actions = machine.handle(now, input);
    }
    assert!(proofs > PROOF_REJECTIONS, "{proofs} proofs in 5 s");
}

/// A machine whose second login one pool has taken and another could not be asked about, and
/// when that was.
fn in_service_unproven() -> (Machine, Time, LoginId) {
    let (mut machine, now) = in_service(minted("first", true));
    let login = asked(&machine.handle(now, Input::Rotate)).expect("a permit is left");
    let result = Ok(minted("second", true));
    machine.handle(now, Input::Issued { attempt: login, sent: now, result });
    let proofs = Proofs { proven: 1, rejected: 0, unreachable: 1 };
    machine.handle(now, Input::Proved { login, proofs });
    assert_eq!(machine.swaps, 2, "what can't be reached vetoes nothing");
    (machine, now, login)
}

fn refused(generation: u64) -> Input {
    Input::Observed(Observed { generation, what: Observation::LoginRejected })
}

/// A replica that was away at the swap comes back, and has yet to hear of the login. Another one
/// would be as unknown there.
#[test]
fn i7_for_a_login_that_a_replica_has_yet_to_hear_of_no_other_is_minted() {
    let (mut machine, now, login) = in_service_unproven();
    for heard in [false, false, true] {
        let actions = machine.handle(now, refused(2));
        assert!(!machine.is_rotating() && asked(&actions).is_none(), "{actions:?}");
        let rejected = usize::from(!heard);
        let proofs = Proofs { proven: 2 - rejected, rejected, unreachable: 0 };
        machine.handle(now, Input::Proved { login, proofs });
    }
    let actions = machine.handle(now, refused(2));
    assert!(
        asked(&actions).is_some(),
        "every pool has taken it: now a refusal is one: {actions:?}"
    );
}

#[test]
fn i7_a_login_that_nobody_takes_any_more_is_replaced_though_one_pool_never_took_it() {
    let (mut machine, now, login) = in_service_unproven();
    let actions = machine.handle(now, refused(2));
    assert!(actions.iter().any(|a| matches!(a, Action::Prove { .. })), "at once: {actions:?}");
    let proofs = Proofs { proven: 0, rejected: 1, unreachable: 1 };
    let actions = machine.handle(now, Input::Proved { login, proofs });
    assert!(asked(&actions).is_some(), "who reports it tells it but once: {actions:?}");
}

fn asks_to_revoke(actions: &[Action], id: LoginId) -> bool {
    actions.iter().any(|a| matches!(a, Action::Revoke { login, .. } if *login == id))
}

fn forgets(actions: &[Action], id: LoginId) -> bool {
    actions.iter().any(|a| matches!(a, Action::Forget { login } if *login == id))
}

/// A machine whose first renewal is under way, and when it was sent.
fn renewing() -> (Machine, Time, u64) {
    let (mut machine, mut now) = in_service(minted("one", true));
    loop {
        now = machine.next_deadline().expect("a renewal is due").max(now);
        let actions = machine.handle(now, Input::Tick);
        let renewal = actions.iter().find_map(|a| match a {
            Action::Renew { attempt, .. } => Some(*attempt),
            _ => None,
        });
        if let Some(attempt) = renewal {
            return (machine, now, attempt);
        }
    }
}

/// Replaced and drained at `now`, its first revocation fails: is it forgotten?
fn forgotten_after_a_failed_revocation(machine: &mut Machine, now: Time) -> bool {
    machine.handle(now, Input::Shutdown { deadline: now + Duration::from_secs(3600) });
    let drained = Input::Drained { generation: 1, forced: Vec::new(), left: 0 };
    assert!(asks_to_revoke(&machine.handle(now, drained), 1), "asked at least once");
    let fault = SourceError::new(ErrorKind::ServerFault, "scripted");
    forgets(&machine.handle(now, Input::Revoked { login: 1, result: Err(fault) }), 1)
}

/// A renewal that was carried out, though its answer was lost, has made the lease longer.
#[test]
fn i9_a_renewal_whose_answer_is_lost_may_have_made_the_lease_longer() {
    let second = Duration::from_secs(1);
    let ttl = Duration::from_secs(600);
    let after_the_old_end = Time::from_start(ttl) + 3 * second;
    for (answer, longer) in [
        (None, true),
        (Some(ErrorKind::Timeout), true),
        (Some(ErrorKind::Malformed), true),
        (Some(ErrorKind::ServerFault), true),
        (Some(ErrorKind::Other), true),
        // Nothing was done.
        (Some(ErrorKind::Unreachable), false),
        (Some(ErrorKind::Sealed), false),
        (Some(ErrorKind::Throttled), false),
        (Some(ErrorKind::Denied), false),
    ] {
        let (mut machine, sent, attempt) = renewing();
        if let Some(kind) = answer {
            let result = Err(SourceError::new(kind, "scripted"));
            machine.handle(sent, Input::Renewed { login: 1, attempt, sent, result });
        }
        let forgotten = forgotten_after_a_failed_revocation(&mut machine, after_the_old_end);
        assert_eq!(forgotten, !longer, "{answer:?}");
        // Not for ever.
        if answer.is_none() {
            let result = Err(SourceError::new(ErrorKind::Timeout, "scripted"));
            let sent = after_the_old_end;
            machine.handle(sent, Input::Renewed { login: 1, attempt, sent, result });
        }
        let end = after_the_old_end + ttl + 2 * second;
        let forgotten = forgotten || forgets(&machine.handle(end, Input::Tick), 1) || {
            let fault = SourceError::new(ErrorKind::ServerFault, "scripted");
            forgets(&machine.handle(end, Input::Revoked { login: 1, result: Err(fault) }), 1)
        };
        assert!(forgotten, "{answer:?}");
    }
    // A grant says when it ends.
    let (mut machine, sent, attempt) = renewing();
    let result = Err(SourceError::new(ErrorKind::Timeout, "scripted"));
    machine.handle(sent, Input::Renewed { login: 1, attempt, sent, result });
    let now = machine.next_deadline().expect("it is tried again");
    let actions = machine.handle(now, Input::Tick);
    let again = actions.iter().find_map(|a| match a {
        Action::Renew { attempt, .. } => Some(*attempt),
        _ => None,
    });
    let attempt = again.expect("it is tried again");
    let result = Ok(5 * second);
    machine.handle(now, Input::Renewed { login: 1, attempt, sent: now, result });
    assert!(forgotten_after_a_failed_revocation(&mut machine, now + 7 * second));
}

/// The server does not answer. What was over before is nobody's any more: it is asked about, for
/// as long as an answer may take, and a shutdown neither waits on nor reports it.
#[test]
fn i9_what_is_over_for_sure_holds_no_shutdown_up() {
    let ttl = Duration::from_secs(600);
    let patience = Duration::from_secs(30);
    // Over before the shutdown, over during it, and not over.
    for (age, over) in [(700, true), (590, true), (300, false)] {
        let (mut machine, start) = in_service(Minted { renewable: false, ..minted("one", true) });
        let age = Duration::from_secs(age);
        let begun = start + age;
        machine.handle(begun, Input::Shutdown { deadline: begun + patience });
        let drained = Input::Drained { generation: 1, forced: Vec::new(), left: 0 };
        let mut actions = machine.handle(begun, drained);
        assert!(asks_to_revoke(&actions, 1), "asked once");
        let mut now = begun;
        let remains = loop {
            let finished = actions.iter().find_map(|a| match a {
                Action::Finished(remains) => Some(remains.clone()),
                _ => None,
            });
            if let Some(remains) = finished {
                break remains;
            }
            let next = machine.next_deadline().expect("it ends");
            assert!(next > now, "the driver would spin");
            now = next;
            actions = machine.handle(now, Input::Tick);
        };
        assert_eq!(remains.is_empty(), over, "{remains:?}");
        let took = now - begun;
        let expected = match ttl.saturating_sub(age) {
            _ if !over => patience + policy::SHUTDOWN_WRAP_UP,
            // Something may be wrong with our clock: the server has a moment to say so.
            Duration::ZERO => policy::SHUTDOWN_WRAP_UP,
            left => left + Duration::from_secs(1),
        };
        assert_eq!(took, expected, "of age {age:?}");
    }
}
