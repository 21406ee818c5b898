//! What the rotator did, counted from its events.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leasehold::{Event, Reason};

/// Shared with the rotator's observer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// Each login's name, and whether its lease is known to be over.
    logins: BTreeMap<String, bool>,
    rotations: BTreeMap<&'static str, u32>,
    renewals: u32,
}

impl Tally {
    pub(crate) fn see(&self, event: &Event) {
        let mut counts = self.counts();
        match event {
            Event::Issued { username, .. } => {
                counts.logins.insert(username.clone(), false);
            }
            Event::Revoked { username, .. } | Event::LeaseEnded { username, .. } => {
                counts.logins.insert(username.clone(), true);
            }
            Event::Swapped { reason, .. } if *reason != Reason::Start => {
                *counts.rotations.entry(reason.as_str()).or_default() += 1;
            }
            Event::Renewed { .. } => counts.renewals += 1,
            _ => {}
        }
    }

    pub(crate) fn rotations(&self) -> u32 {
        self.counts().rotations.values().sum()
    }

    /// How many logins were issued.
    pub(crate) fn issued(&self) -> usize {
        self.counts().logins.len()
    }

    /// Logins whose end was not confirmed.
    pub(crate) fn unconfirmed(&self) -> Vec<String> {
        let counts = self.counts();
        counts.logins.iter().filter(|(_, over)| !**over).map(|(name, _)| name.clone()).collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `2 rotations (max_ttl 2), 5 renewals`
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        let total: u32 = counts.rotations.values().sum();
        let reasons: Vec<_> = counts.rotations.iter().map(|(r, n)| format!("{r} {n}")).collect();
        let reasons = if total == 0 { String::new() } else { format!(" ({})", reasons.join(", ")) };
        let (s, t) = (plural(total), plural(counts.renewals));
        write!(f, "{total} rotation{s}{reasons}, {} renewal{t}", counts.renewals)
    }
}

fn plural(n: u32) -> &'static str {
    if n == 1 { "" } else { "s" }
}
