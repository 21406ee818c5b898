//! This process's own sockets, as the kernel has them.

use std::collections::HashSet;
use std::fs;

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
