//! How a rotator is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::driver::{Driver, Wiring};
use super::{Command, Observer, Rotator, supervisor};
use crate::clock::Clock;
use crate::event::{Channel, Event};
use crate::line::line;
use crate::machine::{Machine, Policy, SHUTDOWN_WRAP_UP, StartFailure};
use crate::provider::CredentialProvider;
use crate::source::{DynSource, SourceError};

/// Observations waiting to be looked at; more are as good as these.
const OBSERVATION_BACKLOG: usize = 64;

/// Settings of a [`Rotator`], each with a default that fits TTLs from seconds to days.
#[must_use = "call start()"]
pub struct RotatorBuilder {
    source: Arc<dyn DynSource>,
    name: Option<String>,
    policy: Policy,
    start_timeout: Duration,
    refresh_wait: Duration,
    clock: Clock,
    runtime: Option<Handle>,
    observers: Vec<Observer>,
}

impl RotatorBuilder {
    pub(super) fn new(source: Arc<dyn DynSource>) -> Self {
        Self {
            source,
            name: None,
            policy: Policy::default(),
            start_timeout: Duration::from_secs(30),
            refresh_wait: Duration::from_secs(5),
            clock: Clock::system(),
            runtime: None,
            observers: Vec::new(),
        }
    }

    /// What tells this rotator from others in one process: the field `provider` of its log lines
    /// and spans, the label `provider` of its metrics, and [`Health::provider`](crate::Health).
    /// Default: what the source says of itself, such as `database/creds/orders`; give one where
    /// two rotators have sources of the same description. One of few, fixed names: each makes time
    /// series of its own.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long a borrowed connection has to come back before it is ended, once no connection of
    /// its login is handed out any more: longer than your longest transaction. Default: 30 s, or a
    /// quarter of the TTL if that is less.
    ///
    /// A lease is rotated this long before its end, plus the [`roll`](Self::roll), plus min(5 s,
    /// TTL/10) for the rotation itself, plus 1 s because Vault counts whole seconds; that sum, the
    /// leeway, must be less than the TTL.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.policy.grace = Some(grace);
        self
    }

    /// How long superseded connections may still be handed out while the rotator replaces them one
    /// by one, so that no borrower pays for a connect. It ends as soon as all are replaced; they are
    /// at most half a second apart. Zero turns it off: idle superseded connections are then closed
    /// at the swap. Default: 15 s, or a sixteenth of the TTL if that is less. Where the lease ends
    /// before the [`grace`](Self::grace) that follows would, it takes a quarter of what is left.
    pub fn roll(mut self, roll: Duration) -> Self {
        self.policy.roll = Some(roll);
        self
    }

    /// How long [`start`](Self::start) tries while the source can't be reached, is sealed or
    /// fails for now. Default: 30 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long a hook that met a refused login waits for fresh credentials. Default: 5 s. Keep it
    /// below your pool's acquire or create timeout.
    pub fn refresh_wait(mut self, wait: Duration) -> Self {
        self.refresh_wait = wait;
        self
    }

    /// The clock that leases are judged on; the source must use the same. Default:
    /// [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The runtime on which the rotator runs, if not that of the caller of `start`.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Calls `observer` with each event, on the rotator's own task: it must return quickly. For a
    /// reader that may lag, see [`CredentialProvider::events`].
    pub fn observer(mut self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Issues the first credential, and returns once it is there.
    ///
    /// Cancel safe: a request to mint runs to its end all the same, and what it brings is revoked.
    ///
    /// # Errors
    /// [`StartError`]: at once for what a person has to mend (a denied policy, an unknown role, a
    /// TTL that is too short), after the start timeout for what might have healed. Before it is
    /// returned, what was minted is revoked and the source is closed, so that a program may end on
    /// it. That is waited for as long as a shutdown waits for its last revocations, 5 s at the most;
    /// what takes longer, such as a mint that the server does not answer, is given back in the
    /// background for as long as the runtime runs.
    pub async fn start(self) -> Result<Rotator, StartError> {
        if self.policy.grace.is_some_and(|g| g.is_zero()) {
            return Err(StartError::Config {
                field: "grace",
                message: "must be more than zero: it is how long borrowed connections get to \
                          come back"
                    .to_owned(),
            });
        }
        if self.start_timeout.is_zero() {
            return Err(StartError::Config {
                field: "start_timeout",
                message: "must be more than zero".to_owned(),
            });
        }
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| StartError::Config {
                field: "runtime",
                message: "call start() on a tokio runtime, or pass one with .runtime(handle)"
                    .to_owned(),
            })?,
        };
        let describe = self.source.describe();
        let name = line(self.name.as_ref().unwrap_or(&describe)).into();
        let machine = Machine::new(self.policy, self.clock.now(), fastrand::u64(..));
        let (commands, command_rx) = mpsc::unbounded_channel();
        let (report_tx, mut report) = watch::channel(None);
        let (started_tx, started) = oneshot::channel();
        let (last_error_tx, last_error) = watch::channel(None);
        let (observations, observation_rx) = mpsc::channel(OBSERVATION_BACKLOG);
        let driver = Driver::new(
            machine,
            Wiring {
                name,
                source: self.source,
                clock: self.clock,
                runtime: runtime.clone(),
                observers: self.observers,
                events: Channel::default(),
                commands: command_rx,
                observations,
                observation_rx,
                report: report_tx,
                started: started_tx,
                last_error: last_error_tx,
                refresh_wait: self.refresh_wait,
            },
        );
        runtime.spawn(supervisor::supervise(driver));
        // Dropping `started`, here at the timeout or by our caller, tells the driver to clean up.
        let outcome = tokio::time::timeout(self.start_timeout, started).await;
        let error = match outcome {
            Ok(Ok(Ok(shared))) => {
                // The driver can't be gone before it was told.
                let _ = commands.send(Command::Accepted);
                let provider = CredentialProvider::new(shared);
                return Ok(Rotator { provider, commands, report });
            }
            Ok(Ok(Err(StartFailure::Source(error)))) => StartError::Source { describe, error },
            Ok(Ok(Err(StartFailure::TtlTooShort { ttl, leeway, grace }))) => {
                StartError::TtlTooShort { describe, ttl, leeway, grace }
            }
            Ok(Err(_)) => StartError::Aborted,
            Err(_) => {
                let last = last_error.borrow().clone();
                StartError::Timeout { describe, after: self.start_timeout, last }
            }
        };
        // A program that ends on the error would end the clean-up with it. A task that has ended
        // without a report has nothing to wait for, and one that is late goes on.
        let cleaned = report.wait_for(Option::is_some);
        let _ = tokio::time::timeout(SHUTDOWN_WRAP_UP, cleaned).await;
        Err(error)
    }
}

