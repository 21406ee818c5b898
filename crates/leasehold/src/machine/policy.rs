//! Every duration that the machine goes by, and why it is what it is. All scale down to TTLs of a
//! few seconds, so that a test rehearses what production does.

use std::time::Duration;

use crate::clock::Time;

/// A mint that has not answered by then is given up waiting for; what comes later is still taken
/// care of. The server's own bound on a request is 90 s, and a client that hangs up sooner leaves
/// roles behind that nobody revokes.
pub const MINT_TIMEOUT: Duration = Duration::from_secs(120);
/// At most so many requests to mint are in flight: a second one for when the first hangs.
pub const MINTS_IN_FLIGHT: usize = 2;
/// Superseded generations that may drain at once; a further swap ends the oldest's patience.
pub const DRAINING_AT_ONCE: usize = 3;
/// A login that looks wrong is confirmed by a connect at most this often.
pub const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// How often every pool refuses a login, at the least, before that is believed.
pub const PROOF_REJECTIONS: u32 = 4;
/// Sync revocations tried before the server is asked to take over the trying.
pub const REVOKE_TRIES: u32 = 6;
/// A source that makes no leases is asked out of turn this often, after a burst: each time may be
/// the one that brings the new password, and costs one small request.
pub const READ_EVERY: Duration = Duration::from_secs(1);
/// The longest wait between two looks at a source whose news leads to nothing.
const SLOWEST_NEWS: Duration = Duration::from_secs(30);
/// How often a refused login is read again before it is believed that there is no other: the
/// server changes a static role's password in Postgres first and in its own storage next.
pub const REREADS: u32 = 6;
/// The attempt number of a renewal that stands in for a revocation.
pub const SOFT_REVOKE: u64 = 0;
/// After the deadline of a shutdown: for the last revocations, each a few milliseconds when Vault
/// answers at all.
pub const SHUTDOWN_WRAP_UP: Duration = Duration::from_secs(5);

/// A server may grant, and a user ask for, any number of seconds. More than a century is taken for
/// one, so that no sum overflows.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

const DEFAULT_GRACE: Duration = Duration::from_secs(30);
const DEFAULT_ROLL: Duration = Duration::from_secs(15);
const BACKOFF_FLOOR: Duration = Duration::from_millis(100);
/// The longest a renewal waits after its first failure, and after any other.
const SOON: Duration = Duration::from_secs(60);
const SLOWEST_RENEWAL: Duration = Duration::from_secs(600);

/// A rotation is early by at most this part of what is left, and by at most so long: more would
/// spread no fleet better that one database can carry.
const ROTATE_EARLY: u32 = 6;
const EARLIEST_ROTATION: Duration = Duration::from_secs(1800);

/// What the user may set; `None` is the default.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Policy {
    pub grace: Option<Duration>,
    pub roll: Option<Duration>,
}

/// The policy worked out for leases of one TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub ttl: Option<Duration>,
    /// How long a borrowed connection has to come back once none of its generation is handed out
    /// any more: 30 s, or a quarter of the TTL.
    pub grace: Duration,
    /// How long before its end a lease is rotated: the roll and the grace, plus min(5 s, TTL/10)
    /// for the rotation itself, plus 1 s because Vault counts whole seconds.
    pub leeway: Duration,
    /// How long superseded connections may still be handed out while they are replaced one by one:
    /// 15 s, or a sixteenth of the TTL. It comes before the grace and takes nothing of it.
    pub roll: Duration,
    /// The TTL is too short for the grace asked for, which was cut.
    pub clipped: bool,
}

impl Policy {
    fn grace(self) -> Option<Duration> {
        self.grace.map(|grace| grace.min(LONGEST))
    }

    fn roll(self) -> Option<Duration> {
        self.roll.map(|roll| roll.min(LONGEST))
    }

