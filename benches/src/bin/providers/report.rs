//! What is told.

use std::fmt;

use serde::Serialize;

use crate::audit::Asked;
use crate::life::Life;
use crate::process::{Pools, Seen};

/// Bounds on the largest count. On what is allocated, which is what a provider holds: what the process
/// keeps from the system on top of it is the allocator's, and told beside it.
const MOST_KIB: f64 = 20.0;
const MOST_CPU_PERCENT: f64 = 1.0;
/// Mints and the rest, 16 each unless the session is told otherwise, and the session's own.
const MOST_AT_ONCE: usize = 33;

/// One process, as it saw itself and as the server saw it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) seen: Seen,
    #[serde(flatten)]
    pub(crate) asked: Asked,
}

/// What a pool that is not connected adds to a provider.
#[derive(Clone, Debug, Serialize)]
struct PoolCost {
    pools: Pools,
    heap_kib: f64,
    rss_kib: f64,
    tasks: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    counts: Vec<Row>,
    pools: Vec<PoolCost>,
    schedule: Life,
}

impl Report {
    pub(crate) fn new(counts: Vec<Row>, pools: Vec<(Pools, Seen)>, schedule: Life) -> Self {
        let alone =
            pools.iter().find(|(kind, _)| *kind == Pools::None).map(|(_, seen)| seen.clone());
        let of = |(kind, seen): (Pools, Seen)| {
            let alone = alone.as_ref().filter(|_| kind != Pools::None)?;
            Some(PoolCost {
                pools: kind,
                heap_kib: seen.heap_kib - alone.heap_kib,
                rss_kib: seen.rss_kib - alone.rss_kib,
                tasks: seen.tasks - alone.tasks,
            })
        };
        Self { counts, pools: pools.into_iter().filter_map(of).collect(), schedule }
    }

    /// What does not hold, a line each.
    pub(crate) fn broken(&self) -> Vec<String> {
        let Some(Row { seen, asked }) = self.counts.iter().max_by_key(|row| row.seen.providers)
        else {
            return vec!["nothing was measured".to_owned()];
        };
        let bounds = [
            ("KiB of heap each", seen.heap_kib, MOST_KIB),
            ("% of a core at rest", seen.cpu_percent, MOST_CPU_PERCENT),
            ("requests in flight", asked.most_at_once as f64, MOST_AT_ONCE as f64),
        ];
        let broken = bounds.into_iter().filter(|(_, is, most)| is > most);
        broken.map(|(what, is, most)| format!("{is:.2} {what}, above {most}")).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| providers | start, s | heap each, KiB | resident each, KiB | tasks each | CPU at \
             rest, % of a core | mints in flight | requests in flight | shutdown, s |"
        )?;
        writeln!(f, "| --: | --: | --: | --: | --: | --: | --: | --: | --: |")?;
        for Row { seen, asked } in &self.counts {
            writeln!(
                f,
                "| {} | {:.2} | {:.1} | {:.1} | {:.1} | {:.2} | {} | {} | {:.2} |",
                seen.providers,
                seen.start_s,
                seen.heap_kib,
                seen.rss_kib,
                seen.tasks,
                seen.cpu_percent,
                asked.mints_at_once,
                asked.most_at_once,
                seen.shutdown_s,
            )?;
        }
        writeln!(f)?;
        if !self.pools.is_empty() {
            writeln!(f, "| pool, not connected | heap each, KiB | tasks each |")?;
            writeln!(f, "| --- | --: | --: |")?;
            for cost in &self.pools {
                let kind = match cost.pools {
                    Pools::None => "none",
                    Pools::PlainSqlx => "sqlx, plain",
                    Pools::Sqlx => "sqlx, with the hook",
                    Pools::PlainDeadpool => "deadpool, plain",
                    Pools::Deadpool => "deadpool, with the hook",
                };
                writeln!(f, "| {kind} | {:.1} | {:.1} |", cost.heap_kib, cost.tasks)?;
            }
            writeln!(f)?;
        }
        let Life { mints_per_hour, renewals_per_hour, revocations_per_hour, .. } = self.schedule;
        writeln!(f, "| requests of a provider | an hour |")?;
        writeln!(f, "| --- | --: |")?;
        writeln!(f, "| renewals | {renewals_per_hour:.2} |")?;
        writeln!(f, "| mints | {mints_per_hour:.3} |")?;
        writeln!(f, "| revocations | {revocations_per_hour:.3} |")?;
        writeln!(f)
    }
}
