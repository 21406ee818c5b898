//! What HashiCorp Vault answers otherwise than OpenBao, as its documentation and source tell it: over
//! a socket, from a server that says it. `docs/hashicorp-vault.md` has the list.

mod common;

use std::time::Duration;

use common::script::{Reply, Script};
use common::within;
use leasehold::{CredentialSource, ErrorKind};
use leasehold_vault::transit::TransitErrorKind;
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::{Value, json};

const S: Duration = Duration::from_secs(1);
const STATIC: &str = "database/static-creds/orders";

/// A session with tokens of the form that Vault's have.
async fn session(script: &Script) -> Session {
    let login = json!({ "auth": {
        "client_token": "hvs.CAESIJlU02pUxYZ3cBzBmvKl", "accessor": "aDMSbHfy6rZnxAJAUWsrjUTZ",
        "policies": ["default"], "token_policies": ["default"], "metadata": { "role_name": "o" },
        "lease_duration": 3600, "renewable": true, "entity_id": "", "token_type": "service",
        "orphan": true, "mfa_requirement": null, "num_uses": 0
    }, "mount_type": "" });
    script.answer("auth/approle/login", Reply::json(200, login.to_string()));
    let config = VaultConfig::new(script.address()).namespace("admin/orders");
    Session::login(config, Auth::approle("role", "secret")).await.expect("login")
}

fn static_role(data: Value) -> Reply {
    let answer = json!({
        "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": data, "wrap_info": null, "warnings": null, "auth": null, "mount_type": "database"
    });
    Reply::json(200, answer.to_string())
}

fn scheduled(password: &str, ttl: f64) -> Reply {
    static_role(json!({
        "username": "orders", "password": password, "ttl": ttl,
        "rotation_schedule": "0 0 * * SAT", "rotation_window": 3600,
        "last_vault_rotation": format!("2026-11-21T00:00:0{}Z", password.len() % 10),
    }))
}

#[tokio::test]
async fn a_static_role_on_a_schedule_is_read_as_one_with_a_period() {
    let script = Script::start().await;
    let session = session(&script).await;
    script.answer(STATIC, scheduled("first", 1.0));
    script.answer(STATIC, scheduled("first", 0.0));
    script.answer(STATIC, scheduled("second", 604_800.0));
    let source = session.static_role("database", "orders");
    let issued = source.issue().await.expect("no rotation_period, and none is needed");
    assert_eq!(issued.credential.expose_password(), "first");
    // Looked at when it is due, and again while the server is at it.
    tokio::time::timeout(20 * S, source.changed()).await.expect("seen");
    assert_eq!(script.requests(STATIC).len(), 3);
    let issued = source.issue().await.expect("a login");
    assert_eq!(issued.credential.expose_password(), "second");
    assert!(script.requests(STATIC)[0].contains("x-vault-namespace: admin/orders"));
}

#[tokio::test]
async fn a_static_role_may_lack_what_is_not_needed() {
    // Imported without a rotation (`skip_import_rotation`), and a part of a second.
    for data in [
        json!({ "username": "orders", "password": "p", "ttl": 0 }),
        json!({ "username": "orders", "password": "p", "ttl": 86_399.5, "rotation_period": 86_400 }),
        json!({ "username": "orders", "password": "p" }),
    ] {
        let script = Script::start().await;
        let session = session(&script).await;
        script.answer(STATIC, static_role(data.clone()));
        let issued = session.static_role("database", "orders").issue().await;
        assert_eq!(issued.expect("a login").credential.expose_password(), "p", "{data}");
    }
}

#[tokio::test]
async fn a_static_role_of_another_kind_of_credential_is_named() {
    let script = Script::start().await;
    let session = session(&script).await;
    let key = "-----BEGIN PRIVATE KEY-----that-must-not-leak";
    script
        .answer(STATIC, static_role(json!({ "username": "o", "rsa_private_key": key, "ttl": 9 })));
    let e = session.static_role("database", "orders").issue().await.expect_err("no password");
    assert_eq!(e.kind(), ErrorKind::Malformed);
    let shown = format!("{e} {e:?}");
    assert!(shown.contains(STATIC) && shown.contains("credential_type"), "{shown}");
    assert!(!shown.contains("must-not-leak"), "{shown}");
}

#[tokio::test]
async fn a_lease_that_can_not_be_renewed_is_taken_as_such() {
    let script = Script::start().await;
    let session = session(&script).await;
    let creds = json!({ "lease_id": "database/creds/orders/x", "renewable": false,
        "lease_duration": 60, "data": { "username": "v-approle-orders-x", "password": "p" } });
    script.answer("database/creds/orders", Reply::json(200, creds.to_string()));
    let issued = session.dynamic_role("database", "orders").issue().await.expect("a login");
    assert!(!issued.lease.renewable);
}

