//! Transit on a real server: each operation, what spoils it, and what is said of that.

mod common;

use std::time::Duration;

use common::capture::Checked;
use common::{approle, config, database_with, own_stack};
use leasehold::ErrorKind;
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, Stack};
use leasehold_vault::Session;
use leasehold_vault::transit::{
    Ciphertext, Item, Plaintext, TransitError, TransitErrorKind as Kind, TransitKey,
};
use serde_json::{Value, json};

async fn write(stack: &Stack, path: &str, body: Value) -> Value {
    let (status, reply) = stack.vault_request("POST", path, Some(body)).await.expect("a request");
    assert!(status < 300, "{path}: {status} {reply}");
    reply
}

/// An engine of a test's own, mounted at `mount`, with the key `orders`, and who may use its keys
/// but not make any.
async fn engine(mount: &str) -> (Checked, Session, TransitKey) {
    let policy = format!("path \"{mount}/*\" {{ capabilities = [\"update\"] }}");
    let tokens = AppRoleSpec::new().token_ttl(Duration::from_secs(3600));
    let db = database_with(tokens.extra_policy(policy)).await;
    write(db.stack(), &format!("sys/mounts/{mount}"), json!({ "type": "transit" })).await;
    write(db.stack(), &format!("{mount}/keys/orders"), json!({})).await;
    let session = Session::login(config(&db), approle(&db).await).await.expect("login");
    let key = session.transit(mount).key("orders");
    (db, session, key)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(
    result: Result<T, TransitError>,
    kind: Kind,
    words: &[&str],
) -> TransitError {
    let e = result.expect_err("a refusal");
    let said = e.to_string();
    assert_eq!(e.kind(), kind, "{said}");
    assert!(said.starts_with(char::is_lowercase) && !said.contains('\n'), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} in: {said}");
    }
    e
}

fn text(plaintext: &Plaintext) -> String {
    String::from_utf8_lossy(plaintext.expose()).into_owned()
}

fn version(ciphertext: &Ciphertext) -> Option<u32> {
    ciphertext.key_version()
}

/// The same with one character changed, far from its beginning.
fn tampered(ciphertext: &Ciphertext) -> String {
    let mut bytes = ciphertext.as_str().as_bytes().to_vec();
    let at = bytes.len() - 8;
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).expect("ASCII")
}

#[tokio::test]
async fn what_was_encrypted_is_decrypted_whatever_it_is() {
    let (_db, session, key) = engine("round").await;
    let binary: Vec<u8> = (0..=255).collect();
    for plain in [&b""[..], b"x", "naïve café".as_bytes(), &binary] {
        let stored = key.encrypt(plain).await.expect("encrypt");
        assert_eq!(version(&stored), Some(1));
        // As it comes out of a database: text.
        let again = key.decrypt(stored.as_str()).await.expect("decrypt");
        assert_eq!(again.expose(), plain);
    }
    let stored = key.encrypt("a text").await.expect("encrypt");
    assert_ne!(stored, key.encrypt("a text").await.expect("encrypt"), "each with a nonce");
    assert_eq!(text(&key.decrypt(&stored).await.expect("decrypt")), "a text");
    assert_eq!(session.calls().transit, 11);
}

#[tokio::test]
async fn of_a_thousand_items_three_bad_ones_are_told_and_the_others_are_there_in_order() {
    let (_db, session, key) = engine("thousand").await;
    let plain: Vec<String> = (0..1000).map(|n| format!("card of customer {n}")).collect();
    let bad = [17, 499, 999];

    let items = plain.iter().enumerate().map(|(n, text)| {
        let item = Item::new(text);
        // A version that the key does not have.
        if bad.contains(&n) { item.key_version(9) } else { item }
    });
    let encrypted = key.encrypt_batch(items).await.expect("a batch");
    assert_eq!(encrypted.len(), 1000);
    for (n, result) in encrypted.iter().enumerate() {
        match result {
            Ok(_) => assert!(!bad.contains(&n), "{n}"),
            Err(e) => {
                assert!(bad.contains(&n), "{n}: {e}");
                refused::<()>(Err(e.clone()), Kind::KeyVersion, &["thousand/encrypt/orders"]);
            }
        }
    }

    let mut stored: Vec<String> = key
        .encrypt_batch(&plain)
        .await
        .expect("a batch")
        .into_iter()
        .map(|r| r.expect("a good one").into_string())
        .collect();
    stored[17] = "no ciphertext".to_owned();
    stored[499] = tampered(&Ciphertext::from(stored[499].clone()));
    stored[999] = String::new();
    let before = session.calls().transit;
    let decrypted = key.decrypt_batch(&stored).await.expect("a batch");
    let requests = session.calls().transit - before;
    assert_eq!(requests, 3, "what the server takes at once, and no item alone");
    assert_eq!(decrypted.iter().filter(|result| result.is_ok()).count(), 997);
    for (n, result) in decrypted.into_iter().enumerate() {
        match result {
            Ok(found) => assert_eq!(text(&found), plain[n]),
            Err(e) => {
                assert!(bad.contains(&n), "{n}: {e}");
                refused::<()>(Err(e), Kind::BadCiphertext, &["thousand/decrypt/orders"]);
            }
        }
    }
}

