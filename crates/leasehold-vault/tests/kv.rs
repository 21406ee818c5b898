//! KV engines as stores of an application's settings, against real servers. The table of
//! `docs/kv.md` is made of these.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::kv::{mount_kv, root, with_kv};
use common::{approle, config, own_stack, session};
use leasehold::ErrorKind;
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, TestDb};
use leasehold_vault::{
    KvError, KvLoader, KvOrigin, KvStore, KvVersionState, Session, VaultConfig, WriteIf,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const S: Duration = Duration::from_secs(1);
/// Longer than anything takes on a slow machine.
const LONG: Duration = Duration::from_secs(60);

const ALL: &str = "path \"{{kv}}/*\" { capabilities = \
                   [\"create\", \"read\", \"update\", \"patch\", \"delete\", \"list\"] }";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Smtp {
    host: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

fn smtp(port: u16) -> Smtp {
    Smtp { host: "mail".to_owned(), port, password: Some("hunter2-of-smtp".to_owned()) }
}

async fn store(name: &str, rights: &str) -> (common::capture::Checked, KvStore, String) {
    let (db, mount) = with_kv(name, 2, rights).await;
    let kv = session(&db).await.kv2_store(&mount);
    (db, kv, mount)
}

/// A server of a test's own, to be broken, with a store of the engine at `kv`.
async fn breakable(name: &str) -> (common::capture::CheckedStack, TestDb, Session) {
    let stack = own_stack().await;
    mount_kv(&stack, "kv", 2).await;
    let policy = ALL.replace("{{kv}}", "kv");
    let spec = DatabaseSpec::new(name).app_role(AppRoleSpec::new().extra_policy(policy));
    let db = stack.database(spec).await.expect("database");
    let patient = config(&db).request_timeout(LONG);
    let session = Session::login(patient, approle(&db).await).await.expect("login");
    (stack, db, session)
}

#[track_caller]
fn says(e: &KvError, parts: &[&str]) {
    let told = format!("{e}");
    for part in parts {
        assert!(told.contains(part), "{part:?} in {told:?}");
    }
    assert!(!told.contains('\n'), "one line: {told}");
    assert!(!format!("{e:?} {told}").contains("hunter2"), "I10: {e:?}");
}

#[tokio::test]
async fn a_secret_that_is_missing_is_named() {
    let (_db, kv, mount) = store("kvmissing", ALL).await;
    let path = format!("{mount}/data/shop/smtp");
    let e = kv.read::<Smtp>("shop/smtp").await.expect_err("nothing there");
    assert!(matches!(&e, KvError::Missing { path: p, version: None } if *p == path), "{e:?}");
    says(&e, &[&path, "no such secret"]);
    kv.write("shop/smtp", &smtp(25), WriteIf::New).await.expect("written");
    let e = kv.read_version::<Smtp>("shop/smtp", 9).await.expect_err("never written");
    assert!(matches!(e, KvError::Missing { version: Some(9), .. }), "{e:?}");
    let e = kv.metadata("none").await.expect_err("nothing there");
    assert!(matches!(e, KvError::Missing { .. }), "{e:?}");
    let e = kv.patch("none", &json!({ "a": 1 }), WriteIf::Always).await.expect_err("no patch");
    assert!(matches!(e, KvError::Missing { .. }), "{e:?}");
    assert_eq!(kv.list("nowhere").await.expect("listed"), [""; 0]);
}

#[tokio::test]
async fn a_mount_that_is_not_there_is_no_missing_secret() {
    let (db, mount) = with_kv("kvmount", 2, ALL).await;
    let anything = "path \"*\" { capabilities = [\"read\"] }";
    db.set_policy(anything).await.expect("policy");
    let session = session(&db).await;
    let e = session.kv2_store("elsewhere").read::<Smtp>("a").await.expect_err("no engine");
    assert!(matches!(&e, KvError::Refused(e) if e.kind() == ErrorKind::NotFound), "{e:?}");
    says(&e, &["elsewhere/data/a", "no handler"]);
    // The engine is there, and has versions.
    let e = session.kv1_store(&mount).read::<Smtp>("x").await.expect_err("of version 2");
    assert!(matches!(&e, KvError::Refused(e) if e.kind() == ErrorKind::NotFound), "{e:?}");
}

#[tokio::test]
async fn a_version_that_was_deleted_is_told_with_its_time_and_can_be_had_back() {
    let (_db, kv, mount) = store("kvdeleted", ALL).await;
    kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written");
    kv.write("smtp", &smtp(26), WriteIf::Always).await.expect("written");
    kv.delete("smtp").await.expect("deleted");
    let e = kv.read::<Smtp>("smtp").await.expect_err("deleted");
    assert!(matches!(e, KvError::Deleted { version: 2, at: Some(_), .. }), "{e:?}");
    says(&e, &[&format!("{mount}/data/smtp"), "version 2 was deleted at 20", "undelete"]);
    let e = kv.patch("smtp", &json!({ "port": 1 }), WriteIf::Always).await.expect_err("deleted");
    assert!(matches!(e, KvError::Deleted { version: 2, .. }), "{e:?}");
    // The one before it is there all the same.
    assert_eq!(kv.read_version::<Smtp>("smtp", 1).await.expect("kept").value, smtp(25));
    let known = kv.metadata("smtp").await.expect("metadata");
    assert_eq!((known.current_version, known.versions.len()), (2, 2));
    assert!(matches!(known.versions[&2].state, KvVersionState::Deleted(_)), "{known:?}");
    assert_eq!(known.versions[&1].state, KvVersionState::Live(None));

    kv.undelete("smtp", &[2]).await.expect("undeleted");
    let back = kv.read::<Smtp>("smtp").await.expect("had back");
    assert_eq!((back.version, back.value), (Some(2), smtp(26)));
    kv.delete_versions("smtp", &[1]).await.expect("deleted");
    let e = kv.read_version::<Smtp>("smtp", 1).await.expect_err("deleted");
    assert!(matches!(e, KvError::Deleted { version: 1, .. }), "{e:?}");
    assert_eq!(kv.read::<Smtp>("smtp").await.expect("the other one").version, Some(2));
}

#[tokio::test]
async fn a_version_that_ends_by_itself_is_there_until_then() {
    let (db, kv, mount) = store("kvends", ALL).await;
    let ends = json!({ "delete_version_after": "1h" });
    root(&db, "POST", &format!("{mount}/metadata/smtp"), ends).await;
    kv.write("smtp", &smtp(25), WriteIf::Always).await.expect("written");
    assert_eq!(kv.read::<Smtp>("smtp").await.expect("there").version, Some(1));
    let known = kv.metadata("smtp").await.expect("metadata");
    assert!(matches!(known.versions[&1].state, KvVersionState::Live(Some(_))), "{known:?}");
    let mut watch = kv.watch::<Smtp>("smtp").expect("a path").check_every(S);
    watch.changed().await.expect("there");
    assert!(tokio::time::timeout(3 * S, watch.changed()).await.is_err(), "no news");
}

#[tokio::test]
async fn a_version_that_was_destroyed_is_told_from_one_that_was_deleted() {
    let (_db, kv, mount) = store("kvdestroyed", ALL).await;
    kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written");
    kv.destroy("smtp", &[1]).await.expect("destroyed");
    let e = kv.read::<Smtp>("smtp").await.expect_err("destroyed");
    assert!(matches!(e, KvError::Destroyed { version: 1, .. }), "{e:?}");
    says(&e, &[&format!("{mount}/data/smtp"), "version 1 was destroyed"]);
    let e = kv.patch("smtp", &json!({ "port": 1 }), WriteIf::Always).await.expect_err("destroyed");
    assert!(matches!(e, KvError::Destroyed { version: 1, .. }), "{e:?}");
    let known = kv.metadata("smtp").await.expect("metadata");
    assert_eq!(known.versions[&1].state, KvVersionState::Destroyed);
    kv.delete_all("smtp").await.expect("removed");
    let e = kv.read::<Smtp>("smtp").await.expect_err("nothing there");
    assert!(matches!(e, KvError::Missing { .. }), "{e:?}");
}

#[tokio::test]
async fn a_write_that_expects_another_version_changes_nothing() {
    let (db, kv, mount) = store("kvcas", ALL).await;
    assert_eq!(kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written"), Some(1));
    let e = kv.write("smtp", &smtp(26), WriteIf::New).await.expect_err("there");
    assert!(matches!(e, KvError::CasConflict { expected: 0, .. }), "{e:?}");
    assert_eq!(kv.write("smtp", &smtp(26), WriteIf::Version(1)).await.expect("written"), Some(2));
    for e in [
        kv.write("smtp", &smtp(27), WriteIf::Version(1)).await.expect_err("written meanwhile"),
        kv.patch("smtp", &json!({ "port": 27 }), WriteIf::Version(1)).await.expect_err("the same"),
    ] {
        assert!(matches!(e, KvError::CasConflict { expected: 1, .. }), "{e:?}");
        says(&e, &[&format!("{mount}/data/smtp"), "not 1 any more"]);
    }
    assert_eq!(kv.read::<Smtp>("smtp").await.expect("read").value.port, 26);

    root(&db, "POST", &format!("{mount}/metadata/smtp"), json!({ "cas_required": true })).await;
    let e = kv.write("smtp", &smtp(28), WriteIf::Always).await.expect_err("a version is wanted");
    assert!(matches!(e, KvError::CasRequired { .. }), "{e:?}");
    says(&e, &["without an expected version"]);
    assert!(kv.metadata("smtp").await.expect("metadata").cas_required);
    kv.write("smtp", &smtp(28), WriteIf::Version(2)).await.expect("written");
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_null_removes() {
    let (_db, kv, _mount) = store("kvpatch", ALL).await;
    kv.write("smtp", &smtp(25), WriteIf::Always).await.expect("written");
    let next = kv.patch("smtp", &json!({ "port": 465 }), WriteIf::Version(1)).await;
    assert_eq!(next.expect("patched"), 2);
    assert_eq!(kv.read::<Smtp>("smtp").await.expect("read").value, smtp(465));
    kv.patch("smtp", &json!({ "password": null }), WriteIf::Always).await.expect("patched");
    assert_eq!(kv.read::<Smtp>("smtp").await.expect("read").value.password, None);
}

#[tokio::test]
async fn what_is_sealed_or_gone_heals_and_says_so() {
    let (stack, _db, session) = breakable("kvsealed").await;
    let kv = session.kv2_store("kv");
    kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written");
    stack.seal_vault().await.expect("seal");
    for e in [
        kv.read::<Smtp>("smtp").await.expect_err("sealed"),
        kv.write("smtp", &smtp(26), WriteIf::Version(1)).await.expect_err("sealed"),
    ] {
        assert!(matches!(&e, KvError::Unavailable(e) if e.kind() == ErrorKind::Sealed), "{e:?}");
        assert!(e.is_transient());
        says(&e, &["kv/data/smtp", "sealed"]);
    }
    stack.unseal_vault().await.expect("unseal");
    assert_eq!(kv.read::<Smtp>("smtp").await.expect("back").version, Some(1));
    stack.stop_vault().await.expect("stop");
    let e = kv.read::<Smtp>("smtp").await.expect_err("gone");
    assert!(matches!(&e, KvError::Unavailable(e) if e.kind() == ErrorKind::Unreachable), "{e:?}");
}

#[tokio::test]
async fn what_the_policy_denies_names_the_right_that_is_missing() {
    let (_db, kv, mount) = store("kvdenied", "").await;
    let denied = [
        (kv.read::<Smtp>("smtp").await.map(drop), "`read` on {}/data/smtp"),
        (
            kv.write("smtp", &smtp(1), WriteIf::New).await.map(drop),
            "`create` and `update` on {}/data",
        ),
        (kv.patch("smtp", &smtp(1), WriteIf::Always).await.map(drop), "`patch` on {}/data/smtp"),
        (kv.delete("smtp").await, "`delete` on {}/data/smtp"),
        (kv.list("").await.map(drop), "`list` on {}/metadata/"),
        (kv.metadata("smtp").await.map(drop), "`read` on {}/metadata/smtp"),
        (kv.destroy("smtp", &[1]).await, "`update` on {}/destroy/smtp"),
    ];
    for (answer, right) in denied {
        let e = answer.expect_err(right);
        assert!(matches!(&e, KvError::Denied(e) if e.kind() == ErrorKind::Denied), "{e:?}");
        says(&e, &[&right.replace("{}", &mount)]);
        assert!(!e.is_transient(), "a person has to mend it");
    }
}

#[tokio::test]
async fn a_cache_answers_through_an_outage_and_says_how_old_the_answer_is() {
    let (stack, db, session) = breakable("kvstale").await;
    let kv = session.kv2_store("kv");
    kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written");
    kv.write("old", &smtp(24), WriteIf::New).await.expect("written");
    let cache = kv.cached(Duration::ZERO).patience(LONG);
    let strict = kv.cached(Duration::ZERO).max_stale(Duration::ZERO).patience(LONG);
    let fresh = cache.read::<Smtp>("smtp").await.expect("read");
    assert!(matches!(fresh.origin, KvOrigin::Server) && fresh.version == Some(1), "{fresh:?}");
    cache.read_version::<Smtp>("old", 1).await.expect("read");
    strict.read::<Smtp>("smtp").await.expect("read");

    stack.seal_vault().await.expect("seal");
    let mut last = Duration::ZERO;
    for _ in 0..3 {
        let stale = cache.read::<Smtp>("smtp").await.expect("an old answer");
        assert_eq!((&stale.value, stale.version), (&smtp(25), Some(1)));
        assert!(stale.is_stale() && stale.age > last, "{stale:?}");
        let KvOrigin::Stale(KvError::Unavailable(why)) = &stale.origin else { panic!("{stale:?}") };
        assert_eq!(why.kind(), ErrorKind::Sealed);
        last = stale.age;
    }
    assert!(cache.read_version::<Smtp>("old", 1).await.expect("an old answer").is_stale());
    // What was never read is not made up, and what is too old is not given.
    for e in [
        cache.read::<Smtp>("never").await.expect_err("nothing of before"),
        strict.read::<Smtp>("smtp").await.expect_err("too old"),
    ] {
        assert!(matches!(e, KvError::Unavailable(_)), "{e:?}");
    }
    // However many ask: one request, and then a pause that grows.
    let before = session.calls().read;
    for _ in 0..200 {
        cache.read::<Smtp>("smtp").await.expect("an old answer");
    }
    let asked = session.calls().read - before;
    assert!(asked < 50, "{asked} requests");

    stack.unseal_vault().await.expect("unseal");
    kv.write("smtp", &smtp(26), WriteIf::Version(1)).await.expect("written");
    leasehold_testkit::eventually("a new answer", LONG, async || {
        let now = cache.read::<Smtp>("smtp").await.expect("an answer");
        Ok(!now.is_stale() && now.version == Some(2))
    })
    .await
    .expect("by itself");

    // A server that answers is believed.
    kv.delete("smtp").await.expect("deleted");
    let e = cache.read::<Smtp>("smtp").await.expect_err("deleted");
    assert!(matches!(e, KvError::Deleted { version: 2, .. }), "{e:?}");
    db.set_policy("# nothing").await.expect("policy");
    // Not asked for since the outage: its pause may not be over.
    leasehold_testkit::eventually("denied", LONG, async || {
        let read = cache.read_version::<Smtp>("old", 1).await;
        Ok(matches!(read, Err(KvError::Denied(_))))
    })
    .await
    .expect("believed");
    stack.seal_vault().await.expect("seal");
    assert!(cache.read::<Smtp>("smtp").await.is_err(), "what was deleted is forgotten");
    assert!(cache.read_version::<Smtp>("old", 1).await.is_err(), "and what was denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_asks_once_for_all_and_not_again_while_the_answer_is_young() {
    let (stack, _db, session) = breakable("kvyoung").await;
    let kv = session.kv2_store("kv");
    kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written");
    let cache = kv.cached(LONG * 60);
    let before = session.calls().read;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let cache = cache.clone();
        all.spawn(async move { cache.read::<Smtp>("smtp").await });
    }
    while let Some(read) = all.join_next().await {
        assert_eq!(read.expect("no panic").expect("read").value, smtp(25));
    }
    assert_eq!(session.calls().read - before, 1);
    let young = cache.read::<Smtp>("smtp").await.expect("kept");
    assert!(matches!(young.origin, KvOrigin::Memory) && !young.is_stale(), "{young:?}");
    // Another type of the same, from the same answer; and what it lacks is told.
    let same = cache.read::<HashMap<String, Value>>("smtp").await.expect("kept");
    assert_eq!(same.value["port"], 25);
    let e = cache.read::<HashMap<String, u8>>("smtp").await.expect_err("another type");
    says(&e, &["`host`", "u8"]);
    assert_eq!(session.calls().read - before, 1);
    kv.write("smtp", &smtp(26), WriteIf::Version(1)).await.expect("written");
    assert_eq!(cache.read::<Smtp>("smtp").await.expect("kept").version, Some(1));
    cache.forget("smtp");
    assert_eq!(cache.read::<Smtp>("smtp").await.expect("asked for").version, Some(2));

    // With an old answer at hand nobody waits for a server that does not answer.
    let quick = kv.cached(Duration::ZERO).patience(Duration::from_millis(10));
    assert!(!quick.read::<Smtp>("smtp").await.expect("a first answer").is_stale());
    stack.pause_vault().await.expect("pause");
    let before = session.calls().read;
    for _ in 0..5 {
        let stale = quick.read::<Smtp>("smtp").await.expect("an old answer");
        let KvOrigin::Stale(KvError::Unavailable(why)) = &stale.origin else { panic!("{stale:?}") };
        assert_eq!(why.kind(), ErrorKind::Timeout);
        assert!(why.to_string().contains("no answer yet"), "nobody waits for its timeout: {why}");
    }
    assert_eq!(session.calls().read - before, 1, "and one request is waited for by all");
    stack.resume_vault().await.expect("resume");
}

#[tokio::test]
async fn a_watch_yields_each_change_once_and_errors_are_news_too() {
    let (db, kv, mount) = store("kvwatch", ALL).await;
    kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written");
    let mut watch = kv.watch::<Smtp>("smtp").expect("a path").check_every(S);
    let mut next = async || tokio::time::timeout(LONG, watch.changed()).await.expect("news");
    assert_eq!(next().await.expect("as it is").version, Some(1));
    kv.write("smtp", &smtp(26), WriteIf::Version(1)).await.expect("written");
    let now = next().await.expect("changed");
    assert_eq!((now.version, now.value.port), (Some(2), 26));
    kv.delete("smtp").await.expect("deleted");
    let e = next().await.expect_err("deleted");
    assert!(matches!(e, KvError::Deleted { version: 2, .. }), "{e:?}");
    kv.undelete("smtp", &[2]).await.expect("undeleted");
    assert_eq!(next().await.expect("had back").version, Some(2));
    kv.write("smtp", &json!({ "host": "hunter2" }), WriteIf::Always).await.expect("written");
    let e = next().await.expect_err("half of it");
    says(&e, &[&format!("{mount}/data/smtp, version 3"), "`port` is missing"]);
    kv.delete_all("smtp").await.expect("removed");
    let e = next().await.expect_err("removed");
    assert!(matches!(e, KvError::Missing { .. }), "{e:?}");
    kv.write("smtp", &smtp(27), WriteIf::New).await.expect("written");
    assert_eq!(next().await.expect("anew").value.port, 27);

    // Without the right to metadata the secret is read, and looked at no more often.
    let data = format!("path \"{mount}/data/*\" {{ capabilities = [\"read\"] }}");
    db.set_policy(&data).await.expect("policy");
    assert!(tokio::time::timeout(3 * S, watch.changed()).await.is_err(), "no news");
    root(&db, "POST", &format!("{mount}/data/smtp"), json!({ "data": smtp(28) })).await;
    let now = tokio::time::timeout(LONG, watch.changed()).await.expect("news").expect("changed");
    assert_eq!(now.value.port, 28);
}

#[tokio::test]
async fn a_watch_goes_on_through_an_outage() {
    let (stack, _db, session) = breakable("kvwatchout").await;
    let kv = session.kv2_store("kv");
    kv.write("smtp", &smtp(25), WriteIf::New).await.expect("written");
    let mut watch = kv.watch::<Smtp>("smtp").expect("a path").check_every(S);
    watch.changed().await.expect("as it is");
    stack.seal_vault().await.expect("seal");
    assert!(tokio::time::timeout(4 * S, watch.changed()).await.is_err(), "no news");
    stack.unseal_vault().await.expect("unseal");
    kv.write("smtp", &smtp(26), WriteIf::Version(1)).await.expect("written");
    // Dropped again and again, and yet it gets there.
    leasehold_testkit::eventually("the change is seen", LONG, async || {
        let wait = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        Ok(wait.is_ok_and(|news| news.expect("changed").version == Some(2)))
    })
    .await
    .expect("in pieces");
}

#[tokio::test]
async fn version_1_reads_writes_lists_deletes_and_watches_and_says_what_it_has_not_got() {
    let (db, mount) = with_kv("kvone", 1, ALL).await;
    let kv = session(&db).await.kv1_store(&mount);
    let e = kv.read::<Smtp>("shop/smtp").await.expect_err("nothing there");
    assert!(matches!(e, KvError::Missing { .. }), "{e:?}");
    assert_eq!(kv.write("shop/smtp", &smtp(25), WriteIf::Always).await.expect("written"), None);
    let read = kv.read::<Smtp>("shop/smtp").await.expect("read");
    assert_eq!((read.version, read.value), (None, smtp(25)));
    assert_eq!(kv.list("shop").await.expect("listed"), ["smtp"]);
    let mut watch = kv.watch::<Smtp>("shop/smtp").expect("a path").check_every(S);
    watch.changed().await.expect("as it is");
    assert!(tokio::time::timeout(3 * S, watch.changed()).await.is_err(), "no news");
    kv.write("shop/smtp", &smtp(26), WriteIf::Always).await.expect("written");
    let news = tokio::time::timeout(LONG, watch.changed()).await.expect("news").expect("changed");
    assert_eq!(news.value.port, 26);
    kv.delete("shop/smtp").await.expect("deleted");
    let e = watch.changed().await.expect_err("gone");
    assert!(matches!(e, KvError::Missing { .. }), "{e:?}");
    for e in [
        kv.read_version::<Smtp>("shop/smtp", 1).await.map(drop),
        kv.write("shop/smtp", &smtp(25), WriteIf::New).await.map(drop),
        kv.patch("shop/smtp", &smtp(25), WriteIf::Always).await.map(drop),
        kv.undelete("shop/smtp", &[1]).await,
        kv.delete_all("shop/smtp").await,
        kv.metadata("shop/smtp").await.map(drop),
    ] {
        let e = e.expect_err("no versions");
        assert!(matches!(e, KvError::NotVersioned { .. }), "{e:?}");
    }
}

#[tokio::test]
async fn many_secrets_come_in_their_order_each_with_an_answer_of_its_own() {
    let (_db, kv, _mount) = store("kvmany", ALL).await;
    let paths: Vec<String> = (0..100).map(|n| format!("tenant/{n}")).collect();
    for (port, path) in (0..).zip(&paths).filter(|(port, _)| port % 10 != 0) {
        kv.write(path, &smtp(port), WriteIf::New).await.expect("written");
    }
    let mut listed = kv.list("tenant").await.expect("listed");
    listed.sort();
    assert_eq!(listed.len(), 90);
    for (port, read) in (0..).zip(kv.read_many::<Smtp>(&paths).await) {
        match read {
            Ok(read) => assert_eq!(read.value.port, port),
            Err(e) => assert!(matches!(e, KvError::Missing { .. }) && port % 10 == 0, "{e:?}"),
        }
    }
    for bad in ["", "a//b", "a/../b", "."] {
        let e = kv.read::<Smtp>(bad).await.expect_err("no path");
        assert!(matches!(e, KvError::BadPath { .. }), "{bad:?}: {e:?}");
    }
    // Characters that begin another part of a URL are part of a name.
    kv.write("a b?version=1#c%2e", &smtp(7), WriteIf::New).await.expect("written");
    assert_eq!(kv.list("").await.expect("listed"), ["a b?version=1#c%2e", "tenant/", "x"]);
    assert_eq!(kv.read::<Smtp>("a b?version=1#c%2e").await.expect("read").value.port, 7);
}

/// Cargo sets variables with this prefix for tests, `CARGO_PKG_NAME` among them.
const SET: &str = "CARGO_PKG_";

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
}

#[derive(Debug, Deserialize)]
struct Settings {
    name: String,
    pkg: Package,
    #[serde(default)]
    retries: u8,
}

#[tokio::test]
async fn the_environment_stands_in_for_a_server_that_can_t_be_asked_and_for_nothing_else() {
    let (stack, _db, session) = breakable("kvenv").await;
    let capture = common::capture::Capture::global();
    let kv = session.kv2_store("kv");
    let e = kv.read_or_env::<Package>("pkg", SET).await.expect_err("the server has answered");
    assert!(matches!(e, KvError::Missing { .. }), "{e:?}");
    kv.write("pkg", &json!({ "name": "kept", "version": "1" }), WriteIf::New)
        .await
        .expect("written");
    let read = kv.read_or_env::<Package>("pkg", SET).await.expect("read");
    assert!(!read.is_from_environment() && read.value.name == "kept", "{read:?}");

    stack.seal_vault().await.expect("seal");
    let stood_in = kv.read_or_env::<Package>("pkg", SET).await.expect("from the environment");
    assert!(stood_in.is_from_environment() && stood_in.version.is_none(), "{stood_in:?}");
    assert_eq!(stood_in.value.name, env!("CARGO_PKG_NAME"));
    let KvOrigin::Environment(KvError::Unavailable(why)) = &stood_in.origin else {
        panic!("{stood_in:?}")
    };
    assert_eq!(why.kind(), ErrorKind::Sealed);
    let told = |part: &str| {
        let log = capture.text();
        log.lines().any(|line| line.contains("WARN") && line.contains(part))
    };
    assert!(told("environment variables CARGO_PKG_*") && told("kv/data/pkg"), "loud");
    let e = kv.read_or_env::<Package>("pkg", "NONE_OF_OURS_").await.expect_err("nowhere");
    assert!(matches!(e, KvError::Unavailable(_)), "{e:?}");
    assert!(told("`NONE_OF_OURS_NAME` is missing"), "what would have been needed");

    let loader = kv.loader().keys("app").section("pkg", "pkg").or_env("CARGO_");
    let e = loader.clone().load::<Settings>().await.expect_err("half of it");
    assert!(e.to_string().contains("`CARGO_NAME` is missing"), "{e}");
    assert!(!e.to_string().contains("CARGO_PKG_"), "the section is all there: {e}");
    stack.unseal_vault().await.expect("unseal");
    kv.write("app", &json!({ "name": "shop", "retries": "3" }), WriteIf::New)
        .await
        .expect("written");
    let loaded = loader.load::<Settings>().await.expect("loaded");
    assert_eq!((loaded.settings.name.as_str(), loaded.settings.retries), ("shop", 3));
    assert_eq!(loaded.settings.pkg.name, "kept");
    let versions: Vec<_> = loaded.sections.iter().map(|s| (s.path.as_str(), s.version)).collect();
    assert_eq!(versions, [("app", Some(1)), ("pkg", Some(1))]);
    assert!(loaded.sections.iter().all(|s| matches!(s.origin, KvOrigin::Server)));
}

#[tokio::test]
async fn without_a_server_at_all_settings_come_from_the_environment() {
    let nowhere = VaultConfig::new("http://127.0.0.1:1");
    let login = Session::login(nowhere, leasehold_vault::Auth::approle("role", "secret")).await;
    let why = login.expect_err("nobody there");
    let loader = KvLoader::offline(why.clone()).section("pkg", "shop/pkg").or_env("CARGO_");
    #[derive(Deserialize)]
    struct Only {
        pkg: Package,
    }
    let loaded = loader.load::<Only>().await.expect("from the environment");
    assert_eq!(loaded.settings.pkg.version, env!("CARGO_PKG_VERSION"));
    assert!(matches!(loaded.sections[0].origin, KvOrigin::Environment(_)));
    let loader = KvLoader::offline(why).section("pkg", "shop/pkg").keys("shop/b");
    let e = loader.load::<Only>().await.expect_err("no way");
    assert_eq!(e.problems.len(), 1, "said once: {e}");
}

#[tokio::test]
async fn one_error_lists_all_that_keeps_settings_from_being_loaded() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "never filled")]
    struct Shop {
        name: String,
        retries: u8,
        smtp: Smtp,
        cards: Package,
        gone: Package,
        dead: Package,
        denied: Package,
        nowhere: String,
    }
    let (db, kv, mount) = store("kvload", ALL).await;
    kv.write("app", &json!({ "name": "shop", "retries": "hunter2" }), WriteIf::New)
        .await
        .expect("written");
    kv.write("smtp", &json!({ "host": "mail", "password": "hunter2" }), WriteIf::New)
        .await
        .expect("written");
    for path in ["gone", "dead", "denied"] {
        kv.write(path, &json!({ "name": "hunter2", "version": "1" }), WriteIf::New)
            .await
            .expect("written");
    }
    kv.delete("gone").await.expect("deleted");
    kv.destroy("dead", &[1]).await.expect("destroyed");
    let rights = ALL.replace("{{kv}}", &mount);
    let rights = format!("{rights}\npath \"{mount}/data/denied\" {{ capabilities = [\"deny\"] }}");
    db.set_policy(&rights).await.expect("policy");

    let mut loader = kv.loader().keys("app");
    for section in ["smtp", "cards", "gone", "dead", "denied"] {
        loader = loader.section(section, section);
    }
    let e = loader.clone().load::<Shop>().await.expect_err("not all there");
    let told = e.to_string();
    for (path, what) in [
        ("app, version 1", "`retries` is text, and u8 is wanted"),
        ("app, version 1", "`nowhere` is missing"),
        ("smtp, version 1", "`port` is missing"),
        ("cards", "no such secret"),
        ("gone", "version 1 was deleted"),
        ("dead", "version 1 was destroyed"),
        ("denied", "`read` on"),
    ] {
        let path = format!("{mount}/data/{path}");
        let found = e.problems.iter().any(|problem| {
            let line = problem.to_string();
            line.contains(&path) && line.contains(what)
        });
        assert!(found, "{path} {what}: {told}");
    }
    assert_eq!(e.problems.len(), 6, "one for each secret: {told}");
    assert!(!format!("{told} {e:?}").contains("hunter2"), "I10: {told}");
    assert!(!told.contains('\n'), "one line: {told}");

    // The same key in two secrets is nobody's guess.
    kv.write("more", &json!({ "name": "other" }), WriteIf::New).await.expect("written");
    let twice = kv.loader().keys("app").keys("more").load::<HashMap<String, Value>>().await;
    let e = twice.expect_err("which of them");
    assert!(e.to_string().contains("more: `name` is there in another"), "{e}");
}
