//! Tokens that somebody else made: given once, or kept in a file by an agent.

use leasehold::clock::Clock;
use leasehold::{CredentialSource, ErrorKind};
use leasehold_testkit::{IssuedToken, RoleSpec, TestDb, TokenSpec, eventually};
use leasehold_vault::{Auth, Session};

use crate::common::capture::Capture;
use crate::common::within;
use crate::kit::{Dir, PATIENCE, S, db, live, login, nothing_left, put, refused};

async fn token(db: &TestDb, spec: TokenSpec) -> IssuedToken {
    db.token(spec).await.expect("token")
}

async fn lives(db: &TestDb, token: &IssuedToken) -> bool {
    db.stack().lookup_token(&token.token).await.expect("lookup").is_some()
}

async fn renewed(session: &Session, times: u64) {
    let before = session.calls().token_renew;
    within(PATIENCE, || session.calls().token_renew >= before + times).await;
}

pub async fn a_given_periodic_token_carries_a_lease_through_three_rotations() {
    let db = db("token_periodic").await;
    let given = token(&db, TokenSpec::new().period(30 * S)).await;
    let life = live(&db, login(&db, Auth::token(given.token.as_str())).await).await;
    life.rotates(&db, 3).await;
    renewed(&life.session, 1).await;
    assert_eq!(life.session.calls().login, 0, "there is nothing to log in by");
    life.ends(&db, 1).await;
    assert!(lives(&db, &given).await, "it is not ours to revoke");
}

pub async fn tokens_that_can_not_be_renewed_are_used_as_they_are() {
    let db = db("token_fixed").await;
    for spec in
        [TokenSpec::new().ttl(600 * S).not_renewable(), TokenSpec::new().ttl(600 * S).batch()]
    {
        let given = token(&db, spec).await;
        let life = live(&db, login(&db, Auth::token(given.token.as_str())).await).await;
        life.rotates(&db, 2).await;
        assert_eq!(life.session.calls().token_renew, 0, "it would be refused");
        life.ends(&db, usize::from(!given.accessor.is_empty())).await;
        assert!(lives(&db, &given).await);
        if !given.accessor.is_empty() {
            db.stack().revoke_token(&given.token).await.expect("revoke");
        }
    }
    nothing_left(&db, 0).await;
}

pub async fn the_tokens_of_a_file_carry_a_lease_through_three_rotations() {
    let db = db("token_file").await;
    let dir = Dir::new(&db);
    let file = dir.path("sink");
    let first = token(&db, TokenSpec::new().ttl(600 * S)).await;
    put(&file, &first.token);
    let life = live(&db, login(&db, Auth::token_file(&file)).await).await;
    let session = life.session.clone();
    life.rotates(&db, 3).await;
    assert_eq!(session.token_state().login, 1);

    // Written anew with what was in it: no other token, no other login.
    put(&file, &first.token);
    put(&file, &format!("{}\n", first.token));
    let second = token(&db, TokenSpec::new().ttl(600 * S)).await;
    put(&file, &second.token);
    within(PATIENCE, || session.token_state().login == 2).await;
    life.rotates(&db, 2).await;
    // Leases have moved: those of the first are given back, and nothing needs it.
    within(PATIENCE, || session.token_state().retired == 0).await;
    assert!(lives(&db, &first).await, "it is not ours to revoke");
    db.stack().revoke_token(&first.token).await.expect("the agent's own end of it");
    life.rotates(&db, 1).await;
    let calls = session.calls();
    assert_eq!((calls.token_renew, calls.login), (0, 0), "others do that: {calls:?}");
    life.ends(&db, 1).await;
    assert!(lives(&db, &second).await, "it is not ours to revoke");
}

