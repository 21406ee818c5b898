//! Logins that end while their connections are open.

use std::time::{Duration, Instant};

use leasehold::{Event, Reason};
use leasehold_deadpool::Installer;
use tokio_postgres::NoTls;

use crate::kit::{Events, Kit, eventually, fill, touch, who};

#[tokio::test(flavor = "multi_thread")]
async fn the_liveness_sample_notices_a_dropped_role_without_any_report() {
    let kit = Kit::new("dp_liveness").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4).await;
    fill(&pool, 4).await;
    let mut events = Events::of(&provider);
    kit.drop_role(provider.current().credential().username()).await;
    let mut failed = 0;
    eventually("fresh credentials", async || {
        // Borrowers tell nobody of their errors, and some need no grant.
        let client = pool.get().await.unwrap();
        client.simple_query("SELECT 1").await.unwrap();
        failed += u32::from(touch(&client).await.is_err());
        provider.current().number() == 2
    })
    .await;
    events
        .wait("swap", |e| matches!(e, Event::Swapped { reason: Reason::SessionRevoked, .. }))
        .await;
    // From the swap on nothing of the dead login is handed out, roll or no roll.
    let new = provider.current().credential().username().to_owned();
    for _ in 0..8 {
        assert_eq!(who(&pool.get().await.unwrap()).await, new);
    }
    assert_eq!(kit.source.issued().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_liveness_sample_can_be_turned_off() {
    let kit = Kit::new("dp_no_liveness").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    let installer = Installer::new().liveness(None);
    let pool = installer.connect(&provider, kit.config(), NoTls, |b| b.max_size(1)).await.unwrap();
    kit.drop_role(provider.current().credential().username()).await;
    // Over more than two of the sample's periods, of a tenth of a second each.
    let (begun, mut queries) = (Instant::now(), 0);
    while queries < 50 || begun.elapsed() < Duration::from_millis(250) {
        pool.get().await.unwrap().simple_query("SELECT 1").await.unwrap();
        queries += 1;
    }
    assert_eq!(provider.current().number(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_ordinary_missing_grants_mint_nothing() {
    let kit = Kit::new("dp_grants").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    let mut events = Events::of(&provider);
    let client = pool.get().await.unwrap();
    let error = client.simple_query("SELECT * FROM hidden.t").await.unwrap_err();
    for _ in 0..10_000 {
        leasehold_deadpool::report(&provider, &error);
    }
    let minted = |e: &Event| {
        matches!(e, Event::Issued { .. } | Event::Rotating { .. } | Event::Swapped { .. })
    };
    assert!(events.within(Duration::from_secs(1), minted).await.is_none(), "{:#?}", events.seen);
    assert_eq!(kit.source.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_error_leads_to_fresh_credentials() {
    let kit = Kit::new("dp_report").await;
    let rotator = kit.start(Duration::from_secs(5)).await;
    let provider = rotator.provider();
    let installer = Installer::new().liveness(None);
    let pool = installer.connect(&provider, kit.config(), NoTls, |b| b.max_size(2)).await.unwrap();
    let mut events = Events::of(&provider);
    let client = pool.get().await.unwrap();
    kit.drop_role(provider.current().credential().username()).await;
    let error = touch(&client).await.unwrap_err();
    leasehold_deadpool::report(&provider, &deadpool_postgres::PoolError::Backend(error));
    // A login that is known to be gone is not rolled: this comes with the swap.
    events.roll_ended().await;
    drop(client);
    touch(&pool.get().await.unwrap()).await.unwrap();
}
