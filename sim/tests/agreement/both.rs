//! One sequence, done to the model and to real servers, step by step.
//!
//! The model runs on the servers' own wall clock, so that whole seconds are cut where they cut
//! them. When exactly a server did what it was asked is known no better than between sending and
//! answer: the model is asked at many instants in between, and has to agree at one of them. What
//! it is then, at the first and at the last such instant, is kept as `early` and `late`, and what
//! is true of the server has to be true of one of the two.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leasehold::clock::Time;
use leasehold_sim::vault::{
    AppRole, LeaseId, LoginId, Refusal, Rights, Role, Throttle, TokenId, Vault, Weather,
};
use leasehold_testkit::{
    AppRoleSpec, DatabaseSpec, Error, PostgresShutdown, RoleSpec, Stack, TestDb,
};
use serde_json::{Value, json};

/// How long a server may take to end what is over. Much longer than it does, for loaded machines.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done. Tokens and leases are numbered from 0 in the order of their making; an issue
/// that is refused makes none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    Login,
    RenewToken(usize, u64),
    RevokeToken(usize),
    LookupToken(usize),
    Issue(usize),
    Renew(usize, usize, u64),
    Revoke(usize, usize),
    RevokeQueued(usize, usize),
    Lookup(usize, usize),
    /// The root token, as one more token.
    Root,
    RevokeByHand(usize),
    RevokeByForce(usize),
    RevokeTokenByHand(usize),
    DropPgRole(usize),
    SetRole(Option<Role>),
    SetAppRole(Option<AppRole>),
    SetRights(Rights),
    /// Something depends on the login, so that it can't be dropped.
    RefuseDrops(usize),
    AllowDrops(usize),
    Seal,
    Unseal,
    StopVault,
    StartVault,
    LeaderStepsDown,
    AwaitLeader,
    Throttle,
    Unthrottle,
    StopPostgres,
    StartPostgres,
    /// Until so many milliseconds after the sequence began.
    At(u64),
    /// Until the model says that a lease is gone.
    Gone(usize),
    /// Until the model says that a token is gone.
    TokenGone(usize),
    /// Renews every few milliseconds until it is refused.
    RenewUntilRefused(usize, usize, u64),
    RenewTokenUntilRefused(usize, u64),
}

/// An answer, or that a thing was done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Seen {
    Done,
    /// Seconds granted.
    Granted(u64),
    /// Seconds left; `None` for a token without an end.
    Left(Option<i64>),
    Refused(Refusal),
}

impl Seen {
    /// Equal, as far as a server's rounding can be foretold.
    fn agrees(self, other: Self) -> bool {
        match (self, other) {
            // What is left is rounded one way for tokens, and another for leases.
            (Self::Left(Some(a)), Self::Left(Some(b))) => a.abs_diff(b) <= 1,
            // Headers are not read here.
            (Self::Refused(Refusal::Throttled(_)), Self::Refused(Refusal::Throttled(_))) => true,
            _ => self == other,
        }
    }
}

pub(crate) struct Both {
    db: TestDb,
    secret_id: String,
    base: SystemTime,
    begun: Time,
    early: Vault,
    late: Vault,
    tokens: Vec<(TokenId, String)>,
    leases: Vec<Made>,
    /// Issues that came too late: on a slow machine a token ends before all is done with it.
    unmade: usize,
    /// What was done and answered, for the message of a failure.
    log: Vec<String>,
    /// Steps and answers, for the list of what was covered.
    pub(crate) covered: Vec<(&'static str, Seen)>,
}

#[derive(Clone, Debug)]
struct Made {
    lease: LeaseId,
    login: LoginId,
    id: String,
    username: String,
}

impl Both {
    pub(crate) async fn new(stack: &Stack, role: Role, app: AppRole) -> Self {
        let seconds = Duration::from_secs;
        let mut app_role = AppRoleSpec::new().no_default_policy().policy("");
        if app.batch {
            app_role = app_role.batch_tokens();
        }
        let spec = RoleSpec::new("app")
            .default_ttl(seconds(role.default_ttl))
            .max_ttl(seconds(role.max_ttl));
        let spec = DatabaseSpec::new("agree").role(spec).app_role(app_role);
        let db = stack.database(spec).await.unwrap();
        // A whole second, as the model begins on one.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let vault = Vault::new(role, app);
        let mut both = Self {
            secret_id: db.secret_id().await.unwrap(),
            db,
            base: UNIX_EPOCH + seconds(since),
            begun: Time::ZERO,
            early: vault.clone(),
            late: vault,
            tokens: Vec::new(),
            leases: Vec::new(),
            unmade: 0,
            log: Vec::new(),
            covered: Vec::new(),
        };
        both.really(Step::SetRights(Rights::ALL)).await;
        both.really(Step::SetAppRole(Some(app))).await;
        both.begun = both.now();
        both
    }

