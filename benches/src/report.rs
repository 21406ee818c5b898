//! From what was seen to the one line of JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use leasehold::hook::sql::CONTROL_APPLICATION;
use leasehold_testkit::LoginRecord;
use leasehold_vault::CallCounts;
use serde::Serialize;

use crate::AnyError;
use crate::args::{Args, FaultKind};
use crate::chronicle::Told;
use crate::load::Op;
use crate::stats;
use crate::world::Left;

/// The figures of one run. Absent where only an admin could tell.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Which pool.
    pub pool: &'static str,
    /// How long the load ran.
    pub seconds: f64,
    /// TTL of the role.
    pub ttl_s: u64,
    /// Maximum TTL of the role.
    pub max_ttl_s: u64,
    /// Short transactions that were committed.
    pub ok: usize,
    /// Short transactions that failed.
    pub failed: usize,
    /// Slots of the schedule that came and went while a worker was busy.
    pub skipped: u64,
    /// Failures, short and long, by SQLSTATE; `-----` did not come from Postgres.
    pub failed_by_sqlstate: BTreeMap<String, usize>,
    /// Those that failed while a fault lasted, by SQLSTATE and place, as in `28P01@checkout`.
    pub failed_during_fault: BTreeMap<String, usize>,
    /// Faults that were made, by name.
    pub faults: BTreeMap<&'static str, usize>,
    /// Failures, short and long, that no fault accounts for.
    pub unexplained: usize,
    /// Long transactions that were committed.
    pub long_ok: usize,
    /// Long transactions that failed.
    pub long_failed: usize,
    /// Swaps by reason, the first credential not counted.
    pub rotations: BTreeMap<String, usize>,
    /// Renewals of the lease.
    pub renewals: u64,
    /// Median of short transactions, checkout included.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Slowest.
    pub max_us: u64,
    /// 99th percentile of those that overlap the time from a swap to its Drained, at least a second.
    pub p99_swap_us: Option<u64>,
    /// Slowest of those.
    pub max_swap_us: Option<u64>,
    /// 99th percentile in windows of the same length without a swap.
    pub p99_calm_us: Option<u64>,
    /// Longest time in which nothing was committed.
    pub longest_gap_ms: u64,
    /// Requests to Vault by kind.
    pub vault_calls: Calls,
    /// Transactions on a login whose roll had ended before they asked for a connection.
    pub superseded_handouts: usize,
    /// Connections that Postgres received for a login after the last dial with it had ended.
    pub superseded_logins: Option<usize>,
    /// Connections ended at a drain's deadline.
    pub forced_closes: u64,
    /// Most sockets to Postgres at once.
    pub max_connections_seen: Option<usize>,
    /// From the end of a fault's cause to the next swap.
    pub swap_after_fault_ms: Option<u64>,
    /// Leases that the server still has.
    pub leases_after_shutdown: Option<usize>,
    /// Logins that Postgres still has.
    pub roles_after_shutdown: Option<usize>,
    /// Sessions that Postgres still has.
    pub sessions_after_shutdown: Option<usize>,
}

/// Requests to Vault.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Calls {
    /// Logins.
    pub login: u64,
    /// Renewals of the token.
    pub token_renew: u64,
    /// Credentials asked for.
    pub issue: u64,
    /// Renewals of leases.
    pub renew: u64,
    /// Revocations of leases.
    pub revoke: u64,
}

/// A fault that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Harm {
    pub(crate) kind: FaultKind,
    /// It was there for certain between these.
    pub(crate) lasted: (Instant, Instant),
    /// Its cause was gone for certain from here on.
    pub(crate) over: Instant,
}

/// All that was seen.
pub(crate) struct Seen<'a> {
    pub(crate) args: &'a Args,
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    pub(crate) ops: &'a [Op],
    pub(crate) skipped: u64,
    pub(crate) told: &'a Told,
    pub(crate) calls: CallCounts,
    pub(crate) logins: Option<&'a [LoginRecord]>,
    pub(crate) sockets: Option<usize>,
    pub(crate) faults: &'a [Harm],
    pub(crate) left: Option<Left>,
}

