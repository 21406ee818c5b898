//! One history, from the start of a rotator to its end.

use std::sync::Arc;
use std::time::Duration;

use leasehold::clock::Time;
use leasehold::simulation::policy::SHUTDOWN_WRAP_UP;
use leasehold::{CredentialProvider, Rotator, ShutdownReport};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

use super::pool::ModelPool;
use super::source::ModelSource;
use super::world::{Dice, Temper, World, login_of};
use super::{Invariant, Outcome};
use crate::vault::{AppRole, Lease, LeaseId, LeaseState, Rights, Role, Throttle, Vault, Weather};

const SECOND: Duration = Duration::from_secs(1);
/// A shutdown may take so much longer than its drain: the last revocations, and giving back tokens
/// to a server that does not answer.
const WRAP_UP: Duration = Duration::from_secs(5);
/// The longest that a request of the model source may take, with one for a login before it and one
/// more with a new token.
const REQUEST: Duration = Duration::from_secs(280);
/// Once the weather is good, this is enough to be served again: the longest pauses (5 min each of
/// the limiter and of what a person has to mend), and two mints that hang.
const RECOVERY: Duration = Duration::from_secs(1200);

/// What a history is like.
struct Plan {
    role: Role,
    app: Option<AppRole>,
    length: Duration,
    grace: Option<Duration>,
    roll: Option<Duration>,
    start_timeout: Duration,
    pools: u64,
    deeds: u64,
}

pub(super) fn run(seed: u64, traced: bool) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    // What the rotator draws from.
    fastrand::seed(rng.u64(..));
    let (plan, temper) = draw(&mut rng);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread and no I/O needs nothing that could be missing");
    let (world, provider) = runtime.block_on(async {
        let vault = Vault::new(plan.role, plan.app.unwrap_or(AppRole::new(600, 1200)));
        let world = World::new(rng, vault, temper, traced);
        let longest = plan.length * 2 + RECOVERY * 4 + SECOND * 36_000;
        let provider = match tokio::time::timeout(longest, history(&world, &plan)).await {
            Ok(provider) => provider,
            Err(_) => {
                world.violate(Invariant::I11NothingHangs, "the history does not end");
                None
            }
        };
        (world, provider)
    });
    world.with(|state| state.over = true);
    drop(runtime);
    if let Some(provider) = provider {
        // With its runtime the rotator is gone, however it was left.
        let stopped = provider.health().stopped;
        world.check(Invariant::I11NeverSilent, stopped.is_some(), || {
            "the runtime is gone, and health does not say so".to_owned()
        });
    }
    let (steps, swaps, faults) =
        world.with(|state| (state.steps, state.swaps, std::mem::take(&mut state.faults)));
    Outcome {
        time: world.with(|state| state.vault.now()).since_start(),
        steps,
        rotations: swaps.saturating_sub(1),
        faults,
        hash: world.hash(),
        violations: world.take_violations(),
        trace: world.take_lines(),
    }
}

fn draw(rng: &mut fastrand::Rng) -> (Plan, Temper) {
    const TTLS: [u64; 9] = [4, 6, 10, 20, 60, 120, 300, 900, 3600];
    let default_ttl = TTLS[rng.usize(..TTLS.len())];
    let max_ttl = default_ttl * rng.u64(1..=6);
    let app = rng.bool().then(|| {
        let token_ttl = default_ttl * rng.u64(1..=4) + rng.u64(10..100);
        AppRole::new(token_ttl, token_ttl * rng.u64(1..=4))
    });
    let length = Duration::from_secs(default_ttl) * rng.u32(2..=24);
    let short = Duration::from_secs(default_ttl).mul_f64(0.05 + rng.f64() * 0.3);
    let plan = Plan {
        role: Role { default_ttl, max_ttl },
        app,
        length,
        grace: (rng.u8(..) < 80).then_some(short),
        roll: (rng.u8(..) < 60).then(|| short.mul_f64(rng.f64() / 4.0)),
        start_timeout: Duration::from_millis(rng.u64(500..60_000)),
        pools: rng.u64(0..=3),
        deeds: rng.u64(0..=30),
    };
    let gentle = rng.u8(..) < 40;
    let mut rough = |of: u32| if gentle || rng.bool() { 0 } else { rng.u32(0..of) };
    let temper = Temper {
        gentle,
        lost: rough(150),
        slow: rough(150),
        panics: rough(40),
        observer_panics: rough(300),
    };
    (plan, temper)
}

/// Everything of ours that runs beside the rotator.
#[derive(Default)]
struct Crew(Vec<JoinHandle<()>>);

