//! Sources that need no server.

use std::time::Duration;

use leasehold::{
    Chain, Contents, Credential, CredentialSource, FileSource, FileWatch, FnSource, Issued, Lease,
    RevokeMode, StaticSource, to_its_end,
};

use crate::model::{ALL, How, Model, Op, cut, cut_everywhere, tasks, tasks_end};

const S: Duration = Duration::from_secs(1);

/// Primary and fallback in all ways, and each call of the chain dropped at each of its awaits. A
/// caller that goes away costs nobody a lease: what comes late is given back, at the close at last.
#[tokio::test(start_paused = true)]
async fn i7_a_chain_that_is_dropped_midway_keeps_account_of_both_its_sources() {
    let base = tasks();
    let mut cuts = 0;
    for first in ALL {
        for second in ALL {
            let what = format!("chain of {first:?} and {second:?}");
            cuts += cut_everywhere(&what, async |n| {
                let (primary, fallback) = (Model::new(), Model::new());
                primary.set(Op::Issue, first);
                fallback.set(Op::Issue, second);
                let chain = Chain::new(primary.clone(), fallback.clone()).clock(primary.clock());
                let what = format!("{what}, cut at {n}");
                let issue = tokio::time::timeout(30 * S, chain.issue());
                let done = cut(issue, n).await;
                let held = matches!(done, Some(Ok(Ok(_))));
                let over = done.is_some();
                if let Some(Ok(Ok(issued))) = done {
                    let lease = issued.lease.clone();
                    cut_everywhere("renew", async |n| cut(chain.renew(&lease, 60 * S), n).await)
                        .await;
                    cut_everywhere("revoke", async |n| {
                        cut(chain.revoke(&lease, RevokeMode::Sync), n).await
                    })
                    .await;
                }
                // Whatever comes late comes now.
                primary.heal();
                fallback.heal();
                tokio::time::sleep(S).await;
                let left = tokio::time::timeout(60 * S, chain.close()).await;
                assert_eq!(left.expect("it closes"), Vec::<String>::new(), "{what}");
                tasks_end(&what, base).await;
                for (name, model) in [("primary", &primary), ("fallback", &fallback)] {
                    let live = model.live();
                    assert!(live.is_empty(), "{what}, issued {held}: {name} has {live:?}");
                    assert_eq!((model.within(), model.cut_mints()), (0, 0), "{what}: {name}");
                }
                over.then_some(())
            })
            .await;
        }
    }
    assert!(cuts > 32, "{cuts} cuts");
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_waits_for_its_primary_or_closes_may_be_dropped() {
    let base = tasks();
    for n in 0..12 {
        let (primary, fallback) = (Model::new(), Model::new());
        primary.set(Op::Issue, How::Error);
        let chain = Chain::new(primary.clone(), fallback.clone()).clock(primary.clock());
        let issued = chain.issue().await.unwrap();
        // Each of these waits asks the primary now and then.
        cut(chain.changed(), n).await;
        primary.heal();
        tokio::time::timeout(120 * S, chain.changed()).await.expect("it is back");
        let newer = chain.issue().await.unwrap();
        for lease in [issued.lease, newer.lease] {
            chain.revoke(&lease, RevokeMode::Sync).await.unwrap();
        }
        // A close that was dropped is done by the next.
        cut(chain.close(), n).await;
        chain.close().await;
        tasks_end("a chain", base).await;
        assert!(primary.live().is_empty() && fallback.live().is_empty(), "cut at {n}");
        assert!(chain.issue().await.is_err(), "closed");
    }
}

/// What was made is with the caller or was given back: never neither, never both. That holds also
/// where the caller goes away after the answer was sent and before it was looked at.
#[tokio::test(start_paused = true)]
async fn i7_what_was_made_for_a_caller_who_has_gone_is_given_back() {
    let base = tasks();
    for how in ALL {
        for late in [false, true] {
            for n in 0..3 {
                let model = Model::new();
                model.set(Op::Issue, how);
                let (mint, to) = (model.clone(), model.clone());
                let give_back = async move |issued: Issued| {
                    to.revoke(&issued.lease, RevokeMode::Sync).await.unwrap();
                };
                let made = to_its_end(async move { mint.issue().await }, give_back);
                let mut made = Box::pin(made);
                let done = match late {
                    false => cut(tokio::time::timeout(10 * S, made), n).await,
                    true => {
                        assert!(cut(made.as_mut(), 1).await.is_none());
                        model.release();
                        // Answered by now; nobody has looked.
                        tokio::time::sleep(10 * S).await;
                        drop(made);
                        None
                    }
                };
                model.release();
                tasks_end("a mint", base).await;
                let held = usize::from(matches!(done, Some(Ok(Ok(_)))));
                assert_eq!(model.live().len(), held, "{how:?}, cut at {n}, late {late}");
                assert_eq!(model.cut_mints(), 0, "{how:?}, cut at {n}, late {late}");
            }
        }
    }
}

/// Real time: the reads are done by threads that paused time does not wait for.
#[tokio::test]
async fn reading_a_file_may_be_dropped() {
    let dir = std::env::temp_dir().join(format!("leasehold-cut-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("login");
    std::fs::write(&path, "PGUSER=app\nPGPASSWORD=one").unwrap();
    let source = FileSource::new(&path);
    let watch = FileWatch::new([path.clone()]);
    let cuts = cut_everywhere("issue", async |n| cut(source.issue(), n).await).await;
    assert!(cuts >= 2, "{cuts}");
    let read: Contents = watch.read().await.unwrap();
    for n in 0..3 {
        cut(watch.read(), n).await;
        assert!(cut(watch.differs(&read), n).await.is_none(), "it has not changed");
        assert!(cut(source.changed(), n).await.is_none(), "it has not changed");
    }
    std::fs::write(&path, "PGUSER=app\nPGPASSWORD=two").unwrap();
    source.changed().await;
    assert_ne!(watch.differs(&read).await, read);
    assert_eq!(source.issue().await.unwrap().credential.expose_password(), "two");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closure_and_a_fixed_login_hold_nothing_to_lose() {
    let base = tasks();
    let closure = FnSource::new("closure", || async {
        tokio::time::sleep(S).await;
        Ok(Issued::new(Credential::new("app", "pw"), Lease::endless()))
    });
    let cuts = cut_everywhere("closure", async |n| cut(closure.issue(), n).await).await;
    assert_eq!(cuts, 2);
    let fixed = StaticSource::new("app", "pw");
    assert_eq!(cut_everywhere("fixed", async |n| cut(fixed.issue(), n).await).await, 1);
    assert_eq!(tasks(), base);
}
