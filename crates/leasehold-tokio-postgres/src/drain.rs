//! How a superseded generation leaves the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use leasehold::hook::{DrainOrder, Drained, Pace, Refusal, Verdict};
use tokio::sync::oneshot;

use crate::control;
use crate::diagnosis::{explain, kind};
use crate::engine::{Engine, Pooled};

/// deadpool tells nobody when a connection comes back, so idle ones are looked for this often.
const SWEEP: Duration = Duration::from_millis(15);
/// How often the server is asked: first, and at most.
const ASK: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));
/// When a spare that could not be dialled is tried again: first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// What the end at the deadline may take. Short: the lease's end may be near.
const END: Duration = Duration::from_secs(2);
/// How long sockets that were cut get to be closed.
const CUT: Duration = Duration::from_secs(1);

/// Gets rid of the generation of `order`.
pub(crate) async fn run(engine: &Arc<Engine>, order: DrainOrder) -> Drained {
    let drain =
        Drain { engine, order, told: AtomicUsize::new(usize::MAX), rolled: AtomicBool::new(false) };
    // Also when the drain is stopped midway.
    let _spares = ClearSpares(engine);
    tokio::select! {
        () = drain.orderly() => Drained::clean(),
        () = drain.order.deadline() => drain.at_deadline().await,
    }
}

struct ClearSpares<'a>(&'a Engine);

impl Drop for ClearSpares<'_> {
    fn drop(&mut self) {
        self.0.clear_spares();
    }
}

struct Drain<'a> {
    engine: &'a Engine,
    order: DrainOrder,
    /// What was last told to remain.
    told: AtomicUsize,
    rolled: AtomicBool,
}

