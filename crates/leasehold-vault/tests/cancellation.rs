//! Every public async function, dropped at every await, against a real server: where it answers,
//! refuses, is slow, and does not answer at all. Nothing is left, and the session goes on.

mod common;

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use common::kv::mount_kv;
use common::{approle, config, long_role, own_stack, until};
use leasehold::{CredentialSource, RevokeMode};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, Stack, TestDb, eventually};
use leasehold_vault::{Entries, Session, VaultConfig, WriteIf, inspect, once};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

/// Where a future is dropped.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// When it is pending for the so manyth time; 0: before it is polled at all.
    Polls(usize),
    /// After so long: between two polls, while others work for it.
    After(Duration),
}

/// The places to try, one after the other until the future comes to its end in one of each kind.
/// Close to each other as long as a call takes on a machine with nothing else to do, then in steps
/// that grow: past each timeout of a call, however loaded the machine is.
fn places() -> impl Iterator<Item = Cut> {
    let close = (0..100).map(|n| n * Duration::from_micros(1500));
    let wide = std::iter::successors(Some(Duration::from_millis(150)), |last| Some(*last * 5 / 4));
    let wide = wide.take_while(|time| *time < Duration::from_secs(600));
    (0..4).map(Cut::Polls).chain(close.chain(wide).map(Cut::After))
}

/// Drops `future` there. Its output if it was done by then.
async fn cut<F: Future>(future: F, place: Cut) -> Option<F::Output> {
    let mut left = match place {
        Cut::After(time) => return tokio::time::timeout(time, future).await.ok(),
        Cut::Polls(0) => return None,
        Cut::Polls(n) => n,
    };
    let mut future = Box::pin(future);
    let polls = poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            left -= 1;
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    });
    // What waits for a server that does not answer is not polled again.
    tokio::time::timeout(Duration::from_millis(300), polls).await.ok().flatten()
}

async fn tokens(stack: &Stack, role: &str) -> leasehold_testkit::Result<usize> {
    let mut count = 0;
    for accessor in stack.token_accessors().await? {
        let body = json!({ "accessor": accessor });
        let (_, seen) =
            stack.vault_request("POST", "auth/token/lookup-accessor", Some(body)).await?;
        count += usize::from(seen["data"]["meta"]["role_name"] == role);
    }
    Ok(count)
}

/// Waits until as many tokens, leases and Postgres roles are there.
async fn are_there(db: &TestDb, what: &str, tokens_: usize, logins: usize) {
    let wanted = (tokens_, logins, logins);
    let mut seen = (0, 0, 0);
    let done = eventually(what, LONG, async || {
        seen = (
            tokens(db.stack(), db.name()).await?,
            db.lease_count().await?,
            db.logins().await?.len(),
        );
        Ok(seen == wanted)
    });
    done.await
        .unwrap_or_else(|_| panic!("{what}: tokens, leases, roles are {seen:?}, not {wanted:?}"));
}

async fn database(stack: &Stack) -> TestDb {
    // Nothing ends by itself: what is gone was given back.
    let tokens = AppRoleSpec::new().token_ttl(Duration::from_secs(3600));
    let extra = "path \"kv/*\" { capabilities = [\"read\"] }";
    let spec = DatabaseSpec::new("cut").role(long_role()).app_role(tokens.extra_policy(extra));
    stack.database(spec).await.expect("database")
}

/// What is cut is cut by the test, and not by a timeout on a loaded machine.
fn patient(db: &TestDb) -> VaultConfig {
    config(db).request_timeout(LONG).mint_timeout(LONG)
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// How the server is while the future is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Answers,
    Refuses,
    IsSlow,
    DoesNotAnswer,
}

const ALL: [Server; 4] = [Server::Answers, Server::Refuses, Server::IsSlow, Server::DoesNotAnswer];

impl Server {
    async fn begin(self, db: &TestDb) {
        match self {
            Self::Answers => {}
            Self::Refuses => db.set_policy("# nothing is allowed").await.expect("policy"),
            Self::IsSlow | Self::DoesNotAnswer => db.stack().pause_vault().await.expect("pause"),
        }
    }

    async fn end(self, db: &TestDb, policy: &str) {
        match self {
            Self::Answers => {}
            Self::Refuses => db.set_policy(policy).await.expect("policy"),
            Self::IsSlow | Self::DoesNotAnswer => db.stack().resume_vault().await.expect("resume"),
        }
    }
}

