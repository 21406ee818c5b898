//! What is printed, and how it looks. Colours are `anstream`'s business: it takes them out where
//! the output is no terminal, and where `NO_COLOR` is set.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use crate::failure::Failure;

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const CAREFUL: Style = AnsiColor::Yellow.on_default();
pub(crate) const FAINT: Style = Style::new().dimmed();

/// As it is. A reader that has gone (`| head`) is no failure.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    written(io::stdout().lock().write_all(bytes))
}

/// Text with styles in it, which only a terminal gets.
pub(crate) fn print_styled(text: &str) -> Result<(), Failure> {
    written(anstream::stdout().lock().write_all(text.as_bytes()))
}

fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::of("writing to stdout", &e))
        }
        _ => Ok(()),
    }
}

/// A line on stdout, with styles or without. Of use while something else is what matters: what
/// could be wrong with stdout, nobody would hear.
pub(crate) fn out(line: &str) {
    let _ = print_styled(&format!("{line}\n"));
}

/// A line on stderr, about what goes on. Whoever has closed it does not want to hear it.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "leasehold: {text}");
}
