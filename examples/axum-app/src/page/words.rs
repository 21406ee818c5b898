//! Events in words that need no other words.

use std::time::Duration;

use leasehold::{Event, Reason, Severity};
use serde::Serialize;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tone {
    Plain,
    /// A login comes or stays.
    Login,
    /// Another login became current.
    Swap,
    /// One goes.
    Drain,
    /// One is gone.
    Gone,
    Warn,
    Bad,
    /// Somebody pressed a button.
    Harm,
}

/// An event as a line of the log.
#[derive(Debug)]
pub(crate) struct Told {
    /// A name for scripts and tests.
    pub(crate) kind: &'static str,
    pub(crate) tone: Tone,
    pub(crate) words: String,
    /// One line for who has never heard of it; the same each time.
    pub(crate) means: &'static str,
}

pub(crate) fn of(event: &Event) -> Told {
    let (kind, tone, words, means) = match event {
        Event::Issued { username, ttl } => (
            "issued",
            Tone::Login,
            match ttl {
                Some(ttl) => format!("Vault made the login {username}, for {}", time(*ttl)),
                None => format!("Vault made the login {username}, without an end"),
            },
            "A login is a Postgres user name and password. This one was made for this service \
             alone, and is lent for a time: a lease.",
        ),
        Event::Renewed { generation, granted, last } => (
            "renewed",
            Tone::Login,
            format!(
                "Login no. {generation} may stay {} more{}",
                time(*granted),
                if *last { ", for the last time" } else { "" }
            ),
            "Renewed: the same login, more time. Each login has a longest life (its max TTL), and \
             no renewal goes beyond that.",
        ),
        Event::Rotating { reason } => (
            "rotating",
            Tone::Swap,
            format!("A new login is wanted: {}", because(*reason)),
            "A rotation begins. Queries go on with the login that there is.",
        ),
        Event::Swapped { generation, username, reason, proven } => (
            "swapped",
            Tone::Swap,
            match reason {
                Reason::Start => format!("The service starts on login no. 1, {username}"),
                _ => format!("Login no. {generation} took over: {username}"),
            },
            match proven {
                true => {
                    "Swapped: it opened a working connection first, and every connection from now \
                     on uses it."
                }
                false => {
                    "Swapped without having been tried on every pool, because the login before it \
                     was at its end."
                }
            },
        ),
        Event::Unchanged { generation, .. } => (
            "unchanged",
            Tone::Plain,
            format!("Login no. {generation} stays: there is no other"),
            "Vault was asked and gave the very login that is in use.",
        ),
        Event::DialsSettled { generation, .. } => (
            "settled",
            Tone::Drain,
            format!("Nobody is opening a connection with login no. {generation} any more"),
            "A connection may take a while to open; those begun before the swap are through now.",
        ),
        Event::RollEnded { generation, .. } => (
            "rolled",
            Tone::Drain,
            format!("No query gets a connection of login no. {generation} any more"),
            "Idle connections of the old login were replaced one by one, in the background.",
        ),
        Event::Draining { generation, remaining, .. } => (
            "draining",
            Tone::Drain,
            format!("Login no. {generation} drains: {} left", connections(*remaining)),
            "Draining: who works on an old connection may finish; it is closed on its return.",
        ),
        Event::Drained { generation, left, .. } if *left > 0 => (
            "drained",
            Tone::Warn,
            format!("Login no. {generation}: {} left at the deadline", connections(*left)),
            "They could not be closed in time. The login is revoked all the same, which may end what \
             still runs on them.",
        ),
        Event::Drained { generation, took, forced, .. } => (
            "drained",
            if forced.is_empty() { Tone::Drain } else { Tone::Warn },
            match forced.len() {
                0 => format!("Login no. {generation} is drained, after {}", time(*took)),
                n => format!("Login no. {generation}: {} cut off at the deadline", connections(n)),
            },
            "Drained: no connection of it is left, by our count and by that of Postgres.",
        ),
        Event::Revoked { generation, username, queued: true } => (
            "revoked",
            Tone::Warn,
            format!("{} is left to Vault's queue: {username}", login(*generation)),
            "Vault could not drop its user at once, and goes on trying by itself.",
        ),
        Event::Revoked { generation, username, .. } => (
            "revoked",
            Tone::Gone,
            format!("{} was revoked: {username}", login(*generation)),
            "Revoked: Vault dropped its user from Postgres. Who has stolen it can do nothing now.",
        ),
        Event::LeaseEnded { generation, username } => (
            "lease_ended",
            Tone::Warn,
            format!("{} ended by itself: {username}", login(*generation)),
            "Its time was up before it could be revoked; Vault drops its user.",
        ),
        Event::IssueFailed { error, retry_in } => (
            "issue_failed",
            Tone::Warn,
            format!("Vault made no login: {error}{}", again(*retry_in)),
            "Queries go on with the login that there is, as long as that lives.",
        ),
        Event::RenewFailed { generation, error, retry_in } => (
            "renew_failed",
            Tone::Warn,
            format!("Login no. {generation} was not renewed: {error}{}", again(*retry_in)),
            "It is good until its lease ends, and is tried again before that.",
        ),
        Event::RevokeFailed { generation, error, retry_in } => (
            "revoke_failed",
            Tone::Warn,
            format!("{} could not be revoked: {error}{}", login(*generation), again(*retry_in)),
            "Nobody uses it any more. If it can't be revoked it ends with its lease.",
        ),
        Event::RotationDelayed { retry_in, .. } => (
            "delayed",
            Tone::Warn,
            format!("A new login is wanted, but not before {}", time(*retry_in)),
            "Logins that do not live long are not made in a loop: a limit holds this one back.",
        ),
        Event::ProofFailed { message, .. } => (
            "proof_failed",
            Tone::Warn,
            format!("The new login was tried and did not work: {message}"),
            "It is not used before it works. Queries go on with the login that there is.",
        ),
        Event::LoginRejected { generation } => (
            "login_rejected",
            Tone::Warn,
            format!("Postgres refused login no. {generation}"),
            "Somebody else took it away. A new one is asked for at once.",
        ),
        Event::SessionRevoked { generation } => (
            "session_revoked",
            Tone::Warn,
            format!("The Postgres user of login no. {generation} is gone"),
            "Somebody else took it away. Its connections are given to no query any more, and a new \
             login is asked for at once.",
        ),
        Event::Expired { generation } => (
            "expired",
            Tone::Bad,
            format!("Login no. {generation} has ended, and there is no other yet"),
            "No new connection can be opened. Those that are open go on.",
        ),
        Event::PoolAttached { pool } => (
            "pool_attached",
            Tone::Plain,
            format!("The pool {pool} gets its logins here now"),
            "A pool keeps connections to Postgres open, so that queries need not wait for one.",
        ),
        Event::PoolDetached { pool } => (
            "pool_detached",
            Tone::Plain,
            format!("The pool {pool} was closed"),
            "It needs no login any more.",
        ),
        Event::Stopped { cause, orderly } => (
            "stopped",
            if *orderly { Tone::Plain } else { Tone::Bad },
            format!("The rotator has ended: {cause}"),
            "Nothing is renewed or replaced any more.",
        ),
        other => (
            "other",
            if other.severity() >= Severity::Warn { Tone::Warn } else { Tone::Plain },
            other.to_string(),
            "",
        ),
    };
    Told { kind, tone, words, means }
}

fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::Start => "the service starts",
        Reason::MaxTtl => "this one can't be renewed any further",
        Reason::Leeway => "this one was not renewed in time",
        Reason::TokenEnding => "the token that it was made with ends",
        Reason::LeaseLost => "Vault says that this one is gone",
        Reason::LoginRejected => "Postgres refuses this one",
        Reason::SessionRevoked => "this one was dropped from Postgres",
        Reason::SourceChanged => "there is a newer one",
        Reason::Requested => "somebody asked for it",
        _ => reason.as_str(),
    }
}

fn login(generation: Option<u64>) -> String {
    generation.map_or_else(|| "An unused login".to_owned(), |n| format!("Login no. {n}"))
}

fn connections(n: usize) -> String {
    if n == 1 { "1 connection".to_owned() } else { format!("{n} connections") }
}

fn again(retry_in: Option<Duration>) -> String {
    match retry_in {
        Some(after) if after.is_zero() => "; another way is tried".to_owned(),
        Some(after) => format!("; again in {}", time(after)),
        None => String::new(),
    }
}

/// `6 s`, `0.4 s`, `20 min`, `1.5 h`
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s >= 5_400.0 => (s / 3_600.0, "h"),
        s if s >= 120.0 => (s / 60.0, "min"),
        s => (s, "s"),
    };
    let tenths = (value * 10.0).round() / 10.0;
    if tenths.fract() == 0.0 || tenths >= 10.0 {
        format!("{tenths:.0} {unit}")
    } else {
        format!("{tenths:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (ms, text) in [(6_000, "6 s"), (420, "0.4 s"), (90_000, "90 s"), (5_400_000, "1.5 h")] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn a_start_and_a_swap_are_told_apart() {
        let swapped = |generation, reason| {
            of(&Event::Swapped { generation, username: "v-x".to_owned(), reason, proven: true })
        };
        assert_eq!(swapped(1, Reason::Start).words, "The service starts on login no. 1, v-x");
        assert_eq!(swapped(2, Reason::MaxTtl).words, "Login no. 2 took over: v-x");
    }

    #[test]
    fn a_drain_that_leaves_connections_does_not_claim_to_be_complete() {
        let drained = |left| {
            let (took, forced) = (Duration::from_secs(1), Vec::new());
            of(&Event::Drained { generation: 3, took, forced, left })
        };
        assert_eq!(drained(0).words, "Login no. 3 is drained, after 1 s");
        let told = drained(1);
        assert_eq!(told.words, "Login no. 3: 1 connection left at the deadline");
        assert_eq!((told.kind, told.tone), ("drained", Tone::Warn));
        assert!(!told.means.contains("no connection"), "{}", told.means);
    }

    #[test]
    fn a_candidate_that_is_revoked_has_no_number() {
        let told =
            of(&Event::Revoked { generation: None, username: "v-x".to_owned(), queued: false });
        assert!(told.words.starts_with("An unused login was revoked"), "{}", told.words);
        assert_eq!(told.tone, Tone::Gone);
    }
}
