//! The life of each login, from its issue to its end: a lane of the timeline.

use std::collections::VecDeque;

use leasehold::{Event, Reason};
use serde::Serialize;

/// Lanes that are kept. Those whose login is still good are kept in any case.
const KEPT: usize = 60;
/// Renewals that are kept per lane: an hour's lease may be renewed for weeks.
const RENEWALS: usize = 100;

/// Where a login is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Proving,
    Current,
    Draining,
    /// Drained, not revoked yet.
    Drained,
    /// Not wanted any more, and not revoked yet: it did not work, or Vault could not be asked.
    Unwanted,
    Revoked,
    /// The lease ended before it was revoked, or was left to its end.
    Ended,
}

/// One login. Times are in seconds since the service began to start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lane {
    pub(crate) id: u64,
    pub(crate) generation: Option<u64>,
    pub(crate) username: String,
    pub(crate) stage: Stage,
    pub(crate) reason: Option<Reason>,
    pub(crate) issued: f64,
    pub(crate) current: Option<f64>,
    pub(crate) superseded: Option<f64>,
    pub(crate) drained: Option<f64>,
    /// When it was revoked, or known to be over.
    pub(crate) over: Option<f64>,
    /// When the lease ends if nothing happens.
    pub(crate) end: Option<f64>,
    /// The server grants no more time than that.
    pub(crate) last_renewal: bool,
    pub(crate) renewals: VecDeque<f64>,
    /// Somebody else revoked it, or dropped its role: noticed then.
    pub(crate) broken: Option<f64>,
    /// Connections that are left of it while it drains.
    pub(crate) remaining: Option<usize>,
}

impl Lane {
    fn is_open(&self) -> bool {
        self.over.is_none()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: VecDeque<Lane>,
    issued: u64,
}

impl Lanes {
    /// Takes an event in. The lanes that it changed.
    pub(crate) fn see(&mut self, at: f64, event: &Event) -> Vec<Lane> {
        match event {
            Event::Issued { username, ttl } => {
                let end = ttl.map(|ttl| at + ttl.as_secs_f64());
                vec![self.begin(at, username, end)]
            }
            Event::Swapped { generation, username, reason, .. } => {
                self.swap(at, *generation, username, *reason)
            }
            Event::Renewed { generation, granted, last } => self.change(*generation, |lane| {
                lane.renewals.push_back(at);
                if lane.renewals.len() > RENEWALS {
                    lane.renewals.pop_front();
                }
                lane.end = Some(at + granted.as_secs_f64());
                lane.last_renewal = *last;
            }),
            Event::Draining { generation, remaining, .. } => {
                self.change(*generation, |lane| lane.remaining = Some(*remaining))
            }
            Event::Drained { generation, left, .. } => self.change(*generation, |lane| {
                lane.drained = Some(at);
                lane.remaining = Some(*left);
                lane.stage = Stage::Drained;
            }),
            Event::RevokeFailed { generation: Some(generation), .. } => {
                self.change(*generation, |lane| lane.stage = Stage::Unwanted)
            }
            // Of a candidate: the newest that never became current.
            Event::RevokeFailed { generation: None, .. }
            | Event::ProofFailed { rejected: true, .. } => self.refuse(),
            Event::Revoked { username, .. } => self.finish(at, username, Stage::Revoked),
            Event::LeaseEnded { username, .. } => self.finish(at, username, Stage::Ended),
            Event::LoginRejected { generation } | Event::SessionRevoked { generation } => self
                .change(*generation, |lane| {
                    lane.broken.get_or_insert(at);
                }),
            _ => Vec::new(),
        }
    }

    /// The current lease ends then, as health has it: the end of its token is in that.
    pub(crate) fn ends(&mut self, generation: u64, end: f64) -> Option<Lane> {
        /// Health and events read the clock at different instants.
        const TOLERANCE: f64 = 0.3;
        let lane = self.lanes.iter_mut().find(|l| l.generation == Some(generation))?;
        if lane.stage != Stage::Current || lane.end.is_some_and(|e| (e - end).abs() < TOLERANCE) {
            return None;
        }
        lane.end = Some(end);
        Some(lane.clone())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter()
    }

