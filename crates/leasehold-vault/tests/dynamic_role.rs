//! Logins of a dynamic role, against real servers.

mod common;

use std::time::Duration;

use common::{approle, config, database, database_with, session};
use leasehold::{CredentialSource, ErrorKind, RevokeMode};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, TokenSpec, eventually};
use leasehold_vault::{Auth, Session, VaultConfig};

const S: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_login_is_issued_renewed_up_to_its_max_and_revoked() {
    let role = RoleSpec::new("app").default_ttl(20 * S).max_ttl(30 * S);
    let db = database(DatabaseSpec::new("cycle").role(role)).await;
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    assert_eq!(source.describe(), format!("{}/creds/app", db.mount()));

    let issued = source.issue().await.expect("issue");
    assert_eq!(issued.lease.ttl, Some(20 * S));
    assert!(issued.lease.renewable);
    let parent = issued.parent.as_ref().expect("made by a token").state();
    assert!(parent.renewing && parent.replaceable, "{parent:?}");
    let login = (issued.credential.username(), issued.credential.expose_password());
    db.connect(login.0, login.1).await.expect("the login works");

    let granted = source.renew(&issued.lease, Duration::from_millis(24_500)).await.expect("renew");
    assert_eq!(granted, 25 * S, "asked in whole seconds, rounded up");
    let capped = source.renew(&issued.lease, 3600 * S).await.expect("renew");
    assert!(capped <= 30 * S && capped > 20 * S, "{capped:?}");

    source.revoke(&issued.lease, RevokeMode::Sync).await.expect("revoke");
    db.connect(login.0, login.1).await.expect_err("the login is gone");
    source.revoke(&issued.lease, RevokeMode::Sync).await.expect("a second time");
    let e = source.renew(&issued.lease, 20 * S).await.expect_err("nothing to renew");
    assert_eq!(e.kind(), ErrorKind::LeaseLost, "{e}");

    let counts = session.calls();
    assert_eq!((counts.login, counts.issue, counts.renew, counts.revoke), (1, 1, 3, 2));
}

#[tokio::test]
async fn a_queued_revocation_is_the_servers_to_carry_out() {
    let db = database(DatabaseSpec::new("queued")).await;
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let issued = source.issue().await.expect("issue");
    source.revoke(&issued.lease, RevokeMode::Queued).await.expect("queued");
    let id = issued.lease.id.expect("an id");
    common::lease_gone(db.stack(), &id, 10 * S).await;
}

#[tokio::test]
async fn a_wrong_secret_id_is_refused_with_what_to_check() {
    let db = database(DatabaseSpec::new("wrong")).await;
    let auth = Auth::approle(db.role_id(), "not-the-secret-id");
    let e = Session::login(config(&db), auth).await.expect_err("refused");
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(e.to_string().contains("check role_id and secret_id"), "{e}");
}

#[tokio::test]
async fn an_auth_mount_that_is_not_there_is_named() {
    let db = database(DatabaseSpec::new("nomount")).await;
    let e = Session::login(config(&db), approle(&db).await.mount("nowhere")).await;
    let e = e.expect_err("no such mount");
    assert!(e.to_string().contains("auth/nowhere/login"), "{e}");
    assert!(!e.is_transient(), "{e}");
}

#[tokio::test]
async fn a_policy_without_the_right_is_named_with_the_right_it_lacks() {
    let db = database_with(AppRoleSpec::new().policy("")).await;
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let e = source.issue().await.expect_err("denied");
    assert_eq!(e.kind(), ErrorKind::Denied);
    let path = format!("grant `read` on {}/creds/app", db.mount());
    assert!(e.to_string().contains(&path), "{e}");
    assert_eq!(session.calls().login, 1, "a new token would have no more rights");
}

#[tokio::test]
async fn a_policy_without_revoke_is_told_at_the_revocation() {
    let read_only = r#"path "{{mount}}/creds/app" { capabilities = ["read"] }"#;
    let db = database_with(AppRoleSpec::new().policy(read_only)).await;
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let issued = source.issue().await.expect("issue");
    source.renew(&issued.lease, 10 * S).await.expect("the default policy has renew");
    let e = source.revoke(&issued.lease, RevokeMode::Sync).await.expect_err("denied");
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(e.to_string().contains("sys/leases/revoke"), "{e}");
}

#[tokio::test]
async fn unknown_roles_mounts_and_namespaces_are_told_apart_from_denials() {
    let db = database(DatabaseSpec::new("unknown")).await;
    let root = || Auth::token(db.stack().root_token());
    let session = Session::login(config(&db), root()).await.expect("login");
    for (mount, role) in [(db.mount(), "nobody"), ("nowhere", "app"), (db.mount(), "")] {
        let e = session.dynamic_role(mount, role).issue().await.expect_err("unknown");
        assert_eq!(e.kind(), ErrorKind::NotFound, "{mount} {role}: {e}");
    }
    let config = config(&db).namespace("nowhere");
    let e = Session::login(config, root()).await.expect_err("unknown");
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(e.to_string().contains("VAULT_NAMESPACE"), "{e}");
}

