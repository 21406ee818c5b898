//! Static roles, secrets and single logins, against real servers.

mod common;

use std::time::Duration;

use common::kv::{root, with_kv};
use common::{approle, config, database, session};
use leasehold::{CredentialSource, ErrorKind};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, TestDb};
use leasehold_vault::{Auth, KvSecret, StaticRole};
use serde_json::{Value, json};

const S: Duration = Duration::from_secs(1);
/// Longer than anything takes on a slow machine.
const LONG: Duration = Duration::from_secs(60);

const ALL: &str = "path \"{{kv}}/*\" { capabilities = [\"read\"] }";
const DATA: &str = "path \"{{kv}}/data/*\" { capabilities = [\"read\"] }";

async fn put(db: &TestDb, path: &str, login: Value) {
    root(db, "POST", path, json!({ "data": login })).await;
}

fn pending(source: &impl CredentialSource) -> impl Future<Output = bool> {
    let wait = tokio::time::timeout(3 * S, source.changed());
    async { wait.await.is_err() }
}

async fn comes(source: &impl CredentialSource) {
    tokio::time::timeout(LONG, source.changed()).await.expect("the change was never seen");
}

#[tokio::test]
async fn a_deleted_version_and_a_missing_key_are_named_and_what_comes_next_is_seen() {
    let (db, mount) = with_kv("deleted", 2, ALL).await;
    let secret = format!("{mount}/data/team/app");
    let session = session(&db).await;
    let source: KvSecret = session.kv2(&mount, "team/app").check_every(S);

    let e = source.issue().await.expect_err("nothing there");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(e.to_string().contains(&secret), "{e}");

    put(&db, &secret, json!({ "username": "app", "password": "hunter2" })).await;
    let issued = source.issue().await.expect("issue");
    assert_eq!(issued.credential.expose_password(), "hunter2");
    assert!(issued.lease.id.is_none() && issued.lease.ttl.is_none() && issued.parent.is_none());
    assert!(pending(&source).await, "nothing changed");

    // Deleted: the version is the same, and the login that is known goes on.
    root(&db, "DELETE", &secret, Value::Null).await;
    assert!(pending(&source).await, "no news");
    let e = source.issue().await.expect_err("deleted");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    let told = e.to_string();
    assert!(told.contains(&secret) && told.contains("version, 1, was deleted"), "{e}");

    // A version that lacks a key: seen, refused by name, and not seen again.
    put(&db, &secret, json!({ "username": "app", "pass": "hunter2" })).await;
    comes(&source).await;
    let e = source.issue().await.expect_err("no password");
    let told = e.to_string();
    assert_eq!(e.kind(), ErrorKind::Malformed, "{e}");
    assert!(told.contains(&secret) && told.contains("version 2") && told.contains("password"));
    assert!(!format!("{e:?}").contains("hunter2"), "I10: {e:?}");
    assert!(pending(&source).await, "nothing newer than what was seen");

    put(&db, &secret, json!({ "username": "app", "password": "hunter3" })).await;
    comes(&source).await;
    assert_eq!(source.issue().await.expect("issue").credential.expose_password(), "hunter3");
}

#[tokio::test]
async fn a_version_1_path_on_version_2_says_what_to_check() {
    let (db, mount) = with_kv("versions", 2, ALL).await;
    put(&db, &format!("{mount}/data/app"), json!({ "username": "a", "password": "b" })).await;
    let source = session(&db).await.kv1(&mount, "app");
    let e = source.issue().await.expect_err("not there");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(e.to_string().contains(&format!("{mount}/app")), "{e}");
}

