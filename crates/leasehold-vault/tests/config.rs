//! Settings from a file and from the environment, on a real server.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::files::Folder;
use common::script::{Reply, Script};
use common::{database, long_role};
use leasehold::{CredentialSource, ErrorKind};
use leasehold_testkit::{DatabaseSpec, Stack, TestDb};
use leasehold_vault::{Auth, Session, Settings, VaultConfig};

/// Set in the process that a test starts to look at its environment.
const FILE: &str = "TEST_SETTINGS_FILE";

/// This test again, in a process of its own whose environment holds this.
fn again(test: &str, file: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("VAULT") || name.starts_with("BAO_") {
            command.env_remove(name);
        }
    }
    command.env(FILE, file).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// What the process started by [`again`] does: log in as it is told to, and issue.
async fn follow_the_settings() {
    let file = std::env::var(FILE).unwrap();
    let settings =
        if file.is_empty() { Settings::from_env() } else { Settings::from_file(&file) }.unwrap();
    let session =
        Session::login(settings.config().unwrap(), settings.auth().unwrap()).await.unwrap();
    let (mount, role) = (settings.mount_path().unwrap(), settings.database_role().unwrap());
    let issued = session.dynamic_role(mount, role).issue().await.unwrap();
    println!("issued {:?} {:?}", issued.lease.id, settings);
    session.close().await;
}

async fn tls_database() -> TestDb {
    let stack = Stack::builder().vault_tls().start().await.unwrap();
    stack.database(DatabaseSpec::new("settings").role(long_role())).await.unwrap()
}

#[tokio::test]
async fn the_environment_alone_is_enough() {
    if std::env::var_os(FILE).is_some() {
        return follow_the_settings().await;
    }
    let db = tls_database().await;
    let folder = Folder::new();
    let ca = folder.file("ca.pem", db.stack().ca_pem().unwrap());
    let secret_id = db.secret_id().await.unwrap();
    let address = db.vault_addr();
    let variables = [
        // What wins is spelled with BAO_, and nested names count.
        ("VAULT__URL", "https://127.0.0.1:1"),
        ("BAO_ADDR", &address),
        ("VAULT_CACERT", &ca),
        ("VAULT_ROLE_ID", db.role_id()),
        ("VAULT_SECRET_ID", &secret_id),
        ("VAULT_CLIENT_TIMEOUT", "30"),
        ("VAULT_MOUNT_PATH", db.mount()),
        ("VAULT__DATABASE__ROLE", db.role()),
    ];
    let (good, said) = again("the_environment_alone_is_enough", "", &variables);
    assert!(good && said.contains("issued"), "{said}");
    assert!(!said.contains(&secret_id), "{said}");
}

#[tokio::test]
async fn the_environment_lies_over_a_file_of_any_kind() {
    if std::env::var_os(FILE).is_some() {
        return follow_the_settings().await;
    }
    let db = tls_database().await;
    let folder = Folder::new();
    let authorities = Folder::new();
    authorities.file("own.pem", db.stack().ca_pem().unwrap());
    let authorities = authorities.path().to_str().unwrap();
    let (mount, role, id) = (db.mount(), db.role(), db.role_id());
    let toml = format!(
        "listen = 1\n[vault]\nurl = 'https://127.0.0.1:1'\nca_path = '{authorities}'\n\
         mount_path = '{mount}'\ndatabase_role = '{role}'\nrole_id = '{id}'\n\
         secret_id = 'old'\nclient_timeout = '30s'\n"
    );
    let yaml = format!(
        "vault:\n  url: https://127.0.0.1:1\n  ca_path: {authorities}\n  mount_path: {mount}\n  \
         database_role: {role}\n  role_id: {id}\n  secret_id: old\n  client_timeout: 30\n"
    );
    let json = format!(
        r#"{{"vault":{{"url":"https://127.0.0.1:1","ca_path":"{authorities}",
        "mount_path":"{mount}","database_role":"{role}","role_id":"{id}","secret_id":"old"}}}}"#
    );
    let ini = format!(
        "[vault]\nurl=https://127.0.0.1:1\nca_path={authorities}\nmount_path={mount}\n\
         database_role={role}\nrole_id={id}\nsecret_id=old\n"
    );
    for (name, text) in [("a.toml", toml), ("a.yaml", yaml), ("a.json", json), ("a.ini", ini)] {
        let file = folder.file(name, &text);
        let (secret_id, address) = (db.secret_id().await.unwrap(), db.vault_addr());
        let variables = [("VAULT__ADDRESS", address.as_str()), ("VAULT_SECRET_ID", &secret_id)];
        let test = "the_environment_lies_over_a_file_of_any_kind";
        let (good, said) = again(test, &file, &variables);
        assert!(good && said.contains("issued"), "{name}: {said}");
        let (good, said) = again(test, &file, &variables[..1]);
        assert!(!good && said.contains("secret_id"), "the file's secret_id is wrong: {said}");
    }
}

#[tokio::test]
async fn a_long_answer_is_refused_and_the_limit_can_be_moved() {
    let db = database(DatabaseSpec::new("size").role(long_role())).await;
    // A login's answer is some 700 bytes.
    let config = common::config(&db).max_response(100);
    let e = Session::login(config, common::approle(&db).await).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Malformed);
    assert!(e.to_string().contains("longer than 100 bytes"), "{e}");

    let script = Script::start().await;
    let pad = " ".repeat(2 * 1024 * 1024);
    let body = format!(
        r#"{{"auth":{{"client_token":"s.x","lease_duration":60,"renewable":false}}}}{pad}"#
    );
    script.answer("auth/approle/login", Reply::json(200, body));
    let config = VaultConfig::new(script.address());
    let e = Session::login(config.clone(), Auth::approle("r", "s")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Malformed, "{e}");
    let larger = config.max_response(3 * 1024 * 1024);
    Session::login(larger, Auth::approle("r", "s")).await.unwrap();
}

/// At least: a slow machine takes longer, and never less.
#[tokio::test]
async fn the_client_keeps_to_its_rate() {
    let script = Script::start().await;
    let grant = r#"{"auth":{"client_token":"s.x","lease_duration":3600,"renewable":true}}"#;
    script.answer("auth/approle/login", Reply::json(200, grant));
    let creds = r#"{"lease_id":"l","lease_duration":60,"data":{"username":"u","password":"p"}}"#;
    script.answer("database/creds/app", Reply::json(200, creds));
    let config = VaultConfig::new(script.address()).rate_limit(20.0, 2);
    let began = Instant::now();
    let session = Session::login(config, Auth::approle("r", "s")).await.unwrap();
    let source = session.dynamic_role("database", "app");
    for _ in 0..7 {
        source.issue().await.unwrap();
    }
    // Eight requests, two of them at once, the others each 50 ms.
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(session.calls().issue, 7);
}
