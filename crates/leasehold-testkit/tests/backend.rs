//! Which backend a stack gets, and that a wrong wish is an error, never another backend.
//!
//! What is asked is this very program, run again with other variables for the one test
//! `a_child_starts_a_stack`.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use leasehold_testkit::{Backend, Stack};

const CHILD: &str = "LEASEHOLD_TEST_CHILD";
const VARIABLE: &str = "LEASEHOLD_TESTKIT_BACKEND";

/// Does nothing but in the processes that the other tests start.
#[tokio::test]
async fn a_child_starts_a_stack() {
    let Ok(how) = std::env::var(CHILD) else { return };
    let builder = Stack::builder();
    let builder = if how == "told" { builder.backend(Backend::Processes) } else { builder };
    match builder.start().await {
        Ok(stack) if stack.dir().is_some() => println!("\nSAYS processes"),
        Ok(_) => println!("\nSAYS containers"),
        Err(e) => println!("\nSAYS {e}"),
    }
}

/// What a start says in a process with these variables.
fn says(how: &str, variables: &[(&str, &str)]) -> String {
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_starts_a_stack", "--nocapture"])
        .env_remove(VARIABLE)
        .env(CHILD, how)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let said = text.lines().find_map(|line| line.strip_prefix("SAYS "));
    said.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&done.stderr))).to_owned()
}

#[test]
fn processes_unless_something_else_is_asked_for() {
    assert_eq!(says("untold", &[]), "processes");
    assert_eq!(says("untold", &[(VARIABLE, "")]), "processes");
    assert_eq!(says("untold", &[(VARIABLE, "processes")]), "processes");
}

#[test]
fn the_builder_has_the_last_word() {
    assert_eq!(says("told", &[(VARIABLE, "containers")]), "processes");
}

#[test]
fn an_unknown_backend_is_an_error_that_names_the_known() {
    let said = says("untold", &[(VARIABLE, "container")]);
    for part in [VARIABLE, "\"container\"", "processes", "containers"] {
        assert!(said.contains(part), "{said}");
    }
}

#[cfg(not(feature = "containers"))]
#[test]
fn containers_without_the_feature_are_an_error_that_names_it() {
    let said = says("untold", &[(VARIABLE, "containers")]);
    assert!(said.contains("feature `containers`"), "{said}");
}

#[cfg(feature = "containers")]
#[test]
fn containers_without_an_engine_are_an_error() {
    let nobody = ("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let said = says("untold", &[(VARIABLE, "containers"), nobody]);
    assert!(said.contains("Docker") && said.contains("Is the engine running"), "{said}");
}
