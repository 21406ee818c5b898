//! What the rotator told, with the time of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use leasehold::Event;

use crate::world::unix_now;

/// One superseded generation's way out, or the current one's way in.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) username: String,
    pub(crate) reason: String,
    pub(crate) swapped: Instant,
    /// Unix time at which no dial with its login was in flight any more.
    pub(crate) settled: Option<f64>,
    pub(crate) rolled: Option<Instant>,
    /// The roll ended with dials still in flight, as was warned of.
    pub(crate) straddled: bool,
    pub(crate) drained: Option<Instant>,
    /// Unix time at which the login was known to be dead.
    pub(crate) dead: Option<f64>,
}

/// A login that was issued, whether or not it ever became current.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issue {
    pub(crate) at: Instant,
    /// When its lease was told to be revoked, or over.
    pub(crate) ended: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) lives: BTreeMap<u64, Life>,
    /// By user name.
    pub(crate) issued: BTreeMap<String, Issue>,
    pub(crate) renewals: u64,
    pub(crate) forced: u64,
    /// When a lease ended with no other at hand, and when there was one.
    pub(crate) barren: Vec<(Instant, Option<Instant>)>,
    /// What a silent one would have printed, with the time of each.
    pub(crate) lines: Vec<(Instant, String)>,
}

/// Listens to the rotator.
#[derive(Clone, Default)]
pub(crate) struct Chronicle {
    told: Arc<Mutex<Told>>,
    /// Lines are kept and not printed.
    silent: bool,
}

impl Chronicle {
    pub(crate) fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// A line of our own among those of the rotator.
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.lock().lines.push((Instant::now(), line.into()));
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hear(&self, event: &Event) {
        let now = Instant::now();
        let mut told = self.lock();
        let told = &mut *told;
        match event {
            Event::Issued { username, .. } => {
                told.issued.insert(username.clone(), Issue { at: now, ended: None });
            }
            Event::Revoked { username, .. } | Event::LeaseEnded { username, .. } => {
                if let Some(issue) = told.issued.get_mut(username) {
                    issue.ended.get_or_insert(now);
                }
            }
            Event::Swapped { generation, username, reason, .. } => {
                let life = Life {
                    username: username.clone(),
                    reason: reason.to_string(),
                    swapped: now,
                    settled: None,
                    rolled: None,
                    straddled: false,
                    drained: None,
                    dead: None,
                };
                told.lives.insert(*generation, life);
                if let Some(last) = told.barren.last_mut() {
                    last.1.get_or_insert(now);
                }
            }
            Event::DialsSettled { generation, .. } => {
                if let Some(life) = told.lives.get_mut(generation) {
                    life.settled = Some(unix_now());
                }
            }
            Event::RollEnded { generation, .. } => {
                if let Some(life) = told.lives.get_mut(generation) {
                    life.rolled = Some(now);
                    life.straddled = life.settled.is_none();
                }
            }
            Event::Drained { generation, forced, .. } => {
                told.forced += forced.len() as u64;
                if let Some(life) = told.lives.get_mut(generation) {
                    life.drained = Some(now);
                }
            }
            Event::Expired { .. } => told.barren.push((now, None)),
            Event::LoginRejected { generation } | Event::SessionRevoked { generation } => {
                if let Some(life) = told.lives.get_mut(generation) {
                    life.dead.get_or_insert_with(unix_now);
                }
            }
            Event::Renewed { .. } => told.renewals += 1,
            _ => {}
        }
        if self.silent {
            told.lines.push((now, event.to_string()));
        } else if !matches!(event, Event::Renewed { .. } | Event::Draining { .. }) {
            eprintln!("  {event}");
        }
    }

    pub(crate) fn told(&self) -> Told {
        self.lock().clone()
    }
}