impl Crew {
    fn add(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }

    async fn dismiss(self) {
        for task in &self.0 {
            task.abort();
        }
        for task in self.0 {
            // Aborted.
            let _ = task.await;
        }
    }
}

async fn history(world: &Arc<World>, plan: &Plan) -> Option<CredentialProvider> {
    let dice = &world.dice();
    let root = match plan.app {
        Some(_) => None,
        None => Some(world.vault(|vault, now| vault.root_token(now))),
    };
    if !world.temper.gentle && dice.chance(100, 1000) {
        bad_weather(world, dice);
    }
    let observer = Arc::downgrade(world);
    let mut builder = Rotator::builder(ModelSource::new(world, root))
        .clock(world.clock())
        .start_timeout(plan.start_timeout)
        .observer(move |event| {
            if let Some(world) = observer.upgrade() {
                world.observe(event);
            }
        });
    if let Some(grace) = plan.grace {
        builder = builder.grace(grace);
    }
    if let Some(roll) = plan.roll {
        builder = builder.roll(roll);
    }
    let given_up_after = if dice.chance(60, 1000) {
        dice.span(Duration::from_millis(1), plan.start_timeout)
    } else {
        plan.start_timeout + SHUTDOWN_WRAP_UP + SECOND
    };
    let begun = tokio::time::Instant::now();
    let start = tokio::time::timeout(given_up_after, builder.start()).await;
    let took = begun.elapsed();
    // One that fails gives back what it made before it returns, for as long as a shutdown would.
    let bound = plan.start_timeout + SHUTDOWN_WRAP_UP + SECOND / 2;
    world.check(Invariant::I9EndsInTime, took <= bound, || format!("start took {took:?}"));
    let rotator = match start {
        Ok(Ok(rotator)) => rotator,
        Ok(Err(e)) => {
            world.step(format_args!("no start: {e}"));
            nothing_is_left(world, None).await;
            return None;
        }
        Err(_) => {
            world.fault("start given up");
            nothing_is_left(world, None).await;
            return None;
        }
    };
    let provider = rotator.provider();
    world.set_provider(provider.clone());
    world.with(|state| {
        // Told before there was a provider to look at.
        let current = provider.current();
        state.by_number.insert(current.number(), login_of(current.credential().username()));
    });
    let mut crew = Crew::default();
    for _ in 0..2 {
        crew.add(subscriber(world.clone(), provider.clone()));
    }
    if world.temper.gentle {
        crew.add(accepted(world.clone(), provider.clone()));
    }
    for _ in 0..plan.pools {
        attach(world, &provider, plan, dice, &mut crew);
    }
    let ends = begun + plan.length;
    let mean = plan.length / u32::try_from(plan.deeds.max(1)).unwrap_or(1);
    for _ in 0..plan.deeds {
        let pause = dice.span(mean / 20, mean * 2);
        let next = tokio::time::Instant::now() + pause;
        if next >= ends {
            break;
        }
        tokio::time::sleep_until(next).await;
        deed(world, dice, &provider, &rotator, plan, &mut crew).await;
    }
    tokio::time::sleep_until(ends).await;
    end(world, dice, rotator, provider, plan, crew).await
}

fn attach(
    world: &Arc<World>,
    provider: &CredentialProvider,
    plan: &Plan,
    dice: &Dice,
    crew: &mut Crew,
) {
    let Some(pool) = ModelPool::attach(world, provider, dice) else {
        return;
    };
    // A few thousand acquires in a history, however long it is.
    let pause = (plan.length / 100).clamp(SECOND / 4, SECOND * 120);
    let longest = Duration::from_secs(plan.role.default_ttl * 2);
    for _ in 0..dice.draw(1..=3) {
        crew.add(pool.clone().borrow(world.dice(), pause, longest));
    }
}

/// I6: nothing goes wrong, so the current login is good.
async fn accepted(world: Arc<World>, provider: CredentialProvider) {
    let dice = world.dice();
    loop {
        tokio::time::sleep(dice.span(SECOND / 10, SECOND * 5)).await;
        if world.with(|state| state.harmed || state.stopping) {
            return;
        }
        let current = provider.current().clone();
        let good = world.lets_in(login_of(current.credential().username()));
        world.check(Invariant::I6CurrentIsAccepted, good, || {
            format!("generation {} is current, and refused", current.number())
        });
    }
}

