//! Sources that change by themselves, on paused time.

#![allow(clippy::unwrap_used)]

mod common;

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use leasehold::hook::Proof;
use leasehold::{
    Address, Chain, Credential, CredentialSource, ErrorKind, Event, FileSource, FnSource, InForce,
    Issued, Lease, Observation, Reason, Refreshed, Rotator, SourceError, StaticSource,
};
use tokio::sync::watch;

/// A store of one login, with no lease: what it holds, and whether it says so.
#[derive(Clone, Debug)]
struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    login: watch::Sender<Credential>,
    /// What the last `issue` read.
    read: Mutex<Option<watch::Receiver<Credential>>>,
    ttl: Mutex<Option<Duration>>,
    fails: Mutex<Option<ErrorKind>>,
    tells: bool,
    reads: Mutex<Vec<tokio::time::Instant>>,
    /// Says "changed" whatever is asked.
    cries: bool,
}

impl Store {
    fn new(tells: bool, cries: bool) -> Self {
        Self(Arc::new(Inner {
            login: watch::Sender::new(Credential::new("app", "pw-1")),
            read: Mutex::default(),
            ttl: Mutex::default(),
            fails: Mutex::default(),
            tells,
            reads: Mutex::default(),
            cries,
        }))
    }

    fn put(&self, password: &str) {
        self.0.login.send_replace(Credential::new("app", password));
    }

    fn reads(&self) -> usize {
        self.0.reads.lock().unwrap().len()
    }
}

impl CredentialSource for Store {
    async fn issue(&self) -> Result<Issued, SourceError> {
        self.0.reads.lock().unwrap().push(tokio::time::Instant::now());
        tokio::time::sleep(ms(5)).await;
        let mut receiver = self.0.login.subscribe();
        let login = receiver.borrow_and_update().clone();
        *self.0.read.lock().unwrap() = Some(receiver);
        if let Some(kind) = *self.0.fails.lock().unwrap() {
            return Err(SourceError::new(kind, "scripted"));
        }
        let ttl = *self.0.ttl.lock().unwrap();
        Ok(Issued::new(login, ttl.map_or_else(Lease::endless, Lease::fixed)))
    }

    async fn changed(&self) {
        if self.0.cries {
            return;
        }
        let read = self.0.read.lock().unwrap().clone();
        match read {
            Some(mut read) if self.0.tells => drop(read.changed().await),
            _ => pending().await,
        }
    }
}

async fn start(source: impl CredentialSource) -> Rotator {
    Rotator::builder(source).clock(clock()).start().await.unwrap()
}

fn password(rotator: &Rotator) -> String {
    rotator.provider().current().credential().expose_password().to_owned()
}

