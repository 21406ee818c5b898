//! What changes a secret.

use leasehold::SourceError;
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::KvStore;
use super::error::KvError;
use super::fetch::{Found, is_nothing, time};
use super::place::Place;
use crate::api::{self, Reply};
use crate::classify::Op;
use crate::endpoints::{self, Endpoint, VersionData, WriteBody};
use crate::inspect::Answer;
use crate::session::Session;

/// Whether a write goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteIf {
    /// Whatever is there. What somebody else has written meanwhile is written over.
    Always,
    /// If there is no secret yet. One whose current version was deleted is there.
    New,
    /// If this is its version still.
    Version(u64),
}

impl WriteIf {
    fn expected(self) -> Option<u64> {
        match self {
            Self::Always => None,
            Self::New => Some(0),
            Self::Version(version) => Some(version),
        }
    }
}

impl KvStore {
    /// Writes a secret, which takes the place of the whole of what was there, and returns the new
    /// version: none of an engine of version 1, which takes [`WriteIf::Always`] only.
    ///
    /// `value` is a struct or a map. A write that gets no answer ([`KvError::Unavailable`] of the kind
    /// `timeout`) or is dropped may have been carried out: give an expected version, and it can be
    /// repeated.
    ///
    /// # Errors
    /// [`KvError::CasConflict`] where it is not as expected, [`KvError::CasRequired`] where an
    /// expectation has to be given; as any call.
    pub async fn write<T: Serialize + ?Sized>(
        &self,
        path: &str,
        value: &T,
        when: WriteIf,
    ) -> Result<Option<u64>, KvError> {
        let place = match when {
            WriteIf::Always => self.place(path)?,
            _ => self.versioned(path)?,
        };
        let body = body(&place, value, when)?;
        let data = place.data();
        let request = || WriteBody { path: data.clone(), body: body.to_vec() };
        let reply = send(&self.session, Op::Write, &data, request).await;
        let reply = reply.map_err(|e| refused(e, &data, when))?;
        if !place.versioned {
            return Ok(None);
        }
        new_version(Op::Write, &data, &reply).map(Some)
    }

    /// Changes some keys of a secret and leaves the others (a JSON merge patch), and returns the new
    /// version. A key whose value is null is removed: skip a field that is none
    /// (`#[serde(skip_serializing_if = "Option::is_none")]`) where that is not what you want.
    ///
    /// The server reads and writes in one step, so that [`WriteIf::Always`] loses nothing that
    /// others write to other keys. Needs the right `patch`. Dropped or without an answer, it may have
    /// been carried out; once more changes nothing but the version.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of a read: what is not there, or was deleted, can't be
    /// patched.
    pub async fn patch<T: Serialize + ?Sized>(
        &self,
        path: &str,
        changes: &T,
        when: WriteIf,
    ) -> Result<u64, KvError> {
        let place = self.versioned(path)?;
        let body = body(&place, changes, when)?;
        let data = place.data();
        let request = || PatchBody { path: data.clone(), body: body.clone() };
        let reply = send(&self.session, Op::Patch, &data, request).await;
        let reply = reply.map_err(|e| refused(e, &data, when))?;
        if reply.status == 404
            && let Some(found) = not_patched(&reply.body)
        {
            KvError::unless_here(&place, None, found)?;
        }
        new_version(Op::Patch, &data, &reply)
    }

    /// Deletes a secret's current version; it can be undeleted. Of an engine of version 1: the
    /// secret, for good. One that is not there is no error. Repeating it is harmless.
    ///
    /// # Errors
    /// As any call.
    pub async fn delete(&self, path: &str) -> Result<(), KvError> {
        let data = self.place(path)?.data();
        Ok(send(&self.session, Op::Delete, &data, || Remove { path: data.clone() })
            .await
            .map(drop)?)
    }

    /// Deletes these versions of a secret; they can be undeleted. Repeating it is harmless.
    ///
    /// # Errors
    /// As any call.
    pub async fn delete_versions(&self, path: &str, versions: &[u64]) -> Result<(), KvError> {
        self.to_versions("delete", path, versions).await
    }

    /// Takes back that these versions of a secret were deleted. Repeating it is harmless.
    ///
    /// # Errors
    /// As any call.
    pub async fn undelete(&self, path: &str, versions: &[u64]) -> Result<(), KvError> {
        self.to_versions("undelete", path, versions).await
    }

    /// Destroys these versions of a secret: what is in them is gone. Repeating it is harmless.
    ///
    /// # Errors
    /// As any call.
    pub async fn destroy(&self, path: &str, versions: &[u64]) -> Result<(), KvError> {
        self.to_versions("destroy", path, versions).await
    }

