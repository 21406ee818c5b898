//! A fleet on one Vault: thousands of processes, each with the real lease machine, a token and a
//! lease, through an outage and what comes after it; and the same fleet on the algorithms of
//! others.
//!
//! Each process has a model of Vault for itself, since no lease of one bears on those of another.
//! What they share is the [server](server::Server): its time, and whether it is there.

pub mod measure;
pub mod ours;
pub mod peers;
pub mod server;
pub mod svg;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use leasehold::clock::Time;

use crate::vault::{AppRole, LeaseId, LeaseState, Role, Vault, Weather};
use measure::{Measure, Outcome};
use ours::Ours;
use peers::{Algorithm, Peer};
use server::{Lost, Server, Trouble, Work};

/// The TTL of leases and tokens.
pub const TTL: Duration = Duration::from_secs(3600);
/// The maximum TTL of a lease.
const MAX_TTL: u64 = 24 * 3600;
/// The same of a token: long enough to play no part.
const TOKEN_MAX_TTL: u64 = 10 * 24 * 3600;

/// What the fleet goes through.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many processes.
    pub processes: usize,
    /// All of them start within this time, evenly at random.
    pub start_within: Duration,
    /// When the outage begins.
    pub outage_at: Duration,
    /// How long it is.
    pub outage: Duration,
    /// How long the server is slow after it.
    pub slow_for: Duration,
    /// What is slow takes so many times as long.
    pub slowness: u32,
    /// How much longer it is looked at after the outage.
    pub after: Duration,
    /// Decides everything else.
    pub seed: u64,
}

impl Plan {
    /// Four hours and fifty minutes in, a time at which each of the compared algorithms has renewals
    /// due: those that go in step would else be lucky.
    pub const FULL: Self = Self {
        processes: 10_000,
        start_within: Duration::from_secs(60),
        outage_at: Duration::from_secs(290 * 60),
        outage: Duration::from_secs(20 * 60),
        slow_for: Duration::from_secs(5 * 60),
        slowness: 4,
        after: Duration::from_secs(2 * 3600),
        seed: 1,
    };

    fn trouble(&self) -> Trouble {
        let begins = Time::from_start(self.outage_at);
        let ends = begins + self.outage;
        Trouble { begins, ends, slow_until: ends + self.slow_for, slowness: self.slowness }
    }
}

/// Whose rules a fleet goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The real lease machine.
    Leasehold,
    /// What others do.
    Peer(Algorithm),
}

impl Rules {
    /// All, ours first.
    pub const ALL: [Self; 4] = [
        Self::Leasehold,
        Self::Peer(Algorithm::Fixed),
        Self::Peer(Algorithm::Watcher),
        Self::Peer(Algorithm::BeforeTheEnd),
    ];

    /// For tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leasehold => "Leasehold",
            Self::Peer(algorithm) => algorithm.name(),
        }
    }

    /// For JSON.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Leasehold => "leasehold",
            Self::Peer(Algorithm::Fixed) => "fixed_interval",
            Self::Peer(Algorithm::Watcher) => "lifetime_watcher",
            Self::Peer(Algorithm::BeforeTheEnd) => "before_the_end",
        }
    }
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What is asked.
    pub work: Work,
    /// How long the client waits.
    pub patience: Duration,
    /// When it was sent.
    pub sent: Time,
    /// The machine's number of a login.
    pub login: u64,
    /// The machine's number of the request.
    pub attempt: u64,
    /// What a renewal asks for.
    pub increment: Duration,
}

impl Request {
    fn new(work: Work, now: Time, patience: Duration) -> Self {
        Self { work, patience, sent: now, login: 0, attempt: 0, increment: TTL }
    }
}

/// One process: what it does, and its part of Vault.
pub trait Process {
    /// Does what is due. Requests are put on `out`.
    fn wake(&mut self, now: Time, out: &mut Vec<Request>);
    /// A request has come to its end; what it does at the server, it does now. `true`: well.
    fn answered(
        &mut self,
        now: Time,
        request: Request,
        lost: Option<Lost>,
        out: &mut Vec<Request>,
    ) -> bool;
    /// When something is due.
    fn next(&self) -> Option<Time>;
    /// The lease of the login in use.
    fn lease(&self) -> Option<LeaseId>;
    /// Its part of Vault.
    fn vault(&mut self) -> &mut Vault;
    /// Logins made for it so far.
    fn minted(&self) -> u32;
}

fn new_vault() -> Vault {
    let ttl = TTL.as_secs();
    let role = Role { default_ttl: ttl, max_ttl: MAX_TTL };
    Vault::new(role, AppRole::new(ttl, TOKEN_MAX_TTL))
}

