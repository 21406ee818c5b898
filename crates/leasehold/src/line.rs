//! Text of somebody else's in lines of ours.

use std::fmt::{self, Write};

/// More than any line of ours; a server can send a megabyte.
const MOST: usize = 4096;

/// Passes on one line: what breaks a line or moves a terminal's cursor becomes a space, and after
/// 4 KiB comes no more.
pub(crate) struct Line<W> {
    to: W,
    left: usize,
}

impl<W: Write> Line<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, left: MOST }
    }
}

impl<W: Write> Write for Line<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.left == 0 {
                return Ok(());
            }
            let c = if c.is_control() { ' ' } else { c };
            self.left = self.left.saturating_sub(c.len_utf8());
            self.to.write_char(if self.left == 0 { '…' } else { c })?;
        }
        Ok(())
    }
}

/// One line of it: for hook crates that log what a server said.
#[must_use]
pub fn line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MOST));
    // A string takes everything.
    let _ = Line::new(&mut line).write_str(text);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_ends() {
        assert_eq!(line("no\nsuch\r\n\u{1b}[2Jrole é"), "no such   [2Jrole é");
        let long = line(&"é".repeat(1 << 20));
        assert!(long.len() <= MOST + '…'.len_utf8() && long.ends_with("é…"), "{}", long.len());
    }
}
