//! Getting rid of a superseded generation.
//!
//! 1. Wait for the dials in flight with its login, and let the gate know what they made.
//! 2. Roll: this task takes one connection after another, at a pace, so that superseded ones are
//!    replaced at its expense while borrowers still get them.
//! 3. Harden: from now on none is handed out. Sweep the idle ones; borrowed ones close on return.
//! 4. Confirm with the server that no session is left, or deal with the deadline.

use std::time::Duration;

use leasehold::Generation;
use leasehold::hook::{DrainOrder, Drained, ManagedPool};
use tokio::time::Instant;

use crate::managed::Managed;
use crate::ours;

/// A roll does not wait longer for dials in flight. What they make later is caught up with.
const DIALS_BOUND: Duration = Duration::from_secs(1);
/// The strong count of an `Arc` wakes nobody.
const DIALS_POLL: Duration = Duration::from_millis(1);
/// Between walks that found nothing to replace, while something is left: so long at first, or this
/// many times what the walk took. Grows by a half to the time between two polls.
const ROLL_PACE: Duration = Duration::from_millis(20);
const ROLL_REST: u32 = 4;
/// After a failed dial: doubles with each, to so much. A superseded connection was lost to it.
const ROLL_RETRY: Duration = Duration::from_millis(100);
const ROLL_RETRY_MOST: Duration = Duration::from_secs(1);
/// Between sweeps and counts: at first, and at most. In between it grows by a quarter.
const FIRST_POLL: Duration = Duration::from_millis(15);
const LAST_POLL: Duration = Duration::from_millis(250);
/// Sweeping replaces connections where `min_connections` is set, at the server's speed.
const SWEEP_BOUND: Duration = Duration::from_secs(1);
/// For sessions that were told to end.
const END_BOUND: Duration = Duration::from_secs(3);

pub(crate) async fn run(pool: &Managed, order: DrainOrder) -> Drained {
    let drain = Drain { pool, order: &order, begun: Instant::now() };
    let drained = drain.run().await;
    // Its session may be of a login that is revoked next. Another drain opens it anew.
    pool.control.close().await;
    drained
}

/// A pool that was not built by us: what it has is of other logins, of which nothing is known.
pub(crate) async fn replace_foreign(pool: &Managed) {
    let before = pool.shared().provider.current().number().saturating_sub(1);
    let ended = async {
        while pool.shared().dials.superseded_up_to(before) > 0 {
            tokio::time::sleep(DIALS_POLL).await;
        }
    };
    let ended = tokio::time::timeout(DIALS_BOUND, ended).await.is_ok();
    pool.shared().gate.raise().await;
    if ended {
        pool.shared().dials.settled(before);
    }
    pool.shared().gate.harden();
    let _ = tokio::time::timeout(SWEEP_BOUND, ours::sweep(pool.pool())).await;
}

struct Drain<'a> {
    pool: &'a Managed,
    order: &'a DrainOrder,
    begun: Instant,
}

