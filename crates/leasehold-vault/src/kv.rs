//! A login that somebody keeps in a KV engine.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leasehold::{Credential, CredentialSource, ErrorKind, Issued, Lease, LoginForm, SourceError};
use tracing::{debug, warn};

use crate::kv_store::fetch::{Found, fetch};
use crate::kv_store::look::Look;
use crate::kv_store::pace::{self, Pace};
use crate::kv_store::place::Place;
use crate::privileges::{self, Missing, Need, Teller};
use crate::seat::Seat;
use crate::session::Session;

/// A [`CredentialSource`] on a secret of a KV engine, for logins that are kept there by hand or by
/// another tool.
///
/// Made by [`Session::kv1`] and [`Session::kv2`]. The secret has the keys `username` and
/// `password` and, if they are there, `host`, `port` and `database`; or one key `url` with a
/// `postgres://` URL. Other keys are ignored. Host, port and database take the place of the pool's
/// own.
///
/// There is no lease: the login is good for as long as the secret says so. A change is seen by the
/// version that `MOUNT/metadata/PATH` tells, asked for each 30 s. Without the right to read that, the secret
/// itself is read, with one warning. Version 1 knows no versions: the secret is read and compared.
///
/// A version that was deleted or destroyed, or lacks a key, is an error that names path and key;
/// the login before it stays in use.
pub struct KvSecret {
    seat: Seat,
    place: Place,
    /// Where the secret is read.
    data: String,
    check_every: Duration,
    teller: Teller,
    seen: Mutex<Option<Seen>>,
    look: Look,
}

/// What the last issue saw, whether it could use it or not.
#[derive(Clone)]
struct Seen {
    version: Option<u64>,
    credential: Option<Credential>,
}

impl KvSecret {
    pub(crate) fn new(session: Session, version: u8, mount: &str, path: &str) -> Self {
        let place = Place::new(mount, path, version != 1);
        Self {
            seat: Seat::take(session),
            data: place.data(),
            place,
            check_every: pace::USUALLY,
            teller: Teller::default(),
            seen: Mutex::new(None),
            look: Look::default(),
        }
    }

    /// How often to look for a change. Default: 30 s, and up to a fifth less by chance, so that
    /// replicas do not ask together. No less than a second.
    #[must_use]
    pub fn check_every(mut self, period: Duration) -> Self {
        self.check_every = period;
        self
    }

    /// The session it works through.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.seat.session()
    }

    /// Which of the rights that are needed the policy does not give now, by one request: to read
    /// the secret and, in version 2, its metadata, and what concerns the session's own token. The
    /// same is told in the log, a line each, when the source is first used.
    ///
    /// # Errors
    /// The question could not be put, or its answer not be understood. Not to be allowed to ask is
    /// no error: the right to ask is then what is missing.
    pub async fn privileges(&self) -> Result<Vec<Missing>, SourceError> {
        privileges::missing(self.session(), self.needs()).await
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::read(&self.data, "the login can't be read")];
        if self.place.versioned {
            let without = "the secret itself is read each time, to see whether it changed";
            needs.push(Need::read(&self.place.metadata(), without));
        }
        needs
    }

    /// The secret as it is, and its version where there is one.
    async fn read(&self) -> Result<(Option<u64>, LoginForm), SourceError> {
        let gone = |version| {
            self.note(Some(version), None);
            self.not_found(&format!(
                "its current version, {version}, was deleted or destroyed: undelete it, or write \
                 another"
            ))
        };
        match fetch(self.session(), &self.place, None).await? {
            Found::Here { version, value } => Ok((version, value)),
            Found::Deleted { version, .. } | Found::Destroyed { version } => Err(gone(version)),
            Found::Nothing => Err(self.nothing()),
        }
    }

    fn nothing(&self) -> SourceError {
        self.not_found("there is no such secret: write one, or check the mount and the path")
    }

    fn not_found(&self, what: &str) -> SourceError {
        SourceError::new(ErrorKind::NotFound, format!("{}: {what}", self.data))
    }

    fn note(&self, version: Option<u64>, credential: Option<Credential>) {
        let seen = Some(Seen { version, credential });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    fn login(&self, version: Option<u64>, form: LoginForm) -> Result<Credential, SourceError> {
        let place = match version {
            Some(version) => format!("the secret at {}, version {version},", self.data),
            None => format!("the secret at {}", self.data),
        };
        form.into_credential(&place)
    }

    /// Whether there is something else than what was seen.
    async fn differs(&self, seen: &Seen) -> Result<bool, SourceError> {
        if self.place.versioned {
            let version = self.look.state(self.session(), &self.place).await?.version();
            // What was removed is no news: the login stays.
            return version.map_or_else(|| Err(self.nothing()), |v| Ok(Some(v) != seen.version));
        }
        let (version, form) = self.read().await?;
        // What makes no sense is no news either.
        let now = self.login(version, form)?;
        Ok(!seen.credential.as_ref().is_some_and(|old| is_same(old, &now)))
    }
}

fn is_same(a: &Credential, b: &Credential) -> bool {
    let all = |c: &Credential| (c.username().to_owned(), c.address().cloned());
    all(a) == all(b) && a.expose_password() == b.expose_password()
}

impl CredentialSource for KvSecret {
    async fn issue(&self) -> Result<Issued, SourceError> {
        self.teller.tell_once(self.session(), &self.data, self.needs());
        let (version, form) = self.read().await?;
        let credential = self.login(version, form);
        self.note(version, credential.as_ref().ok().cloned());
        let credential = credential?;
        debug!(secret = %self.data, version, username = credential.username(), "secret read");
        Ok(Issued::new(credential, Lease::endless()))
    }

    async fn changed(&self) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(seen) = seen else {
            return std::future::pending().await;
        };
        let clock = self.session().clock();
        let mut pace = Pace::every(self.check_every);
        loop {
            pace.wait(clock).await;
            match self.differs(&seen).await {
                Ok(true) => return,
                Ok(false) => pace.succeeded(),
                Err(e) if pace.failed(&e) => warn!(
                    error = %e,
                    "can't look for a change: the login that was read before stays in use"
                ),
                Err(_) => {}
            }
        }
    }

    async fn close(&self) -> Vec<String> {
        self.seat.close().await
    }

    fn describe(&self) -> String {
        self.data.clone()
    }
}

impl fmt::Debug for KvSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KvSecret").field(&self.data).finish()
    }
}
