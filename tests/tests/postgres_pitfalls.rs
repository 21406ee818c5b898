//! What goes wrong in Postgres where leases and logins are handled in the usual ways, and that
//! neither our order nor the ready-made role definitions run into it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use leasehold_testkit::{DatabaseSpec, RoleSpec, TestDb, eventually, shared};
use leasehold_tests::ready_made::{ReadyMade, ready_made};
use leasehold_tests::*;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::Client;

const READ: &str = "SELECT v FROM accounts WHERE id = 1";
const READ_ORDERS: &str = "SELECT v FROM orders.accounts WHERE id = 1";

/// A role with the shortest of revocations, as many have it.
async fn bare(name: &str, creation: &[&str], schema: &str) -> TestDb {
    let base = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' IN ROLE "{{group}}""#;
    let role = RoleSpec::new("app").creation([base].iter().chain(creation).copied());
    let spec = DatabaseSpec::new(name).role(role).with_accounts().schema(schema);
    shared().await.unwrap().database(spec).await.unwrap()
}

fn sqlstate<T>(result: Result<T, tokio_postgres::Error>) -> String {
    let error = result.err().expect("refused");
    error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

/// Revokes as the administrator does: the answer of the server.
async fn revoke(stack: &leasehold_testkit::Stack, lease_id: &str) -> Result<(), String> {
    stack.revoke_lease(lease_id).await.map_err(|e| e.to_string())
}

/// The session was ended, and not merely made useless.
async fn is_ended(client: &Client) {
    eventually("the session is ended", LONG, async || Ok(client.is_closed())).await.unwrap();
}

async fn is_dropped(world: &ReadyMade, login: &str) {
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname = $1";
    let found: i64 = world.admin().await.query_one(sql, &[&login]).await.unwrap().get(0);
    assert_eq!(found, 0, "{login} is still there");
}

/// What we do: drain, then revoke. Returns the sessions of the old login that are left then, after
/// a rotation under a pool.
async fn left_by_our_order(db: &TestDb) -> Vec<i32> {
    let rotator = rotator(db).await.start().await.unwrap();
    let provider = rotator.provider();
    let base = PgConnectOptions::new_without_pgpass();
    let base = base.host(db.pg_host()).port(db.pg_port()).database(db.name());
    let options = PgPoolOptions::new().min_connections(3).max_connections(3);
    let pool = leasehold_sqlx::connect(&provider, options, base).await.unwrap();
    let user = provider.current().credential().username().to_owned();
    let old: Vec<i32> =
        db.sessions_of(&user).await.unwrap().iter().map(|session| session.pid).collect();
    assert!(!old.is_empty());
    let mut events = provider.events();
    rotator.rotate();
    revoked(&mut events, 1).await;
    // By process, as sessions of a dropped role have no name.
    let sessions = db.sessions().await.unwrap();
    let left = sessions.iter().map(|session| session.pid).filter(|pid| old.contains(pid));
    sqlx::query(READ).execute(&pool).await.unwrap();
    assert!(rotator.shutdown(s(10)).await.is_clean());
    left.collect()
}

#[tokio::test]
async fn i4_a_lease_revoked_before_the_drain_leaves_sessions_that_only_look_alive() {
    let db = bare("zombie", &[], "").await;
    let creds = db.creds().await.unwrap();
    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    client.simple_query(READ).await.unwrap();
    revoke(db.stack(), &creds.lease_id).await.unwrap();
    client.simple_query("SELECT 1").await.expect("a ping finds nothing wrong");
    assert_eq!(sqlstate(client.simple_query(READ).await), "42501");
    assert_eq!(sqlstate(client.simple_query("SELECT session_user").await), "42704");
    drop(client);
    assert_eq!(left_by_our_order(&db).await, [0; 0]);
    // What the ready-made role does where somebody revokes from outside.
    let world = ready_made().await;
    let (lease, user, password) = world.creds("orders-rw").await;
    let client = world.connect(&user, &password).await;
    client.simple_query(READ_ORDERS).await.unwrap();
    revoke(&world.stack, &lease).await.unwrap();
    is_ended(&client).await;
    is_dropped(world, &user).await;
}

#[tokio::test]
async fn i4_a_session_under_set_role_keeps_its_rights_when_its_login_is_gone() {
    let set_role = r#"ALTER ROLE "{{name}}" SET ROLE "{{group}}""#;
    let db = bare("setrole", &[set_role], "").await;
    let creds = db.creds().await.unwrap();
    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    revoke(db.stack(), &creds.lease_id).await.unwrap();
    client.simple_query(READ).await.expect("it reads on");
    let write = "UPDATE accounts SET v = v + 1 WHERE id = 1";
    client.simple_query(write).await.expect("and writes on, with no end");
    client.simple_query("SELECT current_user").await.expect("this finds nothing wrong");
    assert_eq!(sqlstate(client.simple_query("SELECT session_user").await), "42704", "this does");
    drop(client);
    assert_eq!(left_by_our_order(&db).await, [0; 0]);
    // What the ready-made role does, which logs in so.
    let world = ready_made().await;
    let (lease, user, password) = world.creds("orders-migrate").await;
    let client = world.connect(&user, &password).await;
    let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "orders_owner");
    revoke(&world.stack, &lease).await.unwrap();
    is_ended(&client).await;
    is_dropped(world, &user).await;
}

