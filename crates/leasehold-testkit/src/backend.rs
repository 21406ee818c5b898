//! What a stack runs on: child processes, or (feature `containers`) Docker containers.

use std::fs::File;
use std::io::Read;

use rustix::process::Signal;

use crate::bao::{Extras, Storage};
use crate::postgres::Certificate;
use crate::processes::Processes;
use crate::stack::Authority;
use crate::{Error, Result};

/// What servers run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// Child processes of this one. Needs no Docker.
    Processes,
    /// Docker containers. Needs the feature `containers` and an engine.
    Containers,
}

impl Backend {
    /// What `LEASEHOLD_TESTKIT_BACKEND` says, `processes` or `containers`; unset or empty:
    /// [`Processes`](Self::Processes).
    ///
    /// # Errors
    /// [`Error::BadSpec`] for anything else: a test that was to run on containers must not pass
    /// for a spelling mistake.
    pub fn from_env() -> Result<Self> {
        const VARIABLE: &str = "LEASEHOLD_TESTKIT_BACKEND";
        let wanted = std::env::var_os(VARIABLE).unwrap_or_default();
        match wanted.to_str().map(str::trim) {
            Some("" | "processes") => Ok(Self::Processes),
            Some("containers") => Ok(Self::Containers),
            _ => Err(Error::BadSpec(format!(
                "{VARIABLE} is {wanted:?}: set it to processes or containers, or not at all"
            ))),
        }
    }
}

/// The servers of a stack.
#[derive(Debug)]
pub(crate) enum Servers {
    Processes(Box<Processes>),
    #[cfg(feature = "containers")]
    Containers(Box<crate::containers::Containers>),
}

impl Servers {
    /// The processes, or why there are none.
    pub(crate) fn processes(&self, doing: &str) -> Result<&Processes> {
        let _ = doing; // without the feature there is nothing to refuse
        match self {
            Self::Processes(p) => Ok(p),
            #[cfg(feature = "containers")]
            Self::Containers(_) => Err(Error::Unsupported(format!(
                "{doing} is not possible with containers: start this stack with \
                 Stack::processes() or Backend::Processes"
            ))),
        }
    }
}

/// What is to be started, on either backend.
pub(crate) struct Plan {
    pub(crate) storage: Storage,
    pub(crate) extras: Extras,
    pub(crate) postgres_certificate: Option<Certificate>,
    pub(crate) postgres_settings: Vec<(String, String)>,
    pub(crate) authority: Option<Authority>,
    /// The superuser's password.
    pub(crate) secret: String,
    /// What makes the dev server's root token, which that server prints into its log.
    pub(crate) root: String,
}

impl Plan {
    /// Of a dev server. A raft server makes its own.
    pub(crate) fn root_token(&self) -> String {
        format!("root-{}", self.root)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Vault,
    Postgres,
}

/// What can be done to a server from outside, on either backend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// Ends it by a signal, and waits for its end. Nothing to do if it is stopped.
    End(Server, Signal),
    /// Starts it again where it was, and waits until it answers. Nothing to do if it runs.
    Start(Server),
    PauseVault,
    ResumeVault,
}

/// A password for servers that live as long as this process.
pub(crate) fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(Error::io("reading /dev/urandom"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