/// Whether the login in use is one that Vault has not ended, and whose time is not over.
fn has_login(process: &mut impl Process, now: Time) -> bool {
    let Some(lease) = process.lease() else { return false };
    let vault = process.vault();
    let live = vault.lease(lease).is_some_and(|l| l.state == LeaseState::Live);
    live && vault.effective_end(lease).is_none_or(|end| end > now)
}

enum What {
    Wake(usize),
    Answer(usize, Request, Option<Lost>),
    Sample,
    OutageBegins,
    OutageEnds,
}

struct Event {
    at: Time,
    number: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    /// The earliest is the greatest, which is what a heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// How often it is counted who has a login, from the outage on.
pub const SAMPLE: Duration = Duration::from_secs(10);

struct Fleet<P> {
    processes: Vec<P>,
    /// When each is woken next.
    wakes: Vec<Option<Time>>,
    server: Server,
    events: BinaryHeap<Event>,
    number: u64,
    out: Vec<Request>,
    measure: Measure,
}

/// Takes a fleet through a plan.
#[must_use]
pub fn run(plan: &Plan, rules: Rules) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let mut starts: Vec<Time> = (0..plan.processes)
        .map(|_| Time::from_start(plan.start_within.mul_f64(rng.f64())))
        .collect();
    starts.sort_unstable();
    let seeds: Vec<u64> = starts.iter().map(|_| rng.u64(..)).collect();
    let each = starts.iter().zip(seeds);
    match rules {
        Rules::Leasehold => {
            through(plan, rules, each.map(|(at, seed)| Ours::new(*at, seed)).collect())
        }
        Rules::Peer(algorithm) => {
            let peer = |(at, seed): (&Time, u64)| Peer::new(algorithm, *at, seed);
            through(plan, rules, each.map(peer).collect())
        }
    }
}

fn through<P: Process>(plan: &Plan, rules: Rules, processes: Vec<P>) -> Outcome {
    let trouble = plan.trouble();
    let count = processes.len();
    let mut fleet = Fleet {
        processes,
        wakes: vec![None; count],
        server: Server::new(trouble),
        events: BinaryHeap::new(),
        number: 0,
        out: Vec::new(),
        measure: Measure::new(count, trouble, trouble.ends + plan.after),
    };
    for p in 0..count {
        fleet.tend(p, Time::ZERO);
    }
    fleet.put(trouble.begins, What::OutageBegins);
    fleet.put(trouble.begins, What::Sample);
    fleet.put(trouble.ends, What::OutageEnds);
    while let Some(event) = fleet.events.pop() {
        if event.at > trouble.ends + plan.after {
            break;
        }
        fleet.happen(event.at, event.what);
    }
    fleet.measure.outcome(rules)
}

impl<P: Process> Fleet<P> {
    fn put(&mut self, at: Time, what: What) {
        self.number += 1;
        self.events.push(Event { at, number: self.number, what });
    }

    fn happen(&mut self, now: Time, what: What) {
        match what {
            What::Wake(p) => {
                if self.wakes[p] != Some(now) {
                    return;
                }
                self.wakes[p] = None;
                self.processes[p].wake(now, &mut self.out);
                self.tend(p, now);
            }
            What::Answer(p, request, lost) => {
                let minted = self.processes[p].minted();
                let well = self.processes[p].answered(now, request, lost, &mut self.out);
                self.measure.minted(now, p, self.processes[p].minted() - minted);
                self.measure.answered(now, p, request.work, well);
                self.tend(p, now);
            }
            What::Sample => {
                let live =
                    self.processes.iter_mut().filter_map(|p| has_login(p, now).then_some(()));
                let live = live.count();
                self.measure.sample(live);
                self.put(now + SAMPLE, What::Sample);
            }
            What::OutageBegins => {
                for (p, process) in self.processes.iter_mut().enumerate() {
                    self.measure.had(p, process.lease().filter(|_| has_login(process, now)));
                    process.vault().set_weather(now, Weather { down: true, ..Weather::default() });
                }
            }
            What::OutageEnds => {
                for process in &mut self.processes {
                    process.vault().set_weather(now, Weather::default());
                }
            }
        }
    }

    /// Sends what a process wants sent, and sets its alarm.
    fn tend(&mut self, p: usize, now: Time) {
        for request in std::mem::take(&mut self.out) {
            self.measure.sent(now, request.work);
            let (at, lost) = self.server.accept(now, request.work, request.patience);
            self.put(at, What::Answer(p, request, lost));
        }
        self.measure.has(p, self.processes[p].lease());
        let next = self.processes[p].next().map(|at| at.max(now));
        if let Some(at) = next.filter(|_| next != self.wakes[p]) {
            self.put(at, What::Wake(p));
        }
        self.wakes[p] = next;
    }
}
