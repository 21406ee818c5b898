//! What happens to a token at the edges: one that an agent replaced, one whose renewal is refused,
//! one whose renewal is answered when it is nearly over. Hours pass in milliseconds.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::answers::{BARE, POLICY};
use common::files::Folder;
use common::script::Reply;
use common::sim::{self, FIRST_TOKEN, GoodVault, Sim};
use leasehold::clock::Clock;
use leasehold::{CredentialSource, ErrorKind, Issued, Parent};
use leasehold_vault::{Auth, Session, VaultConfig};

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A server whose tokens live for ten minutes, and a session that was given a token, or a file.
struct World {
    sim: Sim,
    vault: GoodVault,
    clock: Clock,
    folder: Folder,
}

impl World {
    async fn new() -> Self {
        let sim = Sim::start();
        let vault = GoodVault::start(s(3600), s(100_000), s(600)).await;
        let clock = sim.clock();
        Self { sim, vault, clock, folder: Folder::new() }
    }

    fn config(&self) -> VaultConfig {
        VaultConfig::new(self.vault.script.address())
            .request_timeout(s(2))
            .clock(self.clock.clone())
    }

    async fn session(&self, auth: Auth) -> Session {
        let session = self.sim.finish(Session::login(self.config(), auth)).await.unwrap();
        self.sim.watch(&session);
        session
    }

    /// By a file with the first token in it.
    async fn by_file(&self) -> Session {
        let path = self.folder.file("sink", FIRST_TOKEN);
        self.session(Auth::token_file(path)).await
    }

    async fn issue(&self, session: &Session) -> Issued {
        self.sim.finish(session.dynamic_role("database", "app").issue()).await.unwrap()
    }

