//! Namespaces, custom mounts, and many providers over one session.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::capture::Checked;
use common::{approle, database, lease_gone, lease_lives, long_role};
use leasehold::{CredentialSource, ErrorKind, RevokeMode, Rotator};
use leasehold_testkit::{DatabaseSpec, RoleSpec, TestDb, eventually};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::{Value, json};

const S: Duration = Duration::from_secs(1);
/// For what takes milliseconds, on a machine that does something else.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(db: &TestDb) -> VaultConfig {
    let config = common::config(db);
    match db.namespace() {
        Some(namespace) => config.namespace(namespace),
        None => config,
    }
}

async fn session(db: &TestDb) -> Session {
    Session::login(config(db), approle(db).await).await.unwrap()
}

async fn provider(session: &Session, mount: &str, role: &str) -> Rotator {
    Rotator::builder(session.dynamic_role(mount, role)).grace(S).start().await.unwrap()
}

async fn works(db: &TestDb, rotator: &Rotator) {
    let current = rotator.provider().current().clone();
    let login = current.credential();
    db.connect(login.username(), login.expose_password()).await.unwrap();
}

async fn rotates_to(rotator: &Rotator, generation: u64) {
    eventually("a rotation", PATIENCE, async || {
        Ok(rotator.provider().current().number() >= generation)
    })
    .await
    .unwrap();
}

/// As somebody with the right to do so.
async fn admin(db: &TestDb, method: &str, path: &str, body: Value) -> Value {
    let (status, reply) = db.stack().vault_request(method, path, Some(body)).await.unwrap();
    assert!(status < 300, "{method} {path}: {status} {reply}");
    reply
}