impl Drain<'_> {
    async fn orderly(&self) {
        let (tell, settled) = oneshot::channel();
        let settle = async {
            self.settle().await;
            let _ = tell.send(());
        };
        tokio::join!(settle, async {
            self.roll(settled).await;
            self.end_roll();
            self.adopt_spares().await;
            self.empty().await;
            self.engine.clear_spares();
            self.confirm().await;
        });
    }

    fn generation(&self) -> u64 {
        self.order.generation().number()
    }

    /// Connections of this generation, dialling, idle, borrowed or taken. Older ones have a drain
    /// of their own.
    fn left(&self) -> usize {
        self.engine.ledger.of(self.generation())
    }

    /// Tells when the last connect that was under way at the swap has ended.
    async fn settle(&self) {
        self.engine.dialling.wait(|dialling| dialling.of(self.generation()) == 0).await;
        self.order.settled(self.engine.name());
    }

    /// Replaces superseded connections one by one, spread over the roll, so that no borrower waits
    /// for a login: opens a spare, and lets one superseded connection go for it, an idle one here or
    /// one that a borrower was about to get. Whoever needs a connection then finds the spare.
    async fn roll(&self, settled: oneshot::Receiver<()>) {
        if !self.engine.pool().is_some_and(Pooled::rolls) {
            // A dial that was overtaken is made anew: with the last one the old login is handed out
            // no more.
            tokio::select! {
                _ = settled => {}
                () = self.order.roll_over() => {}
            }
        }
        if !self.may_roll() {
            return;
        }
        let _one = tokio::select! {
            one = self.engine.rolling.lock() => one,
            () = self.order.roll_over() => return,
        };
        let mut pace = self.order.pace();
        let (mut again, most) = AGAIN;
        while self.may_roll() {
            self.tell_remaining();
            if !self.engine.spare_waits() && !self.open_spare().await {
                tokio::time::sleep(again).await;
                again = most.min(again * 2);
                continue;
            }
            again = AGAIN.0;
            if !self.engine.replace_idle() && self.engine.spare_waits() {
                self.change().await;
            } else {
                self.pause(&mut pace).await;
            }
        }
    }

    /// Waits for the next one's turn, or until none is left.
    async fn pause(&self, pace: &mut Pace<'_>) {
        let none = self.engine.ledger.wait(|ledger| ledger.of(self.generation()) == 0);
        tokio::select! {
            () = pace.turn(self.left()) => {}
            () = none => {}
        }
    }

    /// Something is left to roll, and no further swap ended the roll.
    fn may_roll(&self) -> bool {
        self.order.may_roll()
            && self.left() > 0
            && self.engine.pool().is_some_and(Pooled::rolls)
            && self.engine.current().number() == self.generation() + 1
    }

    async fn open_spare(&self) -> bool {
        let Some(pool) = self.engine.pool() else {
            return false;
        };
        let dialled = tokio::select! {
            dialled = tokio::time::timeout(self.engine.connect_timeout(), pool.open_spare()) => dialled,
            () = self.order.roll_over() => return false,
        };
        match dialled {
            Ok(Ok(opened)) => opened,
            Ok(Err(Refusal::Full)) => {
                self.close_idle(1, |verdict| verdict != Verdict::Current);
                false
            }
            // Fails for borrowers too, who report it.
            _ => false,
        }
    }

    /// I2: from here on none is handed out.
    fn end_roll(&self) {
        self.engine.end_roll(self.generation());
        if !self.rolled.swap(true, Ordering::Relaxed) {
            self.order.rolled(self.engine.name());
        }
    }

    /// Spares that nobody needed so far replaced idle connections.
    async fn adopt_spares(&self) {
        self.close_idle(usize::MAX, |verdict| verdict == Verdict::Retired);
        if let Some(pool) = self.engine.pool() {
            pool.adopt_spares().await;
        }
    }

    /// Closes what comes back, until nothing is left.
    async fn empty(&self) {
        loop {
            self.close_idle(usize::MAX, |verdict| verdict == Verdict::Retired);
            self.tell_remaining();
            if self.left() == 0 {
                return;
            }
            self.change().await;
        }
    }

    /// I4: Postgres, too, shows no session of this login any more.
    async fn confirm(&self) {
        if self.login_stays() {
            return;
        }
        let (mut pace, most) = ASK;
        loop {
            match control::count(self.engine, self.order.generation()).await {
                Ok(Some(0)) => return,
                // Somebody else's, or one whose end Postgres has not seen yet.
                Ok(_) => {}
                // Asked again until the deadline, which decides.
                Err(error) => tracing::debug!(
                    target: "leasehold",
                    "pool {}: sessions not counted: {}", self.engine.name(), kind(&error),
                ),
            }
            tokio::time::sleep(pace).await;
            pace = most.min(pace * 2);
        }
    }

    /// Without a lease the login is not ours alone and does not end with us: a static role, a file.
    /// Or the next generation has the same user name. Either way our sessions can't be told from
    /// others on the server, and there is no need to end any.
    fn login_stays(&self) -> bool {
        let current = self.engine.current();
        let same = current.number() != self.generation()
            && current.credential().username() == self.order.generation().credential().username();
        same || self.order.generation().lease().id.is_none()
    }

    async fn at_deadline(&self) -> Drained {
        self.end_roll();
        self.engine.clear_spares();
        self.close_idle(usize::MAX, |verdict| verdict == Verdict::Retired);
        if self.login_stays() || !self.order.lease_alive() {
            // The login can't be used to end its sessions, or need not: closed on their return.
            return Drained::at_deadline(Vec::new(), self.left());
        }
        let generation = self.order.generation();
        let ended = control::end_sessions(self.engine, generation);
        let (forced, gone) = match tokio::time::timeout(END, ended).await {
            Ok(Ok(ended)) => ended,
            failed => {
                let why = match failed {
                    Ok(Err(error)) => explain(&error),
                    _ => format!("no answer within {END:?}"),
                };
                let message = format!(
                    "sessions of {} were not ended by Postgres: {why}; closing our own",
                    generation.credential().username()
                );
                self.order.warn(self.engine.name(), message);
                (Vec::new(), false)
            }
        };
        self.engine.abort(self.generation());
        if gone {
            // What we still count is a dead socket whose borrower has not noticed: a blocking client.
            return Drained::at_deadline(forced, 0);
        }
        let closed = self.engine.ledger.wait(|ledger| ledger.of(self.generation()) == 0);
        // What is not closed then is reported as left.
        let _ = tokio::time::timeout(CUT, closed).await;
        Drained::at_deadline(forced, self.left())
    }

    fn close_idle(&self, most: usize, which: impl FnMut(Verdict) -> bool) -> usize {
        self.engine.close_idle(most, which)
    }

    fn tell_remaining(&self) {
        let left = self.left();
        if self.told.swap(left, Ordering::Relaxed) != left {
            self.order.remaining(self.engine.name(), left);
        }
    }

    /// Waits until a connection of this generation ended, at most until the next sweep.
    async fn change(&self) {
        let before = self.left();
        let changed = self.engine.ledger.wait(|ledger| ledger.of(self.generation()) != before);
        let _ = tokio::time::timeout(SWEEP, changed).await;
    }
}