#[tokio::test]
async fn what_only_vault_refuses_heals() {
    for (status, text, kind, word) in [
        (
            429,
            "1 error occurred:\n\t* lease count quota exceeded\n\n",
            ErrorKind::Throttled,
            "lease count quota allows",
        ),
        (
            429,
            "request path \"database/creds/orders\": rate limit quota exceeded",
            ErrorKind::Throttled,
            "rate limit",
        ),
        (412, "required index state not present", ErrorKind::ServerFault, "not caught up"),
        (503, "overloaded, try again later: internal error", ErrorKind::ServerFault, "overloaded"),
    ] {
        let script = Script::start().await;
        let session = session(&script).await;
        let body = json!({ "errors": [text] }).to_string();
        script.answer("database/creds/orders", Reply::json(status, body));
        let e = session.dynamic_role("database", "orders").issue().await.expect_err("refused");
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.is_transient() && e.to_string().contains(word), "{e}");
        assert!(!e.may_have_issued(), "{e}");
    }
}

#[tokio::test]
async fn a_dead_token_says_more_than_one_word() {
    let script = Script::start().await;
    let session = session(&script).await;
    let dead =
        json!({ "errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"] });
    let creds = json!({ "lease_id": "database/creds/orders/x", "renewable": true,
        "lease_duration": 60, "data": { "username": "v-approle-orders-x", "password": "p" } });
    script.answer("database/creds/orders", Reply::json(403, dead.to_string()));
    script.answer("database/creds/orders", Reply::json(200, creds.to_string()));
    session.dynamic_role("database", "orders").issue().await.expect("logged in anew");
    assert_eq!(session.calls().login, 2);
}

#[tokio::test]
async fn health_is_read_from_standbys_replicas_and_licensed_servers() {
    for (status, standby, performance, dr) in [
        (200, false, false, "disabled"),
        (429, true, false, "disabled"),
        (473, true, true, "disabled"),
        (472, false, false, "secondary"),
    ] {
        let script = Script::start().await;
        let session = session(&script).await;
        let body = json!({
            "initialized": true, "sealed": false, "standby": standby,
            "performance_standby": performance, "replication_performance_mode": "disabled",
            "replication_dr_mode": dr, "server_time_utc": 1_795_227_771, "version": "1.21.0+ent",
            "enterprise": true, "cluster_name": "c", "cluster_id": "i", "last_wal": 57,
            "license": { "state": "autoloaded", "expiry_time": "2027-05-17T23:59:59Z", "terminated": false },
            "echo_duration_ms": 0, "clock_skew_ms": 0, "replication_primary_canary_age_ms": 0
        });
        script.answer("sys/health", Reply::json(status, body.to_string()));
        let health = session.health().await;
        assert_eq!((health.reachable, health.sealed), (true, Some(false)), "{status}");
        assert_eq!(health.standby, Some(standby), "{status}");
        assert_eq!(health.version.as_deref(), Some("1.21.0+ent"));
    }
}

#[tokio::test]
async fn transit_is_told_of_vaults_limits_for_json() {
    for (status, text) in [
        (400, "failed to parse JSON input: JSON string value exceeds allowed length"),
        (500, "failed to parse JSON input: JSON array exceeds allowed element count"),
        (413, "http: request body too large"),
    ] {
        let script = Script::start().await;
        let session = session(&script).await;
        let key = session.transit("transit").key("orders");
        let body = json!({ "errors": [text] }).to_string();
        script.answer("transit/encrypt/orders", Reply::json(status, body));
        let e = key.encrypt("plain").await.expect_err("too large");
        assert_eq!(e.kind(), TransitErrorKind::TooLarge, "{e}");
    }
}

#[tokio::test]
async fn a_session_outlives_a_step_down_to_a_replica_that_is_behind() {
    let script = Script::start().await;
    let session = session(&script).await;
    let behind = json!({ "errors": ["required index state not present"] }).to_string();
    script.answer(STATIC, scheduled("first", 0.0));
    script.answer(STATIC, Reply::json(412, behind.clone()));
    script.answer(STATIC, scheduled("second", 60.0));
    let source = session.static_role("database", "orders");
    source.issue().await.expect("a login");
    tokio::time::timeout(30 * S, source.changed()).await.expect("asked again");
    within(S, || session.token_state().login == 1).await;
}