#[tokio::test]
async fn a_namespace_is_worked_in() {
    let db = database(DatabaseSpec::new("spaced")).await;
    let stack = db.stack();
    let (status, _) = stack
        .vault_request("POST", "sys/namespaces/team1", Some(serde_json::json!({})))
        .await
        .expect("asked");
    assert!(status < 300, "{status}");
    let config = config(&db).namespace("/team1/");
    let session = Session::login(config, Auth::token(stack.root_token())).await.expect("login");
    let e = session.dynamic_role(db.mount(), db.role()).issue().await.expect_err("not there");
    assert_eq!(e.kind(), ErrorKind::NotFound, "the mount is in the root namespace: {e}");
    assert!(session.health().await.reachable, "asked outside the namespace");
}

#[tokio::test]
async fn a_sealed_server_and_one_that_is_gone_are_told_apart() {
    let stack = common::own_stack().await;
    let db = stack.database("sealed").await.expect("database");
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let health = session.health().await;
    assert!(health.reachable, "{health:?}");
    assert_eq!((health.sealed, health.initialized), (Some(false), Some(true)));
    assert!(health.version.is_some_and(|v| !v.is_empty()));

    stack.seal_vault().await.expect("seal");
    let e = source.issue().await.expect_err("sealed");
    assert_eq!(e.kind(), ErrorKind::Sealed, "{e}");
    let auth = Auth::token(stack.root_token());
    let e = Session::login(VaultConfig::new(stack.vault_addr()), auth).await.expect_err("sealed");
    assert_eq!(e.kind(), ErrorKind::Sealed, "{e}");
    assert_eq!(session.health().await.sealed, Some(true));

    stack.kill_vault().await.expect("kill");
    // A connection that was kept open may break under one more request, whose answer is then lost.
    let gone = async || Ok(!session.health().await.reachable);
    eventually("the server is out of reach", Duration::from_secs(60), gone).await.expect("gone");
    let e = source.issue().await.expect_err("gone");
    assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}");
    assert!(e.to_string().contains(&stack.vault_addr()), "{e}");
    let health = session.health().await;
    assert!(!health.reachable && health.error.is_some(), "{health:?}");
    assert_eq!(session.calls().login, 1, "an outage is no reason to log in anew");
}

#[tokio::test]
async fn a_database_that_is_down_is_a_passing_fault() {
    let stack = common::own_stack().await;
    let db = stack.database("pgdown").await.expect("database");
    let session = session(&db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let issued = source.issue().await.expect("issue");
    stack.stop_postgres(leasehold_testkit::PostgresShutdown::Fast).await.expect("stop");
    let faults = [
        source.issue().await.expect_err("issue"),
        source.renew(&issued.lease, 60 * S).await.expect_err("renew"),
        source.revoke(&issued.lease, RevokeMode::Sync).await.expect_err("revoke"),
    ];
    for e in faults {
        assert_eq!(e.kind(), ErrorKind::ServerFault, "{e}");
        assert!(e.is_transient());
    }
    stack.start_postgres().await.expect("start");
    source.renew(&issued.lease, 60 * S).await.expect("nothing was lost");
}

#[tokio::test]
async fn a_rate_limit_is_told_with_its_time() {
    let stack = common::own_stack().await;
    let db = stack.database("limited").await.expect("database");
    let session = session(&db).await;
    stack.create_rate_limit("q", db.mount(), 1.0, 60 * S, true).await.expect("quota");
    let source = session.dynamic_role(db.mount(), db.role());
    source.issue().await.expect("the first");
    let e = source.issue().await.expect_err("the second");
    assert_eq!(e.kind(), ErrorKind::Throttled, "{e}");
    assert!(e.server_retry_after().is_some_and(|t| t <= 61 * S), "{e:?}");
}

#[tokio::test]
async fn a_token_in_place_of_a_login_works_with_its_policy() {
    let db = database(DatabaseSpec::new("given")).await;
    let token = db.token(TokenSpec::new().ttl(60 * S)).await.expect("token");
    // As it comes from a file.
    let auth = Auth::token(format!("{}\n", token.token));
    let session = Session::login(config(&db), auth).await.expect("login");
    let issued = session.dynamic_role(db.mount(), db.role()).issue().await.expect("issue");
    let parent = issued.parent.expect("a parent").state();
    assert!(parent.renewing && !parent.replaceable, "{parent:?}");
}
