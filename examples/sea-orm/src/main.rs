//! Deposits a cent a second until Ctrl-C, and tells under which login. Settings from the environment:
//! see the README.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use leasehold::{CredentialProvider, Rotator};
use leasehold_vault::{Session, Settings};
use sea_orm::DatabaseConnection;
use sqlx::postgres::PgConnectOptions;

const ACCOUNT: i32 = 7;
/// How long connections that are still borrowed get at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes = std::iter::successors(error.source(), |e| (*e).source());
            let line = causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"));
            eprintln!("sea-orm-app: {line}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let settings = Settings::from_env()?;
    let role = settings.database_role().ok_or("VAULT_DATABASE_ROLE is not set: the role to use")?;
    let url = std::env::var("DATABASE_URL")
        .map_err(|_| "DATABASE_URL is not set: postgres://HOST:PORT/DATABASE, with no password")?;
    // The URL is not repeated: there may be a password in it all the same.
    let base: PgConnectOptions =
        url.parse().map_err(|_| "DATABASE_URL can't be read: postgres://HOST:PORT/DATABASE")?;

    let session = Session::login(settings.config()?, settings.auth()?).await?;
    let source = session.dynamic_role(settings.mount_path().unwrap_or("database"), role);
    let rotator = Rotator::builder(source).start().await?;
    let provider = rotator.provider();
    let ended = match sea_orm_app::connect(&provider, 8, base).await {
        Ok(db) => serve(&db, &provider).await,
        Err(error) => Err(error.into()),
    };
    let report = rotator.shutdown(DRAIN_WITHIN).await;
    println!("{report}");
    ended
}

async fn serve(
    db: &DatabaseConnection,
    provider: &CredentialProvider,
) -> Result<(), Box<dyn Error>> {
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        match sea_orm_app::deposit(db, ACCOUNT, 1).await? {
            Some(account) => {
                let login = provider.current().credential().username().to_owned();
                println!("account {ACCOUNT} has {} cents; the login is {login}", account.balance);
            }
            None => println!("there is no account {ACCOUNT}"),
        }
        tokio::select! {
            stopped = &mut stop => return Ok(stopped?),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
