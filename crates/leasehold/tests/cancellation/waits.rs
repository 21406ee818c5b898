//! What only waits: nothing is lost with it, and the next one waits as well.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::clock::Clock;
use leasehold::hook::{
    BoxFuture, DrainOrder, Drained, Gate, Ledger, ManagedPool, PoolCounts, Proof, Verdict,
    await_replica,
};
use leasehold::{Generation, Parent, ParentState, Rotator};
use tokio::sync::watch;

use crate::model::{Model, cut, cut_everywhere, tasks, tasks_end};

const S: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn sleeps_are_cut_and_slept_again() {
    let clock = Clock::system();
    let at = clock.now() + 20 * S;
    cut_everywhere("sleep_until", async |n| cut(clock.sleep_until(at), n).await).await;
    assert!(clock.now() >= at, "the last one slept to the end");
    let at = clock.now() + 2 * S;
    cut_everywhere("sleep_towards", async |n| cut(clock.sleep_towards(at), n).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_parents_change_is_not_lost() {
    let clock = Clock::system();
    let ends = |s: u32| ParentState::ending(clock.now() + s * S, true, true);
    let (tell, state) = watch::channel(ends(10));
    let mut parent = Parent::new(state, Arc::new(()));
    for n in 0..2 {
        assert!(cut(parent.changed(), n).await.is_none(), "nothing has changed");
        let next = ends(20 + u32::try_from(n).unwrap());
        tell.send_replace(next);
        assert_eq!(parent.changed().await.ends, next.ends, "cut at {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_is_waited_for_again() {
    let ledger = Ledger::new();
    let ticket = ledger.enter(1);
    for n in 0..2 {
        assert!(cut(ledger.wait(|l| l.total() == 0), n).await.is_none());
    }
    drop(ticket);
    ledger.wait(|l| l.total() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_was_not_raised_to_the_end_lets_no_more_pass_than_before() {
    let gate = Gate::new();
    gate.supersede();
    let made = std::time::Instant::now();
    for n in 0..2 {
        assert!(cut(gate.raise(), n).await.is_none());
        assert_eq!(gate.judge(made), Verdict::Current, "not judged anew by half a raise");
    }
    gate.raise().await;
    assert_eq!(gate.judge(made), Verdict::Superseded);
}

/// Keeps the order of its drain, and refuses a login so often.
#[derive(Default)]
struct Keeps(Mutex<Option<DrainOrder>>, AtomicU32);

impl ManagedPool for Keeps {
    fn name(&self) -> &str {
        "keeps"
    }
    fn prove<'a>(&'a self, _: &'a Arc<Generation>) -> BoxFuture<'a, Proof> {
        let refuses = self.1.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        let proof = if refuses { Proof::Rejected("28P01".to_owned()) } else { Proof::Proven };
        Box::pin(std::future::ready(proof))
    }
    fn install(&self, _: &Arc<Generation>) {}
    fn distrust(&self) {}
    fn drain(&self, order: DrainOrder) -> BoxFuture<'_, Drained> {
        *self.0.lock().unwrap() = Some(order.clone());
        Box::pin(async move {
            order.deadline().await;
            Drained::at_deadline(Vec::new(), 1)
        })
    }
    fn close(&self) {}
    fn is_closed(&self) -> bool {
        false
    }
    fn counts(&self) -> PoolCounts {
        PoolCounts::new(1, 0)
    }
}

#[tokio::test(start_paused = true)]
async fn the_waits_of_a_drain_may_be_dropped() {
    let base = tasks();
    let model = Model::new();
    let rotator = Rotator::builder(model.clone()).clock(model.clock()).start().await.unwrap();
    let provider = rotator.provider();
    let pool = Arc::new(Keeps::default());
    provider.attach(|_| (pool.clone() as Arc<dyn ManagedPool>, ())).unwrap();
    rotator.rotate();
    let order = loop {
        if let Some(order) = pool.0.lock().unwrap().clone() {
            break order;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    // Replacements are spread over the roll, and a small pool is done sooner.
    let mut pace = order.pace();
    let mut turn = async |left| {
        let begun = tokio::time::Instant::now();
        pace.turn(left).await;
        begun.elapsed()
    };
    let (few, many) = (turn(2).await, turn(100).await);
    let half = Duration::from_millis(500);
    assert!(
        few >= half
            && few <= half + Duration::from_millis(1)
            && many > Duration::ZERO
            && many < few / 4
    );
    let turns = async |n| cut(order.pace().turn(2), n).await;
    assert!(cut_everywhere("turn", turns).await > 1);
    let rolls = cut_everywhere("roll_over", async |n| cut(order.roll_over(), n).await).await;
    let ends = cut_everywhere("deadline", async |n| cut(order.deadline(), n).await).await;
    assert!(rolls > 1 && ends > 1, "{rolls} and {ends} awaits");
    assert!(!order.may_roll());
    assert_eq!(turn(2).await, Duration::ZERO);
    assert!(rotator.shutdown(S).await.is_clean());
    drop((rotator, order));
    tasks_end("a drain", base).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_waited_for_again_and_no_longer_than_it_may_lag() {
    let base = tasks();
    let model = Model::new();
    let rotator = Rotator::builder(model.clone()).clock(model.clock()).start().await.unwrap();
    let provider = rotator.provider();
    let pool = Keeps::default();
    let wait = async |n| {
        pool.1.store(3, SeqCst);
        cut(await_replica(&pool, &provider, 60 * S), n).await
    };
    assert!(cut_everywhere("await_replica", wait).await > 1);
    assert_eq!(pool.1.load(SeqCst), 0, "the last one waited until the login was taken");
    pool.1.store(u32::MAX, SeqCst);
    let begun = tokio::time::Instant::now();
    await_replica(&pool, &provider, S).await;
    assert!(begun.elapsed() >= S && begun.elapsed() < 2 * S, "{:?}", begun.elapsed());
    pool.1.store(3, SeqCst);
    await_replica(&pool, &provider, Duration::ZERO).await;
    assert_eq!(pool.1.load(SeqCst), 3, "a server that does not lag is not asked twice");
    assert!(rotator.shutdown(S).await.is_clean());
    drop((rotator, provider));
    tasks_end("a wait for a replica", base).await;
}