/// What batches are sent in parts for: else it would be for nothing.
#[tokio::test]
async fn the_server_refuses_a_request_of_too_many_strings_and_takes_the_largest_part() {
    let (db, _session, key) = engine("strings").await;
    let batch = |count: usize| {
        let item = |n| json!({ "plaintext": format!("{n:08}"), "key_version": 1 });
        json!({ "batch_input": (0..count).map(item).collect::<Vec<_>>() })
    };
    let ask = async |count| {
        let body = Some(batch(count));
        db.stack().vault_request("POST", "strings/encrypt/orders", body).await.expect("asked")
    };
    // Three strings each: two names and a text. A part takes 900.
    let (status, reply) = ask(400).await;
    assert!(status == 400 && reply.to_string().contains("high complexity"), "{status} {reply}");
    assert_eq!(ask(300).await.0, 200);
    let plain: Vec<String> = (0..450).map(|n| format!("{n:08}")).collect();
    let results = key.encrypt_batch(&plain).await.expect("a batch");
    assert!(results.iter().all(Result::is_ok));
}

#[tokio::test]
async fn an_empty_batch_asks_nothing_and_one_of_bad_items_alone_is_no_failure() {
    let (_db, session, key) = engine("empty").await;
    let none: [&str; 0] = [];
    assert_eq!(key.encrypt_batch(none).await.expect("nothing").len(), 0);
    assert_eq!(session.calls().transit, 0);
    let all = key.decrypt_batch(["vault:v1:AAAA", "nonsense"]).await.expect("a batch");
    for result in all {
        refused(result, Kind::BadCiphertext, &["empty/decrypt/orders"]);
    }
    assert_eq!(session.calls().transit, 1);
}

#[tokio::test]
async fn after_a_rotation_what_is_stored_is_rewrapped_and_the_old_version_retired() {
    let (db, session, key) = engine("rotate").await;
    let old = key.encrypt("plain").await.expect("encrypt");
    let plain: Vec<String> = (0..20).map(|n| format!("row {n}")).collect();
    let rows: Vec<Ciphertext> = key
        .encrypt_batch(&plain)
        .await
        .expect("a batch")
        .into_iter()
        .map(|r| r.expect("good"))
        .collect();
    write(db.stack(), "rotate/keys/orders/rotate", json!({})).await;
    assert_eq!(version(&key.encrypt("plain").await.expect("encrypt")), Some(2));
    let first = key.encrypt(Item::new("plain").key_version(1)).await.expect("encrypt");
    assert_eq!(version(&first), Some(1));
    assert_eq!(text(&key.decrypt(&old).await.expect("both versions")), "plain");

    let new = key.rewrap(&old).await.expect("rewrap");
    assert_eq!(version(&new), Some(2));
    let mut stored: Vec<String> = rows.iter().map(ToString::to_string).collect();
    stored[3] = tampered(&rows[3]);
    stored[4] = "vault:v7:AAAA".to_owned();
    let before = session.calls().transit;
    let rewrapped = key.rewrap_batch(&stored).await.expect("a batch");
    assert!(session.calls().transit - before < 20, "not one by one");
    for (n, result) in rewrapped.iter().enumerate() {
        match (n, result) {
            (3 | 4, Err(e)) => assert_eq!(e.kind(), Kind::BadCiphertext, "{e}"),
            (3 | 4, Ok(_)) => panic!("{n} is bad"),
            (_, Ok(new)) => assert_eq!(version(new), Some(2)),
            (_, Err(e)) => panic!("{n}: {e}"),
        }
    }

    let retire = json!({ "min_decryption_version": 2 });
    write(db.stack(), "rotate/keys/orders/config", retire).await;
    let e = refused(key.decrypt(&old).await, Kind::KeyVersion, &["min_decryption_version"]);
    assert!(!e.is_transient());
    assert_eq!(text(&key.decrypt(&new).await.expect("the new one")), "plain");
    let good = rewrapped.into_iter().flatten().collect::<Vec<_>>();
    for (new, plain) in key.decrypt_batch(&good).await.expect("a batch").iter().zip(&plain) {
        assert_eq!(text(new.as_ref().expect("good")).split(' ').next(), plain.split(' ').next());
    }
    let future = key.encrypt(Item::new("plain").key_version(9)).await;
    refused(future, Kind::KeyVersion, &["no such version"]);
}

