//! The end, in order.

use std::time::Duration;

use super::policy::SHUTDOWN_WRAP_UP;
use super::{Action, Login, Machine};
use crate::clock::Time;
use crate::event::Reason;
use crate::source::ErrorKind;

/// A shutdown under way.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "simulation", derive(Hash))]
pub(super) struct Stopping {
    pub(super) wrap_up: Time,
    finished: bool,
}

impl Stopping {
    pub(super) fn next_look(&self) -> Option<Time> {
        (!self.finished).then_some(self.wrap_up)
    }
}

/// A lease that a shutdown had to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remains {
    /// Its user name; `None` for a mint that was still unanswered.
    pub username: Option<String>,
    /// It ends by itself after this; `None` where that is not known.
    pub ends_in: Option<Duration>,
    /// Why it was left.
    pub why: String,
    /// It was refused and not failed: should its token be revoked, the lease goes too.
    pub(crate) goes_with_its_token: bool,
}

impl std::fmt::Display for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self.username.as_deref().unwrap_or("an unanswered mint");
        write!(f, "{user}: {}", self.why)?;
        match self.ends_in {
            Some(ends_in) => write!(f, "; ends by itself in {ends_in:.0?}"),
            None => Ok(()),
        }
    }
}

impl Machine {
    pub(super) fn on_shutdown(&mut self, now: Time, deadline: Time) {
        if let Some(stopping) = &mut self.stopping {
            // A second call can only hurry.
            stopping.wrap_up = stopping.wrap_up.min(deadline + SHUTDOWN_WRAP_UP);
        } else {
            let wrap_up = deadline + SHUTDOWN_WRAP_UP;
            self.stopping = Some(Stopping { wrap_up, finished: false });
            self.out.push(Action::ClosePools);
            if let Some(candidate) = self.rotation.take().and_then(|r| r.candidate) {
                self.retire(candidate);
            }
            self.reprove = None;
            if let Some(current) = self.current.take() {
                // A closed pool hands out nothing: there is nothing to roll, only to wait for.
                self.begin_drain(now, current, Reason::Requested);
            }
        }
        for draining in &mut self.draining {
            draining.bring_forward(deadline);
        }
    }

    pub(super) fn shutdown_step(&mut self, now: Time) {
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        let asked = self.mints.is_empty() && (self.given_up.is_empty() || broken!(ForgetsMints));
        // What is left to its TTL is not waited for.
        let settled = self.retiring.iter().all(|r| r.left.is_some());
        let settled = settled || broken!(WaitsForNoRevocation);
        let drained = self.draining.is_empty() || broken!(FinishesOverDrains);
        let clear = asked && drained && settled;
        if stopping.finished || !(clear || now >= stopping.wrap_up) {
            return;
        }
        stopping.finished = true;
        let left = |login: &Login, why: &str| Remains {
            username: Some(login.username.clone()),
            ends_in: login.effective_end().map(|end| now.until(end)),
            why: why.to_owned(),
            goes_with_its_token: false,
        };
        let draining =
            (self.draining.iter()).map(|d| left(&d.login, "its connections were not gone in time"));
        let told = self.retiring.iter().filter(|_| !broken!(WaitsForNoRevocation));
        let retiring = told.map(|r| match &r.left {
            None => left(&r.login, "it could not be revoked in time"),
            Some(error) => {
                let refused = matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotRenewable);
                let why = format!("it could not be revoked ({error})");
                Remains { goes_with_its_token: refused, ..left(&r.login, &why) }
            }
        });
        let given_up = self.given_up.iter().filter(|_| !broken!(ForgetsMints));
        let minting = self.mints.iter().chain(given_up).map(|_| Remains {
            username: None,
            ends_in: None,
            why: "a request to mint was not answered; a late credential is revoked if this \
                  process still runs"
                .to_owned(),
            goes_with_its_token: false,
        });
        let remains = draining.chain(retiring).chain(minting).collect();
        self.out.push(Action::Finished(remains));
    }
}
