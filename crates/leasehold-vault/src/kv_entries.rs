//! Whole secrets of a KV engine of version 2, read and written: what the command line moves
//! settings with. A service reads its login with [`KvSecret`](crate::KvSecret).

use std::collections::BTreeMap;
use std::fmt;

use leasehold::{ErrorKind, SourceError};
use serde_json::{Value, json};

use crate::classify::Op;
use crate::endpoints::{VersionData, WriteBody};
use crate::inspect::{self, Answer};
use crate::kv_store::fetch::{Found, fetch};
use crate::kv_store::place::Place;
use crate::kv_store::write::is_conflict;
use crate::session::Session;

/// Where an engine is mounted, and which path below it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvMount {
    /// Without a slash at the end.
    pub mount: String,
    /// The rest.
    pub path: String,
    /// 1 or 2; `None`: it is no KV engine.
    pub version: Option<u8>,
}

/// A secret's keys, and its version: 0 where there is none. Not wiped when dropped: for programs
/// that are about to end.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Entries {
    /// Of the engine, for check-and-set.
    pub version: u64,
    /// What is in it.
    pub values: BTreeMap<String, Value>,
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.values.keys().collect();
        f.debug_struct("Entries").field("version", &self.version).field("keys", &keys).finish()
    }
}

impl Session {
    /// Which engine serves `path`.
    ///
    /// # Errors
    /// Not found where none does, or none that the policy lets this session see: the server does
    /// not tell which.
    #[doc(hidden)]
    pub async fn kv_mount(&self, path: &str) -> Result<KvMount, SourceError> {
        let path = path.trim_matches('/');
        let found = inspect::mounted(self, path).await.map_err(|e| {
            if !matches!(e.kind(), ErrorKind::Denied | ErrorKind::NotFound) {
                return e;
            }
            let message = format!(
                "no engine that this login may use is mounted on the way to {path}: check the \
                 name, and that the policy gives rights on it"
            );
            SourceError::new(ErrorKind::NotFound, message)
        })?;
        let mount = found.path.trim_matches('/').to_owned();
        let rest = path.strip_prefix(&*mount).unwrap_or(path).trim_matches('/').to_owned();
        let told = found.options.as_ref().and_then(|options| options.get("version"));
        let version = match (&*found.kind, told.map(String::as_str)) {
            ("kv" | "generic", Some("2")) => Some(2),
            ("kv" | "generic", _) => Some(1),
            _ => None,
        };
        Ok(KvMount { mount, path: rest, version })
    }

    /// All of a secret as it is. One that is not there, or whose current version was deleted, has
    /// nothing in it.
    ///
    /// # Errors
    /// As any call: denied, sealed, out of reach.
    #[doc(hidden)]
    pub async fn kv2_entries(&self, mount: &str, path: &str) -> Result<Entries, SourceError> {
        Ok(match fetch(self, &Place::new(mount, path, true), None).await? {
            Found::Here { version, value } => {
                Entries { version: version.unwrap_or_default(), values: value }
            }
            Found::Deleted { version, .. } | Found::Destroyed { version } => {
                Entries { version, values: BTreeMap::new() }
            }
            Found::Nothing => Entries::default(),
        })
    }

    /// Writes a secret if `entries.version` is still its version, and returns the new one.
    ///
    /// # Errors
    /// As any call; [`ErrorKind::Other`] where somebody else has written it meanwhile.
    #[doc(hidden)]
    pub async fn kv2_write(
        &self,
        mount: &str,
        path: &str,
        entries: &Entries,
    ) -> Result<u64, SourceError> {
        let path = Place::new(mount, path, true).data();
        let body = json!({ "options": { "cas": entries.version }, "data": entries.values });
        let body = body.to_string().into_bytes();
        let api = self.api();
        let call = async |token| {
            let request = WriteBody { path: path.clone(), body: body.clone() };
            api.json(Op::Write, &path, request, Some(&token), api.request_timeout).await
        };
        let written: Result<Answer<VersionData>, _> = self.manage_with(call).await;
        written.map(|reply| reply.data.version).map_err(|e| match e {
            e if is_conflict(&e) => {
                let message =
                    format!("writing {path}: somebody has written it meanwhile: look at it again");
                SourceError::new(ErrorKind::Other, message)
            }
            e => e,
        })
    }
}