/// I11: sees generations rise, and learns of the end at once.
async fn subscriber(world: Arc<World>, provider: CredentialProvider) {
    let mut subscription = provider.subscribe();
    let mut seen = subscription.latest().number();
    loop {
        match subscription.changed().await {
            Ok(generation) => {
                let (number, current) = (generation.number(), provider.current().number());
                world.check(Invariant::I11NeverSilent, number > seen && number == current, || {
                    format!("a subscriber sees {number} after {seen}, {current} is current")
                });
                seen = number;
            }
            Err(stopped) => {
                let latest = subscription.latest().number();
                let current = provider.current().number();
                world.check(Invariant::I11NeverSilent, latest == current, || {
                    format!("the last that a subscriber sees is {latest} of {current}: {stopped}")
                });
                let told = world.with(|state| state.stopped);
                let late = told.map(|stop| stop.at.elapsed()).unwrap_or_default();
                world.check(Invariant::I11NeverSilent, late < SECOND / 100, || {
                    format!("a subscriber learns of the end after {late:?}")
                });
                world.step(format_args!("a subscriber learns: {stopped}"));
                world.with(|state| state.told += 1);
                return;
            }
        }
    }
}

fn bad_weather(world: &World, dice: &Dice) {
    let kind = dice.draw(0..6);
    let name = ["down", "sealed", "electing", "throttled", "Postgres down", "drops refused"];
    world.fault(name[usize::try_from(kind).unwrap_or(0)]);
    world.vault(|vault, now| {
        let mut weather = vault.weather();
        match kind {
            0 => weather.down = true,
            1 => weather.sealed = true,
            2 => weather.electing = true,
            3 => weather.throttled = Some(Throttle { retry_after: None }),
            4 => weather.postgres_down = true,
            _ => weather.drops_refused = true,
        }
        vault.set_weather(now, weather);
    });
    if kind == 3 && dice.chance(1, 2) {
        let secs = dice.draw(1..=600);
        world.vault(|vault, now| {
            let throttled = Some(Throttle { retry_after: Some(secs) });
            vault.set_weather(now, Weather { throttled, ..vault.weather() });
        });
    }
    if kind == 4 {
        world.with(|state| state.postgres_unreachable = true);
        for pool in world.with(|state| state.pools.clone()) {
            pool.cut();
        }
    }
}

fn good_weather(world: &World, plan: &Plan) {
    world.step("good weather");
    world.vault(|vault, now| {
        vault.set_weather(now, Weather::default());
        vault.set_rights(now, Rights::ALL);
        vault.set_role(now, 0, Some(plan.role));
    });
    world.with(|state| {
        state.postgres_unreachable = false;
        state.replica_lag = Duration::ZERO;
    });
}

/// Something that somebody does, or the weather.
async fn deed(
    world: &Arc<World>,
    dice: &Dice,
    provider: &CredentialProvider,
    rotator: &Rotator,
    plan: &Plan,
    crew: &mut Crew,
) {
    let kind = dice.draw(0..if world.temper.gentle { 6 } else { 20 });
    let current = login_of(provider.current().credential().username());
    let lease = world.with(|state| state.minted.get(&current).map(|minted| minted.lease));
    match kind {
        0 | 1 => {
            world.step("rotate");
            rotator.rotate();
        }
        2 | 3 => attach(world, provider, plan, dice, crew),
        4 => {
            let pools = world.with(|state| state.pools.clone());
            if !pools.is_empty() {
                let which = usize::try_from(dice.draw(..)).unwrap_or(0) % pools.len();
                pools[which].leave();
            }
        }
        5 => {
            // Somebody who is wrong, or sees what every query would.
            world.step("suspected");
            provider.report(provider.current().number(), leasehold::Observation::Suspected);
        }
        6..=9 => bad_weather(world, dice),
        10 | 11 => good_weather(world, plan),
        12 => {
            world.fault("lease revoked by hand");
            if let Some(lease) = lease {
                world.vault(|vault, now| vault.revoke_by_hand(now, lease));
            }
        }
        13 => {
            world.fault("role dropped by hand");
            world.vault(|vault, now| vault.drop_pg_role(now, current));
        }
        14 => {
            world.fault("tokens revoked by hand");
            world.vault(|vault, now| {
                let tokens: Vec<_> = vault.tokens().filter(|(_, t)| t.ends.is_some()).collect();
                for (token, _) in tokens {
                    vault.revoke_token_by_hand(now, token);
                }
            });
        }
        15 => {
            world.fault("rights taken away");
            let rights = dice.draw(0..8);
            world.vault(|vault, now| {
                let [issue, renew, revoke] = [1, 2, 4].map(|bit| rights & bit != 0);
                vault.set_rights(now, Rights { issue, renew, revoke, lookup: true });
            });
        }
        16 => {
            world.fault("role changed");
            let ttl = plan.role.default_ttl * dice.draw(1..=4) / 2;
            let gone = dice.chance(200, 1000);
            world.vault(|vault, now| {
                let role = Role { default_ttl: ttl, max_ttl: ttl * 2 };
                vault.set_role(now, 0, (!gone).then_some(role));
            });
        }
        17 => world.suspend(dice.span(SECOND, Duration::from_secs(plan.role.default_ttl * 3))),
        18 => {
            let by = dice.span(SECOND / 10, SECOND * 7200).as_millis();
            let by = i64::try_from(by).unwrap_or(0);
            world.set_wall(if dice.chance(1, 2) { by } else { -by });
        }
        _ => {
            world.fault("replica lags");
            let lag = dice.span(SECOND / 10, SECOND * 20);
            world.with(|state| state.replica_lag = lag);
        }
    }
}

