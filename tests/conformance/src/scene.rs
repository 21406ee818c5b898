//! A pool on real servers, at the beginning of one behaviour.

use std::time::Duration;

use leasehold::{CredentialProvider, Rotator};
use leasehold_testkit::{
    DatabaseSpec, FaultProxy, LoginRecord, RoleSpec, TestDb, eventually, shared,
};

use crate::source::Source;
use crate::story::Story;
use crate::subject::{Connection, Failure, Place, Subject};

/// Longer than anything here takes on a slow machine: a bound, never a measure.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What all connections of a subject say of themselves.
pub(crate) const APPLICATION: &str = "conformance";

pub(crate) const WHO: &str = "SELECT session_user::text AS value";
const PID: &str = "SELECT pg_backend_pid()::text AS value";
/// Wants a right that goes with the role.
const TOUCH: &str = "SELECT v::text AS value FROM accounts WHERE id = 1";

/// How long things take.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) ttl: Duration,
    pub(crate) roll: Duration,
    pub(crate) grace: Duration,
}

/// Nothing ends but by what the test does.
pub(crate) const CALM: Times = Times {
    ttl: Duration::from_secs(60),
    roll: Duration::from_secs(1),
    grace: Duration::from_secs(20),
};

pub(crate) struct Scene<S: Subject> {
    pub(crate) subject: S,
    pub(crate) pool: S::Pool,
    pub(crate) db: TestDb,
    /// Between the subject and Postgres.
    pub(crate) proxy: FaultProxy,
    pub(crate) source: Source,
    pub(crate) story: Story,
    pub(crate) rotator: Rotator,
    pub(crate) provider: CredentialProvider,
}

impl<S: Subject> Scene<S> {
    pub(crate) async fn set(subject: S, name: &str, times: Times) -> Self {
        // Renewed for as long as a test lasts.
        let role = RoleSpec::new("app").default_ttl(times.ttl).max_ttl(Duration::from_secs(3600));
        let spec = DatabaseSpec::new(name).role(role).with_accounts();
        let spec = spec.schema("CREATE TABLE ready ()");
        let db = shared().await.unwrap().database(spec).await.unwrap();
        let proxy = db.stack().postgres_proxy().await.unwrap();
        let (source, story) = (Source::new(db.clone()), Story::default());
        let rotator = Rotator::builder(source.clone())
            .roll(times.roll)
            .grace(times.grace)
            .observer({
                let story = story.clone();
                move |event| story.hear(event)
            })
            .start()
            .await
            .unwrap();
        let place = Place {
            host: "127.0.0.1".to_owned(),
            port: proxy.port(),
            database: db.name().to_owned(),
            application: APPLICATION,
            probe: "SELECT 1 FROM ready",
        };
        let provider = rotator.provider();
        let pool = subject.connect(&provider, &place).await.unwrap();
        Self { subject, pool, db, proxy, source, story, rotator, provider }
    }

    pub(crate) async fn try_borrow(&self) -> Result<S::Connection, Failure> {
        self.subject.borrow(&self.pool).await
    }

    pub(crate) async fn borrow(&self) -> S::Connection {
        match self.try_borrow().await {
            Ok(connection) => connection,
            Err(error) => panic!("nothing was handed out: {error}: {}", self.story.lines()),
        }
    }

    /// The name of the login that is current.
    pub(crate) fn current(&self) -> String {
        self.provider.current().credential().username().to_owned()
    }

    /// Rotates, and waits for the swap. The numbers of the old and the new generation.
    pub(crate) async fn rotate(&self) -> (u64, u64) {
        let old = self.provider.current().number();
        self.rotator.rotate();
        self.story.swapped(old + 1).await;
        (old, old + 1)
    }

    /// Waits until the lease of a generation was revoked, after all its connections were gone.
    pub(crate) async fn gone(&self, number: u64, user: &str) {
        self.story.revoked(number).await;
        let revoked = self.source.revoked();
        let Some(one) = revoked.iter().find(|one| one.user == user) else {
            panic!("{user} was not revoked: {revoked:?}")
        };
        assert_eq!(one.sessions, 0, "I4: revoked under its sessions: {}", self.story.lines());
    }

    /// Postgres's own record of the connections of the subject, control connections included.
    pub(crate) async fn log(&self) -> Vec<LoginRecord> {
        let users: Vec<_> = self.source.issued().into_iter().map(|one| one.user).collect();
        let mut records = self.db.stack().login_records().await.unwrap();
        records.retain(|one| one.user.as_ref().is_some_and(|user| users.contains(user)));
        records
    }

    /// Ends the rotator: nothing may be left.
    pub(crate) async fn end(self) {
        let report = self.rotator.shutdown(LIMIT).await;
        assert!(report.is_clean(), "{report}: {}", self.story.lines());
        self.nothing_left().await;
    }

    pub(crate) async fn nothing_left(&self) {
        assert_eq!(self.db.lease_count().await.unwrap(), 0, "I9: a lease is left");
        assert_eq!(self.db.logins().await.unwrap(), Vec::<String>::new(), "I9: roles are left");
        // The server's end of a socket goes after ours.
        eventually("I9: no session is left", LIMIT, async || {
            Ok(self.db.sessions().await?.is_empty())
        })
        .await
        .unwrap();
    }
}

/// The login of a connection.
pub(crate) async fn who(connection: &mut impl Connection) -> String {
    connection.text(WHO).await.unwrap()
}

/// Its process on the server.
pub(crate) async fn pid(connection: &mut impl Connection) -> i32 {
    connection.text(PID).await.unwrap().parse().unwrap()
}

/// It works, rights included.
pub(crate) async fn touch(connection: &mut impl Connection) {
    connection.text(TOUCH).await.unwrap();
}
