//! Secrets that were read, kept for a while, and for longer while the server can't be asked.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leasehold::clock::Time;
use leasehold::{ErrorKind, SourceError};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex as Turn;
use tracing::{Instrument, warn};

use super::KvStore;
use super::entry::{KvEntry, KvOrigin, Raw};
use super::error::KvError;
use super::place::Place;
use crate::schedule;

/// Answers from memory for as long as an answer is young enough, and asks again then. While the
/// server can't be asked it goes on answering with what it has, and says so: the entry's
/// [`origin`](KvEntry::origin) is [`Stale`](KvOrigin::Stale), with the reason, and its
/// [`age`](KvEntry::age) tells how old it is. Clones share it.
///
/// - Many who ask for the same secret at once make one request.
/// - With an old answer at hand nobody waits for the server longer than [`patience`](Self::patience):
///   the request goes on, and what it brings is there for the next. While it fails it is repeated
///   after 0.1 s growing to 30 s, however many ask.
/// - A server that answers is believed: what was deleted, destroyed, removed or denied is an error at
///   once, and what was kept of it is forgotten.
/// - It keeps what is asked for, one copy of each path (and each version that was asked for by its
///   number), in memory that is wiped.
///
/// ```no_run
/// # #[derive(serde::Deserialize)] struct Smtp { host: String }
/// # async fn example(session: leasehold_vault::Session) -> Result<(), leasehold_vault::KvError> {
/// use std::time::Duration;
///
/// let cache = session.kv2_store("secret").cached(Duration::from_secs(60));
/// let smtp = cache.read::<Smtp>("shop/smtp").await?;
/// if smtp.is_stale() {
///     println!("{:?} old: {:?}", smtp.age, smtp.origin);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KvCache {
    store: KvStore,
    max_age: Duration,
    max_stale: Duration,
    patience: Duration,
    slots: Arc<Mutex<Slots>>,
}

/// A second is long for a handler that has an answer at hand, and short for a server that works.
const PATIENCE: Duration = Duration::from_secs(1);

/// By path, and version if one was asked for.
type Slots = HashMap<(String, Option<u64>), Arc<Slot>>;

/// One secret, or one version of it.
struct Slot {
    place: Place,
    version: Option<u64>,
    kept: Mutex<Kept>,
    /// Held by the one request there is.
    turn: Arc<Turn<()>>,
}

#[derive(Default)]
struct Kept {
    raw: Option<Arc<Raw>>,
    /// How many requests have ended.
    asked: u64,
    /// Of the last one.
    failure: Option<KvError>,
    failures: u32,
    /// When the next one may be made after a failure.
    again_at: Time,
}

/// What a slot has to say.
enum Says {
    Entry(Arc<Raw>, KvOrigin),
    Error(KvError),
    Ask,
}

impl KvStore {
    /// A cache of this store, whose answers are at most `max_age` old as long as the server can be
    /// asked. Zero: each read asks, and what it keeps is for outages alone.
    #[must_use]
    pub fn cached(&self, max_age: Duration) -> KvCache {
        KvCache {
            store: self.clone(),
            max_age,
            max_stale: Duration::MAX,
            patience: PATIENCE,
            slots: Arc::default(),
        }
    }
}

impl KvCache {
    /// How old an answer may become while the server can't be asked; after that the reason is an
    /// error. Default: without end, as settings do not end.
    #[must_use]
    pub fn max_stale(mut self, age: Duration) -> Self {
        self.max_stale = age;
        self
    }

    /// How long to wait for the server where there is an old answer. Default: 1 s. The first answer
    /// is waited for as any call ([`request_timeout`](crate::VaultConfig::request_timeout)).
    #[must_use]
    pub fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// The store that it asks.
    #[must_use]
    pub fn store(&self) -> &KvStore {
        &self.store
    }

