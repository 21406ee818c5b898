//! One pool of one size, rotated in one way, under load: its rotations against calm in between.

use std::time::{Duration, Instant};

use leasehold_testkit::{AppRoleSpec, DatabaseSpec, LoginRecord, RoleSpec, SocketWatch, Stack};
use serde::Serialize;

use super::Args;
use super::load::{Load, Op, Window};
use super::subject::{Subject, Way};
use crate::AnyError;
use crate::args::PoolKind;
use crate::stats::{Ratio, quantile};
use crate::world::unix_now;

/// Between two windows: so that no operation is in both, and for what a rotation leaves to do.
const SETTLE: Duration = Duration::from_millis(250);
/// Reading the kernel's table costs a millisecond of CPU where there are hundreds of sockets.
const LOOK: Duration = Duration::from_millis(20);
/// The roll that a role of four minutes and more has by default.
const ROLL: Duration = Duration::from_secs(15);

/// Which.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cell {
    pub(super) pool: &'static str,
    #[serde(skip)]
    pub(super) kind: PoolKind,
    pub(super) size: usize,
    pub(super) way: Way,
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) operations: usize,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    #[serde(flatten)]
    pub(super) cell: Cell,
    pub(super) rotations: usize,
    pub(super) failed: usize,
    /// Of them, around a swap.
    pub(super) failed_at_swaps: usize,
    pub(super) calm: Latency,
    pub(super) at_swaps: Latency,
    /// p99 of all operations around swaps, against that of all in calm windows.
    pub(super) p99_ratio: f64,
    /// The same of each swap and the calm window after it.
    pub(super) p99_pairs: Option<Ratio>,
    /// Seconds from a swap to the end of the old login's last connection: the median.
    pub(super) drained_s: f64,
    /// Sockets above the pool's maximum, as the kernel showed them. `None`: it does not tell.
    pub(super) above_maximum: Option<i64>,
    /// Logins that Postgres took while a rotation ran: the most in 100 ms and in a second.
    pub(super) logins_100ms: usize,
    pub(super) logins_1s: usize,
    /// And on average in each rotation.
    pub(super) logins_per_rotation: f64,
    /// Sessions that Postgres had at once, with those whose end it had yet to see.
    pub(super) sessions: usize,
}

/// TTL, which is the maximum TTL too, roll and grace. Rotations that are asked for are limited,
/// planned ones are not where a login serves an eighth of its TTL: the grace leaves it so much, which
/// is room for a rotation and as long a calm.
struct Times {
    ttl: Duration,
    roll: Duration,
    grace: Duration,
}

impl Times {
    fn of(size: usize, roll: Option<Duration>) -> Self {
        let roll = roll.unwrap_or(ROLL);
        // Two connections a second, or three quarters of the roll; and what follows.
        let drain = Duration::from_millis(size as u64 * 500).min(roll) + Duration::from_secs(1);
        let serves = drain.max(Duration::from_secs(2)) * 2 + SETTLE * 4 + Duration::from_secs(1);
        let ttl = Duration::from_secs((serves * 7).as_secs());
        // The rotation itself has min(5 s, TTL/10), and 1 s.
        let leeway = roll + (ttl / 10).min(Duration::from_secs(5)) + Duration::from_secs(1);
        Self { ttl, roll, grace: ttl - serves - leeway }
    }
}

