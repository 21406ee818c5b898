//! The rotator against a scripted source and scripted pools, on paused time.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use leasehold::hook::Proof;
use leasehold::{
    Credential, CredentialSource, ErrorKind, Event, HealthState, Issued, Lease, Observation,
    Parent, ParentState, Reason, Refreshed, Rotator, SourceError, StartError,
};
use tokio::sync::watch;

async fn start(script: &Script) -> Rotator {
    Rotator::builder(script.clone()).clock(clock()).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn i1_the_instant_of_a_swap_is_after_the_last_pool_installed_it() {
    let script = Script::new(s(60), s(600));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pools = [FakePool::attach(&provider), FakePool::attach(&provider)];
    let mut events = provider.events();
    rotator.rotate();
    assert_eq!(swapped(&mut events).await, (2, Reason::Requested));
    for pool in pools {
        assert_eq!(pool.installed(), [(2, 1)], "installed while the first was still current");
    }
    assert_eq!(provider.current().number(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_to_its_maximum_and_then_rotated_in_time_to_drain() {
    let script = Script::new(s(60), s(300));
    let rotator = start(&script).await;
    let mut events = rotator.provider().events();
    let begun = tokio::time::Instant::now();
    assert_eq!(swapped(&mut events).await, (2, Reason::MaxTtl));
    // roll 3.75 s, grace 15 s, leeway 3.75 + 15 + 5 + 1.
    let life = begun.elapsed();
    assert!(life > s(273) && life < s(277), "{life:?}");
    // When 10 to 20 s of the 60 have passed, and never in a loop.
    let renewals = script.calls("renew").len();
    assert!((12..=25).contains(&renewals), "{renewals}");
    revoked(&mut events, 1).await;
    // What was learned plans the next: no truncated renewal is needed to find the end.
    let health = rotator.provider().health();
    assert!(health.rotates_in.unwrap() > s(270), "{health:?}");
    assert_eq!(script.live().len(), 1);
}

/// Grants whatever it was told to, first and later.
#[derive(Debug)]
struct Generous {
    first: Option<Duration>,
    later: Duration,
    minted: AtomicU64,
}

impl CredentialSource for Generous {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let n = self.minted.fetch_add(1, Ordering::Relaxed);
        let lease = match self.first {
            Some(ttl) => Lease::renewable(format!("lease-{n}"), ttl),
            None => Lease::endless(),
        };
        Ok(Issued::new(Credential::new(format!("user-{n}"), "scripted-password"), lease))
    }

    async fn renew(&self, _: &Lease, _: Duration) -> Result<Duration, SourceError> {
        Ok(self.later)
    }
}

/// A server can name any number of seconds, and a user ask for any grace.
#[tokio::test(start_paused = true)]
async fn times_without_end_are_no_panic() {
    let most = s(u64::MAX);
    for (first, later, grace) in [
        (Some(s(60)), most, s(5)),
        (Some(s(60)), Duration::MAX, s(5)),
        (Some(most), most, s(5)),
        (Some(Duration::MAX), Duration::MAX, Duration::MAX),
        (None, most, Duration::MAX),
    ] {
        let source = Generous { first, later, minted: AtomicU64::new(0) };
        let rotator = Rotator::builder(source).clock(clock()).grace(grace).start().await.unwrap();
        let provider = rotator.provider();
        let mut events = provider.events();
        // Past the first renewal.
        tokio::time::sleep(s(50)).await;
        rotator.rotate();
        assert_eq!(swapped(&mut events).await, (2, Reason::Requested));
        tokio::time::sleep(s(50)).await;
        assert!(provider.health().is_ready(), "{first:?} {later:?}: {:?}", provider.health());
        assert!(rotator.shutdown(s(60)).await.is_clean());
    }
    let source = Generous { first: Some(s(60)), later: s(60), minted: AtomicU64::new(0) };
    let start = Rotator::builder(source).clock(clock()).grace(Duration::MAX).start();
    let e = start.await.expect_err("no lease is long enough");
    assert!(matches!(e, StartError::TtlTooShort { .. }), "{e:?}");
}

/// A server that has the password sent in clear text can put it into its refusal, with lines that
/// look like ours.
#[tokio::test(start_paused = true)]
async fn i10_what_postgres_says_is_one_line_without_the_password() {
    let script = Script::new(s(60), s(600));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    let mut events = provider.events();
    let said = format!("no \"scripted-password\"\nERROR forged\u{1b}[2J {}", "x".repeat(1 << 20));
    pool.proof(Proof::Rejected(said.clone()));
    rotator.rotate();
    let is_proof = |e: &Event| matches!(e, Event::ProofFailed { .. }).then(|| e.clone());
    let mut told = vec![event(&mut events, is_proof).await];
    // And what it says to the superseded login at the deadline.
    pool.says(said);
    pool.hold();
    pool.proof(None);
    let is_warning = |e: &Event| matches!(e, Event::Warning { .. }).then(|| e.clone());
    told.push(event(&mut events, is_warning).await);
    let is_forced = |e: &Event| match e {
        Event::Drained { forced, .. } => forced.first().map(|(_, holder)| holder.clone()),
        _ => None,
    };
    let holder = event(&mut events, is_forced).await;
    assert!(holder.application.starts_with("no \"[redacted]\" ERROR"), "{holder:.200?}");
    for told in told {
        let (Event::ProofFailed { message, .. } | Event::Warning { message, .. }) = &told else {
            unreachable!("{told:?}")
        };
        for shown in [message, &told.to_string()] {
            assert!(shown.contains("no \"[redacted]\" ERROR forged"), "{shown:.200}");
            assert!(!shown.chars().any(char::is_control) && shown.len() < 5000, "{}", shown.len());
        }
        let all = format!("{told:?} {:?}", provider.health());
        assert!(!all.contains("scripted-password"), "{all:.200}");
    }
}

#[tokio::test(start_paused = true)]
async fn i4_nothing_is_revoked_while_a_connection_of_it_is_left() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    pool.hold();
    let mut events = provider.events();
    rotator.rotate();
    swapped(&mut events).await;
    tokio::time::sleep(s(10)).await;
    assert_eq!(script.live(), ["lease-1", "lease-2"]);
    assert_eq!(provider.health().draining.len(), 1);
    pool.let_go();
    revoked(&mut events, 1).await;
    assert_eq!(script.live(), ["lease-2"]);
}

#[tokio::test(start_paused = true)]
async fn i4_a_held_connection_delays_the_revocation_until_the_deadline_and_no_longer() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    FakePool::attach(&provider).hold();
    let mut events = provider.events();
    rotator.rotate();
    swapped(&mut events).await;
    let begun = tokio::time::Instant::now();
    revoked(&mut events, 1).await;
    let took = begun.elapsed();
    assert!(took >= s(45) && took < s(46), "a roll of 15 s, and a grace of 30 s: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_draining_lease_is_kept_alive_for_as_long_as_its_drain_may_take() {
    // grace 20 of TTL 60: rotated on request when little is left before the next renewal.
    let script = Script::new(s(60), s(6000));
    let rotator =
        Rotator::builder(script.clone()).grace(s(30)).clock(clock()).start().await.unwrap();
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    pool.hold();
    let mut events = provider.events();
    // Renewals fail until just before the leeway; the rotation then has a lease with 40 s left.
    script.fail_renew(ErrorKind::Unreachable);
    assert_eq!(swapped(&mut events).await.1, Reason::Leeway);
    script.fail_renew(None);
    let begun = tokio::time::Instant::now();
    drained(&mut events, 1).await;
    assert!(begun.elapsed() >= s(29), "{:?}", begun.elapsed());
    assert_eq!(script.live().len(), 2, "alive at its deadline");
    revoked(&mut events, 1).await;
}

#[tokio::test(start_paused = true)]
async fn i5_a_credential_that_every_pool_refuses_is_revoked_and_never_current() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    pool.proof(Proof::Rejected("28000: no pg_hba.conf entry".into()));
    let mut events = provider.events();
    rotator.rotate();
    event(&mut events, |e| {
        matches!(e, Event::Revoked { generation: None, username, .. } if username == "user-2")
            .then_some(())
    })
    .await;
    assert_eq!(provider.current().number(), 1);
    assert!(pool.installed().is_empty());
    assert!(pool.proofs() > 1, "a replica that lags gets its time");
    assert_eq!(pool.discarded(), 1, "what may have been kept of its proof");
    assert_eq!(provider.health().state, HealthState::Degraded);
    pool.proof(None);
    assert_eq!(swapped(&mut events).await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn i5_one_pool_that_refuses_holds_the_swap_until_the_old_login_has_no_more_time() {
    let script = Script::new(s(60), s(60));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let (good, bad) = (FakePool::attach(&provider), FakePool::attach(&provider));
    bad.proof(Proof::Rejected("3D000".into()));
    let mut events = provider.events();
    let begun = tokio::time::Instant::now();
    let proven = event(&mut events, |e| match e {
        Event::Swapped { proven, .. } => Some(*proven),
        _ => None,
    })
    .await;
    assert!(!proven);
    // roll 3.75 + grace 15 + 1 before the end at 60.
    assert!(begun.elapsed() >= s(39) && begun.elapsed() < s(42), "{:?}", begun.elapsed());
    assert_eq!(good.installed().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn i5_an_unreachable_pool_does_not_veto_what_another_has_proven() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let (_good, away) = (FakePool::attach(&provider), FakePool::attach(&provider));
    away.proof(Proof::Unreachable("connection refused".into()));
    let mut events = provider.events();
    rotator.rotate();
    let begun = tokio::time::Instant::now();
    swapped(&mut events).await;
    assert!(begun.elapsed() < s(1));
    let before = away.proofs();
    eventually("it is proved again", || away.proofs() > before).await;
    away.proof(None);
    eventually("healthy", || provider.health().state == HealthState::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn i6_an_outage_keeps_the_current_login_and_mints_nothing_in_a_loop() {
    let script = Script::new(s(60), s(600));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    let mut events = provider.events();
    script.fail_issue(ErrorKind::Sealed);
    script.fail_renew(ErrorKind::Sealed);
    tokio::time::sleep(s(600)).await;
    let health = provider.health();
    assert_eq!(health.state, HealthState::Expired);
    assert!(health.sealed && !health.source_ok);
    assert_eq!(provider.current().number(), 1);
    assert_eq!(pool.distrusted(), 0, "the end of a lease closes nothing");
    // Ten minutes with at most 5 s between tries, jittered over the whole of it.
    let tries = script.calls("issue").len();
    assert!((120..600).contains(&tries), "{tries}");
    script.fail_issue(None);
    script.fail_renew(None);
    let begun = tokio::time::Instant::now();
    swapped(&mut events).await;
    assert!(begun.elapsed() <= s(6), "{:?}", begun.elapsed());
    assert_eq!(script.minted(), 2);
}

#[tokio::test(start_paused = true)]
async fn i6_a_renewal_that_comes_through_late_makes_the_rotation_needless() {
    let script = Script::new(s(60), s(6000));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let mut events = provider.events();
    script.fail_issue(ErrorKind::Throttled);
    script.fail_renew(ErrorKind::Throttled);
    event(&mut events, |e| matches!(e, Event::IssueFailed { .. }).then_some(())).await;
    script.fail_renew(None);
    event(&mut events, |e| matches!(e, Event::Renewed { .. }).then_some(())).await;
    script.fail_issue(None);
    tokio::time::sleep(s(300)).await;
    assert_eq!(provider.current().number(), 1);
    assert_eq!(provider.health().state, HealthState::Ready);
}

#[tokio::test(start_paused = true)]
async fn i7_a_thousand_refused_logins_mint_once_and_a_revoker_is_not_minted_after() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let provider = provider.clone();
            tokio::spawn(async move { provider.refused(1).await })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Refreshed::Swapped(g) if g.number() == 2));
    }
    assert_eq!(script.minted(), 2);
    // Somebody revokes whatever comes: two permits, then one each 30 s.
    for _ in 0..600 {
        let current = provider.current().number();
        provider.report(current, Observation::SessionRevoked);
        tokio::time::sleep(ms(100)).await;
    }
    let minted = script.minted();
    assert!((4..=6).contains(&minted), "{minted}");
}

#[tokio::test(start_paused = true)]
async fn i7_a_refusal_is_returned_at_once_when_no_refresh_is_permitted() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    script.fail_issue(ErrorKind::Denied);
    assert!(matches!(provider.refused(1).await, Refreshed::NotNow(Some(_))));
    let begun = tokio::time::Instant::now();
    let Refreshed::NotNow(Some(next)) = provider.refused(1).await else { panic!() };
    assert!(begun.elapsed() < s(5) && next < s(301));
    assert_eq!(script.minted(), 1);
}

#[tokio::test(start_paused = true)]
async fn i7_two_hundred_cancelled_starts_leave_no_lease() {
    let script = Script::new(s(3600), s(86400));
    for n in 0..200 {
        let begin = Rotator::builder(script.clone()).clock(clock()).start();
        // Cut off before, in and after the request.
        if let Ok(Ok(rotator)) = tokio::time::timeout(Duration::from_micros(n * 40), begin).await {
            assert!(rotator.shutdown(s(1)).await.is_clean());
        }
    }
    eventually("all are revoked", || script.live().is_empty()).await;
    assert!(script.minted() > 100);
}

#[tokio::test(start_paused = true)]
async fn i7_a_start_that_times_out_revokes_what_comes_late() {
    let script = Script::new(s(3600), s(86400));
    script.hang_issue(true);
    let begin = Rotator::builder(script.clone()).clock(clock()).start_timeout(s(3)).start();
    let error = begin.await.unwrap_err();
    assert!(matches!(error, StartError::Timeout { last: None, .. }), "{error}");
    script.hang_issue(false);
    script.go(2);
    eventually("minted and revoked", || script.minted() > 0 && script.live().is_empty()).await;
    eventually("and the source closed", || script.is_closed()).await;
}

#[tokio::test(start_paused = true)]
async fn i7_a_hanging_mint_gets_one_companion_and_the_loser_is_revoked() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let mut events = rotator.provider().events();
    script.hang_issue(true);
    rotator.rotate();
    tokio::time::sleep(s(60)).await;
    assert_eq!(script.calls("issue").len(), 3, "the first credential, and two in flight");
    script.go(2);
    swapped(&mut events).await;
    eventually("two are left revoked", || script.live().len() == 1).await;
    assert_eq!(script.minted(), 3);
}

