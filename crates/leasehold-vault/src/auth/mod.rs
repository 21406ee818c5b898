//! Ways to log in. Each is a small module behind one trait.

mod approle;
mod token;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use leasehold::{ErrorKind, SourceError};
use vaultrs::api::token::requests::RevokeTokenSelfRequest;

use crate::api::Api;
use crate::classify::{Op, malformed};
use crate::endpoints::AuthData;
use crate::token::{Token, TokenGrant};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One way to come by a token.
pub(crate) trait AuthMethod: Send + Sync {
    /// Gets a token. `api` sends, bounds and classifies.
    fn login<'a>(&'a self, api: &'a Api) -> BoxFuture<'a, Result<TokenGrant, SourceError>>;

    /// Whether [`login`](Self::login) can be called again for another token.
    fn repeatable(&self) -> bool;

    /// What it is, for logs: a path, never a secret.
    fn describe(&self) -> String;
}

/// How a session comes by its token.
///
/// ```no_run
/// use leasehold_vault::Auth;
///
/// # fn f() -> Option<()> {
/// let role_id = std::env::var("APPROLE_ROLE_ID").ok()?;
/// let secret_id = std::env::var("APPROLE_SECRET_ID").ok()?;
/// let auth = Auth::approle(role_id, secret_id).mount("approle-prod");
/// # Some(()) }
/// ```
pub struct Auth(Method);

enum Method {
    Token(token::GivenToken),
    AppRole(approle::AppRole),
}

impl Auth {
    /// A token that somebody else made. The session renews it where it can be renewed, and never
    /// revokes it. When it ends there is no other: leases made with it end too.
    #[must_use]
    pub fn token(token: impl Into<String>) -> Self {
        Self(Method::Token(token::GivenToken::new(token.into())))
    }

    /// AppRole, mounted at `approle`. White space around both is dropped.
    #[must_use]
    pub fn approle(role_id: impl Into<String>, secret_id: impl Into<String>) -> Self {
        let method = approle::AppRole::new(role_id.into(), secret_id.into());
        Self(Method::AppRole(method))
    }

    /// Where the auth method is mounted, if not under its usual name. Means nothing for a token.
    #[must_use]
    pub fn mount(mut self, mount: impl AsRef<str>) -> Self {
        if let Method::AppRole(method) = &mut self.0 {
            mount.as_ref().trim_matches('/').clone_into(&mut method.mount);
        }
        self
    }

    pub(crate) fn into_method(self) -> Box<dyn AuthMethod> {
        match self.0 {
            Method::Token(method) => Box::new(method),
            Method::AppRole(method) => Box::new(method),
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method: &dyn AuthMethod = match &self.0 {
            Method::Token(method) => method,
            Method::AppRole(method) => method,
        };
        write!(f, "Auth({})", method.describe())
    }
}

/// What a login granted. A token that can't be used is given back at once.
async fn from_login(api: &Api, path: &str, auth: &AuthData) -> Result<TokenGrant, SourceError> {
    let malformed = |problem| Err(malformed(Op::Login, path, problem));
    let Some(token) = Token::parse(&auth.client_token) else {
        return malformed("has no usable client_token");
    };
    if auth.lease_duration == 0 {
        return malformed("grants a token that lives for 0 s");
    }
    if let Err(e) = refuse_limited(auth.num_uses) {
        // Ours, and of no use. If that fails it ends by its TTL.
        let path = "auth/token/revoke-self";
        let revoke = RevokeTokenSelfRequest {};
        let call = api.call(Op::TokenRevoke, path, revoke, Some(&token), api.request_timeout);
        let _ = call.await;
        return Err(e);
    }
    let ttl = Duration::from_secs(auth.lease_duration);
    Ok(TokenGrant {
        token,
        ttl: Some(ttl),
        increment: ttl,
        renewable: auth.renewable,
        batch: auth.token_type == "batch",
        own: true,
    })
}

/// Leases die with the last use of the token that made them, so such a token can't hold any.
fn refuse_limited(num_uses: i64) -> Result<(), SourceError> {
    if num_uses == 0 {
        return Ok(());
    }
    Err(SourceError::new(
        ErrorKind::Other,
        "the token is limited in its uses, and its leases would be revoked with the last one: \
         use a token without that limit (token_num_uses=0)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_debug_shows_neither_token_nor_secret_id() {
        let shown = format!(
            "{:?} {:?}",
            Auth::token("s.topsecret"),
            Auth::approle("role-uuid", "topsecret").mount("/other/"),
        );
        assert!(!shown.contains("topsecret"), "{shown}");
        assert!(shown.contains("auth/other/login"), "{shown}");
    }
}