pub(super) async fn run(
    stack: &Stack,
    cell: Cell,
    rotations: usize,
    args: &Args,
) -> Result<Figures, AnyError> {
    // Definitions as those of `deploy/vault`: they end the sessions that are left.
    let times = Times::of(cell.size, args.roll_ms.map(Duration::from_millis));
    let role = RoleSpec::new("app").default_ttl(times.ttl).max_ttl(times.ttl);
    let role = role.terminating_revocation();
    let login = AppRoleSpec::new().token_ttl(Duration::from_secs(3600));
    let name = format!("rotation{}", fastrand::u32(..));
    let spec = DatabaseSpec::new(name).role(role).app_role(login).with_accounts();
    let db = stack.database(spec).await?;
    let anchor = (Instant::now(), unix_now());
    let Times { roll, grace, .. } = times;
    let mut subject = Subject::start(cell.way, cell.kind, &db, cell.size, roll, grace).await?;
    let sockets = SocketWatch::start(stack.pg_port(), LOOK);
    let pool = subject.pool();
    pool.load_full().fill(cell.size).await?;
    // The same load on the servers, whatever the size of the pool.
    let tasks = cell.size * 2;
    let think = Duration::from_secs_f64(args.think_ms / 1000.0 * cell.size as f64 / 8.0);
    let load = Load::start(&pool, tasks, think);
    tokio::time::sleep(args.warm_up()).await;

    let (mut swaps, mut calms, mut drains, mut storms) = (vec![], vec![], vec![], vec![]);
    for number in 1..=rotations {
        settle(&subject, cell.size).await;
        let asked = Instant::now();
        let rotation = subject.rotate().await?;
        storms.push((since(anchor, asked), since(anchor, rotation.window.end)));
        settle(&subject, cell.size).await;
        let begin = Instant::now();
        tokio::time::sleep(rotation.window.length()).await;
        calms.push(Window { begin, end: Instant::now() });
        drains.push(rotation.drained.as_secs_f64());
        swaps.push(rotation.window);
        if number % 10 == 0 {
            eprintln!("    {number} of {rotations} rotations");
        }
    }
    let ops = load.stop().await?;
    let above = sockets.as_ref().map(|seen| seen.most() as i64 - cell.size as i64);
    drop((sockets, pool));
    let storm = Storm::of(&stack.login_records().await?, &storms, anchor.1);
    subject.stop().await?;

    let (at_swaps, failed_at_swaps) = within(&ops, &swaps);
    let (calm, _) = within(&ops, &calms);
    let pairs = swaps.iter().zip(&calms).filter_map(|(swap, calm)| {
        let p99 = |window| quantile(&within(&ops, std::slice::from_ref(window)).0, 0.99);
        Some(p99(swap)? / p99(calm)?)
    });
    let p99_pairs = Ratio::of_pairs(pairs);
    let (calm, at_swaps) = (latency(&calm)?, latency(&at_swaps)?);
    drains.sort_unstable_by(f64::total_cmp);
    Ok(Figures {
        cell,
        rotations,
        failed: ops.iter().filter(|op| op.failed).count(),
        failed_at_swaps,
        p99_ratio: at_swaps.p99 / calm.p99,
        p99_pairs,
        calm,
        at_swaps,
        drained_s: quantile(&drains, 0.5).unwrap_or_default(),
        above_maximum: above,
        logins_100ms: storm.most_100ms,
        logins_1s: storm.most_1s,
        logins_per_rotation: storm.all as f64 / rotations as f64,
        sessions: storm.sessions,
    })
}

/// Lets things calm down, with as many connections as there may be.
async fn settle(subject: &Subject, size: usize) {
    tokio::time::sleep(SETTLE).await;
    if let Err(error) = subject.pool().load_full().fill(size).await {
        eprintln!("    the pool was not filled: {error}");
    }
    tokio::time::sleep(SETTLE).await;
}

/// Sorted latencies in milliseconds of what overlaps one of the windows, and how many failed.
fn within(ops: &[Op], windows: &[Window]) -> (Vec<f64>, usize) {
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for window in windows {
        // They are in the order of their beginning; none takes longer than this.
        let early = window.begin.checked_sub(Duration::from_secs(60));
        let first = early.map_or(0, |early| ops.partition_point(|op| op.begun < early));
        for op in ops[first..].iter().take_while(|op| op.begun < window.end) {
            if op.overlaps(window) {
                latencies.push(op.took.as_secs_f64() * 1000.0);
                failed += usize::from(op.failed);
            }
        }
    }
    latencies.sort_unstable_by(f64::total_cmp);
    (latencies, failed)
}

fn latency(sorted: &[f64]) -> Result<Latency, AnyError> {
    let at = |q| quantile(sorted, q).ok_or("no operation in any window");
    Ok(Latency { operations: sorted.len(), p50: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
}

/// In Unix seconds.
fn since((instant, unix): (Instant, f64), at: Instant) -> f64 {
    unix + at.saturating_duration_since(instant).as_secs_f64()
}

/// Logins by the server's own log, of dynamic roles.
struct Storm {
    most_100ms: usize,
    most_1s: usize,
    all: usize,
    sessions: usize,
}

impl Storm {
    fn of(records: &[LoginRecord], rotations: &[(f64, f64)], begun: f64) -> Self {
        let dynamic = |one: &&LoginRecord| {
            one.received >= begun && one.user.as_ref().is_some_and(|user| user.starts_with("v-"))
        };
        let own: Vec<&LoginRecord> = records.iter().filter(dynamic).collect();
        let mut received: Vec<f64> = (own.iter())
            .map(|one| one.received)
            .filter(|at| rotations.iter().any(|(begin, end)| (*begin..=*end).contains(at)))
            .collect();
        received.sort_unstable_by(f64::total_cmp);
        let most = |span: f64| {
            let until = |i: usize| received.partition_point(|at| *at < received[i] + span) - i;
            (0..received.len()).map(until).max().unwrap_or(0)
        };
        // Ends before beginnings of the same millisecond.
        let mut steps: Vec<(f64, i64)> = Vec::new();
        for one in &own {
            steps.extend(one.authorized.map(|at| (at, 1)));
            steps.extend(one.authorized.and(one.disconnected).map(|at| (at, -1)));
        }
        steps.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (mut now, mut sessions) = (0_i64, 0);
        for (_, step) in steps {
            now += step;
            sessions = sessions.max(now);
        }
        Self {
            most_100ms: most(0.1),
            most_1s: most(1.0),
            all: received.len(),
            sessions: usize::try_from(sessions).unwrap_or(0),
        }
    }
}