    /// Generations whose login may have connections, with its name.
    pub(crate) fn open(&self) -> Vec<(u64, String)> {
        let open = self.lanes.iter().filter(|l| l.is_open());
        open.filter_map(|l| Some((l.generation?, l.username.clone()))).collect()
    }

    fn begin(&mut self, at: f64, username: &str, end: Option<f64>) -> Lane {
        self.issued += 1;
        let lane = Lane {
            id: self.issued,
            generation: None,
            username: username.to_owned(),
            stage: Stage::Proving,
            reason: None,
            issued: at,
            current: None,
            superseded: None,
            drained: None,
            over: None,
            end,
            last_renewal: false,
            renewals: VecDeque::new(),
            broken: None,
            remaining: None,
        };
        self.lanes.push_back(lane.clone());
        while self.lanes.len() > KEPT {
            let Some(oldest) = self.lanes.iter().position(|l| !l.is_open()) else { break };
            self.lanes.remove(oldest);
        }
        lane
    }

    fn swap(&mut self, at: f64, generation: u64, username: &str, reason: Reason) -> Vec<Lane> {
        let mut changed = Vec::new();
        for lane in self.lanes.iter_mut().filter(|l| l.stage == Stage::Current) {
            lane.stage = Stage::Draining;
            lane.superseded = Some(at);
            changed.push(lane.clone());
        }
        if self.newest(username).is_none() {
            self.begin(at, username, None);
        }
        if let Some(lane) = self.newest(username) {
            lane.stage = Stage::Current;
            lane.generation = Some(generation);
            lane.reason = Some(reason);
            lane.current = Some(at);
            changed.push(lane.clone());
        }
        changed
    }

    fn finish(&mut self, at: f64, username: &str, stage: Stage) -> Vec<Lane> {
        let Some(lane) = self.newest(username) else { return Vec::new() };
        lane.stage = stage;
        lane.over = Some(at);
        lane.remaining = None;
        vec![lane.clone()]
    }

    fn change(&mut self, generation: u64, change: impl FnOnce(&mut Lane)) -> Vec<Lane> {
        let lane = self.lanes.iter_mut().find(|l| l.generation == Some(generation) && l.is_open());
        lane.map_or_else(Vec::new, |lane| {
            change(lane);
            vec![lane.clone()]
        })
    }

    fn refuse(&mut self) -> Vec<Lane> {
        let mut candidates = self.lanes.iter_mut().rev().filter(|l| l.is_open());
        let candidate = candidates.find(|l| l.generation.is_none());
        candidate.map_or_else(Vec::new, |lane| {
            lane.stage = Stage::Unwanted;
            vec![lane.clone()]
        })
    }

