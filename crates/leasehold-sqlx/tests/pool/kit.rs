//! A database, a source that keeps a record, and events to wait for.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::{
    Credential, CredentialProvider, CredentialSource, ErrorKind, Event, Issued, Lease, Reason,
    RevokeMode, Rotator, SourceError,
};
use leasehold_testkit::{DatabaseSpec, TestDb, shared};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool};
use tokio::sync::broadcast;

/// Longer than anything here takes, on any machine.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Kit {
    pub db: TestDb,
    pub source: Source,
}

impl Kit {
    pub async fn new(name: &str) -> Self {
        let spec = DatabaseSpec::new(name).with_accounts().schema(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.t (); REVOKE ALL ON SCHEMA hidden FROM PUBLIC",
        );
        let db = shared().await.unwrap().database(spec).await.unwrap();
        let source = Source(Arc::new(Inner {
            db: db.clone(),
            ttl: Mutex::new(None),
            failing: AtomicBool::new(false),
            revoked: Mutex::default(),
            issued: Mutex::default(),
        }));
        Self { db, source }
    }

    /// A rotator whose drains may take `grace`.
    pub async fn start(&self, grace: Duration) -> Rotator {
        let builder = Rotator::builder(self.source.clone()).grace(grace);
        // Short, for those who hold on to a connection to its end.
        builder.roll(grace / 8).start().await.unwrap()
    }

    /// Where the database is, with no login.
    pub fn base(&self) -> PgConnectOptions {
        self.base_at(self.db.pg_port())
    }

    pub fn base_at(&self, port: u16) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(self.db.pg_host())
            .port(port)
            .database(self.db.name())
            .application_name("tester")
    }

    pub async fn pool(&self, provider: &CredentialProvider, max: u32) -> PgPool {
        leasehold_sqlx::connect(provider, options(max), self.base()).await.unwrap()
    }

    pub async fn sessions_of(&self, user: &str) -> usize {
        self.db.sessions_of(user).await.unwrap().len()
    }
}

pub fn options(max: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(max)
}

/// The login and the backend of a connection.
pub async fn who(conn: &mut PgConnection) -> (String, i32) {
    sqlx::query_as("SELECT session_user::text, pg_backend_pid()").fetch_one(conn).await.unwrap()
}

/// A query that needs a grant.
pub async fn touch(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT v FROM accounts WHERE id = 1").fetch_one(conn).await
}

/// Fills the pool with `n` idle connections.
pub async fn fill(pool: &PgPool, n: usize) {
    let mut taken = Vec::new();
    for _ in 0..n {
        taken.push(pool.acquire().await.unwrap());
    }
    for mut conn in taken {
        conn.return_to_pool().await;
    }
    assert_eq!(pool.num_idle(), n);
}

/// Logins of the database engine, and what became of them.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    db: TestDb,
    ttl: Mutex<Option<Duration>>,
    failing: AtomicBool,
    /// User names and lease ids.
    issued: Mutex<Vec<(String, String)>>,
    revoked: Mutex<Vec<Revoked>>,
}

/// A login whose lease was revoked.
#[derive(Clone, Debug, PartialEq)]
pub struct Revoked {
    pub user: String,
    /// Sessions it had then, those of the hooks themselves not counted.
    pub sessions: usize,
}

impl Source {
    /// What a lease is said to last, and nothing can prolong.
    pub fn claim(&self, ttl: Duration) {
        *self.0.ttl.lock().unwrap() = Some(ttl);
    }

    /// From now on nothing is issued.
    pub fn fail(&self) {
        self.0.failing.store(true, Ordering::SeqCst);
    }

    /// How many logins were issued.
    pub fn issued(&self) -> usize {
        self.0.issued.lock().unwrap().len()
    }

    /// The user name of the youngest login.
    pub fn last_issued(&self) -> String {
        self.0.issued.lock().unwrap().last().unwrap().0.clone()
    }

    pub fn revoked(&self) -> Vec<Revoked> {
        self.0.revoked.lock().unwrap().clone()
    }

