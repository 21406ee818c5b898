//! Load through rotations on real servers, measured. The binary is `cargo drill`; the
//! cross-crate tests run the same with a few seconds and look at the same figures.

#![forbid(unsafe_code)]

mod args;
mod byhand;
pub mod capacity;
mod chronicle;
mod load;
pub mod matrix;
pub mod outcome;
mod pools;
mod report;
pub mod rotation;
pub mod stats;
pub mod trees;
mod weather;
mod world;

use std::time::{Duration, Instant};

use leasehold::Rotator;
use leasehold_testkit::SocketWatch;

pub use args::{Args, Fault, FaultKind, PoolKind};
use chronicle::Chronicle;
use pools::AnyPool;
use report::Seen;
pub use report::{Calls, Report};
use world::World;
pub use world::cheap_logins;

/// Whatever went wrong before there was anything to measure.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn fail(message: String) -> AnyError {
    message.into()
}

/// Runs the load that `args` ask for, shuts down, and reports.
///
/// # Errors
/// When the servers, the login or the pool can't be set up, or a fault can't be made.
pub async fn run(args: &Args) -> Result<Report, AnyError> {
    let world = World::new(args).await?;
    let mut faults = args.fault.clone();
    faults.extend(args.random_faults.into_iter().flat_map(|seed| weather::draw(seed, args)));
    faults.sort_by_key(|f| f.at);
    if !faults.is_empty() && !world.is_own() {
        return Err(fail("faults need servers of our own: leave out --external".into()));
    }
    let chronicle = Chronicle::default();
    let ear = chronicle.clone();
    let rotator = Rotator::builder(world.session.dynamic_role(&world.mount, &world.role))
        .grace(args.grace())
        .observer(move |event| ear.hear(event))
        .start()
        .await?;
    let sockets = SocketWatch::start(world.place.port, Duration::from_millis(2));
    let provider = rotator.provider();
    let pool = AnyPool::connect(args.pool, args.pool_size, &world.place, &provider).await?;
    drop(provider);

    let begun = Instant::now();
    let end = begun + Duration::from_secs(args.seconds);
    let faults = async {
        let mut seen = Vec::new();
        for fault in faults {
            tokio::time::sleep_until((begun + fault.at).into()).await;
            eprintln!("fault: {:?} for {:?}", fault.kind, fault.lasts);
            let lasted = world.harm(fault).await?;
            eprintln!("fault over: {:?}", fault.kind);
            // One that has no length of its own is over as soon as it is made.
            let over = if fault.lasts.is_zero() { lasted.0 } else { Instant::now() };
            seen.push(report::Harm { kind: fault.kind, lasted, over });
        }
        Ok::<_, AnyError>(seen)
    };
    let shape = load::Shape::of(args);
    let load = load::run(shape, pool.clone(), load::Until::At(end), load::progress());
    let ((ops, skipped), faults) = tokio::join!(load, faults);
    let faults = faults?;
    let took = begun.elapsed();

    drop(pool);
    let left_behind = rotator.shutdown(args.grace()).await;
    if !left_behind.is_clean() {
        eprintln!("shutdown: {left_behind}");
    }
    let logins = world.logins().await?;
    let seen = Seen {
        args,
        begun,
        took,
        ops: &ops,
        skipped,
        told: &chronicle.told(),
        calls: world.session.calls(),
        logins: logins.as_deref(),
        sockets: sockets.as_ref().map(SocketWatch::most),
        faults: &faults,
        left: world.left().await?,
    };
    let report = Report::of(&seen);
    if let Some(path) = &args.events {
        report::write_events(path, &ops)?;
    }
    Ok(report)
}
