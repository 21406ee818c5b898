//! The service's own requests, measured where they pass.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::latency::Latencies;

/// Requests to the routes that use the pool, each counted once, whatever its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic(Arc<Inner>);

#[derive(Default)]
struct Inner {
    counts: Mutex<Counts>,
    explain: OnceLock<Box<Explain>>,
}

/// Whether it is known why a request that began then failed.
type Explain = dyn Fn(Instant) -> bool + Send + Sync;

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("counts", &self.counts).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    /// Answered with 500 or more, or not at all: the client hung up, or the handler panicked.
    pub(crate) failed: u64,
    /// Of the failed, those that somebody did on purpose.
    pub(crate) explained: u64,
    pub(crate) latencies: Latencies,
}

impl Traffic {
    /// Who can tell failures that were done on purpose; the first to say so stays.
    pub(crate) fn explained_by(&self, explain: Box<Explain>) {
        let _ = self.0.explain.set(explain);
    }

    fn record(&self, begun: Instant, failed: bool) {
        let explained = failed && self.0.explain.get().is_some_and(|explain| explain(begun));
        let mut counts = self.counts();
        counts.latencies.record(begun.elapsed());
        *(if failed { &mut counts.failed } else { &mut counts.ok }) += 1;
        counts.explained += u64::from(explained);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came since the last call.
    pub(crate) fn take(&self) -> Counts {
        std::mem::take(&mut self.counts())
    }
}

/// A layer for the routes that use the pool.
pub(crate) async fn measure(
    State(traffic): State<Traffic>,
    request: Request,
    next: Next,
) -> Response {
    let mut under_way = UnderWay { traffic, begun: Instant::now(), failed: true };
    let response = next.run(request).await;
    under_way.failed = response.status().is_server_error();
    response
}

/// Counts at its drop, which is all that is heard of a request that is given up.
struct UnderWay {
    traffic: Traffic,
    begun: Instant,
    failed: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.traffic.record(self.begun, self.failed);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn panics() -> Result<(), Infallible> {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn a_request_that_gets_no_answer_is_counted_as_failed() {
        let traffic = Traffic::default();
        let router = Router::new()
            .route("/ok", get(async || "ok"))
            .route("/never", get(std::future::pending::<()>))
            .route("/panics", get(panics))
            .route_layer(from_fn_with_state(traffic.clone(), measure));
        let ask = |path: &str| {
            router.clone().oneshot(Request::builder().uri(path).body(Body::empty()).unwrap())
        };
        ask("/ok").await.unwrap();
        // Polled once, so that it has begun; then given up.
        let given_up = tokio::time::timeout(Duration::ZERO, ask("/never")).await;
        assert!(given_up.is_err());
        let panicked = tokio::spawn(ask("/panics")).await;
        assert!(panicked.unwrap_err().is_panic());
        let counts = traffic.take();
        assert_eq!((counts.ok, counts.failed), (1, 2));
        assert_eq!(counts.explained, 0);
        assert!(counts.latencies.max() > Duration::ZERO);

        traffic.explained_by(Box::new(|_| true));
        ask("/ok").await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, ask("/never")).await.is_err());
        let counts = traffic.take();
        assert_eq!((counts.ok, counts.failed, counts.explained), (1, 1, 1));
    }
}
