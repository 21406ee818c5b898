//! Whose containers and networks these are, and what becomes of them when their owner dies.
//!
//! A stack that is dropped removes what it made. A process that is killed, or that ends by `exit`
//! with a stack in a static, as every test program with [`shared`](crate::shared()), does not. So
//! each object carries its owner in a label, and is removed by a shell that outlives the owner if
//! there is a `docker` command, or else at the next start of a stack.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, test_kill_process};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};

use crate::backend::secret;
use crate::containers::failed;
use crate::{Error, Result};

/// On every container and network of ours; its value is the [`Owner`].
pub(crate) const LABEL: &str = "leasehold-testkit";

/// A process, as nobody else was or will be: process ids are used again, and an engine may serve
/// several machines, and containers with process ids of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    /// The machine's boot, and the namespace of process ids.
    place: String,
    pid: i32,
    /// In ticks since the boot.
    started: u64,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.place, self.pid, self.started)
    }
}

impl Owner {
    /// This process. `None` where there is no Linux `/proc`.
    fn this() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        // As in "pid:[4026531836]".
        let namespace: String = namespace.to_str()?.chars().filter(char::is_ascii_digit).collect();
        let pid = i32::try_from(std::process::id()).ok()?;
        let (started, _) = stat("self")?;
        Some(Self { place: format!("{}-{namespace}", boot.trim()), pid, started })
    }

    fn parse(label: &str) -> Option<Self> {
        let mut parts = label.split('.');
        let (place, pid, started) = (parts.next()?, parts.next()?, parts.next()?);
        let known = Self {
            place: place.to_owned(),
            pid: pid.parse().ok().filter(|pid| *pid > 0)?,
            started: started.parse().ok()?,
        };
        parts.next().is_none().then_some(known)
    }

    /// Whether it has certainly ended, as far as a process at `here` can tell.
    fn is_dead(&self, here: &Self) -> bool {
        if self.place != here.place {
            return false; // of another machine or namespace: not ours to judge
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        match stat(&self.pid.to_string()) {
            Some((started, ended)) => ended || started != self.started,
            // Others' processes may be hidden; their existence is not.
            None => test_kill_process(pid) == Err(rustix::io::Errno::SRCH),
        }
    }
}

/// When a process began, and whether it is only waiting to be reaped.
fn stat(pid: &str) -> Option<(u64, bool)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. The state follows it, the start is field 22.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some((fields.nth(18)?.parse().ok()?, ended))
}

/// The label's value for what this process makes.
pub(crate) fn label() -> Result<&'static str> {
    static LABEL: OnceLock<String> = OnceLock::new();
    if let Some(label) = LABEL.get() {
        return Ok(label);
    }
    let label = match Owner::this() {
        Some(owner) => owner.to_string(),
        // Still nobody else's. Nobody can tell when its owner ends, but for the shell.
        None => format!("unknown-{}", secret()?),
    };
    Ok(LABEL.get_or_init(|| label))
}

/// Removes what processes have left that live no longer. What another process is removing at the
/// same time is fine.
pub(crate) async fn sweep(docker: &Docker) -> Result<()> {
    let Some(here) = Owner::this() else { return Ok(()) };
    let left_behind = |labels: &Option<HashMap<String, String>>| {
        let label = labels.as_ref().and_then(|labels| labels.get(LABEL));
        label.and_then(|label| Owner::parse(label)).is_some_and(|owner| owner.is_dead(&here))
    };
    let ours = HashMap::from([("label", vec![LABEL])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&ours).build();
    for container in docker.list_containers(Some(all)).await.map_err(failed)? {
        if let (true, Some(id)) = (left_behind(&container.labels), container.id) {
            let _ = remove_container(docker, &id).await;
        }
    }
    let all = ListNetworksOptionsBuilder::new().filters(&ours).build();
    for network in docker.list_networks(Some(all)).await.map_err(failed)? {
        if let (true, Some(id)) = (left_behind(&network.labels), network.id) {
            let _ = docker.remove_network(&id).await;
        }
    }
    Ok(())
}

/// With its anonymous volumes, whether it runs or not.
pub(crate) async fn remove_container(docker: &Docker, name: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    docker.remove_container(name, Some(options)).await.map_err(failed)
}

// Three times: what the engine was asked for at the end may come into being after the first.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
while read -r _; do :; done
command -v docker >/dev/null || exit 0
for again in 1 1 0; do
    found=$(docker ps -aq --filter "label=$1"); [ -n "$found" ] && docker rm -fv $found
    found=$(docker network ls -q --filter "label=$1"); [ -n "$found" ] && docker network rm $found
    sleep $again
done
"#;

/// Starts the shell that removes what this process leaves, once. It sleeps on a pipe from here, as
/// that of the process backend does, and for the same reasons.
pub(crate) fn watch() -> Result<()> {
    static SHELL: Mutex<Option<Child>> = Mutex::new(None);
    // Held throughout: a second shell that were dropped would hear its pipe close, and begin.
    let mut running = SHELL.lock().unwrap_or_else(PoisonError::into_inner);
    if running.is_some() {
        return Ok(());
    }
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", SCRIPT, "leasehold-watchdog"])
        .arg(format!("{LABEL}={}", label()?))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // The command heeds its current context, testcontainers does not: this socket comes first.
    let socket = "/var/run/docker.sock";
    if std::env::var_os("DOCKER_HOST").is_none() && Path::new(socket).exists() {
        shell.env("DOCKER_HOST", format!("unix://{socket}"));
    }
    *running = Some(shell.spawn().map_err(Error::io("starting /bin/sh as the watchdog"))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn this_process_lives_and_is_told_from_others_of_its_number() {
        let here = Owner::this().unwrap();
        assert_eq!(Owner::parse(&here.to_string()).unwrap(), here);
        assert!(!here.is_dead(&here));
        let earlier = Owner { started: here.started - 1, ..here.clone() };
        assert!(earlier.is_dead(&here), "its number was used again");
        let elsewhere = Owner { place: "another".into(), ..earlier };
        assert!(!elsewhere.is_dead(&here), "of another machine, nothing is known");
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_is_dead() {
        let here = Owner::this().unwrap();
        let mut child =
            Command::new("/bin/sh").args(["-c", "read x"]).stdin(Stdio::piped()).spawn();
        let child = child.as_mut().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let (started, _) = stat(&pid.to_string()).unwrap();
        let owner = Owner { pid, started, ..here.clone() };
        assert!(!owner.is_dead(&here));
        child.kill().unwrap();
        let begun = std::time::Instant::now();
        while !owner.is_dead(&here) {
            assert!(begun.elapsed().as_secs() < 60, "still a living process");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(owner.is_dead(&here), "reaped");
    }

    #[test]
    fn what_is_no_owner_is_nobodys_and_stays() {
        for label in ["", "1234", "unknown-00ff", "a.b.c", "a.-1.2", "a.0.2", "a.1.2.3"] {
            assert_eq!(Owner::parse(label), None, "{label}");
        }
    }
}
