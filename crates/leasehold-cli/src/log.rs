//! What the library logs, on stderr.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::Metadata;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::Command;
use crate::terminal::tell;

/// As many lines as are kept while a screen is up.
const HELD: usize = 200;

/// Lines that wait for the end of a screen; `None` while there is none.
static SCREEN: Mutex<Option<VecDeque<Vec<u8>>>> = Mutex::new(None);

/// Warnings at first, more with each `-v`, or as `RUST_LOG` says. What other libraries log is never
/// shown: some have requests in it, and there are secrets in ours.
pub(crate) fn start(verbose: u8, command: &Command) {
    let level = match (verbose, command) {
        // Its report has it all.
        (0, Command::Doctor(_)) => LevelFilter::OFF,
        (0, _) => LevelFilter::WARN,
        (1, _) => LevelFilter::INFO,
        (2, _) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let usual = || Targets::new().with_default(level);
    let wanted = match crate::postgres::set("RUST_LOG") {
        None => usual(),
        Some(text) => text.parse().unwrap_or_else(|_| {
            tell("RUST_LOG is not understood: write it like leasehold=debug");
            usual()
        }),
    };
    // It shows them itself.
    let shows_events = matches!(command, Command::Watch(_));
    let ours = filter_fn(move |of: &Metadata<'_>| {
        let event = of.module_path().is_some_and(|path| path.starts_with("leasehold::event"));
        of.target().starts_with("leasehold") && !(event && shows_events)
    });
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Stderr);
    let lines = lines.with_filter(ours).with_filter(wanted);
    // Nobody else has set one in this process.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

fn screen() -> MutexGuard<'static, Option<VecDeque<Vec<u8>>>> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A screen is up: lines would go across it, and wait.
pub(crate) fn hold() {
    if io::stderr().is_terminal() {
        screen().get_or_insert_default();
    }
}

/// It is down: what waited is written.
pub(crate) fn let_go() {
    let held = screen().take().unwrap_or_default();
    for line in held {
        let _ = io::stderr().write_all(&line);
    }
}

/// A line at a time. Whoever has closed it does not want to hear it.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *screen() {
            Some(held) => {
                if held.len() == HELD {
                    held.pop_front();
                }
                held.push_back(line.to_vec());
            }
            None => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_while_a_screen_is_up_and_the_last_ones_are_kept() {
        *screen() = Some(VecDeque::new());
        for n in 0..=HELD {
            assert_eq!(
                Stderr.write(format!("{n}\n").as_bytes()).ok(),
                Some(n.to_string().len() + 1)
            );
        }
        let held = screen().take().expect("it was up");
        assert_eq!((held.len(), held[0].as_slice()), (HELD, &b"1\n"[..]));
        let_go();
        assert!(screen().is_none());
    }
}
