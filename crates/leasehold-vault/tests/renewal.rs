//! Renewing a token against a server that misbehaves on cue.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use common::script::{Reply, Script};
use common::{until, within};
use leasehold::clock::Clock;
use leasehold::{CredentialSource, Issued};
use leasehold_vault::{Auth, Session, VaultConfig};

const LOGIN: &str = "auth/approle/login";
const RENEW: &str = "auth/token/renew-self";
const REVOKE: &str = "auth/token/revoke-self";
const CREDS: &str = "database/creds/app";

fn token(name: &str, ttl: u64) -> Reply {
    let body = format!(
        r#"{{"auth":{{"client_token":"s.{name}","lease_duration":{ttl},"renewable":true,
           "token_type":"service","num_uses":0}}}}"#
    );
    Reply::json(200, body)
}

fn fault() -> Reply {
    Reply::json(500, r#"{"errors":["1 error occurred:\n\t* internal error\n\n"]}"#)
}

async fn script(ttl: u64) -> Script {
    let script = Script::start().await;
    script.answer(LOGIN, token("first", ttl));
    script.answer(LOGIN, token("second", 3600));
    script.answer(REVOKE, Reply::json(204, ""));
    let creds = r#"{"lease_id":"database/creds/app/abc","renewable":true,"lease_duration":60,
                    "data":{"username":"u","password":"p"}}"#;
    script.answer(CREDS, Reply::json(200, creds));
    script
}

async fn login(script: &Script) -> Session {
    let config = VaultConfig::new(script.address());
    Session::login(config, Auth::approle("role", "secret")).await.expect("login")
}

async fn issue(session: &Session) -> Issued {
    session.dynamic_role("database", "app").issue().await.expect("issue")
}

#[tokio::test]
async fn a_renewal_that_fails_for_now_is_retried_within_the_tokens_life_and_not_in_a_loop() {
    let script = script(4).await;
    for _ in 0..3 {
        script.answer(RENEW, fault());
    }
    script.answer(RENEW, token("first", 4));
    let session = login(&script).await;
    let issued = issue(&session).await;
    let first_end = issued.parent.as_ref().expect("a parent").state().ends;
    until(|| issued.parent.as_ref().is_some_and(|p| p.state().ends > first_end)).await;
    let counts = session.calls();
    assert_eq!((counts.login, counts.token_renew), (1, 4), "{counts:?}");
    assert!(script.requests(RENEW)[0].contains(r#"{"increment":4}"#));
}

#[tokio::test]
async fn i8_a_renewal_that_goes_on_failing_leads_to_a_login_while_the_token_lives() {
    let script = script(3).await;
    script.answer(RENEW, fault());
    let session = login(&script).await;
    let mut issued = issue(&session).await;
    until(|| session.token_state().login == 2).await;
    let state = issued.parent.as_mut().expect("a parent").state();
    assert!(!state.renewing, "its leases are to be replaced: {state:?}");
    assert!(state.ends > Some(Clock::system().now()), "in time: {state:?}");
    let tries = session.calls().token_renew;
    assert!((2..40).contains(&tries), "retried, with pauses: {tries}");
}

#[tokio::test]
async fn i8_a_token_found_dead_at_its_renewal_is_dead_for_its_leases_at_once() {
    let script = script(2).await;
    script.answer(RENEW, Reply::json(403, r#"{"errors":["permission denied"]}"#));
    let session = login(&script).await;
    let mut issued = issue(&session).await;
    let state = issued.parent.as_mut().expect("a parent").changed().await;
    assert!(!state.renewing && state.ends <= Some(Clock::system().now()), "{state:?}");
    within(Duration::from_secs(1), || session.token_state().login == 2).await;
    assert_eq!(session.calls().token_renew, 1);
}

#[tokio::test]
async fn i8_a_policy_without_renew_self_leads_to_a_login_in_time() {
    let script = script(3).await;
    let denied = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
    script.answer(RENEW, Reply::json(403, denied));
    let session = login(&script).await;
    let issued = issue(&session).await;
    until(|| session.token_state().login == 2).await;
    let state = issued.parent.as_ref().expect("a parent").state();
    assert!(!state.renewing && state.ends > Some(Clock::system().now()), "{state:?}");
    assert_eq!(session.calls().token_renew, 1, "no policy changes by asking again");
}

#[tokio::test]
async fn i8_issuing_waits_for_the_fresh_token_once_the_end_is_final() {
    let script = Script::start().await;
    script.answer(LOGIN, token("first", 2));
    script.answer(LOGIN, token("second", 3600).after(Duration::from_millis(400)));
    script.answer(RENEW, token("first", 1));
    script.answer_with(CREDS, |request| {
        let with = if request.contains("s.second") { "second" } else { "first" };
        let body = format!(
            r#"{{"lease_id":"database/creds/app/abc","renewable":true,"lease_duration":60,
               "data":{{"username":"{with}","password":"p"}}}}"#
        );
        Reply::json(200, body)
    });
    let session = login(&script).await;
    let mut issued = issue(&session).await;
    assert_eq!(issued.credential.username(), "first");
    let parent = issued.parent.as_mut().expect("a parent");
    while parent.changed().await.renewing {}
    assert_eq!(session.token_state().login, 1, "the login is under way");
    assert_eq!(issue(&session).await.credential.username(), "second");
}

#[tokio::test]
async fn i9_a_retired_token_that_can_not_be_revoked_yet_is_tried_again() {
    let script = Script::start().await;
    script.answer(LOGIN, token("first", 4));
    script.answer(LOGIN, token("second", 3600));
    script.answer(RENEW, token("first", 3));
    script.answer(REVOKE, fault());
    script.answer(REVOKE, fault());
    script.answer(REVOKE, Reply::json(204, ""));
    let session = login(&script).await;
    until(|| session.token_state().login == 2).await;
    until(|| session.token_state().retired == 0).await;
    let sent = script.requests(REVOKE);
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|request| request.contains("s.first")));
}

#[tokio::test]
async fn i12_a_machine_that_slept_past_the_tokens_end_knows_it_within_seconds() {
    let script = script(3600).await;
    script.answer(RENEW, token("first", 3600));
    let ahead = Arc::new(AtomicU64::new(0));
    let clock = Clock::with_wall({
        let ahead = ahead.clone();
        move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::SeqCst))
    });
    let config = VaultConfig::new(script.address()).clock(clock);
    let session = Session::login(config, Auth::approle("role", "secret")).await.expect("login");
    assert_eq!(session.token_state().login, 1);
    ahead.store(7200, Ordering::SeqCst);
    assert_eq!(session.token_state().remaining, Some(Duration::ZERO));
    within(Duration::from_secs(8), || session.token_state().login == 2).await;
}

#[tokio::test]
async fn i8_the_end_of_a_token_is_judged_from_before_the_request() {
    let script = Script::start().await;
    script.answer(LOGIN, token("first", 60).after(Duration::from_millis(700)));
    let clock = Clock::system();
    let asked = clock.now();
    let session = login(&script).await;
    let remaining = session.token_state().remaining.expect("an end");
    let latest = asked + Duration::from_secs(60) + Duration::from_millis(300);
    assert!(clock.now() + remaining < latest, "{remaining:?}");
}
