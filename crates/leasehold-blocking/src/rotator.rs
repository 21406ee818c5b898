//! The owner of one stream of credentials, for services without async.

use std::fmt;
use std::time::Duration;

use leasehold::{CredentialProvider, RotatorBuilder, ShutdownReport};

use crate::runtime::{InsideRuntime, Runtime};

/// A [`leasehold::Rotator`] that runs on a [`Runtime`], which lives as long as this does.
///
/// Dropping it without [`shutdown`](Self::shutdown) stops renewing and rotating, with one warning in
/// the log: pools go on with the last credential, leases end by their TTL, nothing is revoked.
#[must_use = "dropping the rotator stops renewing and rotating"]
pub struct Rotator {
    // In this order: it ends before the runtime may.
    inner: leasehold::Rotator,
    runtime: Runtime,
}

impl Rotator {
    /// Starts what `builder` describes on `runtime`, and returns once the first credential is there.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(runtime: &Runtime, builder: RotatorBuilder) -> Result<Self, StartError> {
        let inner = runtime.block_on(builder.start()).map_err(StartError::InsideRuntime)?;
        Ok(Self { inner: inner.map_err(StartError::Rotator)?, runtime: runtime.clone() })
    }

    /// What pools and handlers read.
    #[must_use]
    pub fn provider(&self) -> CredentialProvider {
        self.inner.provider()
    }

    /// Asks for a rotation now, and returns at once: see [`leasehold::Rotator::rotate`].
    pub fn rotate(&self) {
        self.inner.rotate();
    }

    /// Ends in order, and says what is left: borrowed connections have `drain` to come back, and
    /// every lease is revoked. See [`leasehold::Rotator::shutdown`]. Idempotent.
    ///
    /// # Errors
    /// [`InsideRuntime`]: nothing was shut down.
    pub fn shutdown(&self, drain: Duration) -> Result<ShutdownReport, InsideRuntime> {
        self.runtime.block_on(self.inner.shutdown(drain))
    }
}

impl fmt::Debug for Rotator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Why there is no rotator.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// See there.
    InsideRuntime(InsideRuntime),
    /// What the rotator says.
    Rotator(leasehold::StartError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsideRuntime(error) => error.fmt(f),
            Self::Rotator(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InsideRuntime(error) => error.source(),
            Self::Rotator(error) => error.source(),
        }
    }
}
