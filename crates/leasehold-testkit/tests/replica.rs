//! A replica follows, lags, is cut off, stopped and promoted.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use leasehold_testkit::{
    Creds, DatabaseSpec, Error, FaultProxy, PostgresShutdown, Replica, Stack, TestDb, eventually,
};

const SOON: Duration = Duration::from_secs(20);

async fn servers(name: &str) -> (Stack, TestDb, Replica) {
    let stack = Stack::processes().await.unwrap();
    let db = stack.database(DatabaseSpec::new(name).with_accounts()).await.unwrap();
    let replica = stack.postgres_replica().await.unwrap();
    (stack, db, replica)
}

async fn login(replica: &Replica, db: &TestDb, creds: &Creds) -> Result<(), Error> {
    replica.connect(&creds.username, &creds.password, db.name()).await.map(drop)
}

#[tokio::test]
async fn a_replica_has_the_logins_of_its_primary_and_can_be_read_but_not_written() {
    let (stack, db, replica) = servers("follows").await;
    let creds = db.creds().await.unwrap();
    replica.caught_up().await.unwrap();
    let client = replica.connect(&creds.username, &creds.password, db.name()).await.unwrap();
    client.query_one("select v from accounts where id = 1", &[]).await.unwrap();
    let sql = "update accounts set v = 1 where id = 1";
    let refused = client.execute(sql, &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006", "read only");
    stack.revoke_lease(&creds.lease_id).await.unwrap();
    replica.caught_up().await.unwrap();
    let error = login(&replica, &db, &creds).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("28P01"));

    // A second one, beside it.
    let other = stack.postgres_replica().await.unwrap();
    let creds = db.creds().await.unwrap();
    for replica in [&replica, &other] {
        replica.caught_up().await.unwrap();
        login(replica, &db, &creds).await.unwrap();
    }
    let dir = stack.dir().unwrap().to_path_buf();
    stack.shutdown().await.unwrap();
    assert!(!dir.exists(), "replicas end with the stack");
    assert!(login(&replica, &db, &creds).await.is_err());
}

#[tokio::test]
async fn a_delay_is_set_and_lifted_while_the_replica_runs() {
    let (_stack, db, replica) = servers("lags").await;
    replica.set_apply_delay(Duration::from_secs(3600)).await.unwrap();
    let creds = db.creds().await.unwrap();
    assert_eq!(login(&replica, &db, &creds).await.unwrap_err().sqlstate(), Some("28P01"));
    replica.set_apply_delay(Duration::ZERO).await.unwrap();
    replica.caught_up().await.unwrap();
    login(&replica, &db, &creds).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_was_stopped_finds_all_that_it_lacks_and_one_that_is_cut_off_does_not() {
    let (_stack, db, replica) = servers("away").await;
    replica.stop(PostgresShutdown::Immediate).await.unwrap();
    let creds = db.creds().await.unwrap();
    replica.start().await.unwrap();
    replica.caught_up().await.unwrap();
    login(&replica, &db, &creds).await.unwrap();

    replica.cut_off().await.unwrap();
    let unknown = db.creds().await.unwrap();
    assert_eq!(login(&replica, &db, &unknown).await.unwrap_err().sqlstate(), Some("28P01"));
    login(&replica, &db, &creds).await.unwrap();
}

#[tokio::test]
async fn a_promoted_replica_is_written_and_vault_is_led_to_it() {
    let stack = Stack::processes().await.unwrap();
    let way = stack.postgres_proxy().await.unwrap();
    let spec = DatabaseSpec::new("promoted").with_accounts().postgres_at(way.address());
    let db = stack.database(spec).await.unwrap();
    let replica = stack.postgres_replica().await.unwrap();
    // What it has received and not shown yet is not lost.
    replica.set_apply_delay(Duration::from_secs(3600)).await.unwrap();
    let before = db.creds().await.unwrap();
    let reader = replica.admin(db.name()).await.unwrap();
    eventually("the commit was received", SOON, async || {
        let sql = "select pg_last_wal_receive_lsn() >= $1::text::pg_lsn";
        let at = "select pg_current_wal_lsn()::text";
        let at: String = db.admin().await?.query_one(at, &[]).await.unwrap().get(0);
        Ok(reader.query_one(sql, &[&at]).await.unwrap().get(0))
    })
    .await
    .unwrap();
    stack.stop_postgres(PostgresShutdown::Immediate).await.unwrap();
    replica.promote().await.unwrap();
    way.lead_to(replica.address());
    login(&replica, &db, &before).await.unwrap();
    let client = replica.connect(&before.username, &before.password, db.name()).await.unwrap();
    client.execute("update accounts set v = 1 where id = 1", &[]).await.unwrap();
    reader.batch_execute("create table sessions_go_on()").await.unwrap();

    let after = db.creds().await.unwrap();
    login(&replica, &db, &after).await.unwrap();
    stack.revoke_lease(&before.lease_id).await.unwrap();
    assert_eq!(login(&replica, &db, &before).await.unwrap_err().sqlstate(), Some("28P01"));
}

#[tokio::test]
async fn a_proxy_leads_new_connections_elsewhere_and_leaves_the_others() {
    let (_stack, db, replica) = servers("led").await;
    let way = FaultProxy::before(format!("{}:{}", db.pg_host(), db.pg_port())).await.unwrap();
    let port = async |client: &tokio_postgres::Client| -> i32 {
        client.query_one("select inet_server_port()", &[]).await.unwrap().get(0)
    };
    let dial = async || {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(way.port()).dbname(db.name());
        config.user(db.stack().superuser()).password(db.stack().superuser_password());
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let first = dial().await;
    way.lead_to(replica.address());
    let second = dial().await;
    assert_eq!(port(&first).await, i32::from(db.pg_port()));
    assert_eq!(port(&second).await, i32::from(replica.port()));
}
