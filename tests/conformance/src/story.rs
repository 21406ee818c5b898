//! What the rotator told, in order, with the time of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use leasehold::hook::Holder;
use leasehold::{Event, Reason};
use tokio::sync::watch;

use crate::scene::LIMIT;

pub(crate) struct Told {
    pub(crate) at: Instant,
    /// Unix seconds, as Postgres's log has them.
    pub(crate) unix: f64,
    pub(crate) event: Event,
}

#[derive(Clone, Default)]
pub(crate) struct Story {
    told: Arc<Mutex<Vec<Told>>>,
    news: Arc<watch::Sender<()>>,
}

impl Story {
    /// On the rotator's own task, so that nothing that comes of the event is before it.
    pub(crate) fn hear(&self, event: &Event) {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let told = Told { at: Instant::now(), unix: unix.as_secs_f64(), event: event.clone() };
        self.told().push(told);
        self.news.send_replace(());
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Vec<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first that `pick` takes, of those that were told and those to come.
    pub(crate) async fn find<T>(&self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        match tokio::time::timeout(LIMIT, self.search(pick)).await {
            Ok(found) => found,
            Err(_) => panic!("never {what}; what was told: {}", self.lines()),
        }
    }

    async fn search<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> T {
        let mut news = self.news.subscribe();
        loop {
            news.mark_unchanged();
            let found = self.told().iter().find_map(|told| pick(&told.event));
            if let Some(found) = found {
                return found;
            }
            // The sender is ours: it can't be gone.
            let _ = news.changed().await;
        }
    }

    /// All of it, one a line.
    pub(crate) fn lines(&self) -> String {
        let told = self.told();
        let begun = told.first().map(|told| told.at);
        told.iter()
            .map(|one| {
                let after = begun.map_or(Duration::ZERO, |begun| one.at - begun);
                format!("\n{:8.3}  {}", after.as_secs_f64(), one.event)
            })
            .collect()
    }

    /// Waits until `number` is current. Why, and the name of its login.
    pub(crate) async fn swapped(&self, number: u64) -> (Reason, String) {
        let what = format!("a swap to generation {number}");
        let (reason, username, proven) = self
            .find(&what, |event| match event {
                Event::Swapped { generation, reason, username, proven }
                    if *generation == number =>
                {
                    Some((*reason, username.clone(), *proven))
                }
                _ => None,
            })
            .await;
        assert!(proven, "I5: swapped unproven: {}", self.lines());
        (reason, username)
    }

    /// Waits until none of `number` is handed out any more. Nothing is drained before that is told.
    pub(crate) async fn rolled(&self, number: u64) {
        let what = format!("an end of the roll of generation {number}");
        let rolled = self.find(&what, |event| match event {
            Event::RollEnded { generation, .. } if *generation == number => Some(true),
            Event::Drained { generation, .. } if *generation == number => Some(false),
            _ => None,
        });
        assert!(rolled.await, "drained before its roll had ended: {}", self.lines());
    }

    /// Waits until `number` was drained. Who was ended for it, and after what time.
    pub(crate) async fn drained(&self, number: u64) -> (Vec<Holder>, Duration) {
        let what = format!("an end of the drain of generation {number}");
        let (forced, took, left) = self
            .find(&what, |event| match event {
                Event::Drained { generation, took, forced, left } if *generation == number => {
                    let forced = forced.iter().map(|(_, holder)| holder.clone()).collect();
                    Some((forced, *took, *left))
                }
                _ => None,
            })
            .await;
        assert_eq!(left, 0, "I4: sessions are left: {}", self.lines());
        (forced, took)
    }

    pub(crate) async fn drained_by_itself(&self, number: u64) {
        let (forced, _) = self.drained(number).await;
        assert!(forced.is_empty(), "I3: sessions were ended: {}", self.lines());
    }

    /// A drain that has to wait for something does: nothing that it could do meanwhile takes so
    /// long.
    pub(crate) async fn still_draining(&self, number: u64) {
        let over = self.search(|event| {
            matches!(event, Event::Drained { generation, .. } if *generation == number)
                .then_some(())
        });
        let early = tokio::time::timeout(Duration::from_millis(400), over).await;
        assert!(early.is_err(), "I4: drained too early: {}", self.lines());
    }

    /// Waits until the lease of `number` was revoked.
    pub(crate) async fn revoked(&self, number: u64) {
        self.find(&format!("a revocation of generation {number}"), |event| {
            matches!(event, Event::Revoked { generation: Some(n), .. } if *n == number)
                .then_some(())
        })
        .await;
    }
}
