//! The process that is measured, which says what it sees of itself.

use std::io::Read;
use std::time::{Duration, Instant};

use leasehold::{CredentialProvider, Rotator};
use leasehold_drill::AnyError;
use leasehold_vault::{Auth, CallCounts, Session, VaultConfig};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

/// For what may take long on a machine that does too much at once.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a start leaves behind for a moment is gone after this.
const SETTLED: Duration = Duration::from_secs(1);

/// What a session has in flight at most, unless it is told otherwise.
const CONNECTIONS: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) vault: String,
    pub(crate) role_id: String,
    pub(crate) mount: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) providers: usize,
    pub(crate) pools: Pools,
    /// Seconds.
    pub(crate) rest: u64,
}

/// A pool for each provider, not connected yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pools {
    None,
    PlainSqlx,
    Sqlx,
    PlainDeadpool,
    Deadpool,
}

impl Pools {
    pub(crate) const ALL: [Self; 5] =
        [Self::None, Self::PlainSqlx, Self::Sqlx, Self::PlainDeadpool, Self::Deadpool];
}

/// What it saw. Memory and tasks are what each provider adds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) providers: usize,
    /// All of them at once, to the last one's first login.
    pub(crate) start_s: f64,
    pub(crate) heap_kib: f64,
    pub(crate) rss_kib: f64,
    pub(crate) tasks: f64,
    /// Of one core, while nothing happens.
    pub(crate) cpu_percent: f64,
    /// Requests over that time.
    pub(crate) requests_at_rest: u64,
    pub(crate) shutdown_s: f64,
    /// Reports of a shutdown that left something.
    pub(crate) unclean: usize,
    pub(crate) tasks_left: usize,
}

/// The role of the `n`th provider.
pub(crate) fn role(n: usize) -> String {
    format!("role{n:04}")
}

