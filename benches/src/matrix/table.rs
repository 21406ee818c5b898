//! The tables in `docs/fault-matrix.md`, between two marks.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::cells::{Fault, Phase};
use super::{Played, Report};
use crate::AnyError;
use crate::args::PoolKind;

const BEGIN: &str = "<!-- written by cargo matrix -- --write-docs -->\n";
const END: &str = "<!-- to here -->\n";

pub(crate) fn write(all: &[Played], report: &Report) -> Result<(), AnyError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fault-matrix.md");
    let page = fs::read_to_string(&path)?;
    let (before, rest) = page.split_once(BEGIN).ok_or("docs/fault-matrix.md has lost its marks")?;
    let (_, after) = rest.split_once(END).ok_or("docs/fault-matrix.md has lost its second mark")?;
    fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", tables(all, report)?))?;
    Ok(())
}

fn tables(all: &[Played], report: &Report) -> Result<String, AnyError> {
    let mut out = String::new();
    writeln!(
        out,
        "\n{} cells, {} passed, {} failed, of those that passed {} with a limit; {} plays were \
         thrown away and played again; {} operations in {} s.",
        report.cells,
        report.passed,
        report.failed,
        report.limits,
        report.replayed,
        report.operations,
        report.seconds
    )?;
    for (pool, name) in [(PoolKind::Sqlx, "sqlx"), (PoolKind::Deadpool, "deadpool")] {
        writeln!(out, "\n### {name}\n")?;
        let phases = Phase::ALL.map(Phase::name).join(" | ");
        writeln!(out, "| fault | {phases} |\n|{}", " --- |".repeat(Phase::ALL.len() + 1))?;
        for fault in Fault::singles() {
            let cells = Phase::ALL.map(|phase| entry(all, fault, phase, pool));
            writeln!(out, "| {} | {} |", fault.name(), cells.join(" | "))?;
        }
    }
    writeln!(
        out,
        "\n### Two at a time\n\n| faults | phase | sqlx | deadpool |\n{}",
        "| --- ".repeat(4) + "|"
    )?;
    let mut pairs: Vec<(Fault, Phase)> = (all.iter())
        .filter(|one| matches!(one.cell.fault, Fault::Pair(_)))
        .map(|one| (one.cell.fault, one.cell.phase))
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    for (fault, phase) in pairs {
        let [sqlx, deadpool] =
            [PoolKind::Sqlx, PoolKind::Deadpool].map(|pool| entry(all, fault, phase, pool));
        writeln!(out, "| {} | {} | {sqlx} | {deadpool} |", fault.name(), phase.name())?;
    }
    writeln!(out)?;
    Ok(out)
}

fn entry(all: &[Played], fault: Fault, phase: Phase, pool: PoolKind) -> String {
    let is = |one: &&Played| {
        let cell = one.cell;
        cell.fault == fault && cell.phase == phase && cell.pool == pool
    };
    match all.iter().find(is) {
        Some(one) if one.passed() => one.outcome.short(),
        Some(_) => "**failed**".to_owned(),
        None => "not run".to_owned(),
    }
}
