//! Set-ups that are broken on the way to Vault, or inside.

use std::time::Duration;

use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TokenSpec, eventually};

use crate::run::{
    Doctor, allowed, assert_nothing_left, closed_port, database, own_stack, with_table,
};

const CREDS: &str = r#"path "{{mount}}/creds/app" { capabilities = ["read"] }"#;
const RENEW: &str = r#"path "sys/leases/renew" { capabilities = ["update"] }"#;
const REVOKE: &str = r#"path "sys/leases/revoke" { capabilities = ["update"] }"#;
const TOKEN: &str = r#"
    path "auth/token/renew-self" { capabilities = ["update"] }
    path "auth/token/revoke-self" { capabilities = ["update"] }
    path "sys/capabilities-self" { capabilities = ["update"] }"#;

#[tokio::test]
async fn an_address_where_nothing_listens() {
    let db = database("address").await;
    let (_guard, port) = closed_port().await;
    let doctor = Doctor::of(&db).await.env("VAULT_ADDR", format!("http://127.0.0.1:{port}"));
    let report = doctor.fails_at("address", "VAULT_ADDR").await;
    let login = report.is("login", "skipped");
    assert_eq!(login["detail"], "not run: `address` failed");
    // What does not depend on it is looked at all the same.
    report.is("postgres-address", "ok");
}

#[tokio::test]
async fn an_address_whose_name_is_not_known() {
    let db = database("dns").await;
    let doctor = Doctor::of(&db).await.env("VAULT_ADDR", "http://vault.invalid:8200");
    let report = doctor.fails_at("address", "VAULT_ADDR").await;
    assert!(report.step("address")["detail"].as_str().unwrap().contains("vault.invalid"));
}

#[tokio::test]
async fn an_address_that_is_no_vault() {
    let db = database("novault").await;
    let address = format!("http://{}:{}", db.pg_host(), db.pg_port());
    Doctor::of(&db).await.env("VAULT_ADDR", address).fails_at("server", "no Vault").await;
}

#[tokio::test]
async fn https_to_a_server_that_speaks_http() {
    let db = database("scheme").await;
    let address = db.vault_addr().replace("http://", "https://");
    Doctor::of(&db).await.env("VAULT_ADDR", address).fails_at("tls", "scheme").await;
}

