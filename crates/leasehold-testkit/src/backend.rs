//! What a stack runs on: child processes, or (feature `containers`) Docker containers.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bao::{BaoServer, Extras, Storage};
use crate::postgres::{Certificate, PostgresServer};
use crate::programs::Programs;
use crate::watchdog::Watchdog;
use crate::{Error, Result, workdir};

#[derive(Debug)]
pub(crate) enum Backend {
    Processes(Box<Processes>),
    #[cfg(feature = "containers")]
    Containers(crate::containers::Containers),
}

impl Backend {
    /// The processes, or why there are none.
    pub(crate) fn processes(&self, doing: &str) -> Result<&Processes> {
        let _ = doing; // without the feature there is nothing to refuse
        match self {
            Self::Processes(p) => Ok(p),
            #[cfg(feature = "containers")]
            Self::Containers(_) => Err(Error::Unsupported(format!(
                "{doing} is not possible with containers: use the process backend, Stack::start()"
            ))),
        }
    }
}

/// Both servers as children of this process.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) dir: PathBuf,
    watchdog: Arc<Watchdog>,
    bao: Mutex<BaoServer>,
    pg: Mutex<PostgresServer>,
}

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) programs: Programs,
    pub(crate) storage: Storage,
    pub(crate) extras: Extras,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) postgres_settings: Vec<(String, String)>,
    pub(crate) secret: String,
}

impl Processes {
    /// Starts both at once, and blocks until they are ready.
    pub(crate) fn start(plan: &Plan) -> Result<Self> {
        let dir = workdir::create()?;
        let watchdog = match Watchdog::start(&dir) {
            Ok(w) => Arc::new(w),
            Err(e) => {
                let _ = std::fs::remove_dir_all(&dir);
                return Err(Error::io("starting /bin/sh as the watchdog")(e));
            }
        };
        let (pg, bao) = std::thread::scope(|scope| {
            let pg = scope.spawn(|| {
                PostgresServer::start(
                    &plan.programs.pg_bin,
                    &dir,
                    &plan.secret,
                    plan.certificate.as_ref(),
                    &plan.postgres_settings,
                    &watchdog,
                )
            });
            let bao = BaoServer::start(
                &plan.programs.bao,
                &dir,
                plan.storage,
                &plan.extras,
                &plan.secret,
                &watchdog,
            );
            let pg = pg.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (pg, bao)
        });
        match (pg, bao) {
            (Ok(pg), Ok(bao)) => {
                Ok(Self { dir, watchdog, bao: Mutex::new(bao), pg: Mutex::new(pg) })
            }
            (pg, bao) => {
                // One failed: end the other before the error is reported.
                watchdog.release();
                let (pg, bao) = (
                    pg.map(|mut s| s.take().map(crate::process::Process::reap)),
                    bao.map(|mut s| s.take().map(crate::process::Process::reap)),
                );
                watchdog.join();
                pg.and(bao).map(|_| unreachable!("one of the two is an error"))
            }
        }
    }

    pub(crate) fn bao(&self) -> MutexGuard<'_, BaoServer> {
        self.bao.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pg(&self) -> MutexGuard<'_, PostgresServer> {
        self.pg.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends both and removes the folder, by the watchdog: one way for every kind of end.
    pub(crate) fn end(&self) {
        self.watchdog.release();
        // Reaped here, so that the watchdog sees them gone.
        let (bao, pg) = (self.bao().take(), self.pg().take());
        for process in [bao, pg].into_iter().flatten() {
            process.reap();
        }
        self.watchdog.join();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.end();
    }
}

/// A password for servers that live as long as this process and listen on loopback only.
pub(crate) fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(Error::io("reading /dev/urandom"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
