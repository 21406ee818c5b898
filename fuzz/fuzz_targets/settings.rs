//! Settings from files of each kind, and from variables.

#![no_main]

use arbitrary::Arbitrary;
use leasehold_fuzz::{NEEDLE, no_secret_in};
use leasehold_vault::fuzzing;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    file: Option<(u8, &'a str)>,
    secrets: Vec<(u8, &'a str)>,
    others: Vec<(u8, &'a str)>,
    odd: Option<(&'a str, &'a str)>,
}

const PREFIXES: [&str; 4] = ["VAULT_", "BAO_", "VAULT__", "BAO__"];

/// What holds a secret.
const SECRETS: [&str; 5] = ["TOKEN", "SECRET_ID", "WRAPPED_SECRET_ID", "PASSWORD", "PROXY_ADDR"];

/// And the rest, but for what names files that are read at once.
const OTHERS: [&str; 26] = [
    "ENABLED",
    "ADDR",
    "URL",
    "NAMESPACE",
    "TLS_SERVER_NAME",
    "SKIP_VERIFY",
    "HTTP_PROXY",
    "REDIRECT_TO",
    "CLIENT_TIMEOUT",
    "MINT_TIMEOUT",
    "RATE_LIMIT",
    "MAX_RESPONSE",
    "TOKEN_FILE",
    "ROLE_ID",
    "SECRET_ID_FILE",
    "WRAPPED_SECRET_ID_FILE",
    "KUBERNETES_ROLE",
    "KUBERNETES_TOKEN_FILE",
    "JWT_ROLE",
    "JWT_FILE",
    "USERNAME",
    "CERT_ROLE",
    "AUTH_MOUNT",
    "DATABASE_ROLE",
    "KV_VERSION",
    "SECRET_PATH",
];

fn variable(names: &[&str], pick: u8) -> String {
    let pick = usize::from(pick);
    let prefix = PREFIXES[pick % PREFIXES.len()];
    format!("{prefix}{}", names[pick / PREFIXES.len() % names.len()])
}

fuzz_target!(|input: Input<'_>| {
    let mut variables: Vec<(String, String)> = Vec::new();
    for (pick, text) in input.secrets {
        variables.push((variable(&SECRETS, pick), format!("{text}{NEEDLE}")));
    }
    let others = input.others.into_iter().map(|(pick, text)| (variable(&OTHERS, pick), text));
    let odd = input.odd.into_iter().map(|(name, text)| (name.to_owned(), text));
    for (name, text) in others.chain(odd) {
        // Names of places and roles are shown.
        if name.contains(NEEDLE) || text.contains(NEEDLE) {
            return;
        }
        variables.push((name, text.to_owned()));
    }
    let in_file = input.file.is_some_and(|(_, text)| text.contains(NEEDLE));
    let settings = match fuzzing::settings(input.file, &variables) {
        Ok(settings) => settings,
        Err(e) => {
            // A key of a file is named, and no value is shown.
            if !e.setting().contains(NEEDLE) {
                no_secret_in(&format!("{e} {e:?}"));
            }
            return;
        }
    };
    no_secret_in(&format!("{settings:?}"));
    match settings.auth() {
        Ok(auth) if !in_file => {
            no_secret_in(&format!("{auth:?}"));
            if let Err(e) = fuzzing::check(auth) {
                no_secret_in(&format!("{e} {e:?}"));
            }
        }
        Ok(_) => {}
        Err(e) => no_secret_in(&format!("{e} {e:?}")),
    }
    // These name files, which would be read: a pipe would never end.
    let names_files = |text: &str| {
        let text = text.to_ascii_lowercase();
        ["cert", "capath", "ca_path", "client_key", "ca", "key"].iter().any(|n| text.contains(n))
    };
    let file = input.file.is_some_and(|(_, text)| names_files(text));
    if file || variables.iter().any(|(name, _)| names_files(name)) {
        return;
    }
    match settings.config() {
        Ok(config) => {
            let plain = settings_address_is_plain(&variables);
            if !in_file {
                no_secret_in(&format!("{config:?}"));
            }
            // With TLS it reads the system's certificates each time.
            if plain && !in_file {
                match fuzzing::client(&config) {
                    Ok(shown) => assert!(!shown.contains('@'), "{shown}"),
                    Err(e) => no_secret_in(&format!("{e} {e:?}")),
                }
            }
        }
        Err(e) => no_secret_in(&format!("{e} {e:?}")),
    }
});

fn settings_address_is_plain(variables: &[(String, String)]) -> bool {
    let address = |name: &str| name.ends_with("_ADDR") || name.ends_with("_URL");
    let mut given = variables.iter().filter(|(name, _)| address(name));
    given.all(|(name, text)| name.contains("PROXY") || text.trim_start().starts_with("http://"))
        && variables.iter().any(|(name, _)| address(name))
}
