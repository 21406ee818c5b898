//! `/metrics` on real servers: what it says after a rotation, and that all of it is written down.
//! One test: the recorder is the process's.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum_app::Service;
use common::{assert_nothing_left, config, database, get, until};
use http_body_util::BodyExt;
use leasehold_testkit::Stack;
use tower::ServiceExt;

/// Series and their values, as they are written.
type Series = BTreeMap<String, f64>;

async fn scrape(router: &Router) -> (String, Series) {
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let series = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    let series = series.collect();
    (text, series)
}

/// Of all series of `metric` that have these labels, the sum.
fn sum(series: &Series, metric: &str, labels: &[&str]) -> f64 {
    let of_it = |name: &str| {
        let (found, given) = name.split_once('{').unwrap_or((name, ""));
        found == metric && labels.iter().all(|label| given.contains(label))
    };
    series.iter().filter(|(name, _)| of_it(name)).map(|(_, value)| value).sum()
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_the_numbers_are_those_of_health_and_of_the_server() {
    let stack = Stack::start().await.unwrap();
    let db = database(&stack, "measured", 6, 12).await;
    let config = config(&db).await;
    let session = format!("session=\"{} auth/", db.vault_addr());
    let service = Service::start(config).await.unwrap();
    let (router, provider) = (service.router(), service.provider());
    let (mount, role) = (db.mount(), db.role());
    let named = format!("provider=\"{mount}/creds/{role}\"");
    let mut secrets = vec![];
    let mut remember = || {
        let current = provider.current();
        secrets.push(current.credential().expose_password().to_owned());
        secrets.push(current.credential().username().to_owned());
    };
    remember();
    assert_eq!(get(&router, "/accounts/1").await.0, StatusCode::OK);

    // Counters are there before there is anything to count.
    let (text, series) = scrape(&router).await;
    assert!(text.contains("leasehold_rotations_total{"), "{text}");
    assert_eq!(sum(&series, "leasehold_rotations_total", &[&named]), 0.0, "{text}");

    // A scrape is not one instant: while a rotation is under way, numbers of one thing may differ.
    let (text, series) = until("a rotation is over, and all agree", async || {
        let (text, series) = scrape(&router).await;
        let of = |metric: &str, label: &str| sum(&series, metric, &[&named, label]);
        let rotations = of("leasehold_rotations_total", "");
        let issued = of("leasehold_issues_total", "outcome=\"ok\"");
        let asked = ["operation=\"issue\"", "outcome=\"ok\"", &session];
        let over = of("leasehold_revocations_total", "outcome=\"ok\"") >= 1.0
            && of("leasehold_renewals_total", "") >= 1.0
            && of("leasehold_generation", "") == rotations + 1.0
            && issued == rotations + 1.0
            && sum(&series, "leasehold_vault_requests_total", &asked) == issued
            && of("leasehold_drain_duration_seconds_count", "") == rotations
            && of("leasehold_rotation_duration_seconds_count", "") == rotations;
        over.then_some((text, series))
    })
    .await;
    remember();
    let rotations = sum(&series, "leasehold_rotations_total", &[&named]);
    let planned = sum(&series, "leasehold_rotations_total", &[&named, "reason=\"max_ttl\""]);
    assert_eq!(planned, rotations, "nothing else happened: {text}");
    // Histograms, which the exporter makes of them only where it is told their buckets.
    assert!(text.contains("leasehold_rotation_duration_seconds_bucket{"), "{text}");
    assert!(!text.contains("quantile="), "{text}");
    assert_eq!(sum(&series, "leasehold_drain_forced_connections_total", &[&named]), 0.0);

    // What stands rather than happens, together with what health says of it.
    until("gauges and health agree", async || {
        let before = provider.health();
        let (_, series) = scrape(&router).await;
        let now = unix_now();
        let health = provider.health();
        let gauge = |metric: &str| sum(&series, metric, &[&named]);
        let end = now + health.expires_in?.as_secs_f64();
        let pool = |state: &str| sum(&series, "leasehold_pool_connections", &[&named, state]);
        // A renewal or a swap in between, and they may differ.
        let same = before.renewals == health.renewals
            && before.rotations == health.rotations
            && gauge("leasehold_generation") == health.generation as f64
            && (gauge("leasehold_lease_expiry_timestamp_seconds") - end).abs() < 0.5
            && pool("idle") + pool("in_use") == health.pools[0].counts.size as f64
            && sum(&series, "leasehold_state", &[&named, "state=\"ready\""]) == 1.0
            && sum(&series, "leasehold_state", &[&named]) == 1.0
            && gauge("leasehold_source_up") == 1.0
            && gauge("leasehold_credentials") == 1.0;
        same.then_some(())
    })
    .await;
    let token_ends = sum(&series, "leasehold_vault_token_expiry_timestamp_seconds", &[&session]);
    assert!(token_ends > unix_now(), "{text}");
    assert_eq!(sum(&series, "leasehold_vault_token_lost", &[&session]), 0.0);

    // All that is shown is written down, with its labels.
    let known: BTreeMap<_, _> = (leasehold::metrics::ALL.iter())
        .chain(leasehold_vault::metrics::ALL)
        .map(|metric| (metric.name, metric.labels))
        .collect();
    for name in series.keys() {
        let (metric, labels) = name.trim_end_matches('}').split_once('{').unwrap();
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| metric.strip_suffix(part));
        let base = base.filter(|base| base.ends_with("_seconds")).unwrap_or(metric);
        let wanted = known.get(base).unwrap_or_else(|| panic!("{metric} is not written down"));
        let found: BTreeSet<_> =
            labels.split("\",").map(|label| label.split('=').next().unwrap()).collect();
        let found: BTreeSet<_> = found.into_iter().filter(|label| *label != "le").collect();
        assert_eq!(found, wanted.iter().copied().collect(), "{name}");
    }
    // And the other way round, though nothing has gone wrong.
    for name in known.keys() {
        assert!(series.keys().any(|series| series.starts_with(*name)), "{name} is not in {text}");
    }

    assert!(service.shutdown().await.is_clean());
    let (last, series) = scrape(&router).await;
    assert_eq!(sum(&series, "leasehold_state", &[&named]), 0.0, "an orderly end: {last}");
    assert_eq!(sum(&series, "leasehold_proofs_failed_total", &[&named]), 0.0, "{last}");
    assert_eq!(sum(&series, "leasehold_pool_connections", &[&named]), 0.0, "{last}");
    assert_eq!(sum(&series, "leasehold_credentials", &[&named]), 0.0, "{last}");
    for secret in secrets {
        assert!(!text.contains(&secret) && !last.contains(&secret), "{secret} in {text}{last}");
    }
    assert_nothing_left(&db).await;
}