#[tokio::test(start_paused = true)]
async fn i8_credentials_move_off_a_token_before_it_ends() {
    let script = Script::new(s(3600), s(86400));
    let clock = clock();
    let ends = at(&clock, s(600));
    let (token, state) = watch::channel(ParentState::ending(ends, true, true));
    script.parent(Parent::new(state, Arc::new(())));
    let rotator = Rotator::builder(script.clone()).clock(clock.clone()).start().await.unwrap();
    let provider = rotator.provider();
    let mut events = provider.events();
    assert!(provider.health().expires_in.unwrap() <= s(600), "a lease dies with its token");
    let (_, next) = watch::channel(ParentState::endless());
    script.parent(Parent::new(next, Arc::new(())));
    token.send_replace(ParentState::ending(ends, false, true));
    assert_eq!(swapped(&mut events).await, (2, Reason::TokenEnding));
    assert!(clock.now() + s(30) <= ends, "with time left to drain");
    revoked(&mut events, 1).await;
    assert!(clock.now() < ends);
}

#[tokio::test(start_paused = true)]
async fn i8_a_token_that_nothing_can_replace_is_no_reason_to_mint_in_a_loop() {
    let script = Script::new(s(3600), s(86400));
    let clock = clock();
    let ends = at(&clock, s(60));
    let (_token, state) = watch::channel(ParentState::ending(ends, false, false));
    script.parent(Parent::new(state, Arc::new(())));
    let rotator = Rotator::builder(script.clone()).clock(clock).start().await.unwrap();
    tokio::time::sleep(s(300)).await;
    assert_eq!(script.minted(), 1);
    assert_eq!(rotator.provider().health().state, HealthState::Expired);
}

