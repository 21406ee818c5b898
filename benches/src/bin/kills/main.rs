//! `cargo kills`: kills a service at random moments, again and again, and looks at what it leaves.
//!
//! Each lane is one service that is killed (SIGKILL) and started anew at once, on a role of its
//! own. Half of the kills come at a random time, half shortly after something has happened that
//! leaves most behind: a login, a mint, a swap, a drain, a revocation. In the end the services stop
//! in order, and what the killed ones left has its TTL and 5 s (`--late`) to go. Progress goes to stderr; the
//! last line on stdout is one JSON object.

#![forbid(unsafe_code)]

mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use leasehold_drill::{AnyError, outcome};
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TestDb};
use serde::Serialize;
use serde_json::Value;
use service::Place;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A service that takes longer to come up is broken, on any machine.
const UP: Duration = Duration::from_secs(120);
/// A lane in which so many services failed is over: more of the same tells nothing new.
const FAILURES: u32 = 5;

/// Kills services at random moments, and looks at what they leave.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo kills --")]
struct Args {
    /// How many kills.
    #[arg(long, default_value_t = 200)]
    times: u32,
    /// Draws the moments. What the machine does meanwhile is not drawn from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Services at once.
    #[arg(long, default_value_t = 6)]
    lanes: u32,
    /// TTL of the role and of the token, in seconds; the maximum TTL of the role is twice that.
    #[arg(long, default_value_t = 4)]
    ttl: u64,
    /// What the server may be late with an expiry, in seconds.
    #[arg(long, default_value_t = 5)]
    late: u64,
    /// Be such a service: where, as JSON. The secret_id comes on stdin.
    #[arg(long, hide = true)]
    service: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    kills: u32,
    seed: u64,
    ttl_s: u64,
    lanes: u32,
    /// What the service had told last when it was killed.
    kills_after: BTreeMap<String, u32>,
    /// Services that ended by themselves, or did not come up.
    start_failures: u32,
    late_s: u64,
    /// Leases of which more than `late_s` after their end something was left, at any time.
    leases_left_past_ttl: usize,
    /// Logins that let anybody in at the end.
    logins_left_past_ttl: usize,
    tokens_left_past_ttl: usize,
    /// Postgres roles with no lease, which nobody can log in with: of mints that were cut.
    roles_left: usize,
    /// From the end of the last service until nothing but such roles was left, or until that was
    /// given up: `ttl_s` and `late_s`.
    seconds_until_clean: f64,
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.service {
        Some(place) => service::run(place).await.map(|()| true),
        None => kills(&args).await,
    };
    outcome::exit("kills", done)
}

async fn kills(args: &Args) -> Result<bool, AnyError> {
    let begun = Instant::now();
    eprintln!("starting OpenBao and Postgres");
    let stack = Stack::builder().audit_raw().start().await?;
    let db = database(&stack, args).await?;
    let over = Arc::new(AtomicBool::new(false));
    let late = Duration::from_secs(args.late);
    let watch = tokio::spawn(overdue(db.clone(), late, over.clone()));
    let mut report = Report {
        seed: args.seed,
        ttl_s: args.ttl,
        lanes: args.lanes,
        late_s: args.late,
        ..Report::default()
    };

    let (tell, mut told) = mpsc::unbounded_channel();
    let mut lanes = JoinSet::new();
    for lane in 0..args.lanes {
        let times = args.times / args.lanes + u32::from(lane < args.times % args.lanes);
        let random = fastrand::Rng::with_seed(args.seed ^ (u64::from(lane) << 32));
        let lane = Lane { db: db.clone(), role: role(lane), random, tell: tell.clone() };
        lanes.spawn(lane.run(times, Duration::from_secs(args.ttl)));
    }
    drop(tell);
    while let Some(outcome) = told.recv().await {
        match outcome {
            Outcome::Killed { after } => {
                report.kills += 1;
                *report.kills_after.entry(after).or_default() += 1;
                if report.kills.is_multiple_of(20) {
                    eprintln!("{} kills, {} start failures", report.kills, report.start_failures);
                }
            }
            Outcome::Failed(why) => {
                report.start_failures += 1;
                eprintln!("start failure: {why}");
            }
        }
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    let ended = Instant::now();
    let limit = Duration::from_secs(args.ttl) + late;
    eprintln!("all lanes have ended; what they left has {limit:?} to go");
    // Nothing of this comes back once it is gone: the last look is the first one that finds none.
    loop {
        let last = ended.elapsed() >= limit;
        let leases = leases(&db).await?;
        report.leases_left_past_ttl = leases.len();
        report.tokens_left_past_ttl = tokens(&stack).await?;
        let left = db.logins().await?;
        report.roles_left = left.len();
        report.logins_left_past_ttl = that_work(&db, &left).await?;
        report.seconds_until_clean = ended.elapsed().as_secs_f64();
        if report.is_clean() || last {
            over.store(true, Ordering::SeqCst);
            let mut past = watch.await??;
            past.extend(leases);
            report.leases_left_past_ttl = past.len();
            break;
        }
        tokio::time::sleep(Duration::from_secs(1).min(limit.saturating_sub(ended.elapsed()))).await;
    }
    report.seconds = begun.elapsed().as_secs();
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.is_clean() && report.start_failures == 0 && report.kills == args.times)
}

