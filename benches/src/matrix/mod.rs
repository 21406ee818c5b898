//! Faults crossed with the phases of a login's life, on real servers, under load.

mod cell;
mod cells;
mod scene;
mod strike;
mod table;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use leasehold_testkit::{Stack, Storage};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};

use crate::{AnyError, cheap_logins};
use cells::Cell;
use verdict::{LEASE_OVER, Outcome};

/// How often a cell is played whose login ended too soon.
const PLAYS: usize = 3;

/// Every fault in every phase under both pools, on real servers.
///
/// One line per cell; the last line on stdout is one JSON object. The exit code is 0 only if every
/// cell is as it may be.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo matrix --")]
pub struct Args {
    /// Only every tenth cell: 0 to 9, or `today`, so that ten days are all of them.
    #[arg(long, value_name = "N")]
    pub tenth: Option<String>,
    /// Only cells whose line contains all of these words, as in `--only seal --only sqlx`.
    #[arg(long)]
    pub only: Vec<String>,
    /// Cells at a time on the servers that all share.
    #[arg(long, default_value_t = 10)]
    pub jobs: usize,
    /// Servers of their own for faults that everybody on them would feel.
    #[arg(long, default_value_t = 5)]
    pub stacks: usize,
    /// Prints what happened in each cell, not only in those that failed.
    #[arg(long)]
    pub verbose: bool,
    /// Lists the cells and runs none.
    #[arg(long)]
    pub list: bool,
    /// Writes the table to docs/fault-matrix.md, which is of all cells.
    #[arg(long, conflicts_with_all = ["tenth", "only", "list"])]
    pub write_docs: bool,
}

/// The figures of a run.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How many cells were run.
    pub cells: usize,
    /// As they may be.
    pub passed: usize,
    /// Not so.
    pub failed: usize,
    /// Of those that passed: something was lost that is a documented limit.
    pub limits: usize,
    /// How often a cell was played again, as its login was over before there was another.
    pub replayed: usize,
    /// Operations of the load, all cells together.
    pub operations: usize,
    /// How long it took.
    pub seconds: u64,
    /// Which tenth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenth: Option<usize>,
}

/// One that was played.
pub(crate) struct Played {
    pub(crate) cell: Cell,
    pub(crate) outcome: Outcome,
    /// It was played so many times before, and its login was over too soon.
    pub(crate) replayed: usize,
    pub(crate) took: Duration,
}

impl Played {
    pub(crate) fn passed(&self) -> bool {
        self.outcome.violations.is_empty()
    }
}

/// Plays the cells that `args` ask for.
///
/// # Errors
/// When the servers can't be started, or the table can't be written.
pub async fn run(args: &Args) -> Result<Report, AnyError> {
    // The cells mostly wait: one thread plays them, the services in them have all.
    LocalSet::new().run_until(run_here(args)).await
}

