//! A lease is only as long as the token that made it: the whole life of tokens, on a real server.

mod common;

use std::time::Duration;

use common::{config, database, database_with, lease_gone, lease_lives, long_role, session};
use common::{session_by, within};
use leasehold::clock::Clock;
use leasehold::{CredentialSource, ErrorKind, Issued};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, TokenSpec};
use leasehold_vault::{Auth, Session};

const S: Duration = Duration::from_secs(1);

fn lease_id(issued: &Issued) -> String {
    issued.lease.id.clone().expect("an id")
}

fn ends_of(issued: &Issued) -> leasehold::clock::Time {
    let state = issued.parent.as_ref().expect("a parent").state();
    state.ends.expect("an end")
}

/// Waits until the token that made a lease can't be moved on any more.
async fn until_final(issued: &mut Issued, bound: Duration) {
    let parent = issued.parent.as_mut().expect("a parent");
    let wait = async { while parent.changed().await.renewing {} };
    tokio::time::timeout(bound, wait).await.expect("the end becomes final");
}

#[tokio::test]
async fn i8_a_token_at_its_max_ttl_is_replaced_and_kept_for_its_lease_then_revoked() {
    let tokens = AppRoleSpec::new().token_ttl(6 * S).token_max_ttl(12 * S);
    let spec = DatabaseSpec::new("i8").role(long_role()).app_role(tokens);
    let db = database(spec).await;
    let stack = db.stack();
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let clock = Clock::system();
    let began = clock.now();

    // Three generations of tokens: the lease says an hour, its token can live for 12 s.
    let mut issued = source.issue().await.expect("issue");
    for login in 2..=3 {
        let first_end = ends_of(&issued);
        until_final(&mut issued, 14 * S).await;
        let ends = ends_of(&issued);
        assert!(ends > first_end, "it was renewed before");
        assert!(clock.now() < ends, "told while there is time left");
        let parent = issued.parent.as_ref().expect("a parent").state();
        assert!(parent.replaceable);

        let fresh = source.issue().await.expect("issue with the next token");
        assert_eq!(session.token_state().login, login);
        let state = fresh.parent.as_ref().expect("a parent").state();
        assert!(state.renewing, "on a token with more life to come: {state:?}");

        // Nobody needs it now but the old lease: until shortly before its end it is kept.
        clock.sleep_until(ends.before(Duration::from_millis(1500))).await;
        assert!(lease_lives(stack, &lease_id(&issued)).await, "the old token is kept");
        assert_eq!(session.token_state().retired, 1);
        let old = lease_id(&issued);
        issued = fresh;
        lease_gone(stack, &old, S).await;
        assert!(clock.now() < ends, "revoked with its token, and not by its end");
        assert!(lease_lives(stack, &lease_id(&issued)).await);
        within(2 * S, || session.token_state().retired == 0).await;
    }
    let took = clock.now() - began;
    assert!(took > 14 * S, "{took:?}");
    let counts = session.calls();
    assert_eq!(counts.login, 3, "{counts:?}");
    // A token of 6 s is renewed each half to whole second.
    let most = took.as_secs_f64() * 2.0 + 3.0;
    assert!((counts.token_renew as f64) < most, "renewing is no loop: {counts:?}");
    assert_eq!(counts.other, 2, "each retired token was revoked once: {counts:?}");
}

#[tokio::test]
async fn i8_a_token_revoked_from_outside_is_noticed_by_the_next_call_and_replaced() {
    let db = database(DatabaseSpec::new("revoked").role(long_role())).await;
    let stack = db.stack();
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let mut first = source.issue().await.expect("issue");
    let accessors = stack.token_accessors().await.expect("accessors");
    let mut found = false;
    for accessor in accessors {
        let body = serde_json::json!({ "accessor": accessor });
        let path = "auth/token/lookup-accessor";
        let (_, reply) = stack.vault_request("POST", path, Some(body)).await.expect("lookup");
        if reply["data"]["meta"]["role_name"] == db.name() {
            stack.revoke_accessor(&accessor).await.expect("revoke");
            found = true;
        }
    }
    assert!(found);
    let second = source.issue().await.expect("with another token");
    assert!(lease_lives(stack, &lease_id(&second)).await);
    let state = first.parent.as_mut().expect("a parent").state();
    assert!(!state.renewing && state.ends.expect("an end") <= Clock::system().now(), "{state:?}");
    assert_eq!(session.calls().login, 2);
}

