//! When to renew a token, and how long to wait after a failure. Numbers only.

use std::time::Duration;

/// How long after the `failures`-th failure in a row a caller's demand may bring a login forward.
/// Callers pace themselves; this bounds what many of them do together, and is short at first, as
/// most of what fails for now has passed in a second. After a login that was refused for good it
/// is longer: each try may count towards a lock-out.
pub(crate) fn demand_gap(failures: u32, refused: bool) -> Duration {
    let (first, most) = if refused { (5_000, 60_000) } else { (200, 5_000) };
    let grown =
        Duration::from_millis(first).saturating_mul(1 << failures.saturating_sub(1).min(16));
    grown.min(Duration::from_millis(most))
}

/// What a rotator's leeway takes by default, rounded up. The first grant that is cut short is the
/// only sign of a token's maximum TTL, and what lives on the token has to move before its end: so
/// it is looked for with this much left, where the token lives so long at all.
const LEAD: Duration = Duration::from_secs(55);

/// The longest that what has time waits after its first failure, and after any other.
const SOON: Duration = Duration::from_secs(60);
const SLOWEST: Duration = Duration::from_secs(600);

/// How long after it was asked for a token of life `ttl` is to be renewed: as a lease is, at random
/// between a sixth and a third of its life (`machine/policy.rs` of the core says why); sooner where
/// that would leave less than a rotation takes, yet not before a twelfth. `dice` is from nothing to
/// one.
pub(crate) fn renew_after(ttl: Duration, dice: f64) -> Duration {
    let latest = (ttl / 3).min(ttl.saturating_sub(LEAD)).max(ttl / 6);
    latest.mul_f64(0.5 + 0.5 * dice)
}

/// How long after it was asked for a token that can't be renewed is replaced: at half of its life,
/// sooner like the other. Leases move with it, which costs a mint each.
pub(crate) fn replace_after(ttl: Duration, dice: f64) -> Duration {
    let latest = (ttl / 2).min(ttl.saturating_sub(LEAD)).max(ttl / 6);
    latest.mul_f64(0.9 + 0.1 * dice)
}

/// How long a request waits that failed `failures` times, where a token of life `ttl` has `left` to
/// live: once shortly, and then a third of it at the most, as a lease's renewal. The ordinary backoff
/// is the least.
pub(crate) fn pace(failures: u32, left: Duration, ttl: Duration, dice: f64) -> Duration {
    let most = if failures <= 1 { (ttl / 60).min(SOON) } else { (ttl / 7).min(SLOWEST) };
    most.min(left / 3).mul_f64(0.75 + 0.25 * dice)
}

/// How long after it was looked at a token that somebody else renews is looked at again, `ttl`
/// having been left: agents renew at two thirds, and a look after that sees the new end.
pub(crate) fn look_after(ttl: Duration) -> Duration {
    (ttl / 4 * 3).max(Duration::from_millis(250))
}

/// How long after the `looks`-th look at a token that somebody else replaced it is looked at again:
/// 1 s growing to 30 s. Those who revoke the old one do so soon after.
pub(crate) fn look_again_after(looks: u32) -> Duration {
    let grown = Duration::from_secs(1).saturating_mul(1 << looks.saturating_sub(1).min(8));
    grown.min(Duration::from_secs(30))
}

/// How long to wait after the `failures`-th failure in a row: full jitter, so that many clients
/// of a server that came back do not come at once. Short tokens leave little time to retry in,
/// so that their cap is a twelfth of the life that was granted.
pub(crate) fn backoff(failures: u32, ttl: Option<Duration>, server: Option<Duration>) -> Duration {
    let cap = ttl
        .map_or(Duration::MAX, |ttl| ttl / 12)
        .clamp(Duration::from_millis(500), Duration::from_secs(30));
    let grown = Duration::from_millis(100).saturating_mul(1 << failures.min(16));
    let least = Duration::from_millis(20);
    let jittered = least + grown.min(cap).mul_f64(fastrand::f64());
    jittered.max(server.unwrap_or_default())
}

/// What can be granted of the time that the server wants to be left alone, where `left` is what a
/// token has yet to live that would be replaced: there must be more tries before its end.
pub(crate) fn granted(wish: Duration, left: Option<Duration>) -> Duration {
    left.map_or(wish, |left| wish.min(left / 4))
}

