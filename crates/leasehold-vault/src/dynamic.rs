//! Logins of a dynamic role: each read of `MOUNT/creds/ROLE` makes one.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::{
    Credential, CredentialSource, ErrorKind, Issued, Lease, RevokeMode, SourceError, to_its_end,
};
use tracing::{debug, warn};

use crate::classify::{Op, malformed};
use crate::endpoints::{Creds, CredsReply, LeaseReply, RenewLease, RevokeLease, whole_seconds};
use crate::mint_time::{self, MintTime};
use crate::privileges::{self, Missing, Need, Teller};
use crate::session::Session;

/// A [`CredentialSource`] on a dynamic role of the database secrets engine.
///
/// Made by [`Session::dynamic_role`].
pub struct DynamicRole {
    role: Arc<Role>,
    teller: Teller,
    closed: AtomicBool,
}

/// What a request to mint takes along: it runs to its end whatever becomes of the source.
struct Role {
    session: Session,
    mount: String,
    role: String,
    path: String,
}

impl DynamicRole {
    pub(crate) fn new(session: Session, mount: &str, role: &str) -> Self {
        let (mount, role) = (mount.trim_matches('/'), role.trim_matches('/'));
        session.source_made();
        let role = Role {
            session,
            path: format!("{mount}/creds/{role}"),
            mount: mount.to_owned(),
            role: role.to_owned(),
        };
        Self { role: Arc::new(role), teller: Teller::default(), closed: AtomicBool::new(false) }
    }

    /// The session it works through.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.role.session
    }

    /// Which of the rights that are needed the policy does not give now, by one request. Empty:
    /// nothing is missing. The same is told in the log, a line each, when the source issues its
    /// first login.
    ///
    /// Asked are the rights to read `MOUNT/creds/ROLE`, to renew and to revoke leases, and, as far
    /// as its kind allows that, to renew and to revoke the session's own token, or to look it up where
    /// somebody else renews it.
    ///
    /// # Errors
    /// The question could not be put, or its answer not be understood. Not to be allowed to ask is
    /// no error: the right to ask is then what is missing.
    pub async fn privileges(&self) -> Result<Vec<Missing>, SourceError> {
        privileges::missing(self.session(), self.needs()).await
    }

    fn needs(&self) -> Vec<Need> {
        let issue = Need::read(&self.role.path, "no login can be issued");
        std::iter::once(issue).chain(Need::leases()).collect()
    }
}

/// What a mint at `path` brought. An answer that makes no credential may still have made a lease:
/// it is given back by `revoke`.
pub(crate) async fn minted<F>(
    path: &str,
    reply: CredsReply,
    revoke: impl FnOnce(Lease) -> F,
) -> Result<(Credential, Lease), SourceError>
where
    F: Future<Output = Result<(), SourceError>>,
{
    let ttl = Duration::from_secs(reply.lease_duration.unwrap_or(0));
    let lease = reply.lease_id.filter(|id| !id.is_empty()).map(|id| Lease::renewable(id, ttl));
    let login = reply.data.and_then(|data| data.username.zip(data.password));
    let login = login.map(|(username, password)| Credential::wiping(&username, password));
    let fault = login.as_ref().and_then(Credential::fault);
    let problem = match (lease, login) {
        (Some(mut lease), Some(credential)) if !ttl.is_zero() && fault.is_none() => {
            lease.renewable = reply.renewable.unwrap_or(true);
            return Ok((credential, lease));
        }
        (Some(lease), login) => {
            if let Err(e) = revoke(lease).await {
                warn!(role = path, error = %e, "a lease that came with an unusable answer stays");
            }
            match login {
                Some(_) => fault.unwrap_or("has no lease_duration above 0"),
                None => "has no username and password in it",
            }
        }
        (None, _) => "has no lease_id",
    };
    Err(malformed(Op::Issue, path, problem))
}

