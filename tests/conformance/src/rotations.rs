//! Rotations while everybody is at work.

use std::time::Duration;

use leasehold_testkit::SocketWatch;

use crate::judge::{judged, superseded_handouts, superseded_logins};
use crate::load::Load;
use crate::scene::{Scene, Times};
use crate::subject::Subject;

const ROTATIONS: u64 = 10;

/// Ten rotations one after another under load: not one operation fails, each lease is revoked when its
/// last connection is gone, nothing is handed out or dialled that is superseded, and there is never
/// more than one socket above the pool's maximum.
pub async fn i1_i2_i4_ten_rotations_under_load_fail_nothing<S: Subject>(subject: S) {
    // Rotations that are asked for are permitted once in half a TTL.
    let times = Times {
        ttl: Duration::from_secs(6),
        roll: Duration::from_millis(500),
        grace: Duration::from_secs(2),
    };
    let scene = Scene::set(subject, "cf_load", times).await;
    let watch = SocketWatch::start(scene.proxy.port(), Duration::from_millis(10));
    let load = Load::start(&scene);
    load.goes_on(&scene, 20).await;
    let mut login = scene.current();
    for old in 1..=ROTATIONS {
        scene.rotator.rotate();
        let (_, next) = scene.story.swapped(old + 1).await;
        scene.story.drained_by_itself(old).await;
        scene.gone(old, &login).await;
        load.goes_on(&scene, 20).await;
        login = next;
    }
    let ops = load.end().await;
    let most = watch.map(|watch| watch.most());

    let failed: Vec<_> = ops.iter().filter(|op| op.failure.is_some()).collect();
    let seen = format!("{} operations{}", ops.len(), scene.story.lines());
    assert!(failed.is_empty(), "{} failed: {failed:#?}: {seen}", failed.len());
    assert!(ops.iter().any(|op| op.spanned), "no transaction was open at a swap: {seen}");
    let late = superseded_handouts(&ops, &scene.story);
    assert!(late.is_empty(), "I2: {late:#?}: {seen}");
    let log = scene.log().await;
    let late = superseded_logins(&log, &scene.story);
    assert!(late.is_empty(), "I1: {late:#?}: {seen}");
    let (settled, rolled) = judged(&scene.story);
    assert!(settled >= 5 && rolled >= 5, "{settled} settled, {rolled} rolled: {seen}");
    if let (Some(most), Some(max)) = (most, scene.subject.max_connections()) {
        assert!(most <= max + 1, "{most} sockets at once for a pool of {max}: {seen}");
    }
    // What was told to be done is done, once.
    let admin = scene.db.admin().await.unwrap();
    let sum = admin.query_one("SELECT sum(v)::bigint FROM accounts", &[]).await.unwrap();
    assert_eq!(usize::try_from(sum.get::<_, i64>(0)).unwrap(), ops.len(), "{seen}");
    println!("{} operations, none failed, {ROTATIONS} rotations", ops.len());
    scene.end().await;
}
