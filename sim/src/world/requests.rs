//! Requests on their way, and what the servers answer.

use std::time::Duration;

use leasehold::clock::Time;
use leasehold::simulation::{Input, Proofs, SOFT_REVOKE};
use leasehold::{ErrorKind, SourceError};

use super::{Call, Ev, Held, Issued, World};
use crate::plan::{Fate, FateKind, Source};
use crate::postgres::{Dial, Secret};

/// What the source gives a request but a mint.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a mint.
const MINT_TIMEOUT: Duration = Duration::from_secs(120);
/// What the driver gives a proof.
const PROOF_BOUND: Duration = Duration::from_secs(30);

fn lost() -> SourceError {
    SourceError::new(ErrorKind::Timeout, "no answer")
}

impl World {
    /// Sends a request. What becomes of it was decided by the plan.
    pub(super) fn send(&mut self, call: Call) {
        if self.manual {
            self.pending.push(call);
            return;
        }
        let fate = self.plan.fates.get(self.requests).copied().unwrap_or(Fate::PROMPT);
        self.requests += 1;
        if fate.kind != FateKind::Prompt {
            self.fault(fate.kind.name());
            self.trouble = self.trouble.max(self.real + fate.there + fate.back);
        }
        self.schedule_outside(self.real + fate.there, Ev::Arrive(call, fate));
    }

    /// A request has arrived, or should have.
    pub(super) fn arrive(&mut self, call: Call, fate: Fate) {
        use FateKind as K;
        let twice = fate.kind == K::Twice;
        match call {
            Call::Issue { attempt, sent } => {
                let odd = attempt % 2 == 1;
                let (result, delay) = match fate.kind {
                    K::Never => {
                        if odd {
                            let _ = self.issue();
                        }
                        return;
                    }
                    K::LostBefore => (Err(lost()), MINT_TIMEOUT),
                    K::LostAfter => {
                        let _ = self.issue();
                        (Err(lost()), MINT_TIMEOUT)
                    }
                    K::Cut => {
                        self.issue_cut();
                        (Err(lost()), fate.back)
                    }
                    K::Twice => {
                        let first = self.issue();
                        let _ = self.issue();
                        (first, fate.back)
                    }
                    K::Prompt | K::Slow | K::Late => (self.issue(), fate.back),
                };
                if let Ok(Issued { held: Held { epoch: Some(epoch), .. }, .. }) = &result {
                    self.session.hold(*epoch);
                }
                self.after(delay, Ev::Minted(attempt, sent, result));
            }
            Call::Renew { login, lease, attempt, sent, increment } => {
                let result = match fate.kind {
                    K::LostBefore | K::Never => None,
                    _ => Some(self.renew(login, lease, increment)),
                };
                let (result, delay) = self.answered(login, result, fate);
                let input = Input::Renewed { login, attempt, sent, result };
                // The reply to what stands in for a revocation has no number of its own.
                if twice && attempt != SOFT_REVOKE {
                    self.after(delay, Ev::Input(input.clone()));
                }
                self.after(delay, Ev::Input(input));
            }
            Call::Revoke { login, lease, queued } => {
                let result = match fate.kind {
                    K::LostBefore | K::Never => None,
                    _ => Some(self.revoke(login, lease, queued)),
                };
                let (result, delay) = self.answered(login, result, fate);
                let input = Input::Revoked { login, result };
                self.after(delay, Ev::Input(input));
            }
            Call::Prove { login, secret } => {
                let bound = fate.kind != K::Prompt && fate.kind != K::Slow && !twice;
                let proofs = self.prove(secret, bound);
                let delay = if bound { PROOF_BOUND } else { fate.back };
                self.after(delay, Ev::Input(Input::Proved { login, proofs }));
            }
            Call::Confirm { generation } => {
                let refused = self.prove(self.secret(generation), false).rejected > 0;
                let input = Input::Confirmed { generation, refused };
                if twice {
                    self.after(fate.back, Ev::Input(input.clone()));
                }
                self.after(fate.back, Ev::Input(input));
            }
        }
    }

    /// What the client learns, and after how long.
    fn answered<T>(
        &mut self,
        login: u64,
        result: Option<Result<T, SourceError>>,
        fate: Fate,
    ) -> (Result<T, SourceError>, Duration) {
        let lost_after = matches!(fate.kind, FateKind::LostAfter | FateKind::Cut);
        let late = fate.there + fate.back > REQUEST_TIMEOUT;
        match result {
            Some(result) if !(lost_after || late) => (result, fate.back),
            _ => {
                self.doubt(login);
                (Err(lost()), REQUEST_TIMEOUT.saturating_sub(fate.there))
            }
        }
    }

    /// What is at the server can't be known from here on.
    pub(crate) fn doubt(&mut self, login: u64) {
        if let Some(held) = self.held.get_mut(&login) {
            held.unsure = true;
        }
    }

