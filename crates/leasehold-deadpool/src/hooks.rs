//! What happens when the pool hands a connection out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Hook, HookError, Metrics, PoolBuilder};
use leasehold::hook::{BoxFuture, Sampler, Verdict, sql};
use leasehold::{CredentialProvider, Observation};
use leasehold_tokio_postgres::hook::{Engine, Link, Spares, WARMING, sqlstate};

use crate::connect::handed_over;

/// How long a liveness sample may hold up its borrower. A server that takes longer is in trouble of
/// its own, of which the borrower's query will tell.
const SAMPLE: Duration = Duration::from_secs(1);

type Verdicts<'a> = BoxFuture<'a, Result<(), HookError>>;

/// Adds the hooks. The user's come after: deadpool calls them in order, up to the first refusal.
pub(crate) fn add(
    builder: PoolBuilder,
    engine: &Arc<Engine>,
    spares: &Arc<Spares<Link>>,
    provider: CredentialProvider,
    liveness: Option<Duration>,
) -> PoolBuilder {
    let stamped = engine.clone();
    let warming = engine.clone();
    let sampler = liveness.map(Sampler::new);
    let guard = Guard { engine: engine.clone(), spares: spares.clone(), provider, sampler };
    builder
        .post_create(Hook::sync_fn(move |_, _| {
            stamped.stamped(handed_over());
            Ok(())
        }))
        .post_create(Hook::async_fn(move |client, _| {
            let engine = warming.clone();
            Box::pin(async move {
                let _ = tokio::time::timeout(WARMING, warm(&engine, client)).await;
                Ok(())
            })
        }))
        .pre_recycle(Hook::async_fn(move |client, metrics| guard.pass(client, metrics)))
}

struct Guard {
    engine: Arc<Engine>,
    spares: Arc<Spares<Link>>,
    provider: CredentialProvider,
    sampler: Option<Sampler>,
}

impl Guard {
    /// One atomic load while nothing is superseded, and one look at the coarse clock for the
    /// sampler. deadpool wants a box, which is free for a future without a size.
    fn pass<'a>(&self, client: &'a ClientWrapper, metrics: &Metrics) -> Verdicts<'a> {
        match self.engine.judge(metrics.created) {
            Verdict::Current if !self.sampler.as_ref().is_some_and(Sampler::due) => Box::pin(Pass),
            Verdict::Current => {
                let (verdict, generation) = self.engine.judge_with_current(metrics.created);
                match verdict {
                    Verdict::Current => Box::pin(sample(client, self.provider.clone(), generation)),
                    // A swap came between the two looks; the next borrower sees it.
                    _ => Box::pin(Pass),
                }
            }
            // The roll: borrowers keep what they find, unless a replacement is ready.
            Verdict::Superseded if !self.spares.claim() => Box::pin(Pass),
            _ => Box::pin(std::future::ready(Err(HookError::message("superseded")))),
        }
    }
}

/// Never an error: deadpool would hand it to the borrower.
async fn warm(engine: &Engine, client: &ClientWrapper) {
    for statement in engine.warm_statements() {
        let _ = client.prepare_cached(statement).await;
    }
}

/// Pings pass on a session whose role is gone; this does not.
async fn sample(
    client: &ClientWrapper,
    provider: CredentialProvider,
    generation: u64,
) -> Result<(), HookError> {
    match tokio::time::timeout(SAMPLE, client.simple_query(sql::LIVENESS)).await {
        Ok(Err(error)) if sqlstate(&error) == Some(sql::ROLE_GONE) => {
            provider.report(generation, Observation::SessionRevoked);
            Err(HookError::Backend(error))
        }
        Ok(Err(error)) if client.is_closed() => Err(HookError::Backend(error)),
        // Late, or an error that says nothing about the login (a transaction left in failure).
        _ => Ok(()),
    }
}

/// Lets a connection pass.
struct Pass;

impl Future for Pass {
    type Output = Result<(), HookError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}
