//! Which generation the connections are of that the gate calls current, where that is known.

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// Written under a lock, by swaps and by the ends of dials; read without it, whenever a connection
/// comes back.
pub(crate) struct Certain {
    /// The generation that dials use.
    installed: Mutex<u64>,
    /// 0 between a swap and the end of the last dial with the login before.
    certain: AtomicU64,
}

impl Certain {
    pub(crate) fn new() -> Self {
        Self { installed: Mutex::new(0), certain: AtomicU64::new(0) }
    }

    /// A pool is built with the login of `generation`, and has seen no other.
    pub(crate) fn begin_with(&self, generation: u64) {
        *self.lock() = generation;
        self.certain.store(generation, Ordering::Release);
    }

    /// From here on dials use the login of `next`, which `install` sees to; it is given the
    /// generation before.
    pub(crate) fn switch(&self, next: u64, install: impl FnOnce(u64)) {
        let mut installed = self.lock();
        // Under the lock: else the end of an earlier swap's last dial may come in between, and
        // what it finds certain is over at once.
        self.certain.store(0, Ordering::Release);
        install(*installed);
        *installed = next;
    }

    /// No dial with a login up to that of `generation` is in flight, and the gate was raised since:
    /// if no other swap came in between, what is current is of the next generation for certain.
    pub(crate) fn settled(&self, generation: u64) {
        let installed = self.lock();
        if *installed == generation + 1 {
            self.certain.store(*installed, Ordering::Release);
        }
    }

    pub(crate) fn installed(&self) -> u64 {
        *self.lock()
    }

    /// Only where this is known is a dead role proof about a generation.
    pub(crate) fn get(&self) -> Option<u64> {
        Some(self.certain.load(Ordering::Acquire)).filter(|&number| number != 0)
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.installed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
