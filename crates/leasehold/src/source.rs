//! Where credentials come from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::ser::SerializeStruct;
use tokio::runtime::Handle;

use crate::credential::{Issued, Lease};
use crate::line::line;

/// A server that issues database logins: three verbs, a watch and a farewell.
///
/// The rotator runs [`issue`](Self::issue) as a task of its own and never cancels it: a request to
/// mint that is cut off may leave a database role that nobody ever revokes. [`renew`](Self::renew),
/// [`revoke`](Self::revoke) and [`changed`](Self::changed) may be dropped when the rotator ends.
/// An implementation bounds its own calls, and should not retry by itself: when to try again is the
/// lease machine's decision.
///
/// ```
/// use std::time::Duration;
/// use leasehold::{Credential, CredentialSource, Issued, Lease, SourceError};
///
/// /// The login comes from a file that somebody else keeps fresh.
/// #[derive(Debug)]
/// struct FromFile(std::path::PathBuf);
///
/// impl CredentialSource for FromFile {
///     async fn issue(&self) -> Result<Issued, SourceError> {
///         let text = std::fs::read_to_string(&self.0)
///             .map_err(|e| SourceError::unreachable(format!("reading {:?}", self.0)).caused_by(e))?;
///         let (user, password) = text
///             .trim()
///             .split_once(':')
///             .ok_or_else(|| SourceError::malformed("the file does not hold USER:PASSWORD"))?;
///         let lease = Lease::fixed(Duration::from_secs(900));
///         Ok(Issued::new(Credential::new(user, password), lease))
///     }
/// }
/// ```
pub trait CredentialSource: fmt::Debug + Send + Sync + 'static {
    /// Mints a new credential. Not idempotent: each success is one more login to look after.
    ///
    /// Should answer within 120 s, whatever it waits for. After that the rotator takes the request
    /// for lost and may make another, so that more of them are under way than it counts; what comes
    /// late all the same is revoked.
    fn issue(&self) -> impl Future<Output = Result<Issued, SourceError>> + Send;

    /// Asks for `increment` more, counted from now, and returns what was granted. Less than asked
    /// for means that the maximum TTL is near.
    fn renew(
        &self,
        lease: &Lease,
        increment: Duration,
    ) -> impl Future<Output = Result<Duration, SourceError>> + Send {
        let _ = (lease, increment);
        async { Err(SourceError::new(ErrorKind::NotRenewable, "this source renews nothing")) }
    }

    /// Ends the lease and its login. Succeeds for a lease that is gone already.
    fn revoke(
        &self,
        lease: &Lease,
        mode: RevokeMode,
    ) -> impl Future<Output = Result<(), SourceError>> + Send {
        let _ = (lease, mode);
        async { Ok(()) }
    }

    /// Resolves when the source has something newer than what the last [`issue`](Self::issue)
    /// saw, whether that call succeeded or not. The rotator then issues, proves and swaps at once;
    /// should the very same login come again, nothing is swapped. Default: never, which is right
    /// where a login is only replaced because its lease ends.
    ///
    /// Called again after each `issue`, and polled on the rotator's own task: it waits, and does
    /// not block. Must be cancel safe. It paces its own questions; should it say "changed" in a
    /// loop, the rotator asks for a login once a second at first and each 30 s in the end.
    fn changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Called once at the end of a shutdown, after the last lease was dealt with: the place to
    /// give back what the source itself holds. What could not be given back is returned, a line
    /// each, with no secret in it.
    fn close(&self) -> impl Future<Output = Vec<String>> + Send {
        async { Vec::new() }
    }

    /// What this source is, for logs: a path or a role, never a secret.
    fn describe(&self) -> String {
        "credentials".to_owned()
    }
}

/// How a lease is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RevokeMode {
    /// The answer comes when the login is gone. A refusal changes nothing and is ours to repeat.
    Sync,
    /// The server takes note, and goes on trying after we are gone. Last resort.
    Queued,
}

