//! Which version of a secret is the current one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use leasehold::{ErrorKind, SourceError};
use serde::de::IgnoredAny;
use tracing::warn;

use super::fetch::{Found, fetch, is_nothing, time};
use super::place::Place;
use crate::api;
use crate::classify::{Failure, Op};
use crate::endpoints::{Endpoint, Metadata, MetadataReply, VersionData};
use crate::session::Session;
use serde::Serialize;

/// How a secret of an engine with versions stands, by its current version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live(u64),
    Deleted(u64),
    Destroyed(u64),
    Nothing,
}

impl<T> From<&Found<T>> for State {
    fn from(found: &Found<T>) -> Self {
        match found {
            Found::Here { version, .. } => Self::Live(version.unwrap_or_default()),
            Found::Deleted { version, .. } => Self::Deleted(*version),
            Found::Destroyed { version } => Self::Destroyed(*version),
            Found::Nothing => Self::Nothing,
        }
    }
}

impl State {
    pub(crate) fn version(self) -> Option<u64> {
        match self {
            Self::Live(version) | Self::Deleted(version) | Self::Destroyed(version) => {
                Some(version)
            }
            Self::Nothing => None,
        }
    }
}

/// Looks at the metadata, which tells no secret; where the policy gives no right to that, at the
/// secret itself.
#[derive(Debug, Default)]
pub(crate) struct Look {
    no_metadata: AtomicBool,
}

impl Look {
    pub(crate) async fn state(
        &self,
        session: &Session,
        place: &Place,
    ) -> Result<State, SourceError> {
        if !self.no_metadata.load(Ordering::Relaxed) {
            match metadata(session, place).await {
                Ok((found, now)) => {
                    return Ok(found.map_or(State::Nothing, |metadata| current(&metadata, now)));
                }
                Err(e) if e.kind() == ErrorKind::Denied => {
                    self.no_metadata.store(true, Ordering::Relaxed);
                    warn!(
                        error = %e,
                        "the secret itself is read each time instead, to see whether it changed: \
                         grant `read` on {}", place.metadata()
                    );
                }
                Err(e) => return Err(e),
            }
        }
        Ok(State::from(&fetch::<IgnoredAny>(session, place, None).await?))
    }
}

/// What is known of a secret, if there is one, and the server's time.
pub(super) async fn metadata(
    session: &Session,
    place: &Place,
) -> Result<(Option<Metadata>, SystemTime), SourceError> {
    let path = &*place.metadata();
    let api = session.api();
    let call = async |token| {
        let request = ReadMetadata { path: path.to_owned() };
        api.call(Op::Read, path, request, Some(&token), api.request_timeout).await
    };
    let reply = session.manage_with(call).await?;
    let now = reply.date.unwrap_or_else(|| session.clock().wall());
    if is_nothing(reply.status, &reply.body) {
        return Ok((None, now));
    }
    let MetadataReply { data } = api::read(Op::Read, path, &reply).map_err(Failure::into_error)?;
    Ok((Some(data), now))
}

fn current(metadata: &Metadata, now: SystemTime) -> State {
    let version = metadata.current_version;
    match metadata.versions.get(&version) {
        Some(known) if known.destroyed => State::Destroyed(version),
        Some(known) if is_deleted(known, now) => State::Deleted(version),
        // The metadata of a secret may be written before its first version is.
        None if version == 0 => State::Nothing,
        _ => State::Live(version),
    }
}

/// A time to come is when a version will end by itself.
pub(super) fn is_deleted(known: &VersionData, now: SystemTime) -> bool {
    // The server tells the time in whole seconds.
    time(&known.deletion_time).is_some_and(|at| at <= now + Duration::from_secs(1))
}

#[derive(Serialize)]
struct ReadMetadata {
    #[serde(skip)]
    path: String,
}

impl Endpoint for ReadMetadata {
    fn path(&self) -> String {
        self.path.clone()
    }

    fn answers(status: u16, body: &[u8]) -> bool {
        (200..300).contains(&status) || is_nothing(status, body)
    }
}
