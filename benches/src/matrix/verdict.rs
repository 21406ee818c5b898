//! What came of a cell, and whether it may have.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use leasehold_testkit::LoginRecord;

use super::cell::{Ending, POOL};
use super::cells::{Cell, Excuse, Phase};
use crate::chronicle::{Life, Told};
use crate::load::Op;
use crate::report::{superseded_handouts, superseded_logins};

/// Why Postgres refuses what it would have served before.
pub(crate) const LEASE_OVER: &str = "lease over";
/// Until a pool has caught up with a swap, on a slow machine.
const MOMENT: Duration = Duration::from_secs(2);

/// All that was seen of a cell.
pub(crate) struct Seen<'a> {
    pub(crate) cell: Cell,
    pub(crate) ops: &'a [Op],
    pub(crate) fault: (Instant, Instant),
    pub(crate) told: &'a Told,
    pub(crate) logins: &'a [LoginRecord],
    pub(crate) ending: &'a Ending,
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
    let report = &seen.ending.report;
    if !report.is_clean() {
        out.remains = Some(report.to_string());
    }
    let named: Vec<_> = report.remains.iter().map(|one| one.username.as_deref()).collect();
    out.violations.extend(misnamed(seen, &named));
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
    if seen.cell.phase == Phase::Shutdown && failure.at_checkout && failure.pool_closed {
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
        Excuse::Revoked if login && dropped(seen, op) => {
            let tx = !failure.at_checkout && code.starts_with("42");
            // Another that came while it waited may be dropped as well, and not known to be.
            let other = |life: &Life| life.swapped >= op.begun && life.swapped <= op.ended();
            if op.dead && tx && !seen.told.lives.values().any(other) {
                return say("handed out though the login was known to be dead");
            }
            return Ok("revoked");
        }
        _ => {}
    }
    // Until the pool hands out none of the login that was over.
    let rolled = |from: Instant| {
        let old = seen.told.lives.values().filter(|life| life.swapped <= from);
        old.filter_map(|life| life.rolled).max()
    };
    let ended = |(from, until): &(Instant, Option<Instant>)| {
        op.ended() >= *from
            && until.is_none_or(|until| op.begun <= rolled(*from).map_or(until, |r| r.max(until)))
    };
    if login && (op.barren || seen.told.barren.iter().any(ended)) {
        return Ok(LEASE_OVER);
    }
    say("lost")
}

/// The fault dropped this operation's login under it: it ended after that, was begun before the pool
/// had another login, and ran, as far as that is known, as one that there was then.
fn dropped(seen: &Seen<'_>, op: &Op) -> bool {
    let (began, over) = seen.fault;
    let there = |login: &str| {
        let issue = seen.told.issued.get(login);
        issue.is_some_and(|i| i.at <= over && i.ended.is_none_or(|ended| ended >= began))
    };
    // A candidate was dropped with the rest, and can have been swapped in all the same.
    let other = seen.told.lives.values().filter(|life| !there(&life.username));
    let swap = other.map(|life| life.swapped).filter(|swapped| *swapped >= began).min();
    op.ended() >= began
        && swap.is_none_or(|swap| op.begun <= swap + MOMENT)
        && op.login.as_deref().is_none_or(there)
}

