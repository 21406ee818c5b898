//! Nothing is recorded without the feature `metrics`.

use std::sync::Arc;
use std::time::Duration;

use leasehold::clock::{Clock, Time};

use crate::classify::Op;

pub(crate) struct Meter;

#[allow(clippy::unused_self)]
impl Meter {
    pub(crate) fn new(_: Arc<str>) -> Self {
        Self
    }

    pub(crate) fn request(&self, _: Op, _: &'static str, _: Duration) {}

    pub(crate) fn token(&self, _: &Clock, _: Option<Time>, _: bool, _: usize) {}
}