#[tokio::test]
async fn another_context_another_row_or_a_changed_byte_is_no_ciphertext_of_the_key() {
    let (db, session, key) = engine("bound").await;
    write(db.stack(), "bound/keys/derived", json!({ "derived": true })).await;
    write(db.stack(), "bound/keys/other", json!({})).await;
    let derived = session.transit("/bound/").key("derived");
    let no = |result| refused::<Plaintext>(result, Kind::BadCiphertext, &["bound/decrypt/"]);

    let stored = derived.encrypt(Item::new("plain").context("tenant 1")).await.expect("encrypt");
    let again = derived.decrypt(Item::new(&stored).context("tenant 1")).await.expect("decrypt");
    assert_eq!(text(&again), "plain");
    no(derived.decrypt(Item::new(&stored).context("tenant 2")).await);
    refused(derived.decrypt(&stored).await, Kind::Refused, &["give the context"]);
    refused(derived.encrypt("plain").await, Kind::Refused, &["give the context"]);
    let rewrapped = derived.rewrap(Item::new(&stored).context("tenant 1")).await.expect("rewrap");
    let again = derived.decrypt(Item::new(&rewrapped).context("tenant 1")).await.expect("decrypt");
    assert_eq!(text(&again), "plain");
    // Some with and some without: each has its own result.
    let mixed = [Item::new("a").context("tenant 1"), Item::new("b"), Item::new("c").context("t")];
    let mixed = derived.encrypt_batch(mixed).await.expect("a batch");
    assert!(mixed[0].is_ok() && mixed[2].is_ok(), "{mixed:?}");
    refused(mixed[1].clone(), Kind::Refused, &["give the context"]);

    let bound = Item::new("plain").associated_data("row 1");
    let stored = key.encrypt(bound).await.expect("encrypt");
    let again = key.decrypt(Item::new(&stored).associated_data("row 1")).await.expect("decrypt");
    assert_eq!(text(&again), "plain");
    no(key.decrypt(Item::new(&stored).associated_data("row 2")).await);
    no(key.decrypt(&stored).await);
    let rewrap = key.rewrap(Item::new(&stored).associated_data("row 1")).await;
    refused(rewrap, Kind::Refused, &["no associated data"]);
    refused(key.rewrap(&stored).await, Kind::BadCiphertext, &["bound/rewrap/orders"]);

    let stored = key.encrypt("plain").await.expect("encrypt");
    let changed = tampered(&stored);
    no(key.decrypt(&changed).await);
    no(session.transit("bound").key("other").decrypt(&stored).await);
    for nonsense in ["", "nonsense", "vault:v1", "vault:v1:", "vault:v1:%", "vault:vx:AAAA"] {
        no(key.decrypt(nonsense).await);
    }
    no(key.decrypt(&[0xff, 0xfe]).await);
}

