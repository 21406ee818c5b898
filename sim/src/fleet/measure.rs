//! What is seen of a fleet.

use std::time::Duration;

use leasehold::clock::Time;

use super::Rules;
use super::server::{Trouble, Work};
use crate::vault::LeaseId;

/// What is counted while it runs.
#[derive(Debug)]
pub(super) struct Measure {
    trouble: Trouble,
    requests: Vec<u32>,
    live: Vec<usize>,
    minted: [u32; 2],
    each: Vec<Seen>,
}

/// Of one process.
#[derive(Clone, Debug, Default)]
struct Seen {
    minted: u32,
    /// The last request about its token failed, and about its login.
    failing: [bool; 2],
    failed_in_the_outage: bool,
    recovered: Option<Time>,
    /// The lease that it had when the outage began, and has.
    had: Option<LeaseId>,
    has: Option<LeaseId>,
}

/// What has become of a fleet.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whose rules it went by.
    pub rules: Rules,
    /// Requests of each second, those that were refused included.
    pub requests: Vec<u32>,
    /// Processes with a login that works, every [`SAMPLE`](super::SAMPLE) from the outage on.
    pub live: Vec<usize>,
    /// Processes.
    pub processes: usize,
    /// Requests per second in the hour before the outage.
    pub mean: f64,
    /// Requests per second in the worst 10 s of the start.
    pub burst_at_start: f64,
    /// The same after the outage.
    pub burst: f64,
    /// Logins made before the outage: one for each process, and what was too much.
    pub minted_before: u32,
    /// Logins made from the outage on.
    pub minted_since: u32,
    /// Logins that were good when the outage began, and were not kept.
    pub lost: usize,
    /// The fewest processes with a login, from the outage on.
    pub fewest_live: usize,
    /// How long processes were without a login from the outage on, all together.
    pub without: Duration,
    /// From the end of the outage until the last process had made good what had failed: each of the
    /// token and the login whose request had failed has had a success. `None`: not all did.
    pub recovered: Option<Duration>,
}

impl Outcome {
    /// The worst 10 s after the outage against the hour before.
    #[must_use]
    pub fn burst_ratio(&self) -> f64 {
        self.burst / self.mean
    }

    /// Logins made for a process, its first one and those from the outage on.
    #[must_use]
    pub fn minted_per_process(&self) -> f64 {
        1.0 + f64::from(self.minted_since) / self.processes as f64
    }
}

impl Measure {
    pub(super) fn new(processes: usize, trouble: Trouble, end: Time) -> Self {
        let seconds = end.since_start().as_secs() as usize + 1;
        Self {
            trouble,
            requests: vec![0; seconds],
            live: Vec::new(),
            minted: [0; 2],
            each: vec![Seen::default(); processes],
        }
    }

    pub(super) fn sent(&mut self, now: Time, _: Work) {
        let second = now.since_start().as_secs() as usize;
        if let Some(requests) = self.requests.get_mut(second) {
            *requests += 1;
        }
    }

    pub(super) fn minted(&mut self, now: Time, p: usize, logins: u32) {
        let phase = usize::from(now >= self.trouble.begins);
        self.minted[phase] += logins;
        self.each[p].minted += logins;
    }

    pub(super) fn answered(&mut self, now: Time, p: usize, work: Work, well: bool) {
        if matches!(work, Work::Revoke | Work::RevokeToken) {
            return;
        }
        let Trouble { begins, ends, slow_until, .. } = self.trouble;
        let seen = &mut self.each[p];
        let was = seen.failing.contains(&true);
        seen.failing[usize::from(work.is_of_token())] = !well;
        let fails = seen.failing.contains(&true);
        if fails && now >= begins && now < slow_until {
            seen.failed_in_the_outage = true;
            seen.recovered = None;
        }
        if was && !fails && seen.failed_in_the_outage && now >= ends && seen.recovered.is_none() {
            seen.recovered = Some(now);
        }
    }

    pub(super) fn sample(&mut self, live: usize) {
        self.live.push(live);
    }

    pub(super) fn had(&mut self, p: usize, lease: Option<LeaseId>) {
        self.each[p].had = lease;
    }

    pub(super) fn has(&mut self, p: usize, lease: Option<LeaseId>) {
        self.each[p].has = lease;
    }

    pub(super) fn outcome(self, rules: Rules) -> Outcome {
        let Trouble { begins, ends, .. } = self.trouble;
        let (begins, ends) =
            (begins.since_start().as_secs() as usize, ends.since_start().as_secs() as usize);
        let hour = &self.requests[begins.saturating_sub(3600)..begins];
        let mean = hour.iter().sum::<u32>() as f64 / hour.len().max(1) as f64;
        let processes = self.each.len();
        let missing: usize = self.live.iter().map(|live| processes - live).sum();
        let failed = self.each.iter().filter(|seen| seen.failed_in_the_outage);
        let last = failed
            .map(|seen| seen.recovered)
            .try_fold(Time::ZERO, |last, at| at.map(|at| last.max(at)));
        let [minted_before, minted_since] = self.minted;
        Outcome {
            rules,
            processes,
            mean,
            burst_at_start: worst(&self.requests[..begins.min(900)]),
            burst: worst(&self.requests[ends..]),
            minted_before,
            minted_since,
            lost: self.each.iter().filter(|s| s.had.is_some() && s.had != s.has).count(),
            fewest_live: self.live.iter().copied().min().unwrap_or_default(),
            without: super::SAMPLE * missing as u32,
            recovered: last.map(|at| at - self.trouble.ends),
            requests: self.requests,
            live: self.live,
        }
    }
}

/// Requests per second in the worst 10 s.
fn worst(seconds: &[u32]) -> f64 {
    let most = seconds.windows(10).map(|window| window.iter().sum::<u32>()).max();
    f64::from(most.unwrap_or_default()) / 10.0
}
