//! `cargo providers`: what a process pays for 1, 10, 100 and 1,000 roles over one session.
//!
//! Each count runs in a fresh process, against the same real OpenBao and Postgres. What the process
//! can't know of itself is read off the server's audit: how many requests it really got, and how
//! many of them at the same time. Progress goes to stderr, a table to stdout; the last line on
//! stdout is one JSON object.

#![forbid(unsafe_code)]

mod audit;
mod life;
mod process;
mod report;

use std::alloc::System;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use leasehold_drill::{AnyError, outcome};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TestDb};
use serde_json::Value;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;

use process::{Pools, Seen, Task};
use report::{Report, Row};

/// Counts what is allocated: resident memory alone does not tell a provider's from the allocator's.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Set up at the same time.
const ROLES_AT_A_TIME: usize = 16;

/// What a process pays for many roles over one session.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo providers --")]
struct Args {
    /// How many roles, a process for each count.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    counts: Vec<usize>,
    /// How long a process is watched at rest, in seconds.
    #[arg(long, default_value_t = 30)]
    rest: u64,
    /// With this many providers, what a pool that is not connected yet adds to each, with the hook
    /// and without; 0: not measured.
    #[arg(long, default_value_t = 100)]
    pools: usize,
    /// How many days the schedule is followed, on virtual time.
    #[arg(long, default_value_t = 2)]
    days: u32,
    /// Fail if the largest count breaks a bound: 20 KiB of heap each, 1 % of a core at rest.
    #[arg(long)]
    check: bool,
    /// What to do in the process that is measured.
    #[arg(long, hide = true)]
    task: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.task {
        Some(task) => process::run(task).map(|()| true),
        None => measure(&args),
    };
    outcome::exit("providers", done)
}

fn measure(args: &Args) -> Result<bool, AnyError> {
    eprintln!("following the schedule for {} days", args.days);
    let life = life::follow(args.days)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (rows, pools) = runtime.block_on(on_servers(args))?;
    let report = Report::new(rows, pools, life);
    print!("{report}");
    println!("{}", serde_json::to_string(&report)?);
    let broken = report.broken();
    for bound in &broken {
        eprintln!("{bound}");
    }
    Ok(broken.is_empty() || !args.check)
}

async fn on_servers(args: &Args) -> Result<(Vec<Row>, Vec<(Pools, Seen)>), AnyError> {
    eprintln!("starting OpenBao and Postgres");
    let stack = Stack::builder().audit_raw().start().await?;
    let most = args.counts.iter().copied().chain([args.pools]).max().unwrap_or(1);
    let db = database(&stack, most + 1).await?;
    let mut rows = Vec::new();
    for &providers in &args.counts {
        let told = stack.raw_audit().await?.len();
        let seen = process(&db, providers, Pools::None, args.rest).await?;
        let audit = stack.raw_audit().await?;
        let asked = audit::read(audit.get(told..).unwrap_or_default(), db.mount());
        rows.push(Row { seen, asked });
    }
    let mut pools = Vec::new();
    if args.pools > 0 {
        for kind in Pools::ALL {
            pools.push((kind, process(&db, args.pools, kind, 1).await?));
        }
    }
    Ok((rows, pools))
}

/// One database with so many roles, that all of the AppRole's tokens may use.
async fn database(stack: &Stack, roles: usize) -> Result<TestDb, AnyError> {
    const HOUR: Duration = Duration::from_secs(3600);
    let policy = "path \"{{mount}}/creds/*\" { capabilities = [\"read\"] }";
    let token = AppRoleSpec::new().token_ttl(HOUR).token_max_ttl(24 * HOUR).extra_policy(policy);
    let role = |n| RoleSpec::new(process::role(n)).default_ttl(HOUR).max_ttl(24 * HOUR);
    let spec = DatabaseSpec::new("providers").role(role(0)).app_role(token);
    let db = stack.database(spec).await?;
    let mut made = JoinSet::new();
    for n in 1..roles {
        if made.len() >= ROLES_AT_A_TIME
            && let Some(done) = made.join_next().await
        {
            done??;
        }
        let (db, role) = (db.clone(), role(n));
        made.spawn(async move { db.create_role(&role).await });
    }
    while let Some(done) = made.join_next().await {
        done??;
    }
    eprintln!("{roles} roles are there");
    Ok(db)
}

async fn process(db: &TestDb, providers: usize, pools: Pools, rest: u64) -> Result<Seen, AnyError> {
    eprintln!("{providers} providers, pools: {pools:?}");
    let task = Task {
        vault: db.vault_addr(),
        role_id: db.role_id().to_owned(),
        mount: db.mount().to_owned(),
        host: db.pg_host().to_owned(),
        port: db.pg_port(),
        database: db.name().to_owned(),
        providers,
        pools,
        rest,
    };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--task", &serde_json::to_string(&task)?])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut secret = child.stdin.take().ok_or("no stdin")?;
    secret.write_all(db.secret_id().await?.as_bytes()).await?;
    drop(secret);
    let done = child.wait_with_output().await?;
    if !done.status.success() {
        return Err("the process that was measured failed".into());
    }
    let line: Value = serde_json::from_slice(&done.stdout)?;
    Ok(serde_json::from_value(line)?)
}
