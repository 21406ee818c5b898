//! `/`, its files and `/events`, without a browser: on real servers, in the plain service.
#![allow(clippy::unwrap_used)]

mod common;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum_app::Service;
use common::stream::Stream;
use common::{assert_nothing_left, config, database, get};
use http_body_util::BodyExt;
use leasehold_testkit::shared;
use tower::ServiceExt;

async fn fetch(router: &Router, method: &str, path: &str) -> Response<Body> {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test]
async fn the_page_and_all_that_it_names_come_from_the_service_alone() {
    let db = database(shared().await.unwrap(), "page", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();
    let page = fetch(&router, "GET", "/").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert_eq!(page.headers()["x-frame-options"], "DENY");
    let page = text(page).await;
    assert!(page.contains("<html lang=\"en\">") && page.contains("<title>"), "{page}");

    // Each file that the page or a script names is there; no other host is named.
    let mut wanted: Vec<String> = quoted(&page).filter(|q| q.starts_with("/page/")).collect();
    let mut seen = Vec::new();
    while let Some(path) = wanted.pop() {
        let file = fetch(&router, "GET", &path).await;
        assert_eq!(file.status(), StatusCode::OK, "{path}");
        assert_eq!(file.headers()["x-content-type-options"], "nosniff", "{path}");
        let kind = file.headers()["content-type"].to_str().unwrap().to_owned();
        let file = text(file).await;
        if kind.starts_with("text/javascript") {
            let imports =
                quoted(&file).filter_map(|q| Some(format!("/page/{}", q.strip_prefix("./")?)));
            wanted.extend(imports.filter(|path| !seen.contains(path)));
        }
        let hosts =
            file.matches("://").count() - file.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(hosts, 0, "another host in {path}");
        seen.push(path);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10, "{seen:?}");
    assert!(service.shutdown().await.is_clean());
}

/// What stands between quotes of either kind, within a line.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    let parts = text.lines().flat_map(|line| line.split(['"', '\'']).skip(1).step_by(2));
    parts.map(str::to_owned)
}

#[tokio::test]
async fn a_rotation_is_told_step_by_step_and_again_to_whoever_comes_later() {
    let db = database(shared().await.unwrap(), "told", 4, 8).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();
    let mut stream = Stream::of(fetch(&router, "GET", "/events").await);
    let (name, hello) = stream.next().await.unwrap();
    assert_eq!(name, "hello");
    assert_eq!(hello["buttons"], serde_json::Value::Null, "the plain service has none");
    assert_eq!(hello["lanes"][0]["generation"], 1, "{hello}");
    assert_eq!(hello["lanes"][0]["stage"], "current", "{hello}");
    assert_eq!(hello["entries"][0]["kind"], "issued", "from the very start: {hello}");

    let first = |lane: &serde_json::Value| lane["generation"] == 1;
    stream.until("lane", |l| (first(l) && l["renewals"][0].is_number()).then_some(())).await;
    stream.until("sample", |s| (s["connections"]["1"].as_i64()? > 0).then_some(())).await;
    stream.until("lane", |l| (l["generation"] == 2 && l["stage"] == "current").then_some(())).await;
    let user = stream
        .until("lane", |l| {
            (first(l) && l["stage"] == "revoked")
                .then(|| l["username"].as_str().unwrap().to_owned())
        })
        .await;
    assert!(!db.logins().await.unwrap().contains(&user), "what it says is so");

    // A browser that comes later, or again, has all of it.
    let mut later = Stream::of(fetch(&router, "GET", "/events").await);
    let (_, hello) = later.next().await.unwrap();
    let lane = &hello["lanes"][0];
    assert_eq!((&lane["generation"], &lane["stage"]), (&1.into(), &"revoked".into()), "{hello}");
    for time in ["issued", "current", "superseded", "drained", "over"] {
        assert!(lane[time].is_number(), "{time}: {lane}");
    }
    let kinds: Vec<_> = hello["entries"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
    for kind in ["issued", "renewed", "rotating", "swapped", "drained", "revoked"] {
        assert!(kinds.contains(&&kind.into()), "{kind}: {kinds:?}");
    }
    assert!(hello["samples"].as_array().unwrap().len() > 3);
    // I10.
    let password = service.provider().current().credential().expose_password().to_owned();
    for secret in [&*password, "\"s.", "hvs."] {
        assert!(!hello.to_string().contains(secret), "{secret}");
    }
    assert!(service.shutdown().await.is_clean());
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn requests_are_counted_and_failed_ones_apart() {
    let db = database(shared().await.unwrap(), "counted", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();
    let mut stream = Stream::of(fetch(&router, "GET", "/events").await);
    for _ in 0..3 {
        assert_eq!(get(&router, "/accounts/7").await.0, StatusCode::OK);
    }
    // Answered as it should be; and what is not the pool's.
    assert_eq!(get(&router, "/accounts/70000").await.0, StatusCode::NOT_FOUND);
    get(&router, "/health/ready").await;
    let totals = |s: &serde_json::Value| (s["ok_total"].as_u64(), s["failed_total"].as_u64());
    stream.until("sample", |s| (totals(s) == (Some(4), Some(0))).then_some(())).await;
    db.admin().await.unwrap().batch_execute("drop table accounts").await.unwrap();
    assert_eq!(get(&router, "/accounts/7").await.0, StatusCode::SERVICE_UNAVAILABLE);
    stream.until("sample", |s| (totals(s) == (Some(4), Some(1))).then_some(())).await;
    assert!(service.shutdown().await.is_clean());
}

#[tokio::test]
async fn the_plain_service_has_nothing_that_harms() {
    let db = database(shared().await.unwrap(), "harmless", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();
    for deed in ["seal-vault", "revoke-lease", "mend"] {
        let answer = fetch(&router, "POST", &format!("/harm/{deed}")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{deed}");
    }
    assert!(service.shutdown().await.is_clean());
}
