//! This process's own sockets to Postgres, as the kernel has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use leasehold_testkit::sockets_to;

/// Counts sockets of this process to one port, from the SYN to our close; those that are there at
/// the start are somebody else's.
pub(crate) struct Sockets {
    most: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Sockets {
    /// Begins to look, with `pause` between two looks. `None` where the kernel does not tell (not
    /// Linux).
    ///
    /// On a thread of its own: the kernel's table takes long to read where it is long, and whoever
    /// reads it on the runtime holds up what is measured.
    pub(crate) fn watch(port: u16, pause: Duration) -> Option<Self> {
        let before = sockets_to(port)?;
        let watch = Self { most: Arc::default(), ended: Arc::default() };
        let (most, ended) = (watch.most.clone(), watch.ended.clone());
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if let Some(now) = sockets_to(port) {
                    most.fetch_max(now.difference(&before).count(), Ordering::Relaxed);
                }
                thread::sleep(pause);
            }
        });
        Some(watch)
    }

    /// The most that were seen at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
