//! Every row of `docs/errors.md`: what the server answers goes over a socket to a session with a
//! rotator on it, and what they then do is what the row says. Hours pass in milliseconds.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::answers::{Asked, Does, Means, ROWS, Row, Said, answers};
use common::script::Reply;
use common::sim::{self, GoodVault, Sim};
use leasehold::clock::Clock;
use leasehold::{CredentialSource, ErrorKind, Event, Reason, Rotator, SourceError, StartError};
use leasehold_vault::{Auth, Session, VaultConfig};

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

const LEASE: Duration = s(60);
const TOKEN: Duration = s(120);
/// More than anything here takes, in a time that costs nothing.
const LONG: Duration = s(1200);

fn reply(said: Said) -> Reply {
    match said {
        Said::Status(status, body) => Reply::json(status, body),
        Said::Header(status, body, (name, value)) => Reply::json(status, body).header(name, value),
        Said::Reset => Reply::reset(),
        Said::CutShort => Reply::json(200, r#"{"lease_id":"database"#).cut_short(),
        Said::Dripping => Reply::json(200, r#"{"lease_id":"database"#).dripping(),
        Said::Silence => Reply::silence(),
    }
}

fn path(asked: Asked) -> &'static str {
    match asked {
        Asked::Login => sim::LOGIN,
        Asked::TokenLookup => sim::TOKEN_LOOKUP,
        Asked::TokenRenew => sim::TOKEN_RENEW,
        Asked::TokenRevoke => sim::TOKEN_REVOKE,
        Asked::Issue => sim::ISSUE,
        Asked::Renew => sim::RENEW,
        Asked::Revoke => sim::REVOKE,
    }
}

/// A server, and what runs against it.
struct World {
    sim: Sim,
    vault: GoodVault,
    clock: Clock,
    config: VaultConfig,
    row: &'static Row,
    events: Arc<Mutex<Vec<Event>>>,
}

impl World {
    async fn new(row: &'static Row) -> Self {
        let sim = Sim::start();
        // The token outlives what is told of leases, and is short where it is what is told of.
        let token = match row.asked {
            Asked::Issue | Asked::Renew | Asked::Revoke => s(100_000),
            _ => TOKEN,
        };
        let vault = GoodVault::start(LEASE, s(100_000), token).await;
        let clock = sim.clock();
        let config = VaultConfig::new(vault.script.address())
            .request_timeout(s(2))
            .mint_timeout(s(4))
            .clock(clock.clone());
        Self { sim, vault, clock, config, row, events: Arc::default() }
    }

    fn fail(&self) {
        self.vault.fail(path(self.row.asked), reply(self.row.said));
    }

    fn asked(&self) -> usize {
        self.vault.asked(path(self.row.asked))
    }

    fn kind(&self) -> ErrorKind {
        match self.row.means {
            Means::Kind(kind) => kind,
            Means::TokenDead => ErrorKind::TokenLost,
        }
    }

    #[track_caller]
    fn check(&self, e: &SourceError) {
        assert_eq!(e.kind(), self.kind(), "{e}");
        if matches!(self.row.said, Said::Header(_, _, ("retry-after", _))) {
            assert_eq!(e.server_retry_after(), Some(s(9)), "{e}");
        }
    }

    async fn try_login(&self, auth: Auth) -> Result<Session, SourceError> {
        let session = self.sim.finish(Session::login(self.config.clone(), auth)).await?;
        self.sim.watch(&session);
        Ok(session)
    }

    async fn session(&self) -> Session {
        self.try_login(Auth::approle("role", "secret")).await.expect("a login")
    }

    async fn rotator(&self, session: &Session) -> Result<Rotator, StartError> {
        let events = self.events.clone();
        let start = Rotator::builder(session.dynamic_role("database", "app"))
            .clock(self.clock.clone())
            .observer(move |event| events.lock().unwrap().push(event.clone()))
            .start();
        self.sim.finish(start).await
    }

    fn seen<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> Vec<T> {
        self.events.lock().unwrap().iter().filter_map(pick).collect()
    }

    fn swaps(&self) -> Vec<(u64, Reason)> {
        self.seen(|e| match e {
            Event::Swapped { generation, reason, .. } => Some((*generation, *reason)),
            _ => None,
        })
    }

    /// Failed renewals: the error and whether another is planned.
    fn renewals_failed(&self) -> Vec<(SourceError, bool)> {
        self.seen(|e| match e {
            Event::RenewFailed { error, retry_in, .. } => Some((error.clone(), retry_in.is_some())),
            _ => None,
        })
    }

    fn issues_failed(&self) -> Vec<SourceError> {
        self.seen(|e| match e {
            Event::IssueFailed { error, .. } => Some(error.clone()),
            _ => None,
        })
    }

    fn revocations_failed(&self) -> Vec<(SourceError, bool)> {
        self.seen(|e| match e {
            Event::RevokeFailed { error, retry_in, .. } => {
                Some((error.clone(), retry_in.is_some()))
            }
            _ => None,
        })
    }

    fn revoked(&self) -> usize {
        self.seen(|e| matches!(e, Event::Revoked { .. }).then_some(())).len()
    }

    fn renewed(&self) -> usize {
        self.seen(|e| matches!(e, Event::Renewed { .. }).then_some(())).len()
    }

    #[track_caller]
    fn until(&self, done: impl FnMut() -> bool) -> impl Future<Output = ()> {
        self.sim.until(LONG, done)
    }

    /// Leases that ended by themselves.
    fn ended(&self) -> usize {
        self.seen(|e| matches!(e, Event::LeaseEnded { .. }).then_some(())).len()
    }

    /// The session's token is dead from here on, for a reason that is not the row's.
    async fn lose_the_token(&self, session: &Session) -> SourceError {
        let source = session.dynamic_role("database", "app");
        let dead = Reply::json(403, common::answers::BARE);
        // Both at once: the issue that finds it dead, and the row's answer to the login.
        self.vault.fail_with(sim::ISSUE, dead, sim::FIRST_TOKEN);
        self.fail();
        let result = self.sim.finish(source.issue()).await;
        result.expect_err("a dead token and no other")
    }
}

async fn check(name: &str) {
    let row = ROWS.iter().find(|row| row.name == name).unwrap();
    let world = World::new(row).await;
    match row.does {
        Does::LoginSoon => login_soon(&world).await,
        Does::LoginSlowly => login_slowly(&world).await,
        Does::LoginFails => login_fails(&world).await,
        Does::TokenRenewSoon => token_renew_soon(&world).await,
        Does::TokenReplace => token_replace(&world, false).await,
        Does::TokenReplaceNow => token_replace(&world, true).await,
        Does::TokenGiveBackSoon => token_give_back(&world).await,
        Does::TokenLeave | Does::TokenGone => token_left(&world).await,
        Does::IssueSoon => issue_soon(&world).await,
        Does::IssueSlowly => issue_slowly(&world).await,
        Does::LogInAndRepeat => log_in_and_repeat(&world).await,
        Does::RenewSoon => renew_soon(&world).await,
        Does::RotateNow => rotate_now(&world).await,
        Does::RotateAtLeeway => rotate_at_leeway(&world).await,
        Does::RevokeSoon => revoke_soon(&world, false).await,
        Does::RevokeThenQueue => revoke_soon(&world, true).await,
        Does::SoftRevoke => soft_revoke(&world).await,
        Does::RevokedAlready => revoked_already(&world).await,
        Does::LeaveToTtl => leave_to_ttl(&world).await,
    }
}

async fn first_login_fails(world: &World) {
    world.fail();
    let e = world.try_login(Auth::approle("role", "secret")).await.expect_err("a fault");
    world.check(&e);
    assert_eq!(world.asked(), 1, "a first login is tried once: whoever starts us decides");
    world.vault.mend();
}

async fn login_soon(world: &World) {
    first_login_fails(world).await;
    let session = world.session().await;
    let e = world.lose_the_token(&session).await;
    world.check(&e);
    assert!(!e.may_have_issued(), "there was no token to issue with: {e}");
    let before = world.asked();
    world.until(|| world.asked() >= before + 3).await;
    world.vault.mend();
    world.until(|| session.token_state().login == 2).await;
    assert!(session.token_state().lost.is_none());
}

async fn login_slowly(world: &World) {
    first_login_fails(world).await;
    let session = world.session().await;
    let e = world.lose_the_token(&session).await;
    assert_eq!(e.kind(), ErrorKind::TokenLost, "{e}");
    assert!(session.token_state().lost.is_some());
    let before = world.asked();
    world.sim.pass(s(600)).await;
    let more = world.asked() - before;
    assert!((2..=10).contains(&more), "{more} logins in ten minutes");
    world.vault.mend();
    world.until(|| session.token_state().login == 2).await;
    assert!(session.token_state().lost.is_none());
}

async fn login_fails(world: &World) {
    world.fail();
    let e = world.try_login(Auth::token("s.given")).await.expect_err("a fault");
    world.check(&e);
    assert_eq!(world.asked(), 1);
}

async fn token_renew_soon(world: &World) {
    world.fail();
    let session = world.session().await;
    world.until(|| world.asked() >= 2).await;
    world.vault.mend();
    world.until(|| session.token_state().remaining.is_some_and(|r| r > s(100))).await;
    assert_eq!(session.token_state().login, 1, "the same token");
    // And where it does not pass.
    world.fail();
    world.until(|| session.token_state().login == 2).await;
    assert!(world.vault.asked(sim::LOGIN) == 2);
}

async fn token_replace(world: &World, dead: bool) {
    let session = world.session().await;
    let rotator = world.rotator(&session).await.unwrap();
    world.vault.fail_with(sim::TOKEN_RENEW, reply(world.row.said), sim::FIRST_TOKEN);
    world.until(|| session.token_state().login == 2).await;
    let of_the_first = || {
        world
            .vault
            .script
            .requests(sim::TOKEN_RENEW)
            .iter()
            .filter(|r| r.contains(sim::FIRST_TOKEN))
            .count()
    };
    assert_eq!(of_the_first(), 1, "it can't be renewed: not asked again");
    let at = world.sim.elapsed();
    world.until(|| world.swaps().len() == 2).await;
    assert_eq!(world.swaps()[1], (2, Reason::TokenEnding));
    let waited = world.sim.elapsed() - at;
    assert_eq!(waited < s(5), dead, "{waited:?}");
    assert!(world.sim.elapsed() < TOKEN, "before the old token's own end");
    drop(rotator);
}

/// Has a token that is retired and to be given back.
async fn retire_a_token(world: &World) -> Session {
    world.fail();
    let session = world.session().await;
    // Renewals are refused to the first token: another comes, and nothing holds the old one.
    let policy = Reply::json(403, common::answers::POLICY);
    world.vault.fail_with(sim::TOKEN_RENEW, policy, sim::FIRST_TOKEN);
    world.until(|| session.token_state().login == 2).await;
    session
}

async fn token_give_back(world: &World) {
    let session = retire_a_token(world).await;
    world.until(|| world.asked() >= 3).await;
    assert_eq!(session.token_state().retired, 1);
    world.vault.mend();
    world.until(|| session.token_state().retired == 0).await;
}

async fn token_left(world: &World) {
    let session = retire_a_token(world).await;
    world.until(|| session.token_state().retired == 0).await;
    world.sim.pass(s(20)).await;
    let first = world.vault.script.requests(sim::TOKEN_REVOKE);
    let first = first.iter().filter(|r| r.contains(sim::FIRST_TOKEN)).count();
    assert_eq!(first, 1, "asked once");
}

async fn issue_soon(world: &World) {
    let session = world.session().await;
    world.fail();
    let start = async {
        // Mended while the start is still trying.
        let mended = async {
            while world.asked() < 2 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            world.vault.mend();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            rotator = world.rotator(&session) => rotator,
            () = mended => unreachable!(),
        }
    };
    let rotator = start.await.expect("a start goes on trying");
    world.check(&world.issues_failed()[0]);
    let failed = world.issues_failed().len();

    world.fail();
    rotator.rotate();
    world.until(|| world.issues_failed().len() >= failed + 2).await;
    assert_eq!(rotator.provider().current().number(), 1, "the login is kept");
    for e in world.issues_failed() {
        world.check(&e);
    }
    world.vault.mend();
    world.until(|| world.swaps().len() == 2).await;
}

async fn issue_slowly(world: &World) {
    let session = world.session().await;
    world.fail();
    match world.rotator(&session).await.expect_err("a start fails at once") {
        StartError::Source { error, .. } => world.check(&error),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.asked(), 1, "once");
    world.vault.mend();
    // The first rotator closed the session, as the last of its sources was gone.
    let session = world.session().await;
    let rotator = world.rotator(&session).await.unwrap();
    world.fail();
    rotator.rotate();
    let failed = world.issues_failed().len();
    world.until(|| world.issues_failed().len() >= failed + 2).await;
    world.check(&world.issues_failed()[failed]);
    assert_eq!(rotator.provider().current().number(), 1, "the login is kept");
    world.vault.mend();
    world.until(|| world.swaps().len() == 2).await;
}

async fn log_in_and_repeat(world: &World) {
    let session = world.session().await;
    let rotator = world.rotator(&session).await.unwrap();
    world.vault.fail_with(path(world.row.asked), reply(world.row.said), sim::FIRST_TOKEN);
    if world.row.asked != Asked::Renew {
        rotator.rotate();
    }
    world.until(|| session.token_state().login == 2 && world.swaps().len() >= 2).await;
    // What the dead token had issued went with it.
    world.until(|| world.revoked() + world.ended() >= 1).await;
    let failed = (world.issues_failed(), world.renewals_failed(), world.revocations_failed());
    let errors = failed.0.len() + failed.1.len() + failed.2.len();
    assert_eq!(errors, 0, "repeated by the session, not by the rotator: {failed:?}");
    assert_eq!(session.calls().login, 2);
    let repeated = world.vault.script.requests(path(world.row.asked));
    assert!(repeated.iter().any(|r| r.contains("s.login-2-")), "{repeated:?}");
    let by_token = || world.swaps().iter().any(|(_, why)| *why == Reason::TokenEnding);
    world.until(|| by_token() || world.row.asked == Asked::Issue).await;
    world.until(|| rotator.provider().current().number() >= 2).await;
}

async fn renew_soon(world: &World) {
    let session = world.session().await;
    let rotator = world.rotator(&session).await.unwrap();
    world.fail();
    world.until(|| world.renewals_failed().len() >= 2).await;
    for (e, again) in world.renewals_failed() {
        world.check(&e);
        assert!(again, "{e}");
    }
    world.vault.mend();
    world.until(|| world.renewed() >= 1).await;
    assert_eq!(rotator.provider().current().number(), 1, "renewed, not rotated");
    assert_eq!(world.vault.asked(sim::ISSUE), 1);
    // And where it does not pass.
    world.fail();
    world.until(|| world.swaps().len() == 2).await;
    assert_eq!(world.swaps()[1].1, Reason::Leeway);
}

async fn rotate_now(world: &World) {
    let session = world.session().await;
    let _rotator = world.rotator(&session).await.unwrap();
    world.fail();
    world.until(|| world.renewals_failed().len() == 1).await;
    let at = world.sim.elapsed();
    assert!(at < LEASE / 2 + s(15), "well before the leeway: {at:?}");
    world.until(|| world.swaps().len() == 2).await;
    assert_eq!(world.swaps()[1].1, Reason::LeaseLost);
    assert!(world.sim.elapsed() - at < s(1));
    world.check(&world.renewals_failed()[0].0);
}

async fn rotate_at_leeway(world: &World) {
    let session = world.session().await;
    let rotator = world.rotator(&session).await.unwrap();
    world.fail();
    world.until(|| world.swaps().len() == 2).await;
    assert_eq!(world.swaps()[1].1, Reason::MaxTtl);
    let failed = world.renewals_failed();
    world.check(&failed[0].0);
    assert!(!failed[0].1, "not tried again");
    assert_eq!(world.asked(), 1, "renewed no more");
    let at = world.sim.elapsed();
    // Leeway: roll 3.75 s + grace 15 s + 5 s + 1 s.
    assert!(at >= s(35) && at < s(41), "{at:?}");
    drop(rotator);
}

/// Has a lease to be revoked.
async fn rotated(world: &World) -> (Session, Rotator) {
    let session = world.session().await;
    let rotator = world.rotator(&session).await.unwrap();
    world.fail();
    rotator.rotate();
    world.until(|| world.swaps().len() == 2).await;
    (session, rotator)
}

async fn revoke_soon(world: &World, queue: bool) {
    let (_session, rotator) = rotated(world).await;
    world.until(|| world.revocations_failed().len() >= 2).await;
    for (e, again) in world.revocations_failed() {
        world.check(&e);
        assert!(again, "{e}");
    }
    let queued =
        || world.vault.script.requests(sim::REVOKE).iter().any(|r| r.contains(r#""sync":false"#));
    if queue {
        assert!(!queued());
        world.until(queued).await;
        assert!(world.asked() >= 7);
    }
    world.vault.mend();
    world.until(|| world.revoked() == 1).await;
    assert_eq!(queued(), queue);
    drop(rotator);
}

async fn soft_revoke(world: &World) {
    let (_session, _rotator) = rotated(world).await;
    let shortened = || {
        let sent = world.vault.script.requests(sim::RENEW);
        sent.iter().any(|r| r.ends_with(r#"{"lease_id":"database/creds/app/1","increment":1}"#))
    };
    world.until(shortened).await;
    world.check(&world.revocations_failed()[0].0);
    assert_eq!(world.asked(), 1, "a policy does not change its mind");
    world.until(|| world.ended() == 1).await;
}

async fn revoked_already(world: &World) {
    let (_session, _rotator) = rotated(world).await;
    world.until(|| world.revoked() == 1).await;
    assert!(world.revocations_failed().is_empty());
    assert_eq!(world.asked(), 1);
}

async fn leave_to_ttl(world: &World) {
    let (_session, _rotator) = rotated(world).await;
    world.until(|| world.revocations_failed().len() == 1).await;
    let (e, again) = &world.revocations_failed()[0];
    world.check(e);
    assert!(!again);
    world.until(|| world.ended() == 1).await;
    assert_eq!(world.asked(), 1);
}

macro_rules! tests {
    ($($name:ident: $asked:ident, $said:expr => $means:expr, $does:ident;)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                check(stringify!($name)).await;
            }
        )*
    };
}
answers!(tests);

#[test]
fn the_docs_hold_every_row() {
    const FROM: &str = "<!-- rows: written by the test that names them -->\n";
    const TO: &str = "<!-- end of rows -->";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    let text = std::fs::read_to_string(file).expect("docs/errors.md");
    let (head, rest) = text.split_once(FROM).expect("where the rows begin");
    let (_, tail) = rest.split_once(TO).expect("where the rows end");
    let mut table =
        "| asked to | status | body | kind | what is done |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
    for row in ROWS {
        let Row { asked, said, means, does, .. } = row;
        writeln!(table, "| {asked} | {said} | {means} | {does} |").unwrap();
    }
    let right = format!("{head}{FROM}{table}{TO}{tail}");
    if std::env::var_os("LEASEHOLD_WRITE_DOCS").is_some() {
        std::fs::write(file, &right).expect("docs/errors.md written");
    }
    let text = std::fs::read_to_string(file).expect("docs/errors.md");
    assert!(
        text == right,
        "docs/errors.md is behind the list in tests/common/answers.rs: \
         LEASEHOLD_WRITE_DOCS=1 cargo test -p leasehold-vault --test errors the_docs"
    );
}
