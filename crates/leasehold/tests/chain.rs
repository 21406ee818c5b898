//! A primary that hangs, flaps, or is being asked when everything ends. On paused time.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use leasehold::{
    Chain, CredentialSource, ErrorKind, InForce, Issued, Reason, Rotator, SourceError, StaticSource,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

fn chain(vault: &Script) -> Chain {
    Chain::new(vault.clone(), StaticSource::new("env", "pw")).clock(clock())
}

/// A primary whose making waits for a permit, and how often it was begun.
fn made_slowly(vault: &Script) -> (Chain, Arc<Semaphore>, Arc<AtomicU64>) {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
    let (vault, open, count) = (vault.clone(), gate.clone(), begun.clone());
    let build = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let (vault, open) = (vault.clone(), open.clone());
        async move {
            open.acquire().await.unwrap().forget();
            Ok(vault)
        }
    };
    let chain = Chain::lazily("Vault", build, StaticSource::new("env", "pw")).clock(clock());
    (chain, gate, begun)
}

async fn start(chain: &Chain) -> Rotator {
    Rotator::builder(chain.clone()).clock(clock()).start().await.unwrap()
}

fn user(rotator: &Rotator) -> String {
    rotator.provider().current().credential().username().to_owned()
}

/// A chain whose fallback is in force, while the primary has a login ready.
async fn with_a_login_ready(vault: &Script) -> Chain {
    let chain = chain(vault);
    vault.fail_issue(ErrorKind::Unreachable);
    chain.issue().await.unwrap();
    vault.fail_issue(None);
    soon(chain.changed()).await;
    assert_eq!((chain.in_force(), vault.minted()), (InForce::Fallback, 1));
    chain
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_hangs_at_the_start_is_not_waited_for() {
    let vault = Script::new(s(3600), s(3600));
    vault.hang_issue(true);
    let (chain, begun) = (chain(&vault), Instant::now());
    let rotator = start(&chain).await;
    assert!(begun.elapsed() < s(6), "{:?}", begun.elapsed());
    assert_eq!((chain.in_force(), user(&rotator)), (InForce::Fallback, "env".to_owned()));
    sleep(s(100)).await;
    assert_eq!(vault.calls("issue").len(), 1, "none besides the one that hangs");
    // What comes late is what pools move to.
    let mut events = rotator.provider().events();
    vault.go(1);
    assert_eq!(swapped(&mut events).await, (2, Reason::SourceChanged));
    assert_eq!((chain.in_force(), vault.minted()), (InForce::Primary, 1));
    let left = rotator.provider().health().expires_in.unwrap();
    assert!(left < s(3500), "as old as it is: {left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_primary_whose_making_hangs_is_not_waited_for() {
    let vault = Script::new(s(3600), s(3600));
    let (chain, gate, begun) = made_slowly(&vault);
    let rotator = start(&chain).await;
    assert_eq!((chain.in_force(), user(&rotator)), (InForce::Fallback, "env".to_owned()));
    sleep(s(100)).await;
    let mut events = rotator.provider().events();
    gate.add_permits(10);
    swapped(&mut events).await;
    assert_eq!((chain.in_force(), vault.minted()), (InForce::Primary, 1));
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_hangs_later_is_left_before_its_lease_needs_the_time() {
    for ttl in [s(3600), s(60), s(8)] {
        let vault = Script::new(ttl, ttl);
        let chain = chain(&vault);
        let (rotator, begun) = (start(&chain).await, Instant::now());
        let mut events = rotator.provider().events();
        vault.hang_issue(true);
        swapped(&mut events).await;
        assert_eq!((chain.in_force(), user(&rotator)), (InForce::Fallback, "env".to_owned()));
        let left = ttl.saturating_sub(begun.elapsed());
        assert!(left >= s(30).min(ttl / 4), "the whole grace: {left:?} of {ttl:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_slow_is_no_primary_that_hangs() {
    let vault = Script::new(s(8), s(8));
    vault.hang_issue(true);
    let chain = chain(&vault);
    let open = vault.clone();
    tokio::spawn(async move {
        sleep(s(4)).await;
        open.go(1);
    });
    let issued = chain.issue().await.unwrap();
    assert_eq!(issued.credential.username(), "user-1");
    assert_eq!(issued.lease.ttl, Some(s(8)), "our caller counts from when it asked us");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_cuts_off_no_mint_and_the_next_one_gets_it() {
    let vault = Script::new(s(600), s(600));
    vault.hang_issue(true);
    let chain = chain(&vault);
    assert!(timeout(s(2), chain.issue()).await.is_err());
    vault.go(1);
    let issued = chain.issue().await.unwrap();
    assert_eq!((issued.credential.username(), vault.calls("issue").len()), ("user-1", 1));
    let ttl = issued.lease.ttl.unwrap();
    assert!(ttl <= s(598) && ttl > s(597), "{ttl:?}");
}

#[tokio::test(start_paused = true)]
async fn two_that_ask_at_once_get_two_logins() {
    let vault = Script::new(s(600), s(600));
    let chain = chain(&vault);
    let (one, two) = tokio::join!(chain.issue(), chain.issue());
    assert_ne!(one.unwrap().lease.id, two.unwrap().lease.id);
    assert_eq!(vault.minted(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_primary_is_an_error_and_not_the_end() {
    let calls = AtomicU64::new(0);
    let vault = Script::new(s(600), s(600));
    let build = move || {
        assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "scripted");
        let vault = vault.clone();
        async move { Ok(vault) }
    };
    let chain = Chain::lazily("Vault", build, StaticSource::new("env", "pw")).clock(clock());
    let error = chain.issue().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other, "{error}");
    assert_eq!(chain.issue().await.unwrap().credential.username(), "user-1");
}

#[tokio::test(start_paused = true)]
async fn failures_that_lie_far_apart_are_no_outage() {
    let vault = Script::new(s(600), s(6000));
    let chain = chain(&vault);
    chain.issue().await.unwrap();
    vault.fail_issue(ErrorKind::Sealed);
    for _ in 0..3 {
        assert!(chain.issue().await.is_err());
        sleep(s(7200)).await;
    }
    assert_eq!(chain.in_force(), InForce::Primary);
    // The longest pause between two tries is 30 s: those belong together.
    assert!(chain.issue().await.is_err());
    sleep(s(31)).await;
    assert_eq!(chain.issue().await.unwrap().credential.username(), "env");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_shows_that_the_primary_is_there() {
    let vault = Script::new(s(600), s(6000));
    let chain = chain(&vault);
    let issued = chain.issue().await.unwrap();
    vault.fail_issue(ErrorKind::Sealed);
    assert!(chain.issue().await.is_err());
    sleep(s(4)).await;
    chain.renew(&issued.lease, s(600)).await.unwrap();
    sleep(s(4)).await;
    assert!(chain.issue().await.is_err());
    // One that fails shows nothing.
    vault.fail_renew(ErrorKind::Sealed);
    sleep(s(4)).await;
    assert!(chain.renew(&issued.lease, s(600)).await.is_err());
    sleep(s(4)).await;
    assert_eq!(chain.issue().await.unwrap().credential.username(), "env");
}

#[tokio::test(start_paused = true)]
async fn i9_a_mint_under_way_at_the_end_is_waited_for_and_given_back() {
    let vault = Script::new(s(600), s(600));
    vault.hang_issue(true);
    let chain = chain(&vault);
    let rotator = start(&chain).await;
    let open = vault.clone();
    tokio::spawn(async move {
        sleep(s(2)).await;
        open.go(1);
    });
    let report = soon(rotator.shutdown(s(1))).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((vault.minted(), vault.live().len()), (1, 0));
    assert!(vault.is_closed());
}

#[tokio::test(start_paused = true)]
async fn i9_a_mint_that_is_never_answered_is_told_and_cleaned_up_if_it_is() {
    // Longer than what is waited for below.
    let vault = Script::new(s(36_000), s(36_000));
    vault.hang_issue(true);
    let chain = chain(&vault);
    let (rotator, begun) = (start(&chain).await, Instant::now());
    let report = soon(rotator.shutdown(s(1))).await;
    assert!(begun.elapsed() < s(15), "bounded: {:?}", begun.elapsed());
    assert!(report.to_string().contains("not answered"), "{report}");
    vault.go(1);
    eventually("it is given back", || vault.minted() == 1 && vault.live().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn i9_a_primary_that_is_made_after_the_end_is_closed_and_not_asked() {
    let vault = Script::new(s(600), s(600));
    let (chain, gate, begun) = made_slowly(&vault);
    let (rotator, ended) = (start(&chain).await, Instant::now());
    let report = soon(rotator.shutdown(s(1))).await;
    assert!(ended.elapsed() < s(15), "bounded: {:?}", ended.elapsed());
    assert!(report.to_string().contains("not answered"), "{report}");
    gate.add_permits(10);
    eventually("it is closed", || vault.is_closed()).await;
    assert!(chain.issue().await.is_err());
    assert!(timeout(s(600), chain.changed()).await.is_err());
    assert_eq!((vault.calls("issue").len(), begun.load(Ordering::Relaxed)), (0, 1));
}

/// Issues nothing, and can't give back what it holds.
#[derive(Debug)]
struct Stuck(Arc<AtomicU64>);

impl CredentialSource for Stuck {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Err(SourceError::unreachable("scripted"))
    }
    async fn close(&self) -> Vec<String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        vec!["scripted: the token stays".to_owned()]
    }
}

#[tokio::test(start_paused = true)]
async fn i9_a_primary_that_is_made_during_the_end_is_closed_once_and_what_it_leaves_is_told() {
    let closed = Arc::new(AtomicU64::new(0));
    let count = closed.clone();
    let build = move || {
        let made = Stuck(count.clone());
        async move {
            sleep(s(8)).await;
            Ok(made)
        }
    };
    let chain = Chain::lazily("Vault", build, StaticSource::new("env", "pw")).clock(clock());
    assert_eq!(chain.issue().await.unwrap().credential.username(), "env");
    assert_eq!(soon(chain.close()).await, ["scripted: the token stays"]);
    assert_eq!(closed.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn i9_a_login_that_was_ready_and_can_not_be_given_back_is_told() {
    let vault = Script::new(s(600), s(600));
    let chain = with_a_login_ready(&vault).await;
    vault.fail_revoke(ErrorKind::Unreachable);
    let left = soon(chain.close()).await;
    assert!(left.len() == 1 && left[0].contains("user-1"), "{left:?}");
    assert_eq!(vault.calls("revoke").len(), 4, "tried again");
    assert!(vault.is_closed());

    // Where revoking is not allowed the lease is cut short.
    let vault = Script::new(s(600), s(600));
    let chain = with_a_login_ready(&vault).await;
    vault.fail_revoke(ErrorKind::Denied);
    let left = soon(chain.close()).await;
    assert!(left.is_empty(), "{left:?}");
    sleep(s(1)).await;
    assert!(vault.live().is_empty());

    // And after the end nothing is minted any more.
    let asked = vault.calls("issue").len();
    assert!(chain.issue().await.is_err());
    assert!(timeout(s(600), chain.changed()).await.is_err());
    assert_eq!(vault.calls("issue").len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_could_not_be_given_back_at_once_is_later() {
    let vault = Script::new(s(600), s(600));
    let chain = with_a_login_ready(&vault).await;
    // By now it is too old to be used.
    sleep(s(400)).await;
    vault.fail_revoke(ErrorKind::Unreachable);
    assert_eq!(chain.issue().await.unwrap().credential.username(), "user-2");
    sleep(s(10)).await;
    assert_eq!(vault.live().len(), 2);
    vault.fail_revoke(None);
    assert_eq!(soon(chain.close()).await, Vec::<String>::new());
    assert_eq!(vault.live(), ["lease-2"], "that one is the caller's");
}

/// Fails so.
#[derive(Debug)]
struct Fails(SourceError);

impl CredentialSource for Fails {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Err(self.0.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn i7_when_both_fail_it_is_known_whether_either_may_have_issued() {
    let error = |kind| SourceError::new(kind, "scripted");
    let login = error(ErrorKind::Timeout).before_issuing();
    for (primary, fallback, issued) in [
        (error(ErrorKind::Unreachable), error(ErrorKind::Unreachable), false),
        (error(ErrorKind::Timeout), error(ErrorKind::Denied), true),
        (error(ErrorKind::Unreachable), error(ErrorKind::Timeout), true),
        (error(ErrorKind::Unreachable), error(ErrorKind::Malformed), true),
        (login.clone(), error(ErrorKind::Unreachable), false),
        (login.clone(), login.clone(), false),
        (error(ErrorKind::Sealed), login.clone(), false),
        (login.clone(), error(ErrorKind::Timeout), true),
        (error(ErrorKind::Timeout), login.clone(), true),
    ] {
        let case = format!("{primary:?} {fallback:?}");
        let kind = primary.kind();
        let chain = Chain::new(Fails(primary), Fails(fallback)).clock(clock());
        let both = chain.issue().await.unwrap_err();
        assert_eq!((both.kind(), both.may_have_issued()), (kind, issued), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn i9_a_mint_of_the_fallback_that_nobody_waits_for_is_known_at_the_end() {
    for answered in [true, false] {
        let fallback = Script::new(s(36_000), s(36_000));
        fallback.hang_issue(true);
        let primary = Fails(SourceError::unreachable("scripted"));
        let chain = Chain::new(primary, fallback.clone()).clock(clock());
        assert!(timeout(s(2), chain.issue()).await.is_err());
        assert_eq!(fallback.calls("issue").len(), 1);
        let open = fallback.clone();
        tokio::spawn(async move {
            sleep(s(if answered { 2 } else { 60 })).await;
            open.go(1);
        });
        let left = soon(chain.close()).await;
        let told = left.iter().filter(|line| line.contains("not answered")).count();
        assert_eq!((left.len(), told), (usize::from(!answered), usize::from(!answered)));
        assert_eq!((fallback.minted() == 1, fallback.live().is_empty()), (answered, true));
        eventually("it is given back", || fallback.minted() == 1 && fallback.live().is_empty())
            .await;
    }
}
