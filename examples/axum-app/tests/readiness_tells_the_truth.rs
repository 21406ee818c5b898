//! `/health/ready` on real servers: what it says, when it says no, and what it never says.
// Helpers outside of test functions count as such too.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum_app::{Config, Service};
use common::{assert_nothing_left, call, config, config_via, database, get, until};
use leasehold_testkit::{Stack, shared};
use leasehold_vault::Auth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_ready_service_says_how_its_login_stands() {
    let db = database(shared().await.unwrap(), "shape", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();

    let (status, body) = get(&router, "/health/ready").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["ready"], true);
    let credentials = &body["credentials"];
    assert_eq!(credentials["state"], "ready");
    assert_eq!(credentials["generation"], 1);
    let seconds = |v: &serde_json::Value| v.as_f64().unwrap_or_else(|| panic!("seconds: {v}"));
    assert!((50.0..=60.0).contains(&seconds(&credentials["expires_in"])), "{body}");
    // As long as the lease can be renewed, no rotation is planned.
    assert!(credentials.as_object().unwrap().contains_key("rotates_in"), "{body}");
    assert_eq!(credentials["draining"], serde_json::json!([]));
    assert!(credentials["last_error"].is_null() && credentials["stopped"].is_null(), "{body}");
    assert_eq!(credentials["username"], db.logins().await.unwrap()[0]);
    let vault = &body["vault"];
    assert_eq!((&vault["reachable"], &vault["sealed"]), (&true.into(), &false.into()));
    assert!(vault["version"].as_str().is_some_and(|v| v.contains('.')), "{body}");
    assert_eq!(vault["token"]["login"], 1);
    assert!(seconds(&vault["token"]["expires_in"]) > 0.0);
    assert!(
        body["credentials"]["pools"][0]["counts"]["size"].as_u64().is_some_and(|n| n >= 1),
        "{body}"
    );

    assert_eq!(
        get(&router, "/health/live").await,
        (StatusCode::OK, serde_json::json!({"live": true}))
    );
    assert!(service.shutdown().await.is_clean());
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn nothing_secret_is_in_it() {
    let stack = Stack::start().await.unwrap();
    let db = database(&stack, "secrets", 60, 600).await;
    let secret_id = db.secret_id().await.unwrap();
    let auth = Auth::approle(db.role_id(), secret_id.clone());
    let config = Config { auth, ..config(&db).await };
    let mut said = format!("{config:?}");
    let service = Service::start(config).await.unwrap();
    let router = service.router();
    said += &get(&router, "/health/ready").await.1.to_string();
    // Errors say more: once again while Vault is sealed.
    stack.seal_vault().await.unwrap();
    said += &until("the seal is seen", async || {
        let (_, body) = get(&router, "/health/ready").await;
        (body["vault"]["sealed"] == true).then(|| body.to_string())
    })
    .await;
    said += &format!("{service:?}");
    let password = service.provider().current().credential().expose_password().to_owned();
    // Tokens of OpenBao begin with `s.`, those of others with `hvs.`.
    for secret in [&*password, &*secret_id, "\"s.", "hvs."] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    stack.unseal_vault().await.unwrap();
    assert!(service.shutdown().await.is_clean());
}

#[tokio::test]
async fn a_sealed_or_silent_vault_makes_nothing_unready_while_the_login_is_good() {
    let stack = Stack::start().await.unwrap();
    let db = database(&stack, "sealed", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();

    stack.seal_vault().await.unwrap();
    until("the seal is seen", async || {
        let (status, body) = get(&router, "/health/ready").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let vault = &body["vault"];
        (vault["sealed"] == true && vault["reachable"] == true).then_some(())
    })
    .await;
    // The service works on.
    let (status, body) = call(&router, "POST", "/accounts/1/deposit", r#"{"amount":5}"#).await;
    assert_eq!((status, &body["balance"]), (StatusCode::OK, &5.into()), "{body}");
    stack.unseal_vault().await.unwrap();

    stack.pause_vault().await.unwrap();
    until("the silence is seen", async || {
        let asked = Instant::now();
        let (status, body) = get(&router, "/health/ready").await;
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(status, StatusCode::OK, "{body}");
        (body["vault"]["reachable"] == false).then_some(())
    })
    .await;
    stack.resume_vault().await.unwrap();
    until("it is back", async || {
        let (_, body) = get(&router, "/health/ready").await;
        (body["vault"]["reachable"] == true && body["vault"]["sealed"] == false).then_some(())
    })
    .await;
    assert!(service.shutdown().await.is_clean());
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_login_that_ended_makes_it_unready_and_a_new_one_makes_it_ready() {
    let stack = Stack::start().await.unwrap();
    let db = database(&stack, "expired", 4, 8).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();
    assert_eq!(get(&router, "/health/ready").await.0, StatusCode::OK);

    stack.seal_vault().await.unwrap();
    until("the login ends", async || {
        let (status, body) = get(&router, "/health/ready").await;
        assert_eq!(get(&router, "/health/live").await.0, StatusCode::OK);
        let over = body["credentials"]["state"] == "expired";
        assert_eq!(over, status == StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert_eq!(body["ready"], !over);
        (over && !body["credentials"]["last_error"].is_null()).then_some(())
    })
    .await;
    stack.unseal_vault().await.unwrap();
    until("another login is there", async || {
        (get(&router, "/health/ready").await.0 == StatusCode::OK).then_some(())
    })
    .await;
    assert!(service.shutdown().await.is_clean());
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_service_that_was_shut_down_is_not_ready() {
    let db = database(shared().await.unwrap(), "stopped", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();
    assert!(service.shutdown().await.is_clean());
    let (status, body) = get(&router, "/health/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(body["credentials"]["state"], "stopped");
    assert!(body["credentials"]["stopped"].is_string(), "{body}");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn many_probes_ask_vault_once_a_second() {
    let db = database(shared().await.unwrap(), "asked", 60, 600).await;
    let (address, asked) = counting_proxy(db.vault_addr()).await;
    let service = Service::start(config_via(&db, address).await).await.unwrap();
    let router = service.router();

    let begun = Instant::now();
    for _ in 0..10 {
        let probes = (0..10).map(|_| {
            let router = router.clone();
            tokio::spawn(async move { get(&router, "/health/ready").await })
        });
        for probe in probes.collect::<Vec<_>>() {
            assert_eq!(probe.await.unwrap().1["vault"]["reachable"], true);
        }
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..=seconds + 1).contains(&asked), "{asked} times in {:?}", begun.elapsed());
    assert!(service.shutdown().await.is_clean());
}

/// Passes bytes on to Vault, and counts the requests for its health among them.
async fn counting_proxy(vault_addr: String) -> (String, Arc<AtomicUsize>) {
    const WANTED: &[u8] = b"GET /v1/sys/health";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let target = vault_addr.trim_start_matches("http://").to_owned();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut bytes = [0; 16 * 1024];
                while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                    // A small request comes in one piece on loopback.
                    let hits = bytes[..n].windows(WANTED.len()).filter(|w| *w == WANTED).count();
                    counted.fetch_add(hits, Ordering::SeqCst);
                    if to_server.write_all(&bytes[..n]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        }
    });
    (address, count)
}
