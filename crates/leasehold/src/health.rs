//! The truth about the credentials, for readiness checks and operators.

use std::time::Duration;

use crate::clock::Time;
use crate::hook::PoolCounts;
use crate::json::{one_line, seconds, seconds_if_any};
use crate::source::ErrorKind;

/// How things stand. Holds no secret.
///
/// Serializes to JSON for a readiness endpoint, under the names of the fields: durations are
/// seconds as a number, to the millisecond; what is `None` is null. The form is stable; fields may
/// be added.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Which rotator's: [`RotatorBuilder::name`](crate::RotatorBuilder::name).
    pub provider: String,
    /// In one word.
    pub state: HealthState,
    /// The current generation.
    pub generation: u64,
    /// Its user name.
    pub username: String,
    /// Time until the current lease ends, its token's end included; `None`: no end.
    #[serde(serialize_with = "seconds_if_any")]
    pub expires_in: Option<Duration>,
    /// Time until the next planned rotation, where one is planned; zero once it is due.
    #[serde(serialize_with = "seconds_if_any")]
    pub rotates_in: Option<Duration>,
    /// The last issue or renewal was answered, and not by "sealed". Revocations are not looked at.
    pub source_ok: bool,
    /// The last answer of the source was that it is sealed.
    pub sealed: bool,
    /// The last failure since the last success.
    pub last_error: Option<LastError>,
    /// Superseded generations that still have connections, oldest first.
    pub draining: Vec<DrainHealth>,
    /// The attached pools.
    pub pools: Vec<PoolHealth>,
    /// Swaps since the start, the first credential not counted.
    pub rotations: u64,
    /// Renewals since the start.
    pub renewals: u64,
    /// Why the background task ended, if it did.
    pub stopped: Option<String>,
}

impl Health {
    /// New connections can be made with the current login, as far as is known. What a readiness
    /// probe asks; a degraded service is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, HealthState::Ready | HealthState::Degraded)
    }
}

impl HealthState {
    /// The name used in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Expired => "expired",
            Self::Stopped => "stopped",
        }
    }
}

/// A [`Health`] in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HealthState {
    /// All is as planned.
    Ready,
    /// The current login is good, yet something fails: see `last_error`.
    Degraded,
    /// The current lease is over or its login is gone, and no other could be had so far.
    Expired,
    /// The background task has ended: nothing is renewed or rotated any more.
    Stopped,
}

/// A failure of the source or of a proof.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct LastError {
    /// Its kind.
    pub kind: ErrorKind,
    /// What was said.
    #[serde(serialize_with = "one_line")]
    pub message: String,
    /// How long ago.
    #[serde(serialize_with = "seconds")]
    pub ago: Duration,
}

/// A superseded generation that is being drained.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DrainHealth {
    /// Which.
    pub generation: u64,
    /// Time until its deadline.
    #[serde(serialize_with = "seconds")]
    pub deadline_in: Duration,
}

/// An attached pool.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PoolHealth {
    /// Its name.
    pub name: String,
    /// Its connections.
    pub counts: PoolCounts,
}

/// What the driver publishes after each step; times instead of durations, so that a reader gets
/// fresh figures without the driver's doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) end: Option<Time>,
    pub(crate) rotate_at: Option<Time>,
    pub(crate) degraded: bool,
    pub(crate) dead: bool,
    pub(crate) source_ok: bool,
    pub(crate) sealed: bool,
    pub(crate) last_error: Option<(ErrorKind, String, Time)>,
    pub(crate) draining: Vec<(u64, Time)>,
    pub(crate) rotations: u64,
    pub(crate) renewals: u64,
    pub(crate) refresh: Refresh,
    pub(crate) stopped: Option<String>,
}

/// Whether a hook that met a refused login has something to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refresh {
    /// A rotation is wanted, and running or permitted now.
    pub(crate) running: bool,
    /// When minting is permitted next, if it is held.
    pub(crate) next: Option<Time>,
    /// Observations taken in so far: tells a reader that its own was among them.
    pub(crate) seen: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn health_is_json_to_the_letter() {
        let health = Health {
            provider: "database/creds/app".to_owned(),
            state: HealthState::Degraded,
            generation: 3,
            username: "v-app-3".to_owned(),
            expires_in: Some(Duration::from_micros(21_400_400)),
            rotates_in: None,
            source_ok: false,
            sealed: true,
            last_error: Some(LastError {
                kind: ErrorKind::Sealed,
                message: "sealed\nup".to_owned(),
                ago: Duration::from_millis(1500),
            }),
            draining: vec![DrainHealth { generation: 2, deadline_in: Duration::from_secs(4) }],
            pools: vec![PoolHealth { name: "app@db".to_owned(), counts: PoolCounts::new(5, 4) }],
            rotations: 2,
            renewals: 7,
            stopped: None,
        };
        let expected = json!({
            "provider": "database/creds/app", "state": "degraded", "generation": 3,
            "username": "v-app-3", "expires_in": 21.4, "rotates_in": null, "source_ok": false,
            "sealed": true,
            "last_error": { "kind": "sealed", "message": "sealed up", "ago": 1.5 },
            "draining": [{ "generation": 2, "deadline_in": 4.0 }],
            "pools": [{ "name": "app@db", "counts": { "size": 5, "idle": 4 } }],
            "rotations": 2, "renewals": 7, "stopped": null,
        });
        assert_eq!(serde_json::to_value(&health).unwrap(), expected);
        for state in
            [HealthState::Ready, HealthState::Degraded, HealthState::Expired, HealthState::Stopped]
        {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