/// Drops a call to the server at each await, in each state of the server. `check` sees what it
/// left, with the server well again.
async fn in_all_states<T>(
    what: &str,
    db: &TestDb,
    mut call: impl AsyncFnMut() -> T,
    mut check: impl AsyncFnMut(&str, Option<T>),
) {
    let path = format!("sys/policies/acl/{}", db.name());
    let (_, reply) = db.stack().vault_request("GET", &path, None).await.expect("policy");
    let policy = reply["data"]["policy"].as_str().expect("text").to_owned();
    for server in ALL {
        let mut done_by_time = false;
        for place in places() {
            let what = format!("{what}, the server {server:?}, cut at {place:?}");
            server.begin(db).await;
            let done = match server {
                // It comes back while the call is under way.
                Server::IsSlow => {
                    let resume = async {
                        // How long it is slow: nothing happens that could be waited for.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        db.stack().resume_vault().await.expect("resume");
                    };
                    tokio::join!(cut(call(), place), resume).0
                }
                _ => cut(call(), place).await,
            };
            server.end(db, &policy).await;
            done_by_time = matches!(place, Cut::After(_)) && done.is_some();
            // There is no end to wait for.
            let long = matches!(place, Cut::After(time) if time > Duration::from_millis(4));
            check(&what, done).await;
            if done_by_time || (long && server == Server::DoesNotAnswer) {
                break;
            }
        }
        assert!(done_by_time || server == Server::DoesNotAnswer, "{what}, {server:?}: no end");
    }
}

#[tokio::test]
async fn i9_a_login_to_the_server_that_is_dropped_leaves_no_token_and_no_task() {
    let stack = own_stack().await;
    let db = database(&stack).await;
    let base = tasks();
    let secret_id = db.secret_id().await.expect("secret_id");
    let call = async || {
        let auth = leasehold_vault::Auth::approle(db.role_id(), secret_id.as_str());
        Session::login(patient(&db), auth).await
    };
    in_all_states("login", &db, call, async |what, done| {
        if let Some(Ok(session)) = done {
            // Begun, and not stopped.
            assert!(cut(session.close(), Cut::Polls(1)).await.is_none());
        }
        are_there(&db, what, 0, 0).await;
    })
    .await;
    until(|| tasks() <= base).await;
}

#[tokio::test]
async fn i7_a_mint_that_is_dropped_runs_to_its_end_and_is_given_back() {
    let stack = own_stack().await;
    let db = database(&stack).await;
    let base = tasks();
    let session = Session::login(patient(&db), approle(&db).await).await.expect("login");
    let source = session.dynamic_role(db.mount(), db.role());
    in_all_states(
        "issue",
        &db,
        async || source.issue().await,
        async |what, done| {
            if let Some(Ok(issued)) = done {
                source.revoke(&issued.lease, RevokeMode::Sync).await.expect("revoke");
            }
            are_there(&db, what, 1, 0).await;
        },
    )
    .await;
    // Any other call goes on with what there is.
    let issued = source.issue().await.expect("issue");
    let renew = async || source.renew(&issued.lease, Duration::from_secs(3600)).await;
    in_all_states("renew", &db, renew, async |what, _| {
        source.renew(&issued.lease, Duration::from_secs(3600)).await.expect(what);
        are_there(&db, what, 1, 1).await;
    })
    .await;
    let ask = async || source.privileges().await;
    in_all_states("privileges", &db, ask, async |what, _| {
        assert_eq!(source.privileges().await.expect(what), []);
    })
    .await;
    let ask = async || session.health().await;
    in_all_states("health", &db, ask, async |what, _| {
        assert!(session.health().await.reachable, "{what}");
    })
    .await;
    looks_may_be_dropped(&session, &db, issued.lease.id.as_deref().expect("an id")).await;
    let revoke = async || source.revoke(&issued.lease, RevokeMode::Sync).await;
    in_all_states("revoke", &db, revoke, async |what, _| {
        source.revoke(&issued.lease, RevokeMode::Sync).await.expect(what);
        are_there(&db, what, 1, 0).await;
    })
    .await;
    cut(source.close(), Cut::Polls(0)).await;
    are_there(&db, "a close that was not begun", 1, 0).await;
    assert!(cut(source.close(), Cut::Polls(1)).await.is_none(), "it takes a request");
    are_there(&db, "closed", 0, 0).await;
    drop((issued, source, session));
    until(|| tasks() <= base).await;
}

