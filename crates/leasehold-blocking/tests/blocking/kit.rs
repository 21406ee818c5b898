//! A database, and a service beside it that has no runtime but ours.

use std::time::Duration;

use leasehold::{CredentialProvider, Event};
use leasehold_blocking::{Installer, PostgresManager, Rotator, Runtime};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, TestDb, eventually, shared};
use leasehold_vault::{Auth, DynamicRole, Session, VaultConfig};
use r2d2::Pool;
use tokio::sync::broadcast;
use tokio_postgres::{Client, Config, NoTls};

/// Longer than anything here takes on a slow machine: a bound, never a measure.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Kit {
    pub runtime: Runtime,
    pub db: TestDb,
    pub session: Session,
}

impl Kit {
    pub fn new(name: &str) -> Self {
        Self::with_ttl(name, Duration::from_secs(60))
    }

    pub fn with_ttl(name: &str, ttl: Duration) -> Self {
        let runtime = Runtime::new().unwrap();
        let ready = async {
            let role = RoleSpec::new("app");
            let role = role.default_ttl(ttl).max_ttl(Duration::from_secs(3600));
            let login = AppRoleSpec::new().token_ttl(Duration::from_secs(3600));
            let spec = DatabaseSpec::new(name).role(role).app_role(login).with_accounts();
            let db = shared().await.unwrap().database(spec).await.unwrap();
            let auth = Auth::approle(db.role_id(), db.secret_id().await.unwrap());
            let session = Session::login(VaultConfig::new(db.vault_addr()), auth).await.unwrap();
            (db, session)
        };
        let (db, session) = runtime.block_on(ready).unwrap();
        Self { runtime, db, session }
    }

    pub fn source(&self) -> DynamicRole {
        self.session.dynamic_role(self.db.mount(), self.db.role())
    }

    /// A rotator whose rolls are short, for those who hold on to a connection to its end.
    pub fn start(&self) -> Rotator {
        let builder = leasehold::Rotator::builder(self.source());
        let builder = builder.roll(Duration::from_millis(500)).grace(Duration::from_secs(15));
        Rotator::start(&self.runtime, builder).unwrap()
    }

    /// Where the database is, with no login.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.db.pg_port()).dbname(self.db.name());
        config
    }

    pub fn pool(&self, provider: &CredentialProvider, max: u32) -> Pool<PostgresManager> {
        self.pool_of(Installer::new(), provider, max)
    }

    pub fn pool_of(
        &self,
        installer: Installer,
        provider: &CredentialProvider,
        max: u32,
    ) -> Pool<PostgresManager> {
        installer.connect(provider, self.config(), NoTls, |b| b.max_size(max)).unwrap()
    }

    /// A superuser's connection to the database, run by our runtime.
    pub fn admin(&self) -> Client {
        self.wait(self.db.admin()).unwrap()
    }

    /// Waits for something of the test's own.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future).unwrap()
    }

    /// Waits until `holds`; fails loudly after a long time.
    pub fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let asked = self.wait(eventually(what, LIMIT, async || Ok(holds().await)));
        asked.unwrap_or_else(|e| panic!("never: {e}"));
    }

    /// Neither a lease nor a login nor a session, as the servers see it.
    pub fn nothing_left(&self) {
        self.eventually("no lease, login or session is left", async || {
            self.db.lease_count().await.unwrap() == 0
                && self.db.logins().await.unwrap().is_empty()
                && self.db.sessions().await.unwrap().is_empty()
        });
    }
}

/// The events of a provider.
pub struct Events(broadcast::Receiver<Event>, Vec<Event>);

impl Events {
    pub fn of(provider: &CredentialProvider) -> Self {
        Self(provider.events(), Vec::new())
    }

    pub fn wait<T>(&mut self, kit: &Kit, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let next = async {
            loop {
                let event = self.0.recv().await.unwrap();
                self.1.push(event.clone());
                if let Some(found) = pick(&event) {
                    return found;
                }
            }
        };
        let found = kit.wait(async { tokio::time::timeout(LIMIT, next).await });
        found.unwrap_or_else(|_| panic!("no {what}; seen: {:#?}", self.1))
    }

    pub fn swapped(&mut self, kit: &Kit) -> u64 {
        self.wait(kit, "swap", |event| match event {
            Event::Swapped { generation, .. } => Some(*generation),
            _ => None,
        })
    }

    pub fn rolled(&mut self, kit: &Kit) {
        self.wait(kit, "end of the roll", |e| matches!(e, Event::RollEnded { .. }).then_some(()));
    }

    /// Waits for the end of a drain that had to end nobody.
    pub fn drained(&mut self, kit: &Kit) {
        let (forced, left) = self.wait(kit, "end of the drain", |event| match event {
            Event::Drained { forced, left, .. } => Some((forced.clone(), *left)),
            _ => None,
        });
        assert!(forced.is_empty() && left == 0, "{:#?}", self.1);
    }

    pub fn revoked(&mut self, kit: &Kit) {
        self.wait(kit, "revocation", |e| matches!(e, Event::Revoked { .. }).then_some(()));
    }
}

/// The login of a connection.
pub fn who(client: &mut postgres::Client) -> String {
    client.query_one("SELECT session_user::text", &[]).unwrap().get(0)
}