#[tokio::test]
async fn i8_a_periodic_token_lives_on_with_one_login() {
    let db = database_with(AppRoleSpec::new().token_period(2 * S)).await;
    let session = session(&db).await;
    let issued = session.dynamic_role(db.mount(), db.role()).issue().await.expect("issue");
    within(10 * S, || session.calls().token_renew >= 5).await;
    let state = issued.parent.as_ref().expect("a parent").state();
    assert!(state.renewing, "{state:?}");
    assert!(lease_lives(db.stack(), &lease_id(&issued)).await);
    assert_eq!(session.calls().login, 1);
}

#[tokio::test]
async fn i8_batch_tokens_are_replaced_early_and_reported_at_the_end() {
    let db = database_with(AppRoleSpec::new().batch_tokens().token_ttl(6 * S)).await;
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let issued = source.issue().await.expect("issue");
    let state = issued.parent.as_ref().expect("a parent").state();
    assert!(!state.renewing && state.replaceable, "{state:?}");
    within(5 * S, || session.token_state().login >= 2).await;
    assert_eq!(session.calls().token_renew, 0);
    assert!(lease_lives(db.stack(), &lease_id(&issued)).await);
    let left = source.close().await;
    assert!(left.iter().any(|line| line.contains("batch") && line.contains("ends in")), "{left:?}");
}

#[tokio::test]
async fn i8_a_given_token_is_renewed_until_it_can_not_be_and_then_named_lost() {
    let db = database(DatabaseSpec::new("given")).await;
    let spec = TokenSpec::new().ttl(3 * S).explicit_max_ttl(5 * S);
    let token = db.token(spec).await.expect("token");
    let session = session_by(&db, &token).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let mut issued = source.issue().await.expect("issue");
    until_final(&mut issued, 6 * S).await;
    let state = issued.parent.as_ref().expect("a parent").state();
    assert!(!state.replaceable, "{state:?}");
    assert!(session.calls().token_renew >= 1);
    source.issue().await.expect("it is alive, and there is no other");
    within(8 * S, || session.token_state().lost.is_some()).await;
    let e = source.issue().await.expect_err("over");
    assert_eq!(e.kind(), ErrorKind::TokenLost, "{e}");
}

#[tokio::test]
async fn i8_a_root_token_has_no_end() {
    let db = database(DatabaseSpec::new("root")).await;
    let auth = Auth::token(db.stack().root_token());
    let session = Session::login(config(&db), auth).await.expect("login");
    let issued = session.dynamic_role(db.mount(), db.role()).issue().await.expect("issue");
    let state = issued.parent.expect("a parent").state();
    assert_eq!((state.ends, state.renewing), (None, false));
    let token = session.token_state();
    assert!(token.remaining.is_none() && token.lost.is_none(), "{token:?}");
}

#[tokio::test]
async fn i8_a_secret_id_that_was_used_up_is_lost_by_name_while_the_token_lives_on() {
    let tokens = AppRoleSpec::new().token_ttl(3 * S).token_max_ttl(6 * S).secret_id_num_uses(1);
    let db = database_with(tokens).await;
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let mut issued = source.issue().await.expect("issue");
    until_final(&mut issued, 7 * S).await;
    within(3 * S, || session.token_state().lost.is_some()).await;
    assert!(lease_lives(db.stack(), &lease_id(&issued)).await, "nothing is dropped for it");
    let e = source.issue().await.expect_err("no other token");
    assert_eq!(e.kind(), ErrorKind::TokenLost, "{e}");
    assert!(e.to_string().contains("secret_id"), "{e}");
}

#[tokio::test]
async fn a_use_limited_token_is_refused_at_start() {
    let db = database_with(AppRoleSpec::new().token_num_uses(5)).await;
    let before = db.stack().token_accessors().await.expect("accessors");
    let auth = common::approle(&db).await;
    let e = Session::login(config(&db), auth).await.expect_err("refused");
    assert!(e.to_string().contains("token_num_uses"), "{e}");
    assert!(!e.is_transient());
    let after = db.stack().token_accessors().await.expect("accessors");
    assert!(!holds_token_of(&db, &after).await, "the token was given back: {before:?} {after:?}");

    let token = db.token(TokenSpec::new().num_uses(5)).await.expect("token");
    let e = Session::login(config(&db), Auth::token(token.token)).await.expect_err("refused");
    assert!(e.to_string().contains("limited in its uses"), "{e}");
}

