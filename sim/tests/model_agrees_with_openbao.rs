//! The model of Vault that the simulations run against answers as a real OpenBao does, and ends
//! leases, tokens and roles when it does: the same sequences are done to both.

#![allow(clippy::unwrap_used)]

mod agreement {
    pub(crate) mod both;
    pub(crate) mod sequences;
}

use agreement::both::{Both, Seen};
use agreement::sequences::{self, Needs, Sequence};
use leasehold_testkit::{Stack, Storage};
use tokio::task::JoinSet;

type Covered = Vec<(&'static str, Seen)>;

async fn run(stack: &Stack, sequence: &Sequence) -> Covered {
    let mut both = Both::new(stack, sequence.role, sequence.app).await;
    for step in &sequence.steps {
        both.step(*step).await;
    }
    both.covered
}

/// Runs every sequence to its end, so that one look shows all that is wrong.
async fn run_all(needs: Needs, storage: Storage, at_once: usize) -> Covered {
    let stack = Stack::builder().storage(storage).start().await.unwrap();
    let mut waiting: Vec<_> = sequences::all().into_iter().filter(|s| s.needs == needs).collect();
    waiting.reverse();
    let mut running = JoinSet::new();
    let (mut covered, mut wrong, mut names) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        while running.len() < at_once
            && let Some(sequence) = waiting.pop()
        {
            let stack = stack.clone();
            let name = sequence.name;
            let task = running.spawn(async move { run(&stack, &sequence).await });
            names.push((task.id(), name));
        }
        match running.join_next_with_id().await {
            None => break,
            Some(Ok((_, more))) => covered.extend(more),
            Some(Err(e)) => {
                let name = names.iter().find(|(id, _)| *id == e.id()).map(|(_, name)| *name);
                wrong.push(name.unwrap());
                if at_once == 1 {
                    // It may have left the servers in any state.
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "model and server disagree (see above) in: {wrong:?}");
    covered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_every_scripted_sequence() {
    let (plain, vault, postgres) = tokio::join!(
        tokio::spawn(run_all(Needs::Nothing, Storage::Dev, 12)),
        tokio::spawn(run_all(Needs::ItsVault, Storage::Raft, 1)),
        tokio::spawn(run_all(Needs::ItsPostgres, Storage::Dev, 1)),
    );
    let mut covered = plain.unwrap();
    covered.extend(vault.unwrap());
    covered.extend(postgres.unwrap());
    println!("{} answers compared in {} sequences", covered.len(), sequences::all().len());
    covered.retain(|(_, seen)| matches!(seen, Seen::Refused(_)));
    covered.sort_by_key(|(what, seen)| (*what, format!("{seen:?}")));
    covered.dedup();
    for (what, seen) in &covered {
        println!("{what}: {seen:?}");
    }
}
