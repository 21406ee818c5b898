//! What happens when the pool hands a connection out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Hook, HookError, Metrics, PoolBuilder};
use leasehold::CredentialProvider;
use leasehold::hook::BoxFuture;
use leasehold_tokio_postgres::hook::{Engine, Link, Spares, WARMING, sample};

use crate::guard::{Guard, Passage, arrival};

type Verdicts<'a> = BoxFuture<'a, Result<(), HookError>>;

/// Adds the hooks. The user's come after: deadpool calls them in order, up to the first refusal.
pub(crate) fn add(
    builder: PoolBuilder,
    engine: &Arc<Engine>,
    spares: &Arc<Spares<Link>>,
    provider: CredentialProvider,
    liveness: Option<Duration>,
) -> PoolBuilder {
    let warming = engine.clone();
    let guard = Guard::new(engine, spares, liveness);
    builder
        .post_create(arrival(engine))
        .post_create(Hook::async_fn(move |client, _| {
            let engine = warming.clone();
            Box::pin(async move {
                let _ = tokio::time::timeout(WARMING, warm(&engine, client)).await;
                Ok(())
            })
        }))
        .pre_recycle(Hook::async_fn(move |client, metrics| {
            pass(&guard, &provider, client, metrics)
        }))
}

/// deadpool wants a box, which is free for a future without a size.
fn pass<'a>(
    guard: &Guard<Link>,
    provider: &CredentialProvider,
    client: &'a ClientWrapper,
    metrics: &Metrics,
) -> Verdicts<'a> {
    match guard.judge(metrics) {
        Passage::Open => Box::pin(Pass),
        Passage::Sample(generation) => {
            let provider = provider.clone();
            Box::pin(async move {
                let sampled = sample(client, &provider, generation).await;
                sampled.map_err(HookError::Backend)
            })
        }
        Passage::Closed => Box::pin(std::future::ready(Err(HookError::message("superseded")))),
    }
}

/// Never an error: deadpool would hand it to the borrower.
async fn warm(engine: &Engine, client: &ClientWrapper) {
    for statement in engine.warm_statements() {
        let _ = client.prepare_cached(statement).await;
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
