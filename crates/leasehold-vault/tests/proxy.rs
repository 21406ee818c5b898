//! Requests through a proxy. A file of its own: it listens to everything that this process logs.

#![allow(clippy::unwrap_used)]

mod common;

use common::capture::{Capture, CheckedStack};
use common::proxy::Proxy;
use common::script::{Reply, Script};
use leasehold::{CredentialSource, ErrorKind};
use leasehold_testkit::{DatabaseSpec, Stack};
use leasehold_vault::{Auth, Session, VaultConfig};

/// The proxy's password, and what goes over the wire for `user:` and it.
const PASSWORD: &str = "proxy/pass:word";
const BASIC: &str = "dXNlcjpwcm94eS9wYXNzOndvcmQ=";

#[tokio::test]
async fn i10_requests_go_through_the_proxy_and_its_password_is_nowhere() {
    for tls in [true, false] {
        let builder = if tls { Stack::builder().vault_tls() } else { Stack::builder() };
        let stack = CheckedStack::new(builder.audit_raw().start().await.unwrap());
        let db = stack.database(DatabaseSpec::new("proxy")).await.unwrap();
        let proxy = Proxy::start().await;
        let url = format!("http://user:proxy%2Fpass%3Aword@{}", proxy.address());
        let mut config = VaultConfig::new(stack.vault_addr()).proxy(&url);
        if let Some(ca) = stack.ca_pem() {
            config = config.ca_pem(ca);
        }
        assert!(!format!("{config:?}").contains("pass"));
        let session = Session::login(config, common::approle(&db).await).await.unwrap();
        session.dynamic_role(db.mount(), db.role()).issue().await.unwrap();
        assert!(format!("{session:?}").contains(&proxy.address()), "{session:?}");
        session.close().await;

        let heads = proxy.heads();
        assert!(!heads.is_empty(), "all of it through the proxy, though it is a loopback address");
        let host = stack.vault_addr().split_once("://").unwrap().1.to_owned();
        let begins =
            if tls { format!("CONNECT {host} ") } else { format!("POST http://{host}/v1/") };
        assert!(heads[0].starts_with(&begins), "{}", heads[0]);
        assert!(heads[0].contains(BASIC), "{}", heads[0]);
    }
    let log = Capture::global().text();
    assert!(log.contains("proxy("), "the client's own lines are heard");
    for secret in [PASSWORD, "proxy%2Fpass", BASIC] {
        assert!(!log.contains(secret), "{secret} was logged");
    }
}

/// TLS on the way to the proxy alone.
#[tokio::test]
async fn a_proxy_by_https_serves_a_plain_address_too() {
    let (proxy, ca) = Script::start_tls().await;
    let token = r#"{"auth":{"client_token":"s.token","lease_duration":3600,"renewable":true}}"#;
    proxy.answer("auth/approle/login", Reply::json(200, token));
    let (_, another_ca) = Script::start_tls().await;
    for (ca, trusted) in [(ca, true), (another_ca, false)] {
        let config = VaultConfig::new("http://vault.internal:8200").proxy(proxy.address());
        let auth = Auth::approle("role", "secret");
        let login = Session::login(config.ca_pem(ca), auth).await;
        assert_eq!(login.is_ok(), trusted, "{login:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let config = VaultConfig::new("https://vault.internal:8200").proxy("user:pass@127.0.0.1:9");
    let e = Session::login(config, Auth::token("s.unused")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unreachable);
    let said = e.to_string();
    assert!(said.contains("https://vault.internal:8200 (through the proxy http://127.0.0.1:9)"));
    assert!(!said.contains("pass@"), "{said}");
}
