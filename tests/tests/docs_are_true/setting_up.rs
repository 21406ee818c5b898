//! Blocks of the README, `docs/vault-setup.md`, `docs/sources.md`, `docs/kv.md` and `docs/transit.md`, on
//! real servers.

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::{CredentialSource, Rotator};
use leasehold_testkit::{Stack, eventually};
use leasehold_tests::LONG;
use leasehold_tests::ready_made::{Operator, ReadyMade, ready_made};
use leasehold_vault::transit::TransitErrorKind;
use serde_json::{Value, json};

use crate::pages::{Block, page};

fn script(blocks: &[&Block]) -> String {
    blocks.iter().map(|block| block.text.as_str()).collect()
}

/// The guide's blocks are run by what sets that world up, in their order.
#[tokio::test]
async fn the_guide_sets_up_what_it_says() {
    let guide: [_; 4] = page("docs/vault-setup.md").run("the_guide_sets_up_what_it_says");
    assert!(guide.iter().all(|block| block.language() == "sh"));
    let world = ready_made().await;
    let session = world.session(&world.orders().await).await;
    let rotator = Rotator::builder(session.dynamic_role("database", "orders-rw")).start().await;
    let rotator = rotator.unwrap();
    let missing = session.dynamic_role("database", "orders-rw").privileges().await.unwrap();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(rotator.shutdown(LONG).await.is_clean());
}

/// With nothing but them the README's program works, renews and revokes.
#[tokio::test]
async fn the_readmes_policy_and_role() {
    let [policy, role] = page("README.md").run("the_readmes_policy_and_role");
    let world = ready_made().await;
    world.vault("POST", "database/config/orders", json!({ "allowed_roles": "*" })).await;
    world.sh(&role.text).await;
    let who = world.with_policy(&policy.text, "1h").await;
    let session = world.session(&who).await;
    let source = session.dynamic_role("database", "orders");
    let issued = source.issue().await.unwrap();
    let credential = &issued.credential;
    let client = world.connect(credential.username(), credential.expose_password()).await;
    client.execute("UPDATE orders.accounts SET v = v + 1", &[]).await.unwrap();
    source.renew(&issued.lease, Duration::from_secs(60)).await.unwrap();
    drop(client);
    source.revoke(&issued.lease, leasehold::RevokeMode::Sync).await.unwrap();
    session.close().await;
}

#[tokio::test]
async fn static_roles_and_kv_are_set_up_as_the_page_says() {
    let name = "static_roles_and_kv_are_set_up_as_the_page_says";
    let [static_role, kv] = page("docs/sources.md").run(name);
    // Of its own: names of static roles and of others must differ.
    let world = ReadyMade::set_up().await;
    world.admin().await.batch_execute("CREATE ROLE orders LOGIN PASSWORD 'old'").await.unwrap();
    let admin = "GRANT orders TO vaultadmin WITH ADMIN OPTION";
    world.admin().await.batch_execute(admin).await.unwrap();
    world.vault("POST", "database/config/orders", json!({ "allowed_roles": "*" })).await;

    // The pages' policies are all named "orders", as the guide's is, which others here use.
    let apart = |block: &Block, name: &str| {
        block.text.replace("bao policy write orders ", &format!("bao policy write {name} "))
    };
    world.sh(&apart(static_role, "page-static")).await;
    world.sh(&apart(kv, "page-kv")).await;
    for (policy, source) in [("page-static", "static"), ("page-kv", "kv")] {
        let read = world.vault("GET", &format!("sys/policies/acl/{policy}"), Value::Null).await;
        let who = world.with_policy(read["data"]["policy"].as_str().unwrap(), "1h").await;
        let session = world.session(&who).await;
        let user = match source {
            "static" => session.static_role("database", "orders").issue().await.unwrap(),
            _ => session.kv2("kv", "team/orders").issue().await.unwrap(),
        };
        let expected = if source == "static" { "orders" } else { "orders_b" };
        assert_eq!(user.credential.username(), expected);
        session.close().await;
    }
}

#[tokio::test]
async fn transit_is_set_up_as_the_page_says() {
    let [set_up, rotate, retire] =
        page("docs/transit.md").run("transit_is_set_up_as_the_page_says");
    let world = ReadyMade::set_up().await;
    world.sh(&set_up.text).await;
    let read = world.vault("GET", "sys/policies/acl/orders-transit", Value::Null).await;
    let who = world.with_policy(read["data"]["policy"].as_str().unwrap(), "1h").await;
    let session = world.session(&who).await;
    let (orders, invoices) =
        (session.transit("transit").key("orders"), session.transit("transit").key("invoices"));
    let old = orders.encrypt("plain").await.unwrap();
    let signature = invoices.sign("invoice 1").await.unwrap();
    assert!(invoices.verify("invoice 1", &signature).await.unwrap());
    world.sh(&rotate.text).await;
    let new = orders.rewrap(&old).await.unwrap();
    assert_eq!((old.key_version(), new.key_version()), (Some(1), Some(2)));
    assert_eq!(orders.decrypt(&old).await.unwrap().expose(), b"plain");
    world.sh(&retire.text).await;
    let e = orders.decrypt(&old).await.unwrap_err();
    assert_eq!(e.kind(), TransitErrorKind::KeyVersion, "{e}");
    assert_eq!(orders.decrypt(&new).await.unwrap().expose(), b"plain");
    session.close().await;
}

