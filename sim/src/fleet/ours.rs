//! A process on the real lease machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use leasehold::clock::Time;
use leasehold::simulation::{
    Action, Input, LoginId, Machine, Minted, Policy, Proofs, Revocation, SOFT_REVOKE,
};
use leasehold::{ErrorKind, SourceError};

use super::server::{Lost, Work};
use super::{Process, Request, new_vault};
use crate::plan::TokenKind;
use crate::session::Session;
use crate::vault::{LeaseId, Vault, Weather};

/// What `leasehold-vault` gives a request, and a mint.
const PATIENCE: Duration = Duration::from_secs(10);
const MINT_PATIENCE: Duration = Duration::from_secs(120);
/// How long its pools take to let go of a superseded login.
const DRAIN: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub struct Ours {
    /// When it logs in first.
    starts: Time,
    rng: fastrand::Rng,
    machine: Option<Machine>,
    session: Session,
    vault: Vault,
    token_busy: bool,
    current: Option<LeaseId>,
    held: BTreeMap<LoginId, (LeaseId, u32)>,
    drains: VecDeque<(Time, u64)>,
    minted: u32,
}

impl Ours {
    /// One that starts at an instant.
    #[must_use]
    pub fn new(starts: Time, seed: u64) -> Self {
        Self {
            starts,
            rng: fastrand::Rng::with_seed(seed),
            machine: None,
            session: Session::jittered(TokenKind::AppRole, seed ^ 0x9e37_79b9),
            vault: new_vault(),
            token_busy: false,
            current: None,
            held: BTreeMap::new(),
            drains: VecDeque::new(),
            minted: 0,
        }
    }

    fn feed(&mut self, now: Time, input: Input, out: &mut Vec<Request>) {
        let Some(machine) = &mut self.machine else { return };
        let mut actions: VecDeque<Action> = machine.handle(now, input).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Issue { attempt } => {
                    let request = Request::new(Work::Mint, now, MINT_PATIENCE);
                    out.push(Request { attempt, ..request });
                }
                Action::Renew { login, attempt, increment } => {
                    let request = Request::new(Work::Renew, now, PATIENCE);
                    out.push(Request { login, attempt, increment, ..request });
                }
                Action::Revoke { login, how: Revocation::Soft } => {
                    let increment = Duration::from_secs(1);
                    let request = Request::new(Work::Renew, now, PATIENCE);
                    out.push(Request { login, attempt: SOFT_REVOKE, increment, ..request });
                }
                Action::Revoke { login, .. } => {
                    out.push(Request { login, ..Request::new(Work::Revoke, now, PATIENCE) });
                }
                // Postgres is well: what is tried there works.
                Action::Prove { login, .. } => {
                    let proofs = Proofs { proven: 1, ..Proofs::default() };
                    if let Some(machine) = &mut self.machine {
                        actions.extend(machine.handle(now, Input::Proved { login, proofs }));
                    }
                }
                Action::Publish { login, .. } => {
                    self.current = self.held.get(&login).map(|(lease, _)| *lease);
                }
                Action::Drain { generation, .. } => {
                    self.drains.push_back((now + DRAIN, generation));
                }
                Action::Forget { login } => {
                    if let Some((_, epoch)) = self.held.remove(&login) {
                        self.session.release(epoch, now);
                    }
                }
                _ => {}
            }
        }
    }

    /// Leases hear of their tokens.
    fn tell_news(&mut self, now: Time, out: &mut Vec<Request>) {
        for (epoch, state) in self.session.take_news() {
            let of_it: Vec<LoginId> =
                self.held.iter().filter(|(_, held)| held.1 == epoch).map(|(l, _)| *l).collect();
            for login in of_it {
                self.feed(now, Input::Parent { login, state }, out);
            }
        }
    }

    /// Runs what a request does while the server is as the client found it.
    fn with_vault<T>(
        &mut self,
        now: Time,
        lost: Option<Lost>,
        what: impl FnOnce(&mut Session, &mut Vault) -> T,
    ) -> T {
        let was = self.vault.weather();
        if lost.is_some() {
            self.vault.set_weather(now, Weather { down: true, ..was });
        }
        let done = what(&mut self.session, &mut self.vault);
        if lost.is_some() {
            self.vault.set_weather(now, was);
        }
        done
    }
}

fn error(lost: Lost) -> SourceError {
    let (kind, what) = match lost {
        Lost::Refused => (ErrorKind::Unreachable, "connection refused"),
        Lost::Late => (ErrorKind::Timeout, "no answer in time"),
        Lost::GivenUp => (ErrorKind::ServerFault, "context deadline exceeded"),
    };
    SourceError::new(kind, what)
}

