//! A program as a user starts and ends it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// For a busy machine, the download of a first run included.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running program and what it says on both streams.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (to_us, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let also_to_us = to_us.clone();
        std::thread::spawn(move || pass_on(BufReader::new(out), &to_us));
        std::thread::spawn(move || pass_on(BufReader::new(err), &also_to_us));
        Self { child, lines, said: String::new() }
    }

    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said += &line,
                Err(_) => panic!("{text:?} was not said in\n{}", self.said),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Of the demo's first line: where its page is.
    pub(crate) fn url(&mut self) -> String {
        self.wait_for(" in a browser");
        let (_, rest) = self.said.split_once("open http://").unwrap();
        format!("http://{}", rest.split_once("/ in a browser").unwrap().0)
    }

    /// Reads to the end of its output, and waits for its end.
    pub(crate) fn end(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said += &line,
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end\n{}", self.said),
            }
        }
    }

    pub(crate) fn said(&self) -> String {
        self.said.clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(mut from: impl BufRead, to_us: &mpsc::Sender<String>) {
    let mut line = String::new();
    while let Ok(1..) = from.read_line(&mut line) {
        if to_us.send(std::mem::take(&mut line)).is_err() {
            return;
        }
    }
}
