//! I3: borrowed means safe, until the deadline.

use std::time::Duration;

use crate::scene::{APPLICATION, CALM, Scene, Times, pid, touch, who};
use crate::subject::{Connection, Subject};

const UPDATE: &str = "UPDATE accounts SET v = v + 1 WHERE id = 1";

/// A connection that nobody does anything with is as safe as one at work.
pub async fn i3_a_borrowed_connection_is_not_closed_before_the_deadline<S: Subject>(subject: S) {
    let scene = Scene::set(subject, "cf_borrowed", CALM).await;
    let mut held = scene.borrow().await;
    let (old, process) = (who(&mut held).await, pid(&mut held).await);
    let (first, _) = scene.rotate().await;
    scene.story.rolled(first).await;
    scene.story.still_draining(first).await;
    touch(&mut held).await;
    assert_eq!(pid(&mut held).await, process, "I3: it was closed and dialled anew");
    assert_eq!(scene.source.revoked(), [], "I4");
    held.give_back().await;
    // Nobody borrows: it is found and closed all the same.
    scene.story.drained_by_itself(first).await;
    scene.gone(first, &old).await;
    scene.end().await;
}

/// A transaction that is open at the swap goes on after the roll, while others are on the new login,
/// and is committed.
pub async fn i3_a_long_transaction_outlives_the_roll_and_is_served_to_its_commit<S: Subject>(
    subject: S,
) {
    let scene = Scene::set(subject, "cf_long", CALM).await;
    let mut long = scene.borrow().await;
    let old = who(&mut long).await;
    long.begin().await.unwrap();
    long.execute(UPDATE).await.unwrap();
    let (first, _) = scene.rotate().await;
    scene.story.rolled(first).await;
    let mut other = scene.borrow().await;
    assert_eq!(who(&mut other).await, scene.current(), "I2");
    touch(&mut other).await;
    other.give_back().await;
    scene.story.still_draining(first).await;
    long.execute(UPDATE).await.unwrap();
    long.commit().await.unwrap();
    long.give_back().await;
    scene.story.drained_by_itself(first).await;
    scene.gone(first, &old).await;
    let admin = scene.db.admin().await.unwrap();
    let row = admin.query_one("SELECT v FROM accounts WHERE id = 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2, "it was committed");
    scene.end().await;
}

/// Who holds on past the deadline is told by process, name and state, and ended; the lease is revoked
/// then, and the pool goes on.
pub async fn i4_a_transaction_past_the_deadline_is_ended_and_named<S: Subject>(subject: S) {
    let grace = Duration::from_millis(800);
    let times = Times { roll: Duration::from_millis(100), grace, ..CALM };
    let scene = Scene::set(subject, "cf_deadline", times).await;
    let mut long = scene.borrow().await;
    let (old, process) = (who(&mut long).await, pid(&mut long).await);
    long.begin().await.unwrap();
    long.execute(UPDATE).await.unwrap();
    let (first, _) = scene.rotate().await;
    let (forced, took) = scene.story.drained(first).await;
    assert!(took >= grace, "I3: before the deadline: {took:?}: {}", scene.story.lines());
    let [holder] = &forced[..] else { panic!("{forced:?}: {}", scene.story.lines()) };
    assert_eq!((holder.pid, &*holder.application), (process, APPLICATION));
    assert_eq!(holder.state, "idle in transaction");
    assert!(long.execute(UPDATE).await.is_err(), "I4: it is still there");
    long.give_back().await;
    scene.gone(first, &old).await;
    let mut next = scene.borrow().await;
    assert_eq!(who(&mut next).await, scene.current());
    assert_eq!(next.text("SELECT v::text AS value FROM accounts WHERE id = 1").await.unwrap(), "0");
    next.give_back().await;
    scene.end().await;
}