#[tokio::test]
async fn hmacs_and_signatures_are_verified_and_wrong_ones_are_false() {
    let (db, session, key) = engine("sign").await;
    for (name, kind) in [("ed", "ed25519"), ("ec", "ecdsa-p256"), ("rsa", "rsa-2048")] {
        write(db.stack(), &format!("sign/keys/{name}"), json!({ "type": kind })).await;
    }
    let transit = session.transit("sign");
    let (ed, ec, rsa) = (transit.key("ed"), transit.key("ec"), transit.key("rsa"));

    let hmac = key.hmac("message").await.expect("hmac");
    assert_eq!(hmac, key.hmac("message").await.expect("hmac"), "the same for the same");
    assert!(key.verify_hmac("message", &hmac).await.expect("verify"));
    assert!(!key.verify_hmac("another", &hmac).await.expect("verify"));
    let long = key.clone().hash_algorithm("sha2-512");
    let other = long.hmac("message").await.expect("hmac");
    assert!(other.as_str().len() > hmac.as_str().len());
    assert!(long.verify_hmac("message", &other).await.expect("verify"));
    assert!(!key.verify_hmac("message", &other).await.expect("verify"));

    let pkcs = rsa.clone().signature_algorithm("pkcs1v15").hash_algorithm("sha2-512");
    let jws = ec.clone().marshaling_algorithm("jws");
    for (key, other) in [(&ed, &ec), (&ec, &rsa), (&rsa, &ed), (&pkcs, &rsa), (&jws, &ec)] {
        let signature = key.sign("message").await.expect("sign");
        assert_eq!(signature.key_version(), Some(1));
        assert!(key.verify("message", &signature).await.expect("verify"), "{key:?}");
        assert!(!key.verify("another", &signature).await.expect("verify"), "{key:?}");
        assert!(!other.verify("message", &signature).await.expect("verify"), "{key:?}");
        for nonsense in ["nonsense", "vault:v1:", "vault:v1:AAAA", "vault:v1:%", "vault:v7:AAAA"] {
            assert!(!key.verify("message", nonsense).await.expect("verify"), "{key:?} {nonsense}");
            assert!(!key.verify_hmac("message", nonsense).await.expect("verify"), "{nonsense}");
        }
    }
    let hash = [7; 32];
    let hashed = rsa.clone().prehashed();
    let signature = hashed.sign(&hash).await.expect("sign");
    assert!(hashed.verify(&hash, &signature).await.expect("verify"));
    assert!(!rsa.verify(&hash, &signature).await.expect("verify"));

    refused(key.sign("message").await, Kind::Refused, &["another type", "sign/sign/orders"]);
    refused(ed.encrypt("plain").await, Kind::Refused, &["another type", "sign/encrypt/ed"]);
    refused(key.hmac(Item::new("m").context("c")).await, Kind::Refused, &["no context"]);
    let nonsense = rsa.clone().hash_algorithm("md5");
    refused(nonsense.sign("message").await, Kind::Refused, &["md5"]);

    // A version that is retired is no wrong signature: the question is not answered.
    let signature = ed.sign("message").await.expect("sign");
    write(db.stack(), "sign/keys/ed/rotate", json!({})).await;
    write(db.stack(), "sign/keys/ed/config", json!({ "min_decryption_version": 2 })).await;
    refused(ed.verify("message", &signature).await, Kind::KeyVersion, &["sign/verify/ed"]);
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_named_with_what_to_do() {
    let (db, session, _) = engine("there").await;
    let unknown = session.transit("there").key("nosuch");
    // By somebody who may use keys, and not make one.
    let e = refused(
        unknown.encrypt("plain").await,
        Kind::Denied,
        &["there/encrypt/nosuch", "grant `update`", "`create`"],
    );
    assert!(!e.is_transient());
    let stored = "vault:v1:c29tZXRoaW5nIGxvbmcgZW5vdWdo";
    let no_key = |result| refused::<Plaintext>(result, Kind::UnknownKey, &["there/decrypt/nosuch"]);
    no_key(unknown.decrypt(stored).await);
    refused(unknown.rewrap(stored).await, Kind::UnknownKey, &["no such key"]);
    refused(unknown.hmac("message").await, Kind::UnknownKey, &["no such key"]);
    refused(unknown.sign("message").await, Kind::UnknownKey, &["no such key"]);
    refused(unknown.verify("message", stored).await, Kind::UnknownKey, &["no such key"]);
    let all = unknown.decrypt_batch([stored, "nonsense"]).await;
    refused(all, Kind::UnknownKey, &["there/decrypt/nosuch"]);
    for name in ["", "orders/rotate", "../keys"] {
        let key = session.transit("there").key(name);
        refused(key.encrypt("plain").await, Kind::UnknownKey, &["no slash"]);
    }
    let nowhere = session.transit("nowhere").key("orders");
    refused(nowhere.encrypt("plain").await, Kind::Denied, &["nowhere/encrypt/orders"]);
    let root = leasehold_vault::Auth::token(db.stack().root_token());
    let root = Session::login(config(&db), root).await.expect("login");
    let e = refused(
        root.transit("nowhere").key("orders").encrypt("plain").await,
        Kind::NoMount,
        &["nowhere/encrypt/orders", "check mount"],
    );
    assert!(!e.is_transient());
    let database = root.transit(db.mount()).key("orders");
    refused(database.encrypt("plain").await, Kind::NoMount, &["no Transit engine"]);
}

#[tokio::test]
async fn a_sealed_server_and_a_dead_token_heal() {
    let stack = own_stack().await;
    let policy = "path \"transit/*\" { capabilities = [\"update\"] }";
    let spec = DatabaseSpec::new("sealed").app_role(AppRoleSpec::new().extra_policy(policy));
    let db = stack.database(spec).await.expect("database");
    write(&stack, "sys/mounts/transit", json!({ "type": "transit" })).await;
    write(&stack, "transit/keys/orders", json!({})).await;
    let session = Session::login(config(&db), approle(&db).await).await.expect("login");
    let key = session.transit("transit").key("orders");
    let stored = key.encrypt("plain").await.expect("encrypt");

    for accessor in stack.token_accessors().await.expect("accessors") {
        let body = json!({ "accessor": accessor });
        let lookup = "auth/token/lookup-accessor";
        let (_, seen) = stack.vault_request("POST", lookup, Some(body.clone())).await.expect("it");
        if seen["data"]["meta"]["role_name"] == db.name() {
            write(&stack, "auth/token/revoke-accessor", body).await;
        }
    }
    assert_eq!(text(&key.decrypt(&stored).await.expect("logged in anew")), "plain");
    assert_eq!(session.token_state().login, 2);

    stack.seal_vault().await.expect("seal");
    let sealed = key.decrypt(&stored).await;
    let e = refused(sealed, Kind::Call(ErrorKind::Sealed), &["transit/decrypt/orders", "unseal"]);
    assert!(e.is_transient());
    let batch = key.encrypt_batch(["a", "b"]).await;
    assert!(refused(batch, Kind::Call(ErrorKind::Sealed), &[]).is_transient());
    stack.unseal_vault().await.expect("unseal");
    assert_eq!(text(&key.decrypt(&stored).await.expect("decrypt")), "plain");

    session.close().await;
    let closed = key.encrypt("plain").await;
    refused(closed, Kind::Call(ErrorKind::TokenLost), &["session is closed"]);
}

#[tokio::test]
async fn what_is_too_long_is_said_before_it_is_sent_and_long_batches_are_sent_in_parts() {
    let (db, session, key) = engine("long").await;
    let long = vec![b'x'; 800 * 1024];
    let e = refused(key.encrypt(&long).await, Kind::TooLarge, &["819200 bytes", "max_response"]);
    assert!(!e.is_transient());
    assert_eq!(session.calls().transit, 0);
    let most = &long[..700 * 1024];
    let stored = key.encrypt(most).await.expect("just fits");
    assert_eq!(key.decrypt(&stored).await.expect("decrypt").expose(), most);

    let items: Vec<&[u8]> = vec![&long[..200 * 1024], &long, &long[..300 * 1024], most, b"x"];
    let results = key.encrypt_batch(items.iter().copied()).await.expect("a batch");
    for (item, result) in items.iter().zip(results) {
        match result {
            Ok(stored) => assert_eq!(key.decrypt(&stored).await.expect("it").expose(), *item),
            Err(e) => assert_eq!((e.kind(), item.len()), (Kind::TooLarge, long.len()), "{e}"),
        }
    }

    // A session that takes longer answers, up to what the server takes.
    let wide = config(&db).max_response(64 * 1024 * 1024).request_timeout(Duration::from_secs(60));
    let wide = Session::login(wide, approle(&db).await).await.expect("login");
    let key = wide.transit("long").key("orders");
    let mib = 1024 * 1024;
    let long = vec![b'x'; 25 * mib];
    refused(key.encrypt(&long).await, Kind::TooLarge, &["32 MiB"]);
    refused(key.hmac(&long).await, Kind::TooLarge, &["long/hmac/orders"]);
    let stored = key.encrypt(&long[..2 * mib]).await.expect("the server takes it");
    assert_eq!(key.decrypt(&stored).await.expect("decrypt").expose(), &long[..2 * mib]);
}