pub async fn i8_leases_move_to_a_files_next_token_before_the_old_one_ends() {
    let db = db("token_moves").await;
    // Leases that outlive both tokens, so that only the token is a reason to move.
    let role = RoleSpec::new("long").default_ttl(3600 * S).max_ttl(7200 * S);
    db.create_role(&role).await.expect("role");
    let root = |spec: TokenSpec| spec.policies(["root"]);
    let dir = Dir::new(&db);
    let file = dir.path("sink");
    let first = token(&db, root(TokenSpec::new().ttl(12 * S))).await;
    put(&file, &first.token);
    let session = login(&db, Auth::token_file(&file)).await;
    let source = session.dynamic_role(db.mount(), "long");
    let mut issued = source.issue().await.expect("issue");
    let parent = issued.parent.as_mut().expect("a parent");
    let begun = parent.state();
    assert!(begun.renewing && !begun.replaceable, "not ours to say: {begun:?}");

    // An agent renews it, and we learn of it.
    db.stack().shorten_token(&first.token, 600 * S).await.expect("renewed by the agent");
    let moved = tokio::time::timeout(PATIENCE, async {
        while parent.changed().await.ends <= begun.ends {}
    });
    moved.await.expect("its end moved");

    let second = token(&db, root(TokenSpec::new().ttl(600 * S))).await;
    put(&file, &second.token);
    let told = tokio::time::timeout(PATIENCE, async { while parent.changed().await.renewing {} });
    told.await.expect("leases are told");
    let state = parent.state();
    assert!(state.replaceable, "by the one that has come: {state:?}");
    assert!(lives(&db, &first).await, "with time left");
    let fresh = source.issue().await.expect("issue");
    assert_eq!(session.token_state().login, 2);
    let ends = fresh.parent.as_ref().expect("a parent").state().ends;
    assert!(ends > state.ends, "on the second token");

    // One that ended before its time is looked at when the next one comes, and its leases told.
    db.stack().revoke_token(&second.token).await.expect("revoke");
    let third = token(&db, root(TokenSpec::new().ttl(600 * S))).await;
    put(&file, &third.token);
    within(PATIENCE, || session.token_state().login == 3).await;
    let parent = fresh.parent.as_ref().expect("a parent");
    let clock = Clock::system();
    within(PATIENCE, || parent.state().ends.is_some_and(|ends| ends <= clock.now())).await;
    assert!(lives(&db, &first).await, "no lease is left on it, and it is not ours to revoke");
    drop((issued, fresh));
    assert_eq!(source.close().await, Vec::<String>::new());
    for token in [&first, &third] {
        assert!(lives(&db, token).await, "not ours to revoke");
        db.stack().revoke_token(&token.token).await.expect("revoke");
    }
}

pub async fn a_file_with_a_dead_token_is_lost_by_name_until_another_is_in_it() {
    let db = db("token_dead").await;
    let dir = Dir::new(&db);
    let file = dir.path("sink");
    let e = refused(&db, Auth::token_file(&file)).await;
    assert!(e.to_string().contains(&format!("{file:?}")), "{e}");
    put(&file, "s.nobodyevermadethistoken");
    let e = refused(&db, Auth::token_file(&file)).await;
    assert_eq!(e.kind(), ErrorKind::TokenLost, "{e}");
    assert!(e.to_string().contains(&format!("{file:?}")), "{e}");

    let first = token(&db, TokenSpec::new().ttl(600 * S)).await;
    put(&file, &first.token);
    let life = live(&db, login(&db, Auth::token_file(&file)).await).await;
    db.stack().revoke_token(&first.token).await.expect("revoke");
    // The rotator's next call finds it dead.
    within(PATIENCE, || life.session.token_state().lost.is_some()).await;
    let lost = life.session.token_state().lost.expect("lost");
    assert!(lost.contains(&format!("{file:?}")) || lost.contains("not valid"), "{lost}");
    let health = life.provider.health();
    assert!(!health.source_ok || health.expires_in.is_some(), "{health:?}");

    // Half written: not taken for anything. Then whole.
    std::fs::write(&file, "").expect("written");
    let second = token(&db, TokenSpec::new().ttl(600 * S)).await;
    std::fs::write(&file, &second.token).expect("written in place");
    within(PATIENCE, || life.session.token_state().lost.is_none()).await;
    life.rotates(&db, 3).await;
    life.ends(&db, 1).await;
}

pub async fn a_files_next_token_that_is_no_good_does_not_end_what_works() {
    let db = db("token_bad_next").await;
    let dir = Dir::new(&db);
    let file = dir.path("sink");
    let first = token(&db, TokenSpec::new().ttl(600 * S)).await;
    put(&file, &first.token);
    let life = live(&db, login(&db, Auth::token_file(&file)).await).await;
    put(&file, "s.aslipoftheagentshand11");
    eventually("it is read and refused", PATIENCE, async || {
        let text = Capture::global().text();
        let told = |l: &str| l.contains("login failed") && l.contains(&format!("{file:?}"));
        Ok(text.lines().any(told))
    })
    .await
    .expect("refused");
    assert_eq!(life.session.token_state().lost, None);
    // And put back: the same token is no other login.
    let looks = life.session.calls().other;
    put(&file, &first.token);
    within(PATIENCE, || life.session.calls().other > looks).await;
    life.rotates(&db, 3).await;
    assert_eq!(life.session.token_state().login, 1);
    life.ends(&db, 1).await;
}

#[tokio::test]
async fn a_use_limited_token_in_a_file_is_refused_at_start() {
    let db = db("token_uses").await;
    let dir = Dir::new(&db);
    let file = dir.path("sink");
    put(&file, &token(&db, TokenSpec::new().ttl(600 * S).num_uses(5)).await.token);
    let e = refused(&db, Auth::token_file(&file)).await;
    assert!(e.to_string().contains("limited in its uses"), "{e}");
}
