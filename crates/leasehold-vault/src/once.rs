//! One login by one token, and no session.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leasehold::clock::Clock;
use leasehold::{
    CredentialSource, ErrorKind, Issued, Lease, Once, Parent, ParentState, RevokeMode, SourceError,
};
use tokio::sync::watch;

use crate::api::Api;
use crate::auth::{Auth, AuthMethod};
use crate::classify::{Failure, Op};
use crate::config::VaultConfig;
use crate::dynamic::minted;
use crate::endpoints::{
    Creds, CredsReply, LeaseReply, RenewLease, RevokeLease, RevokeSelf, whole_seconds,
};
use crate::token::{Token, TokenGrant};

/// Logs in, issues one login of the dynamic role `role` of the engine mounted at `mount`, and
/// leaves nothing running: for migrations, jobs and scripts.
///
/// ```no_run
/// # use leasehold_vault::{Auth, VaultConfig};
/// # async fn migrate(user: &str, password: &str) {}
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let login =
///     leasehold_vault::once(VaultConfig::from_env()?, Auth::from_env()?, "database", "migrator")
///         .await?;
/// migrate(login.credential().username(), login.credential().expose_password()).await;
/// let left = login.end().await; // revokes the lease, and the token that we logged in for
/// # drop(left); Ok(()) }
/// ```
///
/// # Limits
/// Neither the lease nor the token is renewed, so that the login ends with whichever of the two
/// ends first, which is what [`Once::remaining`] says; a token's maximum TTL or that of a parent
/// can't be seen in advance. Nothing is retried but the revocation. A login that Postgres
/// refuses, or that is revoked from outside, is not replaced. A process that is killed leaves the
/// lease to its end.
///
/// # Errors
/// A setting that can't be worked with, a login that is refused, a role that is not there. What was
/// made by then is given back.
pub async fn once(
    config: VaultConfig,
    auth: Auth,
    mount: impl AsRef<str>,
    role: impl AsRef<str>,
) -> Result<Once, SourceError> {
    let (mount, role) = (mount.as_ref().trim_matches('/'), role.as_ref().trim_matches('/'));
    if mount.is_empty() || role.is_empty() {
        let message = "a dynamic role needs a mount and a role, and one of them is empty";
        return Err(SourceError::new(ErrorKind::NotFound, message));
    }
    let auth = auth.into_method();
    auth.check()?;
    let source = OneShot {
        api: Api::new(&config, Some(&auth.describe()))?,
        clock: config.clock.clone(),
        auth,
        mount: mount.to_owned(),
        role: role.to_owned(),
        path: format!("{mount}/creds/{role}"),
        grant: Mutex::new(None),
    };
    leasehold::once_by(source, config.clock).await
}

/// The one token, once there is one.
struct OneShot {
    api: Api,
    clock: Clock,
    auth: Box<dyn AuthMethod>,
    mount: String,
    role: String,
    path: String,
    grant: Mutex<Option<Grant>>,
}

#[derive(Clone)]
struct Grant {
    token: Token,
    /// We logged in for it, and it can be given back.
    ours: bool,
}

impl OneShot {
    fn grant(&self) -> Option<Grant> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn token(&self) -> Result<Token, SourceError> {
        let gone = || SourceError::new(ErrorKind::TokenLost, "there is no token");
        self.grant().map(|grant| grant.token).ok_or_else(gone)
    }
}

impl CredentialSource for OneShot {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let asked_at = self.clock.now();
        let TokenGrant { token, ttl, own, batch, .. } = self.auth.login(&self.api).await?;
        let grant = Grant { token: token.clone(), ours: own && !batch };
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
        let request = Creds { mount: self.mount.clone(), role: self.role.clone() };
        let timeout = self.api.mint_timeout;
        let reply = self.api.json(Op::Issue, &self.path, request, Some(&token), timeout);
        let reply: CredsReply = reply.await.map_err(Failure::into_error)?;
        let revoke = async |lease: Lease| self.revoke(&lease, RevokeMode::Queued).await;
        let (credential, mut lease) = minted(&self.path, reply, revoke).await?;
        lease.renewable = false;
        let state = match ttl {
            None => ParentState::endless(),
            Some(ttl) => ParentState::ending(asked_at + ttl, false, false),
        };
        let parent = Parent::new(watch::channel(state).1, Arc::new(()));
        Ok(Issued::new(credential, lease).with_parent(parent))
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        let lease_id = lease.id.clone().unwrap_or_default();
        let request = RenewLease { lease_id, increment: whole_seconds(increment) };
        let (token, timeout) = (self.token()?, self.api.request_timeout);
        let reply = self.api.json(Op::Renew, &self.path, request, Some(&token), timeout);
        let LeaseReply { lease_duration } = reply.await.map_err(Failure::into_error)?;
        Ok(Duration::from_secs(lease_duration))
    }

    async fn revoke(&self, lease: &Lease, mode: RevokeMode) -> Result<(), SourceError> {
        let Some(lease_id) = lease.id.clone() else {
            return Ok(());
        };
        let request = RevokeLease { lease_id, sync: mode != RevokeMode::Queued };
        let (token, timeout) = (self.token()?, self.api.request_timeout);
        let reply = self.api.call(Op::Revoke, &self.path, request, Some(&token), timeout).await;
        match reply.map_err(Failure::into_error) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::LeaseLost => Ok(()),
            // It dies with its token, which is given back next.
            Err(e) if e.kind() == ErrorKind::Denied && self.grant().is_some_and(|g| g.ours) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    async fn close(&self) -> Vec<String> {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Grant { token, ours: true }) = grant else {
            return Vec::new();
        };
        let path = "auth/token/revoke-self";
        let (request, timeout) = (RevokeSelf {}, self.api.request_timeout);
        let revoked = self.api.call(Op::TokenRevoke, path, request, Some(&token), timeout).await;
        match revoked {
            Ok(_) | Err(Failure::TokenDead(_)) => Vec::new(),
            Err(Failure::Refused(e)) => vec![format!("the token: {e}; it ends by its TTL")],
        }
    }

    fn describe(&self) -> String {
        self.path.clone()
    }
}

impl fmt::Debug for OneShot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OneShot").field(&self.path).finish()
    }
}
