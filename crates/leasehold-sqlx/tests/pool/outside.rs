//! Logins that were revoked from outside.

use std::time::Duration;

use leasehold::{Event, Reason, Rotator};
use leasehold_sqlx::Installer;

use crate::kit::{Events, Kit, eventually, fill, options, shut_down, touch, who};

async fn rotating(events: &mut Events) -> Reason {
    events
        .next("a rotation", |e| match e {
            Event::Rotating { reason } if *reason != Reason::Start => Some(*reason),
            _ => None,
        })
        .await
}

/// Pings pass and `SELECT 1` answers on a session whose role is gone.
async fn notices_a_dropped_role(kit: &Kit, rotator: &Rotator) {
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    fill(&pool, 3).await;
    let mut events = Events::of(&provider);
    let held = pool.acquire().await.unwrap();
    let old = provider.current().credential().username().to_owned();
    kit.db.drop_login(&old).await.unwrap();
    let traffic = async {
        loop {
            match pool.acquire().await {
                Ok(mut conn) => {
                    sqlx::query("SELECT 1").execute(&mut *conn).await.unwrap();
                    conn.return_to_pool().await;
                }
                // A dial in the place of what was found dead, before the swap.
                Err(e) => {
                    let code = e.as_database_error().and_then(|e| e.code());
                    assert_eq!(code.as_deref(), Some("28P01"), "{e}");
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    let new = tokio::select! {
        () = traffic => unreachable!(),
        new = async {
            assert_eq!(rotating(&mut events).await, Reason::SessionRevoked);
            events.swapped().await
        } => new,
    };
    // Its name is gone: the sessions left are found by its OID.
    events.remaining(1).await;
    drop(held);
    events.drained_cleanly().await;
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(who(&mut conn).await.0, new);
    touch(&mut conn).await.unwrap();
    drop(conn);
    assert_eq!(kit.source.issued(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_role_is_noticed_with_nobody_reporting_it() {
    let kit = Kit::new("dropped").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    notices_a_dropped_role(&kit, &rotator).await;
    shut_down(&kit, &rotator).await;
}

/// The role that it runs as lives on; `current_user` would say that all is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_role_is_noticed_behind_another_role() {
    let kit = Kit::new("behind").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let old = rotator.provider().current().credential().username().to_owned();
    let sql = format!("ALTER ROLE \"{old}\" SET ROLE \"{}\"", kit.db.name());
    kit.db.admin().await.unwrap().batch_execute(&sql).await.unwrap();
    notices_a_dropped_role(&kit, &rotator).await;
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_ordinary_missing_grants_mint_nothing() {
    let kit = Kit::new("grant").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    for _ in 0..10_000 {
        let error = sqlx::query("SELECT * FROM hidden.t").execute(&pool).await.unwrap_err();
        let code = error.as_database_error().and_then(|e| e.code()).unwrap();
        assert_eq!(code, "42501");
        leasehold_sqlx::report(&provider, &error);
    }
    assert_eq!(kit.source.issued(), 1);
    assert_eq!(provider.health().rotations, 0);
    assert!(provider.health().is_ready());
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_waits_for_the_swap_that_a_refused_login_leads_to() {
    let kit = Kit::new("refused").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 8).await;
    let old = provider.current().credential().username().to_owned();
    kit.db.terminate_sessions(&old).await.unwrap();
    kit.db.drop_login(&old).await.unwrap();
    let borrowers: Vec<_> = (0..8)
        .map(|_| {
            let (pool, provider) = (pool.clone(), provider.clone());
            tokio::spawn(async move {
                let mut conn = leasehold_sqlx::acquire(&pool, &provider).await.unwrap();
                touch(&mut conn).await.unwrap();
            })
        })
        .collect();
    for borrower in borrowers {
        borrower.await.unwrap();
    }
    assert_eq!(kit.source.issued(), 2, "they share one rotation");
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_refusal_leads_to_a_swap() {
    let kit = Kit::new("reported").await;
    let rotator = kit.start(Duration::from_secs(15)).await;
    let provider = rotator.provider();
    let pool =
        Installer::new().liveness(None).connect(&provider, options(3), kit.base()).await.unwrap();
    let mut events = Events::of(&provider);
    let old = provider.current().credential().username().to_owned();
    kit.db.terminate_sessions(&old).await.unwrap();
    kit.db.drop_login(&old).await.unwrap();
    let error = eventually("a refused login", async || pool.acquire().await.err()).await;
    leasehold_sqlx::report(&provider, &error);
    assert_eq!(rotating(&mut events).await, Reason::LoginRejected);
    let new = events.swapped().await;
    assert_eq!(who(&mut pool.acquire().await.unwrap()).await.0, new);
    shut_down(&kit, &rotator).await;
}