    /// Waits in real time too, which files take.
    async fn until(&self, limit: Duration, done: impl Fn() -> bool) {
        let end = self.clock.now() + limit;
        self.sim
            .finish(async {
                while !done() {
                    assert!(self.clock.now() < end, "not within {limit:?}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
    }

    /// The agent writes its next token.
    async fn replaced(&self, session: &Session) {
        self.folder.file("sink", "s.second");
        self.until(s(300), || session.token_state().login == 2).await;
    }

    fn asked_with(&self, path: &str, token: &str) -> usize {
        self.vault.script.requests(path).iter().filter(|r| r.contains(token)).count()
    }

    fn is_over(&self, parent: &Parent) -> bool {
        parent.state().ends.is_some_and(|ends| ends <= self.clock.now())
    }
}

#[tokio::test(start_paused = true)]
async fn i8_a_files_old_token_that_is_revoked_after_the_new_one_came_is_noticed_soon() {
    let world = World::new().await;
    let session = world.by_file().await;
    let parent = world.issue(&session).await.parent.unwrap();
    world.replaced(&session).await;
    let looks = || world.asked_with(sim::TOKEN_LOOKUP, FIRST_TOKEN);
    let before = looks();
    world.until(s(5), || looks() > before).await;
    assert!(!world.is_over(&parent), "it was found alive");
    world.vault.fail_with(sim::TOKEN_LOOKUP, Reply::json(403, BARE), FIRST_TOKEN);
    world.until(s(40), || world.is_over(&parent)).await;
}

#[tokio::test(start_paused = true)]
async fn a_files_old_token_is_looked_at_ever_more_slowly_and_only_while_it_is_held() {
    let world = World::new().await;
    let session = world.by_file().await;
    let issued = world.issue(&session).await;
    world.replaced(&session).await;
    let looks = || world.asked_with(sim::TOKEN_LOOKUP, FIRST_TOKEN);
    let before = looks();
    world.sim.pass(s(600)).await;
    let more = looks() - before;
    assert!((15..=30).contains(&more), "{more} in ten minutes");
    drop(issued);
    world.until(s(5), || session.token_state().retired == 0).await;
    let before = looks();
    world.sim.pass(s(120)).await;
    assert_eq!(looks(), before, "nobody needs to know");
}

/// What a lookup that meets a revocation may show: it has lost its end, and is there yet.
fn half_revoked() -> Reply {
    Reply::json(
        200,
        r#"{"data":{"ttl":0,"creation_ttl":600,"renewable":true,"expire_time":null,
           "type":"service"}}"#,
    )
}

#[tokio::test(start_paused = true)]
async fn i8_a_token_that_has_lost_its_end_is_not_taken_for_endless() {
    let world = World::new().await;
    let session = world.by_file().await;
    let parent = world.issue(&session).await.parent.unwrap();
    world.vault.fail_with(sim::TOKEN_LOOKUP, half_revoked(), FIRST_TOKEN);
    world.replaced(&session).await;
    let looks = || world.asked_with(sim::TOKEN_LOOKUP, FIRST_TOKEN);
    let before = looks();
    world.until(s(40), || looks() >= before + 3).await;
    assert!(parent.state().ends.is_some(), "{:?}", parent.state());
    world.vault.mend();
    world.vault.fail_with(sim::TOKEN_LOOKUP, Reply::json(403, BARE), FIRST_TOKEN);
    world.until(s(40), || world.is_over(&parent)).await;

    // Nor at a login.
    world.vault.mend();
    world.vault.fail(sim::TOKEN_LOOKUP, half_revoked());
    let login = Session::login(world.config(), Auth::token("s.given"));
    let e = world.sim.finish(login).await.expect_err("on its way out");
    assert_eq!(e.kind(), ErrorKind::ServerFault, "{e}");
}

/// A given token's renewals fail until it is nearly over, and one that is then granted is answered
/// after its end.
#[tokio::test(start_paused = true)]
async fn i8_a_renewal_that_is_answered_after_the_old_end_saves_the_token() {
    let world = World::new().await;
    let session = world.session(Auth::token("s.given")).await;
    let ends = tokio::time::Instant::now() + session.token_state().remaining.unwrap();
    world.vault.script.answer_with(sim::TOKEN_RENEW, move |_| {
        if ends - tokio::time::Instant::now() > Duration::from_millis(300) {
            return Reply::json(503, "");
        }
        Reply::json(200, r#"{"auth":{"client_token":"","lease_duration":600,"renewable":true}}"#)
            .after(Duration::from_millis(800))
    });
    world.vault.fail(sim::TOKEN_RENEW, Reply::json(503, ""));
    let issued = world.issue(&session).await;
    world.sim.until(s(601), || ends <= tokio::time::Instant::now()).await;
    // Something to wake up for.
    drop(issued);
    world.sim.pass(s(610)).await;
    let token = session.token_state();
    assert_eq!((token.lost, token.renewing), (None, true));
    let parent = world.issue(&session).await.parent.unwrap();
    assert!(parent.state().renewing && !world.is_over(&parent), "{:?}", parent.state());
}

/// As above, but the answers never come: the token may have been renewed all the same.
#[tokio::test(start_paused = true)]
async fn i9_a_token_that_may_have_been_renewed_unheard_is_revoked() {
    let world = World::new().await;
    let session = world.session(Auth::approle("role", "secret")).await;
    world.vault.fail_with(sim::TOKEN_RENEW, Reply::silence(), FIRST_TOKEN);
    world.vault.fail(sim::LOGIN, Reply::json(503, ""));
    world.sim.until(s(700), || session.token_state().lost.is_some()).await;
    world.vault.mend();
    world.vault.fail(sim::TOKEN_REVOKE, Reply::json(503, ""));
    world.sim.until(s(60), || session.token_state().login == 2).await;
    let revoked = || world.asked_with(sim::TOKEN_REVOKE, FIRST_TOKEN);
    world.sim.until(s(60), || revoked() >= 2).await;
    assert_eq!(session.token_state().retired, 1);
    world.vault.mend();
    world.sim.until(s(60), || session.token_state().retired == 0).await;

    // Not for ever: no renewal can have given it more than it asked for.
    world.vault.fail(sim::TOKEN_RENEW, Reply::silence());
    world.vault.fail(sim::LOGIN, Reply::json(503, ""));
    world.sim.until(s(1300), || session.token_state().lost.is_some()).await;
    world.vault.mend();
    world.vault.fail(sim::TOKEN_REVOKE, Reply::json(503, ""));
    world.sim.until(s(60), || session.token_state().login == 3).await;
    world.sim.until(s(700), || session.token_state().retired == 0).await;
}

#[tokio::test(start_paused = true)]
async fn i8_what_the_server_called_dead_stays_so_whatever_was_on_its_way() {
    let world = World::new().await;
    let granted =
        r#"{"auth":{"client_token":"","lease_duration":600,"renewable":true}}"#.to_owned();
    let session = world.session(Auth::token("s.given")).await;
    let issued = world.issue(&session).await;
    world.vault.fail(sim::TOKEN_RENEW, Reply::json(200, granted).after(s(1)));
    world.sim.until(s(590), || world.vault.asked(sim::TOKEN_RENEW) >= 1).await;
    world.vault.fail(sim::ISSUE, Reply::json(403, BARE));
    let source = session.dynamic_role("database", "app");
    world.sim.finish(source.issue()).await.expect_err("dead");
    world.sim.pass(s(5)).await;
    assert!(world.is_over(issued.parent.as_ref().unwrap()), "{:?}", issued.parent);
    assert!(session.token_state().lost.is_some());
}

/// The policy is taken away for a while, or something in between refuses all.
#[tokio::test(start_paused = true)]
async fn i8_a_given_token_whose_renewal_was_refused_is_tried_again_slowly_and_lives_on() {
    for (refusal, known) in [(POLICY, true), ("<html>a firewall</html>", false)] {
        let world = World::new().await;
        let session = world.session(Auth::token("s.given")).await;
        let parent = world.issue(&session).await.parent.unwrap();
        world.vault.fail(sim::TOKEN_RENEW, Reply::json(403, refusal));
        let asked = || world.vault.asked(sim::TOKEN_RENEW);
        world.sim.until(s(500), || asked() >= 3).await;
        assert_eq!(parent.state().renewing, !known, "{:?}", parent.state());
        if known {
            let left = session.token_state().remaining.unwrap();
            // The first of them when 100 s have passed at the soonest, two more 24 s and 48 s later.
            assert!(left < s(430), "slowly: {left:?}");
        }
        world.vault.mend();
        world.sim.pass(s(900)).await;
        let token = session.token_state();
        assert_eq!((token.lost, token.renewing), (None, true), "{refusal}");
        assert!(parent.state().renewing && !world.is_over(&parent), "{:?}", parent.state());
        // A sixth of ten minutes, and not sooner.
        assert!(asked() <= 20, "{}", asked());
    }
}

/// Sees what callers see at the very moment that a lease is told something.
struct Told {
    session: Session,
    seen: Mutex<Vec<(u64, bool)>>,
}

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        let token = self.session.token_state();
        self.seen.lock().unwrap().push((token.login, token.renewing));
    }
}

#[tokio::test(start_paused = true)]
async fn i8_a_lease_that_is_told_to_move_finds_the_token_to_move_to() {
    let world = World::new().await;
    let session = world.by_file().await;
    let mut parent = world.issue(&session).await.parent.unwrap();
    let told = Arc::new(Told { session: session.clone(), seen: Mutex::default() });
    let waker = Waker::from(told.clone());
    let mut changed = Box::pin(parent.changed());
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    world.replaced(&session).await;
    assert_eq!(*told.seen.lock().unwrap(), [(2, true)]);
    drop(changed);

    let mut parent = world.issue(&session).await.parent.unwrap();
    let mut changed = Box::pin(parent.changed());
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    world.vault.fail(sim::ISSUE, Reply::json(403, BARE));
    world.vault.fail(sim::TOKEN_LOOKUP, Reply::json(403, BARE));
    let source = session.dynamic_role("database", "app");
    world.sim.finish(source.issue()).await.expect_err("dead");
    assert_eq!(told.seen.lock().unwrap()[1..], [(2, false)]);
}

#[tokio::test(start_paused = true)]
async fn i11_a_login_is_not_kept_waiting_for_ever_by_what_is_no_server() {
    let world = World::new().await;
    let auth = Auth::custom("auth/approle/login", || async {
        std::future::pending::<()>().await;
        Ok(serde_json::Value::Null)
    });
    let login = Session::login(world.config(), auth);
    let e = world.sim.finish(login).await.expect_err("no body");
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert!(e.to_string().contains("auth/approle/login"), "{e}");

    let pipe = world.folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let login = Session::login(world.config(), Auth::token_file(&pipe));
    let e = world.sim.finish(login).await;
    // Lets go of the reader, which the runtime waits for.
    drop(std::fs::File::options().read(true).write(true).open(&pipe).unwrap());
    let e = e.expect_err("nobody writes to it");
    assert!(e.is_transient() && e.to_string().contains("pipe"), "{e}");
}

#[tokio::test(start_paused = true)]
async fn a_low_rate_limit_keeps_no_token_from_its_renewal_and_no_session_from_its_end() {
    let world = World::new().await;
    let config = world.config().rate_limit(0.001, 1);
    let auth = Auth::approle("role", "secret");
    let session = world.sim.finish(Session::login(config, auth)).await.unwrap();
    world.sim.watch(&session);
    world.sim.pass(s(900)).await;
    let token = session.token_state();
    assert_eq!((token.lost, token.login), (None, 1));
    let began = world.clock.now();
    assert_eq!(world.sim.finish(session.close()).await, Vec::<String>::new());
    assert!(world.clock.now() < began + s(10));
}
