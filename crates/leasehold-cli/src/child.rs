//! A command that is run: signals go to it, and its exit code becomes ours.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::deadline;
use crate::signals::{Caught, Signals, exit_code};
use crate::terminal::tell;

/// Exit codes as shells and `env` have them.
pub(crate) const OURS: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// It could not be started.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) message: String,
    pub(crate) code: u8,
}

/// The command of `words`, which are not empty. Its streams are ours. Never show it: its `Debug`
/// has the environment in it.
pub(crate) fn command(words: &[OsString]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().expect("clap asks for one at the least"));
    command.args(words);
    command
}

/// A running command.
pub(crate) struct Running {
    child: Child,
    kill_after: Duration,
    kill_at: Option<Instant>,
    asked_to_end: bool,
}

impl Running {
    /// Starts it. Once it was asked to end twice, it is killed after `kill_after`.
    pub(crate) fn start(
        mut command: Command,
        name: &OsString,
        kill_after: Duration,
    ) -> Result<Self, NotStarted> {
        match command.spawn() {
            Ok(child) => Ok(Self { child, kill_after, kill_at: None, asked_to_end: false }),
            Err(error) => {
                let code = match error.kind() {
                    io::ErrorKind::NotFound => NOT_FOUND,
                    _ => NOT_EXECUTABLE,
                };
                let message = format!("{}: {error}", name.to_string_lossy());
                Err(NotStarted { message, code })
            }
        }
    }

    /// Waits for its end, and hands on what comes meanwhile. Cancel safe.
    pub(crate) async fn wait(&mut self, signals: &mut Signals) -> io::Result<ExitStatus> {
        loop {
            tokio::select! {
                status = self.child.wait() => return status,
                caught = signals.next() => self.hand_on(caught),
                () = deadline::passed(self.kill_at) => {
                    tell(&format!(
                        "killing the command, {:?} after it was asked to end again",
                        self.kill_after
                    ));
                    self.kill_at = None;
                    // Gone already is what was wanted.
                    let _ = self.child.start_kill();
                }
            }
        }
    }

    fn hand_on(&mut self, caught: Caught) {
        if !caught.sent_to_us {
            return;
        }
        // Without an id it has ended, and was waited for.
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let (Some(pid), Some(signal)) = (pid, caught.signal()) {
            // One that has just ended does not mind.
            let _ = kill_process(pid, signal);
        }
        if caught.ends() {
            if self.asked_to_end && self.kill_at.is_none() {
                self.kill_at = Some(Instant::now() + self.kill_after);
            }
            self.asked_to_end = true;
        }
    }
}

/// The exit code to end with: its own, or 128 + n if signal n ended it.
pub(crate) fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => exit_code(signal),
        (None, None) => OURS,
    }
}
