//! Connects in flight, by the login they use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use leasehold::Generation;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::home::Home;

/// sqlx keeps the options it dials with until the new connection has its birthday. So the holders
/// of superseded options, the pool itself not being one any more, are the dials in flight with
/// them. Clones share it; holds no pool.
#[derive(Clone)]
pub(crate) struct Dials(Arc<Inner>);

struct Inner {
    used: Mutex<Used>,
    /// The generation to which everything belongs that the gate calls current; 0 between a swap
    /// and the end of the last dial with the login before.
    certain: AtomicU64,
    home: OnceLock<Home>,
}

struct Used {
    installed: u64,
    superseded: Vec<(u64, Weak<PgConnectOptions>)>,
}

impl Dials {
    pub(crate) fn new() -> Self {
        let used = Mutex::new(Used { installed: 0, superseded: Vec::new() });
        Self(Arc::new(Inner { used, certain: AtomicU64::new(0), home: OnceLock::new() }))
    }

    /// A pool is built with the login of `generation`, and has seen no other. Its options are
    /// `base` with that login.
    pub(crate) fn begin_with(
        &self,
        generation: &Generation,
        base: PgConnectOptions,
    ) -> PgConnectOptions {
        self.used().installed = generation.number();
        self.0.certain.store(generation.number(), Ordering::Release);
        self.with_login(base, generation)
    }

    /// Whether options like `base` can have the login of `generation` where that is good.
    pub(crate) fn check(
        &self,
        base: &PgConnectOptions,
        generation: &Generation,
    ) -> Result<(), sqlx::Error> {
        let home = self.0.home.get_or_init(|| Home::of(base));
        home.check(generation.credential().address())
    }

    /// The options of `base` with the login of `generation`, and where that login is good.
    pub(crate) fn with_login(
        &self,
        base: PgConnectOptions,
        generation: &Generation,
    ) -> PgConnectOptions {
        let credential = generation.credential();
        let home = self.0.home.get_or_init(|| Home::of(&base));
        let base = home.apply(base, credential.address(), credential.username());
        base.username(credential.username()).password(credential.expose_password())
    }

    /// `pool` takes `next`'s login for all dials to come.
    pub(crate) fn switch(&self, pool: &PgPool, next: &Generation) {
        self.0.certain.store(0, Ordering::Release);
        let mut used = self.used();
        let old = pool.connect_options();
        pool.set_connect_options(self.with_login(PgConnectOptions::clone(&old), next));
        let superseded = used.installed;
        used.superseded.retain(|(_, held)| held.strong_count() > 0);
        used.superseded.push((superseded, Arc::downgrade(&old)));
        used.installed = next.number();
    }

    /// In flight with the login of `generation` or of one before it.
    pub(crate) fn up_to(&self, generation: u64, pool: &PgPool) -> usize {
        let current = if self.used().installed <= generation {
            // Held by the pool and by this look at it.
            Arc::strong_count(&pool.connect_options()).saturating_sub(2)
        } else {
            0
        };
        self.superseded_up_to(generation) + current
    }

    /// As [`up_to`](Self::up_to), the current login not looked at.
    pub(crate) fn superseded_up_to(&self, generation: u64) -> usize {
        let used = self.used();
        let old = used.superseded.iter().filter(|(number, _)| *number <= generation);
        old.map(|(_, held)| held.strong_count()).sum()
    }

    /// No dial with a login up to that of `generation` is in flight, and the gate was raised since:
    /// if no other swap came in between, what is current is of the next generation for certain.
    pub(crate) fn settled(&self, generation: u64) {
        let used = self.used();
        if used.installed == generation + 1 {
            self.0.certain.store(used.installed, Ordering::Release);
        }
    }

    /// The generation of everything that the gate calls current, if that is known. Only then is a
    /// dead role proof about a generation.
    pub(crate) fn certain(&self) -> Option<u64> {
        Some(self.0.certain.load(Ordering::Acquire)).filter(|&number| number != 0)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
