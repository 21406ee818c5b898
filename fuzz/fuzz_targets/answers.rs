//! Answers of Vault: each body as what it should answer, and each refusal as what becomes of it.
//!
//! The first byte says which: `a` to `l` is a body, `A` to `L` a refusal, with its status,
//! `Retry-After`, `Location` and the namespace on the four lines before its body. Each secret of a
//! body gets the needle, and where a refusal holds the byte 0xff it quotes what was sent.

#![no_main]

use leasehold_fuzz::{NEEDLE, SECRET, no_secret_in, one_line};
use leasehold_vault::fuzzing::{Refusal, refusal, understand};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use zeroize::Zeroizing;

/// The keys that a secret stands under, and those of a URL with one.
const SECRETS: [&str; 5] = ["password", "pgpassword", "client_token", "secret_id", "id"];
const URLS: [&str; 3] = ["url", "uri", "database_url"];

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    match first {
        b'A'..=b'L' => refused(first - b'A', rest),
        _ => understood(first.wrapping_sub(b'a'), rest),
    }
});

fn understood(question: u8, body: &[u8]) {
    if understand(question, body).is_none() {
        return;
    }
    let Ok(mut planted) = serde_json::from_slice(body) else { return };
    if !plant(&mut planted) {
        return;
    }
    let Some(all) = understand(question, planted.to_string().as_bytes()) else { return };
    // A URL can end up with it in its user name, or in its database.
    if !all.open.iter().any(|open| open.contains(NEEDLE)) {
        no_secret_in(&all.shown);
    }
}

/// Puts the needle into all that is secret. False if it is in the rest as well.
fn plant(value: &mut Value) -> bool {
    match value {
        Value::String(text) => !text.contains(NEEDLE),
        Value::Array(items) => items.iter_mut().all(plant),
        Value::Object(fields) => fields.iter_mut().all(|(key, field)| {
            let key = key.to_ascii_lowercase();
            match field {
                Value::String(secret) if SECRETS.contains(&&*key) => secret.push_str(NEEDLE),
                Value::String(url) if URLS.contains(&&*key) => {
                    url.insert_str(url.rfind('@').unwrap_or(url.len()), NEEDLE);
                }
                other => return !key.contains(NEEDLE) && plant(other),
            }
            true
        }),
        _ => true,
    }
}

fn refused(op: u8, rest: &[u8]) {
    let mut parts = rest.splitn(5, |&b| b == b'\n');
    let mut line = || std::str::from_utf8(parts.next()?).ok().filter(|text| !text.is_empty());
    let (status, retry_after, location) = (line(), line(), line());
    // The only ones that a client is made with.
    let namespace = line().filter(|n| n.bytes().all(|b| b.is_ascii_graphic()));
    let sent = [Zeroizing::new(SECRET.to_owned())];
    let body = parts.next().unwrap_or_default();
    let body = body.split(|&b| b == 0xff).collect::<Vec<_>>().join(SECRET.as_bytes());
    let e = refusal(&Refusal {
        op,
        path: "database/creds/app",
        // No others come out of the HTTP client.
        status: status.and_then(|s| s.parse().ok()).map_or(500, |s: u16| s.clamp(100, 999)),
        retry_after,
        location,
        namespace,
        sent: &sent,
        body: &body,
    });
    let message = e.to_string();
    one_line(&message);
    let most = 6000 + 2 * namespace.map_or(0, str::len);
    assert!(message.len() < most, "{} bytes of message", message.len());
    if !namespace.is_some_and(|n| n.contains(SECRET)) {
        let shown = format!("{message} {e:?}");
        assert!(!shown.contains(SECRET), "what was sent is shown: {shown}");
    }
    let after = e.server_retry_after();
    assert!(after.is_none_or(|after| after.as_secs() <= 3600), "{after:?}");
}
