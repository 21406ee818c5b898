//! One server as a child process: its ports, its account, its log, its signals.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::watchdog::Watchdog;
use crate::{Error, Result};

/// Busy build machines were seen to take 14 s for what is done in one.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(crate) fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An unprivileged account when we are root: Postgres refuses to run as root. It must stand in
/// passwd, as initdb looks up its name.
pub(crate) fn unprivileged() -> Option<(u32, u32)> {
    if !am_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].iter().find_map(|name| {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields.as_slice() {
                [n, _, uid, gid, ..] if n == name => Some((uid.parse().ok()?, gid.parse().ok()?)),
                _ => None,
            }
        })
    })
}

/// A port that is free now, as is the next one, and below the range from which the kernel takes
/// ports for outgoing connections, so that it stays free while its server is stopped.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..6000 {
        let n = std::process::id().wrapping_mul(74).wrapping_add(NEXT.fetch_add(2, Relaxed));
        let port = 20_000 + (n % 12_000) as u16;
        if free(port) && free(port + 1) {
            return Ok(port);
        }
    }
    Err(Error::Server { server: "ports", detail: "none is free between 20000 and 32000".into() })
}

/// A command with a small fixed environment: no BAO_*, VAULT_* or PG* of the developer's shell
/// gets in. `how` is one of the watchdog's two.
pub(crate) fn command(how: &str, program: &Path, home: &Path) -> Command {
    let mut c = Command::new("/bin/sh");
    c.args(["-c", how, "leasehold"])
        .arg(program)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .current_dir(home)
        // Its own group: Ctrl-C and a runner's kill reach us first; the watchdog does the rest.
        .process_group(0);
    c
}

/// A file that nobody else may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .map_err(Error::io(format!("writing {}", path.display())))
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    watchdog: Arc<Watchdog>,
}

/// How a launch can fail.
pub(crate) enum LaunchError {
    /// Somebody took the port since it was looked at.
    PortTaken,
    Other(Error),
}

impl Process {
    /// Spawns it, with its output appended to `log`.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        log: &Path,
        watchdog: &Arc<Watchdog>,
    ) -> Result<Self> {
        // A file and not our stdout: a runner that waits for our output to close must not wait
        // for servers.
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(Error::io(format!("opening {}", log.display())))?;
        let err = out.try_clone().map_err(Error::io("duplicating a file handle"))?;
        let doing = || format!("starting {name}");
        let child = command
            .stdin(watchdog.pipe().map_err(Error::io(doing()))?)
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(Error::io(doing()))?;
        Ok(Self { name, child, log: log.to_path_buf(), watchdog: Arc::clone(watchdog) })
    }

    /// Spawns it and waits until `ready`, which gets the process id and what was logged since.
    pub(crate) fn launch(
        name: &'static str,
        command: Command,
        log: &Path,
        watchdog: &Arc<Watchdog>,
        port_taken: &str,
        ready: impl Fn(u32, &str) -> bool,
    ) -> Result<Self, LaunchError> {
        let before = fs::metadata(log).map_or(0, |m| m.len());
        let mut process = Self::spawn(name, command, log, watchdog).map_err(LaunchError::Other)?;
        let fail = |detail: String| LaunchError::Other(Error::Server { server: name, detail });
        let begun = Instant::now();
        loop {
            let said = read_from(log, before).unwrap_or_default();
            match process.exited() {
                Ok(true) if said.contains(port_taken) => return Err(LaunchError::PortTaken),
                Ok(true) => return Err(fail(format!("ended at its start:\n{}", tail(&said)))),
                Ok(false) => {}
                Err(e) => return Err(LaunchError::Other(e)),
            }
            if ready(process.child.id(), &said) {
                return Ok(process);
            }
            if begun.elapsed() > START_TIMEOUT {
                process.kill();
                return Err(fail(format!("not ready after {START_TIMEOUT:?}:\n{}", tail(&said))));
            }
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        // Not reaped yet, or `self` would be gone: the number is still this process's.
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .map_err(|e| Error::io(format!("signalling {}", self.name))(e.into()))
    }

    /// SIGSTOP, and returns when every thread of the process stands still: the signal is only sent
    /// at first, and a busy machine lets some run on.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let id = WaitId::Pid(Pid::from_child(&self.child));
        // NOWAIT: the news stays for whoever waits for the child's end.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let begun = Instant::now();
        while begun.elapsed() < START_TIMEOUT {
            let failed =
                |e: rustix::io::Errno| Error::io(format!("pausing {}", self.name))(e.into());
            if rustix::process::waitid(id.clone(), options).map_err(failed)?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Error::Server { server: self.name, detail: "did not pause".into() })
    }

    fn exited(&mut self) -> Result<bool> {
        let gone = self.child.try_wait().map_err(Error::io("waiting for a server"))?.is_some();
        if gone {
            self.watchdog.remove(self.child.id());
        }
        Ok(gone)
    }

    /// Sends the signal (waking the process if it is paused) and waits for its end.
    pub(crate) fn stop(mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        self.signal(Signal::CONT)?;
        let begun = Instant::now();
        while !self.exited()? {
            if begun.elapsed() > START_TIMEOUT {
                self.kill();
                return Err(Error::Server {
                    server: self.name,
                    detail: format!(
                        "did not stop within {START_TIMEOUT:?}, and was killed:\n{}",
                        tail(&fs::read_to_string(&self.log).unwrap_or_default())
                    ),
                });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.watchdog.remove(self.child.id());
    }

    /// Waits for the end that the watchdog brings about.
    pub(crate) fn reap(mut self) {
        let _ = self.child.wait();
    }
}

/// Runs a helper program to its end; an error holds what it logged.
pub(crate) fn run(
    what: &'static str,
    mut command: Command,
    log: &Path,
    watchdog: &Watchdog,
) -> Result<()> {
    let doing = || format!("running {what}");
    let out = File::create(log).map_err(Error::io(doing()))?;
    let err = out.try_clone().map_err(Error::io(doing()))?;
    let mut child = command
        .stdin(watchdog.pipe().map_err(Error::io(doing()))?)
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(Error::io(doing()))?;
    let status = child.wait().map_err(Error::io(doing()))?;
    watchdog.remove(child.id());
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(log).unwrap_or_default();
    Err(Error::Server { server: what, detail: format!("{status}:\n{}", tail(&said)) })
}

fn read_from(path: &Path, offset: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines, which say why.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