#[tokio::test(start_paused = true)]
async fn i9_shutdown_begun_in_every_phase_leaves_nothing() {
    // One rotation takes about 5 ms issue + 3 ms proof + 2 ms revoke; the first is at the start.
    for phase in 0..120 {
        let script = Script::new(s(3600), s(86400));
        let rotator = start(&script).await;
        let pool = FakePool::attach(&rotator.provider());
        rotator.rotate();
        tokio::time::sleep(Duration::from_micros(phase * 250)).await;
        let report = rotator.shutdown(s(5)).await;
        assert!(report.is_clean(), "phase {phase}: {report}");
        assert!(script.live().is_empty(), "phase {phase}: {:?}", script.live());
        assert!(script.is_closed());
        assert!(leasehold::hook::ManagedPool::is_closed(&*pool));
        assert_eq!(rotator.shutdown(s(5)).await, report, "a second call says the same");
    }
}

#[tokio::test(start_paused = true)]
async fn i9_a_shutdown_that_can_not_revoke_says_what_is_left_and_until_when() {
    let script = Script::new(s(60), s(600));
    let rotator = start(&script).await;
    script.fail_revoke(ErrorKind::Unreachable);
    let begun = tokio::time::Instant::now();
    let report = rotator.shutdown(s(3)).await;
    assert!(begun.elapsed() <= s(9), "bounded: {:?}", begun.elapsed());
    let [left] = &report.remains[..] else { panic!("{report:?}") };
    assert_eq!(left.username.as_deref(), Some("user-1"));
    assert!(left.ends_in.unwrap() <= s(60));
}

