//! Logins that Postgres refuses.

use std::time::Duration;

use leasehold::Event;

use crate::kit::{Events, Kit, touch};

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_refused_login_is_replaced_once_for_sixteen_borrowers_and_none_of_them_fails() {
    let kit = Kit::new("dp_refused").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 8).await;
    let mut events = Events::of(&provider);
    pool.retain(|_, _| false);
    kit.drop_role(provider.current().credential().username()).await;
    let borrowers: Vec<_> = (0..16)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { touch(&pool.get().await.unwrap()).await.unwrap() })
        })
        .collect();
    for borrower in borrowers {
        borrower.await.unwrap();
    }
    events.wait("swap", |e| matches!(e, Event::Swapped { .. })).await;
    assert_eq!(kit.source.issued().len(), 2, "{:?}", kit.source.issued());
}