/// How long to wait after a login that was refused for good: 30 s growing to 5 min. A person has
/// to mend it, and nobody should have to restart us then.
pub(crate) fn refused_backoff(failures: u32) -> Duration {
    let grown = Duration::from_secs(30).saturating_mul(1 << failures.saturating_sub(1).min(8));
    let cap = Duration::from_secs(300);
    grown.min(cap).mul_f64(1.0 - 0.2 * fastrand::f64())
}

/// How long a renewal may take: it must leave time for another try.
pub(crate) fn renew_timeout(request_timeout: Duration, remaining: Option<Duration>) -> Duration {
    let half = remaining.map_or(Duration::MAX, |r| r / 2);
    request_timeout.min(half.max(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn renewals_come_between_a_sixth_and_a_third() {
        assert_eq!([0.0, 1.0].map(|dice| renew_after(1200 * S, dice)), [200 * S, 400 * S]);
        assert_eq!([0.0, 1.0].map(|dice| replace_after(1200 * S, dice)), [540 * S, 600 * S]);
    }

    #[test]
    fn what_has_time_takes_it() {
        let hour = 3600 * S;
        assert_eq!([0.0, 1.0].map(|dice| pace(1, 2400 * S, hour, dice)), [45 * S, 60 * S]);
        assert_eq!(pace(2, 2400 * S, hour, 1.0), hour / 7);
        assert_eq!(pace(9, 600 * S, hour, 1.0), 200 * S);
        assert_eq!(pace(9, Duration::ZERO, hour, 1.0), Duration::ZERO);
    }

    #[test]
    fn short_tokens_are_renewed_early_enough_to_move_off_them() {
        for (ttl, renewed, replaced) in [(6, 1, 1), (60, 10, 10), (80, 25, 25), (120, 40, 60)] {
            assert_eq!(renew_after(ttl * S, 1.0).as_secs(), renewed, "{ttl}");
            assert_eq!(replace_after(ttl * S, 1.0).as_secs(), replaced, "{ttl}");
        }
    }

    #[test]
    fn a_token_that_somebody_else_renews_is_looked_at_before_its_end_and_not_in_a_loop() {
        assert_eq!(look_after(3600 * S), 2700 * S);
        let mut left = 3600 * S;
        let mut looks = 0;
        while left > S {
            left = left.saturating_sub(look_after(left));
            looks += 1;
        }
        assert!(looks <= 6, "{looks} to the end of one that nobody renews");
        assert!(look_after(Duration::ZERO) > Duration::ZERO);
    }

    #[test]
    fn backoff_is_bounded_by_the_life_of_the_token_and_never_zero() {
        for failures in 1..40 {
            let short = backoff(failures, Some(6 * S), None);
            assert!(short > Duration::ZERO && short <= Duration::from_millis(520));
            let long = backoff(failures, Some(7200 * S), None);
            assert!(long > Duration::ZERO && long <= Duration::from_millis(30_020));
            let endless = backoff(failures, None, None);
            assert!(endless <= Duration::from_millis(30_020));
        }
        assert!(backoff(1, Some(6 * S), Some(3 * S)) >= 3 * S);
    }

    #[test]
    fn a_refused_login_is_tried_again_slowly_and_for_ever() {
        for failures in 1..100 {
            let wait = refused_backoff(failures);
            assert!(wait >= 24 * S && wait <= 300 * S, "{failures}: {wait:?}");
        }
        assert!(refused_backoff(50) >= 240 * S);
    }

    #[test]
    fn a_wish_of_the_server_is_granted_where_it_costs_no_token() {
        assert_eq!(granted(3600 * S, None), 3600 * S);
        assert_eq!(granted(3600 * S, Some(40 * S)), 10 * S);
        assert_eq!(granted(5 * S, Some(40 * S)), 5 * S);
    }

    #[test]
    fn callers_together_ask_less_often_the_longer_it_fails() {
        let gaps =
            |refused| [1, 2, 6, 99].map(|failures| demand_gap(failures, refused).as_millis());
        assert_eq!(gaps(false), [200, 400, 5000, 5000]);
        assert_eq!(gaps(true), [5000, 10_000, 60_000, 60_000]);
    }

    #[test]
    fn a_renewal_that_hangs_leaves_time_for_another() {
        assert_eq!(renew_timeout(10 * S, Some(6 * S)), 3 * S);
        assert_eq!(renew_timeout(10 * S, Some(S)), S);
        assert_eq!(renew_timeout(10 * S, None), 10 * S);
    }
}
