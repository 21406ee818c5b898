//! A login that somebody keeps in a KV engine.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leasehold::{Credential, CredentialSource, ErrorKind, Issued, Lease, LoginForm, SourceError};
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use crate::classify::Op;
use crate::endpoints::{KvReply, MetadataReply, ReadPath, VersionedReply};
use crate::schedule;
use crate::seat::Seat;
use crate::session::Session;

/// Whoever changes the secret keeps the old login valid for a while, or has to live with what
/// breaks meanwhile: half a minute is short for a person, and two requests a minute are nothing
/// for the server.
const CHECK_EVERY: Duration = Duration::from_secs(30);

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
    version: u8,
    /// Where the secret is read.
    data: String,
    /// Where its version is: the same for an engine without versions.
    metadata: String,
    check_every: Duration,
    seen: Mutex<Option<Seen>>,
    no_metadata: AtomicBool,
}

/// What the last issue saw, whether it could use it or not.
#[derive(Clone)]
struct Seen {
    version: Option<u64>,
    credential: Option<Credential>,
}

impl KvSecret {
    pub(crate) fn new(session: Session, version: u8, mount: &str, path: &str) -> Self {
        let (mount, path) = (mount.trim_matches('/'), path.trim_matches('/'));
        let (data, metadata) = match version {
            1 => (format!("{mount}/{path}"), format!("{mount}/{path}")),
            _ => (format!("{mount}/data/{path}"), format!("{mount}/metadata/{path}")),
        };
        Self {
            seat: Seat::take(session),
            version,
            data,
            metadata,
            check_every: CHECK_EVERY,
            seen: Mutex::new(None),
            no_metadata: AtomicBool::new(version == 1),
        }
    }

    /// How often to look for a change. Default: 30 s, and up to a fifth less by chance, so that
    /// replicas do not ask together. No less than a second.
    #[must_use]
    pub fn check_every(mut self, period: Duration) -> Self {
        self.check_every = period.max(Duration::from_secs(1));
        self
    }

    /// The session it works through.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.seat.session()
    }

    async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, SourceError> {
        let api = self.session().api();
        let call = async |token| {
            let request = ReadPath { path: path.to_owned() };
            api.json(Op::Read, path, request, Some(&token), api.request_timeout).await
        };
        self.session().manage_with(call).await
    }

    /// The secret as it is, and its version where there is one.
    async fn read(&self) -> Result<(Option<u64>, LoginForm), SourceError> {
        if self.version == 1 {
            let KvReply { data } = self.get(&self.data).await?;
            return Ok((None, data));
        }
        match self.get(&self.data).await {
            Ok(VersionedReply { data }) => Ok((Some(data.metadata.version), data.data)),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.why_not_found(e).await),
            Err(e) => Err(e),
        }
    }

    /// The server answers alike for a secret that never was and for a version that was deleted.
    async fn why_not_found(&self, e: SourceError) -> SourceError {
        let Ok(MetadataReply { data }) = self.get(&self.metadata).await else {
            return e;
        };
        let message = format!(
            "{}: its current version, {}, was deleted or destroyed: undelete it, or write another",
            self.data, data.current_version
        );
        self.note(Some(data.current_version), None);
        SourceError::new(ErrorKind::NotFound, message)
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
        if !self.no_metadata.load(Ordering::Relaxed) {
            match self.get(&self.metadata).await {
                Ok(MetadataReply { data }) => {
                    return Ok(Some(data.current_version) != seen.version);
                }
                Err(e) if e.kind() == ErrorKind::Denied => {
                    self.no_metadata.store(true, Ordering::Relaxed);
                    warn!(
                        error = %e,
                        "the secret itself is read each time instead, to see whether it changed: \
                         grant `read` on {}", self.metadata
                    );
                }
                Err(e) => return Err(e),
            }
        }
        let (version, form) = self.read().await?;
        if version.is_some() {
            return Ok(version != seen.version);
        }
        // What makes no sense is no news: the login stays.
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
        let mut failures = 0;
        loop {
            let mut pause = self.check_every.mul_f64(1.0 - 0.2 * fastrand::f64());
            if failures > 0 {
                // Told once; asked no more often than if all were well.
                pause = pause.max(schedule::backoff(failures, None, None));
            }
            clock.sleep_until(clock.now() + pause).await;
            match self.differs(&seen).await {
                Ok(true) => return,
                Ok(false) => failures = 0,
                Err(e) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(
                            error = %e,
                            "can't look for a change: the login that was read before stays in use"
                        );
                    }
                    if let Some(after) = e.server_retry_after() {
                        clock.sleep_until(clock.now() + after).await;
                    }
                }
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
