//! One shared stack, one database per test: credentials, logins, revocation, tokens.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use leasehold_testkit::{
    AppRoleSpec, DatabaseSpec, LoginKind, RoleSpec, Stack, TestDb, TokenSpec, eventually, shared,
};

const SOON: Duration = Duration::from_secs(10);

async fn database(spec: impl Into<DatabaseSpec>) -> TestDb {
    shared().await.expect("a stack").database(spec).await.expect("a database")
}

#[tokio::test]
async fn a_login_works_until_its_lease_is_revoked() {
    let role =
        RoleSpec::new("app").default_ttl(Duration::from_secs(30)).max_ttl(Duration::from_secs(90));
    let db = database(DatabaseSpec::new("flow").role(role).with_accounts()).await;
    let token = db.login().await.unwrap();
    let creds = db.creds_as(&token.token, "app").await.unwrap();
    assert_eq!(creds.lease_duration, 30);
    assert!(creds.username.starts_with("v-approle-app-"), "{}", creds.username);
    assert!(!format!("{creds:?}").contains(&creds.password));

    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    let rows: i64 = client.query_one("select count(*) from accounts", &[]).await.unwrap().get(0);
    assert_eq!(rows, 10_000);
    client.execute("update accounts set v = v + 1 where id = 9999", &[]).await.unwrap();

    assert_eq!(db.logins().await.unwrap(), std::slice::from_ref(&creds.username));
    assert_eq!(db.leases().await.unwrap(), std::slice::from_ref(&creds.lease_id));
    assert_eq!(db.sessions_of(&creds.username).await.unwrap().len(), 1);
    // The policy lets the application itself look up, renew and revoke.
    for path in ["lookup", "renew", "revoke"] {
        let body = serde_json::json!({ "lease_id": creds.lease_id });
        let path = format!("sys/leases/{path}");
        let (status, reply) =
            db.stack().vault_request_as(&token.token, "PUT", &path, Some(body)).await.unwrap();
        assert!(status < 300, "{path}: {status} {reply}");
    }

    assert_eq!(db.lease_count().await.unwrap(), 0);
    assert!(db.logins().await.unwrap().is_empty());
    assert!(db.stack().lookup_lease(&creds.lease_id).await.unwrap().is_none());
    let refused = db.connect(&creds.username, &creds.password).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("28P01"), "{refused}");
    let left = db.sessions().await.unwrap();
    assert_eq!(left.len(), 1, "the open session outlives its role");
    assert_eq!(left[0].user, None);
}

#[tokio::test]
async fn the_login_log_tells_received_refused_and_disconnected_apart() {
    let db = database("log").await;
    let creds = db.creds().await.unwrap();
    let client = db.connect(&creds.username, &creds.password).await.unwrap();
    drop(client);
    db.connect(&creds.username, "wrong").await.unwrap_err();
    let mut records = Vec::new();
    eventually("the log has the whole story", SOON, async || {
        records = db.stack().login_records().await?;
        records.retain(|r| r.user.as_ref() == Some(&creds.username));
        Ok(records.len() == 2 && records[0].disconnected.is_some() && records[1].refused.is_some())
    })
    .await
    .unwrap();
    let (good, bad) = (&records[0], &records[1]);
    assert!(good.received <= good.authorized.unwrap());
    assert!(good.authorized.unwrap() <= good.disconnected.unwrap());
    assert!(good.received <= bad.received);
    assert_eq!(bad.refused.as_ref().unwrap().1, "28P01");
    assert_eq!(bad.authorized, None);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((now.as_secs_f64() - bad.received).abs() < 60.0, "Unix seconds");
    let events = db.stack().login_log().await.unwrap();
    assert!(events.iter().any(|e| matches!(&e.kind,
        LoginKind::Disconnected { user, database }
            if *user == creds.username && database == db.name())));
}

