//! What the server saw: each request is in its audit when it comes and when it is answered.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// What one process asked of the server.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Asked {
    /// Requests by what they are for.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Logins that it asked for and had no answer to, at the same time.
    pub(crate) mints_at_once: usize,
    /// The same of all requests.
    pub(crate) most_at_once: usize,
}

/// Reads the lines that a process added to the audit. What an administrator asks meanwhile is of no
/// interest.
pub(crate) fn read(audit: &str, mount: &str) -> Asked {
    let mut asked = Asked::default();
    let (mut open, mut mints) = (BTreeSet::new(), BTreeSet::new());
    for line in audit.lines() {
        // The last line may still be on its way.
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        let request = &entry["request"];
        let (Some(id), Some(path)) = (request["id"].as_str(), request["path"].as_str()) else {
            continue;
        };
        let Some(what) = purpose(path, mount) else { continue };
        if entry["type"] == "request" {
            *asked.requests.entry(what.to_owned()).or_default() += 1;
            open.insert(id.to_owned());
            if what == "mint" {
                mints.insert(id.to_owned());
            }
        } else {
            open.remove(id);
            mints.remove(id);
        }
        asked.most_at_once = asked.most_at_once.max(open.len());
        asked.mints_at_once = asked.mints_at_once.max(mints.len());
    }
    asked
}

fn purpose(path: &str, mount: &str) -> Option<&'static str> {
    let minted = path.strip_prefix(mount).is_some_and(|rest| rest.starts_with("/creds/"));
    match path {
        _ if minted => Some("mint"),
        "auth/approle/login" => Some("login"),
        "auth/token/renew-self" => Some("token renewal"),
        "auth/token/revoke-self" => Some("token revocation"),
        "auth/token/lookup-self" => Some("token lookup"),
        "sys/leases/renew" => Some("renewal"),
        "sys/leases/revoke" => Some("revocation"),
        "sys/capabilities-self" => Some("rights"),
        _ => None,
    }
}
