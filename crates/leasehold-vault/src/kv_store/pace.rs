//! How often what may change is looked at.

use std::time::Duration;

use leasehold::SourceError;
use leasehold::clock::{Clock, Time};

use crate::schedule;

/// Whoever changes a login keeps the old one valid for a while, or has to live with what breaks
/// meanwhile: half a minute is short for a person, and two requests a minute are nothing for the
/// server.
pub(crate) const USUALLY: Duration = Duration::from_secs(30);

/// When to look next.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    failures: u32,
    /// What the server asked for.
    leave_alone: Duration,
    /// Kept when a wait or a look is dropped, so that the wait is not begun anew.
    due: Option<Time>,
}

impl Pace {
    pub(crate) fn every(every: Duration) -> Self {
        let every = every.max(Duration::from_secs(1));
        Self { every, failures: 0, leave_alone: Duration::ZERO, due: None }
    }

    /// Waits until it is time for another look, of which [`succeeded`](Self::succeeded) or
    /// [`failed`](Self::failed) has to tell before there is a next one. Cancel safe.
    pub(crate) async fn wait(&mut self, clock: &Clock) {
        let due = *self.due.get_or_insert_with(|| {
            // Replicas do not look together.
            let mut pause = self.every.mul_f64(1.0 - 0.2 * fastrand::f64());
            if self.failures > 0 {
                // Asked no more often than if all were well.
                pause = pause.max(schedule::backoff(self.failures, None, None));
            }
            clock.now() + pause + self.leave_alone
        });
        clock.sleep_until(due).await;
    }

    pub(crate) fn succeeded(&mut self) {
        (self.failures, self.leave_alone, self.due) = (0, Duration::ZERO, None);
    }

    /// Whether it is the first failure in a row: told once.
    pub(crate) fn failed(&mut self, e: &SourceError) -> bool {
        (self.failures, self.due) = (self.failures + 1, None);
        self.leave_alone = e.server_retry_after().unwrap_or_default();
        self.failures == 1
    }
}
