//! What is diesel's own: its errors, its connections, its pools' edges.

#![allow(clippy::unwrap_used)]
#![allow(missing_docs, reason = "of what `table!` makes")]

use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{ExpressionMethods, QueryDsl, QueryResult, QueryableByName, sql_query};
use diesel_async::pooled_connection::{RecyclingMethod, deadpool::Object};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use leasehold::{CredentialProvider, Event, Reason, Rotator};
use leasehold_conformance::Source;
use leasehold_diesel::{Error, bb8, deadpool};
use leasehold_testkit::{DatabaseSpec, RoleSpec, TestDb, shared};
use tokio::sync::broadcast;
use tokio_postgres::{Config, NoTls};

/// Longer than anything here takes, on any machine.
const LIMIT: Duration = Duration::from_secs(30);
/// A grace in which everything here ends.
const GRACE: Duration = Duration::from_secs(20);

diesel::table! {
    accounts (id) {
        id -> Integer,
        v -> BigInt,
    }
}

struct Kit {
    db: TestDb,
    source: Source,
    rotator: Rotator,
    provider: CredentialProvider,
}

impl Kit {
    async fn new(name: &str) -> Self {
        let role = RoleSpec::new("app").default_ttl(LIMIT * 4).max_ttl(LIMIT * 8);
        let spec = DatabaseSpec::new(name).role(role).with_accounts();
        let db = shared().await.unwrap().database(spec).await.unwrap();
        let source = Source::new(db.clone());
        let rotator = Rotator::builder(source.clone())
            .roll(Duration::from_millis(500))
            .grace(GRACE)
            .start()
            .await
            .unwrap();
        let provider = rotator.provider();
        Self { db, source, rotator, provider }
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.db.pg_port()).dbname(self.db.name());
        config
    }

    fn user(&self) -> String {
        self.provider.current().credential().username().to_owned()
    }

    /// Its sessions stay.
    async fn drop_role(&self) {
        let admin = self.db.admin().await.unwrap();
        admin.batch_execute(&format!("DROP ROLE \"{}\"", self.user())).await.unwrap();
    }

    async fn swapped(&self, begin: impl FnOnce()) {
        let mut swaps = self.provider.subscribe();
        begin();
        tokio::time::timeout(LIMIT, swaps.changed()).await.expect("a swap").unwrap();
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn who(connection: &mut AsyncPgConnection) -> String {
    let row = sql_query("SELECT session_user::text AS value").get_result::<Row>(connection).await;
    row.unwrap().value
}

/// Adds one in a transaction, and reads two rows at once. Takes what diesel's own pools hand out.
async fn work(connection: &mut AsyncPgConnection) -> QueryResult<(i64, i64)> {
    connection
        .transaction(async |connection| {
            diesel::update(accounts::table.find(1))
                .set(accounts::v.eq(accounts::v + 1))
                .execute(connection)
                .await
        })
        .await?;
    let connection = &*connection;
    let read = |id: i32| async move {
        accounts::table.find(id).select(accounts::v).first::<i64>(&mut &*connection).await
    };
    let (one, two) = tokio::join!(read(1), read(2));
    Ok((one?, two?))
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_keep_their_types_and_their_transactions() {
    let kit = Kit::new("di_handlers").await;
    let (provider, config) = (&kit.provider, kit.config());
    let pool = deadpool::connect(provider, config.clone(), NoTls, |b| b.max_size(1)).await.unwrap();
    assert_eq!(work(&mut pool.get().await.unwrap()).await.unwrap(), (1, 0));
    let pool = bb8::connect(provider, config, NoTls, |b| b.max_size(1)).await.unwrap();
    assert_eq!(work(&mut pool.get().await.unwrap()).await.unwrap(), (2, 0));
    // And what the pool hands out is one for diesel, too.
    let mut connection = pool.get().await.unwrap();
    let failed: QueryResult<()> = connection
        .transaction(async |connection| {
            diesel::update(accounts::table).set(accounts::v.eq(9)).execute(connection).await?;
            Err(diesel::result::Error::RollbackTransaction)
        })
        .await;
    assert!(failed.is_err());
    let first: i64 = accounts::table
        .filter(accounts::id.le(2))
        .count()
        .get_result(&mut connection)
        .await
        .unwrap();
    assert_eq!(first, 3);
    assert_eq!(work(&mut connection).await.unwrap(), (3, 0));
}

/// diesel's transaction manager may believe something else than Postgres, and neither is for the
/// next borrower.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_a_transaction_left_open_is_not_handed_out_again() {
    let kit = Kit::new("di_dangling").await;
    let pool = bb8::connect(&kit.provider, kit.config(), NoTls, |b| b.max_size(1)).await.unwrap();
    let mut connection = pool.get().await.unwrap();
    let pid = backend(&mut connection).await;
    {
        let stuck = connection.transaction(async |connection| {
            sql_query("SELECT 1").execute(connection).await?;
            std::future::pending::<QueryResult<()>>().await
        });
        let given_up = tokio::time::timeout(Duration::from_millis(100), stuck).await;
        assert!(given_up.is_err());
    }
    drop(connection);
    assert_ne!(backend(&mut pool.get().await.unwrap()).await, pid);
}

async fn backend(connection: &mut AsyncPgConnection) -> String {
    let row = sql_query("SELECT pg_backend_pid()::text AS value").get_result::<Row>(connection);
    row.await.unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_a_connection_taken_out_of_the_pool_keeps_its_login() {
    let kit = Kit::new("di_taken").await;
    let pool =
        deadpool::connect(&kit.provider, kit.config(), NoTls, |b| b.max_size(2)).await.unwrap();
    let mut taken = Object::take(pool.get().await.unwrap());
    let (old, mut events) = (kit.user(), kit.provider.events());
    kit.swapped(|| kit.rotator.rotate()).await;
    until(&mut events, "an end of the roll", |e| matches!(e, Event::RollEnded { .. })).await;
    let drained = |e: &Event| matches!(e, Event::Drained { .. });
    let early = tokio::time::timeout(
        Duration::from_millis(400),
        until(&mut events, "an end of the drain", drained),
    )
    .await;
    assert!(early.is_err(), "I4: drained under {old}");
    assert_eq!(who(&mut taken).await, old);
    assert_eq!(who(&mut pool.get().await.unwrap()).await, kit.user());
    drop(taken);
    until(&mut events, "a revocation", |e| matches!(e, Event::Revoked { .. })).await;
    let revoked = kit.source.revoked();
    assert_eq!((revoked[0].user.as_str(), revoked[0].sessions), (old.as_str(), 0));
    let report = kit.rotator.shutdown(GRACE).await;
    assert!(report.is_clean(), "{report}");
}

async fn until(
    events: &mut broadcast::Receiver<Event>,
    what: &str,
    is: impl Fn(&Event) -> bool,
) -> Event {
    let search = async {
        loop {
            let event = events.recv().await.unwrap();
            if is(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(LIMIT, search).await.unwrap_or_else(|_| panic!("never {what}"))
}

/// Pings go on passing, and nobody reports anything.
#[tokio::test(flavor = "multi_thread")]
async fn the_sample_notices_a_dropped_role() {
    let kit = Kit::new("di_sample_deadpool").await;
    let pool = deadpool::connect(&kit.provider, kit.config(), NoTls, |b| b.max_size(2)).await;
    let pool = pool.unwrap();
    noticed(&kit, async || pool.get().await.unwrap().batch_execute("SELECT 1").await).await;
    let kit = Kit::new("di_sample_bb8").await;
    let pool = bb8::connect(&kit.provider, kit.config(), NoTls, |b| b.max_size(2)).await.unwrap();
    noticed(&kit, async || pool.get().await.unwrap().batch_execute("SELECT 1").await).await;
}

async fn noticed(kit: &Kit, ping: impl AsyncFn() -> QueryResult<()>) {
    let (old, mut events) = (kit.user(), kit.provider.events());
    kit.drop_role().await;
    let traffic = async {
        while kit.user() == old {
            ping().await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, traffic).await.expect("fresh credentials");
    let swap = until(&mut events, "a swap", |e| matches!(e, Event::Swapped { .. })).await;
    assert!(matches!(swap, Event::Swapped { reason: Reason::SessionRevoked, .. }), "{swap}");
}

/// diesel has no SQLSTATE that would tell them apart.
#[tokio::test(flavor = "multi_thread")]
async fn i7_a_statement_that_fails_for_another_reason_is_no_revoked_login() {
    let kit = Kit::new("di_failing").await;
    // Due at about every other check-out.
    let often = Some(Duration::from_millis(1));
    let deadpool = deadpool::Installer::new().liveness(often).recycling(RecyclingMethod::Fast);
    let one = deadpool.connect(&kit.provider, kit.config(), NoTls, |b| b.max_size(1)).await;
    let one = one.unwrap();
    let other = bb8::Installer::new().liveness(often);
    let other = other.connect(&kit.provider, kit.config(), NoTls, |b| b.max_size(1)).await;
    let other = other.unwrap();
    let mut events = kit.provider.events();
    // Of which diesel knows nothing: the sample fails in it.
    let fail = "BEGIN; SELECT 1 / 0";
    one.get().await.unwrap().batch_execute(fail).await.unwrap_err();
    other.get().await.unwrap().batch_execute(fail).await.unwrap_err();
    for _ in 0..50 {
        one.get().await.unwrap().batch_execute("SELECT 1").await.unwrap_err();
        other.get().await.unwrap().batch_execute("SELECT 1").await.unwrap_err();
    }
    // Nor is a missing table, however often it is told of.
    let mut connection = one.get().await.unwrap();
    connection.batch_execute("ROLLBACK").await.unwrap();
    let error = connection.batch_execute("SELECT * FROM missing").await.unwrap_err();
    for _ in 0..1000 {
        leasehold_diesel::report(&kit.provider, &error);
    }
    let minted = |e: &Event| {
        matches!(e, Event::Issued { .. } | Event::Rotating { .. } | Event::Swapped { .. })
    };
    let search = until(&mut events, "a mint", minted);
    assert!(tokio::time::timeout(Duration::from_secs(1), search).await.is_err());
    assert_eq!(kit.source.issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_error_leads_to_fresh_credentials() {
    let kit = Kit::new("di_report").await;
    let installer = deadpool::Installer::new().liveness(None);
    let build = |b: deadpool::PoolBuilder| b.max_size(2);
    let pool = installer.connect(&kit.provider, kit.config(), NoTls, build).await.unwrap();
    let mut connection = pool.get().await.unwrap();
    kit.drop_role().await;
    let error = work(&mut connection).await.unwrap_err();
    let mut events = kit.provider.events();
    kit.swapped(|| leasehold_diesel::report(&kit.provider, &error)).await;
    drop(connection);
    until(&mut events, "an end of the roll", |e| matches!(e, Event::RollEnded { .. })).await;
    assert_eq!(who(&mut pool.get().await.unwrap()).await, kit.user());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_pool_dials_nothing_and_rotates_all_the_same() {
    let kit = Kit::new("di_lazy").await;
    let (provider, config) = (&kit.provider, kit.config());
    let one = deadpool::connect_lazy(provider, config.clone(), NoTls, |b| b.max_size(2)).unwrap();
    let other = bb8::connect_lazy(provider, config, NoTls, |b| b.max_size(2)).unwrap();
    assert_eq!((one.status().size, other.state().connections), (0, 0));
    let old = kit.user();
    assert!(kit.db.sessions_of(&old).await.unwrap().is_empty());
    kit.swapped(|| kit.rotator.rotate()).await;
    assert_ne!(kit.user(), old);
    assert_eq!(who(&mut one.get().await.unwrap()).await, kit.user());
    assert_eq!(who(&mut other.get().await.unwrap()).await, kit.user());
}

/// By one mint for all who meet it.
#[tokio::test(flavor = "multi_thread")]
async fn i7_a_refused_login_is_replaced_for_whoever_waits_for_a_connection() {
    let kit = Kit::new("di_refused").await;
    let (provider, config) = (&kit.provider, kit.config());
    let one = deadpool::connect_lazy(provider, config.clone(), NoTls, |b| b.max_size(2)).unwrap();
    // bb8's own retry would hide it.
    let build = |b: bb8::PoolBuilder| b.max_size(2).retry_connection(false);
    let other = bb8::connect_lazy(provider, config, NoTls, build).unwrap();
    kit.drop_role().await;
    let (a, b, c, d) = tokio::join!(one.get(), one.get(), other.get(), other.get());
    let (mut a, mut b, mut c, mut d) = (a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap());
    for connection in [&mut *a, &mut *b, &mut **c, &mut **d] {
        assert_eq!(who(connection).await, kit.user());
    }
    assert_eq!(kit.source.issued().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_at_the_first_connect() {
    let kit = Kit::new("di_wrong").await;
    let (provider, config) = (&kit.provider, kit.config());
    let one = deadpool::Installer::new().name("orders").probe("SELECT * FROM missing");
    let error = one.connect(provider, config.clone(), NoTls, |b| b).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::ProbeFailed { .. }), "{error:?}");
    assert!(error.to_string().contains("orders"), "{error}");
    let other = bb8::Installer::new().name("orders").probe("SELECT * FROM missing");
    let error = other.connect(provider, config.clone(), NoTls, |b| b).await.unwrap_err();
    assert!(matches!(error, Error::ProbeFailed { .. }), "{error:?}");

    // Port 1 on loopback: nobody listens. What a borrower sees of it names no login.
    let mut nowhere = Config::new();
    nowhere.host("127.0.0.1").port(1).dbname("orders");
    let error =
        deadpool::connect(provider, nowhere.clone(), NoTls, |b| b).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let lazy = deadpool::connect_lazy(provider, nowhere, NoTls, |b| b).unwrap();
    let error = lazy.get().await.map(drop).unwrap_err().to_string();
    assert!(error.contains("onnection refused"), "{error}");
    drop(lazy);

    // Nothing of it stays: a rotation has no pool to prove itself on.
    kit.swapped(|| kit.rotator.rotate()).await;
    kit.rotator.shutdown(GRACE).await;
    let error = bb8::connect_lazy(&kit.provider, config, NoTls, |b| b).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
}
