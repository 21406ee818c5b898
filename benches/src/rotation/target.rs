//! The pools under load, and where they connect: Postgres with SCRAM over verified TLS.

use std::sync::Arc;

use leasehold::Credential;
use leasehold_testkit::TestDb;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::AnyError;

/// One short query per checkout.
pub(super) const QUERY: &str = "SELECT v FROM accounts WHERE id = $1";

/// Where to connect, for both drivers.
#[derive(Clone)]
pub(crate) struct Target {
    sqlx: PgConnectOptions,
    deadpool: tokio_postgres::Config,
    tls: MakeRustlsConnect,
}

impl Target {
    pub(super) fn of(db: &TestDb) -> Result<Self, AnyError> {
        let ca = db.stack().ca_pem().ok_or("Postgres was started without TLS")?;
        let sqlx = PgConnectOptions::new_without_pgpass()
            .host(db.pg_host())
            .port(db.pg_port())
            .database(db.name())
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert_from_pem(ca.as_bytes().to_vec());
        let mut deadpool = db.pg_config();
        deadpool.ssl_mode(SslMode::Require);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { sqlx, deadpool, tls: MakeRustlsConnect::new(tls) })
    }

    pub(crate) fn sqlx(&self, login: &Credential) -> PgConnectOptions {
        self.sqlx_base().username(login.username()).password(login.expose_password())
    }

    pub(super) fn sqlx_base(&self) -> PgConnectOptions {
        self.sqlx.clone()
    }

    pub(crate) fn deadpool(&self, login: &Credential) -> tokio_postgres::Config {
        let mut config = self.deadpool_base();
        config.user(login.username()).password(login.expose_password());
        config
    }

    pub(super) fn deadpool_base(&self) -> tokio_postgres::Config {
        self.deadpool.clone()
    }

    pub(crate) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }
}

/// A pool of either kind, as a handler has it.
pub(crate) enum AnyPool {
    Sqlx(sqlx::PgPool),
    Deadpool(deadpool_postgres::Pool),
}

impl AnyPool {
    /// Takes a connection, runs the query, and gives it back.
    pub(super) async fn query(&self, id: i32) -> Result<(), AnyError> {
        match self {
            Self::Sqlx(pool) => {
                sqlx::query(QUERY).bind(id).fetch_optional(pool).await?;
            }
            Self::Deadpool(pool) => {
                let client = pool.get().await?;
                let query = client.prepare_cached(QUERY).await?;
                client.query_opt(&query, &[&id]).await?;
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        match self {
            Self::Sqlx(pool) => pool.size() as usize,
            Self::Deadpool(pool) => pool.status().size,
        }
    }

    /// Makes sure that the pool has as many connections as it may.
    pub(crate) async fn fill(&self, size: usize) -> Result<(), AnyError> {
        if self.size() >= size {
            return Ok(());
        }
        // Held together: none is handed out twice.
        match self {
            Self::Sqlx(pool) => {
                let mut held = Vec::with_capacity(size);
                for _ in 0..size {
                    held.push(pool.acquire().await?);
                }
            }
            Self::Deadpool(pool) => {
                let mut held = Vec::with_capacity(size);
                for _ in 0..size {
                    held.push(pool.get().await?);
                }
            }
        }
        Ok(())
    }
}