#[tokio::test]
async fn two_providers_in_two_namespaces_with_equal_names_do_not_see_each_other() {
    let in_namespace = async |name: &str| {
        let spec = DatabaseSpec::new(name).namespace(name).mounted_at("database");
        database(spec.role(long_role())).await
    };
    let (one, two) = (in_namespace("equal-one").await, in_namespace("equal-two").await);
    assert_eq!((one.mount(), one.role()), (two.mount(), two.role()));
    let (first, second) = (session(&one).await, session(&two).await);
    let mine = provider(&first, "database", "app").await;
    let theirs = provider(&second, "database", "app").await;
    works(&one, &mine).await;
    works(&two, &theirs).await;
    let of = |r: &Rotator| r.provider().current().clone();
    let (before, kept) = (of(&mine), of(&theirs));
    assert_ne!(before.credential().username(), kept.credential().username());
    assert_eq!(one.logins().await.unwrap(), [before.credential().username()]);
    assert_eq!(two.logins().await.unwrap(), [kept.credential().username()]);

    // A rotation and a revocation here are not felt there.
    mine.rotate();
    rotates_to(&mine, 2).await;
    let lease = before.lease().id.clone().unwrap();
    lease_gone(one.stack(), &lease, PATIENCE).await;
    one.revoke_all(false).await.unwrap();
    assert_eq!(one.leases().await.unwrap().len(), 0);
    assert_eq!(two.leases().await.unwrap().len(), 1);
    works(&two, &theirs).await;
    assert_eq!(theirs.provider().current().number(), 1);

    // Not even if one knows the other's lease.
    let source = first.dynamic_role("database", "app");
    for e in [
        source.renew(kept.lease(), 60 * S).await.map(drop).unwrap_err(),
        source.revoke(kept.lease(), RevokeMode::Sync).await.unwrap_err(),
    ] {
        assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    }
    assert!(lease_lives(two.stack(), kept.lease().id.as_ref().unwrap()).await);

    // Nor by its token.
    let foreign = one.login().await.unwrap();
    // The server tells it what it is in any namespace, and lets it do nothing there.
    let visitor = Session::login(config(&two), Auth::token(&foreign.token)).await.unwrap();
    let e = visitor.dynamic_role("database", "app").issue().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");

    drop(source);
    mine.shutdown(5 * S).await;
    works(&two, &theirs).await;
    let report = theirs.shutdown(5 * S).await;
    assert!(report.is_clean(), "{report}");
    for db in [&one, &two] {
        assert!(db.logins().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn leases_and_tokens_of_a_namespace_are_renewed_rotated_and_given_back() {
    let role = RoleSpec::new("app").default_ttl(4 * S).max_ttl(8 * S);
    let app_role = leasehold_testkit::AppRoleSpec::new().token_ttl(6 * S).token_max_ttl(9 * S);
    let spec = DatabaseSpec::new("life").namespace("life").mounted_at("team/pg/life");
    let db = database(spec.role(role).app_role(app_role)).await;
    let session = session(&db).await;
    let rotator = provider(&session, "/team/pg/life/", "app").await;
    for generation in 2..=4 {
        rotates_to(&rotator, generation).await;
        works(&db, &rotator).await;
    }
    let calls = session.calls();
    assert!(calls.renew >= 1 && calls.revoke >= 1 && calls.token_renew >= 1, "{calls:?}");
    let report = rotator.shutdown(5 * S).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(db.lease_count().await.unwrap(), 0);
    assert!(db.logins().await.unwrap().is_empty());
}

#[tokio::test]
async fn auth_methods_and_engines_may_be_mounted_anywhere() {
    let db = database(DatabaseSpec::new("mounts").mounted_at("teams/orders/pg")).await;
    let mount = format!("teams/{}/approle", db.name());
    admin(&db, "POST", &format!("sys/auth/{mount}"), json!({ "type": "approle" })).await;
    let role = format!("auth/{mount}/role/app");
    admin(&db, "POST", &role, json!({ "token_policies": [db.name()] })).await;
    let id = db.stack().vault_request("GET", &format!("{role}/role-id"), None).await.unwrap().1;
    let secret = admin(&db, "POST", &format!("{role}/secret-id"), json!({})).await;
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let auth = Auth::approle(text(&id["data"]["role_id"]), text(&secret["data"]["secret_id"]));

    let session = Session::login(config(&db), auth.mount(&mount)).await.unwrap();
    let rotator = provider(&session, "teams/orders/pg", "app").await;
    works(&db, &rotator).await;
    let report = rotator.shutdown(5 * S).await;
    assert!(report.is_clean(), "{report}");
}

/// A database whose AppRole may use the others' roles too.
async fn team() -> (Checked, TestDb, Checked) {
    let role = |name| RoleSpec::new(name).default_ttl(600 * S).max_ttl(3600 * S);
    let spec = DatabaseSpec::new("orders").role(role("rw")).role(role("ro"));
    let orders = database(spec).await;
    let spec = DatabaseSpec::new("billing").role(role("billing")).on_mount_of(&orders);
    let billing = orders.stack().database(spec).await.unwrap();
    let stock = database(DatabaseSpec::new("stock").role(role("rw"))).await;
    let creds = [orders.mount(), stock.mount()]
        .map(|mount| format!(r#"path "{mount}/creds/+" {{ capabilities = ["read"] }}"#));
    let leases = ["renew", "revoke"]
        .map(|what| format!(r#"path "sys/leases/{what}" {{ capabilities = ["update"] }}"#));
    orders.set_policy(&[creds, leases].concat().join("\n")).await.unwrap();
    (orders, billing, stock)
}

#[tokio::test]
async fn one_session_serves_many_providers_of_several_roles_and_databases() {
    let (orders, billing, stock) = team().await;
    let session = session(&orders).await;
    let wanted: [(&TestDb, &str); 6] = [
        (&orders, "rw"),
        (&orders, "ro"),
        (&orders, "rw"),
        (&billing, "billing"),
        (&stock, "rw"),
        (&stock, "rw"),
    ];
    let mut rotators = Vec::new();
    for (db, role) in wanted {
        let rotator = provider(&session, db.mount(), role).await;
        works(db, &rotator).await;
        rotators.push((db, rotator));
    }
    let names: std::collections::BTreeSet<_> = rotators
        .iter()
        .map(|(_, r)| r.provider().current().credential().username().to_owned())
        .collect();
    assert_eq!(names.len(), 6, "a login each, two of the same role included");

    for (_, rotator) in &rotators {
        rotator.rotate();
    }
    for (db, rotator) in &rotators {
        rotates_to(rotator, 2).await;
        works(db, rotator).await;
    }
    let calls = session.calls();
    assert_eq!((calls.login, calls.issue), (1, 12), "{calls:?}");

    // One that ends takes nothing from the others; the last one ends the session.
    let (db, last) = rotators.pop().unwrap();
    for (_, rotator) in &rotators {
        let report = rotator.shutdown(5 * S).await;
        assert!(report.is_clean(), "{report}");
    }
    works(db, &last).await;
    assert_eq!(session.token_state().lost, None);
    let report = last.shutdown(5 * S).await;
    assert!(report.is_clean(), "{report}");
    assert!(session.token_state().lost.is_some(), "closed");
    for db in [&*orders, &billing, &*stock] {
        assert_eq!(db.lease_count().await.unwrap(), 0);
        assert!(db.logins().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_is_named() {
    let db = database(DatabaseSpec::new("nowhere").role(long_role())).await;
    let config = common::config(&db).namespace("no-such-team");
    let e = Session::login(config, approle(&db).await).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(e.to_string().contains("VAULT_NAMESPACE"), "{e}");
    assert!(e.to_string().contains("in namespace no-such-team"), "{e}");
}

#[tokio::test]
async fn a_locked_namespace_takes_nothing_away_and_goes_on_when_it_is_unlocked() {
    let spec = DatabaseSpec::new("locked").namespace("locked").mounted_at("database");
    let db = database(spec.role(long_role())).await;
    let session = session(&db).await;
    let rotator = provider(&session, "database", "app").await;
    let locked = admin(&db, "PUT", "sys/namespaces/api-lock/lock/locked", json!({})).await;

    let source = session.dynamic_role("database", "app");
    let lease = rotator.provider().current().lease().clone();
    let failures = [
        source.issue().await.map(drop).unwrap_err(),
        source.renew(&lease, 60 * S).await.map(drop).unwrap_err(),
        Session::login(config(&db), Auth::token("s.any")).await.map(drop).unwrap_err(),
    ];
    for e in failures {
        assert_eq!(e.kind(), ErrorKind::Sealed, "{e}");
        assert!(e.to_string().contains("the namespace is locked"), "{e}");
        assert!(e.is_transient(), "somebody may unlock it: {e}");
    }
    rotator.rotate();
    eventually("the failed attempt is told", PATIENCE, async || {
        Ok(!rotator.provider().health().source_ok)
    })
    .await
    .unwrap();
    works(&db, &rotator).await;
    assert_eq!(rotator.provider().current().number(), 1);

    let key = json!({ "unlock_key": locked["data"]["unlock_key"] });
    admin(&db, "PUT", "sys/namespaces/api-lock/unlock/locked", key).await;
    rotates_to(&rotator, 2).await;
    works(&db, &rotator).await;
    drop(source);
    let report = rotator.shutdown(5 * S).await;
    assert!(report.is_clean(), "{report}");
}
