//! The user's own callbacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use leasehold_sqlx::{Hooks, Installer};

use crate::kit::{Events, Kit, fill, options, shut_down, touch, who};

#[tokio::test(flavor = "multi_thread")]
async fn users_callbacks_are_called_for_borrowers_and_for_nobody_else() {
    let kit = Kit::new("callbacks").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let (acquired, released, connected) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let count = |n: &Arc<AtomicUsize>| n.load(Ordering::SeqCst);
    let add = |n: &Arc<AtomicUsize>| {
        let n = n.clone();
        move || n.fetch_add(1, Ordering::SeqCst)
    };
    let (on_acquire, on_release, on_connect) = (add(&acquired), add(&released), add(&connected));
    let options = options(4).after_connect(move |_, _| {
        on_connect();
        Box::pin(async { Ok(()) })
    });
    let pool = Installer::new()
        .before_acquire(move |_, _| {
            on_acquire();
            Box::pin(async { Ok(true) })
        })
        .after_release(move |_, _| {
            on_release();
            Box::pin(async { Ok(true) })
        })
        .connect(&provider, options, kit.base())
        .await
        .unwrap();
    fill(&pool, 4).await;
    // The one that `connect` opened was idle.
    assert_eq!((count(&acquired), count(&released), count(&connected)), (1, 4, 4));

    let mut events = Events::of(&provider);
    let held = pool.acquire().await.unwrap();
    rotator.rotate();
    events.swapped().await;
    events.roll_ended().await;
    events.remaining(1).await;
    assert_eq!((count(&acquired), count(&released), count(&connected)), (2, 4, 7));
    drop(held);
    events.drained_cleanly().await;
    // What is closed on its return is not offered to the user first.
    assert_eq!((count(&acquired), count(&released), count(&connected)), (2, 4, 7));
    let mut conn = pool.acquire().await.unwrap();
    touch(&mut conn).await.unwrap();
    conn.return_to_pool().await;
    assert_eq!((count(&acquired), count(&released), count(&connected)), (3, 5, 7));
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_callback_can_reject_a_connection() {
    let kit = Kit::new("reject").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = Installer::new()
        .after_release(|_, _| Box::pin(async { Ok(false) }))
        .connect(&provider, options(2), kit.base())
        .await
        .unwrap();
    let mut conn = pool.acquire().await.unwrap();
    conn.return_to_pool().await;
    assert_eq!(pool.size(), 0);
    shut_down(&kit, &rotator).await;
}

/// The pool is built by somebody else, on another login, with callbacks that call the hooks.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_called_from_callbacks_of_ones_own_keep_a_pool_built_elsewhere() {
    let kit = Kit::new("expert").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let (hooks, options) = Installer::new().name("own").hooks(&provider, options(3));
    let users = Arc::new(AtomicUsize::new(0));
    let (acquire, release, counter) = (hooks.clone(), hooks.clone(), users.clone());
    let options = options
        .before_acquire(move |conn, meta| {
            let hooks = acquire.clone();
            Box::pin(async move { Ok(hooks.keep_on_acquire(conn, &meta).await) })
        })
        .after_release(move |conn, meta| {
            let (hooks, users) = (release.clone(), counter.clone());
            Box::pin(async move {
                if !hooks.keep_on_release(conn, &meta).await {
                    return Ok(false);
                }
                if !Hooks::in_maintenance() {
                    users.fetch_add(1, Ordering::SeqCst);
                }
                Ok(true)
            })
        });
    let stack = kit.db.stack();
    let foreign = kit.base().username(stack.superuser()).password(stack.superuser_password());
    let pool = options.connect_with(foreign).await.unwrap();
    let mut held = pool.acquire().await.unwrap();
    pool.acquire().await.unwrap().return_to_pool().await;
    assert_eq!(users.swap(0, Ordering::SeqCst), 1);
    let mut events = Events::of(&provider);
    hooks.attach(&pool).await.unwrap();
    let first = provider.current().credential().username().to_owned();
    assert_eq!(who(&mut held).await.0, stack.superuser());
    held.return_to_pool().await;
    fill(&pool, 3).await;
    assert_eq!(users.load(Ordering::SeqCst), 3);
    assert_eq!(kit.sessions_of(&first).await, 3);
    assert!(hooks.attach(&pool).await.is_err());

    rotator.rotate();
    let second = events.swapped().await;
    events.drained_cleanly().await;
    assert_eq!(users.load(Ordering::SeqCst), 3);
    assert_eq!(who(&mut pool.acquire().await.unwrap()).await.0, second);
    shut_down(&kit, &rotator).await;
}
