//! One axis out of two clocks, as arithmetic: [`Clock`](crate::clock::Clock) reads them.

use std::time::{Duration, SystemTime};

use crate::clock::Time;

/// A wall clock that falls back by less than this between two readings is taken for ordinary
/// slewing; by more, for having been set, and the difference is ignored from then on.
const SET_BACK: Duration = Duration::from_millis(50);

/// Makes one axis of two clocks, by what the wall clock gained on the monotonic one (in
/// nanoseconds). Pure: it is given both.
#[derive(Clone, Debug, Hash)]
pub struct Fold {
    wall_start: SystemTime,
    last: i128,
    most: i128,
    now: Duration,
}

impl Fold {
    /// The wall clock shows `wall_start` when the monotonic one is at zero.
    #[must_use]
    pub const fn new(wall_start: SystemTime) -> Self {
        Self { wall_start, last: 0, most: 0, now: Duration::ZERO }
    }

    /// Takes a reading of both.
    pub fn read(&mut self, mono: Duration, wall: SystemTime) -> Time {
        let gained =
            nanos(wall, self.wall_start) - i128::try_from(mono.as_nanos()).unwrap_or(i128::MAX);
        if gained < self.last - SET_BACK.as_nanos() as i128 {
            // Set back: measure from here as if nothing had happened, so that a later suspension
            // is not hidden behind the step.
            let back = u64::try_from(self.last - gained).unwrap_or(u64::MAX);
            self.wall_start = self
                .wall_start
                .checked_sub(Duration::from_nanos(back))
                .unwrap_or(SystemTime::UNIX_EPOCH);
        } else {
            self.last = gained;
            self.most = self.most.max(gained);
        }
        let ahead = u64::try_from(self.most).unwrap_or(u64::MAX);
        self.now = self.now.max(mono.saturating_add(Duration::from_nanos(ahead)));
        Time::from_start(self.now)
    }
}

fn nanos(at: SystemTime, from: SystemTime) -> i128 {
    let signed = |d: Duration| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX);
    match at.duration_since(from) {
        Ok(d) => signed(d),
        Err(e) => -signed(e.duration()),
    }
}
