//! Hours in milliseconds: a paused clock that moves only when everything that a step of time set
//! off is over, requests over real sockets included.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use leasehold::clock::Clock;
use leasehold_vault::Session;
use tokio::time::Instant;

use super::script::{Reply, Script};

/// Time of one test. Make it first, on a paused current-thread runtime that the scripted server
/// runs on too.
pub struct Sim {
    /// tokio lets a paused clock jump whenever it has nothing to do, which it takes a pending
    /// socket for. It does not while a blocking task runs: this one, until it is let go.
    _held: mpsc::Sender<()>,
    began: Instant,
    watched: Mutex<Vec<(Session, u64)>>,
    step: Duration,
}

/// So many turns of the scheduler, each with a look at the sockets: enough for a chain of tasks
/// that wake each other to come to its end, or to its request.
const TURNS: usize = 24;

/// Real time in which nothing happens any more once requests were under way.
const QUIET: Duration = Duration::from_millis(1);

impl Sim {
    /// Time that moves in steps of 100 ms.
    pub fn start() -> Self {
        let (held, wait) = mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || wait.recv()));
        Self {
            _held: held,
            began: Instant::now(),
            watched: Mutex::default(),
            step: Duration::from_millis(100),
        }
    }

    /// Steps of another length: what is due within one comes at its end.
    pub fn step(mut self, step: Duration) -> Self {
        self.step = step;
        self
    }

    /// The clock for sessions and rotators.
    pub fn clock(&self) -> Clock {
        let began = self.began;
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Clock::with_wall(move || base + began.elapsed())
    }

    /// Waits for this session's requests before time moves on.
    pub fn watch(&self, session: &Session) {
        self.watched.lock().expect("lock").push((session.clone(), 0));
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets `by` pass.
    pub async fn pass(&self, by: Duration) {
        let end = Instant::now() + by;
        while Instant::now() < end {
            self.settle().await;
            tokio::time::advance(self.step.min(end - Instant::now())).await;
        }
        self.settle().await;
    }

    /// Lets time pass until `done`, at most `limit`.
    #[track_caller]
    pub fn until(
        &self,
        limit: Duration,
        mut done: impl FnMut() -> bool,
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let end = Instant::now() + limit;
            loop {
                self.settle().await;
                if done() {
                    return;
                }
                assert!(Instant::now() < end, "not within {limit:?}, waited for at {place}");
                tokio::time::advance(self.step).await;
            }
        }
    }

    /// Runs `work` to its end, letting time pass where it waits for that.
    #[track_caller]
    pub fn finish<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        let place = std::panic::Location::caller();
        async move {
            let mut work = pin!(work);
            let end = Instant::now() + Duration::from_secs(3600);
            loop {
                let quiet = async {
                    turns().await;
                    quiet().await;
                };
                tokio::select! {
                    biased;
                    out = &mut work => return out,
                    () = quiet => {}
                }
                assert!(Instant::now() < end, "never ended, waited for at {place}");
                tokio::time::advance(self.step).await;
            }
        }
    }

    async fn settle(&self) {
        turns().await;
        loop {
            let mut asked = false;
            for (session, seen) in self.watched.lock().expect("lock").iter_mut() {
                let now = all_calls(session);
                asked |= now != *seen;
                *seen = now;
            }
            if !asked {
                return;
            }
            quiet().await;
        }
    }
}

/// How many requests a session has sent.
pub fn all_calls(session: &Session) -> u64 {
    let calls = session.calls();
    calls.login + calls.token_renew + calls.issue + calls.renew + calls.revoke + calls.other
}

async fn turns() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// Gives the sockets real time, which the paused clock does not see. This thread may sleep: all
/// there is to run is on it, and it looks in between.
async fn quiet() {
    for _ in 0..4 {
        std::thread::sleep(QUIET / 4);
        turns().await;
    }
}

/// A scripted server that does all that a good one does, and fails at what it is told to.
pub struct GoodVault {
    pub script: Script,
    state: Arc<Mutex<State>>,
}

struct State {
    lease_ttl: Duration,
    lease_max: Duration,
    token_ttl: Duration,
    minted: u64,
    logins: u64,
    /// By lease id: when it was issued.
    issued: HashMap<String, Instant>,
    faults: Vec<Fault>,
}

struct Fault {
    path: &'static str,
    reply: Reply,
    /// Only for requests that hold this.
    with: &'static str,
}

