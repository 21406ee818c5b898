//! KV engines, for the application's own settings.

mod cache;
mod entry;
mod environment;
mod error;
pub(crate) mod fetch;
mod loader;
pub(crate) mod look;
mod node;
pub(crate) mod pace;
pub(crate) mod place;
mod problem;
mod typed;
mod watch;
pub(crate) mod write;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tracing::Instrument;

pub use cache::KvCache;
pub use entry::{KvEntry, KvMetadata, KvOrigin, KvVersion, KvVersionState};
pub use error::KvError;
pub use loader::{KvLoadError, KvLoader, KvSection, KvSettings};
pub use problem::KvKeyProblem;
pub use watch::KvWatch;
pub use write::WriteIf;

use crate::api;
use crate::classify::{Failure, Op};
use crate::endpoints::Endpoint;
use crate::inspect::{Answer, Keys};
use crate::session::Session;
use entry::Raw;
use fetch::{fetch, is_nothing};
use place::Place;

/// A KV engine, for an application's own settings, through a session that it has anyway. Clones
/// are cheap.
///
/// Made by [`Session::kv1_store`] and [`Session::kv2_store`]. Paths are those of `bao kv`: without
/// the `data/` of the API.
///
/// ```no_run
/// # #[derive(serde::Deserialize, serde::Serialize)] struct Smtp { host: String, port: u16 }
/// # async fn example(session: leasehold_vault::Session) -> Result<(), leasehold_vault::KvError> {
/// use leasehold_vault::WriteIf;
///
/// let kv = session.kv2_store("secret");
/// let smtp = kv.read::<Smtp>("shop/smtp").await?;
/// println!("version {:?}: {}:{}", smtp.version, smtp.value.host, smtp.value.port);
///
/// let next = Smtp { port: 465, ..smtp.value };
/// kv.write("shop/smtp", &next, WriteIf::Version(smtp.version.unwrap_or(0))).await?;
/// # Ok(()) }
/// ```
///
/// # What a value is read into
///
/// Anything with `Deserialize`: a struct whose fields are the keys of the secret, a map, or
/// `serde_json::Value`. What is written by hand is always text (`bao kv put … port=25`), so text is
/// taken for a number, for `true` and `false`, and for a list or an object in JSON, where that is
/// what the field is. What does not fit is [`KvError::Malformed`], with all the keys that are missing
/// or wrong, and no value.
///
/// # The session
///
/// A store is no source of logins, and does not keep the session open: when the last source is
/// closed (a rotator does that at the end of its shutdown) the session is too, and then nothing is
/// read any more. Requests wait for their turn as all of a session do
/// ([`VaultConfig::max_in_flight`](crate::VaultConfig::max_in_flight)), and are retried by nobody:
/// [`KvError::is_transient`] says whether to try again makes sense.
///
/// # Drop and cancellation
///
/// Whatever only reads may be dropped at any point. A write that is dropped has been carried out,
/// or not, or will be: with [`WriteIf::New`] or [`WriteIf::Version`] it can be repeated, and a
/// [`KvError::CasConflict`] then says to read again.
#[derive(Clone)]
pub struct KvStore {
    session: Session,
    mount: String,
    versioned: bool,
}

impl Session {
    /// The KV engine of version 1 at `mount`, for the application's own settings. For a login that
    /// is kept there see [`kv1`](Session::kv1).
    #[must_use]
    pub fn kv1_store(&self, mount: impl AsRef<str>) -> KvStore {
        KvStore::new(self, mount.as_ref(), false)
    }

    /// The KV engine of version 2 at `mount`, for the application's own settings. For a login that
    /// is kept there see [`kv2`](Session::kv2).
    #[must_use]
    pub fn kv2_store(&self, mount: impl AsRef<str>) -> KvStore {
        KvStore::new(self, mount.as_ref(), true)
    }
}

impl KvStore {
    fn new(session: &Session, mount: &str, versioned: bool) -> Self {
        let mount = mount.trim_matches('/').to_owned();
        Self { session: session.clone(), mount, versioned }
    }

    fn place(&self, path: &str) -> Result<Place, KvError> {
        Place::new(&self.mount, path, self.versioned).checked()
    }

    /// One of an engine that has versions.
    fn versioned(&self, path: &str) -> Result<Place, KvError> {
        let place = self.place(path)?;
        if place.versioned { Ok(place) } else { Err(KvError::NotVersioned { path: place.data() }) }
    }

    async fn raw(&self, place: &Place, version: Option<u64>) -> Result<Raw, KvError> {
        let asked_at = self.session.clock().now();
        let found = fetch(&self.session, place, version).await?;
        let (version, node) = KvError::unless_here(place, version, found)?;
        Ok(Raw { node, version, asked_at })
    }

    async fn entry<T: DeserializeOwned>(
        &self,
        place: &Place,
        version: Option<u64>,
    ) -> Result<KvEntry<T>, KvError> {
        let raw = self.raw(place, version).await?;
        raw.entry(place, self.session.clock().now(), KvOrigin::Server)
    }

