//! The Postgres server as a child process.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
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
        server.make_folder(&server.home)?;
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
        server.launch_anywhere()?;
        Ok(server)
    }

    /// A server beside this one with a copy of its data, which does not run yet. Meanwhile this one
    /// has to be in backup mode (`pg_backup_start`), as its files change under the copy.
    ///
    /// By hand, since not every package of a server has `pg_basebackup`.
    pub(crate) fn copy(&self, name: &str) -> Result<Self> {
        let copy = Self {
            bin: self.bin.clone(),
            home: self.home.with_file_name(name),
            log: self.home.with_file_name(format!("{name}.log")),
            port: 0,
            settings: self.settings.clone(),
            account: self.account,
            watchdog: Arc::clone(&self.watchdog),
            process: None,
        };
        copy.make_folder(&copy.home)?;
        copy.copy_folder(&self.home.join("data"), &copy.home.join("data"))?;
        Ok(copy)
    }

    /// Starts a copy for the first time: as a replica of what it is a copy of. `label` is what
    /// `pg_backup_stop` returned.
    pub(crate) fn follow(&mut self, label: &str, settings: &str) -> Result<()> {
        let file = "data/postgresql.auto.conf";
        let path = self.home.join(file);
        let before =
            fs::read_to_string(&path).map_err(Error::io(format!("reading {}", path.display())))?;
        self.write(file, &format!("{before}\n{settings}\n"))?;
        self.write("data/backup_label", label)?;
        self.write("data/standby.signal", "")?;
        self.launch_anywhere()
    }

    fn launch_anywhere(&mut self) -> Result<()> {
        for _ in 0..10 {
            self.port = free_port()?;
            match self.launch() {
                Ok(process) => {
                    self.process = Some(process);
                    return Ok(());
                }
                Err(LaunchError::PortTaken) => {}
                Err(LaunchError::Other(e)) => return Err(e),
            }
        }
        Err(Error::Server { server: "Postgres", detail: "its port was taken ten times".into() })
    }

    fn make_folder(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).map_err(Error::io(format!("preparing {}", path.display())))?;
        self.give_away(path)
    }

    /// Of a server that runs, whose files come and go.
    fn copy_folder(&self, from: &Path, to: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("copying {}", from.display()))(e);
        self.make_folder(to)?;
        let mode = fs::metadata(from).map_err(failed)?.permissions();
        fs::set_permissions(to, mode).map_err(failed)?;
        let name = from.file_name().unwrap_or_default();
        let (own, log) = (name == "pg_replslot", name == "pg_wal");
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, to) = (entry.path(), to.join(entry.file_name()));
            let folder = entry.file_type().map_err(failed)?.is_dir();
            // Slots are the server's own, what it has logged is streamed, and two files say that
            // it runs.
            if own
                || (log && !folder)
                || (!folder && entry.file_name().as_bytes().starts_with(b"postmaster."))
            {
                continue;
            }
            if folder {
                self.copy_folder(&path, &to)?;
                continue;
            }
            match fs::copy(&path, &to) {
                Ok(_) => self.give_away(&to)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(format!("copying {}", path.display()))(e)),
            }
        }
        Ok(())
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