#[tokio::test]
async fn i7_one_login_that_is_dropped_leaves_neither_token_nor_lease() {
    let stack = own_stack().await;
    let db = database(&stack).await;
    let base = tasks();
    let secret_id = db.secret_id().await.expect("secret_id");
    let call = async || {
        let auth = leasehold_vault::Auth::approle(db.role_id(), secret_id.as_str());
        once(patient(&db), auth, db.mount(), db.role()).await
    };
    in_all_states("once", &db, call, async |what, done| {
        if let Some(Ok(login)) = done {
            // Begun at once, and not stopped.
            assert!(cut(login.end(), Cut::Polls(1)).await.is_none(), "{what}");
        }
        are_there(&db, what, 0, 0).await;
    })
    .await;
    until(|| tasks() <= base).await;
}

#[tokio::test]
async fn sources_that_only_read_may_be_dropped_at_any_point() {
    let stack = own_stack().await;
    let db = database(&stack).await;
    let base = tasks();
    let kv = json!({ "type": "kv", "options": { "version": "2" } });
    stack.vault_request("POST", "sys/mounts/kv", Some(kv)).await.expect("mount");
    let login = json!({ "data": { "username": "app", "password": "of-the-kv-engine" } });
    let (status, reply) =
        stack.vault_request("POST", "kv/data/app", Some(login)).await.expect("write");
    assert_eq!(status, 200, "{reply}");
    let session = Session::login(patient(&db), approle(&db).await).await.expect("login");
    let source = session.kv2("kv", "app").check_every(Duration::from_secs(1));
    in_all_states(
        "kv",
        &db,
        async || source.issue().await,
        async |what, _| {
            assert_eq!(source.issue().await.expect(what).credential.username(), "app");
        },
    )
    .await;
    let ask = async || source.privileges().await;
    in_all_states("privileges", &db, ask, async |what, _| {
        source.privileges().await.expect(what);
    })
    .await;
    for place in places().take(8) {
        assert!(cut(source.changed(), place).await.is_none(), "it has not changed");
    }
    let none = session.static_role(db.mount(), "none");
    in_all_states(
        "static",
        &db,
        async || none.issue().await,
        async |what, _| {
            assert!(none.issue().await.is_err(), "{what}: there is none");
        },
    )
    .await;
    let ask = async || none.privileges().await;
    in_all_states("privileges", &db, ask, async |what, _| {
        none.privileges().await.expect(what);
    })
    .await;
    none.close().await;
    source.close().await;
    are_there(&db, "closed", 0, 0).await;
    drop((none, source, session));
    until(|| tasks() <= base).await;
}

#[tokio::test]
async fn what_is_asked_of_transit_may_be_dropped_at_any_point() {
    let stack = own_stack().await;
    let tokens = AppRoleSpec::new().token_ttl(Duration::from_secs(3600));
    let policy = "path \"transit/*\" { capabilities = [\"update\"] }";
    let spec = DatabaseSpec::new("cut").app_role(tokens.extra_policy(policy));
    let db = stack.database(spec).await.expect("database");
    let base = tasks();
    let write = async |path, body| {
        let (status, reply) = stack.vault_request("POST", path, Some(body)).await.expect("it");
        assert!(status < 300, "{path}: {status} {reply}");
    };
    write("sys/mounts/transit", json!({ "type": "transit" })).await;
    write("transit/keys/orders", json!({})).await;
    write("transit/keys/signs", json!({ "type": "ed25519" })).await;
    let session = Session::login(patient(&db), approle(&db).await).await.expect("login");
    let (key, signs) =
        (session.transit("transit").key("orders"), session.transit("transit").key("signs"));
    let stored = key.encrypt("plain").await.expect("encrypt");
    let (hmac, signature) =
        (key.hmac("m").await.expect("hmac"), signs.sign("m").await.expect("sign"));
    macro_rules! each {
        ($($name:literal: $call:expr;)*) => {$(
            let ask = async || $call;
            in_all_states($name, &db, ask, async |what, _| {
                ask().await.expect(what);
            })
            .await;
        )*};
    }
    each! {
        "encrypt": key.encrypt("plain").await;
        "encrypt_batch": key.encrypt_batch(["a", "b"]).await;
        "decrypt": key.decrypt(&stored).await;
        "decrypt_batch": key.decrypt_batch([&stored, &stored]).await;
        "rewrap": key.rewrap(&stored).await;
        "rewrap_batch": key.rewrap_batch([&stored, &stored]).await;
        "hmac": key.hmac("m").await;
        "verify_hmac": key.verify_hmac("m", &hmac).await;
        "sign": signs.sign("m").await;
        "verify": signs.verify("m", &signature).await;
    }
    session.close().await;
    are_there(&db, "closed", 0, 0).await;
    drop((key, signs, session));
    until(|| tasks() <= base).await;
}