pub(crate) fn run(task: &str) -> Result<(), AnyError> {
    let task: Task = serde_json::from_str(task)?;
    let mut secret_id = String::new();
    std::io::stdin().read_to_string(&mut secret_id)?;
    let seen = tokio::runtime::Runtime::new()?.block_on(look(&task, secret_id))?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

async fn ask(session: Session) {
    // Whatever it says.
    session.health().await;
}

/// What the process has at one moment.
struct Moment {
    heap: usize,
    rss: u64,
    tasks: usize,
    cpu: Duration,
    at: Instant,
}

impl Moment {
    fn now() -> Result<Self, AnyError> {
        let heap = crate::HEAP.stats();
        Ok(Self {
            heap: heap.bytes_allocated - heap.bytes_deallocated,
            rss: rss_kib()?,
            tasks: Handle::current().metrics().num_alive_tasks(),
            cpu: cpu()?,
            at: Instant::now(),
        })
    }
}

async fn look(task: &Task, secret_id: String) -> Result<Seen, AnyError> {
    let alone = Handle::current().metrics().num_alive_tasks();
    let auth = Auth::approle(&task.role_id, secret_id);
    let session = Session::login(VaultConfig::new(&task.vault), auth).await?;
    // The one that is there already pays for what a process has once.
    let mut sources = (0..=task.providers).map(|n| session.dynamic_role(&task.mount, role(n)));
    let first = sources.next().ok_or("no source")?;
    let first = Service::start(Rotator::builder(first), task).await?;
    let sources: Vec<_> = sources.collect();
    // And for the connections that are kept, as many as are used at the same time.
    let asked: JoinSet<_> = (0..CONNECTIONS).map(|_| ask(session.clone())).collect();
    asked.join_all().await;
    tokio::time::sleep(SETTLED).await;
    let before = Moment::now()?;

    let mut starts = JoinSet::new();
    let begun = Instant::now();
    for source in sources {
        starts.spawn(Rotator::builder(source).start_timeout(PATIENCE).start());
    }
    let mut services = Vec::with_capacity(task.providers);
    while let Some(started) = starts.join_next().await {
        services.push(Service::of(started??, task)?);
    }
    let start_s = begun.elapsed().as_secs_f64();
    drop(starts);
    // Each source asks once what the policy gives it, and nobody waits for that.
    let all = task.providers as u64 + 1;
    leasehold_testkit::eventually("each source has asked for its rights", PATIENCE, async || {
        Ok(session.calls().privileges >= all)
    })
    .await?;
    tokio::time::sleep(SETTLED).await;

    let (rest, calls) = (Moment::now()?, session.calls());
    tokio::time::sleep(Duration::from_secs(task.rest)).await;
    let end = Moment::now()?;
    let requests_at_rest = sum(session.calls()) - sum(calls);
    let providers = task.providers as f64;
    let each = |now: f64, before: f64| (now - before) / providers;

    let begun = Instant::now();
    services.push(first);
    let mut shutdowns = JoinSet::new();
    for service in services {
        shutdowns.spawn(service.end());
    }
    let mut unclean = 0;
    while let Some(ended) = shutdowns.join_next().await {
        unclean += usize::from(!ended?);
    }
    drop(session);
    let shutdown_s = begun.elapsed().as_secs_f64();
    // The client's own, of connections that it keeps for a while.
    let left = || Handle::current().metrics().num_alive_tasks().saturating_sub(alone);
    leasehold_testkit::eventually("all tasks end", PATIENCE, async || Ok(left() == 0)).await.ok();
    Ok(Seen {
        providers: task.providers,
        start_s,
        heap_kib: each(end.heap as f64, before.heap as f64) / 1024.0,
        rss_kib: each(end.rss as f64, before.rss as f64),
        tasks: each(end.tasks as f64, before.tasks as f64),
        cpu_percent: (end.cpu - rest.cpu).as_secs_f64() / (end.at - rest.at).as_secs_f64() * 100.0,
        requests_at_rest,
        shutdown_s,
        unclean,
        tasks_left: left(),
    })
}

/// A rotator, and the pool that it may have.
struct Service {
    rotator: Rotator,
    _sqlx: Option<sqlx::PgPool>,
    _deadpool: Option<deadpool_postgres::Pool>,
}

impl Service {
    async fn start(builder: leasehold::RotatorBuilder, task: &Task) -> Result<Self, AnyError> {
        Self::of(builder.start_timeout(PATIENCE).start().await?, task)
    }

    fn of(rotator: Rotator, task: &Task) -> Result<Self, AnyError> {
        let (mut sqlx, mut deadpool) = (None, None);
        let provider = rotator.provider();
        let base = || {
            let base = PgConnectOptions::new_without_pgpass();
            base.host(&task.host).port(task.port).database(&task.database)
        };
        let config = || {
            let mut config = tokio_postgres::Config::new();
            config.host(&task.host).port(task.port).dbname(&task.database);
            config
        };
        match task.pools {
            Pools::None => {}
            Pools::PlainSqlx => sqlx = Some(PgPoolOptions::new().connect_lazy_with(base())),
            Pools::Sqlx => {
                let options = PgPoolOptions::new();
                sqlx = Some(leasehold_sqlx::connect_lazy(&provider, options, base())?);
            }
            Pools::PlainDeadpool => {
                let manager =
                    deadpool_postgres::Manager::new(with_login(config(), &provider), NoTls);
                deadpool = Some(deadpool_postgres::Pool::builder(manager).build()?);
            }
            Pools::Deadpool => {
                let pool = leasehold_deadpool::Installer::new();
                deadpool = Some(pool.connect_lazy(&provider, config(), NoTls, |b| b)?);
            }
        }
        Ok(Self { rotator, _sqlx: sqlx, _deadpool: deadpool })
    }

    /// Whether nothing is left.
    async fn end(self) -> bool {
        let left = self.rotator.shutdown(PATIENCE).await;
        if !left.is_clean() {
            eprintln!("shutdown: {left}");
        }
        left.is_clean()
    }
}

fn with_login(
    mut config: tokio_postgres::Config,
    provider: &CredentialProvider,
) -> tokio_postgres::Config {
    let current = provider.current();
    config.user(current.credential().username());
    config.password(current.credential().expose_password());
    config
}

fn sum(calls: CallCounts) -> u64 {
    let CallCounts { login, token_renew, issue, read, renew, revoke, privileges, other, .. } =
        calls;
    login + token_renew + issue + read + renew + revoke + privileges + other
}

/// Resident memory, the pages of the program's file not counted: they come with what is run first.
fn rss_kib() -> Result<u64, AnyError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// What all threads have run so far: to the nanosecond, where `times` counts hundredths.
pub(crate) fn cpu() -> Result<Duration, AnyError> {
    let mut nanos = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // It may have ended since.
        let Ok(stat) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanos += stat.split_whitespace().next().ok_or("no schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}