#[tokio::test]
async fn leases_die_with_their_token() {
    let db = database("token").await;
    let token = db.token(TokenSpec::new().ttl(Duration::from_secs(600))).await.unwrap();
    assert_eq!(token.lease_duration, 600);
    let creds = db.creds_as(&token.token, db.role()).await.unwrap();
    assert_eq!(db.stack().shorten_token(&token.token, Duration::from_secs(60)).await.unwrap(), 60);
    let known = db.stack().lookup_token(&token.token).await.unwrap().expect("alive");
    assert_eq!(known["accessor"], token.accessor.as_str());
    db.stack().revoke_accessor(&token.accessor).await.unwrap();
    eventually("the login is gone", SOON, async || Ok(db.logins().await?.is_empty()))
        .await
        .unwrap();
    assert!(db.stack().lookup_token(&token.token).await.unwrap().is_none());
    let refused = db.connect(&creds.username, &creds.password).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("28P01"));
}

#[tokio::test]
async fn an_approle_is_as_specified() {
    let app_role = AppRoleSpec::new()
        .token_ttl(Duration::from_secs(6))
        .token_max_ttl(Duration::from_secs(12))
        .secret_id_num_uses(1)
        .no_default_policy();
    let db = database(DatabaseSpec::new("approle").app_role(app_role)).await;
    let token = db.login().await.unwrap();
    assert_eq!(token.lease_duration, 6);
    let stack = db.stack();
    for (method, path) in [("GET", "auth/token/lookup-self"), ("PUT", "auth/token/renew-self")] {
        let (status, reply) =
            stack.vault_request_as(&token.token, method, path, None).await.unwrap();
        assert_eq!(status, 200, "{path}: {reply}");
    }
    let secret_id = db.secret_id().await.unwrap();
    let body = serde_json::json!({ "role_id": db.role_id(), "secret_id": secret_id });
    for expected in [200, 400] {
        let login = stack
            .vault_request_as("", "POST", "auth/approle/login", Some(body.clone()))
            .await
            .unwrap();
        assert_eq!(login.0, expected, "a secret_id for one use: {}", login.1);
    }

    let nothing =
        database(DatabaseSpec::new("denied").app_role(AppRoleSpec::new().policy(""))).await;
    let token = nothing.login().await.unwrap();
    let denied = nothing.creds_as(&token.token, nothing.role()).await.unwrap_err();
    assert_eq!(denied.status(), Some(403), "{denied}");
}

#[tokio::test]
async fn roles_can_be_changed_and_broken() {
    let db = database(DatabaseSpec::new("roles").role(RoleSpec::new("a")).role(RoleSpec::new("b")))
        .await;
    let token = db.login().await.unwrap();
    let second = db.creds_as(&token.token, "b").await.unwrap();
    assert_eq!(second.lease_duration, 60);
    db.set_role_ttls("a", Duration::from_secs(7), Duration::from_secs(9)).await.unwrap();
    let first = db.creds_as(&token.token, "a").await.unwrap();
    assert_eq!(first.lease_duration, 7);
    assert_eq!(db.lease_count().await.unwrap(), 2);

    let client = db.connect(&first.username, &first.password).await.unwrap();
    db.drop_login(&first.username).await.unwrap();
    let zombie = client.query_one("select current_user", &[]).await.unwrap_err();
    assert_eq!(zombie.code().unwrap().code(), "42704");

    db.delete_role("a").await.unwrap();
    assert_eq!(db.creds().await.unwrap_err().status(), Some(400));
    db.revoke_all(false).await.unwrap();
    eventually("no lease is left", SOON, async || Ok(db.lease_count().await? == 0)).await.unwrap();
    assert!(db.logins().await.unwrap().is_empty());

    let clash = db.create_role(&RoleSpec::new("b")).await.unwrap_err();
    assert!(clash.to_string().contains("another name"), "{clash}");
    let fraction = RoleSpec::new("c").default_ttl(Duration::from_millis(1500));
    let fraction = db.create_role(&fraction).await.unwrap_err();
    assert!(fraction.to_string().contains("whole seconds"), "{fraction}");
    db.remove().await.unwrap();
}