    fn now(&self) -> Time {
        Time::from_start(SystemTime::now().duration_since(self.base).unwrap())
    }

    pub(crate) async fn step(&mut self, step: Step) {
        // A lease that both say was not made: there is nothing to be done with it.
        let made = self.leases.len();
        if lease_of(step).is_some_and(|lease| (made..made + self.unmade).contains(&lease)) {
            return self.log.push(format!("{step:?}: not made"));
        }
        match step {
            Step::At(ms) => self.sleep_until(self.begun + Duration::from_millis(ms)).await,
            Step::Gone(lease) => {
                let lease = self.leases[lease].lease;
                while let Some(at) = self.late.lease(lease).map(|_| self.late.next_due().unwrap()) {
                    self.sleep_until(at).await;
                    self.pass(self.now());
                }
                self.look().await;
            }
            Step::TokenGone(token) => {
                let token = self.tokens[token].0;
                while let Some(at) = self.late.token(token).map(|_| self.late.next_due().unwrap()) {
                    self.sleep_until(at).await;
                    self.pass(self.now());
                }
                self.look().await;
            }
            Step::RenewUntilRefused(token, lease, by) => {
                self.until_refused(Step::Renew(token, lease, by)).await;
            }
            Step::RenewTokenUntilRefused(token, by) => {
                self.until_refused(Step::RenewToken(token, by)).await;
            }
            step => {
                self.once(step).await;
                self.look().await;
            }
        }
    }

