//! Whole secrets of a KV engine of version 2, read and written: what the command line moves
//! settings with. A service reads its login with [`KvSecret`](crate::KvSecret).

use std::collections::BTreeMap;
use std::fmt;

use leasehold::{ErrorKind, SourceError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::classify::Op;
use crate::endpoints::{Metadata, WriteBody};
use crate::inspect::{self, Answer};
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

#[derive(Deserialize)]
struct SecretData {
    #[serde(default)]
    data: Option<BTreeMap<String, Value>>,
    metadata: VersionOnly,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
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
        let read: Result<SecretData, _> =
            inspect::read(self, &format!("{mount}/data/{path}")).await;
        match read {
            Ok(data) => Ok(Entries {
                version: data.metadata.version,
                values: data.data.unwrap_or_default(),
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let metadata: Result<Metadata, _> =
                    inspect::read(self, &format!("{mount}/metadata/{path}")).await;
                let version = match metadata {
                    Ok(data) => data.current_version,
                    // Not there, or not allowed to look: it is taken for new, and check-and-set
                    // says if it is not.
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Denied) => 0,
                    Err(e) => return Err(e),
                };
                Ok(Entries { version, values: BTreeMap::new() })
            }
            Err(e) => Err(e),
        }
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
        let (secret, path) = (path, format!("{mount}/data/{path}"));
        let body = json!({ "options": { "cas": entries.version }, "data": entries.values });
        let body = body.to_string().into_bytes();
        let api = self.api();
        let call = async |token| {
            let request = WriteBody { path: path.clone(), body: body.clone() };
            api.json(Op::Write, &path, request, Some(&token), api.request_timeout).await
        };
        let written: Result<Answer<VersionOnly>, _> = self.manage_with(call).await;
        written.map(|reply| reply.data.version).map_err(|e| match e.to_string() {
            said if said.contains("did not match the current version") => {
                let was_new = match entries.version {
                    0 => format!(
                        ", or it was deleted, and `read` on {mount}/metadata/{secret} is missing"
                    ),
                    _ => String::new(),
                };
                let message = format!(
                    "writing {path}: somebody has written it meanwhile: look at it again{was_new}"
                );
                SourceError::new(ErrorKind::Other, message)
            }
            _ => e,
        })
    }
}