#[tokio::test]
async fn two_databases_can_share_a_mount_and_schemas_are_granted() {
    let one = database(DatabaseSpec::new("one").role(RoleSpec::new("one"))).await;
    let two = database(
        DatabaseSpec::new("two")
            .on_mount_of(&one)
            .role(RoleSpec::new("two").terminating_revocation())
            .schema("create table things(id serial primary key, name text)"),
    )
    .await;
    assert_eq!(one.mount(), two.mount());
    assert_ne!(one.name(), two.name());
    let creds = two.creds().await.unwrap();
    let client = two.connect(&creds.username, &creds.password).await.unwrap();
    client.execute("insert into things(name) values ('x')", &[]).await.unwrap();
    client.execute("create temp table blocks_a_bare_drop(x int)", &[]).await.unwrap();
    let elsewhere = one.connect(&creds.username, &creds.password).await.unwrap();
    drop(elsewhere); // CONNECT is everyone's by default; what counts are the tables
    two.stack().revoke_lease(&creds.lease_id).await.unwrap();
    let ended = client.query_one("select 1", &[]).await.unwrap_err();
    assert!(ended.is_closed() || ended.code().unwrap().code() == "57P01", "{ended}");
    assert!(two.sessions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rate_limit_answers_429() {
    let db = database("limit").await;
    let path = format!("{}/creds/app", db.mount());
    db.stack()
        .create_rate_limit(db.name(), &path, 1.0, Duration::from_secs(60), true)
        .await
        .unwrap();
    db.creds().await.unwrap();
    assert_eq!(db.creds().await.unwrap_err().status(), Some(429));
    db.stack().delete_rate_limit(db.name()).await.unwrap();
    db.creds().await.unwrap();
}

#[tokio::test]
async fn a_database_in_a_namespace_is_seen_from_there_alone() {
    let stack = leasehold_testkit::shared().await.unwrap();
    let spec = |name: &str| DatabaseSpec::new(name).mounted_at("teams/database");
    let one = stack.database(spec("one").namespace("ns1")).await.unwrap();
    let two = stack.database(spec("two").namespace("ns2")).await.unwrap();
    assert_eq!((one.mount(), one.role()), (two.mount(), two.role()));

    let token = one.login().await.unwrap().token;
    let creds = one.creds_as(&token, "app").await.unwrap();
    one.connect(&creds.username, &creds.password).await.unwrap();
    assert_eq!((one.lease_count().await.unwrap(), two.lease_count().await.unwrap()), (1, 0));
    let e = two.creds_as(&token, "app").await.unwrap_err();
    assert_eq!(e.status(), Some(403), "a token of the other namespace");

    two.revoke_all(false).await.unwrap();
    assert_eq!(one.logins().await.unwrap().len(), 1);
    one.revoke_all(false).await.unwrap();
    assert_eq!(one.logins().await.unwrap().len(), 0);
    one.set_policy("").await.expect_err("an empty policy is refused in there too");
    one.remove().await.unwrap();
    // What the other one has is still there.
    two.creds().await.unwrap();
}

#[tokio::test]
async fn a_name_may_be_had_as_it_is() {
    let stack = Stack::start().await.unwrap();
    let spec = || DatabaseSpec::new("orders").exact_name().mounted_at("database");
    let db = stack.database(spec()).await.unwrap();
    assert_eq!((db.name(), db.mount()), ("orders", "database"));
    let login = db.creds().await.unwrap();
    db.connect(&login.username, &login.password).await.unwrap();
    // There is one of it in a stack.
    assert!(stack.database(spec()).await.is_err());
    for name in ["", "Orders", "or ders", "or\"ders"] {
        let e = stack.database(DatabaseSpec::new(name).exact_name()).await.unwrap_err();
        assert!(e.to_string().contains("exact name"), "{e}");
    }
}