#[tokio::test]
async fn without_the_right_to_metadata_the_secret_itself_is_watched() {
    let (db, mount) = with_kv("nometa", 2, DATA).await;
    let secret = format!("{mount}/data/app");
    put(&db, &secret, json!({ "url": "postgres://app:pw1@db:5433/orders" })).await;
    let session = session(&db).await;
    let source = session.kv2(&mount, "app").check_every(S);
    let issued = source.issue().await.expect("issue");
    let address = issued.credential.address().expect("a URL says where");
    assert_eq!((address.host.as_deref(), address.port), (Some("db"), Some(5433)));
    assert!(pending(&source).await, "nothing changed");
    put(&db, &secret, json!({ "username": "app", "password": "pw2" })).await;
    comes(&source).await;
    assert_eq!(source.issue().await.expect("issue").credential.expose_password(), "pw2");
    // Denied once, and not asked for again.
    let before = session.calls().read;
    assert!(pending(&source).await);
    let looks = session.calls().read - before;
    assert!((1..=4).contains(&looks), "one request for each look: {looks}");
}

#[tokio::test]
async fn version_1_is_compared_and_a_login_that_makes_no_sense_is_no_news() {
    let (db, mount) = with_kv("plain", 1, ALL).await;
    let path = format!("{mount}/app");
    root(&db, "POST", &path, json!({ "username": "app", "password": "pw1" })).await;
    let source = session(&db).await.kv1(&mount, "app").check_every(S);
    source.issue().await.expect("issue");
    root(&db, "POST", &path, json!({ "username": "app", "password": "pw1", "note": 1 })).await;
    assert!(pending(&source).await, "the login is the same");
    root(&db, "POST", &path, json!({ "username": "app" })).await;
    assert!(pending(&source).await, "half a login");
    root(&db, "POST", &path, json!({ "username": "app", "password": "pw2" })).await;
    comes(&source).await;
}

async fn static_role(db: &TestDb, period: &str) -> StaticRole {
    let user = format!("{}_static", db.name());
    let sql = format!("create role \"{user}\" login password 'before' in role \"{}\"", db.name());
    db.admin().await.expect("admin").batch_execute(&sql).await.expect("a user");
    let body = json!({ "db_name": db.name(), "username": user, "rotation_period": period });
    root(db, "POST", &format!("{}/static-roles/shared", db.mount()), body).await;
    session(db).await.static_role(db.mount(), "shared")
}

fn may_read_static() -> AppRoleSpec {
    let policy = "path \"{{mount}}/static-creds/*\" { capabilities = [\"read\"] }";
    AppRoleSpec::new().extra_policy(policy)
}

#[tokio::test]
async fn a_static_role_is_looked_at_when_it_is_due_and_seldom_before() {
    let db = database(DatabaseSpec::new("static").app_role(may_read_static())).await;
    let source = static_role(&db, "3600s").await;
    let issued = source.issue().await.expect("issue");
    let login = (issued.credential.username(), issued.credential.expose_password());
    db.connect(login.0, login.1).await.expect("the login works");
    assert!(issued.lease.id.is_none() && issued.parent.is_none(), "it dies with no token");
    assert!(pending(&source).await);
    assert_eq!(source.session().calls().read, 1, "an hour to go: nothing is asked");

    // By hand: seen at the next look.
    let source = source.check_every(S);
    source.issue().await.expect("issue");
    root(&db, "POST", &format!("{}/rotate-role/shared", db.mount()), json!({})).await;
    comes(&source).await;
    let next = source.issue().await.expect("issue");
    assert_ne!(next.credential.expose_password(), login.1);
    db.connect(login.0, login.1).await.expect_err("no overlap");
    db.connect(login.0, next.credential.expose_password()).await.expect("the new one");
}

#[tokio::test]
async fn a_rotation_that_is_due_is_looked_for_without_spinning() {
    let db = database(DatabaseSpec::new("due").app_role(may_read_static())).await;
    let source = static_role(&db, "5s").await;
    let first = source.issue().await.expect("issue");
    comes(&source).await;
    let issued = source.issue().await.expect("issue");
    assert_ne!(issued.credential.expose_password(), first.credential.expose_password());

    // The server can't rotate: it goes on saying that it is due now.
    let user = issued.credential.username();
    let admin = db.admin().await.expect("admin");
    let rename = format!("alter role \"{user}\" rename to \"{user}_away\"");
    admin.batch_execute(&rename).await.expect("renamed");
    if source.issue().await.expect("issue").credential.expose_password()
        != issued.credential.expose_password()
    {
        // It was quicker than we; the next one fails.
        source.issue().await.expect("issue");
    }
    let before = source.session().calls().read;
    let wait = tokio::time::timeout(12 * S, source.changed()).await;
    assert!(wait.is_err(), "nothing changes while it can't");
    let looks = source.session().calls().read - before;
    assert!((3..=25).contains(&looks), "each half second at the most: {looks}");

    let rename = format!("alter role \"{user}_away\" rename to \"{user}\"");
    admin.batch_execute(&rename).await.expect("renamed");
    comes(&source).await;
}

