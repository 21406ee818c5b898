//! A shell asleep on a pipe from us. However this process ends (return, panic, exit, abort,
//! SIGKILL), the kernel closes the pipe; then the shell ends the servers and removes the folder.
//!
//! PR_SET_PDEATHSIG would need unsafe code, is Linux only, leaves the folder, and fires when the
//! spawning thread ends, which for a `#[test]` is at once.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

// Lines on the pipe: `+ PID` a server to end, `w PID` a program to wait for, `- PID` gone already.
// CONT first: a paused server would not hear the next signal. QUIT, not KILL: Postgres ends at
// once but still removes its shared memory. initdb is not signalled at all: it would remove its
// folder under a server of its own, which then crashes and leaves its shared memory behind.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
without() { case "$1" in *" $2 "*) echo "${1%%" $2 "*} ${1#*" $2 "}" ;; *) echo "$1" ;; esac; }
servers=' '
helpers=' '
while read -r op p; do
    case "$op" in
        +) servers="$servers$p " ;;
        w) helpers="$helpers$p " ;;
        -) servers="$(without "$servers" "$p") "; helpers="$(without "$helpers" "$p") " ;;
    esac
done
i=0
while [ $i -lt 600 ]; do
    # Again each second: a program that was just begun may have missed it.
    [ $((i % 20)) = 0 ] && for p in $servers; do
        kill -CONT "$p" 2>/dev/null; kill -QUIT "$p" 2>/dev/null
    done
    alive=
    for p in $servers $helpers; do kill -0 "$p" 2>/dev/null && alive=1; done
    [ -z "$alive" ] && break
    i=$((i+1)); sleep 0.05
done
for p in $servers $helpers; do kill -KILL "$p" 2>/dev/null; done
i=0
while [ -e "$1" ] && [ $i -lt 100 ]; do
    rm -rf -- "$1"
    i=$((i+1)); [ -e "$1" ] && sleep 0.05
done
"#;

/// What a program goes through on its way into life: it tells the watchdog its process id, and
/// only then becomes the program. Told by us after the spawn, it would be forgotten if this process
/// were killed in between. Its stdin is the pipe until then, so that the watchdog sees no end of
/// the pipe before it has been told.
pub(crate) const SERVER: &str = r#"echo "+ $$" >&0 && exec "$@" </dev/null"#;
/// The same for a program that ends by itself.
pub(crate) const HELPER: &str = r#"echo "w $$" >&0 && exec "$@" </dev/null"#;

#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Mutex<Child>,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Watchdog {
    pub(crate) fn start(dir: &Path) -> io::Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "leasehold-watchdog"])
            .arg(dir)
            .current_dir("/")
            .process_group(0) // a test runner that kills our whole group must not kill it
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child: Mutex::new(child), pipe: Mutex::new(pipe) })
    }

    /// The pipe, as the stdin of a command that begins with [`SERVER`] or [`HELPER`].
    pub(crate) fn pipe(&self) -> io::Result<Stdio> {
        match self.pipe.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(pipe) => Ok(pipe.as_fd().try_clone_to_owned()?.into()),
            None => Err(io::Error::other("this stack is being shut down")),
        }
    }

    pub(crate) fn remove(&self, pid: u32) {
        if let Some(pipe) = self.pipe.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // A watchdog that cannot be told is one that is already at work.
            let _ = pipe.write_all(format!("- {pid}\n").as_bytes());
        }
    }

    /// Lets it begin its work.
    pub(crate) fn release(&self) {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits until it has done its work. The servers have to be reaped meanwhile.
    pub(crate) fn join(&self) {
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}
