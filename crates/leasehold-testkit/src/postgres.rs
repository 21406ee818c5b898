//! The Postgres server as a child process.

use std::fmt;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;

use crate::process::{LaunchError, Process, command, free_port, run, unprivileged, write_private};
use crate::watchdog::{HELPER, SERVER, Watchdog};
use crate::{Error, Result};

pub(crate) const SUPERUSER: &str = "boss";

/// How Postgres is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresShutdown {
    /// Sessions are ended in order: clients see 57P01. Postgres's own "fast".
    Fast,
    /// As a crash: sessions are cut with 57P02, the log is replayed at the start. "Immediate".
    Immediate,
}

impl PostgresShutdown {
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

/// Everything needed to start the same server again.
#[derive(Debug)]
pub(crate) struct PostgresServer {
    bin: PathBuf,
    home: PathBuf,
    log: PathBuf,
    pub(crate) port: u16,
    settings: Vec<(String, String)>,
    account: Option<(u32, u32)>,
    watchdog: Arc<Watchdog>,
    process: Option<Process>,
}

/// What a server certificate consists of, as PEM.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl PostgresServer {
    pub(crate) fn start(
        bin: &Path,
        dir: &Path,
        password: &str,
        certificate: Option<&Certificate>,
        settings: &[(String, String)],
        watchdog: &Arc<Watchdog>,
    ) -> Result<Self> {
        let mut server = Self {
            bin: bin.to_path_buf(),
            home: dir.join("pg"),
            log: dir.join("pg.log"),
            port: 0,
            settings: defaults(),
            account: unprivileged(),
            watchdog: Arc::clone(watchdog),
            process: None,
        };
        let doing = |p: &Path| format!("preparing {}", p.display());
        fs::create_dir(&server.home).map_err(Error::io(doing(&server.home)))?;
        server.give_away(&server.home)?;
        server.write("password", password)?;
        let mut initdb = server.command(HELPER, "initdb");
        initdb
            .args(["-D", "data", "-N", "-E", "UTF8", "--no-locale", "-A", "scram-sha-256"])
            .args(["--no-instructions", "--pwfile=password", "-U", SUPERUSER]);
        run("initdb", initdb, &dir.join("initdb.log"), watchdog)?;
        if let Some(c) = certificate {
            server.write("server.crt", &c.chain)?;
            server.write("server.key", &c.key)?;
            for (k, v) in
                [("ssl", "on"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")]
            {
                let v =
                    if v == "on" { v.into() } else { server.home.join(v).display().to_string() };
                server.settings.push((k.into(), v));
            }
        }
        server.settings.extend_from_slice(settings);
        for _ in 0..10 {
            server.port = free_port()?;
            match server.launch() {
                Ok(process) => {
                    server.process = Some(process);
                    return Ok(server);
                }
                Err(LaunchError::PortTaken) => {}
                Err(LaunchError::Other(e)) => return Err(e),
            }
        }
        Err(Error::Server { server: "Postgres", detail: "its port was taken ten times".into() })
    }

    fn command(&self, how: &str, program: &str) -> Command {
        let mut c = command(how, &self.bin.join(program), &self.home);
        if let Some((uid, gid)) = self.account {
            c.uid(uid).gid(gid);
        }
        c
    }

    fn give_away(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.account else { return Ok(()) };
        chown(path, Some(uid), Some(gid))
            .map_err(Error::io(format!("giving {} to Postgres's account", path.display())))
    }

    /// A file that only the server may read, as it demands of its key.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.home.join(name);
        write_private(&path, text)?;
        self.give_away(&path)
    }

    fn launch(&self) -> Result<Process, LaunchError> {
        let mut c = self.command(SERVER, "postgres");
        c.args(["-D", "data", "-p", &self.port.to_string()]);
        for (key, value) in &self.settings {
            c.arg("-c").arg(format!("{key}={value}"));
        }
        // Line 1 of the pid file is its process, line 8 turns "ready": no text of a log to match,
        // no half-open connections, and not fooled by a file that a crash left.
        let pid_file = self.home.join("data/postmaster.pid");
        let ready = |pid: u32, _: &str| {
            fs::read_to_string(&pid_file).is_ok_and(|text| {
                let mut lines = text.lines().map(str::trim);
                lines.next() == Some(pid.to_string().as_str()) && lines.nth(6) == Some("ready")
            })
        };
        let taken = "could not create any TCP/IP sockets";
        Process::launch("Postgres", c, &self.log, &self.watchdog, taken, ready)
    }

    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.stop(signal))
    }

    /// Starts it again where it was. False if it runs.
    pub(crate) fn start_again(&mut self) -> Result<bool> {
        if self.process.is_some() {
            return Ok(false);
        }
        self.process = Some(self.launch().map_err(|e| match e {
            LaunchError::Other(e) => e,
            LaunchError::PortTaken => Error::Server {
                server: "Postgres",
                detail: format!("another program took port {} meanwhile", self.port),
            },
        })?);
        Ok(true)
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn take(&mut self) -> Option<Process> {
        self.process.take()
    }
}

fn defaults() -> Vec<(String, String)> {
    let own = [
        ("listen_addresses", "127.0.0.1"),
        // No socket: Debian's default folder is not everyone's to write, and paths are limited to
        // 107 bytes.
        ("unix_socket_directories", ""),
    ];
    own.into_iter().chain(SETTINGS).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// On either backend.
pub(crate) const SETTINGS: [(&str, &str); 6] = [
    // Nothing here has to survive the machine. A crash of the server alone loses nothing that
    // was committed, so synchronous_commit stays on.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "200"),
    // What `login_log` reads.
    ("log_connections", "on"),
    ("log_disconnections", "on"),
    ("log_line_prefix", crate::pglog::PREFIX),
];
