//! `cargo endurance`: very many rotations in one process, and what its memory and tasks do.
//!
//! Providers share one session; each has a pool of either kind, with some load, on a role whose
//! logins live for seconds. Progress goes to stderr; the last line on stdout is one JSON object.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use leasehold::{Event, Rotator};
use leasehold_drill::{AnyError, cheap_logins, outcome};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TestDb};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

/// How often memory and tasks are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// For what may take long on a machine that does too much at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// Very many rotations in one process, and what its memory and tasks do.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo endurance --")]
struct Args {
    /// How many rotations, all providers together.
    #[arg(long, default_value_t = 10_000)]
    rotations: u64,
    /// Rotators in the process.
    #[arg(long, default_value_t = 90)]
    providers: usize,
    /// TTL and maximum TTL of the role, in seconds. Eight times `--every` at most: a login that
    /// served less than an eighth of its life is not rotated freely, but by permit.
    #[arg(long, default_value_t = 18)]
    ttl: u64,
    /// Each provider rotates this often, in seconds: what is left of the TTL is grace, so that a
    /// machine that is too slow for it is late, and loses no lease.
    #[arg(long, default_value_t = 3)]
    every: u64,
    /// Milliseconds from one query to the next, on each pool.
    #[arg(long, default_value_t = 500)]
    pace_ms: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    rotations: u64,
    providers: usize,
    ttl_s: u64,
    seconds: u64,
    queries: u64,
    failed_queries: u64,
    /// Resident memory around the thousandth rotation (the tenth part of the run, if it is
    /// shorter), and around the last one: the mean of what was seen in a twentieth of the run.
    rss_kib_early: u64,
    rss_kib_end: u64,
    rss_growth_percent: f64,
    tasks_early: f64,
    tasks_end: f64,
    tasks_most: usize,
    /// After all rotators and pools were shut down.
    tasks_left: usize,
    leases_left: usize,
    roles_left: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit("endurance", run().await)
}

async fn run() -> Result<bool, AnyError> {
    let report = endure(&Args::parse()).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.rss_growth_percent < 5.0
        && (report.tasks_end - report.tasks_early).abs() < 0.05 * report.tasks_early
        && report.tasks_left == 0
        && report.failed_queries == 0
        && report.leases_left + report.roles_left == 0)
}

#[derive(Default)]
struct Tally {
    rotations: AtomicU64,
    queries: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
}

/// One look, at a rotation.
struct Look {
    rotation: u64,
    rss_kib: u64,
    tasks: usize,
}

async fn endure(args: &Args) -> Result<Report, AnyError> {
    eprintln!("starting OpenBao and Postgres");
    // Two pools of two, one connection of the rotator's own for each, and some on their way out.
    let connections = (args.providers * 8 + 50).to_string();
    let stack = Stack::builder().postgres_setting("max_connections", connections).start().await?;
    cheap_logins(&stack).await?;
    let ttl = Duration::from_secs(args.ttl);
    let role = RoleSpec::new("app").default_ttl(ttl).max_ttl(ttl);
    let token = AppRoleSpec::new().token_ttl(Duration::from_secs(600));
    let spec = DatabaseSpec::new("endurance").role(role).app_role(token).with_accounts();
    let db = stack.database(spec).await?;
    let tasks_before = Handle::current().metrics().num_alive_tasks();

    let auth = Auth::approle(db.role_id(), db.secret_id().await?);
    let session = Session::login(VaultConfig::new(db.vault_addr()), auth).await?;
    let tally = Arc::new(Tally::default());
    let begun = Instant::now();
    let sources: Vec<_> =
        (0..args.providers).map(|_| session.dynamic_role(db.mount(), db.role())).collect();
    let mut lanes = JoinSet::new();
    for (lane, source) in sources.into_iter().enumerate() {
        let (db, tally) = (db.clone(), tally.clone());
        let pace = Duration::from_millis(args.pace_ms.max(1));
        // What a leeway is: the grace, a tenth of the TTL (5 s at most), and a second.
        let every = Duration::from_secs(args.every);
        let rest = every + (ttl / 10).min(Duration::from_secs(5)) + Duration::from_secs(1);
        let grace = ttl.checked_sub(rest).ok_or("give a longer --ttl, or rotate more often")?;
        // Spread out, or all of them rotate in the same instant for ever.
        let late = every.mul_f64(lane as f64 / args.providers as f64);
        lanes.spawn(async move {
            tokio::time::sleep(late).await;
            let builder = Rotator::builder(source).grace(grace).roll(Duration::from_millis(200));
            serve(builder.start_timeout(PATIENCE), &db, &tally, pace).await
        });
    }

    let mut looks = Vec::new();
    let mut told = 0;
    let tasks = || Handle::current().metrics().num_alive_tasks() - tasks_before;
    while tally.rotations.load(Ordering::Relaxed) < args.rotations {
        tokio::time::sleep(LOOK).await;
        if let Some(ended) = lanes.try_join_next() {
            ended??;
            return Err("a service ended before its time".into());
        }
        let rotation = tally.rotations.load(Ordering::Relaxed);
        looks.push(Look { rotation, rss_kib: rss_kib()?, tasks: tasks() });
        if rotation >= told + 500 {
            told = rotation;
            let (rss, tasks) = (rss_kib()?, tasks());
            eprintln!("{rotation} rotations in {:.0?}: {rss} KiB, {tasks} tasks", begun.elapsed());
        }
    }
    let rotations = tally.rotations.load(Ordering::Relaxed);
    tally.over.store(true, Ordering::Relaxed);
    while let Some(ended) = lanes.join_next().await {
        ended??;
    }
    drop(session);
    // Drivers of connections end when their sockets have.
    leasehold_testkit::eventually("all tasks end", Duration::from_secs(60), async || {
        Ok(Handle::current().metrics().num_alive_tasks() <= tasks_before)
    })
    .await
    .ok();

    let early = if args.rotations > 2000 { 1000 } else { args.rotations / 10 };
    let span = args.rotations / 20;
    let (rss_early, tasks_early) = mean(&looks, early, early + span)?;
    let (rss_end, tasks_end) = mean(&looks, args.rotations - span, u64::MAX)?;
    Ok(Report {
        rotations,
        providers: args.providers,
        ttl_s: args.ttl,
        seconds: begun.elapsed().as_secs(),
        queries: tally.queries.load(Ordering::Relaxed),
        failed_queries: tally.failed.load(Ordering::Relaxed),
        rss_kib_early: rss_early as u64,
        rss_kib_end: rss_end as u64,
        rss_growth_percent: (rss_end / rss_early - 1.0) * 100.0,
        tasks_early,
        tasks_end,
        tasks_most: looks.iter().map(|look| look.tasks).max().unwrap_or(0),
        tasks_left: tasks(),
        leases_left: db.lease_count().await?,
        roles_left: db.logins().await?.len(),
    })
}

