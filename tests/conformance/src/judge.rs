//! What may not have happened, by what was told and by the server's own log.

use std::collections::BTreeMap;
use std::time::Instant;

use leasehold::Event;
use leasehold::hook::sql::CONTROL_APPLICATION;
use leasehold_testkit::LoginRecord;

use crate::load::Op;
use crate::story::{Story, Told};

/// One generation's way, as far as it was told.
#[derive(Default)]
struct Life {
    login: String,
    /// Unix time at which no dial with its login was in flight any more.
    settled: Option<f64>,
    rolled: Option<Instant>,
    /// The roll ended with dials still in flight.
    straddled: bool,
}

impl Story {
    /// When a generation became current.
    pub(crate) fn swap_to(&self, number: u64) -> Instant {
        let told = self.told();
        let swap = told.iter().find(
            |told| matches!(told.event, Event::Swapped { generation, .. } if generation == number),
        );
        swap.expect("waited for before").at
    }

    fn lives(&self) -> BTreeMap<u64, Life> {
        let mut lives: BTreeMap<u64, Life> = BTreeMap::new();
        for Told { at, unix, event } in &*self.told() {
            match event {
                Event::Swapped { generation, username, .. } => {
                    lives.entry(*generation).or_default().login.clone_from(username);
                }
                Event::DialsSettled { generation, .. } => {
                    lives.entry(*generation).or_default().settled = Some(*unix);
                }
                Event::RollEnded { generation, .. } => {
                    let life = lives.entry(*generation).or_default();
                    life.rolled = Some(*at);
                    life.straddled = life.settled.is_none();
                }
                _ => {}
            }
        }
        lives
    }
}

/// I2: operations whose connection was of a login whose roll had ended before they asked for it. What
/// a dial brings that takes longer than the roll waits for it is known as superseded only then.
pub(crate) fn superseded_handouts<'a>(ops: &'a [Op], story: &Story) -> Vec<&'a Op> {
    let lives = story.lives();
    let rolled: BTreeMap<&str, Instant> = (lives.values().filter(|life| !life.straddled))
        .filter_map(|life| Some((life.login.as_str(), life.rolled?)))
        .collect();
    let late = |op: &&Op| {
        let login = op.login.as_deref().and_then(|login| rolled.get(login));
        login.is_some_and(|rolled| op.begun > *rolled)
    };
    ops.iter().filter(late).collect()
}

/// I1: connections that the server received for a login after the last dial with it had ended. The
/// one by which a drain is confirmed is told apart by its name.
pub(crate) fn superseded_logins<'a>(log: &'a [LoginRecord], story: &Story) -> Vec<&'a LoginRecord> {
    let lives = story.lives();
    let settled: BTreeMap<&str, f64> =
        lives.values().filter_map(|life| Some((life.login.as_str(), life.settled?))).collect();
    let late = |one: &&LoginRecord| {
        let login = one.user.as_deref().and_then(|user| settled.get(user));
        one.application.as_deref() != Some(CONTROL_APPLICATION)
            && login.is_some_and(|settled| one.received > *settled)
    };
    log.iter().filter(late).collect()
}

/// How many generations were told to have settled, and to have rolled: what the two above judge by.
pub(crate) fn judged(story: &Story) -> (usize, usize) {
    let lives = story.lives();
    let settled = lives.values().filter(|life| life.settled.is_some()).count();
    let rolled = lives.values().filter(|life| life.rolled.is_some() && !life.straddled).count();
    (settled, rolled)
}

#[cfg(test)]
mod tests {
    use leasehold::Reason;
    use leasehold_testkit::{correlate, parse_login_log};

    use super::*;

    fn swap(generation: u64) -> Event {
        let (username, reason) = (format!("v-{generation}"), Reason::Requested);
        Event::Swapped { generation, username, reason, proven: true }
    }

    fn op(login: &str) -> Op {
        let login = Some(login.to_owned());
        Op { begun: Instant::now(), login, spanned: false, failure: None }
    }

    #[test]
    fn what_is_late_is_found_and_nothing_else() {
        let story = Story::default();
        let pool = "p".to_owned();
        story.hear(&swap(1));
        story.hear(&swap(2));
        let in_the_roll = op("v-1");
        story.hear(&Event::DialsSettled { pool: pool.clone(), generation: 1 });
        story.hear(&Event::RollEnded { pool, generation: 1 });
        let ops = [in_the_roll, op("v-1"), op("v-2")];
        let late = superseded_handouts(&ops, &story);
        assert!(matches!(late[..], [one] if std::ptr::eq(one, &ops[1])), "{late:#?}");

        let settled = story.told()[2].unix;
        let log: String =
            [(-1.0, "v-1", "x"), (1.0, "v-1", "x"), (1.0, "v-1", CONTROL_APPLICATION)]
                .into_iter()
                .chain([(1.0, "v-2", "x")])
                .enumerate()
                .map(|(pid, (after, user, name))| {
                    let line =
                        format!("{:.3} [{pid}] 00000 {user} LOG:  connection ", settled + after);
                    format!(
                        "{line}received: host=h port=1\n\
                     {line}authorized: user={user} database=d application_name={name}\n"
                    )
                })
                .collect();
        let log = correlate(&parse_login_log(&log));
        let late = superseded_logins(&log, &story);
        assert!(matches!(late[..], [one] if one.pid == 1), "{late:#?}");
        assert_eq!((judged(&story), log.len()), ((1, 1), 4));
    }

    #[test]
    fn a_roll_that_a_dial_straddled_is_not_judged() {
        let story = Story::default();
        story.hear(&swap(1));
        story.hear(&Event::RollEnded { pool: "p".to_owned(), generation: 1 });
        assert!(superseded_handouts(&[op("v-1")], &story).is_empty());
        assert_eq!(judged(&story), (0, 0));
    }
}