#[tokio::test]
async fn tls_that_is_not_trusted_and_http_to_a_server_that_speaks_tls() {
    let stack = Stack::builder().vault_tls_for(["localhost"]).start().await.unwrap();
    let db = stack.database(with_table("tls")).await.unwrap();
    Doctor::of(&db).await.fails_at("tls", "VAULT_CACERT").await;
    let ca = stack.dir().unwrap().join("ca.pem");
    std::fs::write(&ca, stack.ca_pem().unwrap()).unwrap();
    let ca = ca.to_str().unwrap();
    let trusting = Doctor::of(&db).await.env("VAULT_CACERT", ca);
    trusting.fails_at("tls", "for another name").await;
    let named = db.vault_addr().replace("127.0.0.1", "localhost");
    let right = Doctor::of(&db).await.env("VAULT_CACERT", ca).env("VAULT_ADDR", named);
    let report = right.report().await;
    report.is("tls", "ok");
    assert_eq!(report.json["status"], "ok", "{}", report.text());
    let plain = db.vault_addr().replace("https://", "http://");
    Doctor::of(&db).await.env("VAULT_ADDR", plain).fails_at("server", "https://").await;
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_sealed_server() {
    let stack = own_stack().await;
    let db = stack.database("sealed").await.unwrap();
    let doctor = Doctor::of(&db).await;
    stack.seal_vault().await.unwrap();
    doctor.fails_at("server", "unseal").await;
}

#[tokio::test]
async fn a_wrong_secret_id() {
    let db = database("secretid").await;
    let doctor =
        Doctor::of(&db).await.env("VAULT_SECRET_ID", "f7a6e1f0-0000-0000-0000-000000000000");
    doctor.fails_at("login", "VAULT_SECRET_ID").await;
}

#[tokio::test]
async fn a_token_that_is_dead() {
    let db = database("dead").await;
    let doctor = Doctor::of(&db).await.token("s.0000000000000000000000000");
    doctor.fails_at("login", "token").await;
}

#[tokio::test]
async fn a_policy_without_the_creds() {
    let db = allowed("nocreds", &[RENEW, REVOKE, TOKEN].join("\n")).await;
    let creds = format!("path \"{}/creds/app\"", db.mount());
    let report = Doctor::of(&db).await.fails_at("policy-creds", &creds).await;
    assert_eq!(report.is("issue", "skipped")["detail"], "not run: `policy-creds` failed");
    report.is("logout", "ok");
}

#[tokio::test]
async fn a_policy_without_the_renewal() {
    let db = allowed("norenew", &[CREDS, REVOKE, TOKEN].join("\n")).await;
    let report = Doctor::of(&db).await.fails_at("policy-renew", "path \"sys/leases/renew\"").await;
    report.is("renew", "skipped");
    report.is("revoke", "ok");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_policy_without_the_revocation() {
    let db = allowed("norevoke", &[CREDS, RENEW, TOKEN].join("\n")).await;
    let report =
        Doctor::of(&db).await.fails_at("policy-revoke", "path \"sys/leases/revoke\"").await;
    let detail = report.is("revoke", "fail")["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("cut short"), "{detail}");
    // The token that made it is given back, and the lease goes with it.
    eventually("nothing is left", Duration::from_secs(60), async || {
        Ok(db.leases().await?.is_empty() && db.logins().await?.is_empty())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_role_that_does_not_exist() {
    let db = allowed(
        "norole",
        &[r#"path "{{mount}}/creds/*" { capabilities = ["read"] }"#, RENEW, REVOKE, TOKEN]
            .join("\n"),
    )
    .await;
    let wrong = Doctor::of(&db).await.env("VAULT_DATABASE_ROLE", "ap");
    wrong.fails_at("issue", "VAULT_DATABASE_ROLE").await;
    // Somebody who may read the definition is told sooner.
    let wrong = Doctor::of(&db).await.token(db.stack().root_token()).arg("--role=ap");
    let report = wrong.fails_at("role", "VAULT_DATABASE_ROLE").await;
    report.is("token", "warn");
}

#[tokio::test]
async fn a_mount_that_does_not_exist_or_is_another_engine() {
    let own = r#"path "elsewhere/creds/app" { capabilities = ["read"] }
                 path "secret/creds/app" { capabilities = ["read"] }"#;
    let db = allowed("nomount", &[own, RENEW, REVOKE, TOKEN].join("\n")).await;
    let doctor = || Doctor::of(&db);
    let wrong = doctor().await.env("VAULT_MOUNT_PATH", "elsewhere");
    wrong.fails_at("engine", "VAULT_MOUNT_PATH").await;
    // A dev server has a KV engine there.
    let wrong = doctor().await.env("VAULT_MOUNT_PATH", "secret");
    let report = wrong.fails_at("engine", "database engine").await;
    assert!(report.step("engine")["detail"].as_str().unwrap().contains("type kv"));
    // Where the policy says nothing of it, that is what is wrong.
    let wrong = doctor().await.env("VAULT_MOUNT_PATH", "unheard-of");
    wrong.fails_at("policy-creds", "is the mount's name right?").await;
}

#[tokio::test]
async fn a_max_ttl_that_is_short_for_the_grace() {
    let role = RoleSpec::new("app").default_ttl(Duration::from_secs(60));
    let db = database(DatabaseSpec::new("short").role(role.max_ttl(Duration::from_secs(20)))).await;
    let report = Doctor::of(&db).await.arg("--grace=30s").fails_at("ttl", "max_ttl").await;
    assert!(report.step("ttl")["detail"].as_str().unwrap().contains("TTL 20s"));
    Doctor::of(&db).await.arg("--grace=5s").report().await.is("ttl", "ok");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_token_that_ends_before_its_lease() {
    let db = database("tokenlife").await;
    let spec = TokenSpec::new().ttl(Duration::from_secs(30)).not_renewable();
    let token = db.token(spec).await.unwrap();
    let doctor = Doctor::of(&db).await.token(&token.token);
    doctor.fails_at("token-life", "renewable").await;
    assert_nothing_left(&db).await;
    assert!(db.stack().lookup_token(&token.token).await.unwrap().is_some(), "it was given");

    let spec = AppRoleSpec::new().token_ttl(Duration::from_secs(25));
    let spec = spec.token_max_ttl(Duration::from_secs(25));
    let db = database(DatabaseSpec::new("tokenmax").app_role(spec)).await;
    let report = Doctor::of(&db).await.report().await;
    let mend = report.is("token-life", "warn")["mend"].as_str().unwrap().to_owned();
    assert!(mend.contains("token_max_ttl"), "{mend}");
    assert_eq!(report.code, Some(0), "a warning is no failure");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_token_that_is_limited_in_its_uses_and_a_batch_token() {
    let spec = AppRoleSpec::new().token_num_uses(20);
    let db = database(DatabaseSpec::new("uses").app_role(spec)).await;
    Doctor::of(&db).await.fails_at("login", "token_num_uses").await;

    let db = database(DatabaseSpec::new("batch").app_role(AppRoleSpec::new().batch_tokens())).await;
    let report = Doctor::of(&db).await.report().await;
    let mend = report.is("token", "warn")["mend"].as_str().unwrap().to_owned();
    assert!(mend.contains("token_type=service"), "{mend}");
    report.is("logout", "warn");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn in_a_namespace_all_is_the_same() {
    let spec = with_table("inside").namespace("team-doctor");
    let db = database(spec).await;
    let doctor = async || Doctor::of(&db).await.env("VAULT_NAMESPACE", "team-doctor");
    let report = doctor().await.report().await;
    assert_eq!(report.json["status"], "ok", "{}", report.text());
    assert_nothing_left(&db).await;
    let outside = doctor().await.env("VAULT_NAMESPACE", "elsewhere");
    outside.fails_at("login", "VAULT_NAMESPACE").await;
}

#[tokio::test]
async fn a_server_that_is_not_initialised() {
    let stack = own_stack().await;
    let db = stack.database("fresh").await.unwrap();
    let dir = stack.dir().unwrap();
    let (socket, port) = closed_port().await;
    let config = dir.join("fresh.hcl");
    let text = format!(
        "disable_mlock = true\nstorage \"inmem\" {{}}\n\
         listener \"tcp\" {{\n address = \"127.0.0.1:{port}\"\n tls_disable = true\n}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut server = tokio::process::Command::new(stack.vault_program().await.unwrap());
    server.arg("server").arg("-config").arg(&config).kill_on_drop(true);
    let log = std::fs::File::create(dir.join("fresh.log")).unwrap();
    server.stdout(log.try_clone().unwrap()).stderr(log);
    drop(socket);
    let mut server = server.spawn().unwrap();
    eventually("it listens", Duration::from_secs(60), async || {
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
    })
    .await
    .unwrap();
    let doctor = Doctor::of(&db).await.env("VAULT_ADDR", format!("http://127.0.0.1:{port}"));
    doctor.fails_at("server", "operator init").await;
    server.kill().await.unwrap();
}

#[tokio::test]
async fn a_token_that_may_do_nothing_with_itself() {
    let asking = r#"path "sys/capabilities-self" { capabilities = ["update"] }"#;
    let db = allowed("notoken", &[CREDS, RENEW, REVOKE, asking].join("\n")).await;
    let report = Doctor::of(&db).await.fails_at("policy-token", "auth/token/renew-self").await;
    let mend = report.step("policy-token")["mend"].as_str().unwrap();
    assert!(mend.contains("auth/token/revoke-self"), "{mend}");
    report.is("logout", "warn");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_policy_that_lets_nobody_ask() {
    let own = TOKEN.replace("sys/capabilities-self", "sys/capabilities-other");
    let db = allowed("noask", &[CREDS, RENEW, REVOKE, &own].join("\n")).await;
    let report = Doctor::of(&db).await.report().await;
    let mend = report.is("policy-creds", "warn")["mend"].as_str().unwrap();
    assert!(mend.contains("path \"sys/capabilities-self\""), "{mend}");
    // What can't be asked is tried.
    report.is("policy-revoke", "skipped");
    report.is("revoke", "ok");
    assert_eq!(report.code, Some(0));
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_definition_that_can_be_read_is_looked_at() {
    let forever = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' IN ROLE "{{group}}""#;
    let role = RoleSpec::new("app").creation([forever]);
    let db = database(DatabaseSpec::new("defined").role(role)).await;
    let doctor = async || Doctor::of(&db).await.token(db.stack().root_token());
    let report = doctor().await.report().await;
    let role = report.is("role", "warn");
    assert!(role["detail"].as_str().unwrap().contains("TTL 1m, max TTL 10m"), "{role}");
    assert!(role["mend"].as_str().unwrap().contains("VALID UNTIL"), "{role}");
    let mend = report.is("token", "warn")["mend"].as_str().unwrap();
    assert!(mend.contains("leasehold policy"), "{mend}");
    assert_nothing_left(&db).await;

    let none = serde_json::json!({ "creation_statements": [] });
    db.update_role("app", none).await.unwrap();
    doctor().await.fails_at("role", "--role-definition").await;
}

#[tokio::test]
async fn a_connection_that_does_not_allow_the_role() {
    let db = database("allowed").await;
    let path = format!("{}/config/{}", db.mount(), db.name());
    let body = serde_json::json!({ "allowed_roles": "another" });
    let (status, answer) = db.stack().vault_request("POST", &path, Some(body)).await.unwrap();
    assert!(status < 300, "{answer}");
    Doctor::of(&db).await.fails_at("issue", "allowed_roles").await;
}
