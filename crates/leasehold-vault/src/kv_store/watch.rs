//! Secrets that change under an application.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use leasehold::SourceError;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::KvStore;
use super::entry::{KvEntry, KvOrigin, Raw};
use super::error::KvError;
use super::fetch::{Found, fetch};
use super::look::{Look, State};
use super::node::Node;
use super::pace::{self, Pace};
use super::place::Place;

/// Follows one secret. Made by [`KvStore::watch`].
///
/// A change is seen by what `MOUNT/metadata/PATH` tells, asked for each 30 s, and only then is the
/// secret read. Without the right to read the metadata the secret itself is read each time, with one
/// warning; version 1 of the engine has no metadata, there it is compared.
///
/// ```no_run
/// # #[derive(serde::Deserialize)] struct Flags { checkout: bool }
/// # async fn example(kv: leasehold_vault::KvStore) -> Result<(), leasehold_vault::KvError> {
/// let mut flags = kv.watch::<Flags>("shop/flags")?;
/// loop {
///     match flags.changed().await {
///         Ok(now) => println!("version {:?}: checkout {}", now.version, now.value.checkout),
///         Err(e) => eprintln!("{e}"), // deleted, say: what to do with the old value is yours
///     }
/// }
/// # }
/// ```
pub struct KvWatch<T> {
    store: KvStore,
    place: Place,
    look: Look,
    pace: Pace,
    seen: Option<Seen>,
    /// It has been asked for once.
    begun: bool,
    value: PhantomData<fn() -> T>,
}

/// What was told last.
#[derive(PartialEq)]
struct Seen {
    state: State,
    /// Where there are no versions.
    node: Option<Node>,
}

impl KvStore {
    /// Follows a secret. Nothing is asked before [`KvWatch::changed`] is.
    ///
    /// # Errors
    /// [`KvError::BadPath`].
    pub fn watch<T: DeserializeOwned>(&self, path: &str) -> Result<KvWatch<T>, KvError> {
        Ok(KvWatch {
            store: self.clone(),
            place: self.place(path)?,
            look: Look::default(),
            pace: Pace::every(pace::USUALLY),
            seen: None,
            begun: false,
            value: PhantomData,
        })
    }
}

impl<T: DeserializeOwned> KvWatch<T> {
    /// How often to look for a change. Default: 30 s, and up to a fifth less by chance, so that
    /// replicas do not ask together. No less than a second.
    #[must_use]
    pub fn check_every(mut self, period: Duration) -> Self {
        self.pace = Pace::every(period);
        self
    }

    /// The secret as it is the first time, and then each time that it is another one. Of several
    /// changes between two looks the last is seen.
    ///
    /// Cancel safe: a change that was not returned is returned by the next call, and a wait goes on
    /// where it was dropped.
    ///
    /// # Errors
    /// Errors are news too, each told once: there is no secret, it was deleted or destroyed, or it
    /// is not what `T` takes. That the server can't be asked, or denies it, is an error the first
    /// time; once something was seen it is one warning in the log, and looking goes on.
    pub async fn changed(&mut self) -> Result<KvEntry<T>, KvError> {
        loop {
            if self.begun {
                self.pace.wait(self.store.session.clock()).await;
            }
            match self.news().await {
                Ok(None) => self.pace.succeeded(),
                Ok(Some((seen, news))) => {
                    self.begun = true;
                    self.pace.succeeded();
                    self.seen = Some(seen);
                    let now = self.store.session.clock().now();
                    return news.and_then(|raw| raw.entry(&self.place, now, KvOrigin::Server));
                }
                Err(e) => {
                    self.begun = true;
                    let first = self.pace.failed(&e);
                    if self.seen.is_none() {
                        return Err(e.into());
                    }
                    if first {
                        warn!(
                            secret = self.place.data(),
                            error = %e,
                            "can't look for a change: what was read before stays in use"
                        );
                    }
                }
            }
        }
    }

    /// What is to be told, if anything.
    async fn news(&self) -> Result<Option<(Seen, Result<Raw, KvError>)>, SourceError> {
        let session = &self.store.session;
        if let Some(seen) = &self.seen
            && self.place.versioned
            && self.look.state(session, &self.place).await? == seen.state
        {
            return Ok(None);
        }
        let asked_at = session.clock().now();
        let found: Found<Node> = fetch(session, &self.place, None).await?;
        let node = match &found {
            Found::Here { version: None, value } => Some(value.clone()),
            _ => None,
        };
        let now = Seen { state: State::from(&found), node };
        if self.seen.as_ref() == Some(&now) {
            return Ok(None);
        }
        let here = KvError::unless_here(&self.place, None, found);
        let raw = here.map(|(version, node)| Raw { node, version, asked_at });
        Ok(Some((now, raw)))
    }
}

impl<T> fmt::Debug for KvWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.seen.as_ref().map(|seen| seen.state);
        let mut shown = f.debug_struct("KvWatch");
        shown.field("secret", &self.place.data()).field("seen", &seen).finish_non_exhaustive()
    }
}