impl fmt::Debug for RotatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotatorBuilder")
            .field("source", &self.source)
            .field("name", &self.name)
            .field("policy", &self.policy)
            .field("start_timeout", &self.start_timeout)
            .field("refresh_wait", &self.refresh_wait)
            .finish_non_exhaustive()
    }
}

/// Why there is no rotator. What was minted is revoked by then, as far as
/// [`start`](RotatorBuilder::start) says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of range.
    #[non_exhaustive]
    Config {
        /// Which.
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// The source refused for good.
    #[non_exhaustive]
    Source {
        /// Which source.
        describe: String,
        /// What it said.
        error: SourceError,
    },
    /// No credential could be had in time.
    #[non_exhaustive]
    Timeout {
        /// Which source.
        describe: String,
        /// The start timeout.
        after: Duration,
        /// The last failure, if there was one: with none, a request was still unanswered.
        last: Option<SourceError>,
    },
    /// The granted TTL leaves no time between a lease's start and its rotation.
    #[non_exhaustive]
    TtlTooShort {
        /// Which source.
        describe: String,
        /// What the server granted.
        ttl: Duration,
        /// How long before its end a lease is rotated.
        leeway: Duration,
        /// The part of the leeway that can be set.
        grace: Duration,
    },
    /// The background task ended before there was a credential: its runtime is shutting down.
    Aborted,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { field, message } => write!(f, "{field}: {message}"),
            Self::Source { describe, .. } => write!(f, "no credential from {describe}"),
            Self::Timeout { describe, after, last: Some(_) } => {
                write!(f, "no credential from {describe} within {after:.0?}")
            }
            Self::Timeout { describe, after, last: None } => {
                write!(f, "no answer from {describe} within {after:.0?}")
            }
            Self::TtlTooShort { describe, ttl, leeway, grace } => write!(
                f,
                "the TTL of {ttl:.1?} granted by {describe} is not longer than the leeway of \
                 {leeway:.1?} (the roll, the grace of {grace:.1?}, and the time for a rotation): \
                 raise default_ttl and max_ttl of the role, or lower the grace or the roll"
            ),
            Self::Aborted => f.write_str("the runtime of the rotator is shutting down"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Source { error, .. } | Self::Timeout { last: Some(error), .. } => Some(error),
            _ => None,
        }
    }
}
