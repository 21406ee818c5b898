//! I5: proven, then swapped.

use std::time::Duration;

use leasehold::Event;
use leasehold::hook::sql::CONTROL_APPLICATION;

use crate::scene::{CALM, Scene, Times, touch, who};
use crate::subject::{Connection, Subject};

/// A login that Postgres does not let in is given back, and the next one becomes current.
pub async fn i5_a_login_that_is_refused_does_not_become_current<S: Subject>(subject: S) {
    // The source is asked again after a time that goes by the TTL.
    let times = Times { ttl: Duration::from_secs(10), grace: Duration::from_secs(2), ..CALM };
    let scene = Scene::set(subject, "cf_refused", times).await;
    let old = scene.current();
    scene.source.spoil(true);
    scene.rotator.rotate();
    refused(&scene).await;
    assert_eq!(scene.provider.current().number(), 1, "I5: {}", scene.story.lines());
    let mut connection = scene.borrow().await;
    assert_eq!(who(&mut connection).await, old, "I5");
    touch(&mut connection).await;
    connection.give_back().await;
    scene.source.spoil(false);
    let candidate = scene.source.issued()[1].user.clone();
    scene
        .story
        .find("an end of the candidate", |event| {
            matches!(event, Event::Revoked { generation: None, username, .. } if *username == candidate)
                .then_some(())
        })
        .await;
    let (_, new) = scene.story.swapped(2).await;
    assert_ne!(new, candidate, "I5");
    scene.gone(1, &old).await;
    let let_in = scene.log().await;
    let let_in =
        let_in.iter().any(|one| one.user.as_ref() == Some(&candidate) && one.refused.is_none());
    assert!(!let_in, "it was refused, and not by chance");
    scene.end().await;
}

/// A login that gets in and can't do what the service needs is kept back until it can.
pub async fn i5_a_login_whose_probe_fails_does_not_become_current<S: Subject>(subject: S) {
    let scene = Scene::set(subject, "cf_probe", CALM).await;
    let old = scene.current();
    let admin = scene.db.admin().await.unwrap();
    admin.batch_execute("ALTER TABLE ready RENAME TO not_ready").await.unwrap();
    scene.rotator.rotate();
    refused(&scene).await;
    assert_eq!(scene.provider.current().number(), 1, "I5: {}", scene.story.lines());
    let mut connection = scene.borrow().await;
    assert_eq!(who(&mut connection).await, old, "I5");
    connection.give_back().await;
    // Nobody but the proof has used the candidate.
    let candidate = scene.source.issued()[1].user.clone();
    let sessions = scene.db.sessions_of(&candidate).await.unwrap();
    let ours = sessions.iter().filter(|one| one.application_name != CONTROL_APPLICATION).count();
    assert!(ours <= 1, "{sessions:?}");
    admin.batch_execute("ALTER TABLE not_ready RENAME TO ready").await.unwrap();
    scene.story.swapped(2).await;
    scene.gone(1, &old).await;
    let mut connection = scene.borrow().await;
    assert_eq!(who(&mut connection).await, scene.current());
    touch(&mut connection).await;
    connection.give_back().await;
    scene.end().await;
}

async fn refused<S: Subject>(scene: &Scene<S>) {
    let refused = scene.story.find("a refusal", |event| match event {
        Event::ProofFailed { rejected: true, .. } => Some(true),
        Event::Swapped { generation: 2, .. } => Some(false),
        _ => None,
    });
    assert!(refused.await, "I5: swapped: {}", scene.story.lines());
}