impl Report {
    fn is_clean(&self) -> bool {
        self.leases_left_past_ttl + self.logins_left_past_ttl + self.tokens_left_past_ttl == 0
    }
}

fn role(lane: u32) -> String {
    format!("lane{lane}")
}

async fn database(stack: &Stack, args: &Args) -> Result<TestDb, AnyError> {
    let ttl = Duration::from_secs(args.ttl);
    let token = AppRoleSpec::new().token_ttl(ttl).token_max_ttl(Duration::from_secs(3600));
    let mut spec = DatabaseSpec::new("kills").app_role(token).with_accounts();
    for lane in 0..args.lanes {
        spec = spec.role(RoleSpec::new(role(lane)).default_ttl(ttl).max_ttl(2 * ttl));
    }
    Ok(stack.database(spec).await?)
}

enum Outcome {
    Killed { after: String },
    Failed(String),
}

/// One service, killed and started anew.
struct Lane {
    db: TestDb,
    role: String,
    random: fastrand::Rng,
    tell: mpsc::UnboundedSender<Outcome>,
}

/// When the next kill comes.
enum Moment {
    /// After so long.
    Time(Duration),
    /// So long after the service has told this for the `nth` time.
    After { what: &'static str, nth: u32, time: Duration },
}

impl Lane {
    async fn run(mut self, times: u32, ttl: Duration) -> Result<(), AnyError> {
        let (mut killed, mut failed) = (0, 0);
        while killed < times {
            let moment = self.moment(ttl);
            match self.one(&moment).await? {
                Ok(after) => {
                    killed += 1;
                    self.outcome(Outcome::Killed { after });
                }
                // One that fails is not one that was killed.
                Err(why) => {
                    failed += 1;
                    self.outcome(Outcome::Failed(why));
                    if failed == FAILURES {
                        return Ok(());
                    }
                }
            }
        }
        // The last one has to work, and to end in order.
        let mut last = Service::start(&self.db, &self.role).await?;
        match tokio::time::timeout(UP, last.end_in_order()).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => self.outcome(Outcome::Failed(why)),
            Err(_) => {
                self.outcome(Outcome::Failed(format!("the last one hangs after {}", last.told)))
            }
        }
        Ok(())
    }

    fn outcome(&self, outcome: Outcome) {
        // Heard until the last lane has ended.
        let _ = self.tell.send(outcome);
    }

    fn moment(&mut self, ttl: Duration) -> Moment {
        if self.random.bool() {
            return Moment::Time(ttl.mul_f64(1.5 * self.random.f64()));
        }
        let what = self.random.choice(service::TELLS).expect("the list is not empty");
        let often = ["rotating", "issued", "swapped", "drained", "revoked"].contains(what);
        let nth = if often { self.random.u32(1..=3) } else { 1 };
        Moment::After { what, nth, time: Duration::from_micros(self.random.u64(0..20_000)) }
    }

    /// Starts one, and kills it. The inner error: it ended by itself, or it did not come up.
    async fn one(&mut self, moment: &Moment) -> Result<Result<String, String>, AnyError> {
        let mut service = Service::start(&self.db, &self.role).await?;
        let came = match *moment {
            Moment::Time(time) => {
                tokio::select! {
                    () = tokio::time::sleep(time) => Ok(()),
                    ended = service.follow(|_| false) => ended,
                }
            }
            Moment::After { what, nth, time } => {
                let mut left = nth;
                let enough = |told: &str| {
                    left -= u32::from(told == what);
                    left == 0
                };
                match tokio::time::timeout(UP, service.follow(enough)).await {
                    Ok(ended) => {
                        tokio::time::sleep(time).await;
                        ended
                    }
                    Err(_) => Err(format!("no {what:?} in {UP:?}, the last was {}", service.told)),
                }
            }
        };
        match came {
            Ok(()) => {
                service.child.start_kill()?;
                service.child.wait().await?;
                Ok(Ok(service.told))
            }
            Err(why) => Ok(Err(why)),
        }
    }
}