#[tokio::test]
async fn a_given_token_that_is_not_valid_is_refused_at_start() {
    let db = database(DatabaseSpec::new("invalid")).await;
    let e = Session::login(config(&db), Auth::token("s.nobodys")).await.expect_err("refused");
    assert_eq!(e.kind(), ErrorKind::TokenLost);
    assert!(e.to_string().contains("not valid"), "{e}");
}

#[tokio::test]
async fn i9_the_last_source_to_close_gives_the_sessions_tokens_back() {
    let db = database(DatabaseSpec::new("close").role(long_role())).await;
    let session = session(&db).await;
    let one = session.dynamic_role(db.mount(), db.role());
    let other = session.dynamic_role(db.mount(), db.role());
    let issued = one.issue().await.expect("issue");
    assert_eq!(one.close().await, Vec::<String>::new());
    assert_eq!(one.close().await, Vec::<String>::new(), "counted once");
    other.issue().await.expect("the other still works");
    assert_eq!(other.close().await, Vec::<String>::new());
    lease_gone(db.stack(), &lease_id(&issued), 5 * S).await;
    let accessors = db.stack().token_accessors().await.expect("accessors");
    assert!(!holds_token_of(&db, &accessors).await);

    let e = other.issue().await.expect_err("closed");
    assert_eq!(e.kind(), ErrorKind::TokenLost);
    assert!(e.to_string().contains("closed"), "{e}");
    assert_eq!(session.token_state().lost.as_deref(), Some("the session is closed"));
    assert_eq!(session.close().await, Vec::<String>::new(), "a second time");
}

#[tokio::test]
async fn i9_a_given_token_is_never_revoked() {
    let db = database(DatabaseSpec::new("given").role(long_role())).await;
    let token = db.token(TokenSpec::new().ttl(60 * S)).await.expect("token");
    let session = session_by(&db, &token).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let issued = source.issue().await.expect("issue");
    assert_eq!(source.close().await, Vec::<String>::new());
    let found = db.stack().lookup_token(&token.token).await.expect("lookup");
    assert!(found.is_some(), "the token lives");
    assert!(lease_lives(db.stack(), &lease_id(&issued)).await, "and so do its leases");
}

#[tokio::test]
async fn i9_a_close_that_can_not_revoke_reports_when_the_token_ends() {
    let stack = common::own_stack().await;
    let spec = DatabaseSpec::new("left").app_role(AppRoleSpec::new().token_ttl(60 * S));
    let db = stack.database(spec).await.expect("database");
    let config = config(&db).request_timeout(S);
    let session = Session::login(config, common::approle(&db).await).await.expect("login");
    stack.kill_vault().await.expect("kill");
    let began = std::time::Instant::now();
    let left = session.close().await;
    assert!(began.elapsed() < 60 * S, "bounded");
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].contains("can't be reached") && left[0].contains("ends in"), "{left:?}");
}

#[tokio::test]
async fn i11_the_task_ends_with_the_last_handle_and_leases_are_told() {
    let db = database(DatabaseSpec::new("dropped")).await;
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let mut issued = source.issue().await.expect("issue");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let with = tasks();
    drop((source, session));
    until_final(&mut issued, 5 * S).await;
    within(5 * S, || tasks() < with).await;
}

/// Whether one of these accessors is of a token that logged in by this database's AppRole.
async fn holds_token_of(db: &leasehold_testkit::TestDb, accessors: &[String]) -> bool {
    for accessor in accessors {
        let body = serde_json::json!({ "accessor": accessor });
        let path = "auth/token/lookup-accessor";
        let reply = db.stack().vault_request("POST", path, Some(body)).await.expect("lookup");
        if reply.1["data"]["meta"]["role_name"] == db.name() {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn i6_a_server_that_comes_back_after_the_tokens_end_is_logged_in_to_within_a_second() {
    let stack = common::own_stack().await;
    let spec = DatabaseSpec::new("paused").app_role(AppRoleSpec::new().token_ttl(3 * S));
    let db = stack.database(spec).await.expect("database");
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    for sealed in [false, true] {
        if sealed {
            stack.seal_vault().await.expect("seal");
        } else {
            stack.pause_vault().await.expect("pause");
        }
        let before = session.calls();
        within(8 * S, || session.token_state().lost.is_some()).await;
        let tried = session.calls().login + session.calls().token_renew;
        assert!(tried - before.login - before.token_renew < 60, "no hammering: {tried}");
        if sealed {
            stack.unseal_vault().await.expect("unseal");
        } else {
            stack.resume_vault().await.expect("resume");
        }
        within(S, || session.token_state().lost.is_none()).await;
        source.issue().await.expect("and it issues");
    }
}