#[tokio::test(start_paused = true)]
async fn i9_where_revoking_is_denied_a_short_renewal_ends_the_lease() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    script.fail_revoke(ErrorKind::Denied);
    let mut events = rotator.provider().events();
    rotator.rotate();
    swapped(&mut events).await;
    event(&mut events, |e| {
        matches!(e, Event::LeaseEnded { generation: Some(1), .. }).then_some(())
    })
    .await;
    eventually("the server's clock is a moment behind", || script.live() == ["lease-2"]).await;
}

#[tokio::test(start_paused = true)]
async fn i10_no_event_health_or_debug_shows_the_password() {
    let script = Script::new(s(60), s(120));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let mut events = provider.events();
    let mut seen = format!("{rotator:?} {provider:?} {:?}", provider.health());
    for _ in 0..20 {
        let event = events.recv().await.unwrap();
        seen += &format!("{event} {event:?}");
    }
    seen += &format!("{:?} {:#?}", provider.subscribe(), provider.current());
    assert!(!seen.contains("scripted-password"));
    assert!(seen.contains("user-1"));
}

#[tokio::test(start_paused = true)]
async fn i11_a_dropped_rotator_is_told_to_every_reader_at_once() {
    let script = Script::new(s(60), s(600));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pool = Arc::downgrade(&FakePool::attach(&provider));
    let mut subscriber = provider.subscribe();
    let mut events = provider.events();
    drop(rotator);
    let stopped = soon(subscriber.changed()).await.unwrap_err();
    assert!(stopped.cause.contains("dropped"), "{stopped}");
    event(&mut events, |e| matches!(e, Event::Stopped { orderly: false, .. }).then_some(())).await;
    let health = provider.health();
    assert_eq!(health.state, HealthState::Stopped);
    assert!(!health.is_ready());
    // The last credential is served on, nothing is revoked, and no pool is taken any more.
    assert_eq!(provider.current().number(), 1);
    assert_eq!(script.live(), ["lease-1"]);
    assert!(provider.attach(|_| unreachable!("not called") as (_, ())).is_err());
    assert!(pool.upgrade().is_none(), "pool and provider don't keep each other alive");
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_nobody_has_seen_is_told_before_the_end_that_came_after_it() {
    let script = Script::new(s(60), s(600));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let mut subscriber = provider.subscribe();
    let mut gone = provider.subscribe();
    let mut events = provider.events();
    rotator.rotate();
    assert_eq!(swapped(&mut events).await, (2, Reason::Requested));
    drop(rotator);
    event(&mut events, |e| matches!(e, Event::Stopped { .. }).then_some(())).await;
    assert_eq!(soon(subscriber.changed()).await.unwrap().number(), 2);
    assert!(soon(subscriber.changed()).await.unwrap_err().cause.contains("dropped"));
    // With the last provider, too.
    drop((provider, events));
    assert_eq!(soon(gone.changed()).await.unwrap().number(), 2);
    assert!(soon(gone.changed()).await.unwrap_err().cause.contains("dropped"));
}

#[tokio::test(start_paused = true)]
async fn i11_a_panic_in_the_task_is_survived_once_and_then_told() {
    let script = Script::new(s(60), s(6000));
    let panics = Arc::new(AtomicU64::new(0));
    let count = panics.clone();
    let rotator = Rotator::builder(script.clone())
        .clock(clock())
        .observer(move |e| {
            if matches!(e, Event::Renewed { .. }) {
                count.fetch_add(1, Ordering::SeqCst);
                panic!("an observer's own defect");
            }
        })
        .start()
        .await
        .unwrap();
    let provider = rotator.provider();
    let mut subscriber = provider.subscribe();
    eventually("the first panic", || panics.load(Ordering::SeqCst) == 1).await;
    assert_ne!(provider.health().state, HealthState::Stopped);
    let stopped = soon(subscriber.changed()).await.unwrap_err();
    assert_eq!(panics.load(Ordering::SeqCst), 2);
    assert!(stopped.cause.contains("panicked"), "{stopped}");
    assert!(script.calls("renew").len() >= 2, "it went on renewing after the first");
}

#[tokio::test(start_paused = true)]
async fn i12_a_machine_that_was_suspended_rotates_within_five_seconds_of_waking() {
    use std::sync::atomic::AtomicI64;
    let script = Script::new(s(3600), s(86400));
    let jump = Arc::new(AtomicI64::new(0));
    let (begun, read) = (tokio::time::Instant::now(), jump.clone());
    let base = std::time::SystemTime::UNIX_EPOCH + s(1_000_000);
    let wall = move || base + begun.elapsed() + s(read.load(Ordering::SeqCst) as u64);
    let clock = leasehold::clock::Clock::with_wall(wall);
    let rotator = Rotator::builder(script.clone()).clock(clock).start().await.unwrap();
    let mut events = rotator.provider().events();
    tokio::time::sleep(s(100)).await;
    jump.store(7200, Ordering::SeqCst);
    let woke = tokio::time::Instant::now();
    assert_eq!(swapped(&mut events).await.0, 2);
    assert!(woke.elapsed() <= s(6), "{:?}", woke.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_gone_is_replaced_at_once_without_a_roll() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    let mut events = provider.events();
    let begun = tokio::time::Instant::now();
    provider.report(1, Observation::SessionRevoked);
    assert_eq!(swapped(&mut events).await, (2, Reason::SessionRevoked));
    assert!(begun.elapsed() < ms(100));
    assert_eq!(pool.distrusted(), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_suspicions_cost_a_few_logins_and_mint_nothing() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    for _ in 0..10_000 {
        provider.report(1, Observation::Suspected);
        tokio::time::sleep(ms(1)).await;
    }
    assert_eq!(script.minted(), 1);
    assert!((1..=4).contains(&pool.proofs()), "{}", pool.proofs());
}

#[tokio::test(start_paused = true)]
async fn a_start_fails_early_on_what_a_person_has_to_mend() {
    let script = Script::new(s(3600), s(86400));
    for kind in [ErrorKind::Denied, ErrorKind::NotFound, ErrorKind::Malformed] {
        script.fail_issue(kind);
        let begun = tokio::time::Instant::now();
        let error = Rotator::builder(script.clone()).clock(clock()).start().await.unwrap_err();
        assert!(matches!(error, StartError::Source { .. }), "{error}");
        assert!(begun.elapsed() < s(1));
    }
    script.fail_issue(ErrorKind::Unreachable);
    let error = Rotator::builder(script.clone()).clock(clock()).start().await.unwrap_err();
    let StartError::Timeout { last: Some(last), .. } = error else { panic!("{error}") };
    assert_eq!(last.kind(), ErrorKind::Unreachable);
    assert!(script.calls("issue").len() > 4, "tried more than once");
    assert_eq!(script.minted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_too_short_for_its_leeway_is_a_start_error_that_names_both() {
    let script = Script::new(s(10), s(60));
    let begin = Rotator::builder(script.clone()).clock(clock()).grace(s(9)).start();
    let error = begin.await.unwrap_err().to_string();
    assert!(error.contains("10.0s") && error.contains("11.6s"), "{error}");
    let error = Rotator::builder(script).clock(clock()).grace(s(0)).start().await.unwrap_err();
    assert!(error.to_string().starts_with("grace: "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn i9_a_start_that_fails_returns_with_nothing_left() {
    // What was minted is too short.
    let script = Script::new(s(10), s(60));
    let error = Rotator::builder(script.clone()).clock(clock()).grace(s(9)).start().await;
    assert!(matches!(error, Err(StartError::TtlTooShort { .. })), "{error:?}");
    assert_eq!((script.minted(), script.live(), script.is_closed()), (1, Vec::new(), true));

    // There is nothing to mint, or nobody to ask; the session is given back.
    for kind in [ErrorKind::Denied, ErrorKind::Unreachable] {
        let script = Script::new(s(3600), s(86400));
        script.fail_issue(kind);
        let start = Rotator::builder(script.clone()).clock(clock()).start_timeout(s(3)).start();
        assert!(start.await.is_err());
        assert!(script.is_closed(), "{kind:?}");
    }

    // What does not come to an end is not waited for for long.
    let begun = tokio::time::Instant::now();
    let never = Rotator::builder(NeverMints).clock(clock()).start().await;
    assert!(matches!(never, Err(StartError::Source { .. })), "{never:?}");
    assert!(begun.elapsed() >= s(5) && begun.elapsed() < s(6), "{:?}", begun.elapsed());
}

/// Has no login, and no end.
#[derive(Debug)]
struct NeverMints;

impl CredentialSource for NeverMints {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Err(SourceError::new(ErrorKind::Denied, "no"))
    }
    async fn close(&self) -> Vec<String> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_fourth_drain_ends_the_patience_of_the_oldest() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    FakePool::attach(&provider).hold();
    let mut events = provider.events();
    for n in 2..=5 {
        // The limiter permits two, and one more each 30 s; a rejected login is free of its wait
        // only as far as that goes.
        provider.report(n - 1, Observation::LoginRejected);
        swapped(&mut events).await;
        assert!(provider.health().draining.len() <= 4);
    }
    eventually("at most three drain", || provider.health().draining.len() <= 3).await;
}

#[tokio::test(start_paused = true)]
async fn i4_a_drain_is_about_the_login_that_was_current_and_not_about_a_refused_one() {
    for _ in 0..20 {
        let script = Script::new(s(3600), s(86400));
        let rotator = start(&script).await;
        let provider = rotator.provider();
        let pool = FakePool::attach(&provider);
        let mut events = provider.events();
        // The second login is refused by every pool, and can't be given back.
        pool.proof(Proof::Rejected("28000".into()));
        script.fail_revoke(ErrorKind::Other);
        rotator.rotate();
        event(&mut events, |e| matches!(e, Event::RevokeFailed { .. }).then_some(())).await;
        pool.proof(None);
        assert_eq!(swapped(&mut events).await.0, 2);
        rotator.rotate();
        assert_eq!(swapped(&mut events).await.0, 3);
        drained(&mut events, 2).await;
        assert_eq!(pool.drained(), ["user-1", "user-3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn i6_a_lease_that_is_gone_is_not_reported_as_ready() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let mut events = provider.events();
    script.fail_renew(ErrorKind::LeaseLost);
    script.fail_issue(ErrorKind::Denied);
    event(&mut events, |e| matches!(e, Event::RenewFailed { .. }).then_some(())).await;
    let health = provider.health();
    assert_eq!(health.state, HealthState::Expired, "{health:?}");
    assert!(!health.is_ready());
    assert!(health.expires_in.unwrap() > s(600), "long before its end by the clock");
    assert!(!provider.logins_possible(), "pools keep what they have");
}

#[tokio::test(start_paused = true)]
async fn a_late_renewal_does_not_forget_a_rotation_that_is_needed() {
    let script = Script::new(s(60), s(6000));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let mut events = provider.events();
    script.fail_issue(ErrorKind::Throttled);
    script.fail_renew(ErrorKind::Throttled);
    event(&mut events, |e| matches!(e, Event::IssueFailed { .. }).then_some(())).await;
    provider.report(1, Observation::SessionRevoked);
    script.fail_renew(None);
    event(&mut events, |e| matches!(e, Event::Renewed { .. }).then_some(())).await;
    script.fail_issue(None);
    assert_eq!(swapped(&mut events).await, (2, Reason::SessionRevoked));
}

#[tokio::test(start_paused = true)]
async fn proof_of_a_revoked_login_is_not_lost_in_a_flood_of_suspicions() {
    let script = Script::new(s(3600), s(86400));
    let rotator = start(&script).await;
    let provider = rotator.provider();
    let mut events = provider.events();
    // No await in between: the rotator's task does not run.
    for _ in 0..200 {
        provider.report(1, Observation::Suspected);
    }
    provider.report(1, Observation::SessionRevoked);
    tokio::time::sleep(ms(10)).await;
    provider.report(1, Observation::SessionRevoked);
    assert_eq!(swapped(&mut events).await, (2, Reason::SessionRevoked));
}

#[tokio::test(start_paused = true)]
async fn i11_an_observer_that_panics_on_a_failed_proof_does_not_end_rotation() {
    let script = Script::new(s(3600), s(86400));
    let panicked = Arc::new(AtomicU64::new(0));
    let count = panicked.clone();
    let rotator = Rotator::builder(script.clone())
        .clock(clock())
        .observer(move |e| {
            let first = || count.fetch_add(1, Ordering::SeqCst) == 0;
            assert!(!(matches!(e, Event::ProofFailed { .. }) && first()), "a defect of its own");
        })
        .start()
        .await
        .unwrap();
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    let mut events = provider.events();
    pool.proof(Proof::Unreachable("connection refused".into()));
    rotator.rotate();
    eventually("the panic", || panicked.load(Ordering::SeqCst) > 0).await;
    pool.proof(None);
    assert_eq!(swapped(&mut events).await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn i11_an_observer_that_panics_at_the_end_does_not_hang_the_shutdown() {
    let script = Script::new(s(3600), s(86400));
    let rotator = Rotator::builder(script.clone())
        .clock(clock())
        .observer(|e| assert!(!matches!(e, Event::Stopped { .. }), "a defect of its own"))
        .start()
        .await
        .unwrap();
    assert!(soon(rotator.shutdown(s(5))).await.is_clean());
    assert!(script.live().is_empty());
}

/// Has a login, and no end.
#[derive(Debug)]
struct NeverClosed;

impl CredentialSource for NeverClosed {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Ok(Issued::new(Credential::new("app", "pw"), Lease::fixed(s(3600))))
    }
    async fn close(&self) -> Vec<String> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn i9_a_source_that_never_closes_is_named_in_the_report() {
    let rotator = Rotator::builder(NeverClosed).clock(clock()).start().await.unwrap();
    let report = tokio::time::timeout(s(600), rotator.shutdown(s(1))).await.expect("an end");
    assert!(report.to_string().contains("not closed within"), "{report}");

    let once = leasehold::once(NeverClosed).await.unwrap();
    let report = tokio::time::timeout(s(600), once.end()).await.expect("an end");
    assert!(report.to_string().contains("not closed within"), "{report}");
}
