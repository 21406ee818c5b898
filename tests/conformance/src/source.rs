//! Where the logins come from: the database engine of a real server, with a record.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::hook::sql::CONTROL_APPLICATION;
use leasehold::{Credential, CredentialSource, ErrorKind, Issued, Lease, RevokeMode, SourceError};
use leasehold_testkit::TestDb;

/// Mints, renews and revokes by root, whatever the role's policy says, and keeps a record.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    db: TestDb,
    spoilt: AtomicBool,
    issued: Mutex<Vec<Login>>,
    revoked: Mutex<Vec<Revoked>>,
}

/// A login that was issued.
#[derive(Clone, Debug)]
pub struct Login {
    /// The role's name.
    pub user: String,
    /// Its lease.
    pub lease: String,
}

/// A login whose lease was revoked by the rotator.
#[derive(Clone, Debug, PartialEq)]
pub struct Revoked {
    /// The role's name.
    pub user: String,
    /// Sessions that Postgres showed of it just before.
    pub sessions: usize,
}

impl Source {
    /// Of the role of `db` that [`TestDb::creds`] asks.
    #[must_use]
    pub fn new(db: TestDb) -> Self {
        Self(Arc::new(Inner {
            db,
            spoilt: AtomicBool::new(false),
            issued: Mutex::default(),
            revoked: Mutex::default(),
        }))
    }

    /// Whether logins are issued with a password that Postgres refuses.
    pub fn spoil(&self, spoilt: bool) {
        self.0.spoilt.store(spoilt, Ordering::SeqCst);
    }

    /// What was issued, in order.
    #[must_use]
    pub fn issued(&self) -> Vec<Login> {
        self.0.issued.lock().unwrap().clone()
    }

    /// What was revoked, in order.
    #[must_use]
    pub fn revoked(&self) -> Vec<Revoked> {
        self.0.revoked.lock().unwrap().clone()
    }

    async fn mint(&self) -> leasehold_testkit::Result<Issued> {
        let creds = self.0.db.creds().await?;
        let login = Login { user: creds.username.clone(), lease: creds.lease_id.clone() };
        self.0.issued.lock().unwrap().push(login);
        let spoilt = self.0.spoilt.load(Ordering::SeqCst);
        let password = if spoilt { "not the password" } else { &creds.password };
        let lease = Lease::renewable(creds.lease_id, Duration::from_secs(creds.lease_duration));
        Ok(Issued::new(Credential::new(&creds.username, password), lease))
    }

    async fn end(&self, id: &str) -> leasehold_testkit::Result<()> {
        let Inner { db, issued, revoked, .. } = &*self.0;
        let user = issued.lock().unwrap().iter().find(|one| one.lease == id).unwrap().user.clone();
        // A control connection of this very login has said goodbye by now, and Postgres may take a
        // moment to notice.
        let sessions = db.sessions_of(&user).await?;
        let sessions = sessions.iter().filter(|s| s.application_name != CONTROL_APPLICATION);
        let sessions = sessions.count();
        db.stack().revoke_lease(id).await?;
        revoked.lock().unwrap().push(Revoked { user, sessions });
        Ok(())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl CredentialSource for Source {
    async fn issue(&self) -> Result<Issued, SourceError> {
        self.mint().await.map_err(fault)
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        let granted = self.0.db.stack().renew_lease(id(lease), increment).await;
        granted.map(Duration::from_secs).map_err(fault)
    }

    async fn revoke(&self, lease: &Lease, _: RevokeMode) -> Result<(), SourceError> {
        self.end(id(lease)).await.map_err(fault)
    }
}

/// Every lease of the database engine has one.
fn id(lease: &Lease) -> &str {
    lease.id.as_deref().unwrap()
}

fn fault(error: leasehold_testkit::Error) -> SourceError {
    SourceError::new(ErrorKind::ServerFault, error.to_string())
}
