//! The rotator, its provider, and a login without either.

use std::time::Duration;

use leasehold::{
    CredentialProvider, Event, HealthState, Observation, Once, Refreshed, Rotator, RotatorBuilder,
    once, once_by,
};

use crate::model::{ALL, How, Model, Op, Pool, TTL, cut, cut_everywhere, tasks, tasks_end};

fn builder(model: &Model) -> RotatorBuilder {
    Rotator::builder(model.clone()).clock(model.clock())
}

/// A rotator with one pool, on a source that answers at once.
async fn running(model: &Model) -> (Rotator, CredentialProvider) {
    let rotator = builder(model).start().await.unwrap();
    let provider = rotator.provider();
    Pool::attach(model, &provider);
    (rotator, provider)
}

/// Shuts down for good. Whatever is left after that is in the report, and the other way round.
async fn ends(what: &str, model: &Model, rotator: Rotator, base: usize) {
    let bound = Duration::from_secs(600);
    let report = tokio::time::timeout(bound, rotator.shutdown(Duration::from_secs(1))).await;
    let report = report.unwrap_or_else(|_| panic!("{what}: the shutdown hangs"));
    let told: Vec<_> = report.remains.iter().filter_map(|left| left.username.clone()).collect();
    let unanswered = report.remains.iter().filter(|left| left.username.is_none()).count();
    for user in model.live() {
        assert!(told.contains(&user), "{what}: {user} is left, and not in: {report}");
    }
    assert_eq!(model.closed(), 1, "{what}: the source was closed");
    drop(rotator);
    // A mint that hangs is never cut off; all else has ended.
    tasks_end(what, base + 2 * unanswered).await;
    model.heal();
    tasks_end(what, base).await;
    assert_eq!((model.within(), model.cut_mints()), (0, 0), "{what}");
    for user in model.live() {
        assert!(told.contains(&user), "{what}: {user} came late and was not given back");
    }
}

#[tokio::test(start_paused = true)]
async fn i7_a_start_that_is_dropped_leaves_neither_lease_nor_task() {
    let base = tasks();
    let mut cuts = 0;
    for issue in ALL {
        for revoke in ALL {
            let what = format!("start with issue {issue:?}, revoke {revoke:?}");
            cuts += cut_everywhere(&what, async |n| {
                let model = Model::new();
                model.set(Op::Issue, issue);
                model.set(Op::Revoke, revoke);
                let what = format!("{what}, cut at {n}");
                let start = builder(&model).start_timeout(Duration::from_secs(20)).start();
                match cut(start, n).await {
                    Some(Ok(rotator)) => {
                        ends(&what, &model, rotator, base).await;
                        return Some(());
                    }
                    // It gave up by itself, which is a drop of the same kind.
                    done @ Some(Err(_)) => {
                        given_up(&what, &model, base).await;
                        return done.map(drop);
                    }
                    None => given_up(&what, &model, base).await,
                }
                None
            })
            .await;
        }
    }
    assert!(cuts >= 2 * 16, "{cuts} cuts: the futures were cut nowhere");
}

/// Nobody has the rotator. What it minted is given back, late answers too, as far as that is
/// possible at all.
async fn given_up(what: &str, model: &Model, base: usize) {
    // As long as a server may take for a mint.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let revocable = model.minted() as usize - model.live().len();
    model.release();
    tasks_end(what, base).await;
    assert_eq!(model.within(), 0, "{what}");
    let left = model.live().len();
    assert!(left == 0 || revocable == 0, "{what}: {left} leases are left");
    if left > 0 {
        // The server refused each try to give it back; a TTL is all there is.
        assert!(left <= 2, "{what}: {left}");
    }
    assert_eq!(model.cut_mints(), 0, "{what}");
}

/// One way in which all five operations go.
#[derive(Clone, Copy, Debug)]
struct Ways {
    issue: How,
    prove: How,
    drain: How,
    revoke: How,
    renew: How,
}

/// Each of them in each way: 1024.
fn product() -> Vec<Ways> {
    let mut all = Vec::new();
    for issue in ALL {
        for prove in ALL {
            for drain in ALL {
                for revoke in ALL {
                    all.extend(ALL.map(|renew| Ways { issue, prove, drain, revoke, renew }));
                }
            }
        }
    }
    all
}

/// A renewal is under way, and each future of the rotator and of its provider is dropped at each of
/// its awaits.
async fn cut_in(
    what: &str,
    ways: &[Ways],
    on: impl AsyncFn(&Rotator, &CredentialProvider, usize) -> bool,
) {
    let base = tasks();
    let mut cuts = 0;
    for &way in ways {
        let ops = format!("{what}: {way:?}");
        cuts += cut_everywhere(&ops, async |n| {
            let model = Model::new();
            let (rotator, provider) = running(&model).await;
            for (op, how) in [
                (Op::Issue, way.issue),
                (Op::Prove, way.prove),
                (Op::Drain, way.drain),
                (Op::Revoke, way.revoke),
                (Op::Renew, way.renew),
            ] {
                model.set(op, how);
            }
            // A third of the TTL has passed.
            tokio::time::advance(TTL / 3).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            let done = on(&rotator, &provider, n).await;
            ends(&format!("{ops}, cut at {n}"), &model, rotator, base).await;
            done.then_some(())
        })
        .await;
    }
    assert!(cuts >= ways.len(), "{cuts} cuts in {} ways: they were cut nowhere", ways.len());
}