    /// The terms as asked for, even where they don't fit the TTL.
    fn asked(self, ttl: Duration) -> Terms {
        let grace = self.grace().unwrap_or(DEFAULT_GRACE.min(ttl / 4));
        let roll = self.roll().unwrap_or(DEFAULT_ROLL.min(ttl / 16));
        let rotation = Duration::from_secs(5).min(ttl / 10) + Duration::from_secs(1);
        let leeway = roll + grace + rotation;
        Terms { ttl: Some(ttl), grace, leeway, roll, clipped: leeway >= ttl }
    }

    pub fn terms(self, ttl: Option<Duration>) -> Terms {
        let Some(ttl) = ttl else {
            let grace = self.grace().unwrap_or(DEFAULT_GRACE);
            let roll = self.roll().unwrap_or(DEFAULT_ROLL);
            return Terms { ttl: None, grace, leeway: Duration::ZERO, roll, clipped: false };
        };
        let asked = self.asked(ttl);
        if !asked.clipped {
            return asked;
        }
        let (grace, roll) = (asked.grace.min(ttl / 4), asked.roll.min(ttl / 16));
        Terms { grace, leeway: ttl / 2, roll, ..asked }
    }

    /// What a start error names when `ttl` is too short.
    pub(crate) fn asked_leeway(self, ttl: Duration) -> Duration {
        self.asked(ttl).leeway
    }
}

/// The grace for leases of this TTL, and how long before its end one is rotated: what a rotator
/// makes of them. `None`: the TTL is too short for the grace asked for.
#[must_use]
pub fn plan(grace: Option<Duration>, ttl: Duration) -> (Option<Duration>, Duration) {
    let policy = Policy { grace, roll: None };
    let terms = policy.terms(Some(ttl));
    ((!terms.clipped).then_some(terms.grace), policy.asked_leeway(ttl))
}

impl Terms {
    /// A lease is renewed at the latest once this much is left: when a third of its TTL has passed,
    /// long before it has to be. What is left then is how long Vault may be away without a login
    /// being lost; and a fleet whose renewals are more than an outage apart would come back from it
    /// with several times its usual load, whatever it does (`cargo fleet`). A renewal costs Vault two
    /// milliseconds.
    ///
    /// A renewal that is due together with the rotation is no renewal. So a third of what lies before
    /// the leeway is kept for trying, or 2 s if there is so much: a server under load takes its time.
    pub(crate) fn renew_within(&self) -> Duration {
        let ttl = self.ttl.unwrap_or_default();
        let before = ttl.saturating_sub(self.leeway);
        let trying = (before / 3).max((before / 2).min(Duration::from_secs(2)));
        (ttl - ttl / 3).max(self.leeway + trying)
    }

    /// How much sooner at the most, at random: half of the time that has passed by then. Processes
    /// that were started together are spread over all of it after a few renewals.
    pub(crate) fn renew_spread(&self) -> Duration {
        self.ttl.unwrap_or_default().saturating_sub(self.renew_within()) / 2
    }

    /// How long a renewal that failed `failures` times waits, `left` before the leeway: once shortly,
    /// as most of what fails is over in a moment, and then a third of what is left, a seventh of the
    /// TTL at the most. Who has forty minutes has no reason to hurry, and thousands who do so keep a
    /// server down that comes back. However long the TTL is, it is tried every ten minutes: until
    /// then health can't say that it is over. Near the leeway the ordinary backoff takes over, which
    /// is longer by then.
    pub(crate) fn renewal_pause(
        &self,
        rng: &mut fastrand::Rng,
        failures: u32,
        left: Duration,
    ) -> Duration {
        let ttl = self.ttl.unwrap_or_default();
        let most =
            if failures <= 1 { (ttl / 60).min(SOON) } else { (ttl / 7).min(SLOWEST_RENEWAL) };
        most.min(left / 3).mul_f64(0.75 + 0.25 * rng.f64())
    }

    /// How long a generation whose lease certainly lives for `life` is meant to serve at the
    /// least. A quarter of its life where the leeway leaves nothing, so that a server that grants
    /// ever shorter leases is not asked in a loop.
    pub(crate) fn planned_service(&self, life: Duration) -> Duration {
        life.saturating_sub(self.leeway).max(life / 4)
    }

