//! AppRole, with secret_ids from everywhere.

use std::path::PathBuf;

use leasehold::ErrorKind;
use leasehold_testkit::{AppRoleSpec, TestDb};
use leasehold_vault::{Auth, SecretId};
use serde_json::{Value, json};

use crate::common::capture::Capture;
use crate::kit::{
    Dir, PATIENCE, S, admin, carries_three_rotations, carry_on, db, db_with, live, login,
    nothing_left, put, refused,
};

fn short() -> AppRoleSpec {
    AppRoleSpec::new().token_ttl(3 * S).token_max_ttl(6 * S)
}

/// `bao write -wrap-ttl=... -f auth/approle/role/ROLE/secret-id`
async fn wrapped(db: &TestDb) -> String {
    let path = format!("auth/approle/role/{}/secret-id", db.name());
    let stack = db.stack();
    stack.vault_request_wrapped("POST", &path, Some(json!({})), PATIENCE).await.expect("wrapped")
}

pub async fn a_secret_id_given_as_such_carries_a_lease_through_three_rotations() {
    let db = db_with("approle_value", short()).await;
    let auth = Auth::approle(db.role_id(), db.secret_id().await.expect("secret_id"));
    carries_three_rotations(&db, auth).await;
}

pub async fn a_secret_id_in_a_file_is_read_anew_at_each_login() {
    let db = db_with("approle_file", short().secret_id_num_uses(1)).await;
    let dir = Dir::new(&db);
    let file = dir.path("secret_id");
    let auth = || Auth::approle(db.role_id(), SecretId::file(&file));
    let e = refused(&db, auth()).await;
    assert!(e.to_string().contains(&format!("{file:?}")), "{e}");

    // Each is good for one login: the next needs another.
    put(&file, &db.secret_id().await.expect("secret_id"));
    let life = live(&db, login(&db, auth()).await).await;
    let maker = (*db).clone();
    let _deliverer = deliver(file, move || {
        let maker = maker.clone();
        async move { maker.secret_id().await.expect("secret_id") }
    });
    carry_on(&db, life).await;
}

