//! What the deadline of a drain does.

use std::time::Duration;

use leasehold::Rotator;

use crate::kit::{Events, Kit, eventually, shut_down, touch, who};

#[tokio::test(flavor = "multi_thread")]
async fn i4_who_holds_on_past_the_deadline_is_named_and_ended_and_then_the_lease_revoked() {
    let kit = Kit::new("deadline").await;
    let rotator = kit.start(Duration::from_millis(800)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    let mut events = Events::of(&provider);
    let mut tx = pool.begin().await.unwrap();
    let (old, pid) = who(&mut tx).await;
    rotator.rotate();
    let new = events.swapped().await;
    let (forced, left) = events.drained().await;
    assert_eq!(left, 0);
    let [holder] = forced.as_slice() else { panic!("{forced:?}") };
    assert_eq!(holder.pid, pid);
    assert_eq!(holder.application, "tester");
    assert_eq!(holder.state, "idle in transaction");
    assert!(holder.transaction_age > Duration::from_millis(100));
    let revoked = kit.source.first_revoked().await;
    assert_eq!((revoked.user, revoked.sessions), (old, 0));
    let error = touch(&mut tx).await.unwrap_err();
    assert!(error.as_database_error().is_none_or(|e| e.code().as_deref() == Some("57P01")));
    drop(tx);
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(who(&mut conn).await.0, new);
    drop(conn);
    shut_down(&kit, &rotator).await;
}

/// A default role that owns the tables may not end the login's sessions; the login itself may.
#[tokio::test(flavor = "multi_thread")]
async fn i4_a_login_that_takes_on_another_role_is_ended_all_the_same() {
    let kit = Kit::new("setrole").await;
    let rotator = kit.start(Duration::from_millis(800)).await;
    let provider = rotator.provider();
    let old = provider.current().credential().username().to_owned();
    let sql = format!("ALTER ROLE \"{old}\" SET ROLE \"{}\"", kit.db.name());
    kit.db.admin().await.unwrap().batch_execute(&sql).await.unwrap();
    let pool = kit.pool(&provider, 3).await;
    let mut events = Events::of(&provider);
    let mut held = pool.acquire().await.unwrap();
    let current: String =
        sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut *held).await.unwrap();
    assert_eq!(current, kit.db.name());
    rotator.rotate();
    let (forced, left) = events.drained().await;
    assert_eq!((forced.len(), left), (1, 0));
    drop(held);
    shut_down(&kit, &rotator).await;
}

/// Its lease is over: its login could not be used, and there is nothing to protect.
#[tokio::test(flavor = "multi_thread")]
async fn i6_nothing_is_ended_once_the_lease_is_over() {
    let kit = Kit::new("over").await;
    kit.source.claim(Duration::from_secs(4));
    let rotator = Rotator::builder(kit.source.clone())
        .grace(Duration::from_millis(500))
        .start()
        .await
        .unwrap();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    kit.source.fail();
    let mut held = pool.acquire().await.unwrap();
    eventually("the end of the lease", async || (!provider.logins_possible()).then_some(())).await;
    touch(&mut pool.acquire().await.unwrap()).await.unwrap();
    let _ = rotator.shutdown(Duration::from_millis(300)).await;
    sqlx::query("SELECT 1").execute(&mut *held).await.unwrap();
}
