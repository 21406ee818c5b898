//! The OpenBao (or Vault) server as a child process.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;

use crate::postgres::Certificate;
use crate::process::{LaunchError, Process, command, free_port, write_private};
use crate::watchdog::{SERVER, Watchdog};
use crate::{Error, Result};

/// "OpenBao server started!", or "Vault server started! Log data will stream in below:"
pub(crate) const READY: &str = "server started!";

/// What the Vault server keeps its data in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In memory: the `-dev` server. Quickest. Stopped and started again it is empty.
    #[default]
    Dev,
    /// A raft-backed single node, initialised and unsealed by us. Leases and tokens survive a
    /// stop, a crash and a seal.
    Raft,
}

/// What goes beyond a plain server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    /// A second listener, with TLS and this certificate.
    pub(crate) tls: Option<Certificate>,
    /// Every request and answer in a file, with the secrets in clear.
    pub(crate) audit_raw: bool,
}

impl Extras {
    /// The configuration of it, if there is any: a listener at `at` with `server.crt` and
    /// `server.key` of `folder`, and an audit to `audit`.
    pub(crate) fn config(&self, at: Option<&str>, folder: &Path, audit: &Path) -> Option<String> {
        let mut hcl = String::new();
        if let (Some(_), Some(address)) = (&self.tls, at) {
            // Asks every client for a certificate, and takes those without: all but one auth
            // method do.
            hcl += &format!(
                "listener \"tcp\" {{\n address = {address:?}\n tls_cert_file = {:?}\n \
                 tls_key_file = {:?}\n}}\n",
                folder.join("server.crt"),
                folder.join("server.key"),
            );
        }
        if self.audit_raw {
            // Declared here: the server refuses to enable such a device by its API.
            hcl += &format!(
                "audit \"file\" \"raw\" {{\n options {{\n file_path = {audit:?}\n \
                 log_raw = \"true\"\n }}\n}}\n",
            );
        }
        (!hcl.is_empty()).then_some(hcl)
    }
}

/// Everything needed to start the same server again.
#[derive(Debug)]
pub(crate) struct BaoServer {
    bin: PathBuf,
    dir: PathBuf,
    log: PathBuf,
    storage: Storage,
    /// Plain HTTP: what the test kit itself talks to, TLS or not.
    pub(crate) port: u16,
    /// HTTPS, if there is a certificate.
    pub(crate) tls_port: Option<u16>,
    extras: Extras,
    /// The dev server's.
    root_token: String,
    watchdog: Arc<Watchdog>,
    process: Option<Process>,
}

impl BaoServer {
    pub(crate) fn start(
        bin: &Path,
        dir: &Path,
        storage: Storage,
        extras: &Extras,
        root_token: String,
        watchdog: &Arc<Watchdog>,
    ) -> Result<Self> {
        let mut server = Self {
            bin: bin.to_path_buf(),
            dir: dir.join("bao"),
            log: dir.join("bao.log"),
            storage,
            port: 0,
            tls_port: None,
            extras: extras.clone(),
            root_token,
            watchdog: Arc::clone(watchdog),
            process: None,
        };
        let data = server.dir.join("raft");
        fs::create_dir_all(&data).map_err(Error::io(format!("making {}", data.display())))?;
        for _ in 0..10 {
            server.port = free_port()?;
            server.tls_port = extras.tls.is_some().then(free_port).transpose()?;
            match server.launch() {
                Ok(process) => {
                    server.process = Some(process);
                    return Ok(server);
                }
                Err(LaunchError::PortTaken) => {}
                Err(LaunchError::Other(e)) => return Err(e),
            }
        }
        Err(Error::Server { server: "OpenBao", detail: "its port was taken ten times".into() })
    }

    fn launch(&self) -> Result<Process, LaunchError> {
        let port = self.port;
        let mut c = command(SERVER, &self.bin, &self.dir);
        c.arg("server");
        if let Some(file) = self.write_extras().map_err(LaunchError::Other)? {
            c.arg(format!("-config={}", file.display()));
        }
        match self.storage {
            Storage::Dev => c.args([
                "-dev".into(),
                "-dev-no-store-token".into(),
                format!("-dev-root-token-id={}", self.root_token),
                format!("-dev-listen-address=127.0.0.1:{port}"),
            ]),
            Storage::Raft => {
                let file = self.dir.join("config.json");
                fs::write(&file, raft_config(&self.dir.join("raft"), "127.0.0.1", self.port))
                    .map_err(Error::io(format!("writing {}", file.display())))
                    .map_err(LaunchError::Other)?;
                c.arg(format!("-config={}", file.display()))
            }
        };
        let open = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        let ready = |_: u32, said: &str| {
            said.contains(READY) && open(port) && self.tls_port.is_none_or(open)
        };
        let taken = "address already in use";
        Process::launch("OpenBao", c, &self.log, &self.watchdog, taken, ready)
    }

    /// A second configuration file, which the server adds to the first or to that of `-dev`.
    fn write_extras(&self) -> Result<Option<PathBuf>> {
        let file = |name: &str| self.dir.join(name);
        if let Some(own) = &self.extras.tls {
            write_private(&file("server.crt"), &own.chain)?;
            write_private(&file("server.key"), &own.key)?;
        }
        let at = self.tls_port.map(|port| format!("127.0.0.1:{port}"));
        let audit = self.audit_log();
        let Some(hcl) = self.extras.config(at.as_deref(), &self.dir, &audit) else {
            return Ok(None);
        };
        write_private(&file("extras.hcl"), &hcl)?;
        Ok(Some(file("extras.hcl")))
    }

    /// Where the raw audit goes, if it was asked for.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.stop(signal))
    }

    /// Starts it again where it was. False if it runs.
    pub(crate) fn start_again(&mut self) -> Result<bool> {
        if self.process.is_some() {
            return Ok(false);
        }
        let process = self.launch().map_err(|e| match e {
            LaunchError::Other(e) => e,
            LaunchError::PortTaken => Error::Server {
                server: "OpenBao",
                detail: format!("another program took port {} meanwhile", self.port),
            },
        })?;
        self.process = Some(process);
        Ok(true)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().ok_or_else(|| Error::Server {
            server: "OpenBao",
            detail: "is stopped; start_vault() first".into(),
        })
    }

    pub(crate) fn pause(&self) -> Result<()> {
        self.running()?.pause()
    }

    pub(crate) fn program(&self) -> &Path {
        &self.bin
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn take(&mut self) -> Option<Process> {
        self.process.take()
    }
}

/// The configuration of a single node with its data in `folder`, listening on `host:port`.
pub(crate) fn raft_config(folder: &Path, host: &str, port: u16) -> String {
    let raft = json!({
        "path": folder,
        "node_id": "one",
        // The initialisation waits for one election, which begins after a time-out of 5 s by
        // default. There is nobody else to hear from: 1 s, the least.
        "performance_multiplier": "1",
    });
    let (cluster, own) = (port + 1, "127.0.0.1");
    json!({
        "storage": { "raft": raft },
        "listener": { "tcp": { "address": format!("{host}:{port}"), "tls_disable": true } },
        "api_addr": format!("http://{own}:{port}"),
        "cluster_addr": format!("https://{own}:{cluster}"),
        "disable_mlock": true,
    })
    .to_string()
}

/// What a dev server printed since its last start.
pub(crate) fn unseal_key_in(log: &str) -> Option<String> {
    let (_, since) = log.rsplit_once(READY)?;
    since.lines().find_map(|l| l.strip_prefix("Unseal Key: ")).map(|key| key.trim().to_owned())
}
