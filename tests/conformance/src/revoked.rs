//! I4: drained, then revoked; and what is revoked by others.

use leasehold::Reason;
use leasehold_testkit::eventually;

use crate::load::Load;
use crate::scene::{CALM, LIMIT, Scene, touch};
use crate::subject::{Connection, Subject};

/// A session that the pool knows nothing of keeps the lease, as the server shows it.
pub async fn i4_a_lease_is_revoked_when_the_server_shows_no_session_of_its_login<S: Subject>(
    subject: S,
) {
    let scene = Scene::set(subject, "cf_foreign", CALM).await;
    let mut own = scene.borrow().await;
    touch(&mut own).await;
    own.give_back().await;
    let login = scene.provider.current().credential().clone();
    let foreign = scene.db.connect(login.username(), login.expose_password()).await.unwrap();
    let (first, _) = scene.rotate().await;
    scene.story.rolled(first).await;
    scene.story.still_draining(first).await;
    assert_eq!(scene.source.revoked(), [], "I4");
    foreign.batch_execute("SELECT v FROM accounts WHERE id = 1").await.unwrap();
    drop(foreign);
    scene.story.drained_by_itself(first).await;
    scene.gone(first, login.username()).await;
    // By the server's own log, its last session had ended before.
    eventually("the end of every session of it is in the log", LIMIT, async || {
        let log = scene.log().await;
        let mut of_it = log.iter().filter(|one| one.user.as_deref() == Some(login.username()));
        Ok(of_it.all(|one| one.disconnected.is_some()))
    })
    .await
    .unwrap();
    scene.end().await;
}

/// The role is dropped while its connections are in use, which goes on answering pings. It is noticed
/// with nobody reporting it, replaced by one login for all, and from the swap on nothing fails.
pub async fn a_login_revoked_from_outside_under_load_is_replaced_once<S: Subject>(subject: S) {
    let scene = Scene::set(subject, "cf_outside", CALM).await;
    let load = Load::start(&scene);
    load.goes_on(&scene, 20).await;
    let lease = scene.source.issued()[0].lease.clone();
    scene.db.stack().revoke_lease(&lease).await.unwrap();
    let (reason, login) = scene.story.swapped(2).await;
    assert!(
        matches!(reason, Reason::SessionRevoked | Reason::LoginRejected | Reason::LeaseLost),
        "{reason}: {}",
        scene.story.lines()
    );
    load.goes_on(&scene, 50).await;
    let ops = load.end().await;
    let swapped = scene.story.swap_to(2);
    let late: Vec<_> = ops.iter().filter(|op| op.begun > swapped && op.failure.is_some()).collect();
    assert!(late.is_empty(), "after the swap: {late:#?}: {}", scene.story.lines());
    let others: Vec<_> =
        ops.iter().filter(|op| op.begun > swapped && op.login.as_ref() != Some(&login)).collect();
    assert!(others.is_empty(), "I2: {others:#?}: {}", scene.story.lines());
    assert_eq!(scene.source.issued().len(), 2, "I7: {}", scene.story.lines());
    eventually("the sessions without a role are closed", LIMIT, async || {
        Ok(scene.db.sessions().await?.iter().all(|one| one.user.is_some()))
    })
    .await
    .unwrap();
    scene.end().await;
}
