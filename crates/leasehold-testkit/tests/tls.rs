//! Both servers with TLS.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use leasehold_testkit::{ClientCertificate, Stack};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

fn client(roots: RootCertStore, own: Option<&ClientCertificate>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let Some(own) = own else { return config.with_no_client_auth() };
    let chain = CertificateDer::from_pem_slice(own.cert_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
    config.with_client_auth_cert(vec![chain], key).unwrap()
}

fn roots(stack: &Stack) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let ca = stack.ca_pem().expect("a CA");
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    roots
}

#[tokio::test]
async fn a_login_over_tls_is_verified_against_the_stacks_own_ca() {
    let stack = Stack::builder().postgres_tls(true).start().await.unwrap();
    let db = stack.database("tls").await.unwrap();
    let creds = db.creds().await.unwrap();
    let postgres = |roots| MakeRustlsConnect::new(client(roots, None));

    for host in ["127.0.0.1", "localhost"] {
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(db.pg_port()).dbname(db.name()).ssl_mode(SslMode::Require);
        config.user(&creds.username).password(&creds.password);
        let (session, connection) = config.connect(postgres(roots(&stack))).await.unwrap();
        tokio::spawn(connection);
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert!(session.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
        config.connect(postgres(RootCertStore::empty())).await.err().expect("an unknown CA");
    }
    db.connect(&creds.username, &creds.password).await.expect("without TLS too");
}

/// One request to the Vault server; an answer's body.
async fn ask(stack: &Stack, config: ClientConfig, head: &str, body: &str) -> Result<Value, String> {
    let address = stack.vault_addr().strip_prefix("https://").expect("TLS").to_owned();
    let stream = TcpStream::connect(&address).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
    let request = format!("{head} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server may leave without a close_notify.
    let _ = tls.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    Ok(serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn the_vault_server_speaks_tls_and_knows_a_client_by_its_certificate() {
    let stack = Stack::builder().vault_tls().start().await.unwrap();
    let own = stack.client_certificate("orders").unwrap();
    let auth = json!({ "type": "cert" });
    assert_eq!(stack.vault_request("POST", "sys/auth/cert", Some(auth)).await.unwrap().0, 204);
    let role = json!({ "certificate": stack.ca_pem(), "allowed_common_names": "orders" });
    let made = stack.vault_request("POST", "auth/cert/certs/app", Some(role)).await.unwrap();
    assert_eq!(made.0, 204, "{made:?}");

    let login = "POST /v1/auth/cert/login";
    let with = client(roots(&stack), Some(&own));
    let token = &ask(&stack, with, login, r#"{"name":"app"}"#).await.unwrap()["auth"];
    assert_eq!(token["metadata"]["common_name"], "orders", "{token}");

    let other = stack.client_certificate("somebody").unwrap();
    let refused = ask(&stack, client(roots(&stack), Some(&other)), login, "{}").await.unwrap();
    assert!(refused["errors"].is_array(), "{refused}");
    let health = "GET /v1/sys/health";
    let health = ask(&stack, client(roots(&stack), None), health, "").await.unwrap();
    assert_eq!(health["sealed"], false, "without a certificate too");
    ask(&stack, client(RootCertStore::empty(), None), login, "{}").await.expect_err("unknown CA");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_for_the_address() {
    let stack = Stack::builder().vault_tls_for(["vault.internal"]).start().await.unwrap();
    let e = ask(&stack, client(roots(&stack), None), "GET /v1/sys/health", "").await.unwrap_err();
    assert!(e.contains("not valid for name"), "{e}");
}