    async fn until_refused(&mut self, step: Step) {
        while !matches!(self.once(step).await, Seen::Refused(_)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.look().await;
    }

    async fn once(&mut self, step: Step) -> Seen {
        let sent = self.now();
        let real = self.really(step).await;
        let answered = self.now();
        let apart = (answered - sent).max(Duration::from_millis(1)) / 200;
        let mut agreeing: Option<(Vault, Vault)> = None;
        let mut said = Vec::new();
        let mut at = sent;
        loop {
            for base in [&self.early, &self.late] {
                for (vault, seen) in self.possible(base, at, step) {
                    if seen.agrees(real) {
                        let first = agreeing.take().map(|(first, _)| first);
                        agreeing = Some((first.unwrap_or_else(|| vault.clone()), vault));
                    } else if !said.contains(&seen) {
                        said.push(seen);
                    }
                }
            }
            if at >= answered {
                break;
            }
            at = (at + apart.max(Duration::from_millis(1))).min(answered);
        }
        self.log.push(format!("{sent:?} to {answered:?}: {step:?}: {real:?}"));
        let Some((early, late)) = agreeing else {
            self.disagree(&format!("{step:?}: the server says {real:?}, the model {said:?}"));
        };
        (self.early, self.late) = (early, late);
        if matches!((step, real), (Step::Issue(_), Seen::Refused(Refusal::TokenDead))) {
            self.unmade += 1;
        }
        self.covered.push((name_of(step), real));
        real
    }

    /// What the model may do at `at`. How long servers take to agree on a leader is not known, nor
    /// whether the first that they agree on lasts: until one is awaited they may answer or not.
    fn possible(&self, base: &Vault, at: Time, step: Step) -> Vec<(Vault, Seen)> {
        let mut vault = base.clone();
        let seen = self.modelled(&mut vault, at, step);
        let mut possible = vec![(vault, seen)];
        if base.weather().electing && step != Step::AwaitLeader {
            let (electing, mut vault) = (base.weather(), base.clone());
            vault.set_weather(at, Weather { electing: false, ..electing });
            let seen = self.modelled(&mut vault, at, step);
            vault.set_weather(at, electing);
            possible.push((vault, seen));
        }
        possible
    }

    /// What the server knows of leases, tokens and roles is what the model knows. What the model
    /// says is over may take the server a moment to end, but nothing may end early.
    async fn look(&mut self) {
        let begun = tokio::time::Instant::now();
        loop {
            let sent = self.now();
            self.early.advance(sent);
            let leases = self.real_leases().await;
            let tokens = self.real_tokens().await;
            let roles = self.real_roles().await;
            self.pass(self.now());
            let mut late = Vec::new();
            for (made, there) in self.leases.iter().zip(leases) {
                let (before, after) =
                    (self.early.lease(made.lease).is_some(), self.late.lease(made.lease).is_some());
                self.compare(&mut late, &format!("lease {}", made.id), there, before, after);
            }
            for ((token, _), there) in self.tokens.iter().zip(tokens) {
                let (before, after) =
                    (self.early.token(*token).is_some(), self.late.token(*token).is_some());
                self.compare(&mut late, &format!("{token:?}"), there, before, after);
            }
            for (made, role) in self.leases.iter().zip(roles) {
                let (before, after) =
                    (self.early.pg_role(made.login), self.late.pg_role(made.login));
                let there = role.map(|role| role.is_some());
                let what = format!("role {}", made.username);
                self.compare(&mut late, &what, there, before.is_some(), after.is_some());
                if let (Some(Some(until)), Some(before), Some(after)) = (role, before, after) {
                    // Rounded to whole seconds on its way into SQL.
                    let slack = 1.5;
                    let (from, to) = (self.unix(before.valid_until), self.unix(after.valid_until));
                    if until < from.min(to) - slack || until > from.max(to) + slack {
                        self.disagree(&format!("{what} is valid until {until}, not {from}..{to}"));
                    }
                }
            }
            if late.is_empty() {
                return;
            }
            if begun.elapsed() > PATIENCE {
                self.disagree(&format!("still there after {PATIENCE:?}: {late:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn compare(
        &self,
        late: &mut Vec<String>,
        what: &str,
        there: Option<bool>,
        before: bool,
        after: bool,
    ) {
        match there {
            Some(false) if before && after => {
                self.disagree(&format!("{what} is gone, the model still has it"));
            }
            Some(true) if !before && !after => late.push(what.to_owned()),
            _ => {}
        }
    }

    fn disagree(&self, problem: &str) -> ! {
        let log = self.log.join("\n  ");
        panic!(
            "{problem}\n  {log}\nearly: {:?}\nlate: {:?}\nleases: {:?}",
            self.early, self.late, self.leases
        )
    }

    fn unix(&self, at: Time) -> f64 {
        let base = self.base.duration_since(UNIX_EPOCH).unwrap();
        (base + at.since_start()).as_secs_f64()
    }

    fn pass(&mut self, now: Time) {
        self.early.advance(now);
        self.late.advance(now);
    }

    async fn sleep_until(&self, at: Time) {
        tokio::time::sleep(self.now().until(at)).await;
        // Timers are of another clock.
        while self.now() < at {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    // ---- the model

    fn modelled(&self, vault: &mut Vault, now: Time, step: Step) -> Seen {
        let token = |index: usize| self.tokens[index].0;
        let lease = |index: usize| self.leases[index].lease;
        let weather = |vault: &mut Vault, change: fn(&mut Weather)| {
            let mut weather = vault.weather();
            change(&mut weather);
            vault.set_weather(now, weather);
            Seen::Done
        };
        let granted = |answer: Result<u64, Refusal>| answer.map(Seen::Granted);
        let done = |answer: Result<(), Refusal>| answer.map(|()| Seen::Done);
        let by_hand =
            |done: bool| Ok(if done { Seen::Done } else { Seen::Refused(Refusal::Postgres) });
        let seen = match step {
            Step::Login => vault.login(now).map(|grant| Seen::Granted(grant.ttl)),
            Step::RenewToken(t, by) => granted(vault.renew_token(now, token(t), by)),
            Step::RevokeToken(t) => done(vault.revoke_token(now, token(t))),
            Step::LookupToken(t) => {
                vault.lookup_token(now, token(t)).map(|left| Seen::Left(left.map(u64::cast_signed)))
            }
            Step::Issue(t) => vault.issue(now, token(t), 0).map(|grant| Seen::Granted(grant.ttl)),
            Step::Renew(t, l, by) => granted(vault.renew(now, token(t), lease(l), by)),
            Step::Revoke(t, l) => done(vault.revoke(now, token(t), lease(l))),
            Step::RevokeQueued(t, l) => done(vault.revoke_queued(now, token(t), lease(l))),
            Step::Lookup(t, l) => {
                vault.lookup(now, token(t), lease(l)).map(|left| Seen::Left(Some(left)))
            }
            Step::Root => {
                vault.root_token(now);
                Ok(Seen::Done)
            }
            Step::RevokeByHand(l) => by_hand(vault.revoke_by_hand(now, lease(l))),
            Step::RevokeByForce(l) => by_hand(vault.revoke_by_force(now, lease(l))),
            Step::RevokeTokenByHand(t) => by_hand(vault.revoke_token_by_hand(now, token(t))),
            Step::DropPgRole(l) => by_hand(vault.drop_pg_role(now, self.leases[l].login)),
            Step::SetRole(role) => {
                vault.set_role(now, 0, role);
                Ok(Seen::Done)
            }
            Step::SetAppRole(app) => {
                vault.set_app_role(now, app);
                Ok(Seen::Done)
            }
            Step::SetRights(rights) => {
                vault.set_rights(now, rights);
                Ok(Seen::Done)
            }
            Step::RefuseDrops(l) => {
                vault.advance(now);
                match vault.pg_role(self.leases[l].login) {
                    Some(_) => Ok(weather(vault, |w| w.drops_refused = true)),
                    None => Err(Refusal::Postgres),
                }
            }
            Step::AllowDrops(_) => Ok(weather(vault, |w| w.drops_refused = false)),
            Step::Seal => Ok(weather(vault, |w| w.sealed = true)),
            Step::Unseal => Ok(weather(vault, |w| w.sealed = false)),
            Step::StopVault => Ok(weather(vault, |w| w.down = true)),
            Step::StartVault => Ok(weather(vault, |w| w.down = false)),
            Step::LeaderStepsDown => Ok(weather(vault, |w| w.electing = true)),
            Step::AwaitLeader => Ok(weather(vault, |w| w.electing = false)),
            Step::Throttle => {
                Ok(weather(vault, |w| w.throttled = Some(Throttle { retry_after: None })))
            }
            Step::Unthrottle => Ok(weather(vault, |w| w.throttled = None)),
            Step::StopPostgres => Ok(weather(vault, |w| w.postgres_down = true)),
            Step::StartPostgres => Ok(weather(vault, |w| w.postgres_down = false)),
            Step::At(_)
            | Step::Gone(_)
            | Step::TokenGone(_)
            | Step::RenewUntilRefused(..)
            | Step::RenewTokenUntilRefused(..) => unreachable!("carried out by step()"),
        };
        seen.unwrap_or_else(Seen::Refused)
    }

    /// The id that the model gives to what it makes next: the same in `early` and `late`, since
    /// both have made the same.
    fn next_id(&self) -> u32 {
        self.early.peek_id()
    }

    // ---- the servers

    async fn really(&mut self, step: Step) -> Seen {
        let stack = self.db.stack().clone();
        let token = |index: usize| self.tokens[index].1.clone();
        let lease = |index: usize| self.leases[index].id.clone();
        match step {
            Step::Login => {
                let body = json!({ "role_id": self.db.role_id(), "secret_id": self.secret_id });
                let reply = self.ask("", "POST", "auth/approle/login", Some(body)).await;
                self.read(step, reply, |both, reply| {
                    let made = reply["auth"]["client_token"].as_str().unwrap().to_owned();
                    both.tokens.push((TokenId(both.next_id()), made));
                    Seen::Granted(reply["auth"]["lease_duration"].as_u64().unwrap())
                })
            }
            Step::RenewToken(t, by) => {
                let body = json!({ "increment": by });
                let reply = self.ask(&token(t), "POST", "auth/token/renew-self", Some(body)).await;
                self.read(step, reply, |_, reply| {
                    Seen::Granted(reply["auth"]["lease_duration"].as_u64().unwrap())
                })
            }
            Step::RevokeToken(t) => {
                let reply = self.ask(&token(t), "POST", "auth/token/revoke-self", None).await;
                self.read(step, reply, |_, _| Seen::Done)
            }
            Step::LookupToken(t) => {
                let reply = self.ask(&token(t), "GET", "auth/token/lookup-self", None).await;
                self.read(step, reply, |_, reply| {
                    let endless = reply["data"]["expire_time"].is_null();
                    let left = reply["data"]["ttl"].as_i64();
                    Seen::Left(if endless { None } else { left })
                })
            }
            Step::Issue(t) => {
                let path = format!("{}/creds/{}", self.db.mount(), self.db.role());
                let reply = self.ask(&token(t), "GET", &path, None).await;
                self.read(step, reply, |both, reply| {
                    let text = |value: &Value| value.as_str().unwrap().to_owned();
                    both.leases.push(Made {
                        lease: LeaseId(both.next_id()),
                        login: LoginId(both.next_id() + 1),
                        id: text(&reply["lease_id"]),
                        username: text(&reply["data"]["username"]),
                    });
                    Seen::Granted(reply["lease_duration"].as_u64().unwrap())
                })
            }
            Step::Renew(t, l, by) => {
                let body = json!({ "lease_id": lease(l), "increment": by });
                let reply = self.ask(&token(t), "PUT", "sys/leases/renew", Some(body)).await;
                self.read(step, reply, |_, reply| {
                    Seen::Granted(reply["lease_duration"].as_u64().unwrap())
                })
            }
            Step::Revoke(t, l) | Step::RevokeQueued(t, l) => {
                let sync = matches!(step, Step::Revoke(..));
                let body = json!({ "lease_id": lease(l), "sync": sync });
                let reply = self.ask(&token(t), "PUT", "sys/leases/revoke", Some(body)).await;
                self.read(step, reply, |_, _| Seen::Done)
            }
            Step::Lookup(t, l) => {
                let body = json!({ "lease_id": lease(l) });
                let reply = self.ask(&token(t), "PUT", "sys/leases/lookup", Some(body)).await;
                self.read(step, reply, |_, reply| Seen::Left(reply["data"]["ttl"].as_i64()))
            }
            Step::Root => {
                self.tokens.push((TokenId(self.next_id()), stack.root_token().to_owned()));
                Seen::Done
            }
            Step::RevokeByHand(l) => by_hand(stack.revoke_lease(&lease(l)).await),
            Step::RevokeByForce(l) => by_hand(stack.revoke_prefix(&lease(l), true).await),
            Step::RevokeTokenByHand(t) => by_hand(stack.revoke_token(&token(t)).await),
            Step::DropPgRole(l) => by_hand(self.db.drop_login(&self.leases[l].username).await),
            Step::SetRole(None) => {
                self.db.delete_role("app").await.unwrap();
                Seen::Done
            }
            Step::SetRole(Some(role)) => {
                let body = json!({
                    "db_name": self.db.name(),
                    "default_ttl": role.default_ttl,
                    "max_ttl": role.max_ttl,
                });
                self.db.update_role("app", body).await.unwrap();
                Seen::Done
            }
            Step::SetAppRole(app) => {
                let path = format!("auth/approle/role/{}", self.db.name());
                match app {
                    None => self.admin("DELETE", &path, None).await,
                    Some(app) => {
                        let body = json!({
                            "token_ttl": app.token_ttl,
                            "token_max_ttl": app.token_max_ttl,
                            "token_period": app.period,
                        });
                        self.admin("POST", &path, Some(body)).await;
                    }
                }
                Seen::Done
            }
            Step::SetRights(rights) => {
                self.db.set_policy(&policy(self.db.mount(), rights)).await.unwrap();
                Seen::Done
            }
            Step::RefuseDrops(l) => {
                let user = &self.leases[l].username;
                let sql = format!(
                    "create table in_the_way (); alter table in_the_way owner to \"{user}\""
                );
                match self.db.admin().await.unwrap().batch_execute(&sql).await {
                    Ok(()) => Seen::Done,
                    // Its lease has ended already, and the table was not made either.
                    Err(e) if e.code().is_some_and(|code| code.code() == "42704") => {
                        Seen::Refused(Refusal::Postgres)
                    }
                    Err(e) => panic!("{e:?}"),
                }
            }
            Step::AllowDrops(_) => {
                let sql = "drop table if exists in_the_way";
                self.db.admin().await.unwrap().batch_execute(sql).await.unwrap();
                Seen::Done
            }
            Step::Seal => did(stack.seal_vault().await),
            Step::Unseal => did(stack.unseal_vault().await),
            Step::StopVault => did(stack.stop_vault().await),
            Step::StartVault => did(stack.start_vault().await),
            Step::LeaderStepsDown => {
                self.admin("PUT", "sys/step-down", Some(json!({}))).await;
                Seen::Done
            }
            Step::AwaitLeader => {
                // A node that stepped down takes over again at once where there is no other, and
                // for some ten seconds may leave off once more.
                let begun = tokio::time::Instant::now();
                let mut in_a_row = 0;
                while in_a_row < 120 {
                    let (status, reply) =
                        stack.vault_request("GET", "sys/mounts", None).await.unwrap();
                    in_a_row = if status == 200 { in_a_row + 1 } else { 0 };
                    let waited = begun.elapsed();
                    assert!(waited < PATIENCE * 5, "after {waited:?} still {status} {reply}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Seen::Done
            }
            Step::Throttle => {
                let quota = "sys/quotas/rate-limit/agreement";
                let exempt = ["sys/health", "sys/seal-status", "sys/unseal", quota];
                let config = json!({ "rate_limit_exempt_paths": exempt });
                self.admin("POST", "sys/quotas/config", Some(config)).await;
                let body = json!({ "path": "", "rate": 1.0, "interval": "600s" });
                self.admin("POST", quota, Some(body)).await;
                self.await_status("sys/mounts", |status| status == 429).await;
                Seen::Done
            }
            Step::Unthrottle => {
                self.admin("DELETE", "sys/quotas/rate-limit/agreement", None).await;
                Seen::Done
            }
            Step::StopPostgres => did(stack.stop_postgres(PostgresShutdown::Fast).await),
            Step::StartPostgres => did(stack.start_postgres().await),
            Step::At(_)
            | Step::Gone(_)
            | Step::TokenGone(_)
            | Step::RenewUntilRefused(..)
            | Step::RenewTokenUntilRefused(..) => unreachable!("carried out by step()"),
        }
    }

    async fn admin(&self, method: &str, path: &str, body: Option<Value>) {
        let (status, reply) = self.db.stack().vault_request(method, path, body).await.unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {reply}");
    }

    async fn await_status(&self, path: &str, good: fn(u16) -> bool) {
        let begun = tokio::time::Instant::now();
        loop {
            let (status, reply) = self.db.stack().vault_request("GET", path, None).await.unwrap();
            if good(status) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} still answers {status} {reply}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        match self.db.stack().vault_request_as(token, method, path, body).await {
            Ok(reply) => Some(reply),
            Err(Error::NoAnswer { .. }) => None,
            Err(e) => panic!("{method} {path}: {e}"),
        }
    }

    fn read(
        &mut self,
        step: Step,
        reply: Option<(u16, Value)>,
        good: impl FnOnce(&mut Self, &Value) -> Seen,
    ) -> Seen {
        match reply {
            None => Seen::Refused(Refusal::Down),
            Some((200..300, body)) => good(self, &body),
            Some((status, body)) => {
                let text = body["errors"].as_array().into_iter().flatten();
                let text = text.filter_map(Value::as_str).collect::<Vec<_>>().join("; ");
                match refusal(step, status, &text) {
                    Some(refusal) => Seen::Refused(refusal),
                    None => self.disagree(&format!("{step:?}: {status} {text:?} is not known")),
                }
            }
        }
    }

    fn observable(&self) -> bool {
        let weather = self.late.weather();
        weather.serves() && weather.throttled.is_none()
    }

    async fn real_leases(&self) -> Vec<Option<bool>> {
        let mut there = Vec::new();
        for made in &self.leases {
            there.push(match self.observable() {
                true => Some(self.db.stack().lookup_lease(&made.id).await.unwrap().is_some()),
                false => None,
            });
        }
        there
    }

    async fn real_tokens(&self) -> Vec<Option<bool>> {
        let mut there = Vec::new();
        for (_, token) in &self.tokens {
            there.push(match self.observable() {
                true => Some(self.db.stack().lookup_token(token).await.unwrap().is_some()),
                false => None,
            });
        }
        there
    }

    /// When each login ends in Postgres, if it is there.
    async fn real_roles(&self) -> Vec<Option<Option<f64>>> {
        if self.late.weather().postgres_down {
            return vec![None; self.leases.len()];
        }
        let users: Vec<_> = self.leases.iter().map(|made| made.username.as_str()).collect();
        let sql = "select rolname::text, extract(epoch from rolvaliduntil)::float8 from pg_roles
            where rolname = any($1)";
        let rows = self.db.admin().await.unwrap().query(sql, &[&users]).await.unwrap();
        let until = |user: &str| {
            let row = rows.iter().find(|row| row.get::<_, String>(0) == user)?;
            Some(row.get::<_, f64>(1))
        };
        users.into_iter().map(|user| Some(until(user))).collect()
    }
}

fn did(result: leasehold_testkit::Result<()>) -> Seen {
    result.unwrap();
    Seen::Done
}

/// A refusal of what a person does is Postgres's, and is told apart from nothing else.
fn by_hand(result: leasehold_testkit::Result<()>) -> Seen {
    match result {
        Ok(()) => Seen::Done,
        Err(Error::Vault { status: 400, .. }) => Seen::Refused(Refusal::Postgres),
        Err(e) => panic!("{e}"),
    }
}

fn lease_of(step: Step) -> Option<usize> {
    match step {
        Step::Renew(_, lease, _)
        | Step::Revoke(_, lease)
        | Step::RevokeQueued(_, lease)
        | Step::Lookup(_, lease)
        | Step::RevokeByHand(lease)
        | Step::RevokeByForce(lease)
        | Step::DropPgRole(lease)
        | Step::RefuseDrops(lease)
        | Step::AllowDrops(lease)
        | Step::Gone(lease)
        | Step::RenewUntilRefused(_, lease, _) => Some(lease),
        _ => None,
    }
}

fn name_of(step: Step) -> &'static str {
    match step {
        Step::Login => "login",
        Step::RenewToken(..) => "renew a token",
        Step::RevokeToken(..) => "revoke a token",
        Step::LookupToken(..) => "look up a token",
        Step::Issue(..) => "issue",
        Step::Renew(..) => "renew",
        Step::Revoke(..) => "revoke",
        Step::RevokeQueued(..) => "revoke, queued",
        Step::Lookup(..) => "look up",
        _ => "by hand",
    }
}

fn policy(mount: &str, rights: Rights) -> String {
    let rule =
        |path: &str, right: &str| format!("path \"{path}\" {{ capabilities = [\"{right}\"] }}\n");
    let mut hcl = String::new();
    for path in ["renew-self", "revoke-self"] {
        hcl += &rule(&format!("auth/token/{path}"), "update");
    }
    hcl += &rule("auth/token/lookup-self", "read");
    if rights.issue {
        hcl += &rule(&format!("{mount}/creds/*"), "read");
    }
    for (allowed, path) in
        [(rights.renew, "renew"), (rights.revoke, "revoke"), (rights.lookup, "lookup")]
    {
        if allowed {
            hcl += &rule(&format!("sys/leases/{path}"), "update");
        }
    }
    hcl
}

/// What a server's answer is in the model's words.
fn refusal(step: Step, status: u16, text: &str) -> Option<Refusal> {
    let has = |part: &str| text.contains(part);
    let token = matches!(step, Step::RenewToken(..) | Step::RevokeToken(..));
    Some(match status {
        429 => Refusal::Throttled(None),
        503 if has("sealed") => Refusal::Sealed,
        307 => Refusal::NoLeader,
        500 if has("local node not active") => Refusal::NoLeader,
        403 if text == "permission denied" => Refusal::TokenDead,
        403 => Refusal::Denied,
        400 if matches!(step, Step::Login) && has("invalid role or secret ID") => Refusal::BadLogin,
        400 if matches!(step, Step::Issue(_)) && has("unknown role") => Refusal::UnknownRole,
        400 if token && (has("not renewable") || has("batch tokens")) => Refusal::NotRenewable,
        500 if token && has("does not exist during renewal") => Refusal::NotRenewable,
        500 if token && has("past the max TTL") => Refusal::TokenPastMaxTtl,
        400 if has("lease not found") || has("invalid lease") => Refusal::LeaseUnknown,
        400 if has("lease expired") => Refusal::LeaseExpired,
        400 if has("failed previous revocation") => Refusal::Irrevocable,
        400 if has("past the max TTL") => Refusal::PastMaxTtl,
        400 if has("could not find role") => Refusal::RoleGone,
        400 if has("failed to renew entry") || has("failed to revoke entry") => Refusal::Postgres,
        500 if matches!(step, Step::Issue(_)) && has("failed to connect") => Refusal::Postgres,
        _ => return None,
    })
}
