//! A database, a source whose logins are ordinary roles, and events to wait for.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use leasehold::{
    Credential, CredentialProvider, CredentialSource, ErrorKind, Event, Issued, Lease, RevokeMode,
    Rotator, SourceError,
};
use leasehold_testkit::{DatabaseSpec, TestDb, shared};
use tokio::sync::broadcast;
use tokio_postgres::{Client, Config, NoTls};

/// Longer than anything here takes, on any machine.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Kit {
    pub db: TestDb,
    pub source: Source,
}

impl Kit {
    pub async fn new(name: &str) -> Self {
        let spec = DatabaseSpec::new(name).with_accounts().schema(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.t ();
             REVOKE ALL ON SCHEMA hidden FROM PUBLIC",
        );
        let db = shared().await.unwrap().database(spec).await.unwrap();
        let admin = db.admin().await.unwrap();
        let source = Source(Arc::new(Inner {
            group: db.name().to_owned(),
            admin,
            serial: AtomicU32::new(0),
            ttl: Mutex::new(Duration::from_secs(3600)),
            refused: AtomicBool::new(false),
            fixed_name: AtomicBool::new(false),
            issued: Mutex::default(),
            revoked: Mutex::default(),
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
    pub fn config(&self) -> Config {
        self.config_at(self.db.pg_port())
    }

    pub fn config_at(&self, port: u16) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).dbname(self.db.name()).application_name("tester");
        config
    }

    pub async fn pool(&self, provider: &CredentialProvider, max: usize) -> Pool {
        self.pool_at(provider, max, self.db.pg_port()).await
    }

    pub async fn pool_at(&self, provider: &CredentialProvider, max: usize, port: u16) -> Pool {
        let config = self.config_at(port);
        leasehold_deadpool::connect(provider, config, NoTls, |b| b.max_size(max)).await.unwrap()
    }

    pub async fn drop_role(&self, user: &str) {
        self.source.admin().batch_execute(&format!("DROP ROLE \"{user}\"")).await.unwrap();
    }

    pub async fn role_exists(&self, user: &str) -> bool {
        let sql = "SELECT 1 FROM pg_roles WHERE rolname = $1";
        self.source.admin().query_opt(sql, &[&user]).await.unwrap().is_some()
    }
}

/// The login of a connection.
pub async fn who(client: &Client) -> String {
    client.query_one("SELECT session_user::text", &[]).await.unwrap().get(0)
}

/// A query that needs a grant.
pub async fn touch(client: &Client) -> Result<i64, tokio_postgres::Error> {
    client.query_one("SELECT v FROM accounts WHERE id = 1", &[]).await?.try_get(0)
}

/// Fills the pool with `n` idle connections.
pub async fn fill(pool: &Pool, n: usize) {
    drop(borrow(pool, n).await);
    assert_eq!(pool.status().available, n);
}

pub async fn borrow(pool: &Pool, n: usize) -> Vec<Object> {
    let mut borrowed = Vec::new();
    for _ in 0..n {
        borrowed.push(pool.get().await.unwrap());
    }
    borrowed
}

/// Mints roles with plain SQL, and keeps a record.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    group: String,
    admin: Client,
    serial: AtomicU32,
    ttl: Mutex<Duration>,
    refused: AtomicBool,
    fixed_name: AtomicBool,
    issued: Mutex<Vec<String>>,
    revoked: Mutex<Vec<Revoked>>,
}

/// A login whose lease was revoked.
#[derive(Clone, Debug, PartialEq)]
pub struct Revoked {
    pub user: String,
    /// Sessions it had then.
    pub sessions: i64,
}

impl Source {
    /// From now on leases end after `ttl`, and nothing prolongs them.
    pub fn ttl(&self, ttl: Duration) {
        *self.0.ttl.lock().unwrap() = ttl;
    }

    /// From now on logins are issued that Postgres refuses.
    pub fn refuse(&self) {
        self.0.refused.store(true, Ordering::SeqCst);
    }

    /// One user name for ever, with a new password each time.
    pub fn fix_name(&self) {
        self.0.fixed_name.store(true, Ordering::SeqCst);
    }

    pub fn issued(&self) -> Vec<String> {
        self.0.issued.lock().unwrap().clone()
    }

    pub fn revoked(&self) -> Vec<Revoked> {
        self.0.revoked.lock().unwrap().clone()
    }

