//! The page at `/`: what happens to the logins and to the requests, live, for anybody to read.
//!
//! `board` keeps what has been seen, `lanes` the life of each login, `sampler` looks every half
//! second, `traffic` measures the service's own requests, `words` says it in words, and `wire` is
//! how a browser gets all of it.

mod board;
mod lanes;
mod sampler;
mod traffic;
mod wire;
mod words;

use std::time::Instant;

use serde_json::Value;

pub(crate) use board::Board;
pub(crate) use sampler::sample;
pub(crate) use traffic::measure;
pub(crate) use wire::routes;

/// What whoever runs a [`Service`](crate::Service) can add to its page. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Page(pub(crate) Board);

impl Page {
    /// Writes a line into the page's log, and marks the instant on its charts: something was done
    /// to the service from outside. `means` says what follows from it.
    pub fn note(&self, words: impl Into<String>, means: impl Into<String>) {
        self.0.note(words.into(), means.into());
    }

    /// Tells apart, in the count of failed requests, those that were done on purpose: `explain` is
    /// asked with the instant at which such a request began, while it ends. Only the first call
    /// counts.
    pub fn explain(&self, explain: impl Fn(Instant) -> bool + Send + Sync + 'static) {
        self.0.traffic().explained_by(Box::new(explain));
    }

    /// Buttons to show, as the page's script expects them: `{"token", "deeds": [{"name", "title",
    /// "before", "after", "mends"}]}`. A press is `POST /harm/{name}` with the token in the header
    /// `x-harm-token`. The plain service has none, and no such route.
    pub fn offer(&self, buttons: Value) {
        self.0.offer(buttons);
    }
}
