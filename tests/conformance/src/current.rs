//! I1: new means current.

use leasehold_testkit::Catch;

use crate::scene::{CALM, Scene, touch, who};
use crate::subject::{Connection, Subject};

/// A connection that is dialled after a swap is of the new login, while one of the old is borrowed.
pub async fn i1_a_connect_after_the_swap_uses_the_new_login<S: Subject>(subject: S) {
    let scene = Scene::set(subject, "cf_after", CALM).await;
    let mut held = scene.borrow().await;
    let old = who(&mut held).await;
    let (first, _) = scene.rotate().await;
    // Nothing is idle: this one is dialled.
    let mut fresh = scene.borrow().await;
    assert_eq!(who(&mut fresh).await, scene.current(), "I1");
    touch(&mut fresh).await;
    assert_eq!(who(&mut held).await, old, "I3");
    held.give_back().await;
    fresh.give_back().await;
    scene.story.drained_by_itself(first).await;
    scene.gone(first, &old).await;
    scene.end().await;
}

/// A connection that is being dialled at the swap keeps the old login on the server for as long as it
/// takes; its borrower gets one that works, of the old login or dialled anew with the new one.
pub async fn i1_a_connect_in_flight_at_the_swap_is_counted_and_drained<S: Subject>(subject: S) {
    let scene = Scene::set(subject, "cf_straddle", CALM).await;
    let old = scene.current();
    let trap = scene.proxy.trap(Catch::connection());
    let mut found = Vec::new();
    let straddler = loop {
        assert!(found.len() < 2, "no connect after two borrowers: is there an idle connection?");
        let (subject, pool) = (scene.subject.clone(), scene.pool.clone());
        let mut borrowing = tokio::spawn(async move { subject.borrow(&pool).await });
        tokio::select! {
            _ = trap.caught() => break borrowing,
            borrowed = &mut borrowing => found.push(borrowed.unwrap().unwrap()),
        }
    };
    for idle in found {
        idle.give_back().await;
    }
    let (first, _) = scene.rotate().await;
    scene.story.rolled(first).await;
    // Postgres does not show a backend that is authenticating: nothing but the hook's own count can
    // hold this.
    scene.story.still_draining(first).await;
    assert_eq!(scene.source.revoked(), [], "I4");
    assert!(scene.db.logins().await.unwrap().contains(&old), "I4: {}", scene.story.lines());

    trap.release();
    let mut late = straddler.await.unwrap().unwrap();
    let user = who(&mut late).await;
    assert!([&old, &scene.current()].contains(&&user), "{user} is neither the old nor the new one");
    touch(&mut late).await;
    late.give_back().await;
    scene.story.drained_by_itself(first).await;
    scene.gone(first, &old).await;
    let mut next = scene.borrow().await;
    assert_eq!(who(&mut next).await, scene.current(), "I1");
    next.give_back().await;
    scene.end().await;
}
