//! Both pools rotate over verified TLS to Postgres, with proofs, spares and control connections
//! going the same way as everything else.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leasehold_testkit::{Stack, TestDb};
use leasehold_tests::*;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

const TABLE_OVER_TLS: &str = "SELECT ssl AND EXISTS (SELECT 1 FROM accounts WHERE id = 1) \
                              FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

async fn tls_database(name: &str) -> TestDb {
    let stack = Stack::builder().postgres_tls(true).start().await.unwrap();
    database(&stack, name, 600, 3600).await
}

/// Rotates three times while `query` runs without a pause; none may fail.
async fn rotate_under<F>(
    rotator: &leasehold::Rotator,
    query: impl Fn() -> F + Clone + Send + 'static,
) where
    F: Future<Output = bool> + Send + 'static,
{
    let (done, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (done, good, query) = (done.clone(), good.clone(), query.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    assert!(query().await, "a query went without TLS or without its table");
                    good.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut events = rotator.provider().events();
    for generation in 2..=4 {
        rotator.rotate();
        swapped(&mut events).await;
        revoked(&mut events, generation - 1).await;
    }
    done.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    assert!(good.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_sqlx_pool_rotates_over_verified_tls() {
    let db = tls_database("sqlxtls").await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let base = PgConnectOptions::new_without_pgpass()
        .host(db.pg_host())
        .port(db.pg_port())
        .database(db.name())
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert_from_pem(db.stack().ca_pem().unwrap().as_bytes().to_vec());
    let options = PgPoolOptions::new().max_connections(4);
    let pool = leasehold_sqlx::connect(&rotator.provider(), options, base).await.unwrap();
    let query = {
        let pool = pool.clone();
        move || {
            let pool = pool.clone();
            async move { sqlx::query_scalar(TABLE_OVER_TLS).fetch_one(&pool).await.unwrap() }
        }
    };
    rotate_under(&rotator, query).await;
    assert!(rotator.shutdown(s(10)).await.is_clean());
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_deadpool_pool_rotates_over_verified_tls() {
    let db = tls_database("deadpooltls").await;
    let rotator = rotator(&db).await.start().await.unwrap();
    let mut roots = RootCertStore::empty();
    let ca = db.stack().ca_pem().unwrap();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut base = db.pg_config();
    base.ssl_mode(SslMode::Require);
    let tls = MakeRustlsConnect::new(tls);
    let pool = leasehold_deadpool::connect(&rotator.provider(), base, tls, |b| b.max_size(4))
        .await
        .unwrap();
    let query = {
        let pool = pool.clone();
        move || {
            let pool = pool.clone();
            async move {
                let conn = pool.get().await.unwrap();
                conn.query_one(TABLE_OVER_TLS, &[]).await.unwrap().get(0)
            }
        }
    };
    rotate_under(&rotator, query).await;
    assert!(rotator.shutdown(s(10)).await.is_clean());
    nothing_left(&db).await;
}
