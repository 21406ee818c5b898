//! `cargo limits`: how many logins one database engine on one Postgres makes, renews and revokes,
//! and what bounds how many live at once. `docs/limits.md` says what follows.
//!
//! Progress goes to stderr, tables to stdout; the last line on stdout is one JSON object.

#![forbid(unsafe_code)]

mod edges;
mod series;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use edges::{Backlog, Ceiling, Felt};
use leasehold_drill::capacity::{self, Rates};
use leasehold_drill::{AnyError, outcome};
use serde::Serialize;
use series::{Cell, Until, cell};
use world::{BARE_DROP, HASHED, NARROW, OWN_REVOCATION, WIDE, World};

/// What one database engine on one Postgres makes, renews and revokes.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo limits --")]
struct Args {
    /// Seconds of mints, and of renewals, in each cell.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many ask at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    clients: Vec<usize>,
    /// Logins that live at once, rising.
    #[arg(long, value_delimiter = ',', default_value = "500,2000,4000")]
    live: Vec<usize>,
    /// Connections opened at each of them.
    #[arg(long, default_value_t = 40)]
    logins: usize,
    /// Roles with a right of their own on one table: at most so many are tried.
    #[arg(long, default_value_t = 10_000)]
    grants: u32,
    /// Leases that end while the Vault server is down.
    #[arg(long, default_value_t = 1000)]
    backlog: usize,
    /// Seconds that they have left before.
    #[arg(long, default_value_t = 20)]
    backlog_ttl: u64,
    /// Measures nothing: prints the table of docs/limits.md for so many mints, renewals and
    /// revocations a second.
    #[arg(long, value_delimiter = ',', value_name = "MINTS,RENEWALS,REVOCATIONS")]
    reckon: Vec<f64>,
    /// Fail if any request failed.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    openbao: String,
    postgres: String,
    /// By kind of role and clients, with few logins.
    cells: Vec<Cell>,
    /// By logins that live at once, 8 clients.
    crowded: Vec<Cell>,
    felt: Vec<Felt>,
    grants: Ceiling,
    backlog: Backlog,
    failed: usize,
    /// The ready-made role on a wide pool with 8 clients, most logins against fewest.
    mint_crowded_to_empty: Option<f64>,
    renew_crowded_to_empty: Option<f64>,
    revoke_crowded_to_empty: Option<f64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let &[mint, renew, revoke] = args.reckon.as_slice() {
        print!("{}", capacity::table(&Rates { mint, renew, revoke }));
        return ExitCode::SUCCESS;
    }
    outcome::exit("limits", run(&args).await)
}

async fn run(args: &Args) -> Result<bool, AnyError> {
    let report = measure(args).await?;
    print(&report);
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.failed == 0 || !args.check)
}

/// Who asks while something else is varied.
const CLIENTS: usize = 8;

async fn measure(args: &Args) -> Result<Report, AnyError> {
    let world = Arc::new(World::new().await?);
    let time = Duration::from_secs_f64(args.seconds);
    let grants = edges::ceiling(&world, args.grants).await?;
    let mut cells = Vec::new();
    for role in [NARROW, WIDE, HASHED] {
        for &clients in &args.clients {
            cells.push(cell(&world, role, clients, time).await?);
        }
    }
    for role in [OWN_REVOCATION, BARE_DROP] {
        cells.push(cell(&world, role, CLIENTS, time).await?);
    }
    let mut felt = vec![edges::felt(&world, args.logins).await?];
    let mut crowded = vec![cell(&world, WIDE, CLIENTS, time).await?];
    let mut failed = 0;
    for &live in &args.live {
        let more = live.saturating_sub(world.live().await?);
        eprintln!("{more} more logins");
        failed += series::mints(&world, HASHED, CLIENTS, Until::Count(more)).await.0.failed;
        felt.push(edges::felt(&world, args.logins).await?);
        crowded.push(cell(&world, WIDE, CLIENTS, time).await?);
    }
    let backlog_ttl = Duration::from_secs(args.backlog_ttl);
    let backlog = edges::backlog(&world, args.backlog, backlog_ttl).await?;
    let all = cells.iter().chain(&crowded);
    failed += all.map(|c| c.mint.failed + c.renew.failed + c.revoke.failed).sum::<usize>();
    failed += backlog.mint.failed;
    let against = |rate: fn(&Cell) -> f64| match crowded.as_slice() {
        [first, .., last] => Some(rate(last) / rate(first)),
        _ => None,
    };
    Ok(Report {
        openbao: world.openbao.clone(),
        postgres: world.postgres.clone(),
        mint_crowded_to_empty: against(|c| c.mint.per_second),
        renew_crowded_to_empty: against(|c| c.renew.per_second),
        revoke_crowded_to_empty: against(|c| c.revoke.per_second),
        cells,
        crowded,
        felt,
        grants,
        backlog,
        failed,
    })
}

fn print(report: &Report) {
    println!("OpenBao {}, PostgreSQL {}\n", report.openbao, report.postgres);
    println!("| role | clients | mints/s | p50 | p99 | renewals/s | p50 | revocations/s | p50 |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for c in &report.cells {
        println!(
            "| {} | {} | {:.0} | {:.0} ms | {:.0} ms | {:.0} | {:.1} ms | {:.0} | {:.0} ms |",
            c.role,
            c.clients,
            c.mint.per_second,
            c.mint.p50_ms,
            c.mint.p99_ms,
            c.renew.per_second,
            c.renew.p50_ms,
            c.revoke.per_second,
            c.revoke.p50_ms
        );
    }
    println!("\n| live | mints/s | renewals/s | revocations/s | login | count | roles on disk |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (c, f) in report.crowded.iter().zip(&report.felt) {
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.1} ms | {:.2} ms | {:.1} MiB |",
            c.live,
            c.mint.per_second,
            c.renew.per_second,
            c.revoke.per_second,
            f.login_p50_ms,
            f.count_p50_ms,
            f.catalog_kib as f64 / 1024.0
        );
    }
    let b = &report.backlog;
    println!(
        "\nAfter an outage: {} ended leases were revoked in {:.1} s ({:.0}/s), while {:.0} logins \
         a second were made.",
        b.logins, b.seconds, b.per_second, b.mint.per_second
    );
    let g = &report.grants;
    match (&g.sqlstate, &g.message) {
        (Some(code), Some(said)) => {
            println!("A right for each role on one table: {} roles, then {code} {said}.", g.roles);
        }
        _ => println!("A right for each role on one table: {} roles, no end.", g.roles),
    }
    let rates = slowest(report);
    println!(
        "Rates to reckon with: {:.0} mints, {:.0} renewals, {:.0} revocations a second.\n\n{}",
        rates.mint,
        rates.renew,
        rates.revoke,
        capacity::table(&rates)
    );
}

/// The ready-made role on a wide pool, however many logins live: the least of each.
fn slowest(report: &Report) -> Rates {
    let cells = report.crowded.iter().chain(&report.cells);
    let cells: Vec<&Cell> = cells.filter(|c| c.role == WIDE && c.clients == CLIENTS).collect();
    // Whole, as the page states them: its table has to follow from what it states.
    let least = |rate: fn(&Cell) -> f64| {
        cells.iter().map(|c| rate(c)).fold(f64::MAX, f64::min).floor().max(1.0)
    };
    Rates {
        mint: least(|c| c.mint.per_second),
        renew: least(|c| c.renew.per_second),
        revoke: least(|c| c.revoke.per_second),
    }
}
