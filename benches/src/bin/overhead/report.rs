//! The figures as tables to read and as one line of JSON, and the bounds they are held to.

use serde::Serialize;

use crate::bare::{Current, GetDrop};
use crate::instructions::Instructions;
use crate::rounds::{Throughput, Work};

/// A statement on a hooked pool, to one on a plain pool: the lower bound.
const SELECT_RATIO: f64 = 0.97;
/// What the hook costs a bare `get` and drop of deadpool's.
const HOOK_NS: f64 = 30.0;
const HOOK_INSTRUCTIONS: f64 = 150.0;
/// One read of the current login, with no other reader.
const CURRENT_NS: f64 = 20.0;
/// What counts as flat: a read among others, to one that is alone with its provider.
const CONTENTION: f64 = 1.1;

/// All that was measured; what was not is left out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) cores: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) throughput: Vec<Throughput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) get_drop: Option<GetDrop>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) current: Vec<Current>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) instructions: Vec<Instructions>,
    /// Bounds that are broken.
    pub(crate) broken: Vec<String>,
}

impl Report {
    pub(crate) fn judge(&mut self) {
        let mut broken = Vec::new();
        for cell in self.throughput.iter().filter(|cell| cell.work == Work::Select) {
            if cell.ratio.lower < SELECT_RATIO {
                let Throughput { pool, tasks, ratio, .. } = cell;
                broken.push(format!(
                    "{pool}, SELECT 1, {tasks} tasks: {:.3} < {SELECT_RATIO}",
                    ratio.lower
                ));
            }
        }
        if let Some(GetDrop { hook_ns, .. }) = &self.get_drop
            && hook_ns.upper > HOOK_NS
        {
            broken.push(format!("deadpool's hook: {:.1} ns > {HOOK_NS}", hook_ns.upper));
        }
        for Current { threads, current_ns, contention, .. } in &self.current {
            if *threads == 1 && *current_ns >= CURRENT_NS {
                broken.push(format!("current(): {current_ns:.1} ns >= {CURRENT_NS}"));
            }
            if contention.lower > CONTENTION {
                let by = contention.lower;
                broken.push(format!("current(), {threads} threads: {by:.2} x > {CONTENTION}"));
            }
        }
        for Instructions { pool, hook, .. } in &self.instructions {
            if *pool == "deadpool" && *hook > HOOK_INSTRUCTIONS {
                broken.push(format!("{pool}: {hook:.0} instructions > {HOOK_INSTRUCTIONS}"));
            }
        }
        self.broken = broken;
    }

    /// In Markdown.
    pub(crate) fn print(&self) {
        if !self.throughput.is_empty() {
            println!(
                "| pool | per turn | tasks | hooked/plain | 95 % bounds | plain/s | \
                 p50, µs: plain, hooked | p99, µs: plain, hooked |\n\
                 | --- | --- | --- | --- | --- | --- | --- | --- |"
            );
        }
        for Throughput { pool, work, tasks, ratio, plain, hooked } in &self.throughput {
            println!(
                "| {pool} | {} | {tasks} | {:.3} | {:.3} to {:.3} | {:.0} | {:.1}, {:.1} | \
                 {:.1}, {:.1} |",
                work.as_str(),
                ratio.median,
                ratio.lower,
                ratio.upper,
                plain.per_second,
                plain.p50_us,
                hooked.p50_us,
                plain.p99_us,
                hooked.p99_us,
            );
        }
        if let Some(GetDrop { plain_ns, hooked_ns, hook_ns }) = &self.get_drop {
            println!(
                "\n| deadpool's get and drop, ns | plain | hooked | the hook | 95 % bounds |\n\
                 | --- | --- | --- | --- | --- |\n\
                 | | {plain_ns:.1} | {hooked_ns:.1} | {:.1} | {:.1} to {:.1} |",
                hook_ns.median, hook_ns.lower, hook_ns.upper,
            );
        }
        if !self.current.is_empty() {
            println!(
                "\n| threads | current(), ns | one provider each, ns | contention | Mutex, ns | \
                 RwLock, ns |\n\
                 | --- | --- | --- | --- | --- | --- |"
            );
        }
        for Current { threads, current_ns, apart_ns, contention, mutex_ns, rwlock_ns } in
            &self.current
        {
            println!(
                "| {threads} | {current_ns:.1} | {apart_ns:.1} | {:.2} | {mutex_ns:.1} | \
                 {rwlock_ns:.1} |",
                contention.median,
            );
        }
        if !self.instructions.is_empty() {
            println!(
                "\n| instructions per turn | plain | hooked | the hook |\n\
                 | --- | --- | --- | --- |"
            );
        }
        for Instructions { pool, plain, hooked, hook } in &self.instructions {
            println!("| {pool} | {plain:.1} | {hooked:.1} | {hook:.1} |");
        }
    }
}
