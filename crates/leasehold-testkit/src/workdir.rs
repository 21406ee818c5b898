//! The folder of one stack: made with a new name, removed by the watchdog.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::{Error, Result};

/// A cluster takes 40 MB and a database 7; containers' 64 MB of shared memory are too little.
const ROOM: u64 = 1 << 30;

pub(crate) fn create() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = base();
    loop {
        let n = NEXT.fetch_add(1, Relaxed);
        let dir = base.join(format!("leasehold-{}-{n}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => {
                // To be passed through, not read, by the account that Postgres runs as.
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))
                    .map_err(Error::io(format!("setting the mode of {}", dir.display())))?;
                return Ok(dir);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(format!("making {}", dir.display()))(e)),
        }
    }
}

/// Memory rather than disk where there is enough of it: initdb is twice as fast there.
fn base() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if roomy(memory) && writable(memory) { memory.to_path_buf() } else { std::env::temp_dir() }
}

fn roomy(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) >= ROOM)
}

fn writable(dir: &Path) -> bool {
    let probe = dir.join(format!(".leasehold-{}", std::process::id()));
    File::create(&probe).and_then(|_| fs::remove_file(&probe)).is_ok()
}
