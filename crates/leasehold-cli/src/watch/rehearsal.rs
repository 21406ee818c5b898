//! A small pool, used as a service would use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::Pool;
use leasehold::CredentialProvider;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::failure::Failure;
use crate::postgres::{Refusal, Server, tls_mend};

const SIZE: usize = 2;
const EVERY: Duration = Duration::from_millis(250);

/// What came of the queries so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queries {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) last_failure: Option<String>,
}

/// The pool and the task that queries it.
pub(crate) struct Rehearsal {
    counts: Arc<Counts>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<String>>,
    stopping: AtomicBool,
    stop: Notify,
}

impl Rehearsal {
    /// Logs in once, so that what can't work is told at the start.
    pub(crate) async fn start(
        provider: &CredentialProvider,
        server: &Server,
    ) -> Result<Self, Failure> {
        let (base, tls) = server.driver("leasehold watch").map_err(refused)?;
        let pool = match tls {
            Some(tls) => {
                leasehold_deadpool::connect(provider, base, tls, |b| b.max_size(SIZE)).await
            }
            None => leasehold_deadpool::connect(provider, base, NoTls, |b| b.max_size(SIZE)).await,
        };
        let pool = pool.map_err(|e| {
            let failure = Failure::of("logging in to Postgres", &e);
            match tls_mend(&e) {
                Some(mend) => Failure::new(format!("{failure}; {mend}")),
                None => failure,
            }
        })?;
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(query(pool, counts.clone()));
        Ok(Self { counts, task: Mutex::new(Some(task)) })
    }

    pub(crate) fn queries(&self) -> Queries {
        let last = self.counts.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        Queries {
            ok: self.counts.ok.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            last_failure: last.clone(),
        }
    }

    /// Ends the queries; the one under way is waited for.
    pub(crate) async fn stop(&self) {
        self.counts.stopping.store(true, Ordering::Relaxed);
        self.counts.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // One that panicked has said so.
            let _ = task.await;
        }
    }
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Tls(why, mend) => Failure::new(format!("logging in to Postgres: {why}; {mend}")),
        other => Failure::new(format!("logging in to Postgres: {other}")),
    }
}

async fn query(pool: Pool, counts: Arc<Counts>) {
    while !counts.stopping.load(Ordering::Relaxed) {
        match once(&pool).await {
            Ok(()) => drop(counts.ok.fetch_add(1, Ordering::Relaxed)),
            Err(failure) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                let mut last = counts.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some(failure);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = counts.stop.notified() => {}
        }
    }
}

async fn once(pool: &Pool) -> Result<(), String> {
    let client = pool.get().await.map_err(|e| Failure::of("no connection", &e).to_string())?;
    let asked = client.query_one("SELECT session_user", &[]).await;
    asked.map(drop).map_err(|e| Failure::of("a query", &e).to_string())
}
