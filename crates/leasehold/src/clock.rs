//! The one place where clocks are read.
//!
//! A lease ends on the server's wall clock, while this machine may sleep (its monotonic clock
//! then stands still) or have its wall clock set. [`Clock`] folds both into one axis that never
//! runs backwards: it follows the monotonic clock, is brought forward by whatever the wall clock
//! gained on it (a suspended machine, a step forward), and ignores a wall clock that is set back.
//! So "the earlier of both" holds by construction, and everything else compares one [`Time`].

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::fold::Fold;

/// No timer sleeps longer than this before both clocks are read again: the monotonic clock, on
/// which timers run, stands still while a machine is suspended.
pub const MAX_SLEEP: Duration = Duration::from_secs(5);

/// A look at the clocks costs little, and waking up for it a hundred times as much: a thousand that
/// do so by themselves keep a core at a percent or more. A part of a second, or it is no grid.
const TOGETHER: Duration = Duration::from_millis(250);

/// An instant on a [`Clock`]'s axis, as the time since that clock was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[cfg_attr(not(feature = "simulation"), derive(Hash))]
pub struct Time(Duration);

impl Time {
    /// The instant at which its clock was made.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The instant `since_start` after its clock was made. For tests and simulations.
    #[must_use]
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long after its clock was made.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `self` until `later`, zero if that has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }

    /// `by` before this instant, at the earliest the start of the clock.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static HASHED_FROM: std::cell::Cell<Option<Time>> = const { std::cell::Cell::new(None) };
}

/// Runs `hash`, in which an instant's hash is its distance from `now`: states that differ in when
/// they were reached are one. The start of the clock stands for never, and so does what is further
/// ahead than [`HORIZON`].
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub fn hashed_from<T>(now: Time, hash: impl FnOnce() -> T) -> T {
    HASHED_FROM.set(Some(now));
    let hashed = hash();
    HASHED_FROM.set(None);
    hashed
}

/// `at`, unless it is over for [`hashed_from`]: what is only waited for then makes no difference.
#[cfg(feature = "simulation")]
#[doc(hidden)]
#[must_use]
pub fn still_ahead(at: Time) -> Option<Time> {
    Some(at).filter(|at| HASHED_FROM.get().is_none_or(|now| *at > now))
}

/// How far an instant is looked at by [`hashed_from`].
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub const HORIZON: Duration = Duration::from_secs(900);

#[cfg(feature = "simulation")]
impl std::hash::Hash for Time {
    fn hash<H: std::hash::Hasher>(&self, into: &mut H) {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        match HASHED_FROM.get() {
            Some(_) if *self == Self::ZERO => into.write_u64(1 << 63),
            Some(now) if *self >= now => into.write_u64(nanos(now.until(*self).min(HORIZON))),
            Some(now) => into.write_u64(nanos(now - *self).wrapping_neg()),
            None => self.0.hash(into),
        }
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Sub for Time {
    type Output = Duration;
    /// Time since `earlier`, zero if `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t+{:?}", self.0)
    }
}

/// Reads the monotonic and the wall clock as one axis. Clones share it.
///
/// A session and the rotators it serves must share a clock, since they exchange [`Time`]s; all of
/// them use [`Clock::system`] unless told otherwise.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    start: tokio::time::Instant,
    wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
    fold: Mutex<Fold>,
}

impl Clock {
    /// The process-wide clock.
    #[must_use]
    pub fn system() -> Self {
        static SYSTEM: LazyLock<Clock> = LazyLock::new(|| Clock::with_wall(SystemTime::now));
        SYSTEM.clone()
    }

    /// A clock of its own whose wall clock is `wall`: lets a test set the time or suspend the
    /// machine. Its monotonic side is tokio's, so it also follows a paused runtime.
    pub fn with_wall(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let wall_start = wall();
        Self(Arc::new(Inner {
            start: tokio::time::Instant::now(),
            wall: Box::new(wall),
            fold: Mutex::new(Fold::new(wall_start)),
        }))
    }

    /// Now. Never earlier than an instant returned before.
    #[must_use]
    pub fn now(&self) -> Time {
        let mut fold = self.0.fold.lock().unwrap_or_else(PoisonError::into_inner);
        fold.read(self.0.start.elapsed(), (self.0.wall)())
    }

    /// Sleeps until `at`, or for [`MAX_SLEEP`], whichever is sooner. Cancel safe.
    ///
    /// Where `at` is further away, all who sleep on this clock wake up together, at the latest of
    /// four instants a second that is soon enough.
    pub async fn sleep_towards(&self, at: Time) {
        let left = self.now().until(at);
        if left <= MAX_SLEEP {
            return tokio::time::sleep(left).await;
        }
        let latest = self.0.start.elapsed() + MAX_SLEEP;
        let past = Duration::from_nanos(u64::from(latest.subsec_nanos() % TOGETHER.subsec_nanos()));
        tokio::time::sleep_until(self.0.start + (latest - past)).await;
    }

    /// Sleeps until `at`, reading both clocks at least each [`MAX_SLEEP`]. Cancel safe.
    pub async fn sleep_until(&self, at: Time) {
        while self.now() < at {
            self.sleep_towards(at).await;
        }
    }

