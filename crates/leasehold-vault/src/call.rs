//! One request as a span, and as a number.

use leasehold::ErrorKind;
use leasehold::clock::{Clock, Time};
use tracing::field::Empty;
use tracing::{Span, debug_span};

use crate::classify::Op;
use crate::metrics::Meter;

/// A request under way. Its span's name and fields are stable: see docs/observability.md. Neither
/// a token nor a body is in it; the path is the one that error messages name.
pub(crate) struct Call<'a> {
    pub(crate) span: Span,
    op: Op,
    begun: Time,
    clock: &'a Clock,
    meter: &'a Meter,
    ended: bool,
}

/// Nobody waits for the answer any more.
const CANCELLED: &str = "cancelled";

impl<'a> Call<'a> {
    pub(crate) fn begin(op: Op, path: &str, clock: &'a Clock, meter: &'a Meter) -> Self {
        let operation = op.name();
        let span = debug_span!(
            "leasehold_vault.request",
            operation,
            path,
            status = Empty,
            outcome = Empty
        );
        Self { span, op, begun: clock.now(), clock, meter, ended: false }
    }

    pub(crate) fn answered(&self, status: u16) {
        self.span.record("status", status);
    }

    pub(crate) fn ended(mut self, error: Option<ErrorKind>) {
        self.ended = true;
        let outcome = error.map_or("ok", ErrorKind::as_str);
        self.span.record("outcome", outcome);
        self.meter.request(self.op, outcome, self.clock.now() - self.begun);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.span.record("outcome", CANCELLED);
            self.meter.request(self.op, CANCELLED, self.clock.now() - self.begun);
        }
    }
}
