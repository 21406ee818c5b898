//! Answers that can't be used may have made something all the same: it is given back.

mod common;

use common::script::{Reply, Script};
use leasehold::ErrorKind;
use leasehold_vault::{Auth, Session, VaultConfig};

const TOKEN_REVOKE: &str = "auth/token/revoke-self";

#[tokio::test]
async fn a_token_that_can_not_be_used_is_revoked() {
    for (uses, ttl, kind) in [(0, 0, ErrorKind::Malformed), (3, 60, ErrorKind::Other)] {
        let script = Script::start().await;
        let token = format!(
            r#"{{"auth":{{"client_token":"s.unusable","lease_duration":{ttl},"renewable":true,
                "token_type":"service","num_uses":{uses}}}}}"#
        );
        script.answer("auth/approle/login", Reply::json(200, token));
        script.answer(TOKEN_REVOKE, Reply::json(204, ""));
        let config = VaultConfig::new(script.address());
        let e =
            Session::login(config, Auth::approle("role", "secret")).await.expect_err("of no use");
        assert_eq!(e.kind(), kind, "{e}");
        let sent = script.requests(TOKEN_REVOKE);
        assert_eq!(sent.len(), 1, "{uses} uses, {ttl} s");
        assert!(sent[0].contains("s.unusable"), "{}", sent[0]);
    }
}

/// A given token is not ours to revoke, so that its leases would stay.
#[tokio::test]
async fn once_revokes_the_lease_of_an_answer_that_can_not_be_used() {
    let login = r#""data":{"username":"u","password":"p"}"#;
    let lease = r#""lease_id":"database/creds/app/abc""#;
    for (body, revoked) in [
        (format!("{{{lease},{login}}}"), true),
        (format!(r#"{{{lease},"lease_duration":0,{login}}}"#), true),
        (format!(r#"{{{lease},"lease_duration":60,"data":{{"username":"u"}}}}"#), true),
        (format!(r#"{{"lease_id":"","lease_duration":60,{login}}}"#), false),
    ] {
        let script = Script::start().await;
        let own = r#"{"data":{"ttl":3600,"expire_time":"2030-01-01T00:00:00Z","type":"service"}}"#;
        script.answer("auth/token/lookup-self", Reply::json(200, own));
        script.answer("database/creds/app", Reply::json(200, body.clone()));
        script.answer("sys/leases/revoke", Reply::json(204, ""));
        let config = VaultConfig::new(script.address());
        let once = leasehold_vault::once(config, Auth::token("s.given"), "database", "app").await;
        let e = once.expect_err(&body);
        assert_eq!(e.kind(), ErrorKind::Malformed, "{body}: {e}");
        let sent = script.requests("sys/leases/revoke");
        assert_eq!(sent.len(), usize::from(revoked), "{body}");
        assert!(sent.iter().all(|sent| sent.contains("database/creds/app/abc")), "{sent:?}");
        assert!(script.requests(TOKEN_REVOKE).is_empty(), "never one that was given");
    }
}
