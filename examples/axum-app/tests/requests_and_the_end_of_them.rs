//! The endpoints, and a shutdown while requests run.

mod common;

use std::time::Duration;

use axum::http::StatusCode;
use axum_app::Service;
use common::{assert_nothing_left, call, config, database, get, until};
use leasehold_testkit::shared;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

#[tokio::test]
async fn accounts_are_read_and_deposited_to() {
    let db = database(shared().await.unwrap(), "accounts", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();

    let (status, body) = get(&router, "/accounts/7").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, serde_json::json!({ "id": 7, "balance": 0, "note": "x" }));

    // At once: the row lock makes each count.
    let deposits = (0..20).map(|_| {
        let router = router.clone();
        tokio::spawn(async move {
            call(&router, "POST", "/accounts/7/deposit", r#"{"amount":3}"#).await
        })
    });
    for deposit in deposits.collect::<Vec<_>>() {
        let (status, body) = deposit.await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    let (_, body) = get(&router, "/accounts?limit=2").await;
    assert_eq!(body[0]["id"], 7);
    assert_eq!(body[0]["balance"], 60);
    assert_eq!(body.as_array().map(Vec::len), Some(2));

    assert!(service.shutdown().await.is_clean());
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn errors_are_json_with_a_status_that_fits() {
    let db = database(shared().await.unwrap(), "errors", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let router = service.router();
    let deposit = "/accounts/1/deposit";
    for (method, path, body, status, code) in [
        ("GET", "/accounts/10000", "", 404, "not_found"),
        ("GET", "/accounts/seven", "", 400, "bad_request"),
        ("GET", "/accounts?limit=0", "", 400, "bad_request"),
        ("GET", "/accounts?limit=101", "", 400, "bad_request"),
        ("GET", "/accounts?limit=many", "", 400, "bad_request"),
        ("POST", "/accounts/10000/deposit", r#"{"amount":1}"#, 404, "not_found"),
        ("POST", deposit, r#"{"amount":0}"#, 400, "bad_request"),
        ("POST", deposit, r#"{"amount":-5}"#, 400, "bad_request"),
        ("POST", deposit, r#"{"amount":"1"}"#, 400, "bad_request"),
        ("POST", deposit, r#"{"amount":1,"to":2}"#, 400, "bad_request"),
        ("POST", deposit, "amount=1", 400, "bad_request"),
        ("POST", deposit, r#"{"amount":9223372036854775807}"#, 409, "conflict"),
    ] {
        let (answered, json) = call(&router, method, path, body).await;
        assert_eq!(answered.as_u16(), status, "{method} {path} {body}: {json}");
        assert_eq!(json["error"]["code"], code, "{method} {path} {body}: {json}");
        assert!(json["error"]["message"].is_string(), "{method} {path} {body}: {json}");
    }
    // What Postgres says stays in the log.
    db.admin().await.unwrap().batch_execute("drop table accounts").await.unwrap();
    let (status, json) = get(&router, "/accounts/1").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json["error"]["code"], "database");
    assert!(!json.to_string().contains("relation"), "{json}");
    assert!(service.shutdown().await.is_clean());
}

#[tokio::test]
async fn a_shutdown_lets_requests_finish_and_leaves_nothing() {
    let db = database(shared().await.unwrap(), "finish", 60, 600).await;
    let service = Service::start(config(&db).await).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut server = tokio::spawn(service.serve(listener, async {
        let _ = stopped.await;
    }));

    // A deposit that has to wait for a row, inside its transaction.
    let admin = db.admin().await.unwrap();
    admin.batch_execute("begin; select v from accounts where id = 1 for update").await.unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = "POST /accounts/1/deposit HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                   content-type: application/json\r\ncontent-length: 12\r\n\r\n{\"amount\":5}";
    client.write_all(request.as_bytes()).await.unwrap();
    until("the deposit waits", async || {
        let waiting = "select 1 from pg_locks where not granted";
        (!admin.query(waiting, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;

    stop.send(()).unwrap();
    until("no new connection is taken", async || {
        let refused = TcpStream::connect(address).await.is_err();
        refused.then_some(())
    })
    .await;
    let early = tokio::time::timeout(Duration::from_millis(200), &mut server).await;
    assert!(early.is_err(), "it ended before its request did");
    admin.batch_execute("commit").await.unwrap();

    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"balance\":5"), "{answer}");
    let report = server.await.unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
    assert_nothing_left(&db).await;
}
