//! Plays one cell: a service under load, a fault in its phase, its mending, and what is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leasehold::{HealthState, Rotator, ShutdownReport};
use leasehold_testkit::{Stack, Trap, eventually};
use tokio::sync::watch;
use tokio::time::timeout;

use super::cells::{Cell, Phase};
use super::scene::Scene;
use super::strike::{self, Lookout};
use super::verdict::{self, Outcome, Seen};
use crate::chronicle::{Chronicle, Told};
use crate::load::{self, Op, Shape, Until};
use crate::outcome::chain;
use crate::pools::AnyPool;
use crate::{AnyError, fail, world};

/// Longer than anything takes on a slow machine: a bound, never a measure.
pub(crate) const LONG: Duration = Duration::from_secs(90);
/// A start says within this, and its two steps before that, what is wrong.
const START: Duration = Duration::from_secs(5);
/// What a shutdown gives borrowed connections.
const DRAIN: Duration = Duration::from_secs(2);
pub(crate) const POOL: usize = 4;
/// Operations that have to succeed before a fault, and after it.
const ENOUGH: usize = 12;

const LOAD: Shape = Shape {
    workers: 3,
    pace: Duration::from_millis(50),
    long_every: Duration::from_millis(900),
    long: Duration::from_millis(600),
};

/// What runs in a cell.
struct Service {
    rotator: Rotator,
    pool: AnyPool,
}

/// A shutdown, and what there was around it.
pub(crate) struct Ending {
    pub(crate) report: ShutdownReport,
    /// When it was there.
    pub(crate) told: Instant,
    /// Logins that there were before it began, and since when they were asked for.
    pub(crate) before: (Instant, Vec<String>),
    /// And those that there were right after it.
    pub(crate) after: Vec<String>,
}

/// The load, and how far it is.
struct Load {
    stop: watch::Sender<bool>,
    /// Operations in a row that succeeded, and begun after the mark.
    good: watch::Receiver<usize>,
    mark: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Op>>,
}

impl Load {
    fn on(pool: AnyPool, chronicle: Chronicle) -> Self {
        let (stop, told) = watch::channel(false);
        let (count, good) = watch::channel(0);
        let mark = Arc::new(AtomicBool::new(false));
        let marked = mark.clone();
        let task = tokio::spawn(async move {
            let mut since = Instant::now();
            let each = |op: &Op| {
                if marked.swap(false, Ordering::SeqCst) {
                    since = Instant::now();
                    count.send_replace(0);
                }
                if let Some(failure) = &op.failure {
                    chronicle.note(format!(
                        "failed: {} {}{} after {:?}, dead {}, barren {}",
                        failure.sqlstate,
                        if failure.at_checkout { "at checkout: " } else { "" },
                        failure.message,
                        op.took,
                        op.dead,
                        op.barren
                    ));
                    count.send_replace(0);
                } else if op.begun >= since {
                    count.send_modify(|n| *n += 1);
                }
            };
            load::run(LOAD, pool, Until::Told(told), each).await.0
        });
        Self { stop, good, mark, task }
    }

    /// Counts anew.
    fn mark(&self) {
        self.mark.store(true, Ordering::SeqCst);
    }

    async fn serves(&self) -> Result<(), AnyError> {
        let mut good = self.good.clone();
        let enough = async {
            // A mark that nobody has seen yet leaves an old count.
            while self.mark.load(Ordering::SeqCst) {
                good.changed().await?;
            }
            good.wait_for(|n| *n >= ENOUGH).await?;
            Ok::<_, AnyError>(())
        };
        timeout(LONG, enough).await.map_err(|_| fail("the pool serves no more".into()))?
    }

    async fn end(self) -> Result<Vec<Op>, AnyError> {
        self.stop.send_replace(true);
        let ops = timeout(LONG, self.task).await;
        Ok(ops.map_err(|_| fail("an operation hangs".into()))??)
    }
}

