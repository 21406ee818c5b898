//! A secret as the server has it. The one place where any of this crate reads one.

use std::time::SystemTime;

use leasehold::SourceError;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::place::Place;
use crate::api::{self, Reply};
use crate::classify::{Failure, Op};
use crate::endpoints::{Endpoint, KvReply, VersionData, VersionedData, VersionedReply};
use crate::session::Session;

/// What is at a path.
pub(crate) enum Found<T> {
    /// The secret, and its version where the engine has versions.
    Here { version: Option<u64>, value: T },
    /// The version asked for was deleted, and can be undeleted.
    Deleted { version: u64, at: Option<SystemTime> },
    /// The version asked for was destroyed for good.
    Destroyed { version: u64 },
    /// No such secret, or no such version of it.
    Nothing,
}

/// Reads a secret: its current version, or this one.
pub(crate) async fn fetch<T: DeserializeOwned>(
    session: &Session,
    place: &Place,
    version: Option<u64>,
) -> Result<Found<T>, SourceError> {
    let path = &*place.data();
    let api = session.api();
    let call = async |token| {
        let request = ReadSecret { path: path.to_owned(), version };
        api.call(Op::Read, path, request, Some(&token), api.request_timeout).await
    };
    understand(place, &session.manage_with(call).await?)
}

/// An answer that [`is_one`].
fn understand<T: DeserializeOwned>(place: &Place, reply: &Reply) -> Result<Found<T>, SourceError> {
    if is_nothing(reply.status, &reply.body) {
        return Ok(Found::Nothing);
    }
    let (op, path) = (Op::Read, &*place.data());
    if !place.versioned {
        let KvReply { data } = api::read(op, path, reply).map_err(Failure::into_error)?;
        return Ok(Found::Here { version: None, value: data });
    }
    let VersionedReply { data } = api::read(op, path, reply).map_err(Failure::into_error)?;
    let VersionedData { data, metadata } = data;
    let VersionData { version, deletion_time, destroyed, .. } = metadata;
    Ok(match data {
        _ if destroyed => Found::Destroyed { version },
        Some(value) => Found::Here { version: Some(version), value },
        None => Found::Deleted { version, at: time(&deletion_time) },
    })
}

#[derive(Serialize)]
struct ReadSecret {
    #[serde(skip)]
    path: String,
    #[serde(skip)]
    version: Option<u64>,
}

impl Endpoint for ReadSecret {
    fn path(&self) -> String {
        self.path.clone()
    }

    fn query(&self) -> Option<String> {
        self.version.map(|version| format!("version={version}"))
    }

    fn answers(status: u16, body: &[u8]) -> bool {
        is_one(status, body)
    }
}

/// What says how a secret stands, a 404 among them: one with all that is known of a version that
/// was deleted, and one with nothing for a secret that is not there. One for a mount that is not
/// there has words.
fn is_one(status: u16, body: &[u8]) -> bool {
    let of_a_version = || serde_json::from_slice::<VersionedReply<IgnoredAny>>(body).is_ok();
    (200..300).contains(&status) || is_nothing(status, body) || (status == 404 && of_a_version())
}

pub(super) fn is_nothing(status: u16, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct NoErrors {
        errors: [IgnoredAny; 0],
    }
    status == 404 && serde_json::from_slice(body).is_ok_and(|NoErrors { errors: [] }| true)
}

/// A time as the server writes it; none if it says none.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELETED: &str = r#"{"data":{"data":null,"metadata":{"created_time":"2026-11-21T02:22:51.075348835Z","custom_metadata":null,"deletion_time":"2026-11-21T02:22:51.082427187Z","destroyed":false,"version":2}}}"#;
    const NO_MOUNT: &str =
        r#"{"errors":["no handler for route \"kvnone/data/x\". route entry not found."]}"#;
    /// A path of version 1 on an engine of version 2.
    const OTHER_ENGINE: &str =
        r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine."]}"#;

    #[test]
    fn a_404_is_read_where_it_says_how_a_secret_stands() {
        assert!(is_one(404, DELETED.as_bytes()) && !is_nothing(404, DELETED.as_bytes()));
        assert!(is_nothing(404, br#"{"errors":[]}"#));
        for other in [NO_MOUNT, OTHER_ENGINE, "<html>", ""] {
            assert!(!is_one(404, other.as_bytes()), "{other}");
        }
        assert!(!is_one(403, br#"{"errors":[]}"#) && !is_one(400, DELETED.as_bytes()));
    }

    #[test]
    fn the_server_writes_times_to_the_nanosecond() {
        let at = time("2026-11-21T02:22:51.082427187Z").expect("a time");
        let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("after it");
        assert_eq!(since.subsec_nanos(), 82_427_187);
        assert_eq!(time(""), None);
    }
}
