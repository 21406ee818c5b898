//! What the tests of the example share. Each test program uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod program;
pub(crate) mod stream;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum_app::Config;
use http_body_util::BodyExt;
use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack, TestDb};
use leasehold_vault::{Auth, VaultConfig};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) const SCHEMA: &str = include_str!("../../schema.sql");

/// A database with the example's table, and a role `app` with this life.
pub(crate) async fn database(stack: &Stack, name: &str, ttl: u64, max_ttl: u64) -> TestDb {
    let role = RoleSpec::new("app")
        .default_ttl(Duration::from_secs(ttl))
        .max_ttl(Duration::from_secs(max_ttl));
    let spec = DatabaseSpec::new(name).role(role).schema(SCHEMA);
    stack.database(spec).await.expect("a database")
}

/// The service's settings on it.
pub(crate) async fn config(db: &TestDb) -> Config {
    config_via(db, db.vault_addr()).await
}

/// The same, with Vault behind another address.
pub(crate) async fn config_via(db: &TestDb, vault_addr: String) -> Config {
    let secret_id = db.secret_id().await.expect("a secret_id");
    Config {
        vault: VaultConfig::new(vault_addr),
        auth: Auth::approle(db.role_id(), secret_id),
        mount: db.mount().to_owned(),
        role: db.role().to_owned(),
        pg_host: db.pg_host().to_owned(),
        pg_port: db.pg_port(),
        pg_db: db.name().to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        pool_size: 4,
    }
}

/// One request through the router. Body `""` is none.
pub(crate) async fn call(
    router: &Router,
    method: &str,
    path: &str,
    body: &str,
) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .expect("a request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    let status = response.status();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&bytes).expect("JSON"))
}

pub(crate) async fn get(router: &Router, path: &str) -> (StatusCode, Value) {
    call(router, "GET", path, "").await
}

/// Waits until `found` finds something.
pub(crate) async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = found().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(60), wait).await {
        Ok(found) => found,
        Err(_) => panic!("not within 60 s: {what}"),
    }
}

/// No lease, no login and no session of this database is left.
pub(crate) async fn assert_nothing_left(db: &TestDb) {
    assert_eq!(db.leases().await.expect("leases"), Vec::<String>::new());
    assert_eq!(db.logins().await.expect("logins"), Vec::<String>::new());
    // Postgres takes a moment to end the process of a connection that was closed.
    until("sessions end", async || db.sessions().await.expect("sessions").is_empty().then_some(()))
        .await;
}
