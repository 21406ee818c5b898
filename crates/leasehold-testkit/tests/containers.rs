//! The same in Docker containers. Only with the feature `containers`.

#![cfg(feature = "containers")]
#![allow(clippy::unwrap_used)]

use leasehold_testkit::{DatabaseSpec, Error, PostgresShutdown, Stack};

#[tokio::test]
async fn containers_give_logins_and_can_be_paused_and_sealed() {
    let stack = Stack::containers().await.unwrap();
    let db = stack.database(DatabaseSpec::new("docker").with_accounts()).await.unwrap();
    let token = db.login().await.unwrap();
    let creds = db.creds_as(&token.token, db.role()).await.unwrap();
    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    client.execute("update accounts set v = v + 1 where id = 1", &[]).await.unwrap();
    let records = stack.login_records().await.unwrap();
    assert!(records.iter().any(|r| r.user.as_ref() == Some(&creds.username)));

    stack.pause_vault().await.unwrap();
    stack.resume_vault().await.unwrap();
    stack.seal_vault().await.unwrap();
    assert_eq!(db.creds().await.unwrap_err().status(), Some(503));
    stack.unseal_vault().await.unwrap();

    stack.revoke_lease(&creds.lease_id).await.unwrap();
    let refused = db.connect(&creds.username, &creds.password).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("28P01"), "{refused}");

    let refused = stack.restart_postgres(PostgresShutdown::Fast).await.unwrap_err();
    assert!(matches!(refused, Error::Unsupported(_)), "{refused}");
    stack.shutdown().await.unwrap();
    assert!(stack.postgres_log().await.is_err());
}