impl Report {
    pub(crate) fn of(seen: &Seen<'_>) -> Self {
        let Seen { args, ops, told, .. } = seen;
        let short = || ops.iter().filter(|o| !o.long);
        let long = || ops.iter().filter(|o| o.long);
        let good = |o: &&Op| o.failure.is_none();
        let mut failed_by_sqlstate = BTreeMap::new();
        for op in ops.iter().filter(|o| o.failure.is_some()) {
            *failed_by_sqlstate.entry(op.sqlstate().to_owned()).or_insert(0) += 1;
        }
        let mut failed_during_fault = BTreeMap::new();
        for op in ops.iter() {
            let during = |harm: &&Harm| {
                let (from, until) = harm.lasted;
                op.begun >= from && op.ended() <= until
            };
            if let (Some(failure), Some(_)) = (&op.failure, seen.faults.iter().find(during)) {
                let place = if failure.at_checkout { "checkout" } else { "tx" };
                let key = format!("{}@{place}", failure.sqlstate);
                *failed_during_fault.entry(key).or_insert(0) += 1;
            }
        }
        let mut faults = BTreeMap::new();
        for harm in seen.faults {
            *faults.entry(harm.kind.as_str()).or_insert(0) += 1;
        }
        let mut rotations = BTreeMap::new();
        for life in told.lives.iter().filter(|(n, _)| **n > 1).map(|(_, l)| l) {
            *rotations.entry(life.reason.clone()).or_insert(0) += 1;
        }
        let all = sorted(short().filter(good));
        let swaps = swap_windows(told);
        let calm = calm_windows(&swaps, seen.begun);
        let around = sorted(short().filter(good).filter(|o| overlaps(o, &swaps)));
        let between = sorted(short().filter(good).filter(|o| overlaps(o, &calm)));
        Self {
            pool: args.pool.as_str(),
            seconds: seen.took.as_secs_f64(),
            ttl_s: args.ttl,
            max_ttl_s: args.max_ttl(),
            ok: short().filter(good).count(),
            failed: short().filter(|o| o.failure.is_some()).count(),
            skipped: seen.skipped,
            failed_by_sqlstate,
            failed_during_fault,
            faults,
            unexplained: unexplained(seen),
            long_ok: long().filter(good).count(),
            long_failed: long().filter(|o| o.failure.is_some()).count(),
            rotations,
            renewals: told.renewals,
            p50_us: quantile(&all, 0.5).unwrap_or(0),
            p99_us: quantile(&all, 0.99).unwrap_or(0),
            max_us: quantile(&all, 1.0).unwrap_or(0),
            p99_swap_us: quantile(&around, 0.99),
            max_swap_us: quantile(&around, 1.0),
            p99_calm_us: quantile(&between, 0.99),
            longest_gap_ms: longest_gap(seen),
            vault_calls: Calls {
                login: seen.calls.login,
                token_renew: seen.calls.token_renew,
                issue: seen.calls.issue,
                renew: seen.calls.renew,
                revoke: seen.calls.revoke,
            },
            superseded_handouts: superseded_handouts(ops, told),
            superseded_logins: seen.logins.map(|logins| superseded_logins(logins, told)),
            forced_closes: told.forced,
            max_connections_seen: seen.sockets,
            swap_after_fault_ms: swap_after_fault(seen),
            leases_after_shutdown: seen.left.as_ref().map(|l| l.leases),
            roles_after_shutdown: seen.left.as_ref().map(|l| l.roles),
            sessions_after_shutdown: seen.left.as_ref().map(|l| l.sessions),
        }
    }

    /// No lease, role or session is left, as far as can be seen.
    #[must_use]
    pub fn nothing_left(&self) -> bool {
        [self.leases_after_shutdown, self.roles_after_shutdown, self.sessions_after_shutdown]
            .iter()
            .all(|n| n.unwrap_or(0) == 0)
    }
}

/// Failures that no fault accounts for.
fn unexplained(seen: &Seen<'_>) -> usize {
    let explained = |op: &&Op| {
        seen.faults.iter().any(|harm| {
            let (from, until) = aftermath(harm, seen.told);
            harm.kind.may_cause(op.sqlstate()) && op.begun <= until && op.ended() >= from
        })
    };
    let failed = seen.ops.iter().filter(|op| op.failure.is_some());
    failed
        .filter(|op| !explained(op))
        .inspect(|op| {
            let at = op.begun.saturating_duration_since(seen.begun).as_secs_f64();
            let message = op.failure.as_ref().map_or("", |f| f.message.as_str());
            eprintln!("unexplained at {at:.3} s: {} {message}", op.sqlstate());
        })
        .count()
}

/// From the beginning of a fault until its damage must be over: the first swap after its end,
/// where one comes soon, and a moment for what was open.
fn aftermath(harm: &Harm, told: &Told) -> (Instant, Instant) {
    const SOON: Duration = Duration::from_secs(8);
    const MOMENT: Duration = Duration::from_secs(2);
    let (from, end) = (harm.lasted.0, harm.over);
    let swaps = told.lives.values().map(|l| l.swapped);
    let mends = swaps.filter(|s| *s >= end && *s <= end + SOON).min();
    (from, mends.unwrap_or(end) + MOMENT)
}

/// From each swap to its Drained, at least one second.
fn swap_windows(told: &Told) -> Vec<(Instant, Instant)> {
    let lives: Vec<_> = told.lives.values().collect();
    (lives.windows(2))
        .map(|pair| {
            let begin = pair[1].swapped;
            let least = begin + Duration::from_secs(1);
            (begin, pair[0].drained.map_or(least, |at| at.max(least)))
        })
        .collect()
}

