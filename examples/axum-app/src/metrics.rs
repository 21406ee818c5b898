//! `/metrics`, as Prometheus reads it.

use std::sync::OnceLock;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use leasehold::metrics::SECONDS;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::warn;

/// How often durations are put into their buckets, should nobody ask for them.
const UPKEEP_EVERY: Duration = Duration::from_secs(30);

/// The process's recorder. `None` if somebody else has installed one.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Before the session and the rotator are there, so that their counters begin at zero. Once for all
/// services of this process.
pub(crate) fn install() {
    RECORDER.get_or_init(|| {
        let durations = Matcher::Suffix("_duration_seconds".to_owned());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(durations, SECONDS);
        let handle = builder.and_then(PrometheusBuilder::install_recorder);
        let handle =
            handle.inspect_err(|error| warn!("there will be no /metrics: {error}")).ok()?;
        let kept = handle.clone();
        // A thread, since the recorder outlives every runtime. It ends with the process.
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(UPKEEP_EVERY);
                kept.run_upkeep();
            }
        });
        Some(handle)
    });
}

/// `GET /metrics`.
pub(crate) async fn show() -> Response {
    match RECORDER.get() {
        Some(Some(recorder)) => {
            let text_format = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (text_format, recorder.render()).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