/// The end, one of several.
async fn end(
    world: &Arc<World>,
    dice: &Dice,
    rotator: Rotator,
    provider: CredentialProvider,
    plan: &Plan,
    crew: Crew,
) -> Option<CredentialProvider> {
    let (stopped, panics) = (provider.health().stopped, world.with(|state| state.panics));
    world.check(Invariant::I11SurvivesAPanic, stopped.is_none() || panics > 1, || {
        format!("after {panics} panics it has ended: {stopped:?}")
    });
    if dice.chance(400, 1000) {
        recovers(world, &provider, plan).await;
    }
    match dice.draw(0..10) {
        0 => {
            // The runtime ends in the middle of everything.
            world.step("the runtime ends");
            world.with(|state| state.stopping = true);
            drop(rotator);
            Some(provider)
        }
        1 | 2 => {
            world.step("the rotator is dropped");
            world.with(|state| state.stopping = true);
            drop(rotator);
            tokio::time::sleep(SECOND / 10).await;
            let stopped = provider.health().stopped.is_some();
            world.check(Invariant::I11NeverSilent, stopped, || {
                "the rotator was dropped, and health does not say so".to_owned()
            });
            settle(world, &provider, crew).await;
            nothing_is_left(world, None).await;
            Some(provider)
        }
        _ => {
            shut_down(world, dice, rotator, &provider, plan, crew).await;
            Some(provider)
        }
    }
}

async fn shut_down(
    world: &Arc<World>,
    dice: &Dice,
    rotator: Rotator,
    provider: &CredentialProvider,
    plan: &Plan,
    crew: Crew,
) {
    let drain = dice.span(SECOND / 1000, Duration::from_secs(plan.role.default_ttl));
    world.step(format_args!("shutdown within {drain:?}"));
    world.with(|state| state.stopping = true);
    let begun = tokio::time::Instant::now();
    if dice.chance(200, 1000) {
        // A caller who gives up, or a signal that comes twice.
        let patience = dice.span(SECOND / 1000, drain + SECOND);
        let _ = tokio::time::timeout(patience, rotator.shutdown(drain)).await;
    }
    let (first, second) = tokio::join!(rotator.shutdown(drain), rotator.shutdown(drain));
    let took = begun.elapsed();
    world.check(Invariant::I9ReportIsExact, first == second, || {
        format!("two callers are told {first} and {second}")
    });
    // Giving back tokens is the source's, and takes as long as it takes.
    let most = drain + WRAP_UP + REQUEST;
    world.check(Invariant::I9EndsInTime, took <= most, || {
        format!("a shutdown within {drain:?} took {took:?}")
    });
    world.step(format_args!("shut down: {first}"));
    settle(world, provider, crew).await;
    drop(rotator);
    nothing_is_left(world, Some(&first)).await;
}

/// Everybody has heard of the end, and goes home.
async fn settle(world: &World, provider: &CredentialProvider, crew: Crew) {
    // Whoever is woken runs before any timer fires.
    tokio::time::sleep(SECOND / 1000).await;
    let (told, stopped) = (world.with(|state| state.told), provider.health().stopped);
    world.check(Invariant::I11NeverSilent, told == 2 && stopped.is_some(), || {
        format!("{told} of 2 subscribers know of the end, health says {stopped:?}")
    });
    crew.dismiss().await;
    for pool in world.with(|state| std::mem::take(&mut state.pools)) {
        pool.cut();
    }
}

