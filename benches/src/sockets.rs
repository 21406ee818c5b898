//! This process's own sockets to Postgres, as the kernel has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use leasehold_testkit::sockets_to;

/// Counts sockets of this process to one port, from the SYN to our close; those that are there at
/// the start are somebody else's.
pub(crate) struct Sockets {
    most: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Sockets {
    /// Begins to look, each 2 ms. `None` where the kernel does not tell (not Linux).
    pub(crate) fn watch(port: u16) -> Option<Self> {
        let before = sockets_to(port)?;
        let most = Arc::new(AtomicUsize::new(0));
        let seen = most.clone();
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            loop {
                tick.tick().await;
                if let Some(now) = sockets_to(port) {
                    seen.fetch_max(now.difference(&before).count(), Ordering::Relaxed);
                }
            }
        });
        Some(Self { most, task })
    }

    /// The most that were seen at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.task.abort();
    }
}
