//! What the tests across the crates share: one role on real servers, and ways to wait.

#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, clippy::unwrap_used)]

/// The README's code is compiled as it stands.
#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
pub struct Readme;

/// So is that of the page on sources.
#[doc = include_str!("../../docs/sources.md")]
#[cfg(doctest)]
pub struct Sources;

/// And that on Transit.
#[doc = include_str!("../../docs/transit.md")]
#[cfg(doctest)]
pub struct Transit;

/// And of that on settings.
#[doc = include_str!("../../docs/kv.md")]
#[cfg(doctest)]
pub struct Settings;

/// And that on what can be seen.
#[doc = include_str!("../../docs/observability.md")]
#[cfg(doctest)]
pub struct Observability;

/// And that on connections that are held for long.
#[doc = include_str!("../../docs/long-lived-connections.md")]
#[cfg(doctest)]
pub struct LongLived;

/// And that on primaries and replicas.
#[doc = include_str!("../../docs/several-servers.md")]
#[cfg(doctest)]
pub struct SeveralServers;

/// And those of the manual, which `leasehold` itself can't compile: they use the other crates.
#[cfg(doctest)]
pub mod manual {
    #[doc = include_str!("../../crates/leasehold/manual/how_to.md")]
    pub struct HowTo;
}

pub mod ready_made;

use std::time::Duration;

use leasehold::{Event, Reason, Rotator, RotatorBuilder, StartError};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TestDb};
use leasehold_vault::{Auth, Session, VaultConfig};
use tokio::sync::broadcast;

/// Longer than anything takes on a slow machine: a bound, never a measure.
pub const LONG: Duration = Duration::from_secs(60);

/// Whole seconds.
#[must_use]
pub const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A database of its own on `stack`, with a role of these TTLs.
pub async fn database(stack: &Stack, name: &str, ttl: u64, max_ttl: u64) -> TestDb {
    let role = RoleSpec::new("app").default_ttl(s(ttl)).max_ttl(s(max_ttl));
    let login = AppRoleSpec::new().token_ttl(s(3600)).token_max_ttl(s(86400));
    let spec = DatabaseSpec::new(name).role(role).app_role(login).with_accounts();
    stack.database(spec).await.unwrap()
}

/// Logs in with the database's AppRole.
pub async fn session(db: &TestDb) -> Session {
    let auth = Auth::approle(db.role_id(), db.secret_id().await.unwrap());
    Session::login(VaultConfig::new(db.vault_addr()), auth).await.unwrap()
}

/// A rotator to be, on the database's role.
pub async fn rotator(db: &TestDb) -> RotatorBuilder {
    Rotator::builder(session(db).await.dynamic_role(db.mount(), db.role()))
}

/// Waits for the first event that `pick` takes.
pub async fn event<T>(
    events: &mut broadcast::Receiver<Event>,
    mut pick: impl FnMut(&Event) -> Option<T>,
) -> T {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(found) = pick(&event) {
                        return found;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(e) => panic!("the events ended: {e}"),
            }
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("the awaited event never came")
}

/// Waits for the next swap.
pub async fn swapped(events: &mut broadcast::Receiver<Event>) -> (u64, Reason) {
    event(events, |e| match e {
        Event::Swapped { generation, reason, .. } => Some((*generation, *reason)),
        _ => None,
    })
    .await
}

/// Waits until the lease of a generation was revoked.
pub async fn revoked(events: &mut broadcast::Receiver<Event>, number: u64) {
    event(events, |e| {
        matches!(e, Event::Revoked { generation: Some(g), .. } if *g == number).then_some(())
    })
    .await;
}

/// Waits until neither a lease nor a login is left, as the servers see it.
pub async fn nothing_left(db: &TestDb) {
    leasehold_testkit::eventually("no lease and no login is left", LONG, async || {
        Ok(db.lease_count().await? == 0 && db.logins().await?.is_empty())
    })
    .await
    .unwrap();
}

/// The error of a start that must fail, with its causes, on one line.
#[must_use]
pub fn told(result: Result<Rotator, StartError>) -> String {
    chain(&result.map(|_| ()).expect_err("the start must fail"))
}

/// An error with its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