/// Puts a fresh one into the file again and again, until dropped.
fn deliver<F>(file: PathBuf, make: impl Fn() -> F + Send + 'static) -> impl Drop
where
    F: Future<Output = String> + Send + 'static,
{
    struct Deliverer(tokio::task::JoinHandle<()>);
    impl Drop for Deliverer {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    Deliverer(tokio::spawn(async move {
        loop {
            put(&file, &make().await);
            tokio::time::sleep(S / 5).await;
        }
    }))
}

pub async fn a_role_that_binds_no_secret_id_is_logged_in_to_without_one() {
    let db = db_with("approle_none", short()).await;
    // The server wants some other binding then.
    let role = json!({ "bind_secret_id": false, "token_bound_cidrs": "127.0.0.0/8" });
    admin(&db, "POST", &format!("auth/approle/role/{}", db.name()), role).await;
    carries_three_rotations(&db, Auth::approle(db.role_id(), SecretId::none())).await;
}

#[tokio::test]
async fn a_variable_that_is_not_set_is_named() {
    let db = db("approle_variable").await;
    let auth = Auth::approle(db.role_id(), SecretId::env("LEASEHOLD_TEST_NOT_SET"));
    let e = refused(&db, auth).await;
    assert!(e.to_string().contains("LEASEHOLD_TEST_NOT_SET"), "{e}");
    // One that is set, to what is no secret_id, gets as far as the server.
    let e = refused(&db, Auth::approle(db.role_id(), SecretId::env("PATH"))).await;
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(e.to_string().contains("check role_id and secret_id"), "{e}");
}

pub async fn a_wrapped_secret_id_is_unwrapped_once_and_kept_for_later_logins() {
    let db = db_with("approle_wrapped", short()).await;
    let wrapper = wrapped(&db).await;
    let auth = Auth::approle(db.role_id(), SecretId::wrapped(format!("{wrapper}\n")));
    let session = login(&db, auth).await;
    assert_eq!(session.calls().other, 2, "one look, one unwrapping");
    let life = live(&db, session).await;
    let session = life.session.clone();
    carry_on(&db, life).await;
    assert!(session.token_state().login >= 2);
    assert_eq!(unwrappings(&db, &wrapper).await, 1);
}

/// How often the server was asked to unwrap this, by its own account.
async fn unwrappings(db: &TestDb, wrapper: &str) -> usize {
    let audit = db.stack().raw_audit().await.expect("audit");
    audit
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| {
            let request = &entry["request"];
            entry["type"] == "request"
                && request["path"] == "sys/wrapping/unwrap"
                && entry.to_string().contains(wrapper)
        })
        .count()
}

pub async fn a_wrapped_secret_id_in_a_file_may_come_anew() {
    let db = db_with("approle_wrapped_file", short().secret_id_num_uses(1)).await;
    let dir = Dir::new(&db);
    let file = dir.path("wrapped");
    put(&file, &wrapped(&db).await);
    let auth = Auth::approle(db.role_id(), SecretId::wrapped_file(&file));
    let life = live(&db, login(&db, auth).await).await;
    // The secret_id is used up, and whoever delivers them brings others.
    let maker = (*db).clone();
    let _deliverer = deliver(file, move || {
        let maker = maker.clone();
        async move { wrapped(&maker).await }
    });
    carry_on(&db, life).await;
}

pub async fn without_the_file_a_secret_id_that_was_unwrapped_goes_on_being_used() {
    let db = db_with("approle_wrapped_gone", short()).await;
    let dir = Dir::new(&db);
    let file = dir.path("wrapped");
    put(&file, &wrapped(&db).await);
    let auth = Auth::approle(db.role_id(), SecretId::wrapped_file(&file));
    let life = live(&db, login(&db, auth).await).await;
    std::fs::remove_file(&file).expect("removed");
    carry_on(&db, life).await;
}

#[tokio::test]
async fn a_wrapping_token_that_somebody_used_is_an_alarm_and_not_tried_again() {
    let db = db("approle_stolen").await;
    let wrapper = wrapped(&db).await;
    let body = json!({ "token": wrapper });
    let stolen = admin(&db, "POST", "sys/wrapping/unwrap", body).await;
    assert!(stolen["data"]["secret_id"].is_string(), "{stolen}");
    let e = refused(&db, Auth::approle(db.role_id(), SecretId::wrapped(&wrapper))).await;
    assert_eq!(e.kind(), ErrorKind::Denied);
    for said in
        ["somebody else may have unwrapped it", "TTL ended", "destroy the secret_id", "fresh"]
    {
        assert!(e.to_string().contains(said), "no {said:?}: {e}");
    }
    alarmed("is used or over");
    assert_eq!(unwrappings(&db, &wrapper).await, 1, "the thief's: for us a look was enough");
    nothing_left(&db, 0).await;
}

#[tokio::test]
async fn a_wrapping_token_that_is_over_or_made_up_is_the_same_alarm() {
    let db = db("approle_over").await;
    let path = format!("auth/approle/role/{}/secret-id", db.name());
    let stack = db.stack();
    let short = stack.vault_request_wrapped("POST", &path, Some(json!({})), S).await;
    let short = short.expect("wrapped");
    leasehold_testkit::eventually("the wrapping is over", PATIENCE, async || {
        let body = json!({ "token": short });
        let (status, _) = stack.vault_request("POST", "sys/wrapping/lookup", Some(body)).await?;
        Ok(status == 400)
    })
    .await
    .expect("over");
    for wrapper in [&*short, "s.nobodyevermadethisone11"] {
        let e = refused(&db, Auth::approle(db.role_id(), SecretId::wrapped(wrapper))).await;
        assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
        assert!(e.to_string().contains("somebody else may have unwrapped it"), "{e}");
    }
}

#[tokio::test]
async fn a_wrapping_token_of_something_else_is_an_alarm_and_stays_wrapped() {
    let db = db("approle_swapped").await;
    // Somebody who can't make secret_ids of the role, but can wrap what he likes.
    let body = json!({ "secret_id": "an-intruders-own-secret" });
    let stack = db.stack();
    let swapped = stack.vault_request_wrapped("POST", "sys/wrapping/wrap", Some(body), PATIENCE);
    let swapped = swapped.await.expect("wrapped");
    let e = refused(&db, Auth::approle(db.role_id(), SecretId::wrapped(&swapped))).await;
    assert_eq!(e.kind(), ErrorKind::Denied);
    for said in ["sys/wrapping/wrap", "auth/approle/role/ROLE/secret-id", "in its place"] {
        assert!(e.to_string().contains(said), "no {said:?}: {e}");
    }
    alarmed("somebody may have put another in its place");
    assert_eq!(unwrappings(&db, &swapped).await, 0);
    let body = json!({ "token": swapped });
    admin(&db, "POST", "sys/wrapping/unwrap", body).await;
}

/// There is a line at ERROR that says so.
#[track_caller]
fn alarmed(what: &str) {
    let text = Capture::global().text();
    let line = text.lines().find(|line| line.contains("ERROR") && line.contains(what));
    assert!(line.is_some(), "no alarm that says {what:?}");
}

pub async fn a_stolen_wrapping_token_in_the_file_does_not_end_what_works() {
    let db = db_with("approle_still", short()).await;
    let dir = Dir::new(&db);
    let file = dir.path("wrapped");
    put(&file, &wrapped(&db).await);
    let auth = Auth::approle(db.role_id(), SecretId::wrapped_file(&file));
    let life = live(&db, login(&db, auth).await).await;
    let stolen = wrapped(&db).await;
    admin(&db, "POST", "sys/wrapping/unwrap", json!({ "token": stolen })).await;
    put(&file, &stolen);
    let before = alarms();
    let session = life.session.clone();
    life.logs_in(3).await;
    carry_on(&db, life).await;
    assert!(session.token_state().login >= 3);
    assert!(alarms() > before, "told");
    let looks = looks_at(&db, &stolen).await;
    assert_eq!(looks, 1, "and not tried again by the third login");
}

fn alarms() -> usize {
    let text = Capture::global().text();
    text.lines().filter(|l| l.contains("ERROR") && l.contains("is used or over")).count()
}

async fn looks_at(db: &TestDb, wrapper: &str) -> usize {
    let audit = db.stack().raw_audit().await.expect("audit");
    let asked = |line: &&str| line.contains("sys/wrapping/lookup") && line.contains(wrapper);
    let requests = audit.lines().filter(asked).filter(|l| l.contains(r#""type":"request""#));
    requests.count()
}
