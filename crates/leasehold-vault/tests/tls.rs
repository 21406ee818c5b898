//! TLS: whom the session trusts, what it shows, and under which name it looks for the server.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::capture::{Checked, CheckedStack};
use common::files::Folder;
use common::script::{Reply, Script};
use leasehold::{CredentialSource, ErrorKind, RevokeMode};
use leasehold_testkit::{DatabaseSpec, Stack, TestDb};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::json;
use tokio::sync::OnceCell;

/// The one server of these tests.
async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    let start = || async { Stack::builder().vault_tls().audit_raw().start().await.unwrap() };
    STACK.get_or_init(start).await
}

async fn database() -> Checked {
    Checked::new(stack().await.database(DatabaseSpec::new("tls")).await.unwrap())
}

/// A server whose certificate is for another name than its address.
async fn misnamed() -> CheckedStack {
    let builder = Stack::builder().vault_tls_for(["vault.internal"]).audit_raw();
    CheckedStack::new(builder.start().await.unwrap())
}

/// Of nobody here.
fn another_ca() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

fn ca(stack: &Stack) -> &str {
    stack.ca_pem().unwrap()
}

/// A lease from the beginning to the end.
async fn carries_a_lease(config: VaultConfig, db: &TestDb) {
    let session = Session::login(config, common::approle(db).await).await.unwrap();
    let source = session.dynamic_role(db.mount(), db.role());
    let issued = source.issue().await.unwrap();
    assert_eq!(db.leases().await.unwrap().len(), 1);
    source.revoke(&issued.lease, RevokeMode::Sync).await.unwrap();
    assert_eq!(session.close().await, Vec::<String>::new());
}

async fn refused(config: VaultConfig) -> leasehold::SourceError {
    Session::login(config, Auth::token("s.unused")).await.unwrap_err()
}

#[tokio::test]
async fn the_servers_own_authority_is_trusted_by_file_and_by_directory() {
    let db = database().await;
    let stack = db.stack();
    carries_a_lease(VaultConfig::new(stack.vault_addr()).ca_pem(ca(stack)), &db).await;

    let folder = Folder::new();
    folder.file("README", "Not everything here is a certificate.");
    folder.file("another.pem", &another_ca());
    folder.file("server.pem", ca(stack));
    std::fs::create_dir(folder.path().join("..data")).unwrap();
    carries_a_lease(VaultConfig::new(stack.vault_addr()).ca_path(folder.path()), &db).await;
}

#[tokio::test]
async fn another_authority_is_not_trusted_and_the_error_says_so() {
    let stack = stack().await;
    let config = VaultConfig::new(stack.vault_addr());
    for config in [config.clone(), config.ca_pem(another_ca())] {
        let e = refused(config).await;
        assert_eq!(e.kind(), ErrorKind::Unreachable);
        assert!(e.to_string().contains("certificate"), "{e}");
        assert!(e.to_string().contains(&stack.vault_addr()), "{e}");
    }
}

#[tokio::test]
async fn what_is_no_certificate_or_key_names_the_setting() {
    let stack = stack().await;
    let config = || VaultConfig::new(stack.vault_addr()).ca_pem(ca(stack));
    let own = stack.client_certificate("app").unwrap();
    let stranger = stack.client_certificate("app").unwrap();
    let damaged = ca(stack).replace("MII", "AAA");
    let (empty, bad) = (Folder::new(), Folder::new());
    empty.file("README", "nothing");
    bad.file("ca.pem", &damaged);
    for (config, setting) in [
        (config().ca_pem(*b"no pem"), "ca_pem"),
        (config().ca_pem(damaged), "ca_pem"),
        (config().ca_path("/no/such/folder"), "ca_path"),
        (config().ca_path(empty.path()), "ca_path"),
        (config().ca_path(bad.path()), "ca_path"),
        (config().client_certificate("", own.key_pem.as_str()), "client_certificate"),
        (config().client_certificate(own.cert_pem.as_str(), "topsecret"), "client_certificate"),
        (
            config().client_certificate(own.cert_pem.as_str(), stranger.key_pem.as_str()),
            "client_certificate",
        ),
        (config().tls_server_name("no name"), "tls_server_name"),
        (config().tls_server_name("127.0.0.2"), "tls_server_name"),
        (config().tls_server_name("x").proxy("http://127.0.0.1:1"), "tls_server_name"),
        (config().tls_server_name("x").redirect_to("https://127.0.0.1:1"), "tls_server_name"),
        (config().proxy("socks5://127.0.0.1:1"), "proxy"),
        (config().proxy("http://u:topsecret@"), "proxy"),
    ] {
        let e = refused(config).await;
        assert_eq!(e.kind(), ErrorKind::Other);
        assert!(e.to_string().starts_with(setting), "{setting}: {e}");
        assert!(!e.to_string().contains("topsecret"), "{e}");
    }
}

