//! Each source that changes by itself, on real servers: pools under load move from one login to
//! the next at least three times, with no failed query.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::{
    Chain, Credential, CredentialSource, Event, FileSource, FnSource, InForce, Issued, Lease,
    Reason, Rotator, RotatorBuilder, StaticSource,
};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TestDb, eventually};
use leasehold_tests::{LONG, event, s};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

const SIZE: u32 = 5;
const WORKERS: u32 = 3;

/// A database whose AppRole may read static roles and the KV mount of this name.
async fn database(stack: &Stack, name: &str) -> TestDb {
    with_leases_of(stack, name, s(8)).await
}

async fn with_leases_of(stack: &Stack, name: &str, ttl: Duration) -> TestDb {
    let policy = format!(
        "path \"{{{{mount}}}}/static-creds/*\" {{ capabilities = [\"read\"] }}
         path \"kv-{name}/*\" {{ capabilities = [\"read\"] }}"
    );
    let role = RoleSpec::new("app").default_ttl(ttl).max_ttl(ttl);
    let app_role = AppRoleSpec::new().token_ttl(s(3600)).extra_policy(policy);
    let spec = DatabaseSpec::new(name).role(role).app_role(app_role).with_accounts();
    stack.database(spec).await.unwrap()
}

async fn session(db: &TestDb) -> Session {
    leasehold_tests::session(db).await
}

async fn vault(db: &TestDb, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = db.stack().vault_request(method, path, Some(body)).await.unwrap();
    assert!(status < 300, "{method} {path}: {status} {answer}");
    answer
}

/// Two users that an operator changes in turns, as people do who rotate by hand: the one that is
/// not in use gets the new password.
struct Turns {
    db: TestDb,
    next: AtomicU64,
    name: String,
}

impl Turns {
    async fn new(db: &TestDb) -> Arc<Self> {
        let name = db.name().to_owned();
        let sql =
            ["a", "b"].map(|n| format!("create role \"{name}_{n}\" login in role \"{name}\""));
        db.admin().await.unwrap().batch_execute(&sql.join(";")).await.unwrap();
        Arc::new(Self { db: db.clone(), next: AtomicU64::new(0), name })
    }

    async fn next(&self) -> (String, String) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let user = format!("{}_{}", self.name, if n.is_multiple_of(2) { "a" } else { "b" });
        let password = format!("p@ss/w:rd {n}");
        let sql = format!("alter role \"{user}\" password '{password}'");
        self.db.admin().await.unwrap().batch_execute(&sql).await.unwrap();
        (user, password)
    }

    async fn json(&self) -> Value {
        let (username, password) = self.next().await;
        json!({ "username": username, "password": password })
    }
}

enum Pool {
    Sqlx(sqlx::PgPool),
    Deadpool(deadpool_postgres::Pool),
}

/// Workers on a pool, and what failed them.
struct Load {
    pool: Arc<Pool>,
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    ok: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Load {
    /// A pool that is full, so that nobody has to dial unless a connection is replaced.
    async fn sqlx(rotator: &Rotator, db: &TestDb) -> Self {
        Self::sqlx_at(rotator, db.pg_host(), db.pg_port(), db.name()).await
    }

    async fn sqlx_at(rotator: &Rotator, host: &str, port: u16, name: &str) -> Self {
        let base = PgConnectOptions::new_without_pgpass().host(host).port(port).database(name);
        let options = PgPoolOptions::new().min_connections(SIZE).max_connections(SIZE);
        let pool = leasehold_sqlx::connect(&rotator.provider(), options, base).await.unwrap();
        let full = pool.clone();
        eventually("the pool is full", LONG, async || Ok(full.size() == SIZE)).await.unwrap();
        Self::start(Pool::Sqlx(pool))
    }

    async fn deadpool(rotator: &Rotator, db: &TestDb) -> Self {
        let tls = tokio_postgres::NoTls;
        let size = |b: deadpool_postgres::PoolBuilder| b.max_size(SIZE as usize);
        let provider = rotator.provider();
        let pool = leasehold_deadpool::connect(&provider, db.pg_config(), tls, size).await;
        Self::start(Pool::Deadpool(pool.unwrap()))
    }

    fn start(pool: Pool) -> Self {
        let mut load = Self {
            pool: Arc::new(pool),
            tasks: JoinSet::new(),
            stop: Arc::default(),
            ok: Arc::default(),
            failed: Arc::default(),
        };
        for n in 0..WORKERS {
            // The first one holds its connection for longer than a roll may take.
            let pause = if n == 0 { 3000 } else { 2 };
            let (pool, stop) = (load.pool.clone(), load.stop.clone());
            let (ok, failed) = (load.ok.clone(), load.failed.clone());
            load.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match work(&pool, Duration::from_millis(pause)).await {
                        Ok(()) => drop(ok.fetch_add(1, Ordering::Relaxed)),
                        Err(e) => failed.lock().unwrap().push(e),
                    }
                }
            });
        }
        load
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let failed = self.failed.lock().unwrap().clone();
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
        assert!(self.ok.load(Ordering::Relaxed) > 100, "there was load");
    }
}

