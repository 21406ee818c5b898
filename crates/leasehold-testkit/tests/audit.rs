//! The server's own list of the secrets that it issued.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use leasehold_testkit::{Error, Stack, Storage};
use serde_json::json;

#[tokio::test]
async fn every_secret_that_was_issued_or_given_is_on_the_list() {
    for storage in [Storage::Dev, Storage::Raft] {
        let stack = Stack::builder().storage(storage).audit_raw().start().await.unwrap();
        let db = stack.database("audit").await.unwrap();
        let secret_id = db.secret_id().await.unwrap();
        let body = json!({ "role_id": db.role_id(), "secret_id": secret_id });
        let (_, login) =
            stack.vault_request_as("", "POST", "auth/approle/login", Some(body)).await.unwrap();
        let token = login["auth"]["client_token"].as_str().unwrap();
        let creds = db.creds_as(token, db.role()).await.unwrap();
        let given = json!({ "token": "s.given-and-unknown" });
        stack.vault_request("POST", "sys/wrapping/lookup", Some(given)).await.unwrap();

        let secrets = stack.secrets_issued().await.unwrap();
        let root = stack.root_token();
        for secret in [&secret_id, token, &creds.password, "s.given-and-unknown", root] {
            assert!(secrets.iter().any(|s| s == secret), "{storage:?}: a secret is missing");
        }
        for plain in [&creds.username, &creds.lease_id, db.role_id(), db.role(), ""] {
            assert!(!secrets.iter().any(|s| s == plain), "{storage:?}: {plain:?} is no secret");
        }
    }
}

#[tokio::test]
async fn a_wrapped_secret_is_on_the_list_as_its_wrapping_token_is() {
    let stack = Stack::builder().audit_raw().start().await.unwrap();
    let db = stack.database("wrapped").await.unwrap();
    let wrapping = db.wrapped_secret_id(Duration::from_secs(60)).await.unwrap();
    let unwrap =
        || stack.vault_request_as(&wrapping, "POST", "sys/wrapping/unwrap", Some(json!({})));
    let (_, unwrapped) = unwrap().await.unwrap();
    let secret_id = unwrapped["data"]["secret_id"].as_str().unwrap();
    assert_eq!(unwrap().await.unwrap().0, 400, "once only");

    let secrets = stack.secrets_issued().await.unwrap();
    for secret in [wrapping.as_str(), secret_id] {
        assert!(secrets.iter().any(|s| s == secret), "a secret is missing");
    }
}

#[tokio::test]
async fn without_an_audit_asking_for_it_says_how_to_have_one() {
    let stack = leasehold_testkit::shared().await.unwrap();
    let e = stack.secrets_issued().await.unwrap_err();
    assert!(matches!(&e, Error::Unsupported(why) if why.contains("audit_raw")), "{e}");
}
