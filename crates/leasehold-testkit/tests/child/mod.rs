//! A process that holds servers and ends in some way: this very program, run again for its one test
//! `a_child_holds_servers`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "LEASEHOLD_TEST_END";

/// In such a process, the way it is to end.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// In such a process: tells what it holds, and ends, or waits until it is killed.
pub(crate) fn holds(what: &str, end: &str) {
    println!("\nHOLDS {what}");
    match end {
        "return" => {}
        "panic" => panic!("on request"),
        "exit" => std::process::exit(0),
        "abort" => std::process::abort(),
        _ => loop {
            std::thread::park();
        },
    }
}

/// Starts one, with another PATH if one is given, and waits until it has told what it holds.
pub(crate) fn start(end: &str, path: Option<&str>) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_child_holds_servers", "--nocapture"]).env(ROLE, end);
    if let Some(path) = path {
        child.env("PATH", path);
    }
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("HOLDS ").map(str::to_owned))
        .expect("the child says what it holds");
    (child, told)
}

/// Asks what is left until nothing is. Nobody tells when the last of it is gone.
pub(crate) fn nothing_is_left(end: &str, mut left: impl FnMut() -> Vec<String>) {
    let begun = Instant::now();
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{end}: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