/// Plays it. An error is a failed cell, as are the violations of an outcome.
pub(crate) async fn play(cell: Cell, stack: &Stack) -> Result<Outcome, (AnyError, Chronicle)> {
    let chronicle = Chronicle::silent();
    let played = async {
        let scene = Scene::set(cell, stack).await?;
        let played = match cell.phase {
            Phase::Start => start(&scene, &chronicle).await,
            _ => run(&scene, &chronicle).await,
        };
        if played.is_err() {
            // Others come after on these servers.
            scene.end().await?;
        }
        let outcome = played?;
        scene.db.remove().await?;
        Ok(outcome)
    };
    played.await.map_err(|e| (e, chronicle.clone()))
}

async fn service(
    scene: &Scene,
    chronicle: &Chronicle,
    lookout: &Lookout,
) -> Result<Service, AnyError> {
    let session = scene.log_in().await?;
    let source = session.dynamic_role(scene.db.mount(), scene.db.role());
    drop(session);
    let (ear, eye) = (chronicle.clone(), lookout.clone());
    let rotator = Rotator::builder(source)
        .start_timeout(START)
        .observer(move |event| {
            eye.hear(event);
            ear.hear(event);
        })
        .start()
        .await?;
    let provider = rotator.provider();
    let pool = AnyPool::connect(scene.cell.pool, POOL, &scene.place(), &provider).await;
    match pool {
        Ok(pool) => Ok(Service { rotator, pool }),
        Err(e) => {
            // As a service does that can't go on.
            rotator.shutdown(DRAIN).await;
            Err(e)
        }
    }
}

/// Any phase but the start.
async fn run(scene: &Scene, chronicle: &Chronicle) -> Result<Outcome, AnyError> {
    let lookout = Lookout::new(scene);
    let Service { rotator, pool } = service(scene, chronicle, &lookout).await?;
    let provider = rotator.provider();
    let load = Load::on(pool.clone(), chronicle.clone());
    load.serves().await?;

    let phase = scene.cell.phase;
    let held = timeout(LONG, strike::await_phase(scene, &lookout, &rotator)).await;
    let held = held.map_err(|_| fail(format!("the phase {} never came", phase.name())))?;
    chronicle.note(format!("-- fault: {}", scene.cell.fault.name()));
    // The fault itself may drop some.
    let before = logins(scene).await?;
    let began = Instant::now();
    strike(scene, held).await?;
    if phase == Phase::Shutdown {
        let ((), over, ending) = tokio::join!(
            async {
                load.stop.send_replace(true);
            },
            lasting(scene, chronicle),
            shut_down(scene, &rotator, chronicle, before)
        );
        let (over, ending) = (over?, ending?);
        let ops = load.end().await?;
        drop((pool, provider));
        return judge(scene, chronicle.told(), ops, (began, over), ending).await;
    }
    let over = lasting(scene, chronicle).await?;
    load.mark();
    load.serves().await?;
    eventually("the provider is healthy", LONG, async || {
        let health = provider.health();
        let sound = health.state == HealthState::Ready && health.last_error.is_none();
        Ok(sound && (!phase.of_rotation() || health.rotations > 0))
    })
    .await
    .map_err(|e| fail(format!("{e}: {:?}", provider.health())))?;
    eventually("superseded logins are gone", LONG, async || {
        let told = chronicle.told();
        let last = told.lives.keys().next_back().copied();
        let roles = scene.db.logins().await?;
        let old = told.lives.iter().filter(|(n, _)| Some(**n) != last);
        Ok(old.into_iter().all(|(_, life)| !roles.contains(&life.username)))
    })
    .await?;
    let ops = load.end().await?;
    drop(pool);
    let before = logins(scene).await?;
    let ending = shut_down(scene, &rotator, chronicle, before).await?;
    drop(provider);
    judge(scene, chronicle.told(), ops, (began, over), ending).await
}

/// Puts the fault in force, then lets go what is held.
async fn strike(scene: &Scene, held: Option<Trap>) -> Result<(), AnyError> {
    if !scene.cell.fault.restarts_postgres() {
        scene.begin().await?;
        drop(held);
        return Ok(());
    }
    // A server that shuts down waits for whoever is just logging in, up to a minute.
    let let_go = async { drop(held) };
    tokio::join!(scene.begin(), let_go).0
}

