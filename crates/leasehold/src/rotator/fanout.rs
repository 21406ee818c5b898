//! One question to every attached pool, and all answers.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Instrument;

use crate::generation::Generation;
use crate::hook::{DrainOrder, Drained, Holder, ManagedPool, Proof};
use crate::provider::Shared;

/// A pool's proof is bounded by the pool; this only keeps a broken one from holding a rotation.
const PROOF_BOUND: Duration = Duration::from_secs(30);
/// The same for a drain, counted from its deadline.
const DRAIN_BOUND: Duration = Duration::from_secs(10);

/// Proves on every attached pool; pools that are attached meanwhile join in.
pub(super) async fn prove_everywhere(
    shared: &Shared,
    candidate: &Arc<Generation>,
) -> Vec<(String, Proof)> {
    let mut asked: Vec<Arc<dyn ManagedPool>> = Vec::new();
    let mut proofs = Vec::new();
    loop {
        let attached = shared.pools.lock().unwrap_or_else(PoisonError::into_inner).attached.clone();
        let new: Vec<_> = (attached.into_iter())
            .filter(|p| !p.is_closed() && !asked.iter().any(|a| Arc::ptr_eq(a, p)))
            .collect();
        if new.is_empty() {
            return proofs;
        }
        asked.extend(new.iter().cloned());
        let mut tasks = JoinSet::new();
        for pool in new {
            let candidate = candidate.clone();
            let prove = async move {
                let proof = tokio::time::timeout(PROOF_BOUND, pool.prove(&candidate)).await;
                let late = || Proof::Unreachable(format!("no answer within {PROOF_BOUND:?}"));
                let proof = proof.unwrap_or_else(|_| late());
                (pool.name().to_owned(), proof.without(candidate.credential().expose_password()))
            };
            tasks.spawn(prove.in_current_span());
        }
        while let Some(proof) = tasks.join_next().await {
            proofs.push(proof.unwrap_or_else(|_| {
                ("?".to_owned(), Proof::Unreachable("the pool's hook panicked".to_owned()))
            }));
        }
    }
}

pub(super) async fn drain_everywhere(
    pools: Vec<Arc<dyn ManagedPool>>,
    order: &DrainOrder,
) -> (Vec<(String, Holder)>, usize) {
    let mut tasks = JoinSet::new();
    for pool in pools {
        let order = order.clone();
        let drain = async move {
            let bound = async {
                order.deadline().await;
                tokio::time::sleep(DRAIN_BOUND).await;
            };
            let drained = tokio::select! {
                drained = pool.drain(order.clone()) => drained,
                () = bound => Drained::at_deadline(Vec::new(), pool.counts().size.max(1)),
            };
            (pool.name().to_owned(), drained)
        };
        tasks.spawn(drain.in_current_span());
    }
    let password = order.generation().credential().expose_password();
    let (mut forced, mut left) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((pool, drained)) => {
                let holders = drained.forced.into_iter().map(|h| h.without(password));
                forced.extend(holders.map(|h| (pool.clone(), h)));
                left += drained.left;
            }
            // The pool's hook panicked: what it had is not known to be gone.
            Err(_) => left += 1,
        }
    }
    (each_once(forced), left)
}

/// In the same order however the pools came in. Pools on one server see the same sessions.
fn each_once(mut forced: Vec<(String, Holder)>) -> Vec<(String, Holder)> {
    forced.sort_by(|(a, x), (b, y)| (a, x.pid).cmp(&(b, y.pid)));
    let mut seen = HashSet::new();
    forced.retain(|(_, holder)| seen.insert(holder.session()));
    forced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_once_and_one_of_another_server_with_its_number_too() {
        let held = |pool: &str, began| {
            let holder = Holder::new(71, "app".to_owned(), "idle".to_owned(), 0.0);
            (pool.to_owned(), holder.began(began))
        };
        let (reads, writes, replica) = (held("b", 1e9), held("a", 1e9), held("c", 1e9 + 0.001));
        let named = each_once(vec![reads, replica.clone(), writes.clone()]);
        assert_eq!(named, [writes, replica]);
    }
}