    /// Waits for the first revocation.
    pub async fn first_revoked(&self) -> Revoked {
        eventually("a revocation", async || self.revoked().first().cloned()).await
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl CredentialSource for Source {
    async fn issue(&self) -> Result<Issued, SourceError> {
        if self.0.failing.load(Ordering::SeqCst) {
            return Err(SourceError::unreachable("told to fail"));
        }
        let creds = self.0.db.creds().await.map_err(|e| SourceError::unreachable(e.to_string()))?;
        self.0.issued.lock().unwrap().push((creds.username.clone(), creds.lease_id.clone()));
        let credential = Credential::new(&creds.username, &creds.password);
        let lease = match *self.0.ttl.lock().unwrap() {
            Some(ttl) => {
                let mut lease = Lease::fixed(ttl);
                lease.id = Some(creds.lease_id);
                lease
            }
            None => Lease::renewable(creds.lease_id, Duration::from_secs(creds.lease_duration)),
        };
        Ok(Issued::new(credential, lease))
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        let id = lease.id.as_deref().unwrap();
        let granted = self.0.db.stack().renew_lease(id, increment).await;
        granted.map(Duration::from_secs).map_err(|e| SourceError::unreachable(e.to_string()))
    }

    async fn revoke(&self, lease: &Lease, _: RevokeMode) -> Result<(), SourceError> {
        let id = lease.id.as_deref().unwrap();
        let fault =
            |e: leasehold_testkit::Error| SourceError::new(ErrorKind::ServerFault, e.to_string());
        let user = self.0.issued.lock().unwrap().iter().find(|l| l.1 == id).unwrap().0.clone();
        let sessions = self.0.db.sessions_of(&user).await.map_err(fault)?;
        let sessions = sessions.iter().filter(|s| s.application_name == "tester").count();
        self.0.db.stack().revoke_lease(id).await.map_err(fault)?;
        self.0.revoked.lock().unwrap().push(Revoked { user, sessions });
        Ok(())
    }
}

/// Waits for `ready` to have something; fails loudly after a long time.
pub async fn eventually<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let mut it = None;
    let asked = leasehold_testkit::eventually(what, LIMIT, async || {
        it = ready().await;
        Ok(it.is_some())
    });
    asked.await.unwrap_or_else(|e| panic!("waited in vain: {e}"));
    it.unwrap()
}

/// What happens, in order.
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    pub fn of(provider: &CredentialProvider) -> Self {
        Self(provider.events())
    }

    /// Waits for the next event that `pick` takes; those before it are passed over.
    pub async fn next<T>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let wait = async {
            loop {
                let event = self.0.recv().await.unwrap();
                seen.push(event.to_string());
                if let Some(it) = pick(&event) {
                    return it;
                }
            }
        };
        let found = tokio::time::timeout(LIMIT, wait).await.ok();
        found.unwrap_or_else(|| panic!("waited in vain for {what}; saw: {seen:#?}"))
    }

    pub async fn swapped(&mut self) -> String {
        self.next("a swap", |e| match e {
            // Told after `start` has returned.
            Event::Swapped { reason: Reason::Start, .. } => None,
            Event::Swapped { username, proven: true, .. } => Some(username.clone()),
            Event::Swapped { .. } => panic!("swapped unproven"),
            _ => None,
        })
        .await
    }

    /// The roll of `generation` ended; it may not be drained before.
    pub async fn roll_ended(&mut self) {
        self.next("the end of a roll", |e| match e {
            Event::RollEnded { .. } => Some(()),
            Event::Drained { .. } => panic!("drained before the end of the roll"),
            _ => None,
        })
        .await;
    }

    /// `n` sessions are left.
    pub async fn remaining(&mut self, n: usize) {
        self.next(&format!("{n} remaining"), |e| match e {
            Event::Draining { remaining, .. } if *remaining == n => Some(()),
            Event::Drained { .. } => panic!("drained with {n} sessions left"),
            _ => None,
        })
        .await;
    }

    /// Who was cut off, and how many are left.
    pub async fn drained(&mut self) -> (Vec<leasehold::hook::Holder>, usize) {
        self.next("the end of a drain", |e| match e {
            Event::Drained { forced, left, .. } => {
                Some((forced.iter().map(|(_, holder)| holder.clone()).collect(), *left))
            }
            _ => None,
        })
        .await
    }

    pub async fn drained_cleanly(&mut self) {
        assert_eq!(self.drained().await, (Vec::new(), 0));
    }
}

/// Ends the rotator; nothing may be left of its logins.
pub async fn shut_down(kit: &Kit, rotator: &Rotator) {
    let report = rotator.shutdown(Duration::from_secs(5)).await;
    assert!(report.is_clean(), "{report}");
    let logins = kit.db.logins().await.unwrap();
    assert_eq!(logins, Vec::<String>::new(), "roles left");
    eventually("the end of the last session", async || {
        kit.db
            .sessions()
            .await
            .unwrap()
            .iter()
            .all(|s| s.application_name != "tester")
            .then_some(())
    })
    .await;
}
