//! What is special about Docker containers. Only with the feature `containers`; what is the same
//! on either backend is in the other files, which `LEASEHOLD_TESTKIT_BACKEND=containers` runs here.

#![cfg(feature = "containers")]
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use leasehold_testkit::{
    Backend, DatabaseSpec, Error, PostgresShutdown, Stack, StackBuilder, eventually,
};

fn containers() -> StackBuilder {
    Stack::builder().backend(Backend::Containers)
}

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
    stack.shutdown().await.unwrap();
    assert!(stack.postgres_log().await.is_err());
    stack.shutdown().await.unwrap();
}

#[tokio::test]
async fn servers_are_where_they_were_when_they_come_back() {
    let stack = containers().start().await.unwrap();
    let (vault, port) = (stack.vault_addr(), stack.pg_port());
    let db = stack.database("back").await.unwrap();
    for how in [PostgresShutdown::Fast, PostgresShutdown::Immediate] {
        stack.stop_postgres(how).await.unwrap();
        stack.stop_postgres(how).await.unwrap(); // nothing to do
        assert!(db.sessions().await.is_err());
        stack.start_postgres().await.unwrap();
        assert!(db.sessions().await.unwrap().is_empty(), "its data is there, at its old port");
    }
    // Paused, too, and of itself a dev server comes back empty.
    stack.pause_vault().await.unwrap();
    stack.kill_vault().await.unwrap();
    let none = stack.vault_request("GET", "sys/health", None).await.unwrap_err();
    assert!(matches!(none, Error::NoAnswer { .. }), "{none}");
    stack.start_vault().await.unwrap();
    stack.start_vault().await.unwrap(); // nothing to do
    assert_eq!(db.creds().await.unwrap_err().status(), Some(404));
    stack.database("again").await.unwrap().creds().await.unwrap();
    stack.stop_vault().await.unwrap();
    assert_eq!((stack.vault_addr(), stack.pg_port()), (vault, port));
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn vault_speaks_tls_and_is_audited_in_a_container_too() {
    let stack = containers().vault_tls().audit_raw().start().await.unwrap();
    assert!(stack.vault_addr().starts_with("https://"));
    assert!(stack.ca_pem().is_some());
    let db = stack.database("audited").await.unwrap();
    let creds = db.creds().await.unwrap();
    // What the engine hands on comes a moment later.
    eventually("the password is in the audit", Duration::from_secs(60), async || {
        Ok(stack.secrets_issued().await?.contains(&creds.password))
    })
    .await
    .unwrap();
    assert!(!stack.vault_log().await.unwrap().contains(&creds.password), "and not in the log");
    assert!(stack.vault_log().await.unwrap().contains("server started!"));
}

#[tokio::test]
async fn what_containers_can_not_do_is_an_error_that_says_so() {
    let refused = |e: Error| {
        assert!(matches!(e, Error::Unsupported(_)), "{e}");
        assert!(e.to_string().contains("Processes"), "it says what can: {e}");
    };
    let stack = containers().start().await.unwrap();
    assert!(stack.dir().is_none());
    refused(stack.vault_program().await.unwrap_err());
    let proxy = stack.postgres_proxy().await.unwrap();
    let spec = DatabaseSpec::new("proxied").postgres_at(proxy.address());
    refused(stack.database(spec).await.unwrap_err());
    #[cfg(feature = "tls")]
    refused(containers().postgres_tls(true).start().await.unwrap_err());
    let unaudited = stack.secrets_issued().await.unwrap_err();
    assert!(matches!(unaudited, Error::Unsupported(_)), "{unaudited}");
}

#[tokio::test]
async fn an_image_that_is_not_to_be_had_is_named() {
    let wrong = "localhost:1/nobody/no-such-image:0";
    let e = containers().vault_image(wrong).start().await.unwrap_err();
    assert!(e.to_string().contains(wrong), "{e}");
    assert!(e.to_string().contains("LEASEHOLD_BAO_IMAGE"), "{e}");
}
