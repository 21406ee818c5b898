//! What the schedule asks of Vault, on virtual time: the rotator is the real one, and days pass in a
//! moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use leasehold::clock::Clock;
use leasehold::{Credential, CredentialSource, Issued, Lease, RevokeMode, Rotator, SourceError};
use leasehold_drill::AnyError;
use serde::Serialize;
use tokio::time::Instant;

use crate::process::cpu;

const HOUR: Duration = Duration::from_secs(3600);
const TTL: Duration = HOUR;
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// So many, as each takes its time by chance.
const PROVIDERS: u32 = 8;

/// What one provider asks for in an hour, with a TTL of 1 h and a maximum TTL of 24 h.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Life {
    pub(crate) days: u32,
    pub(crate) mints_per_hour: f64,
    pub(crate) renewals_per_hour: f64,
    pub(crate) revocations_per_hour: f64,
    /// Of one core, for 1,000 providers, as far as the rotator itself goes.
    pub(crate) rotators_cpu_percent: f64,
}

/// Grants as Vault does: the TTL, and no more than is left of the maximum.
#[derive(Clone, Debug, Default)]
struct Model(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    mints: AtomicU64,
    renewals: AtomicU64,
    revocations: AtomicU64,
}

/// The number of a login, and how long after the start of it all it was made.
fn id(number: u64, at: Duration) -> String {
    format!("{number}/{}", at.as_secs())
}

thread_local! {
    static START: Instant = Instant::now();
}

fn elapsed() -> Duration {
    START.with(Instant::elapsed)
}

impl CredentialSource for Model {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let number = self.0.mints.fetch_add(1, Relaxed);
        let login = Credential::new(format!("user-{number}"), format!("password-{number}"));
        Ok(Issued::new(login, Lease::renewable(id(number, elapsed()), TTL)))
    }

    async fn renew(&self, lease: &Lease, increment: Duration) -> Result<Duration, SourceError> {
        self.0.renewals.fetch_add(1, Relaxed);
        let made = lease.id.as_deref().and_then(|id| id.rsplit_once('/')?.1.parse().ok());
        let left = Duration::from_secs(made.unwrap_or(0)) + MAX_TTL;
        Ok(increment.min(TTL).min(left.saturating_sub(elapsed())))
    }

    async fn revoke(&self, _: &Lease, _: RevokeMode) -> Result<(), SourceError> {
        self.0.revocations.fetch_add(1, Relaxed);
        Ok(())
    }
}

pub(crate) fn follow(days: u32) -> Result<Life, AnyError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build()?.block_on(async {
        elapsed();
        let clock = Clock::with_wall(|| std::time::UNIX_EPOCH + elapsed());
        let model = Model::default();
        let mut rotators = Vec::new();
        for n in 0..PROVIDERS {
            let builder = Rotator::builder(model.clone()).name(n.to_string());
            rotators.push(builder.clock(clock.clone()).start().await?);
        }
        let before = cpu()?;
        tokio::time::sleep(MAX_TTL * days).await;
        let took = cpu()? - before;
        let hours = f64::from(PROVIDERS * days * 24);
        // Those of the end are not the schedule's.
        let per_hour = |count: &AtomicU64| count.load(Relaxed) as f64 / hours;
        let life = Life {
            days,
            mints_per_hour: per_hour(&model.0.mints),
            renewals_per_hour: per_hour(&model.0.renewals),
            revocations_per_hour: per_hour(&model.0.revocations),
            rotators_cpu_percent: took.as_secs_f64() / (hours * 3600.0) * 1000.0 * 100.0,
        };
        for rotator in rotators {
            rotator.shutdown(Duration::from_secs(1)).await;
        }
        Ok(life)
    })
}
