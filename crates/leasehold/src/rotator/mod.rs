//! The owner of one stream of credentials.

mod builder;
mod driver;
mod fanout;
mod spans;
mod supervisor;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::event::Event;
use crate::machine::Remains;
use crate::provider::CredentialProvider;

pub use builder::{RotatorBuilder, StartError};

/// Keeps one credential fresh: issues, renews, rotates, drains, revokes.
///
/// Owned by whoever starts the service, and not `Clone`, so that there is one place that ends it.
/// Everybody else has a [`CredentialProvider`].
///
/// Dropping it without [`shutdown`](Self::shutdown) stops renewing and rotating, with one warning
/// in the log: pools go on with the last credential, leases end by their TTL, nothing is revoked.
#[must_use = "dropping the rotator stops renewing and rotating"]
pub struct Rotator {
    provider: CredentialProvider,
    commands: mpsc::UnboundedSender<Command>,
    report: watch::Receiver<Option<Arc<ShutdownReport>>>,
}

/// Called with each event, on the rotator's task: must not block. A panic in it is survived once.
type Observer = Box<dyn Fn(&Event) + Send + Sync>;

/// What the owner can ask for.
#[derive(Debug)]
pub(crate) enum Command {
    /// The caller of `start` has the rotator in hand. Until then its going away is a start that
    /// was given up, and everything is cleaned up.
    Accepted,
    Rotate,
    Shutdown {
        drain: Duration,
    },
}

impl Rotator {
    /// Begins the making of a rotator on `source`.
    pub fn builder(source: impl crate::CredentialSource) -> RotatorBuilder {
        RotatorBuilder::new(Arc::new(source))
    }

    /// What pools and handlers read.
    #[must_use]
    pub fn provider(&self) -> CredentialProvider {
        self.provider.clone()
    }

    /// Asks for a rotation now, and returns at once. Draws on the mint limiter (two, then one per
    /// 30 s or half the TTL); does nothing while a rotation runs.
    pub fn rotate(&self) {
        // A driver that is gone has said so in health and to every subscriber.
        let _ = self.commands.send(Command::Rotate);
    }

    /// Ends in order: closes every attached pool, gives borrowed connections `drain` to come back
    /// (those that don't are ended, and named in the log), revokes every lease, gives the source
    /// what is its own, and ends all tasks. Takes at most `drain` and some seconds for the
    /// revocations, usually milliseconds; a source that does not come to an end when it is closed
    /// is given up after a minute, and named in the report.
    ///
    /// Idempotent: a second call waits for the first and returns the same report; a shorter
    /// `drain` hurries it. Dropping the future does not stop the shutdown.
    pub async fn shutdown(&self, drain: Duration) -> ShutdownReport {
        let _ = self.commands.send(Command::Shutdown { drain });
        let mut report = self.report.clone();
        match report.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(report)) => ShutdownReport::clone(report),
            // The task ended without a report: it panicked twice, or its runtime is gone.
            Ok(None) | Err(_) => ShutdownReport {
                remains: Vec::new(),
                source: vec!["the background task was gone: leases end by their TTL".to_owned()],
            },
        }
    }
}

impl fmt::Debug for Rotator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotator").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// What a shutdown left behind; empty if all went well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Leases that could not be revoked, and when each ends by itself.
    pub remains: Vec<Remains>,
    /// What the source could not give back, a line each.
    pub source: Vec<String>,
}

impl ShutdownReport {
    /// No lease, no login, no token is left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.remains.is_empty() && self.source.is_empty()
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("nothing is left");
        }
        let lines = self.remains.iter().map(ToString::to_string).chain(self.source.clone());
        f.write_str(&lines.collect::<Vec<_>>().join("; "))
    }
}
