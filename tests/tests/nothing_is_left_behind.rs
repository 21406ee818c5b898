//! Whatever is cut off, no login and no lease stays on the servers.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use leasehold_testkit::{Stack, Storage};
use leasehold_tests::*;

#[tokio::test(flavor = "multi_thread")]
async fn i7_two_hundred_cancelled_starts_leave_no_login_on_a_raft_server() {
    let stack = Stack::builder().storage(Storage::Raft).start().await.unwrap();
    let db = database(&stack, "cancelled", 600, 3600).await;
    let session = session(&db).await;
    let mut completed = 0;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200u64 {
        let source = session.dynamic_role(db.mount(), db.role());
        tasks.spawn(async move {
            let begin = leasehold::Rotator::builder(source).start();
            // From before the request to some time after the answer (a mint takes about 12 ms
            // alone, and more with company).
            let patience = Duration::from_micros(n * 1500);
            match tokio::time::timeout(patience, begin).await {
                Ok(Ok(rotator)) => {
                    assert!(rotator.shutdown(s(5)).await.is_clean());
                    true
                }
                Ok(Err(error)) => panic!("{}", chain(&error)),
                Err(_) => false,
            }
        });
        if tasks.len() >= 8 {
            completed += u32::from(tasks.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(done) = tasks.join_next().await {
        completed += u32::from(done.unwrap());
    }
    println!("{completed} of 200 starts were not cut off");
    nothing_left(&db).await;
    assert!(session.calls().issue >= 100, "most of them did mint: {:?}", session.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_start_slower_than_its_timeout_leaves_no_login() {
    let stack = Stack::builder().storage(Storage::Raft).start().await.unwrap();
    let db = database(&stack, "slow", 600, 3600).await;
    let session = session(&db).await;
    stack.pause_vault().await.unwrap();
    let source = session.dynamic_role(db.mount(), db.role());
    let begun = Instant::now();
    let begin = leasehold::Rotator::builder(source).start_timeout(s(2)).start();
    let error = told(begin.await);
    assert!(error.contains("no answer from") && error.contains("2s"), "{error}");
    assert!(begun.elapsed() < s(30), "bounded");
    stack.resume_vault().await.unwrap();
    leasehold_testkit::eventually("the late mint is revoked", LONG, async || {
        Ok(session.calls().revoke > 0)
    })
    .await
    .unwrap();
    nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_shutdown_begun_in_every_phase_leaves_nothing() {
    let stack = Stack::builder().storage(Storage::Raft).start().await.unwrap();
    let db = database(&stack, "phases", 600, 3600).await;
    // Issue, swap, drain and revoke of a requested rotation take about 40 ms together.
    for phase in 0..40 {
        let rotator = rotator(&db).await.start().await.unwrap();
        rotator.rotate();
        tokio::time::sleep(Duration::from_micros(phase * 1300)).await;
        let report = rotator.shutdown(s(10)).await;
        assert!(report.is_clean(), "phase {phase}: {report}");
    }
    nothing_left(&db).await;
}
