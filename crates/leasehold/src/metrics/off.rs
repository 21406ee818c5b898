//! Nothing is recorded without the feature `metrics`.

use std::sync::Arc;

use crate::clock::Time;
use crate::event::Event;
use crate::provider::Shared;

#[derive(Debug)]
pub(crate) struct Meter;

impl Meter {
    pub(crate) fn new(_: Arc<str>) -> Self {
        Self
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn event(&self, _: &Event, _: Time) {}

    pub(crate) fn next(_: Time) -> Option<Time> {
        None
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn state(&self, _: &Arc<Shared>, _: usize) {}

    #[allow(clippy::unused_self)]
    pub(crate) fn shut_down(&self, _: usize) {}
}