    /// The current version of a secret, as it was at most `max_age` ago.
    ///
    /// Cancel safe: the request goes on in a task of its own, for whoever asks next.
    ///
    /// # Errors
    /// As [`KvStore::read`]; where the server can't be asked, only if there is no answer of before.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<KvEntry<T>, KvError> {
        self.answer(self.store.place(path)?, None).await
    }

    /// One version of a secret. What is in it never changes, yet it may be deleted: so it is asked
    /// for again like the current one. Cancel safe, as [`read`](Self::read).
    ///
    /// # Errors
    /// As [`KvStore::read_version`]; where the server can't be asked, only if there is no answer of
    /// before.
    pub async fn read_version<T: DeserializeOwned>(
        &self,
        path: &str,
        version: u64,
    ) -> Result<KvEntry<T>, KvError> {
        self.answer(self.store.versioned(path)?, Some(version)).await
    }

    /// Forgets what is kept of a secret, all versions: the next read asks. For one who has just
    /// written it.
    pub fn forget(&self, path: &str) {
        let Ok(place) = self.store.place(path) else { return };
        let data = place.data();
        locked(&self.slots).retain(|(path, _), _| *path != data);
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        place: Place,
        version: Option<u64>,
    ) -> Result<KvEntry<T>, KvError> {
        let slot = self.slot(place, version);
        let before = locked(&slot.kept).asked;
        loop {
            let now = self.store.session.clock().now();
            let says = self.says(&locked(&slot.kept), before, now);
            match says {
                Says::Entry(raw, origin) => return raw.entry(&slot.place, now, origin),
                Says::Error(e) => return Err(e),
                Says::Ask => {}
            }
            if let Ok(turn) = slot.turn.clone().try_lock_owned() {
                let (store, slot) = (self.store.clone(), slot.clone());
                let ask = async move {
                    let _turn = turn;
                    let answer = store.raw(&slot.place, slot.version).await;
                    slot.note(&store, answer);
                };
                tokio::spawn(ask.in_current_span());
            }
            let old = locked(&slot.kept).raw.clone().filter(|raw| self.will_do(raw, now));
            let Some(old) = old else {
                drop(slot.turn.lock().await);
                continue;
            };
            if tokio::time::timeout(self.patience, slot.turn.lock()).await.is_err() {
                let message = format!("reading {}: no answer yet", slot.place.data());
                let e = SourceError::new(ErrorKind::Timeout, message);
                let now = self.store.session.clock().now();
                return old.entry(&slot.place, now, KvOrigin::Stale(e.into()));
            }
        }
    }

    fn slot(&self, place: Place, version: Option<u64>) -> Arc<Slot> {
        let mut slots = locked(&self.slots);
        let slot = slots.entry((place.data(), version)).or_insert_with(|| {
            Arc::new(Slot { place, version, kept: Mutex::default(), turn: Arc::default() })
        });
        slot.clone()
    }

    /// `before`: how many requests had ended when the caller came.
    fn says(&self, kept: &Kept, before: u64, now: Time) -> Says {
        let asked = kept.asked > before;
        match (&kept.failure, &kept.raw) {
            (None, Some(raw)) if asked => Says::Entry(raw.clone(), KvOrigin::Server),
            (_, Some(raw)) if now - raw.asked_at < self.max_age => {
                Says::Entry(raw.clone(), KvOrigin::Memory)
            }
            (Some(e), Some(raw)) if self.will_do(raw, now) && (asked || now < kept.again_at) => {
                Says::Entry(raw.clone(), KvOrigin::Stale(e.clone()))
            }
            (Some(e), _) if asked => Says::Error(e.clone()),
            _ => Says::Ask,
        }
    }

    fn will_do(&self, raw: &Raw, now: Time) -> bool {
        now - raw.asked_at <= self.max_stale
    }
}

impl Slot {
    fn note(&self, store: &KvStore, answer: Result<Raw, KvError>) {
        let mut kept = locked(&self.kept);
        kept.asked += 1;
        let e = match answer {
            Ok(raw) => {
                (kept.raw, kept.failure, kept.failures) = (Some(Arc::new(raw)), None, 0);
                return;
            }
            Err(e) => e,
        };
        if !e.is_outage() {
            kept.raw = None;
        }
        if kept.failures == 0 && kept.raw.is_some() {
            warn!(
                secret = self.place.data(),
                error = %e,
                "can't be read anew: what was read before stays in use"
            );
        }
        kept.failures += 1;
        let server = match &e {
            KvError::Unavailable(e) => e.server_retry_after(),
            _ => None,
        };
        let pause = schedule::backoff(kept.failures, None, server);
        (kept.again_at, kept.failure) = (store.session.clock().now() + pause, Some(e));
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("store", &self.store)
            .field("max_age", &self.max_age)
            .field("kept", &locked(&self.slots).len())
            .finish_non_exhaustive()
    }
}