/// I6: a working login, with nobody's help, once the weather is good.
async fn recovers(world: &World, provider: &CredentialProvider, plan: &Plan) {
    good_weather(world, plan);
    if provider.health().stopped.is_some() {
        return;
    }
    // Nobody looks at a login that nobody uses until it is renewed.
    let unseen = Duration::from_secs(plan.role.default_ttl * 4);
    world.with(|state| state.calm = true);
    tokio::time::sleep(RECOVERY + unseen).await;
    if provider.health().stopped.is_some() {
        return;
    }
    let current = provider.current().clone();
    let good = world.lets_in(login_of(current.credential().username()));
    let health = provider.health();
    world.check(Invariant::I6RecoversByItself, good && health.is_ready(), || {
        let number = current.number();
        format!("generation {number} is current, accepted: {good}, health: {health:?}")
    });
    world.with(|state| state.calm = false);
}

/// I9 and I7, once the rotator has ended: what is left is reported, and what comes late is revoked.
async fn nothing_is_left(world: &Arc<World>, report: Option<&ShutdownReport>) {
    let alive = || Handle::current().metrics().num_alive_tasks();
    if report.is_some_and(ShutdownReport::is_clean) {
        let tasks = alive();
        world.check(Invariant::I9NoTaskIsLeft, tasks == 0, || {
            format!("{tasks} tasks are left after a clean shutdown")
        });
    }
    if let Some(report) = report {
        report_is_exact(world, report);
    }
    // What is still under way ends by its own timeouts, and then there is no task.
    let begun = tokio::time::Instant::now();
    while alive() > 0 && begun.elapsed() < REQUEST * 3 {
        tokio::time::sleep(SECOND).await;
    }
    let tasks = alive();
    world.check(Invariant::I9NoTaskIsLeft, tasks == 0, || {
        format!("{tasks} tasks are left long after the end")
    });
    if report.is_none() {
        return;
    }
    // All that was handed over has been revoked, but for what the report names.
    late_ones_are_revoked(world, report);
}

/// A server that does not serve keeps what is over until it does.
fn in_force(vault: &Vault, now: Time) -> impl Iterator<Item = (LeaseId, Lease)> {
    vault.leases().filter(move |(id, lease)| {
        let ends = vault.effective_end(*id);
        lease.state == LeaseState::Live && ends.is_some_and(|ends| now < ends)
    })
}

fn report_is_exact(world: &World, report: &ShutdownReport) {
    let named: Vec<_> =
        report.remains.iter().filter_map(|left| left.username.as_deref()).map(login_of).collect();
    let left = world.now_with(|state, now| {
        let live = in_force(&state.vault, now);
        // One that nobody heard of is nobody's to report; one that is on its way is told as a
        // request that was not answered.
        let known = live.filter(|(_, lease)| {
            state.minted.get(&lease.login).is_some_and(|minted| minted.delivered)
        });
        known
            .filter(|(id, lease)| {
                !named.contains(&lease.login) && !state.failed_revocations.contains(id)
            })
            .map(|(_, lease)| lease.login)
            .collect::<Vec<_>>()
    });
    let (ahead, panics) = world.with(|state| (state.clock_ahead, state.panics));
    // A login that is over by our clock is nobody's any more; two panics end the report.
    if !ahead && panics < 2 {
        world.check(Invariant::I9ReportIsExact, left.is_empty(), || {
            format!("{left:?} are left, the report says: {report}")
        });
    }
    if !world.with(|state| state.harmed) {
        world.check(Invariant::I9ReportIsExact, report.is_clean(), || {
            format!("nothing went wrong, and the report says: {report}")
        });
        let (leases, roles) =
            world.vault(|vault, _| (vault.leases().count(), vault.pg_roles().count()));
        world.check(Invariant::I9ReportIsExact, leases + roles == 0, || {
            format!("{leases} leases and {roles} roles are left after a clean shutdown")
        });
    }
}

fn late_ones_are_revoked(world: &World, report: Option<&ShutdownReport>) {
    let named: Vec<_> = report.map_or_else(Vec::new, |report| {
        report.remains.iter().filter_map(|left| left.username.as_deref()).map(login_of).collect()
    });
    let left = world.now_with(|state, now| {
        let live = in_force(&state.vault, now);
        live.filter(|(id, lease)| {
            let minted = state.minted.get(&lease.login);
            minted.is_some_and(|minted| !minted.lost)
                && !state.failed_revocations.contains(id)
                && !named.contains(&lease.login)
        })
        .map(|(_, lease)| lease.login)
        .collect::<Vec<_>>()
    });
    let (ahead, panics) = world.with(|state| (state.clock_ahead, state.panics));
    if !ahead && panics < 2 {
        world.check(Invariant::I7LateCredentialsAreRevoked, left.is_empty(), || {
            format!("{left:?} came late and were not revoked")
        });
    }
}