/// What is wrong in what the report of a shutdown names.
fn misnamed(seen: &Seen<'_>, named: &[Option<&str>]) -> Vec<String> {
    let Ending { told, before: (asked, before), after, .. } = seen.ending;
    let issue = |login: &str| seen.told.issued.get(login).filter(|issue| issue.at <= *told);
    // A login whose answer was lost is known to nobody here. In a shutdown nobody asks for one.
    let lost = seen.cell.fault.loses_answers() && seen.cell.phase != Phase::Shutdown;
    let may_be_unknown = lost || named.contains(&None);
    let mut wrong = Vec::new();
    for login in after.iter().filter(|login| !named.contains(&Some(login.as_str()))) {
        match issue(login) {
            Some(_) => wrong.push(format!("{login} was left, and the report does not name it")),
            None if may_be_unknown => {}
            None => wrong.push(format!("{login} was left, and nobody ever told of it")),
        }
    }
    for login in named.iter().flatten() {
        let Some(issue) = issue(login) else { continue };
        let ended = issue.ended.is_some_and(|ended| ended <= *told);
        if ended || issue.at < *asked && !before.iter().any(|other| other == login) {
            wrong.push(format!("{login} was gone before, and the report names it"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use leasehold::ShutdownReport;

    use super::super::cells::{Admin, Fault, Net, Pair};
    use super::*;
    use crate::args::PoolKind;
    use crate::chronicle::Issue;
    use crate::pools::Failure;

    fn cell(fault: Fault, phase: Phase) -> Cell {
        Cell { fault, phase, pool: PoolKind::Deadpool }
    }

    fn op(begun: Instant, login: Option<&str>, failure: Failure) -> Op {
        let took = Duration::from_millis(10);
        let login = login.map(str::to_owned);
        let failure = Some(failure);
        Op { unix: 0.0, begun, took, long: false, login, failure, dead: false, barren: false }
    }

    fn failure(sqlstate: &str, at_checkout: bool, pool_closed: bool, message: &str) -> Failure {
        let (sqlstate, message) = (sqlstate.to_owned(), message.to_owned());
        Failure { sqlstate, at_checkout, pool_closed, message }
    }

    struct Scenery {
        t: Instant,
        told: Told,
        ending: Ending,
    }

    /// `old` was there before the fault, from second 10 to 12; `new` was swapped in at 14. The
    /// shutdown was asked for at 20, and told at 22.
    fn scenery() -> Scenery {
        let t = Instant::now();
        let at = |secs| t + Duration::from_secs(secs);
        let mut told = Told::default();
        for (number, name, issued) in [(1, "old", 1), (2, "new", 13)] {
            let (username, reason) = (name.to_owned(), String::new());
            let (settled, rolled, drained, dead) = (None, None, None, None);
            let (swapped, straddled) = (at(issued + 1), false);
            let life =
                Life { username, reason, swapped, settled, rolled, straddled, drained, dead };
            told.lives.insert(number, life);
            told.issued.insert(name.to_owned(), Issue { at: at(issued), ended: None });
        }
        let before = (at(20), vec!["new".to_owned()]);
        let after = Vec::new();
        let ending = Ending { report: ShutdownReport::default(), told: at(22), before, after };
        Scenery { t, told, ending }
    }

    impl Scenery {
        fn at(&self, secs: u64) -> Instant {
            self.t + Duration::from_secs(secs)
        }

        fn seen(&self, cell: Cell) -> Seen<'_> {
            let (ops, logins, fault): (&[Op], &[LoginRecord], _) =
                (&[], &[], (self.at(10), self.at(12)));
            let (told, ending) = (&self.told, &self.ending);
            Seen { cell, ops, fault, told, logins, ending, sessions: 0, tokens: 0 }
        }
    }

    #[test]
    fn a_connection_that_dies_is_no_closed_pool() {
        let scene = scenery();
        let seen = scene.seen(cell(Fault::Vault(Net::Latency), Phase::Shutdown));
        let excuse = |failure| excuse(&seen, &op(scene.at(11), None, failure), &mut 0);
        assert_eq!(excuse(failure("-----", true, true, "Pool has been closed")), Ok("pool closed"));
        assert!(excuse(failure("-----", false, false, "connection closed")).is_err());
        assert!(excuse(failure("-----", true, false, "connection closed")).is_err());
    }

    #[test]
    fn what_a_drop_excuses_is_of_a_login_it_dropped_and_not_for_ever() {
        let mut scene = scenery();
        let revoked = cell(Fault::Admin(Admin::LeasesRevoked), Phase::Issue);
        let excused = |scene: &Scenery, secs, login| {
            let refused = failure("42501", false, false, "permission denied");
            let op = op(scene.at(secs), login, refused);
            excuse(&scene.seen(revoked), &op, &mut 0) == Ok("revoked")
        };
        assert!(excused(&scene, 11, Some("old")));
        assert!(excused(&scene, 11, None));
        assert!(excused(&scene, 15, Some("old")), "the pool has a moment after the swap");
        assert!(!excused(&scene, 9, Some("old")), "over before the fault");
        assert!(!excused(&scene, 17, Some("old")), "long after the swap");
        assert!(!excused(&scene, 17, None), "long after the swap");
        assert!(!excused(&scene, 15, Some("new")), "issued after the fault");
        // A candidate that the fault dropped is swapped in: that is not the other login.
        let before = scene.at(9);
        if let Some(issue) = scene.told.issued.get_mut("new") {
            issue.at = before;
        }
        assert!(excused(&scene, 17, Some("new")));
    }

    #[test]
    fn a_login_known_to_be_dead_is_not_handed_out() {
        let scene = scenery();
        let seen = scene.seen(cell(Fault::Admin(Admin::TokenRevoked), Phase::Prove));
        let excused = |secs, took| {
            let refused = failure("42501", false, false, "permission denied");
            let op = op(scene.at(secs), None, refused);
            excuse(&seen, &Op { dead: true, took, ..op }, &mut 0).is_ok()
        };
        assert!(!excused(11, Duration::from_secs(1)));
        assert!(excused(11, Duration::from_secs(4)), "it may be of the login that came at 14");
    }

    #[test]
    fn a_lease_that_was_over_excuses_until_its_roll_has_ended() {
        let mut scene = scenery();
        scene.told.barren.push((scene.at(13), Some(scene.at(14))));
        let rolled = scene.at(15);
        if let Some(life) = scene.told.lives.get_mut(&1) {
            life.rolled = Some(rolled);
        }
        let sealed = cell(Fault::Admin(Admin::Seal), Phase::Renew);
        let excused = |secs| {
            let refused = failure("42501", false, false, "permission denied");
            let op = op(scene.at(secs), None, refused);
            excuse(&scene.seen(sealed), &op, &mut 0) == Ok(LEASE_OVER)
        };
        assert!(!excused(12));
        assert!(excused(13));
        assert!(excused(15));
        assert!(!excused(16));
    }

    #[test]
    fn a_known_login_is_named_if_it_is_left_whatever_the_fault() {
        let mut scene = scenery();
        scene.ending.after = vec!["new".to_owned()];
        for fault in [
            Fault::Vault(Net::BlackHole),
            Fault::Pair(Pair::PolicyTakenWhileTheLeaseEnds),
            Fault::Pair(Pair::PostgresRestartsAndVaultIsAway),
        ] {
            let seen = scene.seen(cell(fault, Phase::Revoke));
            assert_eq!(misnamed(&seen, &[Some("new")]), Vec::<String>::new());
            assert_eq!(misnamed(&seen, &[]).len(), 1, "{fault:?}");
            assert_eq!(misnamed(&seen, &[None]).len(), 1, "{fault:?}: it had an answer");
        }
    }

    #[test]
    fn an_unknown_login_may_be_left_where_answers_are_lost() {
        let mut scene = scenery();
        scene.ending.after = vec!["lost".to_owned()];
        let wrong = |fault, phase, named: &[Option<&str>]| {
            misnamed(&scene.seen(cell(fault, phase)), named).len()
        };
        let refused = Fault::Pair(Pair::RevocationFailsWhileTheLeaseEnds);
        assert_eq!(wrong(Fault::Vault(Net::Reset), Phase::Issue, &[]), 0);
        assert_eq!(wrong(Fault::Vault(Net::Reset), Phase::Shutdown, &[]), 1);
        assert_eq!(wrong(refused, Phase::Revoke, &[]), 1);
        assert_eq!(wrong(refused, Phase::Revoke, &[None]), 0);
    }

    #[test]
    fn what_is_gone_is_not_named() {
        let mut scene = scenery();
        let reset = cell(Fault::Vault(Net::Reset), Phase::Issue);
        assert_eq!(misnamed(&scene.seen(reset), &[Some("old")]).len(), 1, "gone by Postgres");
        assert_eq!(misnamed(&scene.seen(reset), &[Some("new")]).len(), 0, "it was there");
        if let Some(issue) = scene.told.issued.get_mut("new") {
            issue.ended = Some(scene.t + Duration::from_secs(21));
        }
        assert_eq!(misnamed(&scene.seen(reset), &[Some("new")]).len(), 1, "told to be revoked");
    }
}