#[tokio::test]
async fn a_temporary_table_of_a_live_session_blocks_a_bare_drop_role() {
    let table = "CREATE TEMP TABLE scratch (n int)";
    let db = bare("temp", &[], "").await;
    let creds = db.creds().await.unwrap();
    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    client.batch_execute(table).await.unwrap();
    let refused = revoke(db.stack(), &creds.lease_id).await.unwrap_err();
    assert!(refused.contains("2BP01"), "{refused}");
    drop(client);
    eventually("it goes with its session", LONG, async || {
        Ok(revoke(db.stack(), &creds.lease_id).await.is_ok())
    })
    .await
    .unwrap();

    let world = ready_made().await;
    for role in ["orders-rw", "orders-ro", "orders-migrate"] {
        let (lease, user, password) = world.creds(role).await;
        let client = world.connect(&user, &password).await;
        // So many that its end takes a while, which the drop has to wait for.
        let many = "DO $$ BEGIN FOR i IN 1..100 LOOP
            EXECUTE format('CREATE TEMP TABLE scratch%s (n int)', i); END LOOP; END $$";
        client.batch_execute(many).await.unwrap();
        client.batch_execute("BEGIN; SELECT * FROM scratch1").await.unwrap();
        revoke(&world.stack, &lease).await.unwrap_or_else(|e| panic!("{role}: {e}"));
        is_ended(&client).await;
        is_dropped(world, &user).await;
    }
}

#[tokio::test]
async fn rights_and_tables_of_a_logins_own_block_its_drop_and_the_ready_made_roles_have_none() {
    // Rights given to the login itself.
    let grant = r#"GRANT SELECT ON accounts TO "{{name}}""#;
    let db = bare("granted", &[grant], "").await;
    let creds = db.creds().await.unwrap();
    let refused = revoke(db.stack(), &creds.lease_id).await.unwrap_err();
    assert!(refused.contains("2BP01"), "{refused}");
    let mend = format!("REVOKE ALL ON accounts FROM \"{}\"", creds.username);
    db.admin().await.unwrap().batch_execute(&mend).await.unwrap();
    revoke(db.stack(), &creds.lease_id).await.expect("that was what blocked it");

    // GRANT CREATE on a schema: what a login makes there is its own.
    let create = r#"GRANT CREATE ON SCHEMA public TO "{{group}}""#;
    let db = bare("creates", &[], create).await;
    let creds = db.creds().await.unwrap();
    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    client.batch_execute("CREATE TABLE made (n int)").await.unwrap();
    drop(client);
    let refused = revoke(db.stack(), &creds.lease_id).await.unwrap_err();
    assert!(refused.contains("2BP01"), "{refused}");
    let mend = format!("ALTER TABLE made OWNER TO \"{}\"", db.name());
    db.admin().await.unwrap().batch_execute(&mend).await.unwrap();
    revoke(db.stack(), &creds.lease_id).await.expect("that was what blocked it");

    // Readers and writers make nothing, in no schema.
    let world = ready_made().await;
    for role in ["orders-rw", "orders-ro"] {
        let (lease, user, password) = world.creds(role).await;
        let client = world.connect(&user, &password).await;
        client.simple_query(READ_ORDERS).await.unwrap();
        for schema in ["public", "orders"] {
            let made = client.batch_execute(&format!("CREATE TABLE {schema}.made (n int)")).await;
            assert_eq!(sqlstate(made), "42501", "{role} in {schema}");
        }
        let write = client.batch_execute("UPDATE orders.accounts SET v = v + 1").await;
        assert_eq!(write.is_ok(), role == "orders-rw");
        revoke(&world.stack, &lease).await.unwrap();
        is_dropped(world, &user).await;
    }
    // What a migration makes belongs to the owner, stays, and is for the others to use.
    let (lease, user, password) = world.creds("orders-migrate").await;
    let client = world.connect(&user, &password).await;
    let made = "CREATE TABLE orders.made (n serial PRIMARY KEY, t text);
        CREATE FUNCTION orders.one() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    client.batch_execute(made).await.unwrap();
    revoke(&world.stack, &lease).await.unwrap();
    is_dropped(world, &user).await;
    let owner = "SELECT tableowner::text FROM pg_tables WHERE tablename = 'made'";
    let row = world.admin().await.query_one(owner, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "orders_owner");
    let (_, user, password) = world.creds("orders-rw").await;
    let client = world.connect(&user, &password).await;
    client.batch_execute("INSERT INTO orders.made (t) VALUES ('x')").await.unwrap();
    let (_, user, password) = world.creds("orders-ro").await;
    let client = world.connect(&user, &password).await;
    client.batch_execute("SELECT * FROM orders.made").await.unwrap();
}

#[tokio::test]
async fn a_login_that_was_dropped_by_hand_does_not_keep_its_lease_from_being_revoked() {
    let world = ready_made().await;
    for role in ["orders-rw", "orders-ro", "orders-migrate"] {
        let (lease, user, _) = world.creds(role).await;
        world.admin().await.batch_execute(&format!("DROP ROLE \"{user}\"")).await.unwrap();
        revoke(&world.stack, &lease).await.unwrap_or_else(|e| panic!("{role}: {e}"));
    }
}

#[tokio::test]
async fn a_renewal_moves_the_end_of_the_ready_made_logins_in_postgres_too() {
    let world = ready_made().await;
    for role in ["orders-rw", "orders-ro", "orders-migrate"] {
        let (lease, user, _) = world.creds(role).await;
        let end = async || -> f64 {
            let sql = "SELECT extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles
                WHERE rolname = $1";
            world.admin().await.query_one(sql, &[&user]).await.unwrap().get(0)
        };
        let before = end().await;
        world.stack.renew_lease(&lease, Duration::from_secs(60)).await.unwrap();
        assert!(end().await < before - 600.0, "{role}: to a minute from now");
        world.stack.renew_lease(&lease, Duration::from_secs(600)).await.unwrap();
    }
}
