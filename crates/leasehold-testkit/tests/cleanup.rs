//! Nothing is left behind, whatever way a process ends.
//!
//! The process that ends is this very program, run again for the one test `a_child_holds_servers`.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leasehold_testkit::Stack;

const ROLE: &str = "LEASEHOLD_TEST_END";

/// Does nothing but in the processes that the other tests start.
#[test]
fn a_child_holds_servers() {
    let Ok(end) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stack = runtime.block_on(Stack::start()).unwrap();
    if end == "restarted, paused, killed" {
        runtime.block_on(async {
            stack.restart_postgres(leasehold_testkit::PostgresShutdown::Fast).await.unwrap();
            stack.stop_vault().await.unwrap();
            stack.start_vault().await.unwrap();
            stack.pause_vault().await.unwrap();
        });
    }
    println!(
        "\nHOLDS {} {} 127.0.0.1:{}",
        stack.dir().unwrap().display(),
        stack.vault_addr().trim_start_matches("http://"),
        stack.pg_port()
    );
    match end.as_str() {
        "return" => {}
        "panic" => panic!("on request"),
        "exit" => std::process::exit(0),
        "abort" => std::process::abort(),
        _ => loop {
            std::thread::park(); // until killed
        },
    }
}

struct Held {
    child: Child,
    dir: PathBuf,
    servers: Vec<SocketAddr>,
}

fn hold(end: &str) -> Held {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_holds_servers", "--nocapture"])
        .env(ROLE, end)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .map_while(Result::ok)
        .find_map(|l| l.strip_prefix("HOLDS ").map(str::to_owned))
        .expect("the child says what it holds");
    let mut words = line.split(' ');
    let dir = PathBuf::from(words.next().unwrap());
    let servers = words.map(|w| w.parse().unwrap()).collect();
    Held { child, dir, servers }
}

impl Held {
    fn nothing_is_left(mut self, end: &str) {
        let _ = self.child.wait();
        let begun = Instant::now();
        loop {
            // A paused server still has its port, so a free port is a server gone.
            let alive = self.servers.iter().filter(|s| TcpStream::connect(s).is_ok()).count();
            if alive == 0 && !self.dir.exists() {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{end}: {alive} servers and {} left",
                self.dir.display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
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
