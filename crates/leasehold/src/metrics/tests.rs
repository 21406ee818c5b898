//! What events and state come to, as Prometheus sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use super::*;
use crate::credential::{Credential, Issued, Lease};
use crate::hook::Holder;
use crate::source::{CredentialSource, SourceError};

/// What is told to it while `tell` runs.
fn told(tell: impl FnOnce(&Meter)) -> String {
    let builder = PrometheusBuilder::new();
    let buckets = Matcher::Suffix("_duration_seconds".to_owned());
    let recorder = builder.set_buckets_for_metric(buckets, SECONDS).unwrap().build_recorder();
    metrics::with_local_recorder(&recorder, || tell(&Meter::new("p".into())));
    recorder.handle().render()
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "{line:?} is not in:\n{text}");
}

#[test]
fn events_are_counted_under_their_labels() {
    let at = Time::from_start;
    let second = Duration::from_secs(1);
    let error = || SourceError::new(ErrorKind::Sealed, "sealed");
    let text = told(|meter| {
        let holder = Holder::new(1, "app".to_owned(), "active".to_owned(), 1.0);
        let username = "v-app-1".to_owned();
        let pool = "orders".to_owned();
        for event in [
            Event::Swapped {
                generation: 1,
                username: username.clone(),
                reason: Reason::Start,
                proven: true,
            },
            Event::RotationDelayed { reason: Reason::MaxTtl, retry_in: second },
            Event::IssueFailed { error: error(), retry_in: None },
            Event::Issued { username: username.clone(), ttl: None },
            Event::PoolAttached { pool: pool.clone() },
            Event::ProofFailed { pool, rejected: true, message: "no".to_owned() },
            Event::Rotating { reason: Reason::LeaseLost },
            Event::Rotating { reason: Reason::MaxTtl },
        ] {
            meter.event(&event, at(second));
        }
        for event in [
            Event::Swapped {
                generation: 2,
                username: username.clone(),
                reason: Reason::MaxTtl,
                proven: true,
            },
            Event::Drained {
                generation: 1,
                took: second * 3,
                forced: vec![("orders".to_owned(), holder)],
                left: 2,
            },
            Event::RevokeFailed { generation: Some(1), error: error(), retry_in: Some(second) },
            Event::Revoked { generation: Some(1), username: username.clone(), queued: false },
            Event::Revoked { generation: None, username: username.clone(), queued: true },
            Event::LeaseEnded { generation: None, username },
            Event::Renewed { generation: 2, granted: second, last: false },
            Event::Renewed { generation: 2, granted: second, last: true },
            Event::RenewFailed { generation: 2, error: error(), retry_in: None },
            Event::LoginRejected { generation: 2 },
            Event::SessionRevoked { generation: 2 },
            Event::Warning { pool: None, message: "look".to_owned() },
        ] {
            meter.event(&event, at(second * 5));
        }
    });
    for line in [
        r#"leasehold_rotations_total{provider="p",reason="max_ttl"} 1"#,
        r#"leasehold_rotations_total{provider="p",reason="requested"} 0"#,
        r#"leasehold_rotations_delayed_total{provider="p",reason="max_ttl"} 1"#,
        r#"leasehold_rotation_duration_seconds_sum{provider="p"} 4"#,
        r#"leasehold_rotation_duration_seconds_bucket{provider="p",le="2.5"} 0"#,
        r#"leasehold_rotation_duration_seconds_bucket{provider="p",le="5"} 1"#,
        r#"leasehold_issues_total{provider="p",outcome="ok"} 1"#,
        r#"leasehold_issues_total{provider="p",outcome="sealed"} 1"#,
        r#"leasehold_issues_total{provider="p",outcome="denied"} 0"#,
        r#"leasehold_proofs_failed_total{provider="p",pool="orders",outcome="rejected"} 1"#,
        r#"leasehold_proofs_failed_total{provider="p",pool="orders",outcome="unreachable"} 0"#,
        r#"leasehold_drain_duration_seconds_sum{provider="p"} 3"#,
        r#"leasehold_drain_forced_connections_total{provider="p"} 1"#,
        r#"leasehold_drain_left_connections_total{provider="p"} 2"#,
        r#"leasehold_revocations_total{provider="p",outcome="sealed"} 1"#,
        r#"leasehold_revocations_total{provider="p",outcome="ok"} 1"#,
        r#"leasehold_revocations_total{provider="p",outcome="ended"} 1"#,
        r#"leasehold_revocations_total{provider="p",outcome="queued"} 1"#,
        r#"leasehold_renewals_total{provider="p",outcome="ok"} 1"#,
        r#"leasehold_renewals_total{provider="p",outcome="last"} 1"#,
        r#"leasehold_renewals_total{provider="p",outcome="sealed"} 1"#,
        r#"leasehold_logins_lost_total{provider="p",reason="login_rejected"} 1"#,
        r#"leasehold_logins_lost_total{provider="p",reason="session_revoked"} 1"#,
        r#"leasehold_logins_lost_total{provider="p",reason="lease_lost"} 1"#,
        r#"leasehold_warnings_total{provider="p"} 1"#,
    ] {
        has(&text, line);
    }
    assert!(!text.contains(r#"reason="start""#), "{text}");
}

#[derive(Debug)]
struct Endless;

impl CredentialSource for Endless {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Ok(Issued::new(Credential::new("app", "password"), Lease::endless()))
    }

    fn describe(&self) -> String {
        "an endless\nlogin".to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn gauges_follow_the_state_though_nothing_happens_and_are_neutral_after_a_shutdown() {
    let recorder = PrometheusBuilder::new().build_recorder();
    if cfg!(feature = "simulation") {
        // Gauges are not set again there by themselves: CI runs this without it too.
        return;
    }
    // The runtime has this thread alone.
    let _here = metrics::set_default_local_recorder(&recorder);
    let rotator = crate::Rotator::builder(Endless).start().await.unwrap();
    let provider = rotator.provider();
    assert_eq!(provider.name(), "an endless login");
    let counts = Arc::new(Mutex::new((3, 1)));
    let pool = Arc::new(Connections(counts.clone()));
    provider.attach(|_| (pool.clone(), ())).unwrap();
    let connections = |state: &str, n: usize| {
        format!(
            "leasehold_pool_connections{{provider=\"an endless login\",pool=\"orders\",\
             state=\"{state}\"}} {n}"
        )
    };
    let settle = || tokio::time::sleep(MAX_SLEEP * 2);
    settle().await;
    let text = recorder.handle().render();
    for (metric, value) in [
        ("state", r#",state="ready"} 1"#),
        ("state", r#",state="stopped"} 0"#),
        ("generation", "} 1"),
        ("lease_expiry_timestamp_seconds", "} inf"),
        ("next_rotation_timestamp_seconds", "} inf"),
        ("source_up", "} 1"),
        ("credentials", "} 1"),
        ("draining_generations", "} 0"),
    ] {
        has(&text, &format!("leasehold_{metric}{{provider=\"an endless login\"{value}"));
    }
    has(&text, &connections("idle", 1));
    has(&text, &connections("in_use", 2));

    *counts.lock().unwrap() = (5, 0);
    settle().await;
    let text = recorder.handle().render();
    has(&text, &connections("idle", 0));
    has(&text, &connections("in_use", 5));

    rotator.shutdown(Duration::ZERO).await;
    settle().await;
    let text = recorder.handle().render();
    has(&text, r#"leasehold_state{provider="an endless login",state="ready"} 0"#);
    has(&text, r#"leasehold_state{provider="an endless login",state="stopped"} 0"#);
    has(&text, &connections("in_use", 0));
    has(&text, r#"leasehold_credentials{provider="an endless login"} 0"#);

    // Nobody asked for this end.
    drop(crate::Rotator::builder(Endless).start().await.unwrap());
    settle().await;
    let text = recorder.handle().render();
    has(&text, r#"leasehold_state{provider="an endless login",state="stopped"} 1"#);
}

/// A lease that a shutdown had to leave is still one that exists.
#[test]
fn after_a_shutdown_what_is_left_is_counted() {
    let text = told(|meter| meter.shut_down(2));
    has(&text, r#"leasehold_credentials{provider="p"} 2"#);
    has(&text, r#"leasehold_lease_expiry_timestamp_seconds{provider="p"} inf"#);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_panics_when_it_is_counted_costs_the_metrics_and_not_the_rotator() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let rotator = crate::Rotator::builder(Endless).start().await.unwrap();
    let provider = rotator.provider();
    let counts = Arc::new(Mutex::new((1, 1)));
    let pool = Arc::new(Connections(counts.clone()));
    provider.attach(|_| (pool.clone(), ())).unwrap();
    let mut events = provider.events();
    let poisoned = counts.clone();
    let poison = move || {
        let _held = poisoned.lock().unwrap();
        panic!("counts() will panic from here on, as this is poisoned");
    };
    std::thread::spawn(poison).join().unwrap_err();
    for _ in 0..3 {
        rotator.rotate();
        tokio::time::sleep(MAX_SLEEP * 2).await;
    }
    drop(pool);
    rotator.shutdown(Duration::ZERO).await;
    let (mut unchanged, mut orderly_end) = (0, false);
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, Event::Warning { .. }), "restarted: {event}");
        unchanged += usize::from(matches!(event, Event::Unchanged { .. }));
        orderly_end |= matches!(event, Event::Stopped { orderly: true, .. });
    }
    assert!(unchanged >= 1 && orderly_end, "{unchanged} {orderly_end}");
}

#[test]
fn names_are_of_the_usual_form() {
    let mut names = BTreeSet::new();
    for metric in ALL {
        assert!(names.insert(metric.name), "{} twice", metric.name);
        assert!(metric.name.starts_with("leasehold_"), "{}", metric.name);
        assert_eq!(metric.labels[0], PROVIDER, "{}", metric.name);
        let suffix = match metric.kind {
            Kind::Counter => "_total",
            Kind::Histogram => "_seconds",
            Kind::Gauge => "",
        };
        assert!(metric.name.ends_with(suffix), "{}", metric.name);
        assert!(metric.kind == Kind::Counter || !metric.name.ends_with("_total"));
    }
}

/// A pool of which only the counts are of interest.
struct Connections(Arc<Mutex<(usize, usize)>>);

impl crate::hook::ManagedPool for Connections {
    fn name(&self) -> &str {
        "orders"
    }
    fn prove<'a>(
        &'a self,
        _: &'a Arc<crate::Generation>,
    ) -> crate::hook::BoxFuture<'a, crate::hook::Proof> {
        Box::pin(std::future::ready(crate::hook::Proof::Proven))
    }
    fn install(&self, _: &Arc<crate::Generation>) {}
    fn distrust(&self) {}
    fn drain(
        &self,
        _: crate::hook::DrainOrder,
    ) -> crate::hook::BoxFuture<'_, crate::hook::Drained> {
        Box::pin(std::future::ready(crate::hook::Drained::clean()))
    }
    fn close(&self) {}
    fn is_closed(&self) -> bool {
        false
    }
    fn counts(&self) -> crate::hook::PoolCounts {
        let (size, idle) = *self.0.lock().unwrap();
        crate::hook::PoolCounts::new(size, idle)
    }
}