/// The fault's time goes by, and it is mended. Returns when it was certainly over.
async fn lasting(scene: &Scene, chronicle: &Chronicle) -> Result<Instant, AnyError> {
    if scene.cell.fault.kind().is_none_or(|kind| kind.is_outage()) {
        tokio::time::sleep(scene.cell.fault.lasts()).await;
    }
    chronicle.note("-- mended");
    scene.end().await?;
    Ok(Instant::now())
}

async fn logins(scene: &Scene) -> Result<(Instant, Vec<String>), AnyError> {
    let asked = Instant::now();
    Ok((asked, scene.db.logins().await?))
}

async fn shut_down(
    scene: &Scene,
    rotator: &Rotator,
    chronicle: &Chronicle,
    before: (Instant, Vec<String>),
) -> Result<Ending, AnyError> {
    let report = timeout(LONG, rotator.shutdown(DRAIN)).await;
    let report = report.map_err(|_| fail("the shutdown hangs".into()))?;
    let told = Instant::now();
    chronicle.note(format!("shutdown: {report}"));
    let after = scene.db.logins().await?;
    Ok(Ending { report, told, before, after })
}

async fn judge(
    scene: &Scene,
    told: Told,
    ops: Vec<Op>,
    fault: (Instant, Instant),
    ending: Ending,
) -> Result<Outcome, AnyError> {
    let clean = ending.report.is_clean();
    eventually("no lease and no login is left", LONG, async || {
        Ok(scene.db.lease_count().await? == 0 && scene.db.logins().await?.is_empty())
    })
    .await?;
    let left = world::left(&scene.db).await?;
    let tokens = world::tokens(&scene.stack, &scene.db).await?.len();
    let logins = scene.stack.login_records().await?;
    let seen = Seen {
        cell: scene.cell,
        ops: &ops,
        fault,
        told: &told,
        logins: &logins,
        ending: &ending,
        sessions: left.sessions,
        tokens: if clean { tokens } else { 0 },
    };
    Ok(verdict::of(&seen))
}

/// The fault is there when the service starts: it starts late, or says why it can't, and can
/// afterwards.
async fn start(scene: &Scene, chronicle: &Chronicle) -> Result<Outcome, AnyError> {
    let trap = strike::trap_start(scene);
    let lookout = Lookout::new(scene);
    let attempt = async {
        let asked = Instant::now();
        let made = service(scene, chronicle, &lookout).await;
        (made, asked.elapsed())
    };
    let breaking = async {
        trap.caught().await;
        chronicle.note(format!("-- fault: {}", scene.cell.fault.name()));
        let began = Instant::now();
        strike(scene, Some(trap)).await?;
        Ok::<_, AnyError>((began, lasting(scene, chronicle).await?))
    };
    let both = async { tokio::join!(attempt, breaking) };
    let both = timeout(LONG, both).await.map_err(|_| fail("the start hangs".into()))?;
    let ((made, took), fault) = both;
    let fault = fault?;
    let mut refusal = None;
    // Each that starts tells its own story.
    let mut heard = chronicle.clone();
    let service = match made {
        Ok(service) => service,
        Err(error) => {
            let told = chain(&*error);
            chronicle.note(format!("start failed after {took:?}: {told}"));
            refusal = Some(told);
            // Mended, it starts. What throttles may still count what went before.
            timeout(LONG, async {
                loop {
                    heard = Chronicle::silent();
                    match service(scene, &heard, &lookout).await {
                        Ok(service) => return service,
                        Err(e) => chronicle.note(format!("and again: {}", chain(&*e))),
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            })
            .await
            .map_err(|_| fail("it does not start after the fault".into()))?
        }
    };
    let Service { rotator, pool } = service;
    let load = Load::on(pool.clone(), chronicle.clone());
    load.serves().await?;
    let ops = load.end().await?;
    drop(pool);
    let before = logins(scene).await?;
    let ending = shut_down(scene, &rotator, chronicle, before).await?;
    let mut told = heard.told();
    if refusal.is_some() {
        told.lines.extend(chronicle.told().lines);
        told.lines.sort_by_key(|line| line.0);
    }
    let mut outcome = judge(scene, told, ops, fault, ending).await?;
    outcome.start(refusal);
    Ok(outcome)
}
