//! The seeds of `fuzz/`: what a real server answers. With `LEASEHOLD_RECORD_SEEDS=1` they are
//! written, without the secrets; else the server's answers are held against them, so that they
//! stay what a server says.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::answers::{Asked, ROWS, Said};
use leasehold_testkit::{DatabaseSpec, Stack};
use serde_json::{Value, json};

/// By the letter that the target `answers` reads a body by.
fn seed(letter: char, name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/answers");
    PathBuf::from(folder).join(format!("{letter}-{name}"))
}

fn recording() -> bool {
    std::env::var_os("LEASEHOLD_RECORD_SEEDS").is_some()
}

/// Logs in nobody.
fn without_secrets(value: &mut Value) {
    match value {
        Value::String(text) => {
            *text = text.chars().map(|c| if c.is_ascii_alphanumeric() { 'x' } else { c }).collect();
        }
        Value::Array(items) => items.iter_mut().for_each(without_secrets),
        Value::Object(fields) => {
            for (name, field) in fields {
                let open = ["creation_path", "renewable", "token_type", "type", "version", "path"];
                // Names of paths and rights are no secrets either.
                if !open.contains(&name.as_str()) && !field.is_array() {
                    without_secrets(field);
                }
            }
        }
        _ => {}
    }
}

/// Every key, with the way to it.
fn keys(value: &Value, way: &str, into: &mut BTreeSet<String>) {
    if let Value::Object(fields) = value {
        for (name, field) in fields {
            let way = format!("{way}/{name}");
            keys(field, &way, into);
            into.insert(way);
        }
    }
}

fn check(letter: char, name: &str, mut answer: Value) {
    without_secrets(&mut answer);
    let path = seed(letter, name);
    if recording() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{letter}{answer}")).unwrap();
    }
    let text = fs::read_to_string(&path).expect("a seed, see the top of this file");
    let kept: Value = serde_json::from_str(&text[1..]).expect("a letter and JSON");
    let (mut then, mut now) = (BTreeSet::new(), BTreeSet::new());
    keys(&kept, "", &mut then);
    keys(&answer, "", &mut now);
    assert_eq!(then, now, "{name}: the server answers in another form than {path:?}");
}

#[tokio::test]
async fn the_seeds_are_what_a_server_answers() {
    let stack = Stack::builder().start().await.expect("servers");
    let db = stack.database(DatabaseSpec::new("seeds")).await.expect("a database");
    let ask = async |method: &str, path: &str, body: Value| {
        let (status, answer) = stack.vault_request(method, path, Some(body)).await.expect("asked");
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    };

    let body = json!({ "role_id": db.role_id(), "secret_id": db.secret_id().await.unwrap() });
    let login = ask("POST", "auth/approle/login", body).await;
    let token = login["auth"]["client_token"].as_str().expect("a token").to_owned();
    check('a', "login", login);
    let asked = stack.vault_request_as(&token, "GET", "auth/token/lookup-self", None);
    check('b', "lookup-self", asked.await.expect("asked").1);
    let asked = stack.vault_request_as(&token, "POST", "auth/token/renew-self", None);
    check('a', "renew-self", asked.await.expect("asked").1);
    let paths = json!({ "paths": ["sys/leases/renew", "sys/leases/revoke"] });
    let asked = stack.vault_request_as(&token, "POST", "sys/capabilities-self", Some(paths));
    check('k', "capabilities-self", asked.await.expect("asked").1);

    let creds = ask("GET", &format!("{}/creds/{}", db.mount(), db.role()), Value::Null).await;
    let lease = json!({ "lease_id": creds["lease_id"], "increment": 60 });
    check('c', "creds", creds);
    check('h', "renew", ask("POST", "sys/leases/renew", lease).await);

    let user = format!("{}_static", db.name());
    let sql = format!("create role \"{user}\" login password 'before' in role \"{}\"", db.name());
    db.admin().await.expect("admin").batch_execute(&sql).await.expect("a user");
    let body = json!({ "db_name": db.name(), "username": user, "rotation_period": "3600s" });
    ask("POST", &format!("{}/static-roles/shared", db.mount()), body).await;
    check(
        'd',
        "static-creds",
        ask("GET", &format!("{}/static-creds/shared", db.mount()), json!(null)).await,
    );

    let secret = json!({ "username": "app", "password": "pw", "host": "db", "port": 5432 });
    ask("POST", "sys/mounts/kv1", json!({ "type": "kv", "options": { "version": "1" } })).await;
    ask("POST", "kv1/app", secret.clone()).await;
    check('e', "kv1", ask("GET", "kv1/app", json!(null)).await);
    ask("POST", "sys/mounts/kv2", json!({ "type": "kv", "options": { "version": "2" } })).await;
    // Version 2 needs a moment to set itself up.
    leasehold_testkit::eventually("the engine serves", Duration::from_secs(60), async || {
        let body = json!({ "data": secret });
        Ok(stack.vault_request("POST", "kv2/data/app", Some(body)).await?.0 < 300)
    })
    .await
    .expect("a KV engine");
    check('f', "kv2", ask("GET", "kv2/data/app", json!(null)).await);
    check('g', "kv2-metadata", ask("GET", "kv2/metadata/app", json!(null)).await);

    let wrapper = db.wrapped_secret_id(Duration::from_secs(60)).await.expect("a wrapping token");
    check(
        'i',
        "wrapping-lookup",
        ask("POST", "sys/wrapping/lookup", json!({ "token": wrapper })).await,
    );
    let asked = stack.vault_request_as(&wrapper, "POST", "sys/wrapping/unwrap", None);
    check('j', "unwrap", asked.await.expect("asked").1);
    check('l', "health", ask("GET", "sys/health", json!(null)).await);
    stack.shutdown().await.expect("shut down");
}

/// Each refusal of the list in `common/answers.rs`, which a server was seen to give.
#[test]
fn every_refusal_that_is_known_is_a_seed() {
    for (n, row) in ROWS.iter().enumerate() {
        let letter = match row.asked {
            Asked::Login => 'A',
            Asked::TokenLookup => 'B',
            Asked::TokenRenew => 'C',
            Asked::TokenRevoke => 'D',
            Asked::Issue => 'E',
            Asked::Renew => 'G',
            Asked::Revoke => 'H',
        };
        let (status, body, header) = match row.said {
            Said::Status(status, body) => (status, body, None),
            Said::Header(status, body, header) => (status, body, Some(header)),
            _ => continue,
        };
        let of = |name: &str| {
            let fits = header.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            fits.map_or("", |(_, value)| value)
        };
        let text = format!("{letter}{status}\n{}\n{}\n\n{body}", of("retry-after"), of("location"));
        let path = seed(letter, &format!("{n:02}"));
        if recording() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).expect("a seed, see the top of this file");
        assert_eq!(kept, text, "{path:?}");
    }
}
