//! What a server is asked for, and how much of it at the same time: counted where it arrives.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::script::Reply;
use common::sim::{GoodVault, ISSUE, LOGIN, RENEW, REVOKE, Sim, TOKEN_RENEW, TOKEN_REVOKE};
use leasehold::{CredentialSource, ErrorKind, Event, Lease, Rotator};
use leasehold_testkit::{DatabaseSpec, RoleSpec};
use leasehold_vault::{Auth, Session, VaultConfig};
use tokio::task::JoinSet;

const RIGHTS: &str = "sys/capabilities-self";
const HOUR: Duration = Duration::from_secs(3600);
const S: Duration = Duration::from_secs(1);

async fn session(sim: &Sim, vault: &GoodVault, most: usize) -> Session {
    let config = VaultConfig::new(vault.script.address()).clock(sim.clock()).max_in_flight(most);
    let session = sim.finish(Session::login(config, Auth::approle("role", "secret"))).await;
    let session = session.unwrap();
    sim.watch(&session);
    session
}

#[tokio::test(start_paused = true)]
async fn a_day_with_a_rotation_costs_the_server_what_the_schedule_needs_and_nothing_more() {
    let sim = Sim::start().step(5 * S);
    let vault = GoodVault::start(HOUR, 24 * HOUR, HOUR).await;
    let session = session(&sim, &vault, 16).await;
    let renewed = Arc::new(AtomicUsize::new(0));
    let counted = renewed.clone();
    let rotator = Rotator::builder(session.dynamic_role("database", "app"))
        .clock(sim.clock())
        .observer(move |event| {
            let renewal = matches!(event, Event::Renewed { .. });
            counted.fetch_add(usize::from(renewal), Ordering::Relaxed);
        })
        .start();
    let rotator = sim.finish(rotator).await.unwrap();
    sim.pass(25 * HOUR).await;
    assert_eq!(rotator.provider().current().number(), 2, "rotated at the maximum TTL");
    // The first one is drained and gone.
    assert_eq!((vault.asked(ISSUE), vault.asked(REVOKE)), (2, 1));
    assert!(sim.finish(rotator.shutdown(S)).await.is_clean());

    let renewals = vault.asked(RENEW);
    assert_eq!(renewals, renewed.load(Ordering::Relaxed), "each did what it was sent for");
    // Each when a sixth to a third of its hour has passed: one in 10 to 20 minutes.
    assert!((75..=150).contains(&renewals), "{renewals} renewals in 25 hours");
    let token_renewals = vault.asked(TOKEN_RENEW);
    assert!((75..=150).contains(&token_renewals), "{token_renewals} of the token");
    let rest = [LOGIN, RIGHTS, ISSUE, REVOKE, TOKEN_REVOKE].map(|path| vault.asked(path));
    assert_eq!(rest, [1, 1, 2, 2, 1]);
    let all = renewals + token_renewals + rest.iter().sum::<usize>();
    assert_eq!(vault.script.all_requests(), all, "{:?}", vault.script.trace());
}

/// The same on a real server, from its own audit: a life of seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_hears_of_a_login_as_often_as_we_say() {
    let role = RoleSpec::new("app").default_ttl(6 * S).max_ttl(15 * S);
    let stack = common::own_stack().await;
    let db = stack.database(DatabaseSpec::new("counted").role(role)).await.unwrap();
    let auth = common::approle(&db).await;
    let before = stack.raw_audit().await.unwrap().len();
    let session = Session::login(common::config(&db), auth).await.unwrap();
    let source = session.dynamic_role(db.mount(), db.role());
    let rotator = Rotator::builder(source).start_timeout(60 * S).start().await.unwrap();
    let mut events = rotator.provider().events();
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    let rotated = async {
        while !told.contains_key("revoked") {
            *told.entry(events.recv().await.unwrap().name()).or_default() += 1;
        }
    };
    tokio::time::timeout(60 * S, rotated).await.expect("rotated at the maximum TTL");
    let generations = rotator.provider().current().number();
    assert!(rotator.shutdown(5 * S).await.is_clean());
    let calls = session.calls();
    while let Ok(event) = events.try_recv() {
        *told.entry(event.name()).or_default() += 1;
    }

    let audit = stack.raw_audit().await.unwrap();
    let mut heard: BTreeMap<String, u64> = BTreeMap::new();
    for line in audit[before..].lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        if entry["type"] == "request" {
            let path = entry["request"]["path"].as_str().unwrap();
            *heard.entry(path.to_owned()).or_default() += 1;
        }
    }
    let mint = format!("{}/creds/{}", db.mount(), db.role());
    let told = |event| told.get(event).copied().unwrap_or(0);
    let expected = BTreeMap::from([
        (LOGIN.to_owned(), 1),
        (mint, generations),
        (RIGHTS.to_owned(), 1),
        (RENEW.to_owned(), told("renewed") + told("renew_failed")),
        (REVOKE.to_owned(), generations),
        (TOKEN_REVOKE.to_owned(), 1),
    ]);
    assert_eq!(heard, expected);
    assert_eq!((calls.login, calls.issue, calls.revoke), (1, generations, generations));
    assert!(told("renewed") >= 1, "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn mints_go_out_a_few_at_a_time_and_nothing_that_keeps_a_login_alive_waits_for_them() {
    let sim = Sim::start();
    let vault = GoodVault::start(HOUR, 24 * HOUR, HOUR).await;
    let session = session(&sim, &vault, 4).await;
    vault.fail(ISSUE, Reply::silence());
    let source = Arc::new(session.dynamic_role("database", "app"));
    let mut mints = JoinSet::new();
    for _ in 0..20 {
        let source = source.clone();
        mints.spawn(async move { source.issue().await });
    }
    sim.pass(S).await;
    assert_eq!(vault.asked(ISSUE), 4);
    let lease = Lease::renewable("database/creds/app/none", HOUR);
    let e = sim.finish(source.renew(&lease, HOUR)).await.unwrap_err();
    assert_eq!((e.kind(), vault.asked(RENEW)), (ErrorKind::LeaseLost, 1), "answered at once");
    // What hangs makes room, and what waits for too long says so and has asked for nothing.
    sim.pass(10 * S).await;
    assert_eq!(vault.asked(ISSUE), 8);
    sim.pass(15 * S).await;
    assert_eq!(vault.asked(ISSUE), 12);
    for _ in 0..8 {
        let e = mints.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Throttled, "{e}");
        assert!(!e.may_have_issued() && e.to_string().contains("max_in_flight"), "{e}");
    }
    sim.pass(120 * S).await;
    assert_eq!(vault.asked(ISSUE), 12);
}