    fn newest(&mut self, username: &str) -> Option<&mut Lane> {
        self.lanes.iter_mut().rev().find(|l| l.username == username && l.is_open())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn issued(username: &str) -> Event {
        Event::Issued { username: username.to_owned(), ttl: Some(Duration::from_secs(6)) }
    }

    fn swapped(generation: u64, username: &str) -> Event {
        let (username, reason) = (username.to_owned(), Reason::MaxTtl);
        Event::Swapped { generation, username, reason, proven: true }
    }

    fn revoked(generation: u64, username: &str) -> Event {
        Event::Revoked {
            generation: Some(generation),
            username: username.to_owned(),
            queued: false,
        }
    }

    #[test]
    fn a_login_goes_through_its_stages_and_keeps_their_times() {
        let mut lanes = Lanes::default();
        lanes.see(1.0, &issued("a"));
        lanes.see(1.5, &swapped(1, "a"));
        let granted = Duration::from_secs(4);
        lanes.see(3.0, &Event::Renewed { generation: 1, granted, last: true });
        lanes.see(4.0, &issued("b"));
        assert_eq!(lanes.open(), [(1, "a".to_owned())], "a candidate has no number yet");
        let changed = lanes.see(5.0, &swapped(2, "b"));
        assert_eq!(changed.len(), 2);
        let (took, forced) = (Duration::from_secs(1), Vec::new());
        lanes.see(6.0, &Event::Drained { generation: 1, took, forced, left: 0 });
        assert_eq!(lanes.all().next().unwrap().stage, Stage::Drained);
        lanes.see(6.5, &revoked(1, "a"));
        let [a, b] = lanes.all().collect::<Vec<_>>()[..] else { panic!("two") };
        assert_eq!((a.stage, b.stage), (Stage::Revoked, Stage::Current));
        assert_eq!((a.issued, a.current, a.superseded), (1.0, Some(1.5), Some(5.0)));
        assert_eq!((a.drained, a.over, a.end), (Some(6.0), Some(6.5), Some(7.0)));
        assert!(a.last_renewal && a.renewals == [3.0]);
        assert_eq!(lanes.open(), [(2, "b".to_owned())]);
    }

    #[test]
    fn a_candidate_that_is_not_wanted_ends_too() {
        let mut lanes = Lanes::default();
        lanes.see(1.0, &issued("a"));
        lanes.see(
            2.0,
            &Event::Revoked { generation: None, username: "a".to_owned(), queued: false },
        );
        assert_eq!(lanes.all().next().unwrap().stage, Stage::Revoked);
    }

    #[test]
    fn what_is_not_wanted_and_not_revoked_yet_has_a_stage_of_its_own() {
        let mut lanes = Lanes::default();
        lanes.see(1.0, &issued("a"));
        lanes.see(1.0, &swapped(1, "a"));
        lanes.see(2.0, &issued("b"));
        let (pool, message) = ("pool-1".to_owned(), String::new());
        let changed = lanes.see(3.0, &Event::ProofFailed { pool, rejected: true, message });
        assert_eq!((&*changed[0].username, changed[0].stage), ("b", Stage::Unwanted));
        lanes.see(
            4.0,
            &Event::Revoked { generation: None, username: "b".to_owned(), queued: false },
        );
        lanes.see(5.0, &issued("c"));
        lanes.see(5.0, &swapped(2, "c"));
        let (took, forced) = (Duration::from_secs(1), Vec::new());
        lanes.see(6.0, &Event::Drained { generation: 1, took, forced, left: 0 });
        let error = leasehold::SourceError::unreachable("sealed");
        let retry_in = Some(Duration::from_secs(1));
        let failed = Event::RevokeFailed { generation: Some(1), error, retry_in };
        assert_eq!(lanes.see(7.0, &failed)[0].stage, Stage::Unwanted);
        assert_eq!(lanes.see(8.0, &revoked(1, "a"))[0].stage, Stage::Revoked);
    }

    #[test]
    fn the_end_follows_health_where_it_moved() {
        let mut lanes = Lanes::default();
        lanes.see(1.0, &issued("a"));
        lanes.see(1.0, &swapped(1, "a"));
        assert!(lanes.ends(1, 7.1).is_none());
        assert_eq!(lanes.ends(1, 5.0).unwrap().end, Some(5.0));
    }

    #[test]
    fn many_lanes_are_bounded_and_open_ones_stay() {
        let mut lanes = Lanes::default();
        lanes.see(0.0, &issued("stays"));
        for n in 0..1_000 {
            let name = format!("v{n}");
            lanes.see(1.0, &issued(&name));
            lanes.see(2.0, &Event::Revoked { generation: None, username: name, queued: false });
        }
        assert_eq!(lanes.all().count(), KEPT);
        assert_eq!(lanes.all().next().unwrap().username, "stays");
    }
}