    /// Removes a secret with all its versions and what is known of it, for good. One that is not
    /// there is no error. Repeating it is harmless.
    ///
    /// # Errors
    /// As any call.
    pub async fn delete_all(&self, path: &str) -> Result<(), KvError> {
        let all = self.versioned(path)?.metadata();
        Ok(send(&self.session, Op::Delete, &all, || Remove { path: all.clone() })
            .await
            .map(drop)?)
    }

    async fn to_versions(&self, verb: &str, path: &str, versions: &[u64]) -> Result<(), KvError> {
        let path = self.versioned(path)?.below(verb);
        let body = json!({ "versions": versions }).to_string().into_bytes();
        let request = || WriteBody { path: path.clone(), body: body.clone() };
        Ok(send(&self.session, Op::Write, &path, request).await.map(drop)?)
    }
}

/// Makes one call, and once more if the token proves dead: then nothing was done.
async fn send<E: Endpoint>(
    session: &Session,
    op: Op,
    path: &str,
    request: impl Fn() -> E,
) -> Result<Reply, SourceError> {
    let api = session.api();
    let call = async |token| api.call(op, path, request(), Some(&token), api.request_timeout).await;
    session.manage_with(call).await
}

fn new_version(op: Op, path: &str, reply: &Reply) -> Result<u64, KvError> {
    let answer: Answer<VersionData> =
        api::read(op, path, reply).map_err(|e| KvError::from(e.into_error()))?;
    Ok(answer.data.version)
}

/// What is written, in memory that is wiped.
fn body<T: Serialize + ?Sized>(
    place: &Place,
    value: &T,
    when: WriteIf,
) -> Result<Zeroizing<Vec<u8>>, KvError> {
    #[derive(Serialize)]
    struct Body<'a, T: ?Sized> {
        #[serde(skip_serializing_if = "Option::is_none")]
        options: Option<Options>,
        data: &'a T,
    }
    #[derive(Serialize)]
    struct Options {
        cas: u64,
    }
    let options = when.expected().map(|cas| Options { cas });
    let written = match place.versioned {
        true => endpoints::json(&Body { options, data: value }),
        false => endpoints::json(&value),
    };
    written.ok_or_else(|| KvError::NotJson { path: place.data() })
}

/// What there is in place of a secret that can be patched, from the body of a 404. Such a body is
/// not that of a read: it has the version's metadata alone, or nothing at all. (One for a mount that
/// is not there has words.)
fn not_patched(body: &[u8]) -> Option<Found<()>> {
    if body.is_empty() || is_nothing(404, body) {
        return Some(Found::Nothing);
    }
    let Answer { data } = serde_json::from_slice(body).ok()?;
    let VersionData { version, deletion_time, destroyed, .. } = data;
    Some(match destroyed {
        true => Found::Destroyed { version },
        false => Found::Deleted { version, at: time(&deletion_time) },
    })
}

fn refused(e: SourceError, path: &str, when: WriteIf) -> KvError {
    let path = path.to_owned();
    match when.expected() {
        Some(expected) if is_conflict(&e) => KvError::CasConflict { path, expected },
        None if e.to_string().contains("check-and-set parameter required") => {
            KvError::CasRequired { path }
        }
        _ => e.into(),
    }
}

/// The server's words, which stand in the error's.
pub(crate) fn is_conflict(e: &SourceError) -> bool {
    e.to_string().contains("did not match the current version")
}

/// Some keys of a secret.
#[derive(Serialize)]
struct PatchBody {
    #[serde(skip)]
    path: String,
    #[serde(skip)]
    body: Zeroizing<Vec<u8>>,
}

impl Endpoint for PatchBody {
    const METHOD: &str = "PATCH";
    const CONTENT_TYPE: Option<&'static str> = Some("application/merge-patch+json");

    fn path(&self) -> String {
        self.path.clone()
    }

    fn body(self) -> Option<Zeroizing<Vec<u8>>> {
        Some(self.body)
    }

    fn answers(status: u16, body: &[u8]) -> bool {
        (200..300).contains(&status) || (status == 404 && not_patched(body).is_some())
    }
}

/// The current version of a secret, or all of it.
#[derive(Serialize)]
struct Remove {
    #[serde(skip)]
    path: String,
}

impl Endpoint for Remove {
    const METHOD: &str = "DELETE";

    fn path(&self) -> String {
        self.path.clone()
    }
}
