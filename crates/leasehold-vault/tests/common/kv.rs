//! KV engines on real servers.

use std::time::Duration;

use leasehold_testkit::{AppRoleSpec, DatabaseSpec, Stack, TestDb, eventually};
use serde_json::{Value, json};

use super::capture::Checked;
use super::database;

/// What the administrator asks for, and has to get.
pub async fn root(db: &TestDb, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = db.stack().vault_request(method, path, Some(body)).await.expect("asked");
    assert!(status < 300, "{method} {path}: {status} {answer}");
    answer
}

/// A database with a KV engine beside it, of which the AppRole may read as `rights` say.
pub async fn with_kv(name: &str, version: u8, rights: &str) -> (Checked, String) {
    let mount = format!("kv-{name}");
    let policy = rights.replace("{{kv}}", &mount);
    let db = database(DatabaseSpec::new(name).app_role(AppRoleSpec::new().extra_policy(policy)));
    let db = db.await;
    mount_kv(db.stack(), &mount, version).await;
    (db, mount)
}

/// A KV engine that serves.
pub async fn mount_kv(stack: &Stack, mount: &str, version: u8) {
    let options = json!({ "type": "kv", "options": { "version": version.to_string() } });
    let (status, answer) = stack
        .vault_request("POST", &format!("sys/mounts/{mount}"), Some(options))
        .await
        .expect("asked");
    assert!(status < 300, "{status} {answer}");
    // Version 2 needs a moment to set itself up.
    eventually("the engine serves", Duration::from_secs(60), async || {
        let path = if version == 2 { format!("{mount}/data/x") } else { format!("{mount}/x") };
        let body = json!({ "data": { "x": "y" } });
        Ok(stack.vault_request("POST", &path, Some(body)).await?.0 < 300)
    })
    .await
    .expect("a KV engine");
}