/// Readers meet neither drains nor renewals: those vary together.
fn of_readers() -> Vec<Ways> {
    product().into_iter().filter(|way| way.drain == way.renew).collect()
}

#[tokio::test(start_paused = true)]
async fn i9_a_shutdown_goes_on_when_its_future_is_dropped() {
    cut_in("shutdown in a rotation", &product(), async |rotator, _, n| {
        rotator.rotate();
        tokio::time::sleep(Duration::from_millis(1)).await;
        cut(rotator.shutdown(Duration::from_secs(2)), n).await.is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i7_a_reader_that_gives_up_on_a_refresh_leaves_it_to_the_others() {
    cut_in("refused", &of_readers(), async |_, provider, n| {
        let generation = provider.current().number();
        let Some(refreshed) = cut(provider.refused(generation), n).await else {
            // Somebody else asks, and is answered within the refresh wait.
            let again = provider.refused(generation);
            let bound = Duration::from_secs(6);
            tokio::time::timeout(bound, again).await.expect("readers never hang");
            return false;
        };
        if let Refreshed::Swapped(newer) = refreshed {
            assert!(newer.number() > generation);
        }
        true
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_the_next_login_or_the_next_swap_may_be_dropped() {
    cut_in("past_dead_login and changed", &of_readers(), async |rotator, provider, n| {
        let mut subscription = provider.subscribe();
        provider.report(1, Observation::SessionRevoked);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(provider.current().number() > 1 || provider.current().is_dead());
        let changed = async {
            provider.past_dead_login().await;
            rotator.rotate();
            let bound = Duration::from_secs(1);
            let _ = tokio::time::timeout(bound, subscription.changed()).await;
        };
        cut(changed, n).await.is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_was_cut_off_misses_no_swap() {
    let model = Model::new();
    let (rotator, provider) = running(&model).await;
    let mut swaps = provider.subscribe();
    for n in 0..2 {
        let before = provider.current().number();
        assert!(cut(swaps.changed(), n).await.is_none());
        // Longer than the limit of mints takes to allow one.
        tokio::time::sleep(Duration::from_secs(120)).await;
        rotator.rotate();
        let told = tokio::time::timeout(Duration::from_secs(120), swaps.changed()).await;
        assert!(told.unwrap().unwrap().number() > before, "cut at {n}");
    }
    rotator.shutdown(Duration::from_secs(1)).await;
    assert!(cut(swaps.changed(), 1).await.unwrap().is_err(), "told of the end");
}

#[tokio::test(start_paused = true)]
async fn i6_after_any_cut_the_next_rotation_is_as_any_other() {
    let base = tasks();
    for op in [Op::Issue, Op::Prove, Op::Drain, Op::Revoke, Op::Renew] {
        for how in ALL {
            for n in 0..4 {
                let what = format!("{op:?} {how:?}, cut at {n}");
                let model = Model::new();
                let rotator = builder(&model).start().await.unwrap();
                let provider = rotator.provider();
                let pool = Pool::attach(&model, &provider);
                model.set(op, how);
                rotator.rotate();
                cut(provider.refused(1), n).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                model.heal();
                let mut events = provider.events();
                // Late answers, drains and revocations of the first one are over by then.
                tokio::time::sleep(Duration::from_secs(600)).await;
                let before = provider.current().number();
                rotator.rotate();
                let swapped = async {
                    loop {
                        let event = events.recv().await.unwrap();
                        if matches!(event, Event::Swapped { generation, .. } if generation > before)
                        {
                            return;
                        }
                    }
                };
                let swapped = tokio::time::timeout(Duration::from_secs(60), swapped).await;
                swapped.unwrap_or_else(|_| panic!("{what}: no further swap"));
                assert_eq!(provider.health().state, HealthState::Ready, "{what}");
                assert_eq!(pool.installed(), provider.current().number(), "{what}");
                tokio::time::sleep(Duration::from_secs(60)).await;
                assert_eq!(model.live().len(), 1, "{what}: {:?}", model.live());
                ends(&what, &model, rotator, base).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotator_that_is_dropped_leaves_no_task() {
    let base = tasks();
    for op in [Op::Issue, Op::Prove, Op::Drain, Op::Revoke, Op::Renew] {
        for how in ALL {
            let what = format!("dropped in a rotation, {op:?} {how:?}");
            for step in 0..12 {
                let model = Model::new();
                let (rotator, provider) = running(&model).await;
                model.set(op, how);
                rotator.rotate();
                for _ in 0..step {
                    tokio::task::yield_now().await;
                }
                drop(rotator);
                // Also where the provider lives on. A mint alone is never cut off, nor is giving
                // back what it brings.
                let late = match (op, how) {
                    (Op::Issue, How::Never) => 2,
                    (Op::Revoke, How::Never) => 1,
                    _ => 0,
                };
                tasks_end(&what, base + late).await;
                model.release();
                tasks_end(&what, base).await;
                assert_eq!(model.cut_mints(), 0, "{what}");
                assert_eq!(provider.health().state, HealthState::Stopped, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i7_one_login_that_is_dropped_at_any_point_is_given_back() {
    let base = tasks();
    for issue in ALL {
        for revoke in ALL {
            let what = format!("once with issue {issue:?}, revoke {revoke:?}");
            for by_clock in [false, true] {
                cut_everywhere(&what, async |n| {
                    let model = Model::new();
                    model.set(Op::Issue, issue);
                    model.set(Op::Revoke, revoke);
                    let make = async {
                        match by_clock {
                            true => once_by(model.clone(), model.clock()).await,
                            false => once(model.clone()).await,
                        }
                    };
                    // Else it hangs for ever, which is the source's own doing.
                    let made = tokio::time::timeout(Duration::from_secs(10), make);
                    let what = format!("{what}, cut at {n}");
                    match cut(made, n).await {
                        Some(Ok(Ok(login))) => {
                            end(&what, &model, login).await;
                            tasks_end(&what, base).await;
                            return Some(());
                        }
                        Some(Ok(Err(_))) => {
                            tasks_end(&what, base).await;
                            assert_eq!((model.minted(), model.closed()), (0, 1), "{what}");
                            return Some(());
                        }
                        Some(Err(_)) | None if revoke == How::Error => {
                            model.release();
                            tasks_end(&what, base).await;
                        }
                        Some(Err(_)) => {
                            model.release();
                            tasks_end(&what, base).await;
                            assert!(model.live().is_empty(), "{what}");
                            return Some(());
                        }
                        None => {
                            model.release();
                            tasks_end(&what, base).await;
                            assert!(model.live().is_empty(), "{what}: {:?}", model.live());
                        }
                    }
                    (n > 8).then_some(())
                })
                .await;
            }
        }
    }
}

/// What was handed out is given back in order.
async fn end(what: &str, model: &Model, login: Once) {
    model.release();
    let report = login.end().await;
    assert_eq!(report.remains.len(), model.live().len(), "{what}: {report}");
}

#[tokio::test(start_paused = true)]
async fn giving_a_login_back_goes_on_when_its_future_is_dropped() {
    let base = tasks();
    for revoke in ALL {
        cut_everywhere("end", async |n| {
            let model = Model::new();
            let login = once(model.clone()).await.unwrap();
            model.set(Op::Revoke, revoke);
            let done = cut(tokio::time::timeout(Duration::from_secs(60), login.end()), n).await;
            model.release();
            tasks_end("end", base).await;
            assert_eq!(model.live().is_empty(), revoke != How::Error, "{revoke:?} at {n}");
            assert_eq!(model.closed(), 1, "{revoke:?}, cut at {n}");
            done.map(drop)
        })
        .await;
    }
}

/// A login that is kept stays its owner's, whatever is under way when the keeping is given up.
#[tokio::test(start_paused = true)]
async fn keeping_a_login_may_be_dropped_at_any_point_and_taken_up_again() {
    let base = tasks();
    for renew in ALL {
        let what = format!("keep with renew {renew:?}");
        let model = Model::new();
        let mut login = once_by(model.clone(), model.clock()).await.unwrap();
        // Before anything is awaited, then with a renewal under way, or between two of them.
        cut(login.keep(|_| {}), 0).await;
        model.set(Op::Renew, renew);
        let under_way = async {
            while model.within() == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = login.keep(|_| {}) => panic!("{what}: over"),
            () = under_way, if matches!(renew, How::Slow | How::Never) => {}
            () = tokio::time::sleep(TTL * 5 / 6) => {}
        }
        assert_eq!(model.within(), 0, "{what}: it is given up with what it was part of");
        model.heal();
        let again = tokio::time::timeout(2 * TTL, login.keep(|_| {})).await;
        assert!(again.is_err(), "{what}: not taken up again");
        login.end().await;
        tasks_end(&what, base).await;
        let left = model.live();
        assert_eq!((left.len(), model.minted(), model.closed()), (0, 1, 1), "{what}: {left:?}");
    }
}

/// A login that can't be renewed is over at its end, also where the source never says so.
#[tokio::test(start_paused = true)]
async fn keeping_a_login_ends_with_it() {
    for renew in [How::Error, How::Never] {
        let model = Model::new();
        let mut login = once_by(model.clone(), model.clock()).await.unwrap();
        model.set(Op::Renew, renew);
        let kept = tokio::time::timeout(TTL * 11 / 10, login.keep(|_| {})).await;
        assert!(kept.is_ok(), "renew {renew:?}: kept past its end");
        model.heal();
        login.end().await;
    }
}