impl Process for Ours {
    fn wake(&mut self, now: Time, out: &mut Vec<Request>) {
        if self.machine.is_none() {
            // The session logs in before there is anything to mint with.
            self.token_busy = true;
            out.push(Request::new(Work::Login, now, PATIENCE));
            return;
        }
        if !self.token_busy && self.session.next_due().is_some_and(|at| at <= now) {
            match self.session.due(now) {
                Some(work) => {
                    self.token_busy = true;
                    out.push(Request::new(work, now, PATIENCE));
                }
                None => self.session.look_at_the_clock(now),
            }
        }
        while let Some((_, generation)) = self.drains.pop_front_if(|(at, _)| *at <= now) {
            let input = Input::Drained { generation, forced: Vec::new(), left: 0 };
            self.feed(now, input, out);
        }
        self.feed(now, Input::Tick, out);
        self.tell_news(now, out);
    }

    fn answered(
        &mut self,
        now: Time,
        request: Request,
        lost: Option<Lost>,
        out: &mut Vec<Request>,
    ) -> bool {
        let Request { work, sent, login, attempt, increment, .. } = request;
        let well = match work {
            Work::Login if self.machine.is_none() => {
                self.token_busy = false;
                let done = self.with_vault(now, lost, |session, vault| {
                    session.log_in(vault, now, now).is_ok()
                });
                if done {
                    self.machine = Some(Machine::new(Policy::default(), now, self.rng.u64(..)));
                    self.feed(now, Input::Tick, out);
                } else {
                    // Whoever runs it starts it again.
                    self.starts = now + Duration::from_secs(10).mul_f64(0.5 + self.rng.f64());
                }
                done
            }
            Work::Login | Work::RenewToken | Work::RevokeToken => {
                self.token_busy = false;
                self.with_vault(now, lost, |session, vault| session.tick(vault, now, now));
                lost.is_none()
            }
            Work::Mint => {
                let result = match lost {
                    Some(lost) => Err(error(lost)),
                    None => self.session.call(&mut self.vault, now, now, true, |vault, token| {
                        vault.issue(now, token, 0)
                    }),
                };
                let well = result.is_ok();
                let result = result.map(|(epoch, grant)| {
                    self.minted += 1;
                    self.session.hold(epoch);
                    self.held.insert(attempt, (grant.lease, epoch));
                    Minted {
                        username: format!("v-{}", grant.login.0),
                        ttl: Some(Duration::from_secs(grant.ttl)),
                        renewable: true,
                        revocable: true,
                        parent: self.session.state(epoch),
                        unchanged: false,
                    }
                });
                self.feed(now, Input::Issued { attempt, sent, result }, out);
                well
            }
            Work::Renew => {
                let lease = self.held.get(&login).map(|(lease, _)| *lease);
                let result = match (lost, lease) {
                    (Some(lost), _) => Err(error(lost)),
                    (None, None) => return true,
                    (None, Some(lease)) => {
                        let asked = increment.as_secs();
                        self.session.call(&mut self.vault, now, now, false, |vault, token| {
                            vault.renew(now, token, lease, asked)
                        })
                    }
                };
                let well = result.is_ok();
                let result = result.map(|(_, granted)| Duration::from_secs(granted));
                self.feed(now, Input::Renewed { login, attempt, sent, result }, out);
                well
            }
            Work::Revoke => {
                let lease = self.held.get(&login).map(|(lease, _)| *lease);
                let result = match (lost, lease) {
                    (Some(lost), _) => Err(error(lost)),
                    (None, None) => return true,
                    (None, Some(lease)) => self
                        .session
                        .call(&mut self.vault, now, now, false, |vault, token| {
                            vault.revoke(now, token, lease)
                        })
                        .map(|_| ()),
                };
                let well = result.is_ok();
                self.feed(now, Input::Revoked { login, result }, out);
                well
            }
        };
        self.tell_news(now, out);
        well
    }

    fn next(&self) -> Option<Time> {
        let Some(machine) = &self.machine else {
            return Some(self.starts).filter(|_| !self.token_busy);
        };
        let token = self.session.next_due().filter(|_| !self.token_busy);
        let machine = machine.next_deadline();
        let drain = self.drains.front().map(|(at, _)| *at);
        [token, machine, drain].into_iter().flatten().min()
    }

    fn lease(&self) -> Option<LeaseId> {
        self.current
    }

    fn vault(&mut self) -> &mut Vault {
        &mut self.vault
    }

    fn minted(&self) -> u32 {
        self.minted
    }
}
