//! This process's own sockets to Postgres, as the kernel has them.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Counts sockets of this process to one port, from the SYN to our close; those that are there at
/// the start are somebody else's.
pub(crate) struct Sockets {
    most: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Sockets {
    /// Begins to look, each 2 ms. `None` where the kernel does not tell (not Linux).
    pub(crate) fn watch(port: u16) -> Option<Self> {
        let before = inodes(port)?;
        let most = Arc::new(AtomicUsize::new(0));
        let seen = most.clone();
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            loop {
                tick.tick().await;
                if let Some(now) = inodes(port) {
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

/// Inodes of our sockets in SYN_SENT or ESTABLISHED whose other end is `port`.
fn inodes(port: u16) -> Option<HashSet<u64>> {
    let ours: HashSet<u64> = fs::read_dir("/proc/self/fd")
        .ok()?
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect();
    let mut found = HashSet::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(remote), Some(state), Some(inode)) =
                (fields.get(2), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let to = remote.rsplit(':').next().and_then(|p| u16::from_str_radix(p, 16).ok());
            let open = matches!(*state, "01" | "02");
            if let (Some(to), true, Ok(inode)) = (to, open, inode.parse())
                && to == port
                && ours.contains(&inode)
            {
                found.insert(inode);
            }
        }
    }
    Some(found)
}