/// What was dropped was done or not, and hinders nobody who does it again.
#[tokio::test]
async fn settings_are_read_and_written_after_any_of_it_was_dropped() {
    let stack = own_stack().await;
    let rights = "path \"kv/*\" { capabilities = \
                  [\"create\", \"read\", \"update\", \"patch\", \"delete\", \"list\"] }";
    let tokens = AppRoleSpec::new().token_ttl(Duration::from_secs(3600)).extra_policy(rights);
    let db = stack.database(DatabaseSpec::new("cutkv").app_role(tokens)).await.expect("database");
    mount_kv(&stack, "kv", 2).await;
    let base = tasks();
    let session = Session::login(patient(&db), approle(&db).await).await.expect("login");
    let kv = session.kv2_store("kv");
    let value = json!({ "a": "1" });
    for path in ["app", "gone"] {
        kv.write(path, &value, WriteIf::New).await.expect("written");
    }
    // One is kept, so that there is something to be deleted besides.
    kv.write("app", &value, WriteIf::Version(1)).await.expect("written");
    let cache = kv.cached(Duration::ZERO).patience(LONG);
    let whole = |answers: Vec<Result<_, _>>| answers.into_iter().collect::<Result<Vec<_>, _>>();
    macro_rules! each {
        ($($name:literal: $call:expr;)*) => {$(
            in_all_states($name, &db, async || $call, async |what, _| {
                $call.expect(what);
            })
            .await;
        )*};
    }
    each! {
        "read": kv.read::<Value>("app").await;
        "read_version": kv.read_version::<Value>("app", 1).await;
        "read_many": whole(kv.read_many::<Value>(["app", "gone", "app"]).await);
        "read_or_env": kv.read_or_env::<Value>("app", "CARGO_PKG_").await;
        "list": kv.list("").await;
        "metadata": kv.metadata("app").await;
        "load": kv.loader().keys("app").section("b", "gone").load::<Value>().await;
        "watch": kv.watch::<Value>("app").expect("a path").changed().await;
        "write": kv.write("app", &value, WriteIf::Always).await;
        "patch": kv.patch("app", &value, WriteIf::Always).await;
        "delete": kv.delete("gone").await;
        "delete_versions": kv.delete_versions("gone", &[1]).await;
        "undelete": kv.undelete("gone", &[1]).await;
        "destroy": kv.destroy("gone", &[1]).await;
        "delete_all": kv.delete_all("gone").await;
    }
    // Its request goes on, and may be refused yet when the next one asks.
    let answers = async |what: &str| {
        eventually(what, LONG, async || Ok(cache.read::<Value>("app").await.is_ok()))
            .await
            .expect(what);
    };
    let read = async || cache.read::<Value>("app").await;
    in_all_states("cached", &db, read, async |what, _| answers(what).await).await;
    let read = async || cache.read_version::<Value>("app", 1).await;
    in_all_states("cached version", &db, read, async |what, _| answers(what).await).await;
    // With an expectation it is written once, whoever sees it.
    in_all_states(
        "write if",
        &db,
        async || kv.write("once", &value, WriteIf::New).await,
        async |what, _| {
            let again = kv.write("once", &value, WriteIf::New).await;
            let seen = kv.read::<Value>("once").await.expect(what);
            assert_eq!(seen.version, Some(1), "{what}: {again:?}");
            kv.delete_all("once").await.expect(what);
        },
    )
    .await;
    are_there(&db, "only read and written", 1, 0).await;
    session.close().await;
    are_there(&db, "closed", 0, 0).await;
    drop((cache, kv, session));
    until(|| tasks() <= base).await;
}

