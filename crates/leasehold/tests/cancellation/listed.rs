//! No public async function without a test here: the list is held against the source text.

use std::collections::BTreeSet;
use std::path::Path;

/// Each, and the room of its test.
const COVERED: &[(&str, &str)] = &[
    ("clock.rs", "sleep_towards"),        // waits.rs
    ("clock.rs", "sleep_until"),          // waits.rs
    ("credential.rs", "changed"),         // waits.rs: a Parent's
    ("detached.rs", "to_its_end"),        // sources.rs
    ("hook/gate.rs", "raise"),            // waits.rs
    ("hook/ledger.rs", "wait"),           // waits.rs
    ("hook/pool.rs", "deadline"),         // waits.rs
    ("hook/pool.rs", "roll_over"),        // waits.rs
    ("hook/pool.rs", "turn"),             // waits.rs: a Pace's
    ("hook/pool.rs", "prove"),            // rotator.rs, as a model; the hooks have their own
    ("hook/pool.rs", "drain"),            // the same
    ("hook/replica.rs", "await_replica"), // waits.rs
    ("kept.rs", "keep"),                  // rotator.rs
    ("once.rs", "end"),                   // rotator.rs
    ("once.rs", "once"),                  // rotator.rs
    ("once.rs", "once_by"),               // rotator.rs
    ("provider.rs", "changed"),           // rotator.rs: a Subscription's
    ("provider.rs", "past_dead_login"),   // rotator.rs
    ("provider.rs", "refused"),           // rotator.rs
    ("rotator/builder.rs", "start"),      // rotator.rs
    ("rotator/mod.rs", "shutdown"),       // rotator.rs
    ("source.rs", "changed"),             // sources.rs
    ("source.rs", "close"),               // sources.rs
    ("source.rs", "issue"),               // sources.rs
    ("source.rs", "renew"),               // sources.rs
    ("source.rs", "revoke"),              // sources.rs
    ("sources/watch.rs", "differs"),      // sources.rs
    ("sources/watch.rs", "read"),         // sources.rs
];

/// The names of what is public and gives a future, in the files under `dir`.
fn found(dir: &Path, below: &str, all: &mut BTreeSet<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let place = format!("{below}{name}");
        if path.is_dir() {
            found(&path, &format!("{place}/"), all);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let mut public_trait = false;
            for (at, _) in text.match_indices("fn ") {
                let line = text[..at].rfind('\n').map_or(0, |i| i + 1);
                let before = text[line..at].trim();
                let from = &text[at + 3..];
                let name = from.split(['(', '<']).next().unwrap().trim().to_owned();
                let head = &from[..from.find(['{', ';']).unwrap_or(from.len())];
                let future = head.contains("-> impl Future") || head.contains("-> BoxFuture");
                // The body that the function is in: a trait that is public has no `pub` inside.
                if let Some(open) = text[..at].rfind("\npub trait ") {
                    public_trait = !text[open..at].contains("\n}");
                }
                let is = match before {
                    "pub async" => true,
                    "pub" => future,
                    "" => future && std::mem::take(&mut public_trait),
                    _ => false,
                };
                if is {
                    all.insert((place.clone(), name));
                }
            }
        }
    }
}

#[test]
fn every_public_async_function_has_its_test() {
    let mut all = BTreeSet::new();
    found(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut all);
    let covered: BTreeSet<_> =
        COVERED.iter().map(|(file, name)| (file.to_string(), name.to_string())).collect();
    let new: Vec<_> = all.difference(&covered).collect();
    assert!(new.is_empty(), "write a test that drops it at every await, and list it: {new:?}");
    let gone: Vec<_> = covered.difference(&all).collect();
    assert!(gone.is_empty(), "is it not public any more, or no future? {gone:?}");
}