/// Windows of the same lengths, each just before its swap, that touch no swap.
fn calm_windows(swaps: &[(Instant, Instant)], begun: Instant) -> Vec<(Instant, Instant)> {
    // Away from the issue and the proof that come before a swap.
    let gap = Duration::from_millis(300);
    (swaps.iter())
        .filter_map(|&(begin, end)| {
            let until = begin.checked_sub(gap)?;
            let from = until.checked_sub(end - begin)?;
            let clear = from >= begun && swaps.iter().all(|s| s.1 <= from || s.0 >= until);
            clear.then_some((from, until))
        })
        .collect()
}

fn overlaps(op: &Op, windows: &[(Instant, Instant)]) -> bool {
    windows.iter().any(|&(from, until)| op.begun <= until && op.ended() >= from)
}

fn sorted<'a>(ops: impl Iterator<Item = &'a Op>) -> Vec<Duration> {
    let mut all: Vec<Duration> = ops.map(|o| o.took).collect();
    all.sort_unstable();
    all
}

fn quantile(sorted: &[Duration], q: f64) -> Option<u64> {
    u64::try_from(stats::quantile(sorted, q)?.as_micros()).ok()
}

/// The longest time in which nothing was committed.
fn longest_gap(seen: &Seen<'_>) -> u64 {
    let good = seen.ops.iter().filter(|o| o.failure.is_none());
    let mut ends: Vec<Instant> = good.map(Op::ended).collect();
    ends.push(seen.begun);
    ends.push(seen.begun + Duration::from_secs(seen.args.seconds));
    ends.sort_unstable();
    let gap = ends.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default();
    u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)
}

/// Transactions that ran as a login whose roll had ended before they asked for a connection. What a
/// dial brings that took longer than a roll waits is current to the pool until it is caught up with.
pub(crate) fn superseded_handouts(ops: &[Op], told: &Told) -> usize {
    let rolled: BTreeMap<&str, Instant> = (told.lives.values().filter(|l| !l.straddled))
        .filter_map(|l| Some((l.username.as_str(), l.rolled?)))
        .collect();
    (ops.iter())
        .filter_map(|op| Some((op.begun, rolled.get(op.login.as_deref()?)?)))
        .filter(|(begun, rolled)| begun > *rolled)
        .count()
}

/// Connections that Postgres received for a login after the last dial with it had ended. The
/// connection by which a deadline ends sessions is one by design, and told apart by its name; where
/// it was refused, as it is for a role that somebody dropped, it has none, and one is left out.
pub(crate) fn superseded_logins(logins: &[LoginRecord], told: &Told) -> usize {
    // The last one is superseded by nothing: a shutdown drains it with its own login.
    let last = told.lives.keys().next_back();
    let settled: BTreeMap<&str, f64> = (told.lives.iter())
        .filter(|(number, _)| Some(*number) != last)
        .filter_map(|(_, l)| Some((l.username.as_str(), l.settled?)))
        .collect();
    let mut refused = BTreeSet::new();
    (logins.iter())
        .filter(|login| login.application.as_deref() != Some(CONTROL_APPLICATION))
        .filter_map(|login| Some((login, settled.get(login.user.as_deref()?)?)))
        .filter(|(login, settled)| login.received > **settled)
        .filter(|(login, _)| login.refused.is_none() || !refused.insert(login.user.as_deref()))
        .inspect(|(login, settled)| {
            eprintln!("superseded {:.1} ms late: {login:?}", (login.received - **settled) * 1e3);
        })
        .count()
}

/// From the end of a fault's cause to the next swap; the slowest, if there were several.
fn swap_after_fault(seen: &Seen<'_>) -> Option<u64> {
    let swaps = || seen.told.lives.values().map(|l| l.swapped);
    // A swap that came while the cause was going is as good as at once.
    let after = |harm: &Harm| {
        let first = swaps().filter(|s| *s >= harm.lasted.1).min()?;
        Some(first.saturating_duration_since(harm.over))
    };
    let slowest = seen.faults.iter().filter_map(after).max();
    slowest.and_then(|d| u64::try_from(d.as_millis()).ok())
}

/// One line per operation.
pub(crate) fn write_events(path: &Path, ops: &[Op]) -> Result<(), AnyError> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for op in ops {
        let kind = if op.long { "long" } else { "short" };
        let (place, message) = match &op.failure {
            Some(f) if f.at_checkout => ("checkout", f.message.as_str()),
            Some(f) => ("tx", f.message.as_str()),
            None => ("tx", ""),
        };
        let (took, code) = (op.took.as_secs_f64(), op.sqlstate());
        writeln!(file, "{:.6}\t{took:.6}\t{kind}\t{code}\t{place}\t{message}", op.unix)?;
    }
    file.flush()?;
    Ok(())
}