/// Two statements in a transaction, with a pause between them.
async fn work(pool: &Pool, pause: Duration) -> Result<(), String> {
    const READ: &str = "select v from accounts where id = 7";
    const WRITE: &str = "update accounts set v = v where id = 8";
    match pool {
        Pool::Sqlx(pool) => {
            let told = |e: sqlx::Error| e.to_string();
            let mut work = pool.begin().await.map_err(told)?;
            sqlx::query(READ).fetch_one(&mut *work).await.map_err(told)?;
            tokio::time::sleep(pause).await;
            sqlx::query(WRITE).execute(&mut *work).await.map_err(told)?;
            work.commit().await.map_err(told)
        }
        Pool::Deadpool(pool) => {
            let mut client = pool.get().await.map_err(|e| format!("{e:?}"))?;
            let told = |e: tokio_postgres::Error| format!("{e:?}");
            let work = client.transaction().await.map_err(told)?;
            work.query_one(READ, &[]).await.map_err(told)?;
            tokio::time::sleep(pause).await;
            work.execute(WRITE, &[]).await.map_err(told)?;
            work.commit().await.map_err(told)
        }
    }
}

async fn start(source: impl CredentialSource) -> (Rotator, broadcast::Receiver<Event>) {
    let builder: RotatorBuilder = Rotator::builder(source).grace(s(6));
    let rotator = builder.start().await.unwrap();
    let events = rotator.provider().events();
    (rotator, events)
}

/// Waits for the next swap; the first one may still be told of.
async fn swapped(events: &mut broadcast::Receiver<Event>) -> (u64, Reason) {
    event(events, |e| match e {
        Event::Swapped { generation, reason, .. } if *reason != Reason::Start => {
            Some((*generation, *reason))
        }
        _ => None,
    })
    .await
}

/// Waits until nothing of a superseded generation is handed out any more.
async fn rolled(events: &mut broadcast::Receiver<Event>, number: u64) {
    event(events, |e| {
        matches!(e, Event::RollEnded { generation, .. } if *generation == number).then_some(())
    })
    .await;
}

/// Changes the source three times over; each change is followed.
async fn follow(
    events: &mut broadcast::Receiver<Event>,
    rotator: &Rotator,
    mut change: impl AsyncFnMut() -> String,
) {
    for number in 2..=4 {
        let user = change().await;
        assert_eq!(swapped(events).await, (number, Reason::SourceChanged));
        let provider = rotator.provider();
        assert_eq!(provider.current().credential().username(), user);
        rolled(events, number - 1).await;
    }
}

async fn end(rotator: Rotator, load: Load) {
    load.end().await;
    let left = rotator.shutdown(s(10)).await;
    assert!(left.is_clean(), "{left}");
}

