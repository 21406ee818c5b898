//! Blocks of `docs/auth.md`, on a real server.

use leasehold_testkit::Stack;
use leasehold_tests::ready_made::Operator;
use leasehold_vault::{Auth, Session, VaultConfig};

use crate::pages::page;

#[tokio::test]
async fn each_way_to_log_in_is_enabled() {
    let blocks = page("docs/auth.md").run_all("each_way_to_log_in_is_enabled");
    let script: String = blocks.iter().map(|block| block.text.as_str()).collect();
    let stack = Stack::start().await.unwrap();
    let operator = Operator::of(&stack).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::new(["orders.internal".to_owned()]).unwrap();
    let authority = authority.self_signed(&key).unwrap();
    std::fs::write(operator.home().join("key.pem"), key.public_key_pem()).unwrap();
    std::fs::write(operator.home().join("ca.pem"), authority.pem()).unwrap();

    let policy = "bao policy write orders crates/leasehold-vault/policy.hcl";
    let home = operator.home().display();
    let said = operator
        .sh(&format!("PASSWORD=open-sesame\n{policy}\ncd {home}\n{script}\nbao auth list"))
        .await;
    for method in ["approle/", "kubernetes/", "jwt/", "userpass/", "cert/"] {
        assert!(said.lines().any(|line| line.starts_with(method)), "{method} in {said}");
    }

    // Those that need nothing from outside let somebody in, with the policy of the page.
    let read = "bao read -field=role_id auth/approle/role/orders/role-id; echo
        bao write -force -field=secret_id auth/approle/role/orders/secret-id";
    let said = operator.sh(read).await;
    let (role_id, secret_id) = said.trim().split_once('\n').unwrap();
    let token =
        said_token(&operator.sh("bao token create -orphan -policy=orders -period=1h").await);
    let ways = [
        Auth::approle(role_id, secret_id),
        Auth::userpass("orders", "open-sesame"),
        Auth::token(token),
    ];
    for auth in ways {
        let session = Session::login(VaultConfig::new(stack.vault_addr()), auth).await.unwrap();
        session.close().await;
    }
}

/// The line `token  s.…` of what the command line says.
fn said_token(said: &str) -> String {
    let line = said.lines().find_map(|line| line.strip_prefix("token ")).unwrap();
    line.trim().to_owned()
}

/// The page's settings, with a real agent: a session reads what it writes.
#[tokio::test]
async fn the_agents_sink_is_written() {
    let [block] = page("docs/auth.md").run("the_agents_sink_is_written");
    let stack = Stack::start().await.unwrap();
    let operator = Operator::of(&stack).await;
    let home = operator.home().display().to_string();
    let prepare = format!(
        "bao auth enable approle
         bao write auth/approle/role/orders token_policies=default
         bao read -field=role_id auth/approle/role/orders/role-id > {home}/role_id
         bao write -force -field=secret_id auth/approle/role/orders/secret-id > {home}/secret_id"
    );
    operator.sh(&prepare).await;
    let settings = block.text.replace("/etc/agent/", &format!("{home}/"));
    let settings = settings.replace("/run/agent/token", &format!("{home}/sink"));
    let settings = format!(
        "exit_after_auth = true\nvault {{ address = \"{}\" }}\n{settings}",
        stack.vault_addr()
    );
    std::fs::write(format!("{home}/agent.hcl"), settings).unwrap();
    operator.sh(&format!("bao agent -config={home}/agent.hcl")).await;
    let auth = Auth::token_file(format!("{home}/sink"));
    let session = Session::login(VaultConfig::new(stack.vault_addr()), auth).await.unwrap();
    session.close().await;
}
