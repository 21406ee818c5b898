//! This process's own sockets, as the kernel has them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

/// Inodes of this process's sockets to `port`, from the SYN to our close, that were all open at one
/// instant. `None` where the kernel does not tell (not Linux).
///
/// The kernel's table is not read at one instant: a socket that is closed and another that is
/// opened meanwhile can stand in it both. So it is read twice, and what both readings show was open
/// between them.
#[must_use]
pub fn sockets_to(port: u16) -> Option<HashSet<u64>> {
    let mut open = reading(port)?;
    let later = reading(port)?;
    open.retain(|inode| later.contains(inode));
    Some(open)
}

/// Watches how many sockets this process has to one port, as [`sockets_to`] sees them, until it is
/// dropped. Those that are there when it begins are somebody else's, and not counted.
#[derive(Debug)]
pub struct SocketWatch {
    most: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl SocketWatch {
    /// Begins to look, with `pause` between two looks: a peak that is shorter can be missed. `None`
    /// where the kernel does not tell (not Linux).
    ///
    /// On a thread of its own: the kernel's table takes long to read where it is long, and whoever
    /// reads it on the runtime holds up what is measured.
    #[must_use]
    pub fn start(port: u16, pause: Duration) -> Option<Self> {
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
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for SocketWatch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn reading(port: u16) -> Option<HashSet<u64>> {
    let ours: HashSet<u64> = fs::read_dir("/proc/self/fd")
        .ok()?
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect();
    let remote = format!(":{port:04X} ");
    let mut open = HashSet::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else { continue };
        // A busy machine has thousands of lines; few are of this port.
        let lines = text.lines().filter(|line| line.contains(&remote));
        open.extend(lines.filter_map(|line| open_to(port, line)).filter(|i| ours.contains(i)));
    }
    Some(open)
}

/// The inode of a line of the table, if it is a socket in SYN_SENT or ESTABLISHED to `port`.
fn open_to(port: u16, line: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let remote = fields.get(2)?.rsplit(':').next()?;
    let to = u16::from_str_radix(remote, 16).ok()?;
    let open = matches!(*fields.get(3)?, "01" | "02");
    (to == port && open).then(|| fields.get(9)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_socket_counts_from_our_connect_to_our_close() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = || sockets_to(port).map(|open| open.len());
        if count().is_none() {
            return; // Not Linux.
        }
        assert_eq!(count(), Some(0));
        let one = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let two = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(count(), Some(2));
        drop(one);
        assert_eq!(count(), Some(1));
        drop(two);
        assert_eq!(count(), Some(0));
    }
}