/// Why a source did not do what it was asked. Cheap to clone; holds no secret.
#[derive(Clone)]
pub struct SourceError {
    inner: Arc<Inner>,
    /// Whatever the kind says: whether something may have been issued.
    issuing: Option<bool>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a [`SourceError`] means for what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No answer could be had: refused, reset, no such host. Nothing was done.
    Unreachable,
    /// No answer in time. Whether anything was done is unknown.
    Timeout,
    /// Too many requests; [`SourceError::retry_after`] may say when.
    Throttled,
    /// The server is sealed, uninitialised or locked.
    Sealed,
    /// The server, or the database behind it, failed for now (5xx, a failing statement).
    ServerFault,
    /// The policy does not allow it. A person has to mend that.
    Denied,
    /// The token is not valid any more, and logging in anew did not help or is not possible.
    TokenLost,
    /// The lease is gone: expired, revoked or never there.
    LeaseLost,
    /// The lease can't be renewed further: it is at its maximum TTL, or of a kind that can't be.
    NotRenewable,
    /// No such role, mount or namespace.
    NotFound,
    /// The answer could not be understood.
    Malformed,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Unreachable,
        Self::Timeout,
        Self::Throttled,
        Self::Sealed,
        Self::ServerFault,
        Self::Denied,
        Self::TokenLost,
        Self::LeaseLost,
        Self::NotRenewable,
        Self::NotFound,
        Self::Malformed,
        Self::Other,
    ];

    /// The name used in logs, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Sealed => "sealed",
            Self::ServerFault => "server_fault",
            Self::Denied => "denied",
            Self::TokenLost => "token_lost",
            Self::LeaseLost => "lease_lost",
            Self::NotRenewable => "not_renewable",
            Self::NotFound => "not_found",
            Self::Malformed => "malformed",
            Self::Other => "other",
        }
    }

    /// Heals with no human: trying again later can succeed though nobody mends anything.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Timeout | Self::Throttled | Self::Sealed | Self::ServerFault
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SourceError {
    /// An error of `kind`. The message is lower-case, names the path or role, says what to do, and
    /// holds no secret.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let inner = Inner { kind, message: message.into(), retry_after: None, cause: None };
        Self { inner: Arc::new(inner), issuing: None }
    }

    /// An [`ErrorKind::Unreachable`].
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unreachable, message)
    }

    /// An [`ErrorKind::Malformed`].
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// Adds what lies beneath. Its `Display` ends up in error chains: it must hold no secret.
    #[must_use]
    pub fn caused_by(
        self,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        self.rebuild(|inner| inner.cause = Some(cause.into()))
    }

    /// Adds when the server wants to be asked again.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        self.rebuild(|inner| inner.retry_after = Some(after))
    }

    /// Adds that what failed came before the request to issue (a login to the server, say): nothing
    /// was issued, though whether *that* was done may be unknown.
    #[must_use]
    pub fn before_issuing(self) -> Self {
        self.issuing(false)
    }

    /// Adds whether something may have been issued, where the kind does not tell.
    pub(crate) fn issuing(self, may_have: bool) -> Self {
        Self { issuing: Some(may_have), ..self }
    }

    fn rebuild(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        // Builders run before the first clone, so that the Arc is still ours alone.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            change(inner);
        }
        self
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// When the server wants to be asked again, if it said.
    #[must_use]
    pub fn server_retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// As the answer to a request to issue: something may have been issued of which nobody knows.
    /// The answer was lost, or made no sense.
    #[must_use]
    pub fn may_have_issued(&self) -> bool {
        let lost = matches!(self.kind(), ErrorKind::Timeout | ErrorKind::Malformed);
        self.issuing.unwrap_or(lost)
    }

    /// As the answer to a request to renew: it may have been carried out. The answer was lost, made
    /// no sense, or came from a balancer after the server had done its part.
    pub(crate) fn may_have_renewed(&self) -> bool {
        match self.kind() {
            ErrorKind::Timeout
            | ErrorKind::ServerFault
            | ErrorKind::Malformed
            | ErrorKind::Other => true,
            ErrorKind::Unreachable
            | ErrorKind::Throttled
            | ErrorKind::Sealed
            | ErrorKind::Denied
            | ErrorKind::TokenLost
            | ErrorKind::LeaseLost
            | ErrorKind::NotRenewable
            | ErrorKind::NotFound => false,
        }
    }

    /// See [`ErrorKind::is_transient`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.inner.kind.is_transient()
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

