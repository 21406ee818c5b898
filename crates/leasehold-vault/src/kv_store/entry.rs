//! What is had of a secret, and where it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use leasehold::clock::Time;
use serde::de::DeserializeOwned;

use super::error::KvError;
use super::node::Node;
use super::place::Place;
use super::typed::typed;
use crate::endpoints::{Metadata, VersionData};

/// A secret as it was read. `Debug` leaves the value out.
#[derive(Clone)]
#[non_exhaustive]
pub struct KvEntry<T> {
    /// What is in it.
    pub value: T,
    /// Its version, from 1 on. None of an engine of version 1, and of the environment.
    pub version: Option<u64>,
    /// How old the answer is: the time since the request that brought it. What the server has may
    /// have changed since.
    pub age: Duration,
    /// Where it comes from.
    pub origin: KvOrigin,
}

/// Where a [`KvEntry`] comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KvOrigin {
    /// Just read.
    Server,
    /// From a [`KvCache`](crate::KvCache), and younger than that has to be.
    Memory,
    /// From a [`KvCache`](crate::KvCache), and older than that has to be: the server can't be
    /// asked, for this reason.
    Stale(KvError),
    /// From environment variables, as the server can't be asked, for this reason.
    Environment(KvError),
}

impl<T> KvEntry<T> {
    /// It is older than it has to be, as the server can't be asked.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self.origin, KvOrigin::Stale(_))
    }

    /// It is no answer of the server's, but was found in the environment.
    #[must_use]
    pub fn is_from_environment(&self) -> bool {
        matches!(self.origin, KvOrigin::Environment(_))
    }
}

impl<T> fmt::Debug for KvEntry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvEntry")
            .field("version", &self.version)
            .field("age", &self.age)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A secret that was read, before it is what an application wants.
pub(super) struct Raw {
    pub(super) node: Node,
    pub(super) version: Option<u64>,
    /// Just before the request.
    pub(super) asked_at: Time,
}

impl Raw {
    pub(super) fn entry<T: DeserializeOwned>(
        &self,
        place: &Place,
        now: Time,
        origin: KvOrigin,
    ) -> Result<KvEntry<T>, KvError> {
        let version = self.version;
        let value = typed(&self.node).map_err(|keys| KvError::Malformed {
            path: place.data(),
            version,
            keys,
        })?;
        Ok(KvEntry { value, version, age: now - self.asked_at, origin })
    }
}

/// What the engine knows of a secret, without what is in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KvMetadata {
    /// The version that a read gives.
    pub current_version: u64,
    /// Those that are kept, by number.
    pub versions: BTreeMap<u64, KvVersion>,
    /// Writes have to say which version they expect. May be asked for by the whole engine too,
    /// which is not told here.
    pub cas_required: bool,
    /// How many versions are kept; 0: as many as the engine says.
    pub max_versions: u64,
    /// What people and tools have noted down. No place for secrets: who may list, may read it.
    pub custom: BTreeMap<String, String>,
}

/// One version of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvVersion {
    /// When it was written, on the server's clock.
    pub created: Option<SystemTime>,
    /// How it stands.
    pub state: KvVersionState,
}

/// How a version of a secret stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvVersionState {
    /// It can be read, until then if it ends by itself (`delete_version_after`).
    Live(Option<SystemTime>),
    /// It was deleted then, and can be undeleted.
    Deleted(SystemTime),
    /// It is gone.
    Destroyed,
}

impl KvMetadata {
    pub(super) fn of(told: Metadata, now: SystemTime) -> Self {
        let versions = told.versions.into_iter();
        Self {
            current_version: told.current_version,
            versions: versions.map(|(n, told)| (n, KvVersion::of(&told, now))).collect(),
            cas_required: told.cas_required,
            max_versions: told.max_versions,
            custom: told.custom_metadata.unwrap_or_default(),
        }
    }
}

impl KvVersion {
    fn of(told: &VersionData, now: SystemTime) -> Self {
        let state = match super::fetch::time(&told.deletion_time) {
            _ if told.destroyed => KvVersionState::Destroyed,
            Some(at) if super::look::is_deleted(told, now) => KvVersionState::Deleted(at),
            ends => KvVersionState::Live(ends),
        };
        Self { created: super::fetch::time(&told.created_time), state }
    }
}
