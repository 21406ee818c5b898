use std::time::Duration;

use leasehold::Rotator;
use leasehold_vault::{Session, Settings};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let stop = signal(SignalKind::terminate())?;
    let database: PgConnectOptions = std::env::var("DATABASE_URL")?.parse()?;
    let options = PgPoolOptions::new().max_connections(10);
    let vault = Settings::from_env()?;
    let session = Session::login(vault.config()?, vault.auth()?).await?;
    let rotator = Rotator::builder(session.dynamic_role("database", "orders-rw")).start().await?;
    let outcome = match leasehold_sqlx::connect(&rotator.provider(), options, database).await {
        Ok(pool) => serve(pool, stop).await,
        Err(e) => Err(e.into()),
    };
    println!("{}", rotator.shutdown(Duration::from_secs(10)).await);
    outcome
}

async fn serve(pool: PgPool, mut stop: Signal) -> Outcome {
    let listener = TcpListener::bind(std::env::var("LISTEN")?).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, orders::router(pool))
        .with_graceful_shutdown(async move { stop.recv().await.unwrap_or_default() })
        .await?;
    Ok(())
}