/// The mean of memory and tasks over the looks from one rotation to another.
fn mean(looks: &[Look], from: u64, to: u64) -> Result<(f64, f64), AnyError> {
    let within: Vec<_> = looks.iter().filter(|look| (from..to).contains(&look.rotation)).collect();
    if within.is_empty() {
        return Err("too few rotations to tell anything: give more".into());
    }
    let n = within.len() as f64;
    let rss = within.iter().map(|look| look.rss_kib as f64).sum::<f64>() / n;
    let tasks = within.iter().map(|look| look.tasks as f64).sum::<f64>() / n;
    Ok((rss, tasks))
}

/// Resident memory of this process.
fn rss_kib() -> Result<u64, AnyError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

async fn serve(
    builder: leasehold::RotatorBuilder,
    db: &TestDb,
    tally: &Arc<Tally>,
    pace: Duration,
) -> Result<(), AnyError> {
    let counted = tally.clone();
    let rotator = builder
        .observer(move |event| {
            if matches!(event, Event::Swapped { .. }) {
                counted.rotations.fetch_add(1, Ordering::Relaxed);
            }
        })
        .start()
        .await?;
    let provider = rotator.provider();
    let base = PgConnectOptions::new_without_pgpass();
    let base = base.host(db.pg_host()).port(db.pg_port()).database(db.name());
    let options = PgPoolOptions::new().max_connections(2).acquire_timeout(PATIENCE);
    let sqlx = leasehold_sqlx::Installer::new().connect_timeout(PATIENCE);
    let sqlx = sqlx.connect(&provider, options, base).await?;
    let deadpool = leasehold_deadpool::Installer::new().connect_timeout(PATIENCE);
    let deadpool = deadpool.connect(&provider, db.pg_config(), NoTls, |b| b.max_size(2)).await?;
    const SQL: &str = "SELECT v FROM accounts WHERE id = 1";
    while !tally.over.load(Ordering::Relaxed) {
        let by_sqlx = sqlx::query(SQL).fetch_one(&sqlx).await.map(drop).map_err(AnyError::from);
        let by_deadpool = async {
            deadpool.get().await?.query(SQL, &[]).await?;
            Ok::<_, AnyError>(())
        };
        for done in [by_sqlx, by_deadpool.await] {
            tally.queries.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = done {
                tally.failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("a query failed: {error:#}");
            }
        }
        tokio::time::sleep(pace).await;
    }
    let left = rotator.shutdown(Duration::from_secs(5)).await;
    if left.is_clean() { Ok(()) } else { Err(left.to_string().into()) }
}
