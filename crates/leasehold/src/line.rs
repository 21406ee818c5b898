//! Text of somebody else's in lines of ours.

use std::fmt::{self, Write};

/// More than any line of ours; a server can send a megabyte.
const MOST: usize = 4096;

/// Ends a line, moves a terminal's cursor, or has what is next to it read in another order.
pub(crate) fn breaks_a_line(c: char) -> bool {
    let ends = matches!(c, '\u{2028}' | '\u{2029}');
    let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || ends || reorders
}

/// Passes on one line: what [`breaks_a_line`] becomes a space, and of what is more than 4 KiB
/// comes an ellipsis.
pub(crate) struct Line<W> {
    to: W,
    /// Bytes to come; `None` after the ellipsis.
    left: Option<usize>,
}

impl<W: Write> Line<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, left: Some(MOST) }
    }
}

impl<W: Write> Write for Line<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let Some(left) = self.left else {
                return Ok(());
            };
            let c = if breaks_a_line(c) { ' ' } else { c };
            self.left = left.checked_sub(c.len_utf8());
            self.to.write_char(if self.left.is_some() { c } else { '…' })?;
        }
        Ok(())
    }
}

/// One line of it.
pub(crate) fn line(text: &str) -> String {
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
        let reordered = line("a\u{85}b\u{2028}c\u{2029}d\u{202a}e\u{202e}f\u{2066}g\u{2069}h");
        assert_eq!(reordered, "a b c d e f g h");
        let long = line(&"é".repeat(1 << 20));
        assert!(long.len() <= MOST + '…'.len_utf8() && long.ends_with("é…"), "{}", long.len());
    }

    #[test]
    fn what_fits_stays_whole() {
        let whole = "x".repeat(MOST);
        assert_eq!(line(&whole), whole);
        assert_eq!(line(&format!("{whole}yz")), format!("{whole}…"));
        let rest = &whole[1..];
        assert_eq!(line(&format!("{rest}é")), format!("{rest}…"));
        // In pieces, as a formatter writes.
        let mut pieces = String::new();
        let mut line = Line::new(&mut pieces);
        line.write_str(&whole).unwrap();
        line.write_str("").unwrap();
        line.write_str("y").unwrap();
        line.write_str("z").unwrap();
        assert_eq!(pieces, format!("{whole}…"));
    }
}
