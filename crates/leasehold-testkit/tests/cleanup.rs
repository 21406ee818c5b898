//! Nothing is left behind, whatever way a process ends.

#![allow(clippy::unwrap_used)]

mod child;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Child;

use leasehold_testkit::Stack;

/// Does nothing but in the processes that the other tests start.
#[test]
fn a_child_holds_servers() {
    let Some(end) = child::role() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stack = runtime.block_on(Stack::start()).unwrap();
    let replica = runtime.block_on(stack.postgres_replica()).unwrap();
    if end == "restarted, paused, killed" {
        runtime.block_on(async {
            stack.restart_postgres(leasehold_testkit::PostgresShutdown::Fast).await.unwrap();
            stack.stop_vault().await.unwrap();
            stack.start_vault().await.unwrap();
            stack.pause_vault().await.unwrap();
        });
    }
    let what = format!(
        "{} {} 127.0.0.1:{} {}",
        stack.dir().unwrap().display(),
        stack.vault_addr().trim_start_matches("http://"),
        stack.pg_port(),
        replica.address()
    );
    child::holds(&what, &end);
}

struct Held {
    child: Child,
    dir: PathBuf,
    servers: Vec<SocketAddr>,
}

fn hold(end: &str) -> Held {
    let (child, told) = child::start(end, None);
    let mut words = told.split(' ');
    let dir = PathBuf::from(words.next().unwrap());
    let servers = words.map(|w| w.parse().unwrap()).collect();
    Held { child, dir, servers }
}

impl Held {
    fn nothing_is_left(mut self, end: &str) {
        let _ = self.child.wait();
        child::nothing_is_left(end, || {
            // A paused server still has its port, so a free port is a server gone.
            let alive = self.servers.iter().filter(|s| TcpStream::connect(s).is_ok());
            let dir = self.dir.exists().then(|| self.dir.display().to_string());
            alive.map(ToString::to_string).chain(dir).collect()
        });
    }
}

#[test]
fn nothing_is_left_after_sigkill() {
    let mut held = hold("killed");
    assert!(held.dir.is_dir());
    assert!(held.servers.iter().all(|s| TcpStream::connect(s).is_ok()));
    held.child.kill().unwrap();
    held.nothing_is_left("SIGKILL");
}

#[test]
fn nothing_is_left_of_restarted_and_paused_servers() {
    let mut held = hold("restarted, paused, killed");
    held.child.kill().unwrap();
    held.nothing_is_left("SIGKILL with a paused server");
}

#[test]
fn nothing_is_left_after_return_panic_exit_and_abort() {
    for end in ["return", "panic", "exit", "abort"] {
        hold(end).nothing_is_left(end);
    }
}
