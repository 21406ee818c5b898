//! Connects in flight, by the login they use.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use leasehold::Generation;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::certain::Certain;
use crate::home::Home;

/// sqlx keeps the options it dials with until the new connection has its birthday. So the holders
/// of superseded options, the pool itself not being one any more, are the dials in flight with
/// them. Clones share it; holds no pool.
#[derive(Clone)]
pub(crate) struct Dials(Arc<Inner>);

struct Inner {
    certain: Certain,
    superseded: Mutex<Vec<(u64, Weak<PgConnectOptions>)>>,
    home: OnceLock<Home>,
}

impl Dials {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            certain: Certain::new(),
            superseded: Mutex::default(),
            home: OnceLock::new(),
        }))
    }

    /// A pool is built with the login of `generation`, and has seen no other. Its options are
    /// `base` with that login.
    pub(crate) fn begin_with(
        &self,
        generation: &Generation,
        base: PgConnectOptions,
    ) -> PgConnectOptions {
        self.0.certain.begin_with(generation.number());
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
        self.0.certain.switch(next.number(), |before| {
            let old = pool.connect_options();
            pool.set_connect_options(self.with_login(PgConnectOptions::clone(&old), next));
            let mut superseded = self.superseded();
            superseded.retain(|(_, held)| held.strong_count() > 0);
            superseded.push((before, Arc::downgrade(&old)));
        });
    }

    /// The generation that dials use.
    pub(crate) fn installed(&self) -> u64 {
        self.0.certain.installed()
    }

    /// In flight with the login of `generation` or of one before it.
    pub(crate) fn up_to(&self, generation: u64, pool: &PgPool) -> usize {
        let current = if self.0.certain.installed() <= generation {
            // Held by the pool and by this look at it.
            Arc::strong_count(&pool.connect_options()).saturating_sub(2)
        } else {
            0
        };
        self.superseded_up_to(generation) + current
    }

    /// As [`up_to`](Self::up_to), the current login not looked at.
    pub(crate) fn superseded_up_to(&self, generation: u64) -> usize {
        let superseded = self.superseded();
        let old = superseded.iter().filter(|(number, _)| *number <= generation);
        old.map(|(_, held)| held.strong_count()).sum()
    }

    /// See [`Certain::settled`].
    pub(crate) fn settled(&self, generation: u64) {
        self.0.certain.settled(generation);
    }

    /// See [`Certain::get`].
    pub(crate) fn certain(&self) -> Option<u64> {
        self.0.certain.get()
    }

    fn superseded(&self) -> MutexGuard<'_, Vec<(u64, Weak<PgConnectOptions>)>> {
        self.0.superseded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
