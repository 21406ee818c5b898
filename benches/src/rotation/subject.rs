//! Who rotates: this project, or a person's own code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use clap::ValueEnum;
use leasehold::{Event, Reason, Rotator};
use leasehold_testkit::TestDb;
use leasehold_vault::{Auth, Session, VaultConfig};
use serde::Serialize;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;

use super::load::Window;
use super::target::{AnyPool, QUERY, Target};
use crate::AnyError;
use crate::args::PoolKind;
use crate::byhand::{ByHand, Recipe, Rotated};

/// A way to rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A rotator, with defaults but for what the arguments say.
    Leasehold,
    /// By hand: a new pool takes the place of the old one.
    NewPool,
    /// By hand: new connections use the new login, old ones stay until the server ends them.
    Options,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Leasehold => "leasehold",
            Self::NewPool => "new pool",
            Self::Options => "options only",
        }
    }
}

/// How long the old login is kept by who lets its connections be ended.
const KEEP: Duration = Duration::from_secs(2);
/// A rotation that takes longer is not measured but broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first second after a swap is always looked at.
const LEAST: Duration = Duration::from_secs(1);
/// By hand, what a revocation does to a pool shows in the moment after it.
const AFTERMATH: Duration = Duration::from_millis(500);

pub(super) enum Subject {
    Leasehold {
        rotator: Rotator,
        told: mpsc::UnboundedReceiver<(Instant, Told)>,
        pool: Arc<ArcSwap<AnyPool>>,
    },
    ByHand(Box<ByHand>),
}

#[derive(Debug)]
pub(super) enum Told {
    Swapped(u64),
    Drained(u64),
    Revoked(Option<u64>),
}

/// What one rotation was.
pub(super) struct Rotation {
    /// From the swap to the end of what it changes.
    pub(super) window: Window,
    /// From the swap to the last connection of the old login, or its revocation by hand.
    pub(super) drained: Duration,
}

impl Subject {
    pub(super) async fn start(
        way: Way,
        kind: PoolKind,
        db: &TestDb,
        size: usize,
        roll: Duration,
        grace: Duration,
    ) -> Result<Self, AnyError> {
        let auth = Auth::approle(db.role_id(), db.secret_id().await?);
        let session = Session::login(VaultConfig::new(db.vault_addr()), auth).await?;
        let source = session.dynamic_role(db.mount(), db.role());
        let target = Target::of(db)?;
        let recipe = match way {
            Way::Leasehold => {
                let (tell, told) = mpsc::unbounded_channel();
                let builder = Rotator::builder(source).grace(grace).roll(roll);
                let rotator = builder.observer(move |event| hear(event, &tell)).start().await?;
                let pool = connect(kind, &rotator, &target, size).await?;
                let pool = Arc::new(ArcSwap::from_pointee(pool));
                return Ok(Self::Leasehold { rotator, told, pool });
            }
            Way::NewPool => Recipe::NewPool,
            Way::Options => Recipe::Options { keep: KEEP },
        };
        let service = ByHand::start(recipe, kind, source, target, size).await?;
        Ok(Self::ByHand(Box::new(service)))
    }

    pub(super) fn pool(&self) -> Arc<ArcSwap<AnyPool>> {
        match self {
            Self::Leasehold { pool, .. } => pool.clone(),
            Self::ByHand(service) => service.pool(),
        }
    }

    /// Rotates, by hand at once, a rotator when it is due, and waits until the old login is revoked
    /// and the window is over.
    pub(super) async fn rotate(&mut self) -> Result<Rotation, AnyError> {
        let rotation = match self {
            Self::Leasehold { told, .. } => {
                let rotated = tokio::time::timeout(PATIENCE, follow(told)).await;
                let (swapped, drained) = rotated.map_err(|_| "no rotation within a minute")??;
                let window = Window { begin: swapped, end: drained.max(swapped + LEAST) };
                Rotation { window, drained: drained - swapped }
            }
            Self::ByHand(service) => {
                let Rotated { begun, over } = service.rotate().await?;
                let end = (over + AFTERMATH).max(begun + LEAST);
                Rotation { window: Window { begin: begun, end }, drained: over - begun }
            }
        };
        tokio::time::sleep_until(rotation.window.end.into()).await;
        Ok(rotation)
    }

    pub(super) async fn stop(self) -> Result<(), AnyError> {
        match self {
            Self::Leasehold { rotator, pool, .. } => {
                drop(pool);
                let left = rotator.shutdown(Duration::from_secs(10)).await;
                if left.is_clean() { Ok(()) } else { Err(left.to_string().into()) }
            }
            Self::ByHand(service) => service.stop().await,
        }
    }
}

async fn connect(
    kind: PoolKind,
    rotator: &Rotator,
    target: &Target,
    size: usize,
) -> Result<AnyPool, AnyError> {
    let provider = rotator.provider();
    Ok(match kind {
        PoolKind::Sqlx => {
            let options = PgPoolOptions::new().max_connections(u32::try_from(size)?);
            let base = target.sqlx_base();
            AnyPool::Sqlx(leasehold_sqlx::connect(&provider, options, base).await?)
        }
        PoolKind::Deadpool => {
            let (base, tls) = (target.deadpool_base(), target.tls());
            // What a service with hot statements lists. sqlx prepares on its own, on the borrower's
            // time.
            let installer = leasehold_deadpool::Installer::new().warm_statements([QUERY]);
            let pool = installer.connect(&provider, base, tls, |b| b.max_size(size));
            AnyPool::Deadpool(pool.await?)
        }
    })
}

fn hear(event: &Event, tell: &mpsc::UnboundedSender<(Instant, Told)>) {
    let told = match event {
        Event::Swapped { reason: Reason::Start, .. } => return,
        Event::Swapped { generation, .. } => Told::Swapped(*generation),
        Event::Drained { generation, .. } => Told::Drained(*generation),
        Event::Revoked { generation, .. } => Told::Revoked(*generation),
        Event::Warning { .. } | Event::RotationDelayed { .. } | Event::IssueFailed { .. } => {
            eprintln!("    {event}");
            return;
        }
        _ => return,
    };
    // After the end nobody listens.
    let _ = tell.send((Instant::now(), told));
}

/// The instants of the next swap and of the drain that it begins; returns after the revocation.
async fn follow(
    told: &mut mpsc::UnboundedReceiver<(Instant, Told)>,
) -> Result<(Instant, Instant), AnyError> {
    let (mut swapped, mut drained) = (None, None);
    while let Some((at, what)) = told.recv().await {
        match (what, swapped) {
            (Told::Swapped(generation), None) => swapped = Some((at, generation)),
            (Told::Drained(old), Some((_, new))) if old + 1 == new => drained = Some(at),
            (Told::Revoked(Some(old)), Some((begun, new))) if old + 1 == new => {
                return Ok((begun, drained.unwrap_or(at)));
            }
            _ => {}
        }
    }
    Err("the rotator ended".into())
}