struct Service {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    told: String,
}

impl Service {
    async fn start(db: &TestDb, role: &str) -> Result<Self, AnyError> {
        let place = Place {
            vault: db.vault_addr(),
            role_id: db.role_id().to_owned(),
            mount: db.mount().to_owned(),
            role: role.to_owned(),
            host: db.pg_host().to_owned(),
            port: db.pg_port(),
            database: db.name().to_owned(),
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--service", &serde_json::to_string(&place)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        stdin.write_all(format!("{}\n", db.secret_id().await?).as_bytes()).await?;
        let lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        Ok(Self { child, stdin: Some(stdin), lines, told: "spawn".to_owned() })
    }

    /// Reads what it tells until `enough`. An error if it ends before.
    async fn follow(&mut self, mut enough: impl FnMut(&str) -> bool) -> Result<(), String> {
        loop {
            match self.lines.next_line().await {
                Ok(Some(told)) => {
                    self.told = told;
                    if enough(&self.told) {
                        return Ok(());
                    }
                }
                Ok(None) | Err(_) => return Err(format!("ended by itself after {}", self.told)),
            }
        }
    }

    async fn end_in_order(&mut self) -> Result<(), String> {
        self.follow(|told| told == service::WORKING).await?;
        drop(self.stdin.take());
        // Its last words.
        let _ = self.follow(|_| false).await;
        match self.child.wait().await {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("the last one did not end in order: {other:?}")),
        }
    }
}

async fn leases(db: &TestDb) -> Result<Vec<String>, AnyError> {
    let mut all = Vec::new();
    for role in db.roles() {
        all.extend(db.leases_of(role).await?);
    }
    Ok(all)
}

/// Leases that were there though they had ended more than `late` ago, whenever that was.
async fn overdue(
    db: TestDb,
    late: Duration,
    over: Arc<AtomicBool>,
) -> Result<BTreeSet<String>, AnyError> {
    let mut found = BTreeSet::new();
    while !over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for lease in leases(&db).await? {
            let Some(seen) = db.stack().lookup_lease(&lease).await? else { continue };
            // Below zero where the end has passed.
            let left = seen["ttl"].as_i64().unwrap_or(i64::MAX);
            if left.saturating_add_unsigned(late.as_secs()) < 0 {
                eprintln!("a lease has ended {left} s ago, and is there");
                found.insert(lease);
            }
        }
    }
    Ok(found)
}

/// Tokens that an AppRole login made.
async fn tokens(stack: &Stack) -> Result<usize, AnyError> {
    let mut left = 0;
    for accessor in stack.token_accessors().await? {
        let body = serde_json::json!({ "accessor": accessor });
        let path = "auth/token/lookup-accessor";
        let (_, seen) = stack.vault_request("POST", path, Some(body)).await?;
        left += usize::from(seen["data"]["path"] == "auth/approle/login");
    }
    Ok(left)
}

/// How many of these roles let somebody in: with the password that the server's audit has, or, of
/// a mint that was cut before its answer was made, by the end that Postgres itself has for them.
async fn that_work(db: &TestDb, roles: &[String]) -> Result<usize, AnyError> {
    let audit = db.stack().raw_audit().await?;
    let mut passwords = BTreeMap::new();
    for line in audit.lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        let data = &entry["response"]["data"];
        if let (Some(user), Some(password)) = (data["username"].as_str(), data["password"].as_str())
        {
            passwords.insert(user.to_owned(), password.to_owned());
        }
    }
    let admin = Arc::new(db.admin().await?);
    let mut work = 0;
    for role in roles {
        let lets_in = match passwords.get(role) {
            Some(password) => db.connect(role, password).await.is_ok(),
            None => {
                let sql = "SELECT coalesce(rolvaliduntil > now(), true) FROM pg_roles \
                           WHERE rolname = $1";
                admin.query_one(sql, &[role]).await?.get(0)
            }
        };
        work += usize::from(lets_in);
    }
    Ok(work)
}
