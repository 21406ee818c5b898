//! What a person or an agent gives: files with one secret, tokens, addresses, paths, certificates.
//! The first byte says which.

#![no_main]

use leasehold_fuzz::{NEEDLE, no_secret_in, one_line};
use leasehold_vault::{Auth, SecretId, VaultConfig, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    if first == b'f' {
        return file(rest);
    }
    if first == b'c' {
        return certificates(rest);
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match first {
        b't' => token(text),
        b'w' => wrapped(text),
        b'a' => address(text),
        b'p' => proxy(text),
        b'm' => mount(text),
        _ => given(text),
    }
});

fn file(bytes: &[u8]) {
    match fuzzing::file_with_secret(bytes) {
        Ok(secret) => {
            assert!(!secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic()));
            assert_eq!(fuzzing::file_with_secret(secret.as_bytes()).ok(), Some(secret));
        }
        Err(e) => no_secret_in(&format!("{e} {e:?}")),
    }
}

fn token(text: &str) {
    if let Some(token) = fuzzing::token(text) {
        assert_eq!(token, text.trim());
        assert_eq!(fuzzing::token(&token), Some(token));
    }
}

fn wrapped(text: &str) {
    let (path, mount) = text.split_once('\n').unwrap_or((text, "approle"));
    if fuzzing::wraps_secret_id(path, mount) {
        let role = path
            .strip_prefix(&format!("auth/{mount}/role/"))
            .and_then(|rest| rest.rsplit_once('/'))
            .expect("a secret_id's path");
        assert!(!role.0.is_empty() && !role.0.contains('/'), "{path}");
        assert!(["secret-id", "custom-secret-id"].contains(&role.1), "{path}");
    }
}

fn address(text: &str) {
    match fuzzing::address(text) {
        Ok(origin) => {
            one_line(&origin);
            assert!(origin.starts_with("http") && !origin.contains('@'), "{origin}");
            assert_eq!(fuzzing::address(&origin).ok(), Some(origin));
        }
        // The scheme is shown; it ends at the first colon.
        Err(e) if !text.split(':').next().unwrap_or_default().contains(NEEDLE) => {
            no_secret_in(&format!("{e} {e:?}"));
        }
        Err(_) => {}
    }
}

fn proxy(text: &str) {
    let config = VaultConfig::new("http://192.0.2.1:8200").proxy(text);
    no_secret_in(&format!("{config:?}"));
    // With TLS to the proxy it reads the system's certificates each time.
    if text.trim_start().to_ascii_lowercase().starts_with("https") {
        return;
    }
    match fuzzing::client(&config) {
        Ok(shown) => assert!(!shown.contains('@'), "{shown}"),
        Err(e) => no_secret_in(&format!("{e} {e:?}")),
    }
}

/// A path of the server: what is let through leads nowhere else.
fn mount(text: &str) {
    let body = || async { Ok(serde_json::Value::Null) };
    for auth in [
        Auth::approle("role", "secret").mount(text),
        Auth::cert(None).mount(text),
        Auth::userpass(text, "secret"),
        Auth::custom(text, body),
    ] {
        let shown = format!("{auth:?}");
        match fuzzing::check(auth) {
            Ok(()) => {
                let path = shown.strip_prefix("Auth(").and_then(|s| s.strip_suffix(')'));
                let path = path.expect("its Debug");
                let parts = path.split('/');
                for part in parts {
                    assert!(!["", ".", ".."].contains(&part), "{path}");
                    assert!(!part.contains(['?', '#', '%', '\\']), "{path}");
                }
                one_line(&shown);
            }
            Err(e) => one_line(&e.to_string()),
        }
    }
}

fn given(text: &str) {
    for secret_id in [
        SecretId::value(text),
        SecretId::file(text),
        SecretId::env(text),
        SecretId::wrapped(text),
        SecretId::wrapped_file(text),
    ] {
        let auth = Auth::approle(text, secret_id);
        if let Err(e) = fuzzing::check(auth) {
            no_secret_in(&format!("{e} {e:?}"));
        }
    }
    for auth in [Auth::token(text), Auth::token_file(text), Auth::userpass("joe", text)] {
        if let Err(e) = fuzzing::check(auth) {
            no_secret_in(&format!("{e} {e:?}"));
        }
    }
}

fn certificates(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |&b| b == 0);
    let mut next = || parts.next().unwrap_or_default();
    let config = fuzzing::with_certificates(next(), next(), next(), None);
    if let Err(e) = fuzzing::client(&config) {
        no_secret_in(&format!("{e} {e:?}"));
    }
}
