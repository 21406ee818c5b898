//! A source's place in its session, which is closed with its last source.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::session::Session;

pub(crate) struct Seat {
    session: Session,
    closed: AtomicBool,
}

impl Seat {
    pub(crate) fn take(session: Session) -> Self {
        session.source_made();
        Self { session, closed: AtomicBool::new(false) }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Closes the session with the last of its sources.
    pub(crate) async fn close(&self) -> Vec<String> {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        if first && self.session.source_gone() {
            return self.session.close().await;
        }
        Vec::new()
    }
}

impl Drop for Seat {
    /// One that was not closed gives nothing back, but must not keep the last from doing so.
    fn drop(&mut self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.session.source_gone();
        }
    }
}
