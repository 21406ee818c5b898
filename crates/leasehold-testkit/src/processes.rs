//! Both servers as child processes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use crate::backend::{Deed, Plan, Server};
use crate::bao::BaoServer;
use crate::postgres::PostgresServer;
use crate::programs::Programs;
use crate::stack::Endpoints;
use crate::watchdog::Watchdog;
use crate::{Error, Result, workdir};

/// The servers as children of this process.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) dir: PathBuf,
    watchdog: Arc<Watchdog>,
    bao: Mutex<BaoServer>,
    pg: Mutex<PostgresServer>,
    /// Of `pg`.
    replicas: Mutex<Vec<PostgresServer>>,
}

impl Processes {
    /// Starts both at once, and blocks until they are ready.
    pub(crate) fn start(plan: &Plan, programs: &Programs) -> Result<Self> {
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
                    &programs.pg_bin,
                    &dir,
                    &plan.secret,
                    plan.postgres_certificate.as_ref(),
                    &plan.postgres_settings,
                    &watchdog,
                )
            });
            let bao = BaoServer::start(
                &programs.bao,
                &dir,
                plan.storage,
                &plan.extras,
                plan.root_token(),
                &watchdog,
            );
            let pg = pg.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (pg, bao)
        });
        match (pg, bao) {
            (Ok(pg), Ok(bao)) => {
                let (bao, pg) = (Mutex::new(bao), Mutex::new(pg));
                Ok(Self { dir, watchdog, bao, pg, replicas: Mutex::default() })
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

    pub(crate) fn endpoints(&self, plan: Plan) -> Endpoints {
        let at = |port| format!("127.0.0.1:{port}");
        let (vault, vault_tls) = {
            let bao = self.bao();
            (at(bao.port), bao.tls_port.map(at))
        };
        let pg_port = self.pg().port;
        Endpoints {
            vault,
            vault_tls,
            root_token: plan.root_token(),
            pg_host: "127.0.0.1".into(),
            pg_port,
            pg_for_vault: at(pg_port),
            pg_password: plan.secret,
            authority: plan.authority,
        }
    }

    /// Does it, and returns when it is done. Whether there was anything to do.
    pub(crate) fn carry_out(&self, deed: Deed) -> Result<bool> {
        match deed {
            Deed::End(Server::Vault, signal) => self.bao().end(signal).map(|()| true),
            Deed::End(Server::Postgres, signal) => self.pg().end(signal).map(|()| true),
            Deed::Start(Server::Vault) => self.bao().start_again(),
            Deed::Start(Server::Postgres) => self.pg().start_again(),
            Deed::PauseVault => self.bao().pause().map(|()| true),
            Deed::ResumeVault => self.bao().signal(Signal::CONT).map(|()| true),
        }
    }

    /// What a server has written since its first start.
    pub(crate) fn log(&self, server: Server) -> Result<String> {
        match server {
            Server::Vault => read(self.bao().log()),
            Server::Postgres => read(self.pg().log()),
        }
    }

    pub(crate) fn bao(&self) -> MutexGuard<'_, BaoServer> {
        self.bao.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pg(&self) -> MutexGuard<'_, PostgresServer> {
        self.pg.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replicas(&self) -> MutexGuard<'_, Vec<PostgresServer>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all and removes the folder, by the watchdog: one way for every kind of end.
    pub(crate) fn end(&self) {
        self.watchdog.release();
        // Reaped here, so that the watchdog sees them gone.
        let (bao, pg) = (self.bao().take(), self.pg().take());
        let replicas: Vec<_> = self.replicas().iter_mut().map(PostgresServer::take).collect();
        for process in replicas.into_iter().chain([bao, pg]).flatten() {
            process.reap();
        }
        self.watchdog.join();
    }
}

pub(crate) fn read(log: &Path) -> Result<String> {
    let bytes = std::fs::read(log).map_err(Error::io(format!("reading {}", log.display())))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.end();
    }
}