    /// A superuser's connection to the database.
    pub fn admin(&self) -> &Client {
        &self.0.admin
    }

    async fn mint(&self) -> Result<Credential, tokio_postgres::Error> {
        let inner = &*self.0;
        let serial = inner.serial.fetch_add(1, Ordering::SeqCst);
        let group = &inner.group;
        let password = format!("s3cr3t-{serial}");
        let user = if inner.fixed_name.load(Ordering::SeqCst) {
            let user = format!("{group}-static");
            let exists = format!(
                "DO $$ BEGIN CREATE ROLE \"{user}\" LOGIN IN ROLE \"{group}\";
                 EXCEPTION WHEN duplicate_object THEN NULL; END $$;
                 ALTER ROLE \"{user}\" PASSWORD '{password}'"
            );
            inner.admin.batch_execute(&exists).await?;
            user
        } else {
            let user = format!("{group}-{serial}");
            let create =
                format!("CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}' IN ROLE \"{group}\"");
            inner.admin.batch_execute(&create).await?;
            user
        };
        inner.issued.lock().unwrap().push(user.clone());
        let wrong = inner.refused.load(Ordering::SeqCst);
        Ok(Credential::new(user, if wrong { "s3cr3t-wrong".to_owned() } else { password }))
    }

    async fn drop_login(&self, user: &str) -> Result<(), tokio_postgres::Error> {
        let admin = &self.0.admin;
        // A control connection of this very login has said goodbye by now, and Postgres may take a
        // millisecond to notice.
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE usename = $1 AND application_name <> 'leasehold control'";
        let sessions = admin.query_one(sql, &[&user]).await?.get(0);
        admin.batch_execute(&format!("DROP ROLE IF EXISTS \"{user}\"")).await?;
        self.0.revoked.lock().unwrap().push(Revoked { user: user.to_owned(), sessions });
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
        let credential = self.mint().await.map_err(fault)?;
        let mut lease = Lease::fixed(*self.0.ttl.lock().unwrap());
        if !self.0.fixed_name.load(Ordering::SeqCst) {
            lease.id = Some(credential.username().to_owned());
        }
        Ok(Issued::new(credential, lease))
    }

    async fn revoke(&self, lease: &Lease, _: RevokeMode) -> Result<(), SourceError> {
        self.drop_login(lease.id.as_deref().unwrap()).await.map_err(fault)
    }
}

fn fault(error: tokio_postgres::Error) -> SourceError {
    SourceError::new(ErrorKind::ServerFault, format!("{error:?}"))
}

/// The events of a provider.
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    pub seen: Vec<Event>,
}

impl Events {
    pub fn of(provider: &CredentialProvider) -> Self {
        Self { receiver: provider.events(), seen: Vec::new() }
    }

    /// Waits for an event that `is` it, and returns it.
    pub async fn wait(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        match self.within(LIMIT, is).await {
            Some(event) => event,
            None => panic!("no {what} within {LIMIT:?}; seen: {:#?}", self.seen),
        }
    }

    /// As `wait`, for at most `limit`.
    pub async fn within(&mut self, limit: Duration, is: impl Fn(&Event) -> bool) -> Option<Event> {
        let next = async {
            loop {
                let event = self.receiver.recv().await.unwrap();
                self.seen.push(event.clone());
                if is(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(limit, next).await.ok()
    }

    pub async fn roll_ended(&mut self) {
        self.wait("end of the roll", |e| matches!(e, Event::RollEnded { .. })).await;
    }

    pub async fn drained(&mut self) -> Event {
        self.wait("end of the drain", is_drained).await
    }

    pub async fn revoked(&mut self) {
        self.wait("revocation", |e| matches!(e, Event::Revoked { .. })).await;
    }

    /// A drain that has to wait for something does: nothing that it could do meanwhile takes so
    /// long.
    pub async fn still_draining(&mut self) {
        let early = self.within(Duration::from_millis(400), is_drained).await;
        assert!(early.is_none(), "drained too early: {:#?}", self.seen);
    }
}

pub fn is_drained(event: &Event) -> bool {
    matches!(event, Event::Drained { .. })
}

/// Waits until `holds`; fails loudly after a long time.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asked = leasehold_testkit::eventually(what, LIMIT, async || Ok(holds().await)).await;
    asked.unwrap_or_else(|e| panic!("never: {e}"));
}