/// A static role, rotated this often; 5 s is the shortest there is.
async fn static_role(db: &TestDb, period: &str) -> leasehold_vault::StaticRole {
    let user = format!("{}_static", db.name());
    let admin = db.admin().await.unwrap();
    let sql = format!("create role \"{user}\" login password 'before' in role \"{}\"", db.name());
    admin.batch_execute(&sql).await.unwrap();
    let body = json!({ "db_name": db.name(), "username": user, "rotation_period": period });
    vault(db, "POST", &format!("{}/static-roles/shared", db.mount()), body).await;
    session(db).await.static_role(db.mount(), "shared")
}

async fn static_role_under_load(events: &mut broadcast::Receiver<Event>, rotator: &Rotator) {
    let mut seen = vec![password(rotator)];
    for number in 2..=5 {
        assert_eq!(swapped(events).await.0, number);
        seen.push(password(rotator));
        rolled(events, number - 1).await;
    }
    seen.dedup();
    assert_eq!(seen.len(), 5, "each swap brought another password");
}

fn password(rotator: &Rotator) -> String {
    rotator.provider().current().credential().expose_password().to_owned()
}

/// Another replica's session, on the same login: nobody ends it, not even a shutdown.
async fn other_session(rotator: &Rotator, db: &TestDb) -> tokio_postgres::Client {
    let login = rotator.provider().current().credential().clone();
    db.connect(login.username(), login.expose_password()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_role_on_sqlx() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "static-sqlx").await;
    // Longer than a drain takes: a borrower that dials for one change may meet the next.
    let source = static_role(&db, "10s").await;
    let session = source.session().clone();
    let (rotator, mut events) = start(source).await;
    let other = other_session(&rotator, &db).await;
    let load = Load::sqlx(&rotator, &db).await;
    static_role_under_load(&mut events, &rotator).await;
    end(rotator, load).await;
    other.simple_query("select v from accounts where id = 1").await.expect("left alone");
    // A rotation costs a read for it, and some to see it come: within a second each.
    let calls = session.calls();
    assert!(calls.read >= 8 && calls.issue == 0, "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_role_on_deadpool() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "static-deadpool").await;
    let (rotator, mut events) = start(static_role(&db, "5s").await).await;
    let other = other_session(&rotator, &db).await;
    let load = Load::deadpool(&rotator, &db).await;
    static_role_under_load(&mut events, &rotator).await;
    end(rotator, load).await;
    other.simple_query("select v from accounts where id = 1").await.expect("left alone");
}

/// Every `get` dials, from before the rotation to after it: those that meet the old password wait
/// for the new one inside.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_role_that_is_rotated_by_hand_costs_deadpool_no_connect() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "by-hand").await;
    let source = static_role(&db, "1h").await;
    let (rotator, _) = start(source).await;
    let tls = tokio_postgres::NoTls;
    let pool = leasehold_deadpool::connect(&rotator.provider(), db.pg_config(), tls, |b| b).await;
    let pool = pool.unwrap();
    for _ in 0..3 {
        let before = password(&rotator);
        let (status, answer) = (db.stack())
            .vault_request("POST", &format!("{}/rotate-role/shared", db.mount()), Some(json!({})))
            .await
            .unwrap();
        assert_eq!(status, 204, "{answer}");
        pool.retain(|_, _| false);
        drop(pool.get().await.expect("it waited for the new password"));
        assert_ne!(password(&rotator), before);
    }
    drop(pool);
    assert!(rotator.shutdown(s(5)).await.is_clean());
}

