//! The question what the policy gives: it costs one request, and hinders nobody.

mod common;

use std::time::Duration;

use common::script::{Reply, Script};
use common::until;
use leasehold::{CredentialSource, ErrorKind};
use leasehold_vault::{Auth, Session, VaultConfig};

const LOGIN: &str = "auth/approle/login";
const CREDS: &str = "database/creds/app";
const ASK: &str = "sys/capabilities-self";
const LOOKUP: &str = "auth/token/lookup-self";

async fn script(answers: Vec<Reply>) -> (Script, Session) {
    let script = Script::start().await;
    let token = r#"{"auth":{"client_token":"s.token","lease_duration":3600,"renewable":true,
                    "token_type":"service","num_uses":0}}"#;
    script.answer(LOGIN, Reply::json(200, token));
    let creds = r#"{"lease_id":"database/creds/app/abc","renewable":true,"lease_duration":60,
                    "data":{"username":"u","password":"p"}}"#;
    script.answer(CREDS, Reply::json(200, creds));
    for answer in answers {
        script.answer(ASK, answer);
    }
    let config = VaultConfig::new(script.address()).request_timeout(Duration::from_secs(600));
    let session = Session::login(config, Auth::approle("role", "secret")).await.expect("login");
    (script, session)
}

/// Everything that is asked for, given.
fn all() -> Reply {
    let paths =
        [CREDS, "sys/leases/renew", "sys/leases/revoke", "auth/token/renew-self"].map(|path| {
            let right = if path == CREDS { "read" } else { "update" };
            format!(r#""{path}":["{right}"]"#)
        });
    let rest = r#""auth/token/revoke-self":["root"]"#;
    Reply::json(200, format!(r#"{{"data":{{{},{rest}}}}}"#, paths.join(",")))
}

fn fault() -> Reply {
    Reply::json(503, r#"{"errors":["Vault is sealed"]}"#)
}

#[tokio::test]
async fn a_question_that_is_never_answered_holds_up_no_login() {
    let (script, session) = script(vec![Reply::silence()]).await;
    let source = session.dynamic_role("database", "app");
    source.issue().await.expect("issued meanwhile");
    until(|| script.requests(ASK).len() == 1).await;
    source.issue().await.expect("and again");
    assert_eq!(session.calls().privileges, 1);
}

#[tokio::test]
async fn each_source_asks_once_for_everything() {
    let (script, session) = script(vec![all()]).await;
    for sources in 1..=2 {
        let source = session.dynamic_role("database", "app");
        for _ in 0..3 {
            source.issue().await.expect("issue");
            until(|| script.requests(ASK).len() == sources).await;
        }
    }
    assert_eq!(session.calls().privileges, 2);
    let asked = script.requests(ASK).remove(0);
    let five = [
        CREDS,
        "sys/leases/renew",
        "sys/leases/revoke",
        "auth/token/renew-self",
        "auth/token/revoke-self",
    ];
    assert!(five.iter().all(|path| asked.contains(&format!("\"{path}\""))), "{asked}");
    let source = session.dynamic_role("database", "app");
    assert_eq!(source.privileges().await.expect("answered"), []);
}

#[tokio::test]
async fn a_token_that_somebody_else_renews_is_looked_up_and_not_renewed() {
    let (script, _) = script(vec![]).await;
    let own = r#"{"data":{"ttl":3600,"creation_ttl":3600,"expire_time":"2030-01-01T00:00:00Z",
                  "renewable":true,"type":"service"}}"#;
    script.answer(LOOKUP, Reply::json(200, own));
    let path = std::env::temp_dir().join(format!("leasehold-privileges-{}", std::process::id()));
    std::fs::write(&path, "s.token").expect("a file");
    let config = VaultConfig::new(script.address()).request_timeout(Duration::from_secs(600));
    let session = Session::login(config, Auth::token_file(&path)).await.expect("login");
    std::fs::remove_file(path).expect("removed");
    let rights = [CREDS, "sys/leases/renew", "sys/leases/revoke"]
        .map(|path| format!(r#""{path}":["read","update"],"#))
        .concat();
    for (look, missing) in [("read", &[][..]), ("deny", &[LOOKUP])] {
        let own = ["renew", "revoke"].map(|it| format!(r#""auth/token/{it}-self":["deny"],"#));
        let body = format!(r#"{{"data":{{{rights}{}"{LOOKUP}":["{look}"]}}}}"#, own.concat());
        script.answer(ASK, Reply::json(200, body));
        let told = session.dynamic_role("database", "app").privileges().await.expect("answered");
        let told: Vec<_> = told.iter().map(|missing| missing.path.as_str()).collect();
        assert_eq!(told, missing);
    }
    assert!(script.requests(ASK)[0].contains(&format!("\"{LOOKUP}\"")));
}

#[tokio::test]
async fn a_question_that_fails_for_now_is_put_again_with_the_next_login() {
    let (script, session) = script(vec![fault(), all()]).await;
    let source = session.dynamic_role("database", "app");
    let mut asked = 0;
    // The failure is noted some time after it was answered.
    while asked < 2 {
        source.issue().await.expect("issue");
        tokio::time::sleep(Duration::from_millis(10)).await;
        asked = script.requests(ASK).len();
        assert!(script.requests(CREDS).len() < 1000, "never asked again");
    }
    for _ in 0..3 {
        source.issue().await.expect("issue");
    }
    assert_eq!(session.calls().privileges, 2, "answered");
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_a_path_is_an_error_and_not_a_right() {
    let (_script, session) = script(vec![Reply::json(200, r#"{"data":{}}"#), fault()]).await;
    let source = session.dynamic_role("database", "app");
    let e = source.privileges().await.expect_err("no answer to the question");
    assert_eq!(e.kind(), ErrorKind::Malformed, "{e}");
    let e = source.privileges().await.expect_err("no answer at all");
    assert_eq!(e.kind(), ErrorKind::Sealed, "{e}");
    assert!(e.to_string().contains(ASK), "{e}");
}