pub const LOGIN: &str = "auth/approle/login";
pub const TOKEN_RENEW: &str = "auth/token/renew-self";
pub const TOKEN_REVOKE: &str = "auth/token/revoke-self";
pub const TOKEN_LOOKUP: &str = "auth/token/lookup-self";
pub const ISSUE: &str = "database/creds/app";
pub const RENEW: &str = "sys/leases/renew";
pub const REVOKE: &str = "sys/leases/revoke";

/// What is in every request of the first login's token, and in no other.
pub const FIRST_TOKEN: &str = "s.login-1-";

impl GoodVault {
    pub async fn start(lease_ttl: Duration, lease_max: Duration, token_ttl: Duration) -> Self {
        let state = State {
            lease_ttl,
            lease_max,
            token_ttl,
            minted: 0,
            logins: 0,
            issued: HashMap::new(),
            faults: Vec::new(),
        };
        let vault = Self { script: Script::start().await, state: Arc::new(Mutex::new(state)) };
        vault.serve(LOGIN, |state, _| {
            state.logins += 1;
            auth(&format!("s.login-{}-", state.logins), state.token_ttl)
        });
        vault.serve(TOKEN_RENEW, |state, _| auth("s.same", state.token_ttl));
        vault.serve(TOKEN_REVOKE, |_, _| Reply::json(204, ""));
        vault.serve(TOKEN_LOOKUP, |state, _| {
            let ttl = state.token_ttl.as_secs();
            let expires = if ttl == 0 { "null" } else { r#""2100-01-01T00:00:00Z""# };
            Reply::json(
                200,
                format!(
                    r#"{{"data":{{"ttl":{ttl},"creation_ttl":{ttl},"renewable":true,
                       "expire_time":{expires},"type":"service"}}}}"#
                ),
            )
        });
        for path in [ISSUE, "database/creds/app2", "database/creds/app3"] {
            vault.serve(path, move |state, _| {
                state.minted += 1;
                let (n, ttl) = (state.minted, state.lease_ttl.as_secs());
                let id = format!("{path}/{n}");
                state.issued.insert(id.clone(), Instant::now());
                Reply::json(
                    200,
                    format!(
                        r#"{{"lease_id":"{id}","renewable":true,"lease_duration":{ttl},
                           "data":{{"username":"v-app-{n}","password":"pw-{n}"}}}}"#
                    ),
                )
            });
        }
        vault.serve(RENEW, |state, request| {
            let body: serde_json::Value =
                serde_json::from_str(request.rsplit("\r\n\r\n").next().unwrap_or_default())
                    .expect("JSON");
            let Some(issued) = state.issued.get(body["lease_id"].as_str().expect("an id")) else {
                return Reply::json(400, r#"{"errors":["lease not found"]}"#);
            };
            let rest = (*issued + state.lease_max).saturating_duration_since(Instant::now());
            let asked = body["increment"].as_u64().expect("an increment");
            let granted = asked.min(rest.as_secs());
            Reply::json(200, format!(r#"{{"lease_duration":{granted}}}"#))
        });
        vault.serve(REVOKE, |_, _| Reply::json(204, ""));
        vault
    }

    fn serve(
        &self,
        path: &'static str,
        good: impl Fn(&mut State, &str) -> Reply + Send + Sync + 'static,
    ) {
        let state = self.state.clone();
        self.script.answer_with(path, move |request| {
            let mut state = state.lock().expect("lock");
            let fault = state.faults.iter().find(|fault| {
                (fault.path == path || fault.path == "*") && request.contains(fault.with)
            });
            match fault {
                Some(fault) => fault.reply.clone(),
                None => good(&mut state, request),
            }
        });
    }

    /// From now on `path` (`*`: every one) answers with `reply`.
    pub fn fail(&self, path: &'static str, reply: Reply) {
        self.fail_with(path, reply, "");
    }

    /// The same for requests that hold `with` only.
    pub fn fail_with(&self, path: &'static str, reply: Reply, with: &'static str) {
        self.state.lock().expect("lock").faults.push(Fault { path, reply, with });
    }

    pub fn mend(&self) {
        self.state.lock().expect("lock").faults.clear();
    }

    /// How often `path` was asked.
    pub fn asked(&self, path: &str) -> usize {
        self.script.requests(path).len()
    }
}

fn auth(token: &str, ttl: Duration) -> Reply {
    let ttl = ttl.as_secs();
    Reply::json(
        200,
        format!(
            r#"{{"auth":{{"client_token":"{token}","lease_duration":{ttl},"renewable":true,
               "token_type":"service","num_uses":0}}}}"#
        ),
    )
}
