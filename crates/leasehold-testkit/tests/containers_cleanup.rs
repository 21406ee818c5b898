//! No container and no network is left behind, whatever way a process ends. Only with the feature
//! `containers`. Looks with the `docker` command.

#![cfg(feature = "containers")]
#![allow(clippy::unwrap_used)]

mod child;

use std::process::{Child, Command};

use leasehold_testkit::Stack;

/// Does nothing but in the processes that the other tests start.
#[test]
fn a_child_holds_servers() {
    let Some(end) = child::role() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stack = runtime.block_on(Stack::containers()).unwrap();
    if end == "stopped and paused" {
        runtime.block_on(async {
            stack.stop_postgres(leasehold_testkit::PostgresShutdown::Fast).await.unwrap();
            stack.pause_vault().await.unwrap();
        });
    }
    child::holds("containers", &end);
    // The stack is dropped after its runtime, and where there is none.
    drop(runtime);
}

fn docker(arguments: &[&str]) -> String {
    let done = Command::new("docker").args(arguments).output().expect("the docker command");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Names of the containers and networks of a process, as the engine has them.
fn of(child: &Child) -> Vec<String> {
    let name = format!("name=leasehold-{}-", child.id());
    let containers = docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &name]);
    let networks = docker(&["network", "ls", "--format", "{{.Name}}", "--filter", &name]);
    containers.lines().chain(networks.lines()).map(str::to_owned).collect()
}

fn nothing_is_left(mut child: Child, end: &str) {
    child.wait().unwrap();
    child::nothing_is_left(end, || of(&child));
}

#[test]
fn nothing_is_left_after_return_panic_and_exit() {
    let children = ["return", "panic", "exit"].map(|end| (child::start(end, None).0, end));
    for (child, end) in children {
        nothing_is_left(child, end);
    }
}

#[test]
fn nothing_is_left_after_sigkill_of_stopped_and_paused_servers() {
    let mut child = child::start("stopped and paused", None).0;
    assert_eq!(of(&child).len(), 3, "two containers and a network");
    child.kill().unwrap();
    nothing_is_left(child, "SIGKILL");
}

/// A network that goes with the test.
struct Network(&'static str);

impl Drop for Network {
    fn drop(&mut self) {
        docker(&["network", "rm", self.0]);
    }
}

#[test]
fn the_next_start_removes_what_the_dead_have_left_and_nothing_else() {
    let names = ["leasehold-cleanup-of-nobody", "leasehold-cleanup-of-another-machine"];
    docker(&["network", "create", names[0]]);
    let unlabelled = Network(names[0]);
    docker(&["network", "create", "--label", "leasehold-testkit=elsewhere.1.1", names[1]]);
    let elsewhere = Network(names[1]);
    let networks = || docker(&["network", "ls", "--format", "{{.Name}}"]);

    // Where no `docker` command is found, nobody removes what is left at once.
    let mut dead = child::start("killed", Some("/nonexistent")).0;
    let mut living = child::start("killed", None).0;
    dead.kill().unwrap();
    dead.wait().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stack = runtime.block_on(Stack::containers()).unwrap();
    assert_eq!(of(&dead), [""; 0], "removed by the start");
    assert_eq!(of(&living).len(), 3, "its owner lives");
    let seen = networks();
    for network in [&unlabelled, &elsewhere] {
        assert!(seen.lines().any(|line| line == network.0), "not ours to remove: {seen}");
    }
    drop(stack);
    living.kill().unwrap();
    nothing_is_left(living, "SIGKILL");
}
