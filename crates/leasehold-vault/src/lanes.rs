//! How many requests are unanswered at the same time.
//!
//! A process with a thousand roles asks for a thousand logins when it starts, and gives them all
//! back when it ends. Vault works on a few of them at a time whatever comes (its database engine
//! opens 4 connections to a database by default), so that the rest is better kept here, where it
//! costs no socket and no goroutine.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::classify::Op;

/// More than a server works on at once for one database, with some to spare for others.
pub(crate) const USUAL: usize = 16;

/// One that has not been answered by then hangs, and the next one goes: a database that is stuck
/// holds up its own logins, not those of the others. It bounds what hangs all the same, as each
/// request ends: at 120 s to 12 times the limit.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// How many more of what is only read: that costs the server a look into its storage, and no
/// connection to a database. A service reads its settings when it starts, and waits for the last
/// of them: a hundred are there after two round trips.
const READS: usize = 4;

/// Lanes, so that what keeps logins alive, and what ends them, never waits behind requests for
/// new ones, nor does what is only read, or what the application asks a Transit engine. What
/// concerns the session's own token is one request at a time and passes by.
pub(crate) struct Lanes {
    making: Semaphore,
    keeping: Semaphore,
    reading: Semaphore,
    serving: Semaphore,
}

/// The right to send one request.
pub(crate) struct Pass<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

impl Lanes {
    pub(crate) fn new(most: usize) -> Self {
        let lane = |most: usize| Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS));
        let reading = lane(most.max(1).saturating_mul(READS));
        Self { making: lane(most), keeping: lane(most), reading, serving: lane(most) }
    }

    fn of(&self, op: Op) -> Option<&Semaphore> {
        match op {
            Op::Issue | Op::Privileges => Some(&self.making),
            Op::Write | Op::Patch | Op::Delete => Some(&self.making),
            Op::Read | Op::List => Some(&self.reading),
            Op::Renew | Op::Revoke => Some(&self.keeping),
            Op::Transit => Some(&self.serving),
            Op::Login | Op::TokenLookup | Op::TokenRenew | Op::TokenRevoke => None,
            Op::Health | Op::WrapLookup | Op::Unwrap => None,
        }
    }

    /// Waits until `op` may be sent. First come, first served; one who stops waiting takes nobody's
    /// turn.
    pub(crate) async fn enter(&self, op: Op) -> Pass<'_> {
        let Some(lane) = self.of(op) else { return Pass { _permit: None } };
        // Never closed.
        Pass { _permit: lane.acquire().await.ok() }
    }
}

impl Pass<'_> {
    /// Waits for the `answer`, and counts as long as that does not hang.
    pub(crate) async fn until_answered<T>(self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        if let Ok(answered) = tokio::time::timeout(HANGS_AFTER, &mut answer).await {
            return answered;
        }
        drop(self);
        answer.await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::{pending, ready};

    use tokio::time::{Instant, timeout};

    use super::*;

    /// None of the futures here waits for anything but a turn.
    const NOW: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn renewals_and_revocations_pass_mints_and_the_tokens_own_calls_pass_all() {
        let lanes = Lanes::new(2);
        let _mints = (lanes.enter(Op::Issue).await, lanes.enter(Op::Write).await);
        assert!(timeout(NOW, lanes.enter(Op::Issue)).await.is_err(), "two at a time");
        let mut reads = Vec::new();
        for _ in 0..2 * READS {
            reads.push(lanes.enter(Op::Read).await);
        }
        assert!(timeout(NOW, lanes.enter(Op::List)).await.is_err(), "some more");
        let renewals = (lanes.enter(Op::Renew).await, lanes.enter(Op::Revoke).await);
        assert!(timeout(NOW, lanes.enter(Op::Renew)).await.is_err(), "two at a time");
        for op in [Op::Login, Op::TokenRenew, Op::TokenRevoke, Op::Health] {
            lanes.enter(op).await;
        }
        let _transit = (lanes.enter(Op::Transit).await, lanes.enter(Op::Transit).await);
        assert!(timeout(NOW, lanes.enter(Op::Transit)).await.is_err(), "two at a time");
        renewals.0.until_answered(ready(())).await;
        lanes.enter(Op::Revoke).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_holds_up_nobody_for_long_and_still_gets_its_answer() {
        let lanes = Lanes::new(1);
        let begun = Instant::now();
        let late = async {
            tokio::time::sleep(HANGS_AFTER * 3).await;
            "late"
        };
        let hanging = async { lanes.enter(Op::Issue).await.until_answered(late).await };
        let next = async {
            let pass = lanes.enter(Op::Issue).await;
            (begun.elapsed(), timeout(NOW, pass.until_answered(pending::<()>())).await)
        };
        let (answer, (waited, _)) = tokio::join!(biased; hanging, next);
        assert_eq!((answer, waited), ("late", HANGS_AFTER));
    }
}