    /// How long a drain may take.
    #[must_use]
    pub fn drain(&self) -> Duration {
        self.roll + self.grace
    }

    /// A drain ends this long before its lease does: enough to end sessions with a login that is
    /// still good.
    pub(crate) fn end_margin(&self) -> Duration {
        (self.grace / 4).min(Duration::from_secs(1))
    }

    /// When a mint hangs, a second one starts after this.
    pub(crate) fn mint_patience(&self) -> Duration {
        let third = self.leeway / 3;
        if third.is_zero() { Duration::from_secs(10) } else { third.min(Duration::from_secs(10)) }
    }

    /// What a replica may lag behind the making of a role: until then a login that every pool
    /// refuses is tried again. Another one would be as unknown there.
    pub(crate) fn lag_patience(&self) -> Duration {
        let half = self.ttl.map_or(Duration::MAX, |ttl| ttl / 2);
        half.min(Duration::from_secs(15))
    }

    /// The longest pause between two tries of something that heals by itself.
    pub(crate) fn transient_cap(&self) -> Duration {
        let ttl = self.ttl.unwrap_or(Duration::from_secs(3600));
        (ttl / 12).clamp(Duration::from_millis(500), Duration::from_secs(30))
    }

    /// The longest pause between two tries of something that a person has to mend. Not for ever:
    /// a policy is often mended an hour later, and nobody should have to restart the service.
    pub(crate) fn permanent_cap(&self) -> Duration {
        let ttl = self.ttl.unwrap_or(Duration::from_secs(3600));
        (ttl / 4).clamp(Duration::from_secs(2), Duration::from_secs(300))
    }

    /// One mint is permitted each so often, when it is not a planned rotation.
    pub(crate) fn refill(&self) -> Duration {
        let ttl = self.ttl.unwrap_or(Duration::from_secs(3600));
        (ttl / 2).min(Duration::from_secs(30))
    }
}

/// Full jitter: anything up to a bound that doubles with each failure, and never nothing.
pub(crate) fn backoff(rng: &mut fastrand::Rng, failures: u32, cap: Duration) -> Duration {
    let bound = (BACKOFF_FLOOR * 2u32.saturating_pow(failures.min(16))).min(cap);
    BACKOFF_FLOOR.max(bound.mul_f64(rng.f64()))
}

/// How much sooner than it has to be a login is replaced at the most, at random, `left` before it
/// has to be. Processes that were started together reach the maximum TTL together, and a database
/// makes some fifty logins a second: thousands of them don't fit into one leeway (`cargo fleet`). A
/// share of what is left, so that what is drawn is small against how long a login serves. Nothing
/// of the last minute, and little where TTLs are minutes: a fleet that large can't run on those.
pub(crate) fn rotate_spread(left: Duration) -> Duration {
    (left.saturating_sub(Duration::from_secs(60)) / ROTATE_EARLY).min(EARLIEST_ROTATION)
}

/// How long the source's next news waits after one that was followed.
pub(crate) fn news_pause(idle: u32) -> Duration {
    (READ_EVERY * 2u32.saturating_pow(idle.min(16))).min(SLOWEST_NEWS)
}

/// Permits for minting out of turn: a burst of two, then one per interval; the interval doubles,
/// up to 5 minutes, while fresh credentials are themselves refused.
#[derive(Clone, Debug)]
pub struct Limiter {
    tokens: u32,
    refilled: Time,
    doublings: u32,
}

const BURST: u32 = 2;
const SLOWEST: Duration = Duration::from_secs(300);

#[cfg(feature = "simulation")]
impl std::hash::Hash for Limiter {
    fn hash<H: std::hash::Hasher>(&self, into: &mut H) {
        // A full one counts from when it is next drawn on.
        let refilled = (self.tokens < BURST).then_some(self.refilled);
        (self.tokens, refilled, self.doublings).hash(into);
    }
}

impl Limiter {
    pub(crate) fn new(now: Time) -> Self {
        Self { tokens: BURST, refilled: now, doublings: 0 }
    }

