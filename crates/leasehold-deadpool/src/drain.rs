//! How a superseded generation leaves the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::Timeouts;
use leasehold::hook::{DrainOrder, Drained, Pace, Refusal, Verdict};

use crate::control;
use crate::error::{explain, kind, refusal};
use crate::shared::Shared;

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
pub(crate) async fn run(shared: &Arc<Shared>, order: DrainOrder) -> Drained {
    let drain =
        Drain { shared, order, told: AtomicUsize::new(usize::MAX), rolled: AtomicBool::new(false) };
    // Also when the drain is stopped midway.
    let _spares = ClearSpares(shared);
    tokio::select! {
        () = drain.orderly() => Drained::clean(),
        () = drain.order.deadline() => drain.at_deadline().await,
    }
}

struct ClearSpares<'a>(&'a Shared);

impl Drop for ClearSpares<'_> {
    fn drop(&mut self) {
        self.0.spares.clear();
    }
}

struct Drain<'a> {
    shared: &'a Shared,
    order: DrainOrder,
    /// What was last told to remain.
    told: AtomicUsize,
    rolled: AtomicBool,
}

impl Drain<'_> {
    async fn orderly(&self) {
        tokio::join!(self.settle(), async {
            self.roll().await;
            self.end_roll();
            self.adopt_spares().await;
            self.empty().await;
            self.shared.spares.clear();
            self.confirm().await;
        });
    }

    fn generation(&self) -> u64 {
        self.order.generation().number()
    }

    /// Connections of this generation, dialling, idle, borrowed or taken. Older ones have a drain
    /// of their own.
    fn left(&self) -> usize {
        self.shared.ledger.of(self.generation())
    }

    /// Tells when the last connect that was under way at the swap has ended.
    async fn settle(&self) {
        self.shared.dialling.wait(|dialling| dialling.of(self.generation()) == 0).await;
        self.order.settled(&self.shared.name);
    }

    /// Replaces superseded connections one by one, spread over the roll, so that no borrower waits
    /// for a login: opens a spare, and lets one superseded connection go for it, an idle one here or
    /// one that a borrower was about to get. Whoever needs a connection then finds the spare.
    async fn roll(&self) {
        if !self.may_roll() {
            return;
        }
        let _one = tokio::select! {
            one = self.shared.rolling.lock() => one,
            () = self.order.roll_over() => return,
        };
        let mut pace = self.order.pace();
        let (mut again, most) = AGAIN;
        while self.may_roll() {
            self.tell_remaining();
            if !self.shared.spares.is_claimable() && !self.open_spare().await {
                tokio::time::sleep(again).await;
                again = most.min(again * 2);
                continue;
            }
            again = AGAIN.0;
            let superseded = |verdict| verdict != Verdict::Current;
            if self.close_idle(1, |verdict| superseded(verdict) && self.shared.spares.claim()) == 0
                && self.shared.spares.is_claimable()
            {
                self.change().await;
            } else {
                self.pause(&mut pace).await;
            }
        }
    }

    /// Waits for the next one's turn, or until none is left.
    async fn pause(&self, pace: &mut Pace<'_>) {
        let none = self.shared.ledger.wait(|ledger| ledger.of(self.generation()) == 0);
        tokio::select! {
            () = pace.turn(self.left()) => {}
            () = none => {}
        }
    }

    /// Something is left to roll, and no further swap ended the roll.
    fn may_roll(&self) -> bool {
        self.order.may_roll()
            && self.left() > 0
            && self.shared.pool().is_some()
            && self.shared.current().number() == self.generation() + 1
    }

    async fn open_spare(&self) -> bool {
        let dial = self.shared.open_spare();
        let dialled = tokio::select! {
            dialled = tokio::time::timeout(self.shared.connect_timeout, dial) => dialled,
            () = self.order.roll_over() => return false,
        };
        match dialled {
            Ok(Ok(Some(spare))) => {
                self.shared.spares.put(spare);
                true
            }
            Ok(Err(full)) if refusal(&full) == Refusal::Full => {
                self.close_idle(1, |verdict| verdict != Verdict::Current);
                false
            }
            // Fails for borrowers too, who report it.
            _ => false,
        }
    }

    /// I2: from here on none is handed out.
    fn end_roll(&self) {
        self.shared.end_roll(self.generation());
        if !self.rolled.swap(true, Ordering::Relaxed) {
            self.order.rolled(&self.shared.name);
        }
    }

    /// Spares that nobody needed so far replaced idle connections: puts them into the pool, so that
    /// it is as large as before. They come in by a `get` that finds nothing idle, and go back.
    async fn adopt_spares(&self) {
        self.close_idle(usize::MAX, |verdict| verdict == Verdict::Retired);
        let Some(pool) = self.shared.pool() else {
            return;
        };
        // What is made of a spare is there at once; a dial in place of one that a borrower took
        // would hold up everybody.
        let (at_once, bound) = (Some(Duration::ZERO), Some(self.shared.connect_timeout));
        let now = Timeouts { wait: at_once, create: at_once, recycle: bound };
        let mut held = Vec::new();
        while self.shared.spares.len() > 0 {
            let status = pool.status();
            let used = status.size - status.available + status.waiting;
            if used >= status.max_size {
                // In a busy pool borrowers take the spares themselves.
                return;
            }
            match pool.timeout_get(&now).await {
                Ok(client) => held.push(client),
                Err(_) => return,
            }
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
            match control::count(self.shared, self.order.generation()).await {
                Ok(Some(0)) => return,
                // Somebody else's, or one whose end Postgres has not seen yet.
                Ok(_) => {}
                // Asked again until the deadline, which decides.
                Err(error) => tracing::debug!(
                    target: "leasehold",
                    "pool {}: sessions not counted: {}", self.shared.name, kind(&error),
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
        let current = self.shared.current();
        let same = current.number() != self.generation()
            && current.credential().username() == self.order.generation().credential().username();
        same || self.order.generation().lease().id.is_none()
    }

    async fn at_deadline(&self) -> Drained {
        self.end_roll();
        self.shared.spares.clear();
        self.close_idle(usize::MAX, |verdict| verdict == Verdict::Retired);
        if self.login_stays() || !self.order.lease_alive() {
            // The login can't be used to end its sessions, or need not: closed on their return.
            return Drained::at_deadline(Vec::new(), self.left());
        }
        let generation = self.order.generation();
        let ended = control::end_sessions(self.shared, generation);
        let forced = match tokio::time::timeout(END, ended).await {
            Ok(Ok(holders)) => holders,
            failed => {
                let why = match failed {
                    Ok(Err(error)) => explain(&error),
                    _ => format!("no answer within {END:?}"),
                };
                let message = format!(
                    "sessions of {} were not ended by Postgres: {why}; closing our own",
                    generation.credential().username()
                );
                self.order.warn(&self.shared.name, message);
                Vec::new()
            }
        };
        self.shared.abort(self.generation());
        let closed = self.shared.ledger.wait(|ledger| ledger.of(self.generation()) == 0);
        // What is not closed then is reported as left.
        let _ = tokio::time::timeout(CUT, closed).await;
        Drained::at_deadline(forced, self.left())
    }

    fn close_idle(&self, most: usize, mut which: impl FnMut(Verdict) -> bool) -> usize {
        self.shared.close_idle(most, |created| which(self.shared.gate.judge(created)))
    }

    fn tell_remaining(&self) {
        let left = self.left();
        if self.told.swap(left, Ordering::Relaxed) != left {
            self.order.remaining(&self.shared.name, left);
        }
    }

    /// Waits until a connection of this generation ended, at most until the next sweep.
    async fn change(&self) {
        let before = self.left();
        let changed = self.shared.ledger.wait(|ledger| ledger.of(self.generation()) != before);
        let _ = tokio::time::timeout(SWEEP, changed).await;
    }
}
