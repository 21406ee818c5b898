//! While the server is away for an hour, whatever that looks like, what is sent to it stays small
//! and evenly spread, nothing that works is given up, and it all comes back by itself.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::answers::{BARE, POLICY};
use common::script::Reply;
use common::sim::{self, FIRST_TOKEN, GoodVault, Sim};
use leasehold::{CredentialSource, ErrorKind, HealthState, Rotator};
use leasehold_vault::{Auth, CallCounts, Session, VaultConfig};

const HOUR: Duration = Duration::from_secs(3600);
const ROLES: [&str; 3] = ["app", "app2", "app3"];

/// Tries within an hour of one thing whose pauses are drawn evenly from 0 to 30 s are 240 on
/// average; more than this is no such thing.
const TRIES: u64 = 300;

struct World {
    sim: Sim,
    vault: GoodVault,
    session: Session,
    rotators: Vec<Rotator>,
}

impl World {
    async fn new() -> Self {
        Self::with(HOUR, Auth::approle("role", "secret")).await
    }

    async fn with(token_ttl: Duration, auth: Auth) -> Self {
        let sim = Sim::start().step(Duration::from_secs(1));
        let clock = sim.clock();
        let vault = GoodVault::start(HOUR, 24 * HOUR, token_ttl).await;
        let config = VaultConfig::new(vault.script.address()).clock(clock.clone());
        let login = Session::login(config, auth);
        let session = sim.finish(login).await.unwrap();
        sim.watch(&session);
        let mut rotators = Vec::new();
        for role in ROLES {
            let source = session.dynamic_role("database", role);
            let start = Rotator::builder(source).clock(clock.clone()).start();
            rotators.push(sim.finish(start).await.unwrap());
        }
        Self { sim, vault, session, rotators }
    }

    /// Sends are counted from here on.
    fn sent_since(&self, before: CallCounts) -> CallCounts {
        let now = self.session.calls();
        let mut sent = now;
        sent.login -= before.login;
        sent.token_renew -= before.token_renew;
        sent.issue -= before.issue;
        sent.renew -= before.renew;
        sent.revoke -= before.revoke;
        sent.other -= before.other;
        sent
    }

    async fn comes_back(&self) {
        self.vault.mend();
        self.vault.script.up();
        let all_ready = || {
            self.rotators.iter().all(|r| r.provider().health().state == HealthState::Ready)
                && self.session.token_state().lost.is_none()
        };
        // Nobody does anything for it, and it does not take long: a refused login is tried again
        // within 5 min, and behind it a mint that was held up meanwhile.
        self.sim.until(Duration::from_secs(300 + 120), all_ready).await;
    }
}

/// An hour in which all is answered with `reply`, begun when a rotation has just happened.
async fn an_hour_of(reply: Reply) {
    an_hour_in(World::new().await, Duration::ZERO, Some(reply)).await;
}

