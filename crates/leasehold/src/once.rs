//! One login, and no background task.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::clock::{Clock, Time};
use crate::credential::{Credential, Issued, Lease};
use crate::kept;
use crate::machine::{Login, Remains};
use crate::rotator::ShutdownReport;
use crate::source::{CredentialSource, DynSource, ErrorKind, SourceError, close, end_lease};

/// Issues one login for a program that is done before it ends: a migration, a job, a script.
///
/// Nothing runs in the background: the login is neither renewed nor replaced, and is good for
/// [`remaining`](Once::remaining) and no longer, unless [`keep`](Once::keep) makes it last. For
/// anything that serves requests use a [`Rotator`](crate::Rotator). The source may have a task of
/// its own (a Vault session that renews its token has); `leasehold_vault::once` has none.
///
/// ```
/// # use leasehold::StaticSource;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let source = StaticSource::new("app", "password");
/// let login = leasehold::once(source).await?;
/// let user = login.credential().username(); // connect, migrate, disconnect
/// # assert_eq!(user, "app");
/// let left = login.end().await;
/// assert!(left.is_clean(), "{left}");
/// # Ok(())
/// # }
/// ```
///
/// Cancel safe: the request runs to its end all the same, and what it brings is revoked.
///
/// # Errors
/// The source's own. Nothing is retried.
pub async fn once(source: impl CredentialSource) -> Result<Once, SourceError> {
    once_by(source, Clock::system()).await
}

/// As [`once`], on the clock that the source's own times are on. For source crates.
///
/// # Errors
/// As [`once`].
#[doc(hidden)]
pub async fn once_by(source: impl CredentialSource, clock: Clock) -> Result<Once, SourceError> {
    let source: Arc<dyn DynSource> = Arc::new(source);
    let (answer, outcome) = oneshot::channel();
    let issue = async move {
        let sent = clock.now();
        let result = match source.issue().await {
            Ok(issued) => {
                let login = kept::login(&issued, sent, clock.now());
                let held = Some(Held { source, issued, login, refused: false });
                Ok(Once { held, clock, runtime: Handle::current(), claimed: false })
            }
            Err(error) => {
                close(source, &Handle::current()).await;
                Err(error)
            }
        };
        // One that nobody wants any more gives itself back.
        drop(answer.send(result));
    };
    tokio::spawn(issue.in_current_span());
    let gone = |_| SourceError::new(ErrorKind::Other, "the source panicked, or the runtime ended");
    let mut once = outcome.await.map_err(gone)??;
    once.claimed = true;
    Ok(once)
}

/// One login, made by [`once`]. Give it back with [`end`](Self::end): dropping it leaves its lease
/// to its TTL, with one warning in the log.
#[must_use = "give it back with end()"]
pub struct Once {
    /// `None` only once it was given back.
    held: Option<Held>,
    clock: Clock,
    /// Where it is given back, wherever that is asked for.
    runtime: Handle,
    /// The caller has it. Before that, dropping it gives it back.
    claimed: bool,
}

struct Held {
    source: Arc<dyn DynSource>,
    issued: Issued,
    login: Login,
    /// A renewal was refused for good.
    refused: bool,
}

impl Held {
    fn end(&self) -> Option<Time> {
        let token = self.issued.parent.as_ref().and_then(|parent| parent.state().ends);
        [self.login.end, token].into_iter().flatten().min()
    }
}

impl Once {
    fn held(&self) -> &Held {
        self.held.as_ref().expect("`end` takes it, and nobody has it after that")
    }

    /// What [`keep`](Self::keep) works on.
    pub(crate) fn parts(
        &mut self,
    ) -> (&Clock, &Arc<dyn DynSource>, &Issued, &mut Login, &mut bool) {
        let held = self.held.as_mut().expect("`end` takes it, and nobody has it after that");
        (&self.clock, &held.source, &held.issued, &mut held.login, &mut held.refused)
    }

    /// The login.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.held().issued.credential
    }

    /// Its lease, as it was issued.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.held().issued.lease
    }

    /// How long it is good yet: its lease, or the token it was made with, whichever ends first.
    /// `None`: it does not end.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.clock.now().until(self.held().end()?))
    }

    /// Revokes the lease and gives back what the source holds. Tries a revocation that fails for
    /// now four times, and cuts the lease short where revoking is not allowed. Close your
    /// connections first: sessions of a role that was dropped are of no use any more.
    ///
    /// Begins at once, and dropping the future does not stop it.
    pub fn end(mut self) -> impl Future<Output = ShutdownReport> + Send + use<> {
        let ending = self.give_back();
        async move {
            let Some(ending) = ending else {
                return ShutdownReport::default();
            };
            ending.await.unwrap_or_else(|_| {
                let line = "the source panicked, or the runtime ended: the lease ends by its TTL";
                ShutdownReport { remains: Vec::new(), source: vec![line.to_owned()] }
            })
        }
    }

    fn give_back(&mut self) -> Option<JoinHandle<ShutdownReport>> {
        let held = self.held.take()?;
        Some(self.runtime.spawn(give_back(held, self.clock.clone())))
    }
}

async fn give_back(held: Held, clock: Clock) -> ShutdownReport {
    let end = held.end();
    let Held { source, issued, .. } = held;
    let Issued { credential, lease, parent } = issued;
    let mut remains = Vec::new();
    if lease.id.is_some()
        && let Err(error) = end_lease(&*source, &lease).await
    {
        remains.push(Remains {
            username: Some(credential.username().to_owned()),
            ends_in: end.map(|end| clock.now().until(end)),
            why: error.to_string(),
            goes_with_its_token: false,
        });
    }
    // What keeps a token alive goes before the source is asked to give it back.
    drop(parent);
    ShutdownReport { remains, source: close(source, &Handle::current()).await }
}

impl Drop for Once {
    fn drop(&mut self) {
        if !self.claimed {
            self.give_back();
        }
        let Some(Held { issued, .. }) = &self.held else {
            return;
        };
        if issued.lease.id.is_some() || issued.parent.is_some() {
            let user = issued.credential.username();
            tracing::warn!(
                target: "leasehold",
                "login {user} was dropped without end(): its lease ends by its TTL"
            );
        }
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issued = self.held.as_ref().map(|held| &held.issued);
        f.debug_struct("Once").field("issued", &issued).finish_non_exhaustive()
    }
}