    /// What the wall clock shows at `at`, for timestamps that people read; `None` if that is beyond
    /// what can be said.
    #[must_use]
    pub fn wall_at(&self, at: Time) -> Option<SystemTime> {
        let (now, wall) = (self.now(), self.wall());
        if at >= now { wall.checked_add(now.until(at)) } else { wall.checked_sub(now - at) }
    }

    /// The wall clock, for timestamps that people read. Never for judging a lease.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        (self.0.wall)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// The monotonic clock on which pools stamp their connections: the only one that can be compared
/// with a connection's age. For hook crates.
#[must_use]
pub fn pool_instant() -> Instant {
    Instant::now()
}

/// The monotonic clock as the kernel last wrote it down, a few milliseconds ago, in units of its
/// own: at a fifth of the price, for what asks each time a connection is handed out.
#[cfg(target_os = "linux")]
#[inline]
pub(crate) fn coarse_now() -> u64 {
    // Not `now`: that also writes to a place that all threads share.
    coarsetime::Instant::now_without_cache_update().as_ticks()
}

/// `span` in the units of [`coarse_now`].
#[cfg(target_os = "linux")]
pub(crate) fn coarse_span(span: Duration) -> u64 {
    // Its seconds have 32 bits.
    coarsetime::Duration::from(span.min(Duration::from_secs(u32::MAX.into()))).as_ticks()
}

/// Elsewhere the usual clock, in nanoseconds.
#[cfg(not(target_os = "linux"))]
pub(crate) fn coarse_now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    coarse_span(START.elapsed())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn coarse_span(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    /// A wall clock that runs with tokio's paused one, plus an offset that the test sets.
    fn rig() -> (Clock, Arc<AtomicI64>) {
        let offset = Arc::new(AtomicI64::new(0));
        let (start, read) = (tokio::time::Instant::now(), offset.clone());
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let clock = Clock::with_wall(move || {
            let ms = start.elapsed().as_millis() as i64 + read.load(Ordering::SeqCst);
            base.checked_add_signed_ms(ms)
        });
        (clock, offset)
    }

    trait Signed {
        fn checked_add_signed_ms(self, ms: i64) -> SystemTime;
    }
    impl Signed for SystemTime {
        fn checked_add_signed_ms(self, ms: i64) -> SystemTime {
            let by = Duration::from_millis(ms.unsigned_abs());
            if ms < 0 { self - by } else { self + by }
        }
    }

    fn secs(t: Time) -> u64 {
        t.since_start().as_secs_f64().round() as u64
    }

    #[tokio::test(start_paused = true)]
    async fn i12_a_suspended_machine_finds_its_lost_hours() {
        let (clock, wall) = rig();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(secs(clock.now()), 10);
        wall.store(3_600_000, Ordering::SeqCst); // the monotonic clock stood still
        assert_eq!(secs(clock.now()), 3610);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(secs(clock.now()), 3615);
    }

    #[tokio::test(start_paused = true)]
    async fn i12_a_wall_clock_set_back_is_ignored_and_hides_no_later_suspension() {
        let (clock, wall) = rig();
        tokio::time::advance(Duration::from_secs(10)).await;
        wall.store(-7_200_000, Ordering::SeqCst);
        assert_eq!(secs(clock.now()), 10);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(secs(clock.now()), 20);
        wall.store(-7_200_000 + 60_000, Ordering::SeqCst); // a minute of sleep after the step
        assert_eq!(secs(clock.now()), 80);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sleeps_for_long_wakes_up_with_the_others_and_who_does_not_is_in_time() {
        let (clock, _) = rig();
        let far = clock.now() + Duration::from_secs(60);
        tokio::time::advance(Duration::from_millis(130)).await;
        let woken = async || {
            clock.sleep_towards(far).await;
            clock.now()
        };
        let late = async {
            tokio::time::sleep(Duration::from_millis(110)).await;
            woken().await
        };
        let (one, other) = tokio::join!(woken(), late);
        assert_eq!((one, other), (Time(MAX_SLEEP), Time(MAX_SLEEP)));
        let near = clock.now() + Duration::from_millis(4_321);
        clock.sleep_towards(near).await;
        assert_eq!(clock.now(), near);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instant_has_a_time_on_the_wall_that_stays() {
        let (clock, _) = rig();
        let at = clock.now() + Duration::from_secs(60);
        let said = clock.wall_at(at).unwrap();
        assert_eq!(said, clock.wall() + Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.wall_at(at).unwrap(), said, "past or not");
        assert_eq!(clock.wall_at(at + Duration::MAX), None);
    }

    #[tokio::test(start_paused = true)]
    async fn i12_no_timer_sleeps_past_the_bound_without_reading_both_clocks() {
        let (clock, wall) = rig();
        let far = clock.now() + Duration::from_secs(7200);
        let before = tokio::time::Instant::now();
        clock.sleep_towards(far).await;
        assert!(before.elapsed() <= MAX_SLEEP + Duration::from_millis(1));
        assert!(before.elapsed() >= MAX_SLEEP - TOGETHER, "and not much sooner");
        wall.store(7_200_000, Ordering::SeqCst);
        let before = tokio::time::Instant::now();
        clock.sleep_until(far).await;
        assert!(before.elapsed() <= MAX_SLEEP, "the jump was seen without waiting for the timer");
    }
}
