//! What a session asks of its server in three days, against the least that its schedule needs.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::sim::{self, GoodVault, Sim};
use leasehold::{HealthState, Rotator};
use leasehold_vault::{Auth, Session, VaultConfig};

const HOUR: Duration = Duration::from_secs(3600);
const HORIZON: Duration = HOUR.saturating_mul(72);

const LEASE_TTL: Duration = HOUR;
const LEASE_MAX: Duration = HOUR.saturating_mul(24);
const TOKEN_TTL: Duration = HOUR;

/// Roll 15 s, grace 30 s, the rotation itself 5 s, and 1 s for the server's whole seconds.
const LEEWAY: Duration = Duration::from_secs(51);

const ROLES: [&str; 3] = ["app", "app2", "app3"];

type Counts = BTreeMap<String, usize>;

/// What the documented policy comes to with the middle of its jitter: a lease is renewed when a
/// quarter of its TTL has passed and replaced at its leeway, the lease before it is then revoked; the one token
/// that all share is renewed at a quarter of its life.
fn least() -> Counts {
    let mut counts = Counts::new();
    let mut one = |request: String| *counts.entry(request).or_default() += 1;
    one("POST auth/approle/login".to_owned());
    let mut at = TOKEN_TTL / 4;
    while at <= HORIZON {
        one("POST auth/token/renew-self".to_owned());
        at += TOKEN_TTL / 4;
    }
    for role in ROLES {
        // Once: what the policy gives.
        one("POST sys/capabilities-self".to_owned());
        let issue = format!("GET database/creds/{role}");
        one(issue.clone());
        let mut issued = Duration::ZERO;
        loop {
            let mut end = issued + LEASE_TTL;
            while end < issued + LEASE_MAX && end - LEASE_TTL * 3 / 4 <= HORIZON {
                one("POST sys/leases/renew".to_owned());
                end = (end + LEASE_TTL / 4).min(issued + LEASE_MAX);
            }
            issued = end - LEEWAY;
            if issued > HORIZON {
                break;
            }
            one(issue.clone());
            one("POST sys/leases/revoke".to_owned());
        }
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn three_days_of_three_providers_take_hardly_more_requests_than_their_schedule_needs() {
    let sim = Sim::start().step(Duration::from_secs(5));
    let clock = sim.clock();
    let vault = GoodVault::start(LEASE_TTL, LEASE_MAX, TOKEN_TTL).await;
    let config = VaultConfig::new(vault.script.address()).clock(clock.clone());
    let login = Session::login(config, Auth::approle("role", "secret"));
    let session = sim.finish(login).await.unwrap();
    sim.watch(&session);
    let mut rotators = Vec::new();
    for role in ROLES {
        let source = session.dynamic_role("database", role);
        let start = Rotator::builder(source).clock(clock.clone()).start();
        rotators.push(sim.finish(start).await.unwrap());
    }
    sim.pass(HORIZON.saturating_sub(sim.elapsed())).await;

    for rotator in &rotators {
        let health = rotator.provider().health();
        assert_eq!(health.state, HealthState::Ready, "{health:?}");
        assert_eq!(health.rotations, 3, "{health:?}");
    }
    let mut seen = Counts::new();
    for (method, path) in vault.script.trace() {
        *seen.entry(format!("{method} {path}")).or_default() += 1;
    }
    let least = least();
    let paths = |counts: &Counts| counts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&seen), paths(&least), "nothing else is asked");
    let total = |counts: &Counts| counts.values().sum::<usize>();
    let (sent, needed) = (total(&seen), total(&least));
    println!("{sent} requests, at least {needed}: {seen:#?} against {least:#?}");
    assert!(sent * 10 <= needed * 11, "{sent} for {needed}: {seen:#?} against {least:#?}");
    assert_eq!(session.calls().login, 1);
    assert_eq!(sim::all_calls(&session), sent as u64, "each was sent by this session");
}