/// Each public async function, and where it is dropped.
const COVERED: &[(&str, &str)] = &[
    ("dynamic.rs", "privileges"),
    ("inspect.rs", "lease"),
    ("inspect.rs", "leases"),
    ("inspect.rs", "look"),
    ("inspect.rs", "mounted"),
    ("inspect.rs", "read"),
    ("inspect.rs", "renew_token"),
    ("inspect.rs", "token"),
    ("kv.rs", "privileges"),
    ("kv_entries.rs", "kv2_entries"),
    ("kv_entries.rs", "kv2_write"),
    ("kv_entries.rs", "kv_mount"),
    ("kv_store/cache.rs", "read"),
    ("kv_store/cache.rs", "read_version"),
    ("kv_store/loader.rs", "load"),
    ("kv_store/mod.rs", "list"),
    ("kv_store/mod.rs", "metadata"),
    ("kv_store/mod.rs", "read"),
    ("kv_store/mod.rs", "read_many"),
    ("kv_store/mod.rs", "read_or_env"),
    ("kv_store/mod.rs", "read_version"),
    ("kv_store/watch.rs", "changed"),
    ("kv_store/write.rs", "delete"),
    ("kv_store/write.rs", "delete_all"),
    ("kv_store/write.rs", "delete_versions"),
    ("kv_store/write.rs", "destroy"),
    ("kv_store/write.rs", "patch"),
    ("kv_store/write.rs", "undelete"),
    ("kv_store/write.rs", "write"),
    ("once.rs", "once"),
    ("session.rs", "close"),
    ("session.rs", "health"),
    ("session.rs", "login"),
    ("static_role.rs", "privileges"),
    ("transit/mod.rs", "decrypt"),
    ("transit/mod.rs", "decrypt_batch"),
    ("transit/mod.rs", "encrypt"),
    ("transit/mod.rs", "encrypt_batch"),
    ("transit/mod.rs", "hmac"),
    ("transit/mod.rs", "rewrap"),
    ("transit/mod.rs", "rewrap_batch"),
    ("transit/mod.rs", "sign"),
    ("transit/mod.rs", "verify"),
    ("transit/mod.rs", "verify_hmac"),
];

/// What the command line asks: each answers after it was dropped as it did before.
async fn looks_may_be_dropped(session: &Session, db: &TestDb, lease: &str) {
    macro_rules! each {
        ($($name:literal: $call:expr;)*) => {$(
            let ask = async || $call;
            let before = format!("{:?}", ask().await.map(drop).map_err(|e| e.kind()));
            in_all_states($name, db, ask, async |what, _| {
                let after = format!("{:?}", ask().await.map(drop).map_err(|e| e.kind()));
                assert_eq!(before, after, "{what}");
            })
            .await;
        )*};
    }
    let (mount, entries) = (db.mount(), Entries::default());
    each! {
        "token": inspect::token(session).await;
        "renew_token": inspect::renew_token(session, Duration::from_secs(60)).await;
        "read": inspect::read::<serde_json::Value>(session, "auth/token/lookup-self").await;
        "mounted": inspect::mounted(session, mount).await;
        "leases": inspect::leases(session, mount).await;
        "lease": inspect::lease(session, lease).await;
        "kv_mount": session.kv_mount(mount).await;
        "kv2_entries": session.kv2_entries(mount, "apps/orders").await;
        "kv2_write": session.kv2_write(mount, "apps/orders", &entries).await;
    }
    let config = VaultConfig::new(db.vault_addr());
    let look = async || inspect::look(&config).await;
    in_all_states("look", db, look, async |what, _| {
        assert!(inspect::look(&config).await.expect(what).health.reachable, "{what}");
    })
    .await;
}

#[test]
fn every_public_async_function_has_its_test() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("source text");
            let file = path.strip_prefix(&src).expect("below it").display().to_string();
            for (at, _) in text.match_indices("pub async fn ") {
                let name = text[at + 13..].split(['(', '<']).next().unwrap_or_default();
                found.insert((file.clone(), name.to_owned()));
            }
        }
    }
    let covered: BTreeSet<_> =
        COVERED.iter().map(|(file, name)| (file.to_string(), name.to_string())).collect();
    assert_eq!(found, covered, "each is dropped at every await by a test here, and listed");
}