async fn run_here(args: &Args) -> Result<Report, AnyError> {
    let begun = Instant::now();
    let mut cells = cells::all();
    let tenth = match args.tenth.as_deref() {
        Some("today") => Some(today()),
        Some(n) => Some(n.parse::<usize>().map_err(|_| "--tenth wants 0 to 9, or today")? % 10),
        None => None,
    };
    if let Some(n) = tenth {
        println!("tenth {n} of 0 to 9");
        cells = cells::tenth(&cells, n);
    }
    let wanted = |cell: &Cell| {
        let line = cell.to_string().to_lowercase();
        args.only.iter().all(|word| line.contains(&word.to_lowercase()))
    };
    cells.retain(wanted);
    if cells.is_empty() {
        return Err(format!("no cell has all of the words {:?} in its line", args.only).into());
    }
    if args.list {
        cells.iter().for_each(|cell| println!("{cell}"));
        cells.clear();
    }
    let (told, mut played) = mpsc::unbounded_channel();
    let (everybodys, private): (Vec<_>, Vec<_>) =
        cells.into_iter().partition(|cell| cell.fault.is_everybodys());
    let mut lanes = JoinSet::new();
    if !private.is_empty() {
        lanes.spawn_local(together(private, args.jobs, told.clone()));
    }
    let everybodys = Arc::new(std::sync::Mutex::new(everybodys.into_iter()));
    for _ in 0..args.stacks.max(1) {
        lanes.spawn_local(one_by_one(everybodys.clone(), told.clone()));
    }
    drop(told);
    let mut all = Vec::new();
    while let Some(one) = played.recv().await {
        tell(&one, args.verbose);
        all.push(one);
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    let passed = all.iter().filter(|one| one.passed()).count();
    let report = Report {
        cells: all.len(),
        passed,
        failed: all.len() - passed,
        limits: all.iter().filter(|one| one.passed() && one.outcome.is_limit()).count(),
        replayed: all.iter().map(|one| one.replayed).sum(),
        operations: all.iter().map(|one| one.outcome.ops).sum(),
        seconds: begun.elapsed().as_secs(),
        tenth,
    };
    if args.write_docs {
        table::write(&all, &report)?;
    }
    Ok(report)
}

/// Days since 1970, of which every tenth has the same.
fn today() -> usize {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    usize::try_from(since.as_secs() / 86400 % 10).unwrap_or(0)
}

async fn servers() -> Result<Stack, AnyError> {
    // What is stopped has to find its leases again.
    let builder = Stack::builder().storage(Storage::Raft);
    let stack = builder.postgres_setting("max_connections", "400").start().await?;
    cheap_logins(&stack).await?;
    Ok(stack)
}

/// Cells that nobody else feels, on shared servers.
async fn together(
    cells: Vec<Cell>,
    jobs: usize,
    told: mpsc::UnboundedSender<Played>,
) -> Result<(), AnyError> {
    let stack = servers().await?;
    let room = Arc::new(Semaphore::new(jobs.max(1)));
    let mut tasks = JoinSet::new();
    for cell in cells {
        let permit = room.clone().acquire_owned().await?;
        let (stack, told) = (stack.clone(), told.clone());
        tasks.spawn_local(async move {
            let _permit = permit;
            // The reader outlives all.
            let _ = told.send(play(cell, &stack).await);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }
    Ok(stack.shutdown().await?)
}

/// Cells that everybody would feel, one after the other on servers of their own.
async fn one_by_one(
    cells: Arc<std::sync::Mutex<std::vec::IntoIter<Cell>>>,
    told: mpsc::UnboundedSender<Played>,
) -> Result<(), AnyError> {
    let next = || cells.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let mut stack = None;
    while let Some(cell) = next() {
        let servers = match stack.take() {
            Some(stack) => stack,
            None => servers().await?,
        };
        let played = play(cell, &servers).await;
        // One that failed may have left them broken.
        if played.passed() {
            stack = Some(servers);
        } else {
            servers.shutdown().await?;
        }
        let _ = told.send(played);
    }
    if let Some(stack) = stack {
        stack.shutdown().await?;
    }
    Ok(())
}

async fn play(cell: Cell, stack: &Stack) -> Played {
    let begun = Instant::now();
    let mut plays = 1;
    loop {
        let mut outcome = match Box::pin(cell::play(cell, stack)).await {
            Ok(outcome) => outcome,
            Err((error, chronicle)) => Outcome {
                violations: vec![crate::outcome::chain(&*error)],
                lines: chronicle.told().lines,
                ..Outcome::default()
            },
        };
        // The fault is shorter than what is left of the login. On a machine that is too busy the
        // login may end all the same before there is another, and Postgres refuses it: that is
        // the machine's doing if it does not happen again and again.
        let late = outcome.failed.contains_key(LEASE_OVER) && !cell.fault.outlasts_a_lease();
        if late && plays == PLAYS {
            let text = format!("in each of {PLAYS} plays the lease was over before the next");
            outcome.violations.push(text);
        }
        if !late || plays == PLAYS || !outcome.violations.is_empty() {
            return Played { cell, outcome, replayed: plays - 1, took: begun.elapsed() };
        }
        plays += 1;
    }
}

fn tell(one: &Played, verbose: bool) {
    let Played { cell, outcome, replayed, took } = one;
    let word = if one.passed() { "ok    " } else { "FAILED" };
    let (short, ops, slowest) = (outcome.short(), outcome.ops, outcome.slowest_ms);
    println!("{word} {cell}: {short}; {ops} operations, slowest {slowest} ms; {took:.1?}");
    if *replayed > 0 {
        println!("         played again {replayed} times: its login was over too soon");
    }
    if outcome.dead_dials > 0 {
        println!("         {} connections with a login known to be dead", outcome.dead_dials);
    }
    for text in [&outcome.refusal, &outcome.remains].into_iter().flatten() {
        println!("         {text}");
    }
    for violation in &outcome.violations {
        println!("       ! {violation}");
    }
    if verbose || !one.passed() {
        let first = outcome.lines.first().map(|line| line.0);
        for (at, line) in &outcome.lines {
            let at = first.map_or(0.0, |first| (*at - first).as_secs_f64());
            println!("         {at:7.3} {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn words_that_no_cell_has_are_an_error() {
        let args = Args::parse_from(["matrix", "--list", "--only", "typo"]);
        let error = run(&args).await.err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("typo")));
    }

    #[test]
    fn the_page_is_written_of_all_cells_only() {
        for part in [["--only", "seal"], ["--tenth", "3"]] {
            let args = ["matrix", "--write-docs"].into_iter().chain(part);
            assert!(Args::try_parse_from(args).is_err(), "{part:?}");
        }
        assert!(Args::try_parse_from(["matrix", "--write-docs"]).is_ok());
    }
}