    /// `GET creds`.
    pub(crate) fn issue(&mut self) -> Result<Issued, SourceError> {
        let (real, now) = (self.real, self.clock());
        match self.plan.source {
            Source::Dynamic => {
                let (epoch, grant) =
                    self.session.call(&mut self.vault, real, now, true, |vault, token| {
                        vault.issue(real, token, 0)
                    })?;
                let secret = Secret::Role { login: grant.login, made: real };
                let held =
                    Held { lease: Some(grant.lease), secret, epoch: Some(epoch), unsure: false };
                Ok(Issued { held, ttl: Some(Duration::from_secs(grant.ttl)) })
            }
            Source::Static { tells_ttl } => {
                let allowed = self.vault.rights().issue;
                self.session.call(&mut self.vault, real, now, false, |vault, token| {
                    vault.lookup_token(real, token).map(|_| ())
                })?;
                if !allowed {
                    return Err(crate::vault::Refusal::Denied.error());
                }
                let secret = Secret::Password(self.postgres.password);
                let left = real.until(self.password_due);
                let ttl = tells_ttl.then(|| Duration::from_secs(left.as_secs().max(1)));
                let held = Held { lease: None, secret, epoch: None, unsure: false };
                Ok(Issued { held, ttl })
            }
        }
    }

    fn issue_cut(&mut self) {
        let (real, now) = (self.real, self.clock());
        if let Source::Dynamic = self.plan.source {
            let _ = self.session.call(&mut self.vault, real, now, true, |vault, token| {
                vault.issue_cut(real, token, 0)
            });
        }
    }

    /// `sys/leases/renew`.
    pub(crate) fn renew(
        &mut self,
        login: u64,
        lease: crate::vault::LeaseId,
        increment: Duration,
    ) -> Result<Duration, SourceError> {
        let (real, now) = (self.real, self.clock());
        // Whole seconds, and never none: that would be the default.
        let increment = increment.as_secs().max(1);
        let done = self.session.call(&mut self.vault, real, now, false, |vault, token| {
            vault.renew(real, token, lease, increment)
        });
        if let Err(error) = &done
            && error.kind() == ErrorKind::LeaseLost
        {
            self.told_gone_soon(login);
        }
        done.map(|(_, granted)| Duration::from_secs(granted))
    }

    /// `sys/leases/revoke`.
    pub(crate) fn revoke(
        &mut self,
        login: u64,
        lease: crate::vault::LeaseId,
        queued: bool,
    ) -> Result<(), SourceError> {
        crate::invariants::i4_drained_then_revoked(self, login);
        let (real, now) = (self.real, self.clock());
        let done = self.session.call(&mut self.vault, real, now, false, |vault, token| {
            if queued {
                vault.revoke_queued(real, token, lease)
            } else {
                vault.revoke(real, token, lease)
            }
        });
        done.map(|_| ())
    }

    /// Every attached pool tries a login.
    pub(crate) fn prove(&mut self, secret: Option<Secret>, unreachable: bool) -> Proofs {
        let mut proofs = Proofs::default();
        for pool in self.pools.iter().filter(|pool| !pool.is_gone()) {
            let dial = match secret {
                _ if unreachable => Dial::Unreachable,
                _ if pool.closed => Dial::In,
                Some(secret) => self.postgres.dial(&self.vault, secret, pool.lag, self.real),
                None => Dial::Refused,
            };
            match dial {
                Dial::In => proofs.proven += 1,
                Dial::Refused => proofs.rejected += 1,
                Dial::Full | Dial::Unreachable => proofs.unreachable += 1,
            }
        }
        proofs
    }

    /// A mint is answered: the driver takes the secret, the machine the rest.
    pub(crate) fn minted(&mut self, attempt: u64, sent: Time, result: Result<Issued, SourceError>) {
        self.unanswered.remove(&attempt);
        self.watches += 1;
        self.watching =
            self.stopping.is_none() && matches!(self.plan.source, Source::Static { .. });
        let result = match result {
            Ok(issued) => {
                if let Secret::Password(seen) = issued.held.secret {
                    self.shown = self.shown.max(seen);
                }
                let state = issued.held.epoch.and_then(|epoch| self.session.state(epoch));
                let minted = self.minted_input(&issued, state);
                if let Some(ttl) = issued.ttl {
                    self.shortest_ttl = self.shortest_ttl.min(ttl);
                }
                self.held.insert(attempt, issued.held);
                Ok(minted)
            }
            Err(error) => Err(error),
        };
        self.tell_news();
        self.feed(Input::Issued { attempt, sent, result });
    }

    /// A credential that comes when the driver is gone cleans up after itself, once.
    pub(super) fn revoke_late(&mut self, issued: Issued) {
        let (real, now) = (self.real, self.clock());
        if let Some(lease) = issued.held.lease {
            let _ = self.session.call(&mut self.vault, real, now, false, |vault, token| {
                vault.revoke(real, token, lease)
            });
        }
    }

    fn told_gone_soon(&mut self, login: u64) {
        self.doubt(login);
    }
}
