//! Lines with a time, and colours where somebody looks.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use leasehold::{Event, Severity};
use tokio::sync::{Notify, oneshot};

/// What a line is about, as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    Plain,
    Faint,
    Login,
    Swap,
    Drain,
    Gone,
    Good,
    Bad,
}

impl Tint {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Faint => "\x1b[2m",
            Self::Login => "\x1b[36m",
            Self::Swap => "\x1b[1;34m",
            Self::Drain => "\x1b[33m",
            Self::Gone => "\x1b[35m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[1;31m",
        }
    }

    fn of(event: &Event) -> Self {
        match event {
            _ if event.severity() >= Severity::Warn => Self::Bad,
            Event::Issued { .. } | Event::Renewed { .. } => Self::Login,
            Event::Rotating { .. } | Event::Swapped { .. } => Self::Swap,
            Event::Draining { .. } | Event::Drained { .. } => Self::Drain,
            Event::Revoked { .. } => Self::Gone,
            _ => Self::Plain,
        }
    }
}

enum Message {
    Line(Duration, Tint, String),
    Flush(oneshot::Sender<()>),
}

/// Prints from a thread of its own: a terminal that is held (Ctrl-S) must not hold up the rotator,
/// whose observer writes here.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    begun: Instant,
    to_printer: mpsc::Sender<Message>,
    gone: Arc<Notify>,
}

impl Console {
    pub(crate) fn start() -> Self {
        let (to_printer, messages) = mpsc::channel();
        let gone = Arc::new(Notify::new());
        let console = Self { begun: Instant::now(), to_printer, gone: Arc::clone(&gone) };
        let colour = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|v| v != "dumb");
        std::thread::spawn(move || print(&messages, colour, &gone));
        console
    }

    pub(crate) fn line(&self, tint: Tint, text: impl Into<String>) {
        let line = Message::Line(self.begun.elapsed(), tint, text.into());
        // The printer lives as long as there is a sender.
        let _ = self.to_printer.send(line);
    }

    pub(crate) fn event(&self, event: &Event) {
        self.line(Tint::of(event), event.to_string());
    }

    /// Waits until all that was said is printed.
    pub(crate) async fn flush(&self) {
        let (done, printed) = oneshot::channel();
        let _ = self.to_printer.send(Message::Flush(done));
        let _ = printed.await;
    }

    /// Waits until nobody reads any more (`cargo demo | head`).
    pub(crate) async fn gone(&self) {
        self.gone.notified().await;
    }
}

fn print(messages: &mpsc::Receiver<Message>, colour: bool, gone: &Notify) {
    let mut out = std::io::stdout().lock();
    for message in messages {
        let written = match message {
            Message::Line(at, tint, text) => {
                out.write_all(render(at, tint, &text, colour).as_bytes())
            }
            Message::Flush(done) => {
                let flushed = out.flush();
                let _ = done.send(());
                flushed
            }
        };
        if written.is_err() {
            gone.notify_one();
        }
    }
}

fn render(at: Duration, tint: Tint, text: &str, colour: bool) -> String {
    let at = at.as_secs_f64();
    match tint.code() {
        code if colour && !code.is_empty() => {
            format!("\x1b[2m{at:8.2}s\x1b[0m  {code}{text}\x1b[0m\n")
        }
        _ if colour => format!("\x1b[2m{at:8.2}s\x1b[0m  {text}\n"),
        _ => format!("{at:8.2}s  {text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_there_is_no_escape_sequence() {
        let line = render(Duration::from_millis(1234), Tint::Bad, "issue failed", false);
        assert_eq!(line, "    1.23s  issue failed\n");
        assert!(render(Duration::ZERO, Tint::Bad, "x", true).contains("\x1b[1;31mx\x1b[0m"));
    }
}
