//! The service that is killed: both hooks on one rotator with a TTL of seconds, and some load.

use std::time::Duration;

use leasehold::{Event, Rotator};
use leasehold_drill::AnyError;
use leasehold_vault::{Auth, Session, VaultConfig};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::io::AsyncBufReadExt;
use tokio_postgres::NoTls;

/// Where the servers are, and which role to use.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) vault: String,
    pub(crate) role_id: String,
    pub(crate) mount: String,
    pub(crate) role: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
}

/// The first queries came back on both pools.
pub(crate) const WORKING: &str = "working";

/// What it tells on stdout, a line each.
pub(crate) const TELLS: &[&str] = &[
    "spawned",
    "logged in",
    "issued",
    "started",
    "connected",
    WORKING,
    "rotating",
    "swapped",
    "drained",
    "revoked",
];

fn tell(what: &str) {
    println!("{what}");
}

/// Serves until its stdin ends, then shuts down in order.
pub(crate) async fn run(place: &str) -> Result<(), AnyError> {
    let place: Place = serde_json::from_str(place)?;
    let mut stdin = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let secret_id = stdin.next_line().await?.ok_or("no secret_id on stdin")?;
    tell("spawned");
    let auth = Auth::approle(&place.role_id, secret_id);
    let session = Session::login(VaultConfig::new(&place.vault), auth).await?;
    tell("logged in");
    let rotator = Rotator::builder(session.dynamic_role(&place.mount, &place.role))
        .grace(Duration::from_millis(500))
        .observer(|event| match event {
            Event::Rotating { .. } => tell("rotating"),
            Event::Issued { .. } => tell("issued"),
            Event::Swapped { .. } => tell("swapped"),
            Event::Drained { .. } => tell("drained"),
            Event::Revoked { .. } => tell("revoked"),
            _ => {}
        })
        .start()
        .await?;
    tell("started");
    let provider = rotator.provider();
    let base = PgConnectOptions::new_without_pgpass();
    let base = base.host(&place.host).port(place.port).database(&place.database);
    let options = PgPoolOptions::new().max_connections(2);
    let sqlx = leasehold_sqlx::connect(&provider, options, base).await?;
    let mut config = tokio_postgres::Config::new();
    config.host(&place.host).port(place.port).dbname(&place.database);
    let deadpool = leasehold_deadpool::connect(&provider, config, NoTls, |b| b.max_size(2)).await?;
    tell("connected");
    let serve = async {
        let mut told = false;
        loop {
            sqlx::query("UPDATE accounts SET v = v + 1 WHERE id = 1").execute(&sqlx).await?;
            deadpool
                .get()
                .await?
                .execute("UPDATE accounts SET v = v + 1 WHERE id = 2", &[])
                .await?;
            if !std::mem::replace(&mut told, true) {
                tell(WORKING);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let served: Result<(), AnyError> = tokio::select! {
        served = serve => served,
        _ = stdin.next_line() => Ok(()),
    };
    let left = rotator.shutdown(Duration::from_secs(2)).await;
    served?;
    if left.is_clean() { Ok(()) } else { Err(left.to_string().into()) }
}