    /// Reads a secret: its current version.
    ///
    /// # Errors
    /// Any but those of a write.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<KvEntry<T>, KvError> {
        self.entry(&self.place(path)?, None).await
    }

    /// Reads one version of a secret, of those that the engine keeps.
    ///
    /// # Errors
    /// Any but those of a write.
    pub async fn read_version<T: DeserializeOwned>(
        &self,
        path: &str,
        version: u64,
    ) -> Result<KvEntry<T>, KvError> {
        self.entry(&self.versioned(path)?, Some(version)).await
    }

    /// Reads many secrets, in the order of their paths, and at the same time as far as
    /// [`max_in_flight`](crate::VaultConfig::max_in_flight) lets them: 64 by default. Each is an
    /// answer of its own.
    ///
    /// Made for settings of a kind, such as one secret for each tenant. To fill one struct from
    /// several secrets see [`loader`](Self::loader).
    pub async fn read_many<T>(
        &self,
        paths: impl IntoIterator<Item = impl Into<String>>,
    ) -> Vec<Result<KvEntry<T>, KvError>>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let reads = paths.into_iter().map(|path| {
            let (store, path) = (self.clone(), path.into());
            async move { store.read(&path).await }
        });
        all(reads).await
    }

    /// Reads a secret; where the server can't be asked, environment variables in its place: those
    /// that begin with `prefix`, behind which a key stands in capitals, with `_` for all but letters
    /// and digits (`SHOP_SMTP_` and `from-address`: `SHOP_SMTP_FROM_ADDRESS`). That is told at WARN each
    /// time, and in the entry's [`origin`](KvEntry::origin).
    ///
    /// A server that answers is believed: what is missing there, deleted or denied is not looked
    /// for elsewhere. For a process that has not even a session see
    /// [`KvLoader::offline`].
    ///
    /// # Errors
    /// As [`read`](Self::read). Variables that do not make up for it are told at WARN too, and the
    /// error is the server's.
    pub async fn read_or_env<T: DeserializeOwned>(
        &self,
        path: &str,
        prefix: &str,
    ) -> Result<KvEntry<T>, KvError> {
        let place = self.place(path)?;
        let why = match self.entry(&place, None).await {
            Err(e) if e.is_outage() => e,
            answered => return answered,
        };
        environment::tell(&place.data(), prefix, &why);
        match environment::settings(prefix) {
            Ok(value) => {
                let (age, origin) = (std::time::Duration::ZERO, KvOrigin::Environment(why));
                Ok(KvEntry { value, version: None, age, origin })
            }
            Err(e) => {
                tracing::warn!(error = %e, "the environment has not got them either");
                Err(why)
            }
        }
    }

    /// The names of the secrets in a folder, and of the folders in it, which end in `/`. The engine
    /// itself is the folder `""`. Nothing where there is none.
    ///
    /// # Errors
    /// As any call: denied, out of reach.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, KvError> {
        let place = Place::new(&self.mount, folder, self.versioned);
        let place = if folder.trim_matches('/').is_empty() { place } else { place.checked()? };
        let path = &*place.metadata();
        let api = self.session.api();
        let call = async |token| {
            let request = ListKeys { path: path.to_owned() };
            api.call(Op::List, path, request, Some(&token), api.request_timeout).await
        };
        let reply = self.session.manage_with(call).await?;
        if is_nothing(reply.status, &reply.body) {
            return Ok(Vec::new());
        }
        let answer: Answer<Keys> =
            api::read(Op::List, path, &reply).map_err(Failure::into_error)?;
        Ok(answer.data.keys)
    }

    /// What is known of a secret: its versions and how they stand, and what was noted down with it.
    /// Tells nothing of what is in it, and needs a right of its own.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`KvError::NotVersioned`] of an engine of version 1.
    pub async fn metadata(&self, path: &str) -> Result<KvMetadata, KvError> {
        let place = self.versioned(path)?;
        let (found, now) = look::metadata(&self.session, &place).await?;
        let nothing = || KvError::Missing { path: place.metadata(), version: None };
        Ok(KvMetadata::of(found.ok_or_else(nothing)?, now))
    }
}

/// Waits for all of them, each in a task of its own, and stops them when dropped. In their order.
async fn all<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for (at, future) in futures.into_iter().enumerate() {
        tasks.spawn(async move { (at, future.await) }.in_current_span());
    }
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        match ended.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(answer) => done.push(answer),
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Stopped with the runtime, and so is whoever waits here.
            Err(Err(_)) => std::future::pending().await,
        }
    }
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, answer)| answer).collect()
}

/// The names in a folder.
#[derive(Serialize)]
struct ListKeys {
    #[serde(skip)]
    path: String,
}

impl Endpoint for ListKeys {
    const METHOD: &str = "LIST";

    fn path(&self) -> String {
        self.path.clone()
    }

    fn answers(status: u16, body: &[u8]) -> bool {
        (200..300).contains(&status) || is_nothing(status, body)
    }
}

impl fmt::Debug for KvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.versioned { 2 } else { 1 };
        f.debug_struct("KvStore").field("mount", &self.mount).field("version", &version).finish()
    }
}