    fn interval(&self, refill: Duration) -> Duration {
        let slowed = refill.saturating_mul(2u32.saturating_pow(self.doublings));
        slowed.min(SLOWEST.max(refill)).max(Duration::from_millis(1))
    }

    /// Takes a permit, or says when there is one.
    pub(crate) fn take(&mut self, now: Time, refill: Duration) -> Result<(), Time> {
        let interval = self.interval(refill);
        let due = ((now - self.refilled).as_nanos() / interval.as_nanos()).min(u128::from(BURST));
        for _ in 0..due {
            self.refilled = self.refilled + interval;
            self.tokens = (self.tokens + 1).min(BURST);
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
        if self.tokens == 0 {
            return Err(self.refilled + interval);
        }
        self.tokens -= 1;
        Ok(())
    }

    /// The permit was not used: nothing was minted.
    pub(crate) fn give_back(&mut self) {
        self.tokens = (self.tokens + 1).min(BURST);
    }

    /// A fresh credential was refused: slow down.
    pub(crate) fn slow_down(&mut self) {
        self.doublings = (self.doublings + 1).min(8);
    }

    /// A fresh credential was accepted: the usual pace again. Permits stay as they are, or a login
    /// that somebody keeps revoking would be minted in a loop.
    pub(crate) fn speed_up(&mut self) {
        self.doublings = 0;
    }

    /// The server can be reached again: nothing of what it could not do counts.
    pub(crate) fn reset(&mut self, now: Time) {
        *self = Self::new(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn defaults_scale_down_to_seconds() {
        let terms = Policy::default().terms(Some(s(3600)));
        assert_eq!((terms.grace, terms.leeway, terms.roll), (s(30), s(51), s(15)));
        assert_eq!((terms.renew_within(), terms.renew_spread()), (s(2400), s(600)));
        let terms = Policy::default().terms(Some(s(6)));
        assert_eq!(terms.grace, Duration::from_millis(1500));
        assert_eq!(terms.leeway, Duration::from_millis(3475));
        assert!(terms.renew_within() > terms.leeway);
        assert!(terms.renew_within() + terms.renew_spread() < s(6));
        assert!(!terms.clipped);
    }

    /// The rows of the tables of a heading, by their cells.
    fn rows(heading: &str) -> Vec<Vec<&'static str>> {
        let page = include_str!("../../manual/defaults.md");
        let (_, section) = page.split_once(&format!("## {heading}\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    fn in_seconds(time: Duration) -> String {
        format!("{} s", time.as_secs_f64())
    }

    #[test]
    fn the_manual_has_the_numbers_of_this_file() {
        for row in rows("What follows from the TTL") {
            let ttl = s(row[0].trim_end_matches(" s").parse().unwrap());
            let terms = Policy::default().terms(Some(ttl));
            let latest = terms.renew_within();
            let numbers =
                [terms.grace, terms.leeway, terms.roll, latest + terms.renew_spread(), latest];
            assert_eq!(row[1..], numbers.map(in_seconds), "with a TTL of {ttl:?}");
        }
        let refill = Policy::default().terms(None).refill();
        let fixed = [
            ("a mint is waited for", in_seconds(MINT_TIMEOUT)),
            ("mints in flight", MINTS_IN_FLIGHT.to_string()),
            (
                "a rotation that can't be put off is early by",
                format!(
                    "up to 1/{ROTATE_EARLY} of what is left, {} at the most",
                    in_seconds(EARLIEST_ROTATION)
                ),
            ),
            ("generations that drain at once", DRAINING_AT_ONCE.to_string()),
            ("a suspicion is looked into once per", in_seconds(CONFIRM_EVERY)),
            ("refusals before a new login is given up", PROOF_REJECTIONS.to_string()),
            ("revocations before the server is asked to go on", REVOKE_TRIES.to_string()),
            ("a source without leases is asked once per", in_seconds(READ_EVERY)),
            ("a refused login is read again", format!("{REREADS} times")),
            ("after a shutdown's deadline", in_seconds(SHUTDOWN_WRAP_UP)),
            (
                "mints out of turn",
                format!("{BURST}, then one per {} or half the TTL", in_seconds(refill)),
            ),
            ("the slowest pace of them", in_seconds(SLOWEST)),
        ];
        let shown = rows("What is fixed");
        let shown: Vec<_> = shown.iter().map(|row| (row[0], row[1].to_owned())).collect();
        assert_eq!(shown, fixed);
        let settable = rows("What can be set");
        assert!(settable[0][1].starts_with(&in_seconds(DEFAULT_GRACE)));
        assert!(settable[1][1].starts_with(&in_seconds(DEFAULT_ROLL)));
    }

    #[test]
    fn a_ttl_too_short_for_its_grace_is_told_and_cut() {
        let policy = Policy { grace: Some(s(10)), roll: None };
        let terms = policy.terms(Some(s(8)));
        assert!(terms.clipped);
        assert!(terms.leeway < s(8) && terms.grace < terms.leeway);
        assert!(policy.asked_leeway(s(8)) > s(8));
        let policy = Policy { grace: Some(Duration::MAX), roll: Some(Duration::MAX) };
        assert!(policy.terms(Some(s(8))).clipped, "a grace without end");
        // A lease without end has room for a century of it.
        assert_eq!(policy.terms(Some(Duration::MAX)).grace, LONGEST);
    }

    #[test]
    fn i7_the_limiter_gives_two_then_one_per_interval_and_slows_down() {
        let at = |n| Time::from_start(s(n));
        let mut limiter = Limiter::new(at(0));
        assert!(limiter.take(at(0), s(30)).is_ok());
        assert!(limiter.take(at(0), s(30)).is_ok());
        assert_eq!(limiter.take(at(0), s(30)), Err(at(30)));
        assert_eq!(limiter.take(at(29), s(30)), Err(at(30)));
        assert!(limiter.take(at(30), s(30)).is_ok());
        limiter.slow_down();
        assert_eq!(limiter.take(at(31), s(30)), Err(at(90)));
        for _ in 0..20 {
            limiter.slow_down();
        }
        assert_eq!(limiter.take(at(31), s(30)), Err(at(330)));
        limiter.reset(at(40));
        assert!(limiter.take(at(40), s(30)).is_ok());
    }

    #[test]
    fn a_renewal_is_tried_again_at_a_pace_that_fits_what_is_left() {
        let mut rng = fastrand::Rng::with_seed(7);
        let terms = Policy::default().terms(Some(s(3600)));
        let mut within = |failures, left, least: u64, most: u64| {
            for _ in 0..200 {
                let pause = terms.renewal_pause(&mut rng, failures, s(left));
                assert!(pause >= s(least) && pause <= s(most), "{failures}, {left}: {pause:?}");
            }
        };
        within(1, 2400, 45, 60);
        within(2, 2400, 385, 515);
        within(9, 600, 150, 200);
        within(1, 60, 15, 20);
        within(9, 0, 0, 0);
        let day = Policy::default().terms(Some(s(86_400)));
        assert!(day.renewal_pause(&mut rng, 1, s(50_000)) <= s(60));
        assert!(day.renewal_pause(&mut rng, 2, s(50_000)) <= s(600));
    }

    #[test]
    fn a_rotation_is_early_where_there_is_time_to_be() {
        assert_eq!(rotate_spread(s(3564)), s(584));
        assert_eq!(rotate_spread(s(240)), s(30));
        assert_eq!(rotate_spread(s(60)), s(0));
        assert_eq!(rotate_spread(s(86_364)), s(1800));
    }

    #[test]
    fn backoff_never_hits_zero_and_grows_to_its_cap() {
        let mut rng = fastrand::Rng::with_seed(7);
        let longest = |rng: &mut fastrand::Rng, failures| {
            (0..200).map(|_| backoff(rng, failures, s(10))).max().unwrap()
        };
        assert!((0..200).all(|n| backoff(&mut rng, n, s(10)) >= BACKOFF_FLOOR));
        assert!(longest(&mut rng, 3) <= Duration::from_millis(800));
        assert!(longest(&mut rng, 12) > s(9) && longest(&mut rng, 12) <= s(10));
    }
}
