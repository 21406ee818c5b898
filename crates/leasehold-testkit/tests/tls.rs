//! Postgres with TLS.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use leasehold_testkit::Stack;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

fn client(roots: RootCertStore) -> MakeRustlsConnect {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    MakeRustlsConnect::new(config)
}

#[tokio::test]
async fn a_login_over_tls_is_verified_against_the_stacks_own_ca() {
    let stack = Stack::builder().postgres_tls(true).start().await.unwrap();
    let db = stack.database("tls").await.unwrap();
    let creds = db.creds().await.unwrap();
    let mut roots = RootCertStore::empty();
    let ca = stack.ca_pem().expect("a CA");
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();

    for host in ["127.0.0.1", "localhost"] {
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(db.pg_port()).dbname(db.name()).ssl_mode(SslMode::Require);
        config.user(&creds.username).password(&creds.password);
        let (session, connection) = config.connect(client(roots.clone())).await.unwrap();
        tokio::spawn(connection);
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert!(session.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
        config.connect(client(RootCertStore::empty())).await.err().expect("an unknown CA");
    }
    db.connect(&creds.username, &creds.password).await.expect("without TLS too");
}
