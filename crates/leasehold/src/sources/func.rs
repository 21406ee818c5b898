//! A source from a closure.

use std::fmt;
use std::future::Future;

use crate::credential::Issued;
use crate::source::{BoxFuture, CredentialSource, SourceError};

/// Any async closure as a source: for what has no source of its own here.
///
/// Cloud IAM tokens, for one: passwords that are good for 15 minutes of *new* connections. A
/// connection that is open stays valid, so nothing is revoked and the old ones drain gently. The
/// lease says when the token ends, and the rotator replaces it a leeway before: the roll and the
/// grace (15 s and 30 s unless set) and 6 s. Say the lifetime that is really left if your SDK
/// caches tokens.
///
/// ```
/// use std::time::Duration;
/// use leasehold::{Credential, FnSource, Issued, Lease, Rotator, SourceError};
///
/// /// Your SDK's call: with the AWS SDK `AuthTokenGenerator::auth_token`, on Google Cloud an
/// /// access token of the scope `sqlservice.login`, on Azure one for
/// /// `https://ossrdbms-aad.database.windows.net`.
/// async fn iam_token(host: &str, user: &str) -> std::io::Result<String> {
/// #   let _ = (host, user); Ok("token".to_owned())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let source = FnSource::new("IAM token of app", || async {
///     let token = iam_token("orders.abc.eu-west-1.rds.amazonaws.com", "app").await.map_err(|e| {
///         SourceError::unreachable("no IAM token: check the instance's role").caused_by(e)
///     })?;
///     // Counted from before the call, so that it never ends sooner than believed.
///     Ok(Issued::new(Credential::new("app", token), Lease::fixed(Duration::from_secs(900))))
/// });
/// let rotator = Rotator::builder(source).start().await?;
/// assert_eq!(rotator.provider().current().credential().username(), "app");
/// // TLS is a must there: the token travels as a password.
/// # rotator.shutdown(Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
pub struct FnSource {
    name: String,
    issue: Box<dyn Fn() -> BoxFuture<'static, Result<Issued, SourceError>> + Send + Sync>,
}

impl FnSource {
    /// `name` is for logs and errors: a path or a role, never a secret. The closure is called for
    /// each new login; an error of a transient kind is retried with backoff, see
    /// [`ErrorKind`](crate::ErrorKind).
    pub fn new<F, Fut>(name: impl Into<String>, issue: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Issued, SourceError>> + Send + 'static,
    {
        Self { name: name.into(), issue: Box::new(move || Box::pin(issue())) }
    }
}

impl CredentialSource for FnSource {
    async fn issue(&self) -> Result<Issued, SourceError> {
        (self.issue)().await
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

impl fmt::Debug for FnSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FnSource").field(&self.name).finish()
    }
}
