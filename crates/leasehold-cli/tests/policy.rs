//! What `leasehold policy` prints is enough, and no more than that; and so is the role.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use leasehold::{CredentialSource, ErrorKind, RevokeMode, SourceError};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, Stack, TestDb, TokenSpec, shared};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

fn leasehold(args: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.env_clear().arg("policy").args(args).output().unwrap()
}

fn printed(args: &[&str]) -> String {
    let output = leasehold(args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A database whose tokens have no policy but what a test writes.
async fn database(name: &str) -> TestDb {
    let app_role = AppRoleSpec::new().no_default_policy().policy("");
    shared().await.unwrap().database(DatabaseSpec::new(name).app_role(app_role)).await.unwrap()
}

async fn session(db: &TestDb) -> Session {
    let auth = Auth::approle(db.role_id(), db.secret_id().await.unwrap());
    Session::login(VaultConfig::new(db.vault_addr()), auth).await.unwrap()
}

/// Everything that the library does with a login of a dynamic role; what was refused, by path.
async fn life(db: &TestDb) -> Vec<String> {
    let session = session(db).await;
    let source = session.dynamic_role(db.mount(), db.role());
    let missing = source.privileges().await.unwrap();
    let mut refused: Vec<String> = missing.iter().map(|m| m.path.clone()).collect();
    let mut note = |path: &str, e: SourceError| {
        assert_eq!(e.kind(), ErrorKind::Denied, "{path}: {e}");
        refused.push(path.to_owned());
    };
    if let Err(e) = leasehold_vault::inspect::renew_token(&session, Duration::from_secs(60)).await {
        note("auth/token/renew-self", e);
    }
    match source.issue().await {
        Err(e) => note(&format!("{}/creds/{}", db.mount(), db.role()), e),
        Ok(issued) => {
            if let Err(e) = source.renew(&issued.lease, Duration::from_secs(60)).await {
                note("sys/leases/renew", e);
            }
            if let Err(e) = source.revoke(&issued.lease, RevokeMode::Sync).await {
                note("sys/leases/revoke", e);
            }
        }
    }
    if !session.close().await.is_empty() {
        refused.push("auth/token/revoke-self".to_owned());
    }
    refused.sort();
    refused.dedup();
    refused
}

/// The policy's paths, each with its text.
fn rules(policy: &str) -> Vec<(String, String)> {
    let rules = policy.split("path \"").skip(1).map(|rule| {
        let path = rule.split('"').next().unwrap().to_owned();
        (path, format!("path \"{}}}\n", rule.split('}').next().unwrap()))
    });
    rules.collect()
}

#[tokio::test]
async fn the_policy_of_a_dynamic_role_is_enough_and_each_line_of_it_is_needed() {
    let db = database("policy").await;
    let policy = printed(&["--mount", db.mount(), "--role", db.role()]);
    db.set_policy(&policy).await.unwrap();
    assert_eq!(life(&db).await, Vec::<String>::new(), "{policy}");

    // Nothing else.
    let token = db.login().await.unwrap().token;
    let (stack, mount) = (db.stack(), db.mount());
    for (method, path) in [
        ("GET", format!("{mount}/creds/another")),
        ("GET", format!("{mount}/roles/app")),
        ("GET", "sys/mounts".to_owned()),
        ("GET", "auth/token/lookup-self".to_owned()),
        ("LIST", format!("sys/leases/lookup/{mount}/creds/app")),
    ] {
        let (status, _) = stack.vault_request_as(&token, method, &path, None).await.unwrap();
        assert_eq!(status, 403, "{method} {path}");
    }

    let rules = rules(&policy);
    assert_eq!(rules.len(), 6, "{policy}");
    for (without, _) in &rules {
        let rest = rules.iter().filter(|(path, _)| path != without).map(|(_, rule)| rule.as_str());
        db.set_policy(&rest.collect::<String>()).await.unwrap();
        assert_eq!(life(&db).await, [without.as_str()]);
    }
    stack.revoke_prefix(&format!("{mount}/creds"), false).await.unwrap();
}

#[tokio::test]
async fn with_the_default_policy_its_lines_are_left_out() {
    let db = shared().await.unwrap().database("withdefault").await.unwrap();
    let policy = printed(&["--mount", db.mount(), "--role", db.role(), "--with-default"]);
    assert!(!policy.contains("auth/token"), "{policy}");
    db.set_policy(&policy).await.unwrap();
    assert_eq!(life(&db).await, Vec::<String>::new(), "{policy}");
}

#[tokio::test]
async fn a_token_that_is_given_is_looked_up_and_never_revoked() {
    let db = database("given").await;
    let policy = printed(&["--mount", db.mount(), "--role", db.role(), "--auth", "token"]);
    assert!(!policy.contains("revoke-self"), "{policy}");
    db.set_policy(&policy).await.unwrap();
    let spec = TokenSpec::new().no_default_policy().period(Duration::from_secs(60));
    let token = db.token(spec).await.unwrap().token;
    let config = VaultConfig::new(db.vault_addr());
    let session = Session::login(config, Auth::token(&token)).await.unwrap();
    let source = session.dynamic_role(db.mount(), db.role());
    assert_eq!(source.privileges().await.unwrap(), []);
    let issued = source.issue().await.unwrap();
    source.revoke(&issued.lease, RevokeMode::Sync).await.unwrap();
    session.close().await;
    // The file's owner renews it.
    let of_file = printed(&["--role", "app", "--auth", "token-file"]);
    assert!(!of_file.contains("renew-self") && of_file.contains("lookup-self"), "{of_file}");
}

#[tokio::test]
async fn the_policies_of_other_sources_are_enough_and_no_more() {
    let db = database("others").await;
    let (stack, name) = (db.stack(), db.name());
    let admin = db.admin().await.unwrap();
    let fixed = format!("fixed_{name}");
    let sql = format!("CREATE ROLE \"{fixed}\" LOGIN PASSWORD 'first'");
    admin.batch_execute(&sql).await.unwrap();
    let put = async |method: &str, path: String, body: Value| {
        let (status, answer) = stack.vault_request(method, &path, Some(body)).await.unwrap();
        assert!(status < 300, "{path}: {status} {answer}");
    };
    let role = json!({ "db_name": name, "username": fixed, "rotation_period": "1h" });
    put("POST", format!("{}/static-roles/fixed", db.mount()), role).await;
    let (kv1, kv2) = (format!("kv1-{name}"), format!("team/kv2-{name}"));
    let login = json!({ "username": "joe", "password": "topsecret" });
    put("POST", format!("sys/mounts/{kv1}"), json!({ "type": "kv" })).await;
    put("POST", format!("{kv1}/apps/db"), login.clone()).await;
    put(
        "POST",
        format!("sys/mounts/{kv2}"),
        json!({ "type": "kv", "options": { "version": "2" } }),
    )
    .await;
    let written =
        leasehold_testkit::eventually("the engine is ready", Duration::from_secs(60), async || {
            let body = json!({ "data": login });
            let path = format!("{kv2}/data/apps/db");
            Ok(stack.vault_request("POST", &path, Some(body)).await?.0 < 300)
        });
    written.await.unwrap();

    for (source, mount, more) in [
        ("static", db.mount(), ["--role", "fixed"]),
        ("kv1", kv1.as_str(), ["--secret-path", "apps/db"]),
        ("kv2", kv2.as_str(), ["--secret-path", "apps/db"]),
    ] {
        let policy = printed(&["--source", source, "--mount", mount, more[0], more[1]]);
        db.set_policy(&policy).await.unwrap();
        let missing = async || {
            let session = session(&db).await;
            let (missing, issued) = match source {
                "static" => {
                    let source = session.static_role(mount, "fixed");
                    (source.privileges().await, source.issue().await)
                }
                "kv1" => {
                    let source = session.kv1(mount, "apps/db");
                    (source.privileges().await, source.issue().await)
                }
                _ => {
                    let source = session.kv2(mount, "apps/db");
                    (source.privileges().await, source.issue().await)
                }
            };
            session.close().await;
            let missing: Vec<String> = missing.unwrap().into_iter().map(|m| m.path).collect();
            (missing, issued.is_ok())
        };
        assert_eq!(missing().await, (vec![], true), "{policy}");
        let rules = rules(&policy);
        for (without, _) in &rules {
            let rest =
                rules.iter().filter(|(path, _)| path != without).map(|(_, rule)| rule.as_str());
            db.set_policy(&rest.collect::<String>()).await.unwrap();
            let (missing, issued) = missing().await;
            assert_eq!(missing, [without.as_str()], "{source}");
            let the_secret = without == &rules[0].0;
            assert_eq!(issued, !the_secret, "{source} without {without}");
        }
    }
}

/// Runs a script with the program that the test server was started by.
async fn sh(stack: &Stack, script: &str) -> String {
    let program = stack.vault_program().await.unwrap();
    let mut shell = Command::new("sh");
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell.env("VAULT_ADDR", stack.vault_addr()).env("VAULT_TOKEN", stack.root_token());
    let mut child = shell.spawn().unwrap();
    let text = format!("set -e\nbao() {{ '{}' \"$@\"; }}\n{script}", program.display());
    child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test]
async fn the_role_makes_members_of_the_group_and_ends_their_sessions() {
    let db = database("role").await;
    let (stack, mount, name) = (db.stack(), db.mount(), db.name());
    let at = ["--mount", mount, "--db-name", name, "--group", name, "--role-definition"];
    let args = |role, form| [&at[..], &["--role", role, "--as", form]].concat();
    // As a file, and as the command that writes it.
    let json: Value = serde_json::from_str(&printed(&args("by-file", "json"))).unwrap();
    assert_eq!((&json["default_ttl"], &json["max_ttl"]), (&"1h".into(), &"24h".into()));
    let path = format!("{mount}/roles/by-file");
    stack.vault_request("POST", &path, Some(json)).await.unwrap();
    sh(stack, &printed(&args("by-command", "commands"))).await;
    let one = stack.vault_request("GET", &path, None).await.unwrap().1;
    let other = format!("{mount}/roles/by-command");
    assert_eq!(one["data"], stack.vault_request("GET", &other, None).await.unwrap().1["data"]);

    let creds = db.creds_as(stack.root_token(), "by-command").await.unwrap();
    assert!(db.logins().await.unwrap().contains(&creds.username), "a member of the group");
    let session = db.connect(&creds.username, &creds.password).await.unwrap();
    stack.revoke_lease(&creds.lease_id).await.unwrap();
    session.batch_execute("SELECT 1").await.unwrap_err();
    assert!(db.logins().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_commands_of_the_help_work() {
    let stack = Stack::start().await.unwrap();
    let help = String::from_utf8(leasehold(&["--help"]).stdout).unwrap();
    let examples: Vec<&str> =
        help.lines().filter(|line| line.starts_with("  leasehold ")).collect();
    assert_eq!(examples.len(), 4, "{help}");
    let program = env!("CARGO_BIN_EXE_leasehold");
    let dir = stack.dir().unwrap().display().to_string();
    let before =
        format!("cd '{dir}'; leasehold() {{ '{program}' \"$@\"; }}\nbao secrets enable database\n");
    // A shell of its own at the end of a pipe has no functions.
    let examples = examples.join("\n").replace("| sh", "> role.sh; . ./role.sh");
    sh(&stack, &format!("{before}{examples}")).await;
    let (status, _) = stack.vault_request("GET", "sys/policies/acl/orders", None).await.unwrap();
    assert_eq!(status, 200);
    let (status, role) =
        stack.vault_request("GET", "database/roles/orders-rw", None).await.unwrap();
    assert_eq!((status, &role["data"]["db_name"]), (200, &"orders".into()));
}

#[test]
fn what_would_allow_more_is_refused() {
    for args in [
        &["--role", "*"][..],
        &["--role", "app\" { capabilities = [\"sudo\"] } path \"x"],
        &["--role", "app", "--mount", "data+base"],
        &["--source", "kv2"],
        &["--role", "app", "--role-definition"],
        &["--role", "app", "--role-definition", "--group", "x'; DROP"],
        &["--role", "app", "--role-definition", "--group", "x", "--ttl", "1500ms"],
        &[],
    ] {
        assert_eq!(leasehold(args).status.code(), Some(2), "{args:?}");
    }
    let inside = printed(&["--role", "app", "--namespace", "team1"]);
    assert!(inside.starts_with("# Written to the namespace team1.\n"), "{inside}");
    let role = ["--role", "app", "--namespace", "team1", "--role-definition", "--group", "x"];
    let command = printed(&[&role[..], &["--as", "commands"]].concat());
    assert!(command.starts_with("bao write -namespace=team1 database/roles/app - <<"), "{command}");
    let quoted = printed(&["--role", "app", "--role-definition", "--group", "Orders-RW"]);
    assert!(quoted.contains(r#"IN ROLE \"Orders-RW\""#), "{quoted}");
    // A word of SQL.
    let quoted = printed(&["--role", "app", "--role-definition", "--group", "user"]);
    assert!(quoted.contains(r#"IN ROLE \"user\""#), "{quoted}");
}