/// Its kind, and its message on one line.
impl serde::Serialize for SourceError {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("SourceError", 2)?;
        fields.serialize_field("kind", &self.kind())?;
        fields.serialize_field("message", &line(&self.inner.message))?;
        fields.end()
    }
}

impl fmt::Debug for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The cause by Display: client errors are known to carry whole bodies in their Debug.
        let cause = self.inner.cause.as_ref().map(ToString::to_string);
        f.debug_struct("SourceError")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("retry_after", &self.inner.retry_after)
            .field("cause", &cause)
            .finish()
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.cause.as_ref().map(|c| &**c as _)
    }
}

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The dyn-safe twin of [`CredentialSource`]; implementors write plain async functions.
pub(crate) trait DynSource: fmt::Debug + Send + Sync + 'static {
    fn issue(&self) -> BoxFuture<'_, Result<Issued, SourceError>>;
    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        increment: Duration,
    ) -> BoxFuture<'a, Result<Duration, SourceError>>;
    fn revoke<'a>(
        &'a self,
        lease: &'a Lease,
        mode: RevokeMode,
    ) -> BoxFuture<'a, Result<(), SourceError>>;
    fn changed(&self) -> BoxFuture<'_, ()>;
    fn close(&self) -> BoxFuture<'_, Vec<String>>;
    fn describe(&self) -> String;
}

impl<S: CredentialSource> DynSource for S {
    fn issue(&self) -> BoxFuture<'_, Result<Issued, SourceError>> {
        Box::pin(CredentialSource::issue(self))
    }
    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        increment: Duration,
    ) -> BoxFuture<'a, Result<Duration, SourceError>> {
        Box::pin(CredentialSource::renew(self, lease, increment))
    }
    fn revoke<'a>(
        &'a self,
        lease: &'a Lease,
        mode: RevokeMode,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(CredentialSource::revoke(self, lease, mode))
    }
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(CredentialSource::changed(self))
    }
    fn close(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(CredentialSource::close(self))
    }
    fn describe(&self) -> String {
        CredentialSource::describe(self)
    }
}

/// How often a revocation that failed for now is tried where no lease machine repeats it.
const REVOKE_TRIES: u32 = 4;
const REVOKE_PACE: Duration = Duration::from_millis(200);

/// Longer than a session needs that talks to a black hole, with the default timeouts of its HTTP.
const CLOSE_BOUND: Duration = Duration::from_secs(60);

/// Closes a source, though it may panic or hang. Returns what it could not give back.
pub(crate) async fn close(source: Arc<dyn DynSource>, runtime: &Handle) -> Vec<String> {
    let mut closing = runtime.spawn(async move { source.close().await });
    match tokio::time::timeout(CLOSE_BOUND, &mut closing).await {
        Ok(Ok(left)) => left,
        Ok(Err(_)) => {
            vec!["the source panicked when it was closed: see the panic message".to_owned()]
        }
        Err(_) => {
            closing.abort();
            vec![format!(
                "the source was not closed within {CLOSE_BOUND:?}: what it holds ends by its TTL"
            )]
        }
    }
}

/// Ends a lease that no lease machine looks after.
pub(crate) async fn end_lease(source: &dyn DynSource, lease: &Lease) -> Result<(), SourceError> {
    let mut tries = 1;
    loop {
        match source.revoke(lease, RevokeMode::Sync).await {
            Err(error) if error.is_transient() && tries < REVOKE_TRIES => {
                tokio::time::sleep(REVOKE_PACE * tries).await;
                tries += 1;
            }
            // Renewing is allowed more often than revoking, and can cut a lease short as well.
            Err(error) if error.kind() == ErrorKind::Denied => {
                let second = Duration::from_secs(1);
                return source.renew(lease, second).await.map(|_| ()).map_err(|_| error);
            }
            done => return done,
        }
    }
}
