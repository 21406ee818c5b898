//! I9: nothing left behind.

use leasehold_testkit::eventually;

use crate::scene::{CALM, LIMIT, Scene, touch};
use crate::subject::{Connection, Subject};

/// From its beginning nothing is handed out; who has a connection keeps it; with the last one it
/// ends, and leaves no lease, no role and no session.
pub async fn i9_a_shutdown_waits_for_borrowers_and_leaves_nothing<S: Subject>(subject: S) {
    let scene = Scene::set(subject, "cf_shutdown", CALM).await;
    let mut idle = scene.borrow().await;
    let mut held = scene.borrow().await;
    touch(&mut idle).await;
    idle.give_back().await;
    let report = {
        let ending = scene.rotator.shutdown(LIMIT);
        let borrowing = async {
            eventually("nothing is handed out any more", LIMIT, async || {
                match scene.try_borrow().await {
                    Ok(early) => {
                        early.give_back().await;
                        Ok(false)
                    }
                    Err(_) => Ok(true),
                }
            })
            .await
            .unwrap();
            touch(&mut held).await;
            held.give_back().await;
        };
        // It ends with the last connection, and not with its deadline.
        tokio::time::timeout(LIMIT / 2, async { tokio::join!(ending, borrowing).0 }).await
    };
    let report = report.unwrap_or_else(|_| panic!("it goes on: {}", scene.story.lines()));
    assert!(report.is_clean(), "I9: {report}: {}", scene.story.lines());
    assert!(scene.source.revoked().iter().all(|one| one.sessions == 0), "I4");
    scene.nothing_left().await;
    assert!(scene.try_borrow().await.is_err());
}
