//! Servers broken on purpose. Each test has servers of its own.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use leasehold_testkit::{
    DatabaseSpec, Error, PostgresShutdown, Stack, Storage, TestDb, TokenSpec, eventually,
};

const SOON: Duration = Duration::from_secs(20);

async fn raft() -> (Stack, TestDb) {
    let stack = Stack::builder().storage(Storage::Raft).start().await.expect("a stack");
    let db = stack.database(DatabaseSpec::new("t").with_accounts()).await.expect("a database");
    (stack, db)
}

#[tokio::test]
async fn raft_keeps_leases_and_tokens_over_a_stop_and_a_crash() {
    let (stack, db) = raft().await;
    let token = db.token(TokenSpec::new().ttl(Duration::from_secs(600))).await.unwrap();
    let creds = db.creds_as(&token.token, db.role()).await.unwrap();

    stack.stop_vault().await.unwrap();
    let down = stack.vault_request("GET", "sys/health", None).await.unwrap_err();
    assert!(matches!(down, Error::NoAnswer { .. }), "{down}");
    stack.stop_vault().await.expect("stopping twice is fine");
    let port = stack.vault_addr();
    stack.start_vault().await.unwrap();
    stack.start_vault().await.expect("starting twice is fine");
    assert_eq!(stack.vault_addr(), port);
    assert!(stack.lookup_lease(&creds.lease_id).await.unwrap().is_some());

    stack.kill_vault().await.unwrap();
    assert!(stack.start_vault_sealed().await.unwrap());
    assert_eq!(stack.vault_request("GET", "sys/health", None).await.unwrap().0, 503);
    stack.unseal_vault().await.unwrap();
    assert!(stack.lookup_token(&token.token).await.unwrap().is_some());
    assert_eq!(db.leases().await.unwrap(), std::slice::from_ref(&creds.lease_id));
    db.connect(&creds.username, &creds.password).await.unwrap();
    stack.revoke_lease(&creds.lease_id).await.unwrap();
    assert!(db.logins().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_sealed_server_answers_503_until_unsealed_in_either_storage() {
    let dev = Stack::start().await.unwrap();
    let (raft, _) = raft().await;
    for stack in [dev, raft] {
        let db = stack.database("sealed").await.unwrap();
        let creds = db.creds().await.unwrap();
        stack.seal_vault().await.unwrap();
        assert_eq!(db.creds().await.unwrap_err().status(), Some(503));
        db.connect(&creds.username, &creds.password).await.expect("Postgres knows nothing of it");
        stack.unseal_vault().await.unwrap();
        assert_eq!(db.leases().await.unwrap(), [creds.lease_id]);
        db.creds().await.unwrap();
    }
}

#[tokio::test]
async fn a_paused_server_answers_late_and_a_restarted_dev_server_is_empty() {
    let stack = Stack::start().await.unwrap();
    let db = stack.database("paused").await.unwrap();
    stack.resume_vault().await.expect("one that runs can be resumed");
    stack.pause_vault().await.unwrap();
    stack.pause_vault().await.expect("one that is paused can be paused");
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { (db.creds().await, Instant::now()) }
    });
    // Postgres is not paused, and by the time of some logins there the dev server, which needs a
    // few milliseconds, would have answered.
    for _ in 0..5 {
        db.admin().await.unwrap();
    }
    assert!(!waiting.is_finished());
    let resumed = Instant::now();
    stack.resume_vault().await.unwrap();
    let (creds, answered) = waiting.await.unwrap();
    creds.unwrap();
    assert!(answered > resumed);

    stack.pause_vault().await.unwrap();
    stack.stop_vault().await.expect("a paused server can be stopped");
    assert!(matches!(stack.pause_vault().await, Err(Error::Server { .. })));
    assert!(matches!(stack.resume_vault().await, Err(Error::Server { .. })));
    stack.start_vault().await.unwrap();
    assert!(db.creds().await.is_err(), "a new dev server is empty");
    let again = stack.database("again").await.unwrap();
    again.creds().await.unwrap();
}

#[tokio::test]
async fn postgres_restarts_on_its_port_with_its_data() {
    let stack = Stack::builder().postgres_setting("max_connections", "50").start().await.unwrap();
    let db = stack.database(DatabaseSpec::new("restart").with_accounts()).await.unwrap();
    let creds = db.creds().await.unwrap();
    for (how, expected) in
        [(PostgresShutdown::Fast, "57P01"), (PostgresShutdown::Immediate, "57P02")]
    {
        let client = db.connect(&creds.username, &creds.password).await.unwrap();
        client.execute("update accounts set v = v + 1 where id = 1", &[]).await.unwrap();
        stack.restart_postgres(how).await.unwrap();
        let cut = client.query_one("select 1", &[]).await.unwrap_err();
        let told = cut.code().map_or("closed", |c| c.code());
        assert!([expected, "closed"].contains(&told), "{how:?}: {cut:?}");
    }
    stack.stop_postgres(PostgresShutdown::Fast).await.unwrap();
    assert!(db.connect(&creds.username, &creds.password).await.is_err());
    assert!(db.creds().await.is_err());
    stack.start_postgres().await.unwrap();
    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    let v: i64 = client.query_one("select v from accounts where id = 1", &[]).await.unwrap().get(0);
    assert_eq!(v, 2);
    eventually("the engine connects again", SOON, async || Ok(db.creds().await.is_ok()))
        .await
        .unwrap();
    let settings = client.query_one("show max_connections", &[]).await.unwrap();
    assert_eq!(settings.get::<_, String>(0), "50");
}

#[tokio::test]
async fn a_shut_down_stack_stays_down() {
    let stack = Stack::start().await.unwrap();
    // Containers have none.
    let dir = stack.dir().map(std::path::Path::to_path_buf);
    assert!(dir.iter().all(|dir| dir.join("pg.log").is_file()));
    stack.shutdown().await.unwrap();
    assert!(dir.iter().all(|dir| !dir.exists()));
    stack.shutdown().await.expect("twice is fine");
    assert!(stack.start_vault().await.is_err());
    assert!(stack.start_postgres().await.is_err());
}
