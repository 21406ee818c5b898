//! What a person got wrong is told at the start, in words that name it.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use leasehold::Rotator;
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, shared};
use leasehold_tests::*;
use leasehold_vault::{Auth, Session, VaultConfig};

async fn login_error(addr: &str, auth: Auth) -> String {
    match Session::login(VaultConfig::new(addr).request_timeout(s(2)), auth).await {
        Ok(_) => panic!("the login must fail"),
        Err(error) => chain(&error),
    }
}

#[tokio::test]
async fn a_wrong_vault_address_is_named() {
    for (addr, word) in [("", "address is empty"), ("localhost:8200", "http"), ("ftp://x", "http")]
    {
        let error = login_error(addr, Auth::token("t")).await;
        assert!(error.contains(word), "{addr:?}: {error}");
    }
}

#[tokio::test]
async fn an_unreachable_vault_is_a_bounded_wait_and_says_what_was_tried() {
    let begun = Instant::now();
    let error = login_error("http://127.0.0.1:1", Auth::approle("role", "secret")).await;
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert!(begun.elapsed() < LONG);
}

#[tokio::test]
async fn a_wrong_secret_id_is_told_apart_from_an_outage() {
    let db = database(shared().await.unwrap(), "secretid", 60, 600).await;
    let error = login_error(&db.vault_addr(), Auth::approle(db.role_id(), "wrong")).await;
    assert!(error.contains("secret_id") || error.contains("secret id"), "{error}");
}

#[tokio::test]
async fn a_denied_policy_names_the_path() {
    let spec = DatabaseSpec::new("denied")
        .role(RoleSpec::new("app"))
        .app_role(AppRoleSpec::new().policy("path \"nothing/here\" { capabilities = [\"read\"] }"));
    let db = shared().await.unwrap().database(spec).await.unwrap();
    let error = told(rotator(&db).await.start().await);
    assert!(error.contains(&format!("{}/creds/app", db.mount())), "{error}");
    assert!(error.contains("policy") || error.contains("denied"), "{error}");
}

#[tokio::test]
async fn an_unknown_role_or_mount_is_named() {
    let db = database(shared().await.unwrap(), "unknown", 60, 600).await;
    let root = db.stack().root_token().to_owned();
    let config = VaultConfig::new(db.vault_addr());
    let session = Session::login(config, Auth::token(root)).await.unwrap();
    let error = told(Rotator::builder(session.dynamic_role(db.mount(), "nope")).start().await);
    assert!(error.contains("nope"), "{error}");
    let error = told(Rotator::builder(session.dynamic_role("nomount", "app")).start().await);
    assert!(error.contains("nomount"), "{error}");
}

#[tokio::test]
async fn a_sealed_server_is_waited_for_and_then_named() {
    let stack = Stack::start().await.unwrap();
    let db = database(&stack, "sealed", 60, 600).await;
    let builder = rotator(&db).await;
    stack.seal_vault().await.unwrap();
    let error = told(builder.start_timeout(s(2)).start().await);
    assert!(error.contains("sealed"), "{error}");
}

#[tokio::test]
async fn a_ttl_too_short_for_its_leeway_names_both_and_leaves_nothing() {
    let db = database(shared().await.unwrap(), "short", 5, 60).await;
    let error = told(rotator(&db).await.grace(s(30)).start().await);
    assert!(error.contains("5.0s") && error.contains("31.8s"), "{error}");
    nothing_left(&db).await;
}