impl Role {
    /// Answers within `time`.
    async fn mint(self: Arc<Self>, time: MintTime) -> Result<Issued, SourceError> {
        let api = self.session.api();
        let call = async |token| {
            let request = Creds { mount: self.mount.clone(), role: self.role.clone() };
            api.mint(&self.path, request, &token, time).await
        };
        let ready_by = Some(time.ready_by());
        let (reply, hold): (CredsReply, _) = self.session.issue_with(ready_by, call).await?;
        let revoke = async |lease: Lease| {
            let role = self.clone();
            let revoke = async move { role.revoke(&lease, RevokeMode::Queued).await };
            let revoke = to_its_end(revoke, std::future::ready);
            let late = || SourceError::new(ErrorKind::Timeout, "its revocation goes on for longer");
            mint_time::by(self.session.clock(), time.ends(), revoke, late).await
        };
        let (credential, lease) = minted(&self.path, reply, revoke).await?;
        let (username, login) = (credential.username(), hold.epoch().number);
        debug!(role = %self.path, username, ttl = ?lease.ttl, login, "credential issued");
        Ok(Issued::new(credential, lease).with_parent(hold.into_parent()))
    }

    /// A login that nobody waits for any more.
    async fn give_back(&self, issued: Issued) {
        let username = issued.credential.username();
        match self.revoke(&issued.lease, RevokeMode::Sync).await {
            Ok(()) => debug!(role = %self.path, username, "a login that came late was revoked"),
            Err(e) => {
                warn!(role = %self.path, username, error = %e, "a login that came late stays")
            }
        }
    }

    async fn revoke(&self, lease: &Lease, mode: RevokeMode) -> Result<(), SourceError> {
        let Some(id) = &lease.id else {
            return Ok(());
        };
        let api = self.session.api();
        let call = async |token| {
            let request = RevokeLease { lease_id: id.clone(), sync: mode != RevokeMode::Queued };
            let timeout = api.request_timeout;
            api.call(Op::Revoke, &self.path, request, Some(&token), timeout).await?;
            Ok(())
        };
        match self.session.manage_with(call).await {
            // Gone is what was wanted.
            Err(e) if e.kind() == ErrorKind::LeaseLost => Ok(()),
            result => result,
        }
    }
}

impl CredentialSource for DynamicRole {
    /// Cancel safe: the request runs to its end all the same, and what it brings is revoked.
    /// Answers within 120 s, of which at most 25 are spent on waiting for a token: a session that
    /// logs in for longer is an [`ErrorKind::Timeout`], and nothing was issued.
    async fn issue(&self) -> Result<Issued, SourceError> {
        let role = &self.role;
        if role.mount.is_empty() || role.role.is_empty() {
            let message = "a dynamic role needs a mount and a role, and one of them is empty";
            return Err(SourceError::new(ErrorKind::NotFound, message));
        }
        self.teller.tell_once(&role.session, &role.path, self.needs());
        let time = MintTime::begin(role.session.clock());
        let late = role.clone();
        let give_back = async move |issued| late.give_back(issued).await;
        to_its_end(role.clone().mint(time), give_back).await
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        let path = &self.role.path;
        let Some(id) = &lease.id else {
            let message = format!("renewing a lease of {path}: it has no id");
            return Err(SourceError::new(ErrorKind::NotRenewable, message));
        };
        let api = self.session().api();
        let call = async |token| {
            let request = RenewLease { lease_id: id.clone(), increment: whole_seconds(increment) };
            api.json(Op::Renew, path, request, Some(&token), api.request_timeout).await
        };
        let reply: LeaseReply = self.session().manage_with(call).await?;
        Ok(Duration::from_secs(reply.lease_duration))
    }

    async fn revoke(&self, lease: &Lease, mode: RevokeMode) -> Result<(), SourceError> {
        self.role.revoke(lease, mode).await
    }

    async fn close(&self) -> Vec<String> {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        if first && self.session().source_gone() {
            return self.session().close().await;
        }
        Vec::new()
    }

    fn describe(&self) -> String {
        self.role.path.clone()
    }
}

impl Drop for DynamicRole {
    /// A source that was dropped without being closed gives nothing back, but must not keep the
    /// last of the others from doing so.
    fn drop(&mut self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.session().source_gone();
        }
    }
}

impl fmt::Debug for DynamicRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamicRole").field(&self.role.path).finish()
    }
}