/// The same, counted from when it has been so for a while. No reply: nobody listens.
async fn an_hour_in(world: World, after: Duration, reply: Option<Reply>) {
    world.sim.pass(HOUR / 4).await;
    // So that there is something to revoke as well.
    for rotator in &world.rotators {
        rotator.rotate();
    }
    world.vault.fail("sys/leases/revoke", Reply::json(503, ""));
    let swapped = || world.rotators.iter().all(|r| r.provider().current().number() == 2);
    world.sim.until(HOUR, swapped).await;

    let down = reply.is_none();
    match reply {
        Some(reply) => world.vault.fail("*", reply),
        None => world.vault.script.down(),
    }
    world.sim.pass(after).await;
    let before = world.session.calls();
    world.sim.pass(HOUR).await;
    let sent = world.sent_since(before);
    let providers = ROLES.len() as u64;
    assert!(sent.renew <= providers * TRIES, "{sent:?}");
    assert!(sent.issue <= providers * TRIES, "{sent:?}");
    assert!(sent.revoke <= providers * TRIES, "{sent:?}");
    assert!(sent.token_renew <= TRIES, "{sent:?}");
    // What callers ask for comes on top of the session's own tries.
    assert!(sent.login <= 2 * TRIES, "{sent:?}");
    assert_eq!(sent.other, 0, "{sent:?}");
    // And it has gone on trying.
    assert!(sent.renew + sent.issue + sent.login >= 30, "{sent:?}");
    for rotator in &world.rotators {
        assert_eq!(rotator.provider().current().number(), 2, "I6: the login stays");
        let error = rotator.provider().health().last_error.expect("an error");
        assert_eq!(error.kind == ErrorKind::Unreachable, down, "{error:?}");
    }
    world.comes_back().await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_down() {
    an_hour_in(World::new().await, Duration::ZERO, None).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_sealed() {
    an_hour_of(Reply::json(503, r#"{"errors":["Vault is sealed"]}"#)).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_hour_sealed_with_a_token_that_does_not_end() {
    let world = World::with(Duration::ZERO, Auth::token("s.given")).await;
    // Past the end of every lease.
    let sealed = Reply::json(503, r#"{"errors":["Vault is sealed"]}"#);
    an_hour_in(world, HOUR, Some(sealed)).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_leader() {
    an_hour_of(Reply::json(500, r#"{"errors":["local node not active"]}"#)).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_throttled() {
    an_hour_of(Reply::json(429, r#"{"errors":["rate limit quota exceeded"]}"#)).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_resets() {
    an_hour_of(Reply::reset()).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_silence() {
    an_hour_of(Reply::silence()).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_in_which_the_token_is_dead_and_logins_are_refused() {
    let world = World::new().await;
    let before = world.session.calls();
    world.vault.fail(sim::LOGIN, Reply::json(400, r#"{"errors":["invalid role or secret ID"]}"#));
    world.vault.fail_with("*", Reply::json(403, BARE), FIRST_TOKEN);
    for rotator in &world.rotators {
        rotator.rotate();
    }
    world.sim.pass(HOUR).await;
    let sent = world.sent_since(before);
    // Each may count towards a lock-out: every 5 s would be 720.
    assert!(sent.login <= 60, "{sent:?}");
    let others = sent.issue + sent.renew + sent.revoke + sent.token_renew + sent.other;
    assert!(others <= 12, "a dead token is not tried: {sent:?}");
    world.comes_back().await;
}

#[tokio::test(start_paused = true)]
async fn a_throttling_server_is_asked_when_it_said() {
    let world = World::new().await;
    let before = world.session.calls();
    let later = Reply::json(429, "").header("retry-after", "120");
    world.vault.fail("*", later);
    world.sim.pass(HOUR).await;
    let sent = world.sent_since(before);
    let providers = ROLES.len() as u64;
    assert!(sent.renew <= providers * 30 && sent.issue <= providers * 30, "{sent:?}");
    assert!(sent.token_renew <= 60 && sent.login <= 60, "{sent:?}");
    world.comes_back().await;
}

#[tokio::test(start_paused = true)]
async fn i6_callers_however_many_do_not_hammer_the_login() {
    let world = World::new().await;
    let sealed = Reply::json(503, r#"{"errors":["Vault is sealed"]}"#);
    world.vault.fail(sim::LOGIN, sealed);
    world.vault.fail_with("*", Reply::json(403, BARE), FIRST_TOKEN);
    let source = Arc::new(world.session.dynamic_role("database", "app"));
    let before = world.session.calls();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move {
                loop {
                    source.issue().await.expect_err("sealed");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            })
        })
        .collect();
    world.sim.pass(Duration::from_secs(600)).await;
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    let sent = world.sent_since(before);
    // One each 5 s, and some more at first.
    assert!(sent.login <= 600 / 5 + 20, "{sent:?}");
    assert!(sent.login >= 30, "{sent:?}");
    world.comes_back().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_be_asked_later_than_the_lease_lives_leaves_time_for_another_try() {
    let world = World::new().await;
    world.vault.fail(sim::ISSUE, Reply::json(429, "").header("retry-after", "3600"));
    world.vault.fail(sim::RENEW, Reply::json(403, POLICY));
    let provider = world.rotators[0].provider();
    let asked = || world.vault.asked(sim::ISSUE) >= 2;
    world.sim.until(2 * HOUR, asked).await;
    world.vault.mend();
    let ends = provider.health().expires_in.expect("an end");
    world.sim.until(ends, || provider.current().number() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn nor_does_it_keep_a_renewal_past_the_leeway() {
    let world = World::new().await;
    world.vault.fail(sim::RENEW, Reply::json(429, "").header("retry-after", "3600"));
    world.sim.until(HOUR, || world.vault.asked(sim::RENEW) >= ROLES.len()).await;
    world.vault.mend();
    let renewed = || world.rotators.iter().all(|r| r.provider().health().renewals >= 1);
    world.sim.until(HOUR / 3, renewed).await;
    assert!(world.rotators.iter().all(|r| r.provider().health().rotations == 0));
}

#[tokio::test(start_paused = true)]
async fn nor_does_it_keep_a_login_past_the_end_of_the_token() {
    let world = World::new().await;
    world.vault.fail(sim::LOGIN, Reply::json(429, "").header("retry-after", "3600"));
    let fixed = Reply::json(400, r#"{"errors":["lease is not renewable"]}"#);
    world.vault.fail(sim::TOKEN_RENEW, fixed);
    let asked = || world.vault.asked(sim::LOGIN) >= 2;
    world.sim.until(HOUR, asked).await;
    world.vault.mend();
    let left = world.session.token_state().remaining.expect("an end");
    world.sim.until(left, || world.session.token_state().login == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_change_during_a_renewal_is_over_without_a_rotation() {
    let world = World::new().await;
    for path in [sim::RENEW, sim::TOKEN_RENEW] {
        let gone = "https://vault-2.example:8200/v1/x";
        for reply in [
            Reply::reset(),
            Reply::json(
                500,
                r#"{"errors":["local node not active but active cluster node not found"]}"#,
            ),
            Reply::json(307, "").header("location", gone),
            Reply::json(503, r#"{"errors":["Vault is sealed"]}"#),
        ] {
            world.vault.fail(path, reply);
            let before = world.vault.asked(path);
            world.sim.until(HOUR, || world.vault.asked(path) > before).await;
            world.vault.mend();
        }
    }
    world.sim.pass(HOUR / 2).await;
    for rotator in &world.rotators {
        let health = rotator.provider().health();
        assert_eq!((health.rotations, health.state), (0, HealthState::Ready), "{health:?}");
        assert!(health.renewals >= 1, "{health:?}");
        assert!(health.last_error.is_none(), "{health:?}");
    }
    let token = world.session.token_state();
    assert_eq!((token.login, token.renewing), (1, true), "{token:?}");
}

#[tokio::test(start_paused = true)]
async fn i7_lost_answers_do_not_mint_in_a_loop() {
    // The server mints, and the answer never gets here.
    an_hour_of_minting(Reply::json(200, r#"{"lease_id":"#).cut_short()).await;
}

#[tokio::test(start_paused = true)]
async fn i7_answers_that_make_no_sense_do_not_mint_in_a_loop() {
    an_hour_of_minting(Reply::json(200, "<html>welcome</html>")).await;
}

async fn an_hour_of_minting(reply: Reply) {
    let sim = Sim::start().step(Duration::from_millis(500));
    let clock = sim.clock();
    let minute = Duration::from_secs(60);
    let vault = GoodVault::start(minute, minute, 24 * HOUR).await;
    let config = VaultConfig::new(vault.script.address()).clock(clock.clone());
    let login = Session::login(config, Auth::approle("role", "secret"));
    let session = sim.finish(login).await.unwrap();
    sim.watch(&session);
    let source = session.dynamic_role("database", "app");
    let rotator = sim.finish(Rotator::builder(source).clock(clock).start()).await.unwrap();

    vault.fail(sim::ISSUE, reply);
    let before = vault.asked(sim::ISSUE);
    sim.pass(HOUR).await;
    let asked = vault.asked(sim::ISSUE) - before;
    // One that is planned, a burst of two, and one per 30 s.
    assert!(asked <= 3 + 120, "{asked}");
    assert!(asked >= 100, "{asked}");
    vault.mend();
    let provider = rotator.provider();
    sim.until(minute, || provider.health().state == HealthState::Ready).await;
}