/// With sqlx a connect in the gap is refused at once, and the helper waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_role_that_is_rotated_by_hand_refuses_sqlx_until_it_is_told() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "by-hand-sqlx").await;
    let source = static_role(&db, "1h").await;
    let (rotator, _) = start(source.check_every(s(3600))).await;
    let provider = rotator.provider();
    let base = PgConnectOptions::new_without_pgpass()
        .host(db.pg_host())
        .port(db.pg_port())
        .database(db.name());
    let pool = leasehold_sqlx::connect(&provider, PgPoolOptions::new(), base).await.unwrap();
    for _ in 0..3 {
        vault(&db, "POST", &format!("{}/rotate-role/shared", db.mount()), json!({})).await;
        // The one that is open goes on; a second one has to be dialled.
        let open = pool.acquire().await.unwrap();
        let refused = pool.acquire().await.expect_err("sqlx itself does not wait");
        let code = refused.as_database_error().and_then(|e| e.code()).map(|c| c.into_owned());
        assert_eq!(code.as_deref(), Some("28P01"));
        let waited = leasehold_sqlx::acquire(&pool, &provider).await.expect("the helper does");
        drop((open, waited));
    }
    pool.close().await;
    assert!(rotator.shutdown(s(5)).await.is_clean());
}

async fn kv(db: &TestDb, name: &str, version: u8) {
    let options = json!({ "type": "kv", "options": { "version": version.to_string() } });
    vault(db, "POST", &format!("sys/mounts/kv-{name}"), options).await;
    // Version 2 needs a moment to set itself up.
    let probe = if version == 2 { "data/probe" } else { "probe" };
    eventually("the engine serves", LONG, async || {
        let body = json!({ "data": { "x": "y" } });
        let path = format!("kv-{name}/{probe}");
        Ok(db.stack().vault_request("POST", &path, Some(body)).await?.0 < 300)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_kv_version_2_on_sqlx() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "kv2").await;
    kv(&db, "kv2", 2).await;
    let turns = Turns::new(&db).await;
    // The secret alone says where: a URL, with a password that has to be encoded.
    let write = async || {
        let (user, password) = turns.next().await;
        let encoded = password.replace('@', "%40").replace('/', "%2F").replace(' ', "%20");
        let (host, port, name) = (db.pg_host(), db.pg_port(), db.name());
        let url = format!("postgres://{user}:{encoded}@{host}:{port}/{name}");
        let body = json!({ "data": { "url": url, "note": { "by": ["hand"] } } });
        vault(&db, "POST", "kv-kv2/data/team/app", body).await;
        user
    };
    write().await;
    let source = session(&db).await.kv2("kv-kv2", "team/app").check_every(s(1));
    let (rotator, mut events) = start(source).await;
    let load = Load::sqlx_at(&rotator, "nowhere.invalid", 1, "nothing").await;
    follow(&mut events, &rotator, write).await;
    end(rotator, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_kv_version_1_on_deadpool() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "kv1").await;
    kv(&db, "kv1", 1).await;
    let turns = Turns::new(&db).await;
    let write = async || {
        let mut secret = turns.json().await;
        secret["host"] = db.pg_host().into();
        secret["port"] = db.pg_port().into();
        vault(&db, "POST", "kv-kv1/app", secret.clone()).await;
        secret["username"].as_str().unwrap().to_owned()
    };
    write().await;
    let source = session(&db).await.kv1("kv-kv1", "/app/").check_every(s(1));
    let (rotator, mut events) = start(source).await;
    let load = Load::deadpool(&rotator, &db).await;
    follow(&mut events, &rotator, write).await;
    end(rotator, load).await;
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("leasehold-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// As the kubelet does it: a new folder, and one rename of a symlink.
fn mount(folder: &Path, version: u64, keys: &[(&str, &str)]) {
    let data = folder.join(format!("..{version}"));
    std::fs::create_dir(&data).unwrap();
    for (key, value) in keys {
        std::fs::write(data.join(key), value).unwrap();
        let link = folder.join(key);
        if !link.is_symlink() {
            std::os::unix::fs::symlink(format!("..data/{key}"), link).unwrap();
        }
    }
    std::os::unix::fs::symlink(&data, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_kubernetes_secret_on_sqlx() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "mounted").await;
    let (turns, folder) = (Turns::new(&db).await, Folder::new("mounted-load"));
    let mut version = 0;
    let mut publish = async || {
        let (user, password) = turns.next().await;
        version += 1;
        mount(&folder.0, version, &[("username", &user), ("password", &password)]);
        user
    };
    publish().await;
    let (rotator, mut events) = start(FileSource::new(&folder.0)).await;
    let load = Load::sqlx(&rotator, &db).await;
    follow(&mut events, &rotator, publish).await;
    end(rotator, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_rendered_by_an_agent_on_deadpool() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "rendered").await;
    let (turns, folder) = (Turns::new(&db).await, Folder::new("rendered-load"));
    let render = async || {
        let secret = turns.json().await;
        std::fs::write(folder.0.join("tmp"), secret.to_string()).unwrap();
        std::fs::rename(folder.0.join("tmp"), folder.0.join("login.json")).unwrap();
        secret["username"].as_str().unwrap().to_owned()
    };
    render().await;
    let (rotator, mut events) = start(FileSource::new(folder.0.join("login.json"))).await;
    let load = Load::deadpool(&rotator, &db).await;
    follow(&mut events, &rotator, render).await;
    let other = other_session(&rotator, &db).await;
    end(rotator, load).await;
    other.simple_query("select v from accounts where id = 1").await.expect("left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_whose_passwords_end_on_sqlx() {
    let db = database(leasehold_testkit::shared().await.unwrap(), "closure").await;
    let turns = Turns::new(&db).await;
    let source = FnSource::new("tokens of 8 s", move || {
        let turns = turns.clone();
        async move {
            let (user, password) = turns.next().await;
            Ok(Issued::new(Credential::new(user, password), Lease::fixed(s(8))))
        }
    });
    let rotator = Rotator::builder(source).start().await.unwrap();
    let mut events = rotator.provider().events();
    let load = Load::sqlx(&rotator, &db).await;
    for number in 2..=4 {
        assert_eq!(swapped(&mut events).await, (number, Reason::MaxTtl));
        rolled(&mut events, number - 1).await;
    }
    end(rotator, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_else_the_environment_on_sqlx() {
    // It is sealed here: a server of its own.
    let stack = Stack::start().await.unwrap();
    // A chain falls back after a tenth of the TTL without an answer.
    let db = with_leases_of(&stack, "chain", s(20)).await;
    let (env_user, env_password) = Turns::new(&db).await.next().await;
    let (address, role_id) = (db.vault_addr(), db.role_id().to_owned());
    let (secret_id, db_mount, role) =
        (db.secret_id().await.unwrap(), db.mount().to_owned(), db.role().to_owned());
    stack.seal_vault().await.unwrap();
    let vault = move || {
        let auth = Auth::approle(role_id.as_str(), secret_id.as_str());
        let login = Session::login(VaultConfig::new(&*address), auth);
        let (mount, role) = (db_mount.clone(), role.clone());
        async move { Ok(login.await?.dynamic_role(mount, role)) }
    };
    let chain = Chain::lazily("Vault", vault, StaticSource::new(&*env_user, env_password));
    let (rotator, mut events) = {
        let rotator = Rotator::builder(chain.clone()).start().await.unwrap();
        let events = rotator.provider().events();
        (rotator, events)
    };
    let load = Load::sqlx(&rotator, &db).await;
    let user = || rotator.provider().current().credential().username().to_owned();
    assert_eq!((chain.in_force(), user()), (InForce::Fallback, env_user.clone()));

    // To Vault, from lease to lease, and to the environment again before the last of them ends.
    stack.unseal_vault().await.unwrap();
    assert_eq!(swapped(&mut events).await.1, Reason::SourceChanged);
    assert_eq!(chain.in_force(), InForce::Primary);
    assert_eq!(swapped(&mut events).await.1, Reason::MaxTtl);
    assert_eq!(chain.in_force(), InForce::Primary);
    stack.seal_vault().await.unwrap();
    assert_eq!(swapped(&mut events).await.1, Reason::MaxTtl);
    assert_eq!((chain.in_force(), user()), (InForce::Fallback, env_user.clone()));
    stack.unseal_vault().await.unwrap();
    assert_eq!(swapped(&mut events).await.1, Reason::SourceChanged);
    assert_eq!(chain.in_force(), InForce::Primary);
    end(rotator, load).await;
}
