//! One request as a span, and as a number.

use leasehold::SourceError;
use leasehold::clock::{Clock, Time};
use tracing::field::Empty;
use tracing::{Span, debug_span};

use crate::classify::Op;
use crate::metrics::Meter;

/// A request under way. Its span's name and fields are stable: see docs/observability.md. Neither
/// a token nor a body is in it; the path is the one that error messages name.
pub(crate) struct Call {
    pub(crate) span: Span,
    op: Op,
    begun: Time,
}

impl Call {
    pub(crate) fn begin(op: Op, path: &str, clock: &Clock) -> Self {
        let operation = op.name();
        let span = debug_span!(
            "leasehold_vault.request",
            operation,
            path,
            status = Empty,
            outcome = Empty
        );
        Self { span, op, begun: clock.now() }
    }

    pub(crate) fn answered(&self, status: u16) {
        self.span.record("status", status);
    }

    pub(crate) fn ended(self, error: Option<&SourceError>, meter: &Meter, clock: &Clock) {
        self.span.record("outcome", error.map_or("ok", |e| e.kind().as_str()));
        meter.request(self.op, error, clock.now() - self.begun);
    }
}