#[tokio::test]
async fn a_static_role_that_is_not_there_or_not_allowed_is_named() {
    let db = database(DatabaseSpec::new("nostatic").app_role(may_read_static())).await;
    let session = session(&db).await;
    let e = session.static_role(db.mount(), "nosuch").issue().await.expect_err("not there");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(e.to_string().contains("static-creds/nosuch"), "{e}");
    let e = session.static_role("elsewhere", "nosuch").issue().await.expect_err("not allowed");
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    assert!(e.to_string().contains("`read` on elsewhere/static-creds/nosuch"), "{e}");
}

#[tokio::test]
async fn once_gives_back_the_lease_and_its_own_token() {
    // A stack of its own: tokens are counted.
    let stack = leasehold_testkit::Stack::start().await.expect("servers");
    let spec = |name: &str| {
        let role = leasehold_testkit::RoleSpec::new("app").default_ttl(3600 * S);
        let role = role.max_ttl(7200 * S);
        DatabaseSpec::new(name).role(role)
    };
    let app_role = AppRoleSpec::new().token_ttl(20 * S);
    let db = stack.database(spec("once").app_role(app_role)).await.expect("database");
    let auth = approle(&db).await;
    let before = stack.token_accessors().await.expect("tokens").len();

    let login = leasehold_vault::once(config(&db), auth, db.mount(), db.role()).await;
    let login = login.expect("a login");
    let (user, password) = (login.credential().username(), login.credential().expose_password());
    db.connect(user, password).await.expect("it works");
    let remaining = login.remaining().expect("it ends");
    assert!(remaining <= 20 * S, "the lease says an hour, the token says: {remaining:?}");
    assert_eq!(login.lease().ttl, Some(3600 * S));
    assert!(login.end().await.is_clean());
    assert!(db.leases().await.expect("leases").is_empty());
    assert_eq!(stack.token_accessors().await.expect("tokens").len(), before);

    // A given token is not ours to revoke.
    let token = db.token(leasehold_testkit::TokenSpec::new()).await.expect("token");
    let auth = Auth::token(token.token.as_str());
    let login = leasehold_vault::once(config(&db), auth, db.mount(), db.role()).await;
    assert!(login.expect("a login").end().await.is_clean());
    assert!(stack.lookup_token(&token.token).await.expect("lookup").is_some());
    assert!(db.leases().await.expect("leases").is_empty());

    // A role that is not there: the token that was made for nothing is given back.
    let before = stack.token_accessors().await.expect("tokens").len();
    let auth = approle(&db).await;
    let e = leasehold_vault::once(config(&db), auth, db.mount(), "nosuch").await;
    let e = e.expect_err("not there");
    assert!(e.to_string().contains("creds/nosuch"), "{e}");
    assert_eq!(stack.token_accessors().await.expect("tokens").len(), before);

    // Where revoking leases is not allowed, they go with the token.
    let policy = "path \"{{mount}}/creds/*\" { capabilities = [\"read\"] }";
    let app_role = AppRoleSpec::new().policy(policy);
    let db = stack.database(spec("norevoke").app_role(app_role)).await.expect("database");
    let auth = approle(&db).await;
    let login = leasehold_vault::once(config(&db), auth, db.mount(), db.role()).await;
    assert!(login.expect("a login").end().await.is_clean());
    leasehold_testkit::eventually("the lease is gone", LONG, async || {
        Ok(db.leases().await?.is_empty())
    })
    .await
    .expect("gone");
}
