//! I2: handed out means alive.

use crate::scene::{CALM, Scene, touch, who};
use crate::subject::{Connection, Subject};

/// Connections that are borrowed through the roll come back superseded, and the pool hands out
/// others in their place.
pub async fn i2_what_comes_back_after_the_roll_is_never_handed_out_again<S: Subject>(subject: S) {
    let scene = Scene::set(subject, "cf_after_roll", CALM).await;
    let old = scene.current();
    let mut held = Vec::new();
    for _ in 0..scene.subject.max_connections().unwrap_or(4).min(4) {
        let mut connection = scene.borrow().await;
        assert_eq!(who(&mut connection).await, old);
        held.push(connection);
    }
    let (first, _) = scene.rotate().await;
    scene.story.rolled(first).await;
    let mut next = Vec::new();
    for connection in held {
        connection.give_back().await;
        let mut other = scene.borrow().await;
        assert_eq!(who(&mut other).await, scene.current(), "I2");
        touch(&mut other).await;
        // Kept, so that the one that comes back next is all there is.
        next.push(other);
    }
    scene.story.drained_by_itself(first).await;
    scene.gone(first, &old).await;
    for connection in next {
        connection.give_back().await;
    }
    scene.end().await;
}