impl Drain<'_> {
    async fn run(&self) -> Drained {
        {
            let _one = tokio::select! {
                one = self.pool.rolling.lock() => Some(one),
                // The roll of the generation before is not over, this one is.
                () = self.order.roll_over() => {
                    self.harden();
                    None
                }
                () = self.order.deadline() => None,
            };
            self.wait_for_dials().await;
            self.raise().await;
            // Dialled while there is time: on a busy machine a login takes long.
            let ready_to_count = async {
                self.count().await;
                std::future::pending().await
            };
            tokio::select! {
                () = self.roll() => {}
                () = ready_to_count => {}
                () = self.order.roll_over() => {}
                () = self.order.deadline() => {}
            }
            self.harden();
        }
        self.order.rolled(self.pool.name());
        let mut last = None;
        tokio::select! {
            biased;
            () = self.until_gone(&mut last) => return Drained::clean(),
            () = self.order.deadline() => {}
            () = self.finish_close() => {}
        }
        self.at_deadline(last).await
    }

    /// Nobody else has this login: a dynamic role. Only its sessions can be told from others', and
    /// only they end with the lease; those of a login that stays are recycled at leisure.
    fn is_exclusive(&self) -> bool {
        self.old().lease().id.is_some()
    }

    /// A further swap retired what was superseded, and superseded others, which have a roll of
    /// their own.
    fn is_overtaken(&self) -> bool {
        self.pool.shared().provider.current().number() > self.old().number() + 1
    }

    /// I2: from here on none is handed out.
    fn harden(&self) {
        if !self.is_overtaken() {
            self.pool.shared().gate.harden();
        }
    }

    fn old(&self) -> &Generation {
        self.order.generation()
    }

    fn dials(&self) -> usize {
        let dials = self.pool.shared().dials.up_to(self.old().number(), self.pool.pool());
        // No dial outlasts the timeout of the `acquire` that wants it: somebody keeps the options.
        let acquire_timeout = self.pool.pool().options().get_acquire_timeout();
        if self.begun.elapsed() > acquire_timeout { 0 } else { dials }
    }

    async fn wait_for_dials(&self) {
        let ended = async {
            while self.dials() > 0 {
                tokio::time::sleep(DIALS_POLL).await;
            }
        };
        let no_longer = async {
            self.order.roll_over().await;
            self.harden();
            std::future::pending().await
        };
        tokio::select! {
            () = ended => {}
            () = no_longer => {}
            () = self.order.deadline() => {}
            () = tokio::time::sleep(DIALS_BOUND) => self.order.warn(
                self.pool.name(),
                format!(
                    "connects with the superseded login of generation {} are still in flight, or \
                     the application keeps PgPool::connect_options(); going on without them",
                    self.old().number()
                ),
            ),
        }
    }

    /// Tells the gate what the dials in flight until now have made.
    async fn raise(&self) {
        let ended = self.dials() == 0;
        self.pool.shared().gate.raise().await;
        if ended {
            self.pool.shared().dials.settled(self.old().number());
            self.order.settled(self.pool.name());
        }
    }

    /// Replaces superseded connections one by one, spread over the roll.
    async fn roll(&self) {
        let (mut retry, mut rest) = (ROLL_RETRY, ROLL_PACE);
        let mut left = self.pool.pool().size() as usize;
        let mut pace = self.order.pace();
        while self.order.may_roll() && !self.is_overtaken() && !self.pool.pool().is_closed() {
            let begun = Instant::now();
            match self.replace_one().await {
                Ok(true) => {
                    (retry, rest) = (ROLL_RETRY, ROLL_PACE);
                    left = left.saturating_sub(1);
                    if left == 0 && self.is_exclusive() {
                        // Borrowers replace some too, and listeners are not the pool's. Postgres
                        // takes a moment to see a session end.
                        tokio::time::sleep(ROLL_PACE).await;
                        match self.count().await {
                            Some(0) => return,
                            counted => left = counted.unwrap_or(1),
                        }
                    }
                    pace.turn(left).await;
                }
                // What is borrowed now can be replaced when it comes back, until time is up.
                Ok(false) if self.is_exclusive() && self.count().await != Some(0) => {
                    tokio::time::sleep(rest.max(begun.elapsed() * ROLL_REST)).await;
                    rest = (rest + rest / 2).min(LAST_POLL);
                }
                Ok(false) => return,
                Err(_) => {
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(ROLL_RETRY_MOST);
                }
            }
        }
    }

    /// Takes connections, one by one, until a superseded one came up and was replaced; at most as
    /// many as the pool has. Tells whether one was.
    async fn replace_one(&self) -> Result<bool, sqlx::Error> {
        let pool = self.pool.pool();
        for _ in 0..pool.size() {
            // With all borrowed, a pool that could grow would.
            if pool.num_idle() == 0 && pool.size() < pool.options().get_max_connections() {
                break;
            }
            if ours::take_one(pool).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sweeps and counts until nothing of this generation is left, and keeps in `last` what is.
    async fn until_gone(&self, last: &mut Option<usize>) {
        let mut poll = FIRST_POLL;
        let mut in_flight = self.dials() > 0;
        loop {
            if in_flight && self.dials() == 0 {
                in_flight = false;
                self.raise().await;
                // Overtaken too: nobody else knows of what that dial made.
                self.pool.shared().gate.harden();
            }
            let sweep = ours::sweep(self.pool.pool());
            let swept = tokio::time::timeout(SWEEP_BOUND, sweep).await;
            // Before the count: what is dialling now the server may not show yet, what has been
            // dialled it does.
            let dials = self.dials();
            let left = match self.is_exclusive() {
                true => self.count().await,
                // Current connections are not told apart by their login: the sweep is all we have.
                false if self.pool.pool().is_closed() => Some(self.pool.pool().size() as usize),
                false => Some(usize::from(swept != Ok(false))),
            };
            if let Some(left) = left {
                let left = left + dials;
                if *last != Some(left) {
                    *last = Some(left);
                    self.order.remaining(self.pool.name(), left);
                }
                if left == 0 {
                    return;
                }
            }
            tokio::time::sleep(poll).await;
            poll = (poll + poll / 4).min(LAST_POLL);
        }
    }

    /// The server's count. `None`: it could not be asked.
    async fn count(&self) -> Option<usize> {
        let provider = &self.pool.shared().provider;
        let count = (self.pool.control).count(self.pool.pool(), provider, self.old());
        match tokio::time::timeout(self.pool.connect_timeout, count).await {
            Ok(Ok(n)) => Some(n),
            Ok(Err(_)) => None,
            Err(_) => {
                // It may be dead without knowing.
                self.pool.control.close().await;
                None
            }
        }
    }

    /// Where the pool was closed: closes what is idle as soon as the last borrowed one is back.
    /// Never ends, the count does.
    async fn finish_close(&self) {
        if self.pool.pool().is_closed() {
            self.pool.pool().close().await;
        }
        std::future::pending().await
    }

    async fn at_deadline(&self, last: Option<usize>) -> Drained {
        self.catch_up_later();
        if !self.is_exclusive() {
            // Nothing is revoked; they close on their return.
            return Drained::clean();
        }
        let left = last.unwrap_or_else(|| self.pool.pool().size() as usize);
        if !self.order.lease_alive() {
            // Its login can't be used, and its sessions are zombies already.
            return Drained::at_deadline(Vec::new(), left);
        }
        let end = (self.pool.control).end_sessions(self.pool.pool(), self.old());
        let forced = match tokio::time::timeout(self.pool.connect_timeout, end).await {
            Ok(Ok(holders)) => holders,
            failed => {
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer within {:?}", self.pool.connect_timeout),
                };
                self.order.warn(
                    self.pool.name(),
                    format!(
                        "sessions of generation {} could not be ended at the deadline: {why}",
                        self.old().number()
                    ),
                );
                return Drained::at_deadline(Vec::new(), left);
            }
        };
        if forced.is_empty() && self.dials() == 0 {
            return Drained::clean();
        }
        let mut left = left;
        let confirm = async {
            loop {
                let dials = self.dials();
                if let Some(n) = self.count().await {
                    left = n + dials;
                }
                if left == 0 {
                    return;
                }
                tokio::time::sleep(FIRST_POLL).await;
            }
        };
        let _ = tokio::time::timeout(END_BOUND, confirm).await;
        Drained::at_deadline(forced, left)
    }

    /// A dial that outlives the drain: should it still get in, what it made is not current.
    fn catch_up_later(&self) {
        if self.dials() == 0 || self.pool.pool().is_closed() {
            return;
        }
        let (shared, generation) = (self.pool.shared().clone(), self.old().number());
        let bound = self.pool.pool().options().get_acquire_timeout();
        tokio::spawn(async move {
            let ended = async {
                while shared.dials.superseded_up_to(generation) > 0 {
                    tokio::time::sleep(FIRST_POLL).await;
                }
            };
            // Else somebody keeps the options, and nothing was dialled with them.
            if tokio::time::timeout(bound, ended).await.is_ok() {
                shared.gate.raise().await;
                shared.gate.harden();
            }
            shared.dials.settled(generation);
        });
    }
}
