//! The rest of what a service asks of its session: settings in KV and Transit, without async.

use leasehold_blocking::Runtime;
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, shared};
use leasehold_vault::{Auth, KvError, Session, VaultConfig, WriteIf};
use serde_json::{Value, json};

const POLICY: &str = r#"
path "blocking_kv/*" { capabilities = ["create", "read", "update"] }
path "blocking_transit/*" { capabilities = ["create", "update"] }
"#;

#[test]
fn settings_are_read_and_secrets_encrypted_without_async() {
    let runtime = Runtime::new().unwrap();
    let ready = runtime.block_on(async {
        let stack = shared().await.unwrap();
        for (mount, engine) in [
            ("blocking_kv", json!({ "type": "kv", "options": { "version": "2" } })),
            ("blocking_transit", json!({ "type": "transit" })),
        ] {
            let path = format!("sys/mounts/{mount}");
            let (status, said) = stack.vault_request("POST", &path, Some(engine)).await.unwrap();
            assert!(status < 300, "{said}");
        }
        let app_role = AppRoleSpec::new().extra_policy(POLICY);
        let db = stack.database(DatabaseSpec::new("settings").app_role(app_role)).await.unwrap();
        let auth = Auth::approle(db.role_id(), db.secret_id().await.unwrap());
        let session = Session::login(VaultConfig::new(db.vault_addr()), auth).await.unwrap();
        (db, session)
    });
    let (_db, session) = ready.unwrap();

    let kv = session.kv2_store("blocking_kv");
    let missing = runtime.block_on(kv.read::<Value>("smtp")).unwrap();
    assert!(matches!(missing, Err(KvError::Missing { .. })), "{missing:?}");
    let smtp = json!({ "host": "mail.internal" });
    runtime.block_on(kv.write("smtp", &smtp, WriteIf::New)).unwrap().unwrap();
    let read = runtime.block_on(kv.read::<Value>("smtp")).unwrap().unwrap();
    assert_eq!((read.value, read.version), (smtp, Some(1)));

    let key = session.transit("blocking_transit").key("orders");
    let stored = runtime.block_on(key.encrypt("plain")).unwrap().unwrap();
    let plain = runtime.block_on(key.decrypt(&stored)).unwrap().unwrap();
    assert_eq!(plain.expose(), b"plain");
    runtime.block_on(session.close()).unwrap();
}