#[tokio::test]
async fn the_client_certificate_is_shown_and_logs_in() {
    let db = database().await;
    let stack = db.stack();
    let mount = format!("cert-{}", db.name());
    let enable = json!({ "type": "cert" });
    let made = stack.vault_request("POST", &format!("sys/auth/{mount}"), Some(enable)).await;
    assert_eq!(made.unwrap().0, 204);
    let role = json!({
        "certificate": ca(stack), "allowed_common_names": "orders", "token_policies": db.name(),
    });
    let made = stack.vault_request("POST", &format!("auth/{mount}/certs/app"), Some(role)).await;
    assert_eq!(made.unwrap().0, 204);

    let own = stack.client_certificate("orders").unwrap();
    let config = VaultConfig::new(stack.vault_addr()).ca_pem(ca(stack));
    let auth = || Auth::cert(Some("app")).mount(&mount);
    let with = config.clone().client_certificate(own.cert_pem, own.key_pem);
    let session = Session::login(with, auth()).await.unwrap();
    let source = session.dynamic_role(db.mount(), db.role());
    source.issue().await.unwrap();
    session.close().await;

    let other = stack.client_certificate("somebody").unwrap();
    let other = config.clone().client_certificate(other.cert_pem, other.key_pem);
    for config in [config, other] {
        let e = Session::login(config, auth()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_found_by_that_name() {
    let stack = misnamed().await;
    let db = stack.database(DatabaseSpec::new("sni")).await.unwrap();
    let config = VaultConfig::new(stack.vault_addr()).ca_pem(ca(&stack));

    let e = refused(config.clone()).await;
    assert_eq!(e.kind(), ErrorKind::Unreachable);
    assert!(e.to_string().contains("not valid for name"), "{e}");
    let e = refused(config.clone().tls_server_name("other.internal")).await;
    assert!(e.to_string().contains("not valid for name"), "{e}");
    assert!(e.to_string().contains(&stack.vault_addr()), "the configured address: {e}");

    // By address and by name; and what is shown stays what was configured.
    carries_a_lease(config.clone().tls_server_name("vault.internal"), &db).await;
    let by_name = stack.vault_addr().replace("127.0.0.1", "localhost");
    let by_name = VaultConfig::new(&by_name).ca_pem(ca(&stack)).tls_server_name("vault.internal");
    let session = Session::login(by_name, common::approle(&db).await).await.unwrap();
    assert!(format!("{session:?}").contains("https://localhost:"), "{session:?}");
    session.close().await;
}

#[tokio::test]
async fn the_host_header_stays_the_configured_one() {
    let (script, _) = Script::start_tls().await;
    script.answer("auth/approle/login", Reply::json(400, r#"{"errors":["refused"]}"#));
    let address = script.address().replace("127.0.0.1", "localhost");
    let config = VaultConfig::new(&address).skip_verify(true).tls_server_name("vault.internal");
    Session::login(config, Auth::approle("r", "s")).await.unwrap_err();
    let host = format!("\r\nhost: {}\r\n", address.strip_prefix("https://").unwrap());
    let sent = script.requests("auth/approle/login");
    assert!(sent[0].contains(&host), "{}", sent[0]);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Listens on this thread, which is all of a test's runtime.
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || to.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn times(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(text).count()
    }
}

#[tokio::test]
async fn without_verification_any_certificate_will_do_and_each_login_warns_once() {
    let stack = misnamed().await;
    let db = stack.database(DatabaseSpec::new("skip")).await.unwrap();
    let (log, _listening) = Log::listen();
    let config = VaultConfig::new(stack.vault_addr()).skip_verify(true);
    carries_a_lease(config.clone(), &db).await;
    assert_eq!(log.times("not verified"), 1, "a login and some calls");
    carries_a_lease(config.clone(), &db).await;
    assert_eq!(log.times("not verified"), 2);
    refused(config.skip_verify(false)).await;
    assert_eq!(log.times("not verified"), 2);
}

#[tokio::test]
async fn plain_http_warns_once_unless_it_stays_on_this_machine() {
    let (log, _listening) = Log::listen();
    // No name that ends so can be looked up; the warning comes before.
    refused(VaultConfig::new("http://vault.invalid:8200")).await;
    assert_eq!(log.times("clear text"), 1);
    for address in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
        refused(VaultConfig::new(address)).await;
    }
    refused(VaultConfig::new("https://vault.invalid:8200")).await;
    assert_eq!(log.times("clear text"), 1);
}