#[tokio::test(start_paused = true)]
async fn news_of_the_source_is_proven_swapped_to_and_drained_gently() {
    let store = Store::new(true, false);
    let rotator = start(store.clone()).await;
    let pool = FakePool::attach(&rotator.provider());
    let mut events = rotator.provider().events();
    let begun = tokio::time::Instant::now();
    for n in 2..8 {
        store.put(&format!("pw-{n}"));
        assert_eq!(swapped(&mut events).await, (n, Reason::SourceChanged));
        assert_eq!(password(&rotator), format!("pw-{n}"));
    }
    assert_eq!(store.reads(), 7, "one read for each");
    assert!(begun.elapsed() < s(8), "a second apart, and no permit drawn: {:?}", begun.elapsed());
    assert_eq!(pool.proofs(), 6, "I5");
    assert!(rotator.shutdown(s(1)).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_always_has_news_is_asked_ever_more_slowly() {
    let store = Store::new(true, true);
    let rotator = start(store.clone()).await;
    let mut events = rotator.provider().events();
    tokio::time::sleep(s(60)).await;
    let first = store.reads();
    assert!((4..=8).contains(&first), "1, 2, 4 … 30 s apart: {first}");
    tokio::time::sleep(s(3000)).await;
    assert!(store.reads() - first <= 101, "each 30 s: {}", store.reads());
    assert_eq!(rotator.provider().current().number(), 1, "nothing changed");
    let unchanged = event(&mut events, |e| match e {
        Event::Unchanged { generation, reason } => Some((*generation, *reason)),
        _ => None,
    });
    assert_eq!(unchanged.await, (1, Reason::SourceChanged));
    // What is real is still found.
    store.put("pw-2");
    assert_eq!(swapped(&mut events).await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_login_again_is_not_swapped_and_its_time_is_taken_over() {
    let store = Store::new(false, false);
    *store.0.ttl.lock().unwrap() = Some(s(900));
    let rotator = start(store.clone()).await;
    let pool = FakePool::attach(&rotator.provider());
    // Twenty lives of it: each time the same token with new time.
    tokio::time::sleep(s(18_000)).await;
    let health = rotator.provider().health();
    assert_eq!((health.generation, pool.proofs()), (1, 0));
    assert!(health.expires_in.unwrap() > s(30), "{health:?}");
    assert!((19..=23).contains(&store.reads()), "{}", store.reads());
    // A cache that keeps giving away what is about to end is not asked in a loop.
    *store.0.ttl.lock().unwrap() = Some(s(20));
    let before = store.reads();
    tokio::time::sleep(s(900 + 600)).await;
    let more = store.reads() - before;
    assert!(more < 900, "paced: {more}");
    let mut events = rotator.provider().events();
    store.put("pw-2");
    assert_eq!(swapped(&mut events).await.0, 2, "and still looked for");
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_without_a_lease_is_read_again_until_the_new_one_is_there() {
    // A server that changes Postgres first and its own storage next, and tells nobody.
    let store = Store::new(false, false);
    let rotator = start(store.clone()).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    let later = store.clone();
    tokio::spawn(async move {
        tokio::time::sleep(s(2)).await;
        later.put("pw-2");
    });
    // However many wait, they share the reads.
    let waiting = (0..50).map(|_| {
        let provider = provider.clone();
        tokio::spawn(async move { provider.refused(1).await })
    });
    for waited in waiting.collect::<Vec<_>>() {
        let refreshed = waited.await.unwrap();
        assert!(matches!(refreshed, Refreshed::Swapped(g) if g.number() == 2));
    }
    assert!(store.reads() <= 7, "{}", store.reads());
    assert_eq!(pool.drained(), ["app"]);
    assert_eq!((pool.rolled(), pool.distrusted()), (vec![true], 0), "sessions outlive it");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_was_refused_for_a_moment_is_read_again_when_it_is_refused_anew() {
    let store = Store::new(false, false);
    let rotator = start(store.clone()).await;
    let provider = rotator.provider();
    let mut events = provider.events();
    provider.report(1, Observation::LoginRejected);
    event(&mut events, |e| matches!(e, Event::Unchanged { .. }).then_some(())).await;
    store.put("pw-2");
    provider.report(1, Observation::LoginRejected);
    assert_eq!(swapped(&mut events).await, (2, Reason::LoginRejected));
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_wrong_for_good_is_not_read_in_a_loop() {
    let store = Store::new(true, false);
    let rotator = start(store.clone()).await;
    let provider = rotator.provider();
    for _ in 0..600 {
        provider.report(1, Observation::LoginRejected);
        let _ = provider.refused(1).await;
        tokio::time::sleep(ms(100)).await;
    }
    let first = store.reads();
    assert!(first < 60, "{first}");
    // News do not wait for what the refusals have used up.
    store.put("pw-2");
    let mut events = provider.events();
    let begun = tokio::time::Instant::now();
    swapped(&mut events).await;
    assert!(begun.elapsed() < s(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn i6_a_role_that_was_dropped_and_made_again_as_it_was_is_proven_and_used_again() {
    let store = Store::new(false, false);
    let rotator = start(store.clone()).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    let mut events = provider.events();
    pool.proof(Proof::Rejected("28000".to_owned()));
    provider.report(1, Observation::SessionRevoked);
    eventually("it is tried", || pool.proofs() > 1).await;
    assert_eq!(provider.current().number(), 1, "I5");
    pool.proof(None);
    assert_eq!(swapped(&mut events).await, (2, Reason::SessionRevoked));
    assert!(provider.health().is_ready() && !provider.current().is_dead());
    assert_eq!(password(&rotator), "pw-1");
    let before = store.reads();
    tokio::time::sleep(s(3600)).await;
    assert_eq!((store.reads(), provider.current().number()), (before, 2), "and that is the end");
}

#[tokio::test(start_paused = true)]
async fn a_password_that_changes_between_read_and_proof_is_read_again() {
    let store = Store::new(true, false);
    let rotator = start(store.clone()).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    let mut events = provider.events();
    pool.proof(Proof::Rejected("28P01".to_owned()));
    store.put("pw-2");
    event(&mut events, |e| matches!(e, Event::ProofFailed { .. }).then_some(())).await;
    assert_eq!(provider.current().number(), 1, "I5");
    pool.proof(None);
    store.put("pw-3");
    swapped(&mut events).await;
    assert_eq!(password(&rotator), "pw-3");
}

#[tokio::test(start_paused = true)]
async fn i6_news_that_can_not_be_read_change_nothing() {
    let store = Store::new(true, false);
    let rotator = start(store.clone()).await;
    let mut events = rotator.provider().events();
    *store.0.fails.lock().unwrap() = Some(ErrorKind::Malformed);
    store.put("pw-2");
    event(&mut events, |e| matches!(e, Event::IssueFailed { .. }).then_some(())).await;
    tokio::time::sleep(s(600)).await;
    assert_eq!(password(&rotator), "pw-1");
    assert!(store.reads() < 40, "{}", store.reads());
    *store.0.fails.lock().unwrap() = None;
    store.put("pw-3");
    let begun = tokio::time::Instant::now();
    swapped(&mut events).await;
    assert_eq!(password(&rotator), "pw-3");
    assert!(begun.elapsed() <= s(31), "news cut a backoff short: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_iam_token_is_replaced_before_it_ends() {
    let minted = Arc::new(AtomicU64::new(0));
    let count = minted.clone();
    let source = FnSource::new("token", move || {
        let n = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            let credential = Credential::new("app", format!("token-{n}"));
            Ok(Issued::new(credential, Lease::fixed(s(900))))
        }
    });
    let rotator = start(source).await;
    let provider = rotator.provider();
    FakePool::attach(&provider);
    let mut events = provider.events();
    let begun = tokio::time::Instant::now();
    for n in 2..=5 {
        assert_eq!(swapped(&mut events).await, (n, Reason::MaxTtl));
        assert!(provider.health().expires_in.unwrap() > s(890));
    }
    let each = begun.elapsed() / 4;
    assert!(each > s(845) && each < s(855), "900 less a leeway of 51: {each:?}");
    assert_eq!(minted.load(Ordering::Relaxed), 5);
}

#[tokio::test(start_paused = true)]
async fn a_cached_token_keeps_its_grace_to_the_end_and_is_replaced_before_it() {
    // A client that gives away one token until 10 s before its end.
    let begun = tokio::time::Instant::now();
    let source = FnSource::new("cached token", move || {
        let age = begun.elapsed();
        let n = age.as_secs() / 890;
        let left = s(890 * n + 900) - age;
        let credential = Credential::new("app", format!("token-{n}"));
        async move { Ok(Issued::new(credential, Lease::fixed(left))) }
    });
    let rotator = start(source).await;
    let provider = rotator.provider();
    let pool = FakePool::attach(&provider);
    pool.hold();
    let mut events = provider.events();
    for n in 1..=4 {
        assert_eq!(swapped(&mut events).await.0, n + 1);
        let age = begun.elapsed();
        assert!(age >= s(890 * n) && age < s(890 * n + 9), "before its end: {age:?}");
        let health = provider.health();
        let grace = health.draining.last().unwrap().deadline_in;
        assert!(grace > s(29), "{grace:?}");
    }
    pool.let_go();
}

#[tokio::test(start_paused = true)]
async fn a_chain_falls_back_at_the_start_and_moves_back_by_itself() {
    let vault = Script::new(s(600), s(6000));
    vault.fail_issue(ErrorKind::Unreachable);
    let clock = clock();
    let chain = Chain::new(vault.clone(), StaticSource::new("env", "pw")).clock(clock.clone());
    let rotator = Rotator::builder(chain.clone()).clock(clock).start().await.unwrap();
    let provider = rotator.provider();
    FakePool::attach(&provider);
    assert_eq!(chain.in_force(), InForce::Fallback);
    assert_eq!(provider.current().credential().username(), "env");
    tokio::time::sleep(s(600)).await;
    let tries = vault.calls("issue").len();
    assert!((18..50).contains(&tries), "each 30 s in the end: {tries}");
    assert_eq!(provider.current().number(), 1);

    let mut events = provider.events();
    vault.fail_issue(None);
    assert_eq!(swapped(&mut events).await, (2, Reason::SourceChanged));
    assert_eq!(chain.in_force(), InForce::Primary);
    assert_eq!((vault.minted(), vault.live().len()), (1, 1), "minted once for it");
    assert!(provider.health().expires_in.unwrap() < s(600), "counted from before it was asked");
    // Renewed by who made it, and the fallback is out of it.
    event(&mut events, |e| matches!(e, Event::Renewed { .. }).then_some(())).await;
    assert!(rotator.shutdown(s(1)).await.is_clean());
    assert!(vault.live().is_empty() && vault.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_chain_bears_a_hiccup_and_falls_back_from_an_outage() {
    let vault = Script::new(s(120), s(120));
    let clock = clock();
    let chain = Chain::new(vault.clone(), StaticSource::new("env", "pw")).clock(clock.clone());
    let rotator = Rotator::builder(chain.clone()).clock(clock).start().await.unwrap();
    let provider = rotator.provider();
    let mut events = provider.events();
    // Renewals fail: not its business.
    vault.fail_renew(ErrorKind::Unreachable);
    tokio::time::sleep(s(60)).await;
    assert_eq!(chain.in_force(), InForce::Primary);
    // A mint fails once, at a planned rotation.
    vault.fail_issue(ErrorKind::Sealed);
    event(&mut events, |e| matches!(e, Event::IssueFailed { .. }).then_some(())).await;
    vault.fail_issue(None);
    swapped(&mut events).await;
    assert_eq!(chain.in_force(), InForce::Primary);
    // And then for good.
    vault.fail_issue(ErrorKind::Unreachable);
    swapped(&mut events).await;
    assert_eq!(chain.in_force(), InForce::Fallback);
    assert_eq!(provider.current().credential().username(), "env");
    assert!(provider.health().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_refuses_is_no_reason_to_fall_back_unless_told() {
    let vault = Script::new(s(120), s(600));
    vault.fail_issue(ErrorKind::Denied);
    let chain = Chain::new(vault.clone(), StaticSource::new("env", "pw"));
    let e = Rotator::builder(chain.clone()).clock(clock()).start().await.unwrap_err();
    assert!(format!("{e:?}").contains("Denied"), "{e:?}");
    let chain = Chain::new(vault, StaticSource::new("env", "pw")).even_if_refused();
    assert_eq!(chain.issue().await.unwrap().credential.username(), "env");
    assert_eq!(chain.in_force(), InForce::Fallback);
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_has_to_be_made_is_made_once() {
    let tries = Arc::new(AtomicU64::new(0));
    let (count, vault) = (tries.clone(), Script::new(s(600), s(6000)));
    let made = vault.clone();
    let build = move || {
        let (n, made) = (count.fetch_add(1, Ordering::Relaxed), made.clone());
        async move { if n < 3 { Err(SourceError::unreachable("no Vault yet")) } else { Ok(made) } }
    };
    let chain = Chain::lazily("Vault", build, StaticSource::new("env", "pw"));
    let rotator = start(chain.clone()).await;
    assert!(chain.describe().starts_with("Vault, else"), "{}", chain.describe());
    let mut events = rotator.provider().events();
    swapped(&mut events).await;
    tokio::time::sleep(s(3600)).await;
    assert_eq!(tries.load(Ordering::Relaxed), 4);
    assert!(rotator.shutdown(s(1)).await.is_clean());
    assert!(vault.is_closed(), "it is ours to close");
}

#[tokio::test(start_paused = true)]
async fn once_gives_one_login_and_takes_it_back() {
    let vault = Script::new(s(600), s(6000));
    let login = leasehold::once(vault.clone()).await.unwrap();
    assert_eq!(login.credential().username(), "user-1");
    assert!(login.remaining().unwrap() <= s(600));
    assert!(!format!("{login:?}").contains("scripted-password"), "I10");
    assert!(login.end().await.is_clean());
    assert!(vault.live().is_empty() && vault.is_closed());

    // Given up on before it came: revoked all the same.
    let vault = Script::new(s(600), s(6000));
    vault.hang_issue(true);
    let given_up = tokio::time::timeout(s(1), leasehold::once(vault.clone())).await;
    assert!(given_up.is_err());
    vault.go(1);
    eventually("it is given back", || vault.minted() == 1 && vault.is_closed()).await;
    assert!(vault.live().is_empty());

    // Given up on after it came, and before anybody looked.
    let vault = Script::new(s(600), s(6000));
    let mut never_looked = Box::pin(leasehold::once(vault.clone()));
    let first = tokio::time::timeout(Duration::ZERO, &mut never_looked).await;
    assert!(first.is_err());
    eventually("it came", || vault.minted() == 1).await;
    tokio::time::sleep(s(1)).await;
    assert_eq!(vault.live().len(), 1);
    drop(never_looked);
    eventually("it is given back", || vault.is_closed()).await;
    assert!(vault.live().is_empty());

    // The farewell was given up on before it was begun.
    let vault = Script::new(s(600), s(6000));
    let login = leasehold::once(vault.clone()).await.unwrap();
    drop(login.end());
    eventually("it is given back", || vault.is_closed()).await;
    assert!(vault.live().is_empty());

    // What can't be revoked is told.
    let vault = Script::new(s(600), s(6000));
    let login = leasehold::once(vault.clone()).await.unwrap();
    vault.fail_revoke(ErrorKind::Unreachable);
    let left = login.end().await;
    assert_eq!(left.remains.len(), 1, "{left}");
    assert_eq!(vault.calls("revoke").len(), 4);
    assert_eq!(vault.calls("issue").len(), 1, "no background task");
}

/// A folder that is gone with the test.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("leasehold-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        // As an agent does it.
        std::fs::write(self.0.join(".tmp"), text).unwrap();
        std::fs::rename(self.0.join(".tmp"), self.0.join(name)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn i6_a_file_that_is_missing_or_half_written_changes_nothing() {
    let folder = Folder::new("half");
    let file = folder.0.join("login.json");
    // The agent is late.
    let (late, path) = (folder.0.join("login.json"), folder.0.join("x"));
    let source = FileSource::new(&file);
    let e = source.issue().await.unwrap_err();
    assert!(e.is_transient() && e.to_string().contains("login.json"), "{e}");
    // What can be no more than half of it yet is waited for as well, and what is wrong is not.
    for (half, waits) in [("", true), ("{\"username\":\"app\",\"passw", true), ("{}", false)] {
        folder.write("login.json", half);
        let e = source.issue().await.unwrap_err();
        assert_eq!(e.is_transient(), waits, "{half}: {e}");
    }
    folder.write("login.json", "\n");
    let starting = tokio::spawn(start(source));
    tokio::time::sleep(ms(300)).await;
    assert!(!starting.is_finished());
    std::fs::write(&path, r#"{"username":"app","password":"pw-1"}"#).unwrap();
    std::fs::rename(&path, &late).unwrap();

    let rotator = soon(starting).await.unwrap();
    let mut events = rotator.provider().events();
    for broken in ["", "{\"username\":\"app\",\"passw", "{}"] {
        folder.write("login.json", broken);
        tokio::time::sleep(s(5)).await;
    }
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(s(5)).await;
    folder.write("login.json", r#"{ "username": "app", "password": "pw-1" }"#);
    tokio::time::sleep(s(5)).await;
    assert_eq!((password(&rotator), rotator.provider().current().number()), ("pw-1".into(), 1));
    assert!(events.try_recv().is_err(), "not even a rotation was begun");
    folder.write("login.json", r#"{"username":"app","password":"pw-2","host":"db2","port":1}"#);
    assert_eq!(swapped(&mut events).await, (2, Reason::SourceChanged));
    let address = rotator.provider().current().credential().address().cloned();
    assert_eq!(address, Some(Address::new().host("db2").port(1)));
    assert_eq!(password(&rotator), "pw-2");
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_mounted_secret_is_followed_through_its_symlink() {
    let folder = Folder::new("mounted");
    let publish = |n: u32| {
        let version = folder.0.join(format!("..v{n}"));
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("username"), "app\n").unwrap();
        std::fs::write(version.join("password"), format!("pw-{n}\n")).unwrap();
        std::os::unix::fs::symlink(&version, folder.0.join("..new")).unwrap();
        std::fs::rename(folder.0.join("..new"), folder.0.join("..data")).unwrap();
    };
    publish(1);
    for key in ["username", "password"] {
        std::os::unix::fs::symlink(format!("..data/{key}"), folder.0.join(key)).unwrap();
    }
    let rotator = start(FileSource::new(&folder.0)).await;
    let mut events = rotator.provider().events();
    for n in 2..6 {
        publish(n);
        assert_eq!(swapped(&mut events).await.0, u64::from(n));
        assert_eq!(password(&rotator), format!("pw-{n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_primary_issued_in_the_background_is_as_old_as_it_is() {
    let vault = Script::new(s(600), s(6000));
    let chain = Chain::new(vault.clone(), StaticSource::new("env", "pw")).clock(clock());
    for (wait, minted, left) in [(s(200), 1, s(400)), (s(400), 3, s(600))] {
        vault.fail_issue(ErrorKind::Timeout);
        // The patience with a primary that was in force.
        while chain.issue().await.is_err() {
            tokio::time::sleep(s(1)).await;
        }
        assert_eq!(chain.in_force(), InForce::Fallback);
        vault.fail_issue(None);
        soon(chain.changed()).await;
        tokio::time::sleep(wait).await;
        let issued = chain.issue().await.unwrap();
        let ttl = issued.lease.ttl.unwrap();
        assert!(ttl <= left && ttl > left - s(2), "{ttl:?}");
        assert_eq!(vault.minted(), minted);
    }
    tokio::time::sleep(s(1)).await;
    assert_eq!(vault.live().len(), 1, "the one that was too old was given back");
}