/// What the page writes fills the page's struct, with the page's policy and nothing else.
#[tokio::test]
async fn settings_are_kept_as_the_page_says() {
    #[derive(serde::Deserialize)]
    struct Settings {
        name: String,
        retries: u8,
        smtp: BTreeMap<String, String>,
    }
    let [script] = page("docs/kv.md").run("settings_are_kept_as_the_page_says");
    // Of its own: others may mount an engine there.
    let world = ReadyMade::set_up().await;
    // Which a dev server has mounted already.
    world.sh("bao secrets disable secret").await;
    world.sh(&script.text).await;
    let read = world.vault("GET", "sys/policies/acl/shop", Value::Null).await;
    let who = world.with_policy(read["data"]["policy"].as_str().unwrap(), "1h").await;
    let session = world.session(&who).await;
    let kv = session.kv2_store("secret");
    let loader = kv.loader().keys("shop/app").section("smtp", "shop/smtp");
    let settings = loader.load::<Settings>().await.unwrap().settings;
    assert_eq!((settings.name.as_str(), settings.retries), ("shop", 3));
    assert_eq!(settings.smtp["port"], "465");
    assert_eq!(kv.list("shop").await.unwrap(), ["app", "smtp"]);
    assert_eq!(kv.metadata("shop/smtp").await.unwrap().current_version, 1);
    let mut watch = kv.watch::<Value>("shop/smtp").unwrap();
    watch.changed().await.unwrap();
    let e = kv.delete("shop/smtp").await.unwrap_err();
    assert!(matches!(e, leasehold_vault::KvError::Denied(_)), "no more than it says: {e}");
    session.close().await;
}

/// The template of the page, by a real agent: what it writes is a login that works.
#[tokio::test]
async fn an_agent_renders_the_file_of_the_page() {
    let [block] = page("docs/sources.md").run("an_agent_renders_the_file_of_the_page");
    let stack = Stack::start().await.unwrap();
    let operator = Operator::of(&stack).await;
    let home = operator.home().display().to_string();
    let secret = "bao secrets enable -path=database -version=1 kv
        bao write database/static-creds/orders username=orders password=secret";
    operator.sh(secret).await;
    let token = format!("{home}/token");
    std::fs::write(&token, stack.root_token()).unwrap();
    let settings = format!(
        "exit_after_auth = true\nvault {{ address = \"{}\" }}\nauto_auth {{\n  method \"token_file\" \
         {{ config = {{ token_file_path = \"{token}\" }} }}\n}}\n{}",
        stack.vault_addr(),
        block.text.replace("/run/secrets/", &format!("{home}/"))
    );
    std::fs::write(format!("{home}/agent.hcl"), settings).unwrap();
    operator.sh(&format!("bao agent -config={home}/agent.hcl")).await;
    let source = leasehold::FileSource::new(format!("{home}/orders.json"));
    eventually("the file is a login", LONG, async || {
        Ok(source.issue().await.is_ok_and(|issued| issued.credential.username() == "orders"))
    })
    .await
    .unwrap();
}

/// deploy/kubernetes/README.md, in the guide's world.
#[tokio::test]
async fn pods_can_log_in() {
    let [block] = page("deploy/kubernetes/README.md").run("pods_can_log_in");
    let world = ready_made().await;
    let home = world.stack.dir().unwrap().join("cli");
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(home.join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(home.join("reviewer.jwt"), "a.b.c").unwrap();
    let here = |file: &str| home.join(file).display().to_string();
    let script = block.text.replace("ca.pem", &here("ca.pem"));
    let script = script.replace("reviewer.jwt", &here("reviewer.jwt"));
    world.sh(&script).await;
    world.sh(&script).await; // it may run again
    // With a CA alone, each login would be reviewed with the token that is shown, which can't be.
    world
        .sh(&format!(
            "if KUBERNETES_CA={} deploy/kubernetes/vault.sh; then exit 1; fi",
            here("ca.pem")
        ))
        .await;
    let role = world.vault("GET", "auth/kubernetes/role/orders", Value::Null).await;
    let role = &role["data"];
    assert_eq!(role["bound_service_account_names"], json!(["orders"]));
    assert_eq!(role["bound_service_account_namespaces"], json!(["orders"]));
    assert_eq!(
        (role["audience"].as_str(), role["token_ttl"].as_u64()),
        (Some("vault"), Some(3600))
    );
    assert_eq!(role["token_policies"], json!(["orders"]));
}

#[test]
fn the_guides_script_is_not_empty() {
    let guide: [_; 4] = page("docs/vault-setup.md").run("the_guide_sets_up_what_it_says");
    assert!(script(&guide).contains("deploy/vault/setup.sh"));
}
