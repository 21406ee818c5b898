//! A real server that loses its leadership while leases are due: `sys/step-down` on raft.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::{Event, HealthState, Rotator};
use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack, Storage, eventually};
use serde_json::json;

const TTL: Duration = Duration::from_secs(24);

#[tokio::test]
async fn i6_a_leader_that_steps_down_costs_no_login() {
    let builder = Stack::builder().storage(Storage::Raft).audit_raw();
    let stack = common::capture::CheckedStack::new(builder.start().await.unwrap());
    let role = RoleSpec::new("app").default_ttl(TTL).max_ttl(Duration::from_secs(3600));
    let db = stack.database(DatabaseSpec::new("leader").role(role)).await.unwrap();
    let session = common::session(&db).await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let rotator = Rotator::builder(session.dynamic_role(db.mount(), db.role()))
        .observer(move |event| seen.lock().unwrap().push(event.clone()))
        .start()
        .await
        .unwrap();
    let provider = rotator.provider();

    // In vain until there is a leader again, and then it goes on by itself.
    let (status, body) =
        stack.vault_request("PUT", "sys/step-down", Some(json!({}))).await.unwrap();
    assert_eq!(status, 204, "{body}");
    rotator.rotate();
    let bound = Duration::from_secs(60);
    eventually("a rotation", bound, async || Ok(provider.health().rotations == 1)).await.unwrap();
    eventually("a renewal", bound, async || Ok(provider.health().renewals >= 1)).await.unwrap();

    let health = provider.health();
    assert_eq!(health.state, HealthState::Ready, "{health:?}");
    let events = events.lock().unwrap().clone();
    assert!(!events.iter().any(|e| matches!(e, Event::Expired { .. })), "{events:?}");
    let current = provider.current();
    let login = current.credential();
    db.connect(login.username(), login.expose_password()).await.expect("the login works");
    assert!(rotator.shutdown(Duration::from_secs(1)).await.is_clean());
}
