//! Transit against a server that does what no healthy one would, and one that takes less than usual.

mod common;

use std::time::Duration;

use common::capture::Capture;
use common::script::{Reply, Script};
use leasehold::ErrorKind;
use leasehold_vault::transit::{Item, TransitErrorKind as Kind, TransitKey};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::{Value, json};

const ENCRYPT: &str = "transit/encrypt/orders";
const DECRYPT: &str = "transit/decrypt/orders";
const REWRAP: &str = "transit/rewrap/orders";

async fn key(script: &Script) -> TransitKey {
    let login = r#"{"auth":{"client_token":"s.token-that-must-not-leak","lease_duration":3600,
        "renewable":true,"token_type":"service","num_uses":0}}"#;
    script.answer("auth/approle/login", Reply::json(200, login));
    let config = VaultConfig::new(script.address()).request_timeout(Duration::from_millis(600));
    let session = Session::login(config, Auth::approle("role", "secret")).await.expect("login");
    session.transit("transit").key("orders")
}

fn body(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

/// A good result for each item of a batch.
fn results(request: &str) -> Value {
    let items = body(request)["batch_input"].as_array().expect("a batch").clone();
    let result = |item: &Value| {
        let input = item["plaintext"].as_str().or(item["ciphertext"].as_str()).expect("input");
        json!({ "ciphertext": format!("vault:v1:{input}") })
    };
    json!({ "data": { "batch_results": items.iter().map(result).collect::<Vec<_>>() } })
}

#[tokio::test]
async fn i10_a_server_that_says_plaintext_back_is_not_repeated() {
    let log = Capture::global();
    let plain = "4111-1111-plaintext-that-must-not-leak";
    let base64 = "NDExMS0xMTExLXBsYWludGV4dC10aGF0LW11c3Qtbm90LWxlYWs=";
    let aside = "context-that-must-not-leak";
    let mut shown = String::new();
    for (status, wrap) in
        [(400, "errors"), (403, "errors"), (500, "errors"), (503, "errors"), (400, "batch")]
    {
        let script = Script::start().await;
        let key = key(&script).await;
        let said = format!("what is {plain} or {base64} or {aside} for?");
        let answer = match wrap {
            "errors" => json!({ "errors": [said] }),
            _ => json!({ "data": { "batch_results": [{ "error": said }] } }),
        };
        script.answer(ENCRYPT, Reply::json(status, answer.to_string()));
        let item = Item::new(plain).context(aside);
        shown += &format!("{item:?} {key:?}");
        let e = match wrap {
            "errors" => key.encrypt(item).await.expect_err("refused"),
            _ => key.encrypt_batch([item]).await.expect("a batch").remove(0).expect_err("bad"),
        };
        assert!(script.requests(ENCRYPT)[0].contains(base64), "it was sent");
        assert!(e.to_string().contains("[redacted]"), "{e}");
        shown += &format!("{e} {e:?}");
    }
    // And an answer that holds it, good or broken.
    let script = Script::start().await;
    let key = key(&script).await;
    let good = json!({ "data": { "plaintext": base64 } }).to_string();
    script.answer(DECRYPT, Reply::json(200, good.clone()));
    let decrypted = key.decrypt("vault:v1:AAAA").await.expect("decrypt");
    assert_eq!(decrypted.expose(), plain.as_bytes());
    shown += &format!("{decrypted:?}");
    for broken in [format!("{good},"), format!(r#"{{"data":{{"plaintext":"{plain}"}}}}"#)] {
        script.answer(DECRYPT, Reply::json(200, broken));
        let e = key.decrypt("vault:v1:AAAA").await.expect_err("broken");
        assert_eq!(e.kind(), Kind::Call(ErrorKind::Malformed));
        shown += &format!("{e} {e:?}");
    }
    let text = log.text();
    assert!(text.contains("leasehold_vault.request"), "it listens");
    assert!(text.contains(ENCRYPT), "to these requests");
    for secret in [plain, base64, aside, "s.token-that-must-not-leak"] {
        for (place, text) in [("log", &text), ("output", &shown)] {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret:?} in the {place}: {line:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_takes_less_gets_halves_until_it_is_content() {
    let script = Script::start().await;
    let key = key(&script).await;
    script.answer_with(ENCRYPT, |request| {
        let many = body(request)["batch_input"].as_array().expect("a batch").len();
        if many > 100 {
            let said =
                "refused JSON input due to high complexity: exceeded maximum number of strings";
            return Reply::json(400, json!({ "errors": [said] }).to_string());
        }
        Reply::json(200, results(request).to_string())
    });
    let items: Vec<String> = (0..1000).map(|n| format!("item {n}")).collect();
    let found = key.encrypt_batch(&items).await.expect("a batch");
    assert_eq!(found.len(), 1000);
    let once = key.encrypt_batch(&items[..1]).await.expect("a batch");
    assert_eq!(found[0], once[0]);
    let mut different: Vec<_> = found.iter().map(|r| r.as_ref().expect("good").as_str()).collect();
    different.dedup();
    assert_eq!(different.len(), 1000, "each its own");

    // Not even one.
    script.answer(ENCRYPT, Reply::json(413, r#"{"errors":["http: request body too large"]}"#));
    let none = key.encrypt_batch(&items[..3]).await.expect("a batch");
    assert!(none.iter().all(|r| r.as_ref().is_err_and(|e| e.kind() == Kind::TooLarge)), "{none:?}");
}

#[tokio::test]
async fn a_batch_that_is_refused_for_one_item_is_halved_until_that_is_found() {
    let script = Script::start().await;
    let key = key(&script).await;
    // As the engine answers a rewrap with an item that was tampered with.
    script.answer_with(REWRAP, |request| {
        if request.contains("tampered") {
            let said = "1 error occurred:\n\t* cipher: message authentication failed\n\n";
            return Reply::json(500, json!({ "errors": [said] }).to_string());
        }
        Reply::json(200, results(request).to_string())
    });
    let mut items: Vec<String> = (0..100).map(|n| format!("vault:v1:{n}")).collect();
    items[41] = "tampered".to_owned();
    let found = key.rewrap_batch(&items).await.expect("a batch");
    for (n, result) in found.iter().enumerate() {
        match result {
            Ok(new) => assert_eq!(new.as_str(), format!("vault:v1:{}", items[n])),
            Err(e) => assert_eq!((n, e.kind()), (41, Kind::BadCiphertext), "{e}"),
        }
    }
    let requests = script.requests(REWRAP).len();
    assert!(requests < 20, "{requests}");
    script.answer(REWRAP, Reply::json(500, r#"{"errors":["internal error"]}"#));
    let e = key.rewrap_batch(&items).await.expect_err("all of them");
    assert_eq!(e.kind(), Kind::Call(ErrorKind::ServerFault), "{e}");
    assert!(e.is_transient());
    assert_eq!(script.requests(REWRAP).len(), requests + 1, "nothing is repeated");
}

#[tokio::test]
async fn results_that_are_not_one_for_each_item_are_taken_for_none() {
    for answer in [
        json!({ "data": { "batch_results": [] } }),
        json!({ "data": { "batch_results": [{ "ciphertext": "a" }] } }),
        json!({ "data": { "ciphertext": "a" } }),
        json!({ "data": {} }),
        json!({}),
    ] {
        let script = Script::start().await;
        let key = key(&script).await;
        script.answer(ENCRYPT, Reply::json(200, answer.to_string()));
        let e = key.encrypt_batch(["a", "b"]).await.expect_err("malformed");
        assert_eq!(e.kind(), Kind::Call(ErrorKind::Malformed), "{answer}: {e}");
        assert!(e.to_string().contains(ENCRYPT), "{e}");
    }
    let script = Script::start().await;
    let key = key(&script).await;
    let answer = json!({ "data": { "batch_results": [{ "ciphertext": "a" }, {}] } });
    script.answer(ENCRYPT, Reply::json(200, answer.to_string()));
    let results = key.encrypt_batch(["a", "b"]).await.expect("a batch");
    assert!(results[0].is_ok());
    let e = results[1].as_ref().expect_err("neither result nor error");
    assert_eq!(e.kind(), Kind::Call(ErrorKind::Malformed));
}

#[tokio::test]
async fn what_heals_is_transient_and_says_when_to_ask_again() {
    for (reply, kind) in [
        (Reply::json(429, r#"{"errors":["rate limit quota exceeded"]}"#), ErrorKind::Throttled),
        (Reply::json(500, r#"{"errors":["transaction commit failed"]}"#), ErrorKind::ServerFault),
        (Reply::json(502, "<html>bad gateway</html>"), ErrorKind::ServerFault),
        (Reply::json(503, r#"{"errors":["Vault is sealed"]}"#), ErrorKind::Sealed),
        (Reply::silence(), ErrorKind::Timeout),
        (Reply::reset(), ErrorKind::Timeout),
    ] {
        let script = Script::start().await;
        let key = key(&script).await;
        script.answer(ENCRYPT, reply.header("retry-after", "9"));
        let e = key.encrypt("plain").await.expect_err("for now");
        assert_eq!(e.kind(), Kind::Call(kind), "{e}");
        assert!(e.is_transient(), "{e}");
        let told = kind == ErrorKind::Throttled;
        assert!(!told || e.server_retry_after() == Some(Duration::from_secs(9)), "{e:?}");
        let e = key.encrypt_batch(["plain"]).await.expect_err("for now");
        assert_eq!(e.kind(), Kind::Call(kind), "{e}");
    }
}
