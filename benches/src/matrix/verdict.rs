//! What came of a cell, and whether it may have.

use std::collections::BTreeMap;
use std::time::Instant;

use leasehold::ShutdownReport;
use leasehold_testkit::LoginRecord;

use super::cell::POOL;
use super::cells::{Cell, Excuse, Phase};
use crate::chronicle::Told;
use crate::load::Op;
use crate::report::{superseded_handouts, superseded_logins};

/// Why Postgres refuses what it would have served before.
pub(crate) const LEASE_OVER: &str = "lease over";

/// All that was seen of a cell.
pub(crate) struct Seen<'a> {
    pub(crate) cell: Cell,
    pub(crate) ops: &'a [Op],
    pub(crate) fault: (Instant, Instant),
    pub(crate) told: &'a Told,
    pub(crate) logins: &'a [LoginRecord],
    pub(crate) report: Option<&'a ShutdownReport>,
    /// Logins that there were right after the shutdown.
    pub(crate) left_at_once: &'a [String],
    pub(crate) sessions: usize,
    pub(crate) tokens: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) ops: usize,
    /// Failed operations by what excuses them.
    pub(crate) failed: BTreeMap<&'static str, usize>,
    pub(crate) slowest_ms: u128,
    /// Connections that Postgres received for a login that was known to be dead.
    pub(crate) dead_dials: usize,
    /// What a start said that failed.
    pub(crate) refusal: Option<String>,
    /// What a shutdown said that left something.
    pub(crate) remains: Option<String>,
    pub(crate) violations: Vec<String>,
    pub(crate) lines: Vec<(Instant, String)>,
}

impl Outcome {
    /// It was a start, and was refused with these words.
    pub(crate) fn start(&mut self, refusal: Option<String>) {
        if let Some(told) = &refusal {
            // It has to name the server that is to blame, or what it said.
            let names = ["127.0.0.1", "creds/", "login", "connect", "sealed", "quota", "Postgres"];
            if !names.iter().any(|name| told.contains(name)) {
                self.violations.push(format!("the start's error names no cause: {told}"));
            }
        }
        self.refusal = refusal;
    }

    /// Something was lost that is documented as a limit.
    pub(crate) fn is_limit(&self) -> bool {
        self.failed.keys().any(|why| matches!(*why, "revoked" | LEASE_OVER | "overdue"))
    }

    /// In a few words, what a user sees.
    pub(crate) fn short(&self) -> String {
        let mut parts: Vec<String> =
            self.failed.iter().map(|(why, n)| format!("{n} {why}")).collect();
        if self.refusal.is_some() {
            parts.push("start refused".into());
        }
        if self.remains.is_some() {
            parts.push("shutdown tells".into());
        }
        if parts.is_empty() { "nothing".into() } else { parts.join(", ") }
    }
}

pub(crate) fn of(seen: &Seen<'_>) -> Outcome {
    let mut out = Outcome {
        ops: seen.ops.len(),
        slowest_ms: seen.ops.iter().map(|op| op.took.as_millis()).max().unwrap_or(0),
        lines: seen.told.lines.clone(),
        ..Outcome::default()
    };
    let dead = |login: &&LoginRecord| {
        let life =
            seen.told.lives.values().find(|life| Some(&life.username) == login.user.as_ref());
        life.and_then(|life| life.dead).is_some_and(|dead| login.received > dead)
    };
    out.dead_dials = seen.logins.iter().filter(dead).count();
    let mut late = 0;
    for op in seen.ops.iter().filter(|op| op.failure.is_some()) {
        match excuse(seen, op, &mut late) {
            Ok(why) => *out.failed.entry(why).or_insert(0) += 1,
            Err(why) => out.violations.push(why),
        }
    }
    let handouts = superseded_handouts(seen.ops, seen.told);
    if handouts > 0 {
        out.violations.push(format!("{handouts} operations on a login whose roll had ended"));
    }
    let dials = superseded_logins(seen.logins, seen.told);
    if dials > 0 {
        out.violations.push(format!("{dials} connections with a login that was superseded"));
    }
    if seen.sessions > 0 {
        out.violations.push(format!("{} sessions are left", seen.sessions));
    }
    let lost_login =
        matches!(seen.cell.phase, Phase::Relogin | Phase::Start) && seen.cell.fault.loses_answers();
    if seen.tokens > 0 && !lost_login {
        out.violations.push(format!("{} tokens are left after a clean report", seen.tokens));
    }
    if let Some(report) = seen.report {
        judge_report(seen, report, &mut out);
    }
    out
}

/// Why this operation may have failed, or that it may not.
fn excuse(seen: &Seen<'_>, op: &Op, late: &mut usize) -> Result<&'static str, String> {
    let Some(failure) = &op.failure else { return Ok("") };
    let (began, over) = seen.fault;
    let code = failure.sqlstate.as_str();
    let none = code == "-----";
    let overlaps = op.ended() >= began && op.begun <= over;
    let login = matches!(code, "28P01" | "28000" | "42501" | "42704");
    let cut = none || matches!(code, "57P01" | "57P02" | "57P03") || code.starts_with("08");
    let say = |what: &str| {
        let when = if op.begun > over { "after the fault" } else { "before its end" };
        let (took, message) = (op.took, &failure.message);
        Err(format!("{what} ({when}, took {took:?}): {code} {message}"))
    };
    if seen.cell.phase == Phase::Shutdown && none && failure.message.contains("closed") {
        return Ok("pool closed");
    }
    match seen.cell.fault.excuse() {
        Excuse::Cut if cut && overlaps => return Ok("cut"),
        // Each connection that was cut can fail one more operation before that is noticed.
        Excuse::Cut if cut && op.begun > over && *late < POOL => {
            *late += 1;
            return Ok("cut");
        }
        Excuse::Overdue if cut && overlaps => return Ok("overdue"),
        Excuse::Revoked if login => {
            let tx = !failure.at_checkout && code.starts_with("42");
            if op.dead && tx {
                return say("handed out though the login was known to be dead");
            }
            return Ok("revoked");
        }
        _ => {}
    }
    let ended = |(from, until): &(Instant, Option<Instant>)| {
        op.ended() >= *from && until.is_none_or(|until| op.begun <= until)
    };
    if login && (op.barren || seen.told.barren.iter().any(ended)) {
        return Ok(LEASE_OVER);
    }
    say("lost")
}

fn judge_report(seen: &Seen<'_>, report: &ShutdownReport, out: &mut Outcome) {
    if !report.is_clean() {
        out.remains = Some(report.to_string());
    }
    // A login whose answer was lost is known to nobody here. In a shutdown nobody asks for one.
    if seen.cell.fault.loses_answers() && seen.cell.phase != Phase::Shutdown {
        return;
    }
    let unanswered = report.remains.iter().any(|r| r.username.is_none());
    let named = |login: &String| report.remains.iter().any(|r| r.username.as_ref() == Some(login));
    for login in seen.left_at_once.iter().filter(|login| !named(login)) {
        if !unanswered {
            out.violations.push(format!("{login} was left, and the report does not name it"));
        }
    }
}
