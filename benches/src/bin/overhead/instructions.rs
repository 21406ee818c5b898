//! Instructions of the hooks alone, counted by valgrind's callgrind.
//!
//! This program runs itself below valgrind, once with a plain pool and once with a hooked one, of
//! one connection each. Only what happens in [`counted`] is counted.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use deadpool_postgres::PoolBuilder;
use leasehold::{Credential, FnSource, Issued, Lease, Rotator};
use leasehold_drill::AnyError;
use leasehold_testkit::Creds;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use crate::pools::{self, AnyPool, Kind, Servers};

/// Where the counting process finds the servers.
const PLACE: &str = "LEASEHOLD_OVERHEAD_PLACE";

/// The look whether a liveness sample is due is part of each turn, the sample itself is not: ten a
/// second are next to none per turn, but here, where all is slow, they would be a matter of chance.
const NO_SAMPLE: Duration = Duration::from_secs(24 * 3600);

/// Turns before anything is counted.
const WARM_UP: u32 = 300;

/// What is counted in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    SqlxPlain,
    SqlxHooked,
    DeadpoolPlain,
    DeadpoolHooked,
}

/// Per acquire and release.
#[derive(Debug, Serialize)]
pub(crate) struct Instructions {
    pub(crate) pool: &'static str,
    pub(crate) plain: f64,
    pub(crate) hooked: f64,
    /// The difference.
    pub(crate) hook: f64,
}

#[derive(Serialize, Deserialize)]
struct Place {
    host: String,
    port: u16,
    database: String,
    logins: [(String, String); 2],
}

/// Counts both pools of a kind.
pub(crate) async fn count(servers: &Servers, kind: Kind) -> Result<Instructions, AnyError> {
    let login = |creds: Creds| (creds.username, creds.password);
    let place = Place {
        host: servers.db.pg_host().to_owned(),
        port: servers.db.pg_port(),
        database: servers.db.name().to_owned(),
        logins: [login(servers.db.creds().await?), login(servers.db.creds().await?)],
    };
    let (plain, hooked) = match kind {
        Kind::Sqlx => (Subject::SqlxPlain, Subject::SqlxHooked),
        Kind::Deadpool => (Subject::DeadpoolPlain, Subject::DeadpoolHooked),
    };
    let plain = below_valgrind(plain, &place).await?;
    let hooked = below_valgrind(hooked, &place).await?;
    Ok(Instructions { pool: kind.as_str(), plain, hooked, hook: hooked - plain })
}

async fn below_valgrind(subject: Subject, place: &Place) -> Result<f64, AnyError> {
    let name = subject.to_possible_value().ok_or("no name")?.get_name().to_owned();
    eprintln!("counting instructions: {name}");
    let output = tokio::process::Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=overhead::instructions::counted")
        .arg(std::env::current_exe()?)
        .args(["--counted", &name])
        .env(PLACE, serde_json::to_string(place)?)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "valgrind is not installed (Debian: valgrind)".into(),
            _ => AnyError::from(error),
        })?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{name} below valgrind: {}\n{told}", output.status).into());
    }
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.ok_or_else(|| format!("valgrind counted nothing:\n{told}"))?;
    let collected: f64 = collected.trim().parse()?;
    if collected == 0.0 {
        return Err("valgrind did not find what to count: was the program stripped?".into());
    }
    Ok(collected / f64::from(subject.turns()))
}

/// What runs below valgrind.
pub(crate) fn run(subject: Subject) -> Result<(), AnyError> {
    let place: Place = serde_json::from_str(&std::env::var(PLACE)?)?;
    // One thread: nothing else is counted, and nothing depends on who comes first.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (pool, rotator) = runtime.block_on(subject.pool(&place))?;
    runtime.block_on(turns(&pool, WARM_UP))?;
    counted(&runtime, &pool, subject.turns())?;
    runtime.block_on(async {
        pool.close().await;
        if let Some(rotator) = rotator {
            pools::end(&rotator).await;
        }
    });
    Ok(())
}

/// Found by valgrind by its name, so that nothing below it may be named so.
#[inline(never)]
fn counted(runtime: &Runtime, pool: &AnyPool, many: u32) -> Result<(), AnyError> {
    runtime.block_on(turns(pool, many))
}

async fn turns(pool: &AnyPool, many: u32) -> Result<(), AnyError> {
    let turns = async {
        for _ in 0..many {
            match pool {
                // In place of the task that sqlx gives it back in.
                AnyPool::Sqlx(pool) => pool.acquire().await?.return_to_pool().await,
                AnyPool::Deadpool(_) => pool.use_one(false).await?,
            }
        }
        Ok(())
    };
    tokio::task::unconstrained(turns).await
}

impl Subject {
    /// sqlx asks the server twice in each.
    fn turns(self) -> u32 {
        match self {
            Self::SqlxPlain | Self::SqlxHooked => 2000,
            Self::DeadpoolPlain | Self::DeadpoolHooked => 20_000,
        }
    }

    async fn pool(self, place: &Place) -> Result<(AnyPool, Option<Rotator>), AnyError> {
        let sqlx = PgConnectOptions::new_without_pgpass();
        let sqlx = sqlx.host(&place.host).port(place.port).database(&place.database);
        let mut deadpool = tokio_postgres::Config::new();
        deadpool.host(&place.host).port(place.port).dbname(&place.database);
        let (user, password) = &place.logins[0];
        let pool = match self {
            Self::SqlxPlain => {
                let login = sqlx.username(user).password(password);
                AnyPool::Sqlx(pools::sqlx_options(1).connect_with(login).await?)
            }
            Self::DeadpoolPlain => {
                deadpool.user(user).password(password);
                AnyPool::Deadpool(pools::plain_deadpool(deadpool, 1)?)
            }
            Self::SqlxHooked | Self::DeadpoolHooked => {
                let rotator = Rotator::builder(alternating(place)).start().await?;
                let provider = rotator.provider();
                let pool = if self == Self::SqlxHooked {
                    let installer = leasehold_sqlx::Installer::new().liveness(NO_SAMPLE);
                    let installer = installer.connect_timeout(pools::PATIENCE);
                    let options = pools::sqlx_options(1);
                    AnyPool::Sqlx(installer.connect(&provider, options, sqlx).await?)
                } else {
                    let installer = leasehold_deadpool::Installer::new().liveness(Some(NO_SAMPLE));
                    let installer = installer.connect_timeout(pools::PATIENCE);
                    let build = |builder: PoolBuilder| builder.max_size(1);
                    let pool = installer.connect(&provider, deadpool, NoTls, build).await?;
                    AnyPool::Deadpool(pool)
                };
                pools::rotate(&rotator).await?;
                return Ok((pool, Some(rotator)));
            }
        };
        Ok((pool, None))
    }
}

/// One login after the other: the very same would not be swapped to.
fn alternating(place: &Place) -> FnSource {
    let (logins, turn) = (place.logins.clone(), AtomicU64::new(0));
    FnSource::new("two logins", move || {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let (user, password) = logins[usize::from(turn % 2 == 1)].clone();
        async move { Ok(Issued::new(Credential::new(user, password), Lease::endless())) }
    })
}
