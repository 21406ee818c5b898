//! Signals, and who sent them.

use std::thread;

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::terminal::tell;

const ENDING: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];
const OTHER: [i32; 3] = [SIGUSR1, SIGUSR2, SIGWINCH];

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caught {
    number: i32,
    /// Somebody sent it to us. Else the terminal made it, and its whole foreground process group
    /// has it, a command that we run included.
    pub(crate) sent_to_us: bool,
}

impl Caught {
    /// It asks for an end.
    pub(crate) fn ends(self) -> bool {
        ENDING.contains(&self.number)
    }

    pub(crate) fn signal(self) -> Option<Signal> {
        Signal::from_named_raw(self.number)
    }

    /// The exit code of a program that the signal ended, as shells have it.
    pub(crate) fn exit_code(self) -> u8 {
        exit_code(self.number)
    }
}

/// 128 + n.
pub(crate) fn exit_code(signal: i32) -> u8 {
    128u8.saturating_add(u8::try_from(signal).unwrap_or(127))
}

/// The signals of this process from now on. What was ignored when we were started (by `nohup`, or
/// in the background of a script) stays ignored, by us and by what we run.
pub(crate) struct Signals(mpsc::UnboundedReceiver<Caught>);

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let ignored = ignored();
        let wanted = ENDING.into_iter().chain(OTHER).filter(|n| ignored & (1 << (n - 1)) == 0);
        let mut signals = SignalsInfo::<WithOrigin>::new(wanted)
            .map_err(|e| Failure::of("listening for signals", &e))?;
        let (caught, signals_caught) = mpsc::unbounded_channel();
        // Lives as long as the process does.
        thread::spawn(move || {
            for origin in signals.forever() {
                let sent_to_us = origin.process.is_some();
                if caught.send(Caught { number: origin.signal, sent_to_us }).is_err() {
                    return;
                }
            }
        });
        Ok(Self(signals_caught))
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Caught {
        match self.0.recv().await {
            Some(caught) => caught,
            // The thread goes on for as long as we listen.
            None => std::future::pending().await,
        }
    }

    /// The next one that asks for an end. Cancel safe.
    pub(crate) async fn ending(&mut self) -> Caught {
        loop {
            let caught = self.next().await;
            if caught.ends() {
                return caught;
            }
        }
    }

    /// One that asks for an end and has come already.
    pub(crate) fn pending(&mut self) -> Option<Caught> {
        std::iter::from_fn(|| self.0.try_recv().ok()).find(|caught| caught.ends())
    }

    /// Does `work` to its end whatever comes, since half of it would leave something behind. The
    /// first signal that asks for an end is given along; the second gives up: `None`.
    pub(crate) async fn through<T>(
        &mut self,
        work: impl Future<Output = T>,
        notice: &str,
    ) -> Option<(T, Option<Caught>)> {
        let mut work = std::pin::pin!(work);
        let mut first = None;
        loop {
            tokio::select! {
                done = &mut work => return Some((done, first)),
                caught = self.ending() => {
                    if first.is_some() {
                        return None;
                    }
                    tell(&format!("{notice}; a second signal gives up waiting"));
                    first = Some(caught);
                }
            }
        }
    }
}

/// A bit for each signal that is ignored. Known on Linux alone; nothing elsewhere.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
