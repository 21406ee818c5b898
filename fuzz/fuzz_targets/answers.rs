//! Answers of Vault: each body as what it should answer, and each refusal as what becomes of it.
//!
//! The first byte says which: `a` to `l` is a body, `A` to `L` a refusal, with its status,
//! `Retry-After`, `Location` and the namespace on the four lines before its body.

#![no_main]

use leasehold_fuzz::{NEEDLE, SECRET, no_secret_in, one_line};
use leasehold_vault::fuzzing::{Refusal, refusal, understand};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    match first {
        b'A'..=b'L' => refused(first - b'A', rest),
        _ => understood(first.wrapping_sub(b'a'), rest),
    }
});

fn understood(question: u8, body: &[u8]) {
    let Some(all) = understand(question, body) else { return };
    let hidden = all.secrets.iter().any(|secret| secret.contains(NEEDLE));
    let open = all.open.iter().any(|open| open.contains(NEEDLE));
    if hidden && !open {
        no_secret_in(&all.shown);
    }
}

fn refused(op: u8, rest: &[u8]) {
    let mut parts = rest.splitn(5, |&b| b == b'\n');
    let mut line = || std::str::from_utf8(parts.next()?).ok().filter(|text| !text.is_empty());
    let (status, retry_after, location) = (line(), line(), line());
    // The only ones that a client is made with.
    let namespace = line().filter(|n| n.bytes().all(|b| b.is_ascii_graphic()));
    let sent = [Zeroizing::new(SECRET.to_owned())];
    let e = refusal(&Refusal {
        op,
        path: "database/creds/app",
        // No others come out of the HTTP client.
        status: status.and_then(|s| s.parse().ok()).map_or(500, |s: u16| s.clamp(100, 999)),
        retry_after,
        location,
        namespace,
        sent: &sent,
        body: parts.next().unwrap_or_default(),
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
