//! What is ready before anybody asks for it.

use std::time::Duration;

use leasehold::Event;
use leasehold_sqlx::Installer;
use sqlx::Connection;

use crate::kit::{Events, Kit, eventually, fill, options, shut_down, touch, who};

const GRACE: Duration = Duration::from_secs(15);

/// The user's own `after_connect` runs where the connect runs: at the rotator's expense for what
/// it replaces.
#[tokio::test(flavor = "multi_thread")]
async fn what_after_connect_prepares_is_prepared_on_every_connection_before_it_is_borrowed() {
    let kit = Kit::new("statements").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let options = options(4).after_connect(|conn, _| {
        Box::pin(async move {
            let query = sqlx::query("SELECT v FROM accounts WHERE id = $1").bind(0_i32);
            query.fetch_optional(conn).await.map(drop)
        })
    });
    let pool = leasehold_sqlx::connect(&provider, options, kit.base()).await.unwrap();
    fill(&pool, 4).await;
    let mut events = Events::of(&provider);
    rotator.rotate();
    let new = events.swapped().await;
    events.drained_cleanly().await;
    assert_eq!(pool.size(), 4, "replaced by the rotator");
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut conn = pool.acquire().await.unwrap();
        assert_eq!(conn.cached_statements_size(), 1);
        assert_eq!(who(&mut conn).await.0, new);
        touch(&mut conn).await.unwrap();
        held.push(conn);
    }
    drop(held);
    shut_down(&kit, &rotator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_the_connection_that_proved_a_login_counts_the_sessions_of_the_one_before() {
    let kit = Kit::new("proof").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    fill(&pool, 3).await;
    let mut events = Events::of(&provider);
    rotator.rotate();
    let new = events.swapped().await;
    events.drained_cleanly().await;
    let records = kit.db.stack().login_records().await.unwrap();
    let own = |one: &&leasehold_testkit::LoginRecord| {
        one.user.as_deref() == Some(&*new) && one.application.as_deref() != Some("tester")
    };
    assert_eq!(records.iter().filter(own).count(), 1, "logins beside the pool: {records:#?}");
    shut_down(&kit, &rotator).await;
}

/// A proof that is kept, and a second pool that refuses the candidate.
#[tokio::test(flavor = "multi_thread")]
async fn i9_what_is_kept_of_a_proof_is_closed_with_a_candidate_that_is_not_wanted() {
    let kit = Kit::new("unwanted").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    fill(&pool, 2).await;
    let picky = Installer::new().name("picky").probe("SELECT 1 FROM hidden.t");
    let picky = picky.connect_lazy(&provider, options(1), kit.base()).unwrap();
    let mut events = Events::of(&provider);
    rotator.rotate();
    events
        .next("a refusal", |e| match e {
            Event::ProofFailed { .. } => Some(()),
            _ => None,
        })
        .await;
    let candidate = kit.source.last_issued();
    let kept = async |n| (kit.sessions_of(&candidate).await == n).then_some(());
    eventually("the proof of the other pool is kept", async || kept(1).await).await;
    shut_down(&kit, &rotator).await;
    eventually("no session of it is left", async || kept(0).await).await;
    drop((pool, picky));
}
