//! What is ready before anybody asks for it.

use std::time::Duration;

use deadpool_postgres::Object;
use leasehold::Event;
use leasehold_deadpool::Installer;
use tokio_postgres::NoTls;

use crate::kit::{Events, Kit, borrow, eventually, fill, touch, who};

const GRACE: Duration = Duration::from_secs(15);
const LISTED: &str = "SELECT v FROM accounts WHERE id = $1";

async fn pid(client: &Object) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_the_connection_that_proved_a_login_becomes_the_pools_first_of_it() {
    let kit = Kit::new("dp_proof_kept").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 3).await;
    fill(&pool, 3).await;
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.revoked().await;
    let user = provider.current().credential().username().to_owned();
    let records = kit.db.stack().login_records().await.unwrap();
    let mut first = records.iter().filter(|one| one.user.as_deref() == Some(&*user));
    let proof = first.next().unwrap();
    assert_eq!(proof.application.as_deref(), Some("tester"));
    let mut pooled = Vec::new();
    for client in &borrow(&pool, 3).await {
        assert_eq!(who(client).await, user);
        pooled.push(pid(client).await);
    }
    assert!(pooled.contains(&proof.pid), "{proof:?} is none of {pooled:?}");
}

/// A proof that is kept, and a second pool that refuses the candidate.
#[tokio::test(flavor = "multi_thread")]
async fn i9_what_is_kept_of_a_proof_is_closed_with_a_candidate_that_is_not_wanted() {
    let kit = Kit::new("dp_proof_unwanted").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2).await;
    fill(&pool, 2).await;
    let picky = Installer::new().name("picky").probe("SELECT 1 FROM hidden.t");
    let picky = picky.connect_lazy(&provider, kit.config(), NoTls, |b| b.max_size(1)).unwrap();
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.wait("refusal", |e| matches!(e, Event::ProofFailed { .. })).await;
    let candidate = kit.source.issued().last().unwrap().clone();
    let sessions = async || kit.db.sessions_of(&candidate).await.unwrap().len();
    eventually("the proof of the other pool is kept", async || sessions().await == 1).await;
    let report = rotator.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
    assert!(kit.source.revoked().iter().any(|one| one.user == candidate));
    eventually("no session of it is left", async || sessions().await == 0).await;
    drop(picky);
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_statements_are_prepared_on_every_connection_before_it_is_borrowed() {
    let kit = Kit::new("dp_statements").await;
    let rotator = kit.start(GRACE).await;
    let provider = rotator.provider();
    // One of them can't be prepared, which is nobody's failure.
    let installer = Installer::new().warm_statements([LISTED, "SELECT v FROM hidden.nothing"]);
    let pool = installer.connect(&provider, kit.config(), NoTls, |b| b.max_size(4)).await.unwrap();
    let warm = async |client: &Object| {
        assert_eq!(client.statement_cache.size(), 1);
        let listed = client.prepare_cached(LISTED).await.unwrap();
        assert_eq!(client.statement_cache.size(), 1);
        client.query_one(&listed, &[&1_i32]).await.unwrap();
        touch(client).await.unwrap();
    };
    for client in &borrow(&pool, 3).await {
        warm(client).await;
    }
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.revoked().await;
    let user = provider.current().credential().username().to_owned();
    // One more than there were: it is dialled now.
    for client in &borrow(&pool, 4).await {
        warm(client).await;
        assert_eq!(who(client).await, user);
    }
}
