//! The service's own requests, measured where they pass.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::latency::Latencies;

/// Requests that came to an answer. One whose client hung up has none and is not counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    /// Answered with 500 or more.
    pub(crate) failed: u64,
    pub(crate) latencies: Latencies,
}

impl Traffic {
    fn record(&self, took: Duration, failed: bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.latencies.record(took);
        *(if failed { &mut counts.failed } else { &mut counts.ok }) += 1;
    }

    /// What came since the last call.
    pub(crate) fn take(&self) -> Counts {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A layer for the routes that use the pool.
pub(crate) async fn measure(
    State(traffic): State<Traffic>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let response = next.run(request).await;
    traffic.record(begun.elapsed(), response.status().is_server_error());
    response
}
